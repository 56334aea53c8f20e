"""`explain`, `usage`, `revoke`, `reload` and SIGHUP: a gateway and an emulator as processes, and commands."""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import signal
import socket
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from gateway.cli import app
from gateway.demo.stage import ISSUER, Stage, set_stage
from tests.cli.processes import line_of, started, status_of

ADMIN_TOKEN = "0123456789abcdef-admin"
INFO = "/api/account/123/chat/{}/info"
WHOLE = "expected a whole number from 0 to 300"
BFF = json.dumps({"iss": ISSUER, "sub": "bff"})


def run(*arguments: object, environ: Mapping[str, str] | None = None, said: str | None = None) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments], env=environ, input=said)


def set_up(folder: Path, upstream: str = "http://127.0.0.1:9", **settings: Any) -> Stage:
    folder.mkdir(exist_ok=True)
    (folder / "admin-token").write_text(ADMIN_TOKEN + "\n")
    said: dict[str, Any] = {
        "admin": {"token_file": "admin-token"},
        "revocations": {"journal": "journal"},
        # Files are read again when they are told to.
        "reload_s": 3600,
    }
    stage = set_stage(
        folder,
        listen="127.0.0.1:0",
        admin_listen="127.0.0.1:0",
        public_url="http://127.0.0.1:8080",
        upstream_url=upstream,
        app_key="key",
        **said | settings,
    )
    # Nothing here waits, but a command takes a while: answers stay fresh for as long as they may.
    edit(folder / "policies" / "resources.yaml", "chatting: 1000", "chatting: 8000")
    return stage


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


@dataclass(frozen=True, slots=True)
class Site:
    """A running gateway, and how its operator reaches it."""

    stage: Stage
    public: str
    private: str
    emulator: str
    process: subprocess.Popen[str] = field(repr=False)

    @property
    def policies(self) -> Path:
        return self.stage.config.parent / "policies"

    def run(self, command: str, *arguments: object, **more: str) -> Result:
        environ = {"CHAT_GATEWAY_ADMIN_LISTEN": self.private, **more}
        return run(command, "--config", self.stage.config, *arguments, environ=environ)

    def json(self, command: str, *arguments: object) -> Any:
        result = self.run(command, *arguments, "--json")
        assert result.exit_code == 0, result.stderr
        return json.loads(result.stdout)

    def chat(self) -> str:
        """A chat that an agent has accepted."""
        host = self.emulator.removeprefix("http://")
        with contextlib.closing(http.client.HTTPConnection(host, timeout=5)) as connection:
            connection.request("POST", "/_emulator/chats", json.dumps({"accept": True}))
            said = json.loads(connection.getresponse().read())
        chat: str = said["ids"][0]
        return chat

    def get(self, path: str, token: str | None = None) -> int:
        bearer = {"Authorization": f"Bearer {token or self.stage.token()}"}
        return status_of(self.public, path, bearer)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("site")
    (folder / "key").write_text("key\n")
    with started("emulator", "--port", "0", "--app-key-file", str(folder / "key")) as emulator:
        assert emulator.stdout is not None
        url = emulator.stdout.readline().split()[5].rstrip(",")
        with running(folder / "gateway", url) as it:
            yield it


@contextlib.contextmanager
def running(folder: Path, upstream: str = "http://127.0.0.1:9") -> Iterator[Site]:
    stage = set_up(folder, upstream)
    with started("serve", "--config", str(stage.config)) as process:
        said = line_of(process)
        assert said["event"] == "listening"
        yield Site(stage, said["public"], said["private"], upstream, process)


# -- explain -----------------------------------------------------------------------------------------------


def test_live_what_is_kept_counts_and_offline_nothing_is_kept(site: Site) -> None:
    path = INFO.format(site.chat())
    token = site.stage.token()
    assert site.get(path, token) == 200
    live = site.json("explain", "--live", "--token", token, "GET", path)
    offline = site.json("explain", "--token", token, "GET", path)
    assert (live["outcome"], offline["outcome"]) == ("hit", "miss")
    assert live["cache_key"] == offline["cache_key"] is not None
    for document in (live, offline):
        assert (document["client"], document["rule"]) == ("bff", "bff/allow/chat:read")


@pytest.mark.parametrize("live", [["--live"], []])
def test_a_refused_request_has_a_code_of_its_own(site: Site, live: list[str]) -> None:
    partner = json.dumps({"iss": ISSUER, "sub": "partner"})
    path = "/api/account/123/chat/H1-2K3/events"
    result = site.run("explain", *live, "--claims", partner, "POST", path)
    assert result.exit_code == 3
    steps, ends = (
        {line.split()[0]: line.split(maxsplit=1)[1] for line in part.splitlines()}
        for part in result.stdout.split("\n\n")
    )
    assert {"verify", "locate", "admit", "answer"} <= steps.keys()
    assert ends == {
        "outcome": "action-denied",
        "client": "partner",
        "rule": "partner/default-deny",
        "key": "none",
        "upstream": "none",
    }


def test_what_would_be_sent_is_shown_without_the_key(tmp_path: Path) -> None:
    stage = set_up(tmp_path)
    (tmp_path / "body.json").write_text('{"event": {"@type": "line", "text": "hi"}}')
    asked = ("explain", "--config", stage.config, "--claims", BFF, "--body", tmp_path / "body.json")
    path = "/api/account/123/chat/H1-2K3/events"
    result = run(*asked, "--header", "Content-Type: application/json", "--accept", "text/xml", "POST", path)
    assert result.exit_code == 0, result.stdout
    assert "outcome  write\n" in result.stdout
    assert f"upstream POST {path}?v=1&NC=true, account 123\n" in result.stdout
    assert "         accept: application/xml\n" in result.stdout
    assert "         content-type: application/json\n" in result.stdout
    assert "authorization" not in result.stdout.lower()
    assert run(*asked, "POST", path).exit_code == 3


def test_a_token_comes_from_standard_input(tmp_path: Path) -> None:
    stage = set_up(tmp_path)
    asked = ("explain", "--config", stage.config, "--token", "-", "GET", INFO.format("H1-2K3"))
    good, bad = run(*asked, said=stage.token() + "\n"), run(*asked, said="nonsense\n")
    assert (good.exit_code, bad.exit_code) == (0, 3)
    assert "outcome  miss\n" in good.stdout
    assert "key      /api/account/123/chat/H1-2K3/info?v=1&NC=true as json\n" in good.stdout
    assert "outcome  token-invalid\n" in bad.stdout


def test_the_journal_of_the_running_gateway_is_only_read(tmp_path: Path) -> None:
    stage = set_up(tmp_path)
    journal = tmp_path / "journal"
    asked = ("explain", "--config", stage.config, "--token", stage.token(), "GET", INFO.format("H1-2K3"))
    assert run(*asked).exit_code == 0
    assert not journal.exists()
    # A line that is being written just now would look torn, and be mended.
    record = json.dumps({"client": "bff", "note": "gone"}) + "\n" + '{"client": "par'
    journal.write_text(record)
    revoked = run(*asked)
    assert (revoked.exit_code, "outcome  token-revoked\n" in revoked.stdout) == (3, True)
    assert journal.read_text() == record


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["GET", "/"], "expected either --token or --claims, got neither"),
        (["--token", "a", "--claims", "{}", "GET", "/"], "expected either --token or --claims, got both"),
        (["--claims", "[]", "GET", "/"], "--claims: expected a JSON object, got something else"),
        (["--claims", "{", "GET", "/"], "--claims: expected a JSON object, got something else"),
        (["--claims", "{}", "--header", "Accept", "GET", "/"], "--header: expected 'Name: value', got"),
        (
            ["--claims", "{}", "--accept", "*/*", "--header", "Accept: */*", "GET", "/"],
            "--header: expected each field once, got accept again",
        ),
    ],
)
def test_a_wrong_question_is_a_wrong_command_line(tmp_path: Path, arguments: list[str], told: str) -> None:
    result = run("explain", "--config", tmp_path / "gateway.yaml", *arguments)
    assert result.exit_code == 2
    assert told in re.sub(r"[\s│]+", " ", result.stderr)


def test_what_cannot_be_asked_is_a_failure(tmp_path: Path) -> None:
    stage = set_up(tmp_path)
    asked = ("explain", "--config", stage.config, "--claims", BFF)
    nowhere = run(*asked, "--body", tmp_path / "none", "POST", "/")
    missing = f"{tmp_path / 'none'}: expected a readable file, got: No such file or directory\n"
    assert (nowhere.exit_code, nowhere.stderr) == (1, missing)
    (tmp_path / "body").write_bytes(b"\xff")
    foreign = run(*asked, "--body", tmp_path / "body", "POST", "/")
    told = f"{tmp_path / 'body'}: expected UTF-8, got something else\n"
    assert (foreign.exit_code, foreign.stderr) == (1, told)
    unclear = run(*asked, "GET", "somewhere else")
    assert unclear.exit_code == 1
    assert unclear.stderr.startswith("path: expected ")
    (tmp_path / "jwks.json").write_text("{}")
    assert run(*asked, "GET", "/").exit_code == 1


# -- usage -------------------------------------------------------------------------------------------------


def texts(row: Mapping[str, object]) -> list[str]:
    return [str(value) for value in row.values()]


def test_usage_by_client_and_day(tmp_path: Path) -> None:
    with running(tmp_path / "gateway") as site:
        assert site.run("usage").stdout == "nobody used it yet\n"
        for subject in ("bff", "bff", "stranger"):
            site.get("/api/account/9", site.stage.token(subject))
        rows = site.json("usage")
        counted = [(row["client"], row["requests"], row["refused"]) for row in rows]
        assert counted == [("-", 1, 1), ("bff", 2, 2)]
        table = site.run("usage", "--day", rows[0]["day"]).stdout.splitlines()
        assert [line.split() for line in table] == [list(rows[0]), *map(texts, rows)]
        assert len({len(line) for line in table}) == 1
        assert site.json("usage", "--day", "2020-02-29") == []
        assert site.run("usage", "--day", "2020-02-29").stdout == "nobody used it on 2020-02-29\n"
        assert site.run("usage", "--day", "2021-02-29").exit_code == 2


# -- revoke ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("named", "claims"),
    [
        (["--client", "bff"], {}),
        (["--sub", "bff", "--issuer", ISSUER], {}),
        (["--jti", "17", "--issuer", ISSUER], {"jti": "17"}),
    ],
)
def test_what_is_revoked_is_refused_at_once_and_until_it_is_withdrawn(
    site: Site, named: list[str], claims: dict[str, Any]
) -> None:
    token, path = site.stage.token(**claims), "/api/account/123"
    assert site.get(path, token) == 200
    kind = named[0].removeprefix("--")
    revoked = site.run("revoke", *named, "--note", "laptop lost", "--until", "2100-01-01T00:00:00Z")
    assert (revoked.exit_code, revoked.stdout) == (0, f"revoked: {kind} {named[1]}\n"), revoked.stderr
    assert site.get(path, token) == 401
    withdrawn = site.run("revoke", *named, "--withdraw")
    assert (withdrawn.exit_code, withdrawn.stdout) == (0, f"withdrawn: {kind} {named[1]}\n"), withdrawn.stderr
    assert site.get(path, token) == 200
    first = json.loads((site.stage.config.parent / "journal").read_text().splitlines()[-2])
    assert (first[kind], first["note"], first["until"]) == (named[1], "laptop lost", 4102444800)


def test_the_gateway_says_what_is_wrong_with_a_record(site: Site) -> None:
    nobody = site.run("revoke", "--sub", "bff")
    assert (nobody.exit_code, nobody.stderr) == (1, "issuer: expected the issuer of this sub, got none\n")
    over = site.run("revoke", "--client", "bff", "--until", "17")
    assert (over.exit_code, over.stderr) == (1, "until: expected a time to come, got 17\n")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "expected one of --jti, --sub and --client, got none"),
        (
            ["--jti", "a", "--client", "b"],
            "expected one of --jti, --sub and --client, got --jti and --client",
        ),
        (["--client", "b", "--until", "tomorrow"], "--until: expected epoch seconds, or date and time with"),
        (["--client", "b", "--until", "2100-01-01T00:00:00"], "got '2100-01-01T00:00:00'"),
    ],
)
def test_a_wrong_revocation_is_a_wrong_command_line(tmp_path: Path, arguments: list[str], told: str) -> None:
    result = run("revoke", "--config", tmp_path / "gateway.yaml", *arguments)
    assert result.exit_code == 2
    assert told in re.sub(r"[\s│]+", " ", result.stderr)


# -- reload ------------------------------------------------------------------------------------------------


def test_reload_says_what_came_of_it(tmp_path: Path) -> None:
    with running(tmp_path / "gateway") as site:
        partner = site.policies / "clients" / "partner.yaml"
        assert site.run("reload").stdout == "nothing has changed since it was last read\n"
        edit(partner, "    priority: low\n", "    priority: normal\n")
        edit(site.stage.config, "reload_s: 3600", "drain_s: 1")
        changed = site.run("reload")
        assert (changed.exit_code, changed.stdout) == (0, "takes a restart: drain_s\nreloaded\n")
        edit(partner, "    priority: normal\n", "    priority: none\n")
        refused = site.run("reload")
        assert refused.exit_code == 1
        assert re.fullmatch(
            r"policies/clients/partner\.yaml:\d+: clients\.partner\.priority: expected .*, got 'none'\n",
            refused.stderr,
        )


def test_sighup_has_it_read_its_files_again(tmp_path: Path) -> None:
    with running(tmp_path / "gateway") as site:
        partner = site.policies / "clients" / "partner.yaml"
        for old, new, event in (
            ("priority: low", "priority: high", "configuration changed"),
            ("priority: high", "priority: none", "configuration refused"),
        ):
            edit(partner, old, new)
            site.process.send_signal(signal.SIGHUP)
            assert line_of(site.process)["event"] == event
        assert site.get("/api/account/9") == 404


# -- nobody to ask -----------------------------------------------------------------------------------------


def test_whom_nobody_can_ask_is_told_in_a_sentence(tmp_path: Path) -> None:
    stage = set_up(tmp_path)
    asked = ("usage", "--config", stage.config)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
    environ = {"CHAT_GATEWAY_ADMIN_LISTEN": address}
    for result, told in (
        (
            run(*asked),
            "admin_listen: expected the port that the gateway listens on, got 0, which is any free one",
        ),
        (run(*asked, environ=environ), f"cannot reach the private listener at {address}: connection refused"),
        (
            run(*asked, environ=environ | {"CHAT_GATEWAY_ADMIN": "{}"}),
            "admin.token_file: expected the file with the private listener's token, got none",
        ),
        (
            run(*asked, environ={"CHAT_GATEWAY_DRAIN_S": "many"}),
            f"environment variable CHAT_GATEWAY_DRAIN_S: drain_s: {WHOLE}, got 'many'",
        ),
    ):
        assert (result.exit_code, result.stdout, result.stderr) == (1, "", told + "\n")


def test_another_token_is_told_in_a_sentence(site: Site, tmp_path: Path) -> None:
    (tmp_path / "other").write_text("fedcba9876543210\n")
    result = site.run("usage", CHAT_GATEWAY_ADMIN=json.dumps({"token_file": str(tmp_path / "other")}))
    sentence = "Send Authorization: Bearer and this listener's token."
    told = f"the private listener at {site.private} answered 401: {sentence}\n"
    assert (result.exit_code, result.stderr) == (1, told)


def test_a_gateway_that_listens_everywhere_is_asked_on_this_machine(site: Site) -> None:
    everywhere = "0.0.0.0:" + site.private.rpartition(":")[2]
    result = site.run("usage", "--json", CHAT_GATEWAY_ADMIN_LISTEN=everywhere)
    assert result.exit_code == 0, result.stderr


def test_a_mistake_in_the_policies_keeps_nobody_from_revoking(site: Site, tmp_path: Path) -> None:
    result = site.run("revoke", "--client", "nobody", CHAT_GATEWAY_POLICIES=str(tmp_path))
    assert (result.exit_code, result.stdout) == (0, "revoked: client nobody\n"), result.stderr
