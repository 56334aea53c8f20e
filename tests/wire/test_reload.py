"""What a running gateway reads again, and when: all at once, or nothing where there is a mistake."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from gateway.config.load import Loaded, load
from gateway.config.settings import AT_START, Settings
from gateway.configuration import Configuration, configure, fingerprint
from gateway.demo.stage import ACCOUNT, AUDIENCE, ISSUER, set_stage
from gateway.emulator import Emulator, EmulatorConfig, EmulatorServer, Fault, serve
from gateway.identity.development import kid_of, mint, new_key
from gateway.identity.keys import Key
from gateway.parts import access
from tests.identity_provider import CA_FILE, FAILURES, certified, provider
from tests.reloading import (
    SELDOM_S,
    Snapshot,
    changeable,
    edit,
    metric,
    operator,
    reload,
    reload_state,
    say,
)
from tests.support import (
    APP_KEY,
    PUBLIC_URL,
    Response,
    World,
    account_path,
    chat_path,
    leaks,
    links_of,
    message,
    policies_with,
    until,
)

pytestmark = pytest.mark.anyio

NEXT = "n3xt/99b1+27d4e6a0c583f1aa=~"
MOVED_URL = "https://moved.example/here"
LATENCY_S = 0.15


# -- what changes ------------------------------------------------------------------------------------------


async def by_the_poll(it: World) -> None:
    await it.gateway.look_again()


async def by_the_call(it: World) -> None:
    response = await reload(it)
    assert (response.status, response.json()) == (
        200,
        {"changed": True, "mistakes": [], "needs_restart": []},
    )


Way = Callable[[World], Awaitable[None]]
WAYS: Mapping[str, Way] = {"poll": by_the_poll, "call": by_the_call}


def of(it: World, file: str) -> Path:
    return it.stage.config.parent / file


async def of_an_info(it: World) -> object:
    response = await it.get(chat_path(it.chat(), "/info"))
    return response.problem or response.status


async def of_the_token(it: World) -> object:
    tokens = (it.stage.admin_token, "another-token-of-theirs")
    return [(await operator(it, "GET", "/usage", token)).status for token in tokens]


def change_policies(it: World) -> None:
    edit(of(it, "policies/clients/bff.yaml"), "chat:read, ", "")


def change_resources(it: World) -> None:
    edit(of(it, "policies/resources.yaml"), "path: chat/{chat}/info\n", "path: chat/{chat}/information\n")


def change_keys(it: World) -> None:
    of(it, "jwks.json").write_bytes(new_key("ES256")[1])


def change_app_key(it: World) -> None:
    it.emulator.app_keys = (NEXT,)
    of(it, "app-key").write_text(NEXT)


def change_settings(it: World) -> None:
    say(it, issuers=[{"issuer": ISSUER, "audience": "other", "algorithms": ["ES256"], "jwks": "jwks.json"}])


def change_token(it: World) -> None:
    of(it, "admin-token").write_text("another-token-of-theirs")


def revoke(it: World) -> None:
    of(it, "revoked").write_text(json.dumps({"client": "bff"}) + "\n")


#: What changes → how, what to look at, what is seen before and after.
CHANGES: Mapping[
    str, tuple[Callable[[World], None], Callable[[World], Awaitable[object]], object, object]
] = {
    "a client": (change_policies, of_an_info, 200, "action-denied"),
    "a resource": (change_resources, of_an_info, 200, "unknown-resource"),
    "a key file": (change_keys, of_an_info, 200, "token-invalid"),
    "an appKey": (change_app_key, of_an_info, 200, 200),
    "gateway.yaml": (change_settings, of_an_info, 200, "token-invalid"),
    "the operators' token": (change_token, of_the_token, [200, 401], [401, 200]),
    "the revocations": (revoke, of_an_info, 200, "token-revoked"),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("what", CHANGES)
async def test_a_change_takes_effect_at_once_and_not_before(tmp_path: Path, what: str, way: str) -> None:
    change, look, before, after = CHANGES[what]
    (tmp_path / "revoked").touch()
    config = EmulatorConfig(app_key=APP_KEY)
    async with changeable(tmp_path, emulator=config, revocations={"file": "revoked"}) as it:
        assert await look(it) == before
        change(it)
        assert await look(it) == (before if what != "an appKey" else "key-refused")
        await WAYS[way](it)
        assert await look(it) == after
        assert not leaks(it.log.getvalue().encode(), NEXT)


async def test_an_appkey_file_and_the_next_one_can_be_swapped(tmp_path: Path) -> None:
    """Writes are never repeated, so they must go with the first key from the very first."""
    (tmp_path / "next-key").write_text(NEXT)
    environ = {"ACCOUNTS__123__NEXT_APP_KEY_FILE": "next-key"}
    async with changeable(tmp_path, environ=environ) as it:
        of(it, "app-key").write_text(NEXT)
        of(it, "next-key").write_text(APP_KEY)
        it.emulator.app_keys = (NEXT,)
        await it.gateway.look_again()
        said = await it.write("PUT", chat_path(it.chat(), "/info/visitorName"), {"visitorName": "Zoe"})
        assert (said.status, it.upstream_requests()) == (201, 1)


async def test_a_mounted_volume_swaps_a_link(tmp_path: Path) -> None:
    """As kubelet does: files are links into `..data`, which is a link to a folder, and is replaced whole."""
    async with changeable(tmp_path) as it:
        for file in ("jwks.json", "app-key", "admin-token", "policies"):
            (tmp_path / "..first").mkdir(exist_ok=True)
            of(it, file).rename(tmp_path / "..first" / file)
            of(it, file).symlink_to(Path("..data", file))
        (tmp_path / "..data").symlink_to("..first")
        version = it.gateway._state.policies.version
        await it.gateway.look_again()
        assert (await of_an_info(it), it.gateway._state.policies.version) == (200, version)

        second = tmp_path / "..second"
        shutil.copytree(tmp_path / "..first", second)
        edit(second / "policies/clients/bff.yaml", "chat:read, ", "")
        (tmp_path / "..data.new").symlink_to("..second")
        (tmp_path / "..data.new").rename(tmp_path / "..data")
        await it.gateway.look_again()
        assert await of_an_info(it) == "action-denied"


async def test_the_ca_of_an_issuer_is_read_at_each_fetch(tmp_path: Path) -> None:
    """Nobody fetches for a new CA alone; the first token that needs a key does."""
    async with provider(tmp_path / "tls") as issuer:
        right = (tmp_path / "tls" / CA_FILE).read_bytes()
        certified(tmp_path / "of-another")
        of_another = tmp_path / "of-another" / CA_FILE
        fetched = {"jwks_url": issuer.jwks_url, "ca_file": str(of_another), "cooldown_s": 1}
        row = {"issuer": issuer.issuer, "audience": AUDIENCE, "algorithms": ["ES256"], **fetched}
        environ = {"POLICIES": policies_with(tmp_path / "theirs", ISSUER, issuer.issuer)}
        async with changeable(tmp_path, environ=environ, issuers=[row]) as it:
            token = issuer.token()
            it.tokens.add(token)
            asked = {"authorization": f"Bearer {token}"}
            assert (await it.ask("GET", account_path(), asked, subject=None)).problem == "keys-unavailable"
            of_another.write_bytes(right)
            await it.gateway.look_again()
            async with asyncio.timeout(10):
                # Its cooldown is a second.
                while (await it.ask("GET", account_path(), asked, subject=None)).status != 200:  # noqa: ASYNC110
                    await asyncio.sleep(0.1)
            # What is no certificate is a mistake like any other.
            of_another.write_text("nothing of the kind")
            assert "ca_file" in str((await reload(it)).json()["mistakes"])


# -- mistakes ----------------------------------------------------------------------------------------------


def written(file: str, text: str) -> Callable[[Path], object]:
    return lambda folder: (folder / file).write_text(text)


def gone(name: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).rename(folder / f"{name}.gone")


def changed(file: str, old: str, new: str) -> Callable[[Path], object]:
    return lambda folder: edit(folder / file, old, new)


BFF, PARTNER = "policies/clients/bff.yaml", "policies/clients/partner.yaml"

#: name → how it is made, the file that has it, what is said of it.
MISTAKES: Mapping[str, tuple[Callable[[Path], object], str, str]] = {
    "policies that are no YAML": (written(PARTNER, "clients: [\n"), PARTNER, f"{PARTNER}:"),
    "half a file": (changed(PARTNER, "allow: [chat:read]", "allow: [chat:"), PARTNER, f"{PARTNER}:"),
    "an unknown key of a client": (changed(PARTNER, "deny:", "denny:"), PARTNER, "clients.partner.denny"),
    "an unknown action": (changed(PARTNER, "allow: [chat:read]", "allow: [chat:raed]"), PARTNER, "chat:raed"),
    "a client twice": (
        changed(PARTNER, "  partner:\n", "  bff:\n"),
        PARTNER,
        "expected each client once",
    ),
    "a resource that may not be": (
        changed("policies/resources.yaml", "path: chat/{chat}/info\n", "path: hcp/js2rest\n"),
        "policies/resources.yaml",
        "resources.info.path",
    ),
    "no resources": (gone("policies/resources.yaml"), "policies/resources.yaml", "resources.yaml"),
    "no policies": (gone("policies"), "", "policies: expected the path of a folder"),
    "no keys": (gone("jwks.json"), "jwks.json", "issuers.0.jwks"),
    "unfit keys": (
        written("jwks.json", '{"keys": []}'),
        "jwks.json",
        "issuers.0.jwks: expected 1 to 100 keys",
    ),
    "no appKey": (gone("app-key"), "app-key", "accounts.123.app_key_file"),
    "an unfit appKey": (written("app-key", f"{APP_KEY} {NEXT}"), "app-key", "accounts.123.app_key_file"),
    "an empty appKey": (written("app-key", ""), "app-key", "accounts.123.app_key_file"),
    "a short token": (written("admin-token", "short"), "admin-token", "admin.token_file"),
    "no gateway.yaml": (gone("gateway.yaml"), "gateway.yaml", "gateway.yaml"),
    "gateway.yaml that is no YAML": (
        written("gateway.yaml", "public_url: ["),
        "gateway.yaml",
        "gateway.yaml:",
    ),
    "an unknown setting": (
        changed("gateway.yaml", "public_url:", "nothing_known: 1\npublic_url:"),
        "gateway.yaml",
        "nothing_known",
    ),
    "an account that nobody can reach": (
        changed("gateway.yaml", "upstream: http://", "upstream: ftp://"),
        "gateway.yaml",
        "accounts.123.upstream",
    ),
}


def whole(it: World) -> list[object]:
    """Everything that a reload may change, as the very objects."""
    gateway = it.gateway
    keys = [issuer.keys.current for issuer in gateway._verifier._issuers.values()]
    upstream = gateway._state.upstream
    return [
        gateway._state,
        gateway.settings,
        gateway._web_config,
        access(gateway._configuration).token,
        *keys,
        upstream._accounts.keys(ACCOUNT).in_order(),  # type: ignore[attr-defined]
    ]


def same(one: list[object], other: list[object]) -> bool:
    return len(one) == len(other) and all(a is b for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("name", MISTAKES)
async def test_a_mistake_keeps_all_as_it_is_until_it_is_mended(tmp_path: Path, name: str) -> None:
    make, file, words = MISTAKES[name]
    async with changeable(tmp_path) as it:
        before, chat = whole(it), it.chat()
        sound = Snapshot.of(tmp_path)
        # Along with the mistake much changes that is sound; none of it may take effect.
        change_token(it)
        change_policies(it)
        of(it, "app-key").write_text(NEXT)
        if file == "admin-token":
            of(it, "admin-token").unlink()
        make(tmp_path)

        for _ in range(3):
            await it.gateway.look_again()
        answer = await reload(it)
        assert answer.status == 409
        [*mistakes] = answer.json()["mistakes"]
        assert any(words in mistake for mistake in mistakes), mistakes
        assert answer.json()["changed"] is False
        assert same(whole(it), before)
        assert (await it.get(chat_path(chat, "/info"))).status == 200
        assert await of_the_token(it) == [200, 401]
        state = await reload_state(it)
        assert (state["ok"], state["mistakes"]) == (False, mistakes)
        assert (await metric(it, "reload_failures_total"), await metric(it, "reload_failed")) == (1, 1)
        [told] = [line for line in it.lines() if line["event"] == "configuration refused"]
        assert (told["level"], told["mistakes"]) == ("error", mistakes)
        assert not leaks(it.log.getvalue().encode(), NEXT)
        assert not leaks(answer.body, NEXT)

        sound.put_back()
        await it.gateway.look_again()
        assert (await reload_state(it))["mistakes"] == []
        assert (await metric(it, "reload_failures_total"), await metric(it, "reload_failed")) == (1, 0)
        assert [line["event"] for line in it.lines()].count("configuration changed") == 1
        # And nothing has changed by all that.
        assert same(whole(it), before)


async def test_what_was_sound_takes_effect_once_the_mistake_is_mended(tmp_path: Path) -> None:
    async with changeable(tmp_path) as it:
        sound = Snapshot.of(tmp_path)
        change_token(it)
        change_policies(it)
        of(it, "jwks.json").write_text("{}")
        await it.gateway.look_again()
        assert (await of_an_info(it), await of_the_token(it)) == (200, [200, 401])
        sound.put_back("jwks.json")
        await it.gateway.look_again()
        assert (await of_an_info(it), await of_the_token(it)) == ("action-denied", [401, 200])


async def test_another_mistake_is_told_anew(tmp_path: Path) -> None:
    async with changeable(tmp_path) as it:
        for text in ("clients: [", "clients: [", "clients: {}", "clients: ["):
            of(it, PARTNER).write_text(text)
            await it.gateway.look_again()
        assert [line["event"] for line in it.lines()].count("configuration refused") == 3
        assert await metric(it, "reload_failures_total") == 3


async def test_a_file_that_was_not_known_mends_a_mistake(tmp_path: Path) -> None:
    """Nothing that was looked at before changes: the settings in force do not name it."""
    async with changeable(tmp_path) as it:
        row = {"issuer": ISSUER, "audience": AUDIENCE, "algorithms": ["ES256"], "jwks": "other.json"}
        say(it, issuers=[row])
        await it.gateway.look_again()
        assert not (await reload_state(it))["ok"]
        private, jwks = new_key("ES256")
        of(it, "other.json").write_bytes(jwks)
        await it.gateway.look_again()
        assert (await reload_state(it))["ok"]
        assert (await as_signed_by(it, private)).status == 200
        # And from now on it is looked at.
        of(it, "other.json").write_bytes(new_key("ES256")[1])
        await it.gateway.look_again()
        assert (await as_signed_by(it, private)).problem == "token-invalid"


async def as_signed_by(it: World, private: bytes, **said: object) -> Response:
    """What somebody gets for a token that is signed with this key."""
    claims = {"iss": ISSUER, "aud": AUDIENCE, "sub": "bff", "exp": int(time.time()) + 600} | said
    token = mint(private, "ES256", kid_of(private), claims)
    it.tokens.add(token)
    return await it.ask("GET", account_path(), {"authorization": f"Bearer {token}"}, subject=None)


async def test_a_folder_that_vanishes_while_it_is_looked_at_is_a_mistake_and_no_crash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kubelet removes what a link led to until now; whoever is reading there finds nothing."""
    async with changeable(tmp_path) as it:
        rglob = Path.rglob

        def vanishing(folder: Path, pattern: str) -> Any:
            if folder.name != "policies":
                return rglob(folder, pattern)
            raise FileNotFoundError(2, "No such file or directory", str(folder))

        monkeypatch.setattr(Path, "rglob", vanishing)
        await it.gateway.look_again()
        assert (await reload(it)).status == 200
        assert await of_an_info(it) == 200


async def test_revocations_that_are_wrong_are_told_and_hold_nothing_else_back(tmp_path: Path) -> None:
    """Each record is one more refusal: the old ones stay, and a change of policies does not wait for them."""
    (tmp_path / "revoked").write_text(json.dumps({"client": "partner"}) + "\n")
    async with changeable(tmp_path, revocations={"file": "revoked"}) as it:
        of(it, "revoked").write_text("{}\n")
        change_policies(it)
        answer = await reload(it)
        assert answer.status == 409
        assert "revoked" in str(answer.json()["mistakes"])
        state = await reload_state(it)
        assert (state["ok"], state["mistakes"]) == (False, answer.json()["mistakes"])
        assert await of_an_info(it) == "action-denied"
        refused = await it.ask("GET", account_path(), subject="partner")
        assert refused.problem == "token-revoked"
        assert (await reload(it)).status == 409
        assert [line["event"] for line in it.lines()].count("revocations refused") == 1
        of(it, "revoked").write_text("")
        assert (await reload(it)).json() == {"changed": True, "mistakes": [], "needs_restart": []}
        assert (await reload_state(it))["ok"]


# -- what does not change ----------------------------------------------------------------------------------


@pytest.fixture
def verified(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A line for each signature that is verified."""
    verifies, lines = Key.verifies, list[str]()

    def counted(key: Key, algorithm: str, signed: bytes, signature: bytes) -> bool:
        lines.append(algorithm)
        return verifies(key, algorithm, signed, signature)

    monkeypatch.setattr(Key, "verifies", counted)
    return lines


async def test_the_same_content_changes_nothing(tmp_path: Path, verified: list[str]) -> None:
    async with changeable(tmp_path) as it, it.wire() as wire:
        asked, target = it.bearer(), chat_path(it.chat(), "/info")
        assert (await wire.ask("GET", target, asked)).status == 200
        before = whole(it)
        for file, content in Snapshot.of(tmp_path).files.items():
            file.unlink()
            file.write_bytes(content)
        # YAML says the same in many ways.
        edit(of(it, BFF), "clients:", "# Nobody reads this.\nclients:")
        await it.gateway.look_again()
        assert (await reload(it)).json()["changed"] is False
        assert same(whole(it), before)
        assert "hit" in ((await wire.ask("GET", target, asked)).header("cache-status") or "")
        assert (verified, it.upstream_requests()) == (["ES256"], 1)
        assert "configuration changed" not in it.log.getvalue()


async def test_a_change_of_policies_verifies_nothing_again(tmp_path: Path, verified: list[str]) -> None:
    async with changeable(tmp_path) as it, it.wire() as wire:
        asked, chat = it.bearer(), it.chat()
        assert (await wire.ask("GET", chat_path(chat, "/info"), asked)).status == 200
        edit(of(it, BFF), "chat:read, ", "")
        await it.gateway.look_again()
        assert (await wire.ask("GET", chat_path(chat, "/info"), asked)).problem == "action-denied"
        say(it, max_body_bytes=2048)
        of(it, "app-key").write_text(NEXT)
        of(it, "admin-token").write_text("another-token-of-theirs")
        await it.gateway.look_again()
        assert (await wire.ask("GET", chat_path(chat, "/info"), asked)).problem == "action-denied"
        assert verified == ["ES256"]


async def test_entries_live_through_a_change_of_policies(tmp_path: Path) -> None:
    async with changeable(tmp_path) as it:
        target = chat_path(it.chat(), "/info")
        assert (await it.get(target)).status == 200
        edit(of(it, PARTNER), "deny: [exitSurvey]", "deny: [exitSurvey, events]")
        say(it, max_body_bytes=2048)
        await it.gateway.look_again()
        assert "hit" in ((await it.get(target)).header("cache-status") or "")
        assert it.upstream_requests() == 1


GOOD_FILES = Path(__file__).parents[1] / "config" / "good"
CERTIFIED = {"certificate_file": str(GOOD_FILES / "server.pem"), "key_file": str(GOOD_FILES / "server.key")}

#: A setting that is read at the start only → another value.
LATER: Mapping[str, object] = {
    "listen": "127.0.0.1:1",
    "tls": CERTIFIED,
    "admin_listen": "127.0.0.1:2",
    "admin_tls": CERTIFIED,
    "edge": {"head_ms": 700},
    "revocations": {"journal": "journal"},
    "upstream.deadline_ms": 3000,
    "upstream.max_connections": 1,
    "upstream.max_answer_bytes": 65_536,
    "upstream.proxy": "http://egress.example:3128",
    "cache": {"max_bytes": 1_048_576},
    "memory": {"tokens_bytes": 1_048_576},
    "short_cut": False,
    "drain_delay_s": 1,
    "drain_s": 1,
    "log_level": "error",
}


@pytest.mark.parametrize("setting", LATER)
async def test_what_takes_a_restart_is_named_and_waits_for_it(tmp_path: Path, setting: str) -> None:
    section, _, name = setting.partition(".")
    async with changeable(tmp_path) as it:
        at_start, as_before = it.gateway.at_start, Snapshot.of(tmp_path)
        say(it, **{section: {name: LATER[setting]} if name else LATER[setting]}, max_body_bytes=2048)
        answer = await reload(it)
        assert (answer.status, answer.json()["needs_restart"]) == (200, [setting])
        # What has changed with it takes effect.
        said = {"event": {"@type": "line", "text": "x" * 2048}}
        assert (await it.write("POST", chat_path(it.chat(), "/events"), said)).status == 413
        assert (await reload_state(it))["needs_restart"] == [setting]
        assert it.gateway.at_start is at_start
        [told] = [line for line in it.lines() if line["event"] == "configuration changed"]
        assert told["needs_restart"] == [setting]
        # It is named for as long as it waits, and not when it is taken back.
        assert (await reload(it)).json()["needs_restart"] == [setting]
        as_before.put_back()
        assert (await reload(it)).json()["needs_restart"] == []


def test_all_that_takes_a_restart_is_here() -> None:
    assert tuple(LATER) == AT_START


# -- who may ask -------------------------------------------------------------------------------------------


def forget(client: str) -> Callable[[World], None]:
    def change(it: World) -> None:
        file = of(it, f"policies/clients/{client}.yaml")
        edit(file, f"sub: {client}", "sub: nobody")

    return change


def take_away(it: World) -> None:
    edit(of(it, BFF), "chat:read, chat:start, chat:write", "chat:start")


def add_account(it: World) -> dict[str, object]:
    return {
        ACCOUNT: {"upstream": it.server.url, "app_key_file": "app-key"},
        "456": {"upstream": it.server.url, "app_key_file": "app-key"},
    }


def move_away(it: World) -> None:
    """The account goes, and another comes."""
    accounts = add_account(it)
    del accounts[ACCOUNT]
    say(it, accounts=accounts)


#: What changes while somebody may ask → what he is told then.
TAKEN: Mapping[str, tuple[Callable[[World], None], str]] = {
    "the client": (forget("bff"), "no-client"),
    "the action": (take_away, "action-denied"),
    "the account": (move_away, "unknown-resource"),
    "the key": (change_keys, "token-invalid"),
}


@pytest.mark.parametrize("what", TAKEN)
async def test_who_may_no_more_is_refused_on_the_next_request(tmp_path: Path, what: str) -> None:
    take, problem = TAKEN[what]
    async with changeable(tmp_path) as it, it.wire() as wire:
        asked, chat = it.bearer(), it.chat()
        for rest in ("/info", "/events"):
            assert (await wire.ask("GET", chat_path(chat, rest), asked)).status == 200
        take(it)
        await it.gateway.look_again()
        for rest in ("/info", "/events"):
            assert (await wire.ask("GET", chat_path(chat, rest), asked)).problem == problem
        assert it.upstream_requests() == 2


@pytest.mark.parametrize("rest", ["/info", "/events", "/info/agentTyping"])
@pytest.mark.parametrize("what", TAKEN)
async def test_who_may_no_more_gets_no_answer_that_he_waits_for(tmp_path: Path, what: str, rest: str) -> None:
    take, problem = TAKEN[what]
    async with changeable(tmp_path, emulator=EmulatorConfig(app_key=APP_KEY, latency_s=LATENCY_S)) as it:
        chat = it.chat()
        async with it.wire() as wire, it.wire() as other:
            for one in (wire, other):
                await one.send(message("GET", chat_path(chat, rest), it.bearer()))
            await until(lambda: it.upstream_requests() > 0)
            take(it)
            await it.gateway.look_again()
            for one in (wire, other):
                assert (await one.response()).problem == problem


@pytest.mark.parametrize("what", TAKEN)
async def test_who_may_no_more_sends_no_write_that_is_still_coming(tmp_path: Path, what: str) -> None:
    take, problem = TAKEN[what]
    async with changeable(tmp_path) as it, it.wire() as wire:
        body = json.dumps({"visitorName": "Zoe"}).encode()
        fields = {"content-type": "application/json", **it.bearer()}
        sent = message("PUT", chat_path(it.chat(), "/info/visitorName"), fields, body)
        await wire.send(sent[:-1])
        await it.get(account_path("/nothing"))  # answered after the head above was read
        take(it)
        await it.gateway.look_again()
        await wire.send(sent[-1:])
        assert (await wire.response()).problem == problem
        assert it.upstream_requests() == 0


async def test_a_view_that_got_narrower_shows_less_of_what_is_kept(tmp_path: Path) -> None:
    async with changeable(tmp_path) as it:
        target = chat_path(it.chat(), "/info")
        assert "visitorName" in (await it.get(target)).json()["info"]
        edit(of(it, BFF), "priority: high", "priority: high\n    view: {hide: [visitorName]}")
        await it.gateway.look_again()
        second = await it.get(target)
        assert "hit" in (second.header("cache-status") or "")
        assert "visitorName" not in second.json()["info"]


async def test_new_accounts_and_issuers_are_there_at_once(tmp_path: Path) -> None:
    config = EmulatorConfig(app_key=APP_KEY, accounts=(ACCOUNT, "456"))
    async with changeable(tmp_path, emulator=config) as it:
        private, jwks = new_key("ES256")
        of(it, "other.json").write_bytes(jwks)
        theirs = "https://other.example"
        assert (await it.get("/api/account/456")).problem == "unknown-resource"
        assert (await as_signed_by(it, private, iss=theirs)).problem == "token-invalid"
        rows = [
            {"issuer": name, "audience": AUDIENCE, "algorithms": ["ES256"], "jwks": file}
            for name, file in ((ISSUER, "jwks.json"), (theirs, "other.json"))
        ]
        say(it, accounts=add_account(it), issuers=rows)
        edit(of(it, "policies/clients/internal.yaml"), ISSUER, theirs)
        await it.gateway.look_again()
        base = await it.get("/api/account/456")
        assert base.status == 200
        # Its links lead here, and work.
        for _, href in links_of(base.json()):
            assert href.startswith(f"{PUBLIC_URL}/api/account/456")
        assert (await as_signed_by(it, private, iss=theirs, sub="internal")).status == 200
        assert (await it.get(account_path())).status == 200


async def test_an_account_that_is_discovered_is_not_forgotten(tmp_path: Path) -> None:
    """A change of resources must not depend on the domain service, which may just be down."""
    emulated = Emulator(EmulatorConfig(app_key=APP_KEY), now=time.time)
    service = await serve(emulated)
    async with contextlib.AsyncExitStack() as stack:
        it = await stack.enter_async_context(
            changeable(
                tmp_path,
                accounts={ACCOUNT: {"discover": True, "app_key_file": "app-key"}},
                discovery={"url": service.url, "allowed_domains": ["127.0.0.1"]},
                link_hosts=[],
            )
        )
        said = {"service": "conversationVep", "account": ACCOUNT, "baseURI": f"127.0.0.1:{it.server.port}"}
        emulated.fail(Fault(resource="discovery", times=None, body=json.dumps(said).encode()))
        assert (await it.get(account_path())).status == 200
        await service.close()
        change_resources(it)
        say(it, public_url=MOVED_URL)
        await it.gateway.look_again()
        assert (await it.get(account_path())).status == 200
        # Another service, or other domains, decide for themselves.
        say(it, discovery={"url": service.url, "allowed_domains": ["*.example.net"]})
        await it.gateway.look_again()
        assert (await it.get(account_path())).problem == "upstream-unreachable"


# -- epochs: an older address or upstream ------------------------------------------------------------------


@contextlib.asynccontextmanager
async def another_upstream(config: EmulatorConfig) -> AsyncIterator[EmulatorServer]:
    """A second emulator, which has the same chats under the same ids."""
    server = await serve(Emulator(config, now=time.time))
    try:
        yield server
    finally:
        await server.close()


@dataclass(frozen=True, slots=True)
class Move:
    """A world with two upstreams, and a chat that both have; its visitor has another name at each."""

    it: World
    other: EmulatorServer
    chat: str

    @property
    def info(self) -> str:
        return chat_path(self.chat, "/info")

    async def to_another_address(self) -> None:
        say(self.it, public_url=MOVED_URL)
        await self.it.gateway.look_again()

    async def to_the_other_upstream(self) -> None:
        say(self.it, accounts={ACCOUNT: {"upstream": self.other.url, "app_key_file": "app-key"}})
        await self.it.gateway.look_again()

    async def to_other_resources(self) -> None:
        edit(of(self.it, "policies/resources.yaml"), "query: {from: digits}", "query: {from: token}")
        await self.it.gateway.look_again()


@contextlib.asynccontextmanager
async def about_to_move(folder: Path, latency_s: float = 0.0, **options: Any) -> AsyncIterator[Move]:
    config = EmulatorConfig(app_key=APP_KEY, latency_s=latency_s, record=100)
    theirs = replace(config)
    async with another_upstream(theirs) as other, changeable(folder, emulator=config, **options) as it:
        chats = set()
        for emulator, name in ((it.emulator, "Old"), (other.emulator, "New")):
            chat = emulator.start_chat(ACCOUNT)
            emulator.accept(chat)
            emulator._find(chat).visitor_name = name
            chats.add(chat)
        [chat] = chats
        yield Move(it, other, chat)


def seen(response: Response) -> tuple[str, set[str]]:
    """The visitor's name, and where the links lead."""
    document = response.json()
    leads = {href.partition("/api/")[0] for _, href in links_of(document)}
    return document["info"]["visitorName"], leads


Moving = Callable[[Move], Awaitable[None]]

#: What moves → how, and what is seen of an info then; and whether the other upstream is asked.
MOVES: Mapping[str, tuple[Moving, tuple[str, set[str]], bool]] = {
    "public_url": (Move.to_another_address, ("Old", {MOVED_URL}), False),
    "accounts.<id>.upstream": (Move.to_the_other_upstream, ("New", {PUBLIC_URL}), True),
    "resources": (Move.to_other_resources, ("Old", {PUBLIC_URL}), False),
}


@pytest.mark.parametrize("what", MOVES)
async def test_a_hit_from_before_a_move_is_not_served(tmp_path: Path, what: str) -> None:
    move, after, elsewhere = MOVES[what]
    async with about_to_move(tmp_path) as moving:
        it = moving.it
        for _ in range(2):
            assert seen(await it.get(moving.info)) == ("Old", {PUBLIC_URL})
        assert it.upstream_requests() == 1
        await move(moving)
        first = await it.get(moving.info)
        assert seen(first) == after
        assert "fwd=miss" in (first.header("cache-status") or "")
        # And from now on there are hits again.
        assert "hit" in ((await it.get(moving.info)).header("cache-status") or "")
        asked = (it.upstream_requests(), moving.other.emulator.counts().total())
        assert asked == ((1, 1) if elsewhere else (2, 0))


@pytest.mark.parametrize("rest", ["/info", "/events", "/info/agentTyping"])
@pytest.mark.parametrize("what", MOVES)
async def test_who_waits_through_a_move_gets_what_is_there_now(tmp_path: Path, what: str, rest: str) -> None:
    move, after, elsewhere = MOVES[what]
    async with about_to_move(tmp_path, LATENCY_S) as moving, contextlib.AsyncExitStack() as stack:
        it = moving.it
        wires = [await stack.enter_async_context(it.wire()) for _ in range(8)]
        for wire in wires:
            await wire.send(message("GET", chat_path(moving.chat, rest), it.bearer()))
        shared = rest != "/info/agentTyping"
        await until(lambda: it.upstream_requests() == (1 if shared else 8))
        await move(moving)
        responses = [await wire.response() for wire in wires]
        assert {response.status for response in responses} == {200}
        if rest == "/info":
            assert all(seen(response) == after for response in responses)
        for response in responses:
            leads = {href.partition("/api/")[0] for _, href in links_of(response.json())}
            assert leads <= after[1]
        # Together, as before.
        again = 1 if shared else 8
        asked = (it.upstream_requests(), moving.other.emulator.counts().total())
        assert asked == ((again, again) if elsewhere else (2 * again, 0))
        if rest == "/info":
            assert "hit" in ((await it.get(moving.info)).header("cache-status") or "")


@pytest.mark.parametrize("what", MOVES)
async def test_what_a_flight_from_before_brings_home_is_not_kept(tmp_path: Path, what: str) -> None:
    """Whoever opened it has left by then; it lands all the same."""
    move, after, _ = MOVES[what]
    async with about_to_move(tmp_path, LATENCY_S) as moving:
        it = moving.it
        async with it.wire() as wire:
            await wire.send(message("GET", moving.info, it.bearer()))
            await until(lambda: it.upstream_requests() == 1)
            wire.hang_up()
        await move(moving)
        await it.flights_landed()
        response = await it.get(moving.info)
        assert seen(response) == after


async def test_a_flight_from_before_that_lands_late_takes_nobodys_place(tmp_path: Path) -> None:
    """1. A fetch is under way. 2. The account moves. 3. Another fetch lands. 4. The first one lands."""
    async with about_to_move(tmp_path) as moving, moving.it.wire() as wire:
        it = moving.it
        it.emulator.fail(Fault(delay_s=LATENCY_S))
        await wire.send(message("GET", moving.info, it.bearer()))
        await until(lambda: it.upstream_requests() == 1)
        await moving.to_the_other_upstream()
        assert seen(await it.get(moving.info)) == ("New", {PUBLIC_URL})
        assert seen(await wire.response()) == ("New", {PUBLIC_URL})
        assert "hit" in ((await it.get(moving.info)).header("cache-status") or "")
        assert moving.other.emulator.counts().total() == 1


@pytest.mark.parametrize("what", MOVES)
async def test_a_write_through_a_move_is_sent_once_and_answered(tmp_path: Path, what: str) -> None:
    move, after, _ = MOVES[what]
    async with about_to_move(tmp_path, LATENCY_S) as moving:
        it = moving.it
        body = json.dumps({"event": {"@type": "line", "text": "once"}}).encode()
        fields = {"content-type": "application/json", **it.bearer()}
        async with it.wire() as wire:
            await wire.send(message("POST", chat_path(moving.chat, "/events"), fields, body))
            await until(lambda: it.upstream_requests() == 1)
            await move(moving)
            response = await wire.response()
        assert response.status == 201
        [public] = after[1]
        location = response.header("location") or ""
        assert location.startswith(f"{public}{chat_path(moving.chat, '/events')}/")
        assert (it.upstream_requests(), moving.other.emulator.counts().total()) == (1, 0)
        assert it.emulator.chat(moving.chat).lines == ("once",)
        # What is read now is what is there now.
        assert seen(await it.get(moving.info)) == after


async def test_the_address_of_an_upstream_that_was_left_reaches_nobody(tmp_path: Path) -> None:
    """Its answer is under way when it is left, and its host is none of `link_hosts`."""
    async with about_to_move(tmp_path, LATENCY_S, link_hosts=[]) as moving:
        it = moving.it
        for server in (it.server, moving.other):
            object.__setattr__(server.emulator.config, "link_base", server.url)
        body = json.dumps({"event": {"@type": "line", "text": "once"}}).encode()
        fields = {"content-type": "application/json", **it.bearer()}
        async with it.wire() as wire:
            await wire.send(message("POST", chat_path(moving.chat, "/events"), fields, body))
            await until(lambda: it.upstream_requests() == 1)
            await moving.to_the_other_upstream()
            response = await wire.response()
        assert response.status == 201
        assert str(it.server.port) not in str(response)
        # The line was written there, and has its address here.
        assert (response.header("location") or "").startswith(PUBLIC_URL)


async def test_a_write_that_is_still_coming_goes_where_the_account_is_now(tmp_path: Path) -> None:
    async with about_to_move(tmp_path) as moving, moving.it.wire() as wire:
        it = moving.it
        body = json.dumps({"event": {"@type": "line", "text": "once"}}).encode()
        sent = message(
            "POST",
            chat_path(moving.chat, "/events"),
            {"content-type": "application/json", **it.bearer()},
            body,
        )
        await wire.send(sent[:-1])
        await it.get(account_path("/nothing"))  # answered after the head above was read
        await moving.to_the_other_upstream()
        await wire.send(sent[-1:])
        assert (await wire.response()).status == 201
        assert moving.other.emulator.chat(moving.chat).lines == ("once",)
        assert it.emulator.chat(moving.chat).lines == ()


async def test_what_went_wrong_with_an_upstream_that_was_left_is_forgotten(tmp_path: Path) -> None:
    async with about_to_move(tmp_path) as moving:
        it = moving.it
        it.emulator.fail(Fault(status=500, times=None))
        for _ in range(2):
            assert (await it.get(moving.info)).problem == "upstream-error"
        assert it.upstream_requests() == 1
        await moving.to_the_other_upstream()
        assert seen(await it.get(moving.info)) == ("New", {PUBLIC_URL})


@pytest.mark.parametrize("method", ["PUT", "GET"])
async def test_an_account_that_goes_in_the_last_moment_is_no_crash(tmp_path: Path, method: str) -> None:
    """1. A request is judged and its flight made. 2. The account goes. 3. The flight begins."""
    async with changeable(tmp_path) as it:
        chat, flights = it.chat(), it.gateway.exchange.flights
        join, moved = flights.join, asyncio.Event()
        move_away(it)
        read = await asyncio.to_thread(configure, it.stage.config, {})
        sources = it.gateway._key_sources.prepare(read)

        def join_and_go(key: Any, fetch: Any) -> Any:
            joined = join(key, fetch)
            it.gateway._adopt(read, sources)
            moved.set()
            return joined

        flights.join = join_and_go  # type: ignore[method-assign]
        body = json.dumps({"visitorName": "Zoe"}).encode() if method == "PUT" else b""
        response = await it.ask(
            method, chat_path(chat, "/info/visitorName"), {"content-type": "application/json"}, body
        )
        assert moved.is_set()
        assert response.problem in {"unknown-resource", "upstream-unreachable"}
        assert (it.upstream_requests(), it.gateway.metrics.crashes) == (0, 0)


# -- under load --------------------------------------------------------------------------------------------

POLLERS, WRITERS, FORWARDERS, CHATS = 16, 4, 4, 5


class Load:
    """Pollers, writers and readers of what is never kept, each on its own connection, without a pause."""

    def __init__(self, it: World) -> None:
        self.answered: Counter[tuple[str, int, str | None]] = Counter()
        self._it = it
        self._chats = [it.chat() for _ in range(CHATS)]
        self._tasks: list[asyncio.Task[None]] = []
        #: How many requests of each task have been answered.
        self._turns: list[int] = []
        self._over = False

    def start(self, *, writers: int = WRITERS) -> None:
        asked = [("GET", "/info", b"")] * POLLERS
        asked += [("GET", "/info/agentTyping", b"")] * FORWARDERS
        asked += [("PUT", "/info/visitorName", json.dumps({"visitorName": "Zoe"}).encode())] * writers
        for number, (method, rest, body) in enumerate(asked):
            target = chat_path(self._chats[number % CHATS], rest)
            self._turns.append(0)
            self._tasks.append(asyncio.create_task(self._ask(number, method, target, body)))

    async def _ask(self, number: int, method: str, target: str, body: bytes) -> None:
        fields = {**self._it.bearer(), "content-type": "application/json"}
        async with self._it.wire() as wire:
            while not self._over:
                response = await wire.ask(method, target, fields, body)
                self.answered[method, response.status, response.problem] += 1
                self._turns[number] += 1

    async def goes_on(self, requests: int = 2) -> None:
        """Wait until each has had so many more answers: of two, one to a question asked after this."""
        before = list(self._turns)
        await until(
            lambda: all(now >= then + requests for now, then in zip(self._turns, before, strict=True))
        )

    async def lands(self) -> None:
        """Wait for all that was asked until now: by clients, and by flights on nobody's account."""
        flights = set(self._it.gateway.exchange.flights._by_key.values())
        if flights:
            await asyncio.wait(flights)
        await self.goes_on()

    async def stop(self) -> None:
        self._over = True
        await asyncio.gather(*self._tasks)


@contextlib.asynccontextmanager
async def under_load(folder: Path, *, writers: int = WRITERS) -> AsyncIterator[tuple[World, Load]]:
    (folder / "next-key").write_text("not-in-use-yet")
    environ = {"ACCOUNTS__123__NEXT_APP_KEY_FILE": "next-key"}
    plenty = {"per_second": 10_000, "burst": 10_000, "in_flight": 1000}
    config = EmulatorConfig(app_key=APP_KEY, record=200)
    async with changeable(folder, emulator=config, environ=environ, budget=plenty) as it:
        load = Load(it)
        load.start(writers=writers)
        await load.goes_on()
        try:
            yield it, load
        finally:
            await load.stop()


GOOD = {("GET", 200, None), ("PUT", 201, None)}


async def test_keys_change_under_load_and_nothing_fails(tmp_path: Path) -> None:
    """As operators do it: the vendor takes both, the new one goes first, the vendor drops the old one."""
    async with under_load(tmp_path) as (it, load):
        old = APP_KEY
        for number in range(6):
            new = f"{NEXT}{number}"
            it.emulator.app_keys = (old, new)
            of(it, "app-key").write_text(new)
            of(it, "next-key").write_text(old)
            await it.gateway.look_again()
            # Nothing is under way any more that has the old key, and nothing goes with it.
            await load.lands()
            it.emulator.recorded.clear()
            await load.goes_on()
            assert not it.emulator.saw(f"appKey={old}\r".encode())
            it.emulator.app_keys = (new,)
            await load.goes_on(3)
            old = new
    assert set(load.answered) == GOOD


async def test_readers_do_not_notice_a_key_that_is_refused_from_one_moment_to_the_next(
    tmp_path: Path,
) -> None:
    """Only readers: a write whose key is refused is not sent again."""
    async with under_load(tmp_path, writers=0) as (it, load):
        of(it, "next-key").write_text(NEXT)
        await it.gateway.look_again()
        for number in range(10):
            it.emulator.app_keys = ((NEXT, APP_KEY)[number % 2],)
            await load.lands()
    assert set(load.answered) == {("GET", 200, None)}


async def test_mistakes_under_load_fail_nothing_and_change_nothing(tmp_path: Path) -> None:
    async with under_load(tmp_path) as (it, load):
        sound, before = Snapshot.of(tmp_path), whole(it)
        refused = 0
        for make, _, words in MISTAKES.values():
            make(tmp_path)
            await it.gateway.look_again()
            refused += 1
            assert words in str((await reload_state(it))["mistakes"])
            await load.goes_on()
            assert same(whole(it), before)
            sound.put_back()
            await it.gateway.look_again()
        assert await metric(it, "reload_failures_total") == refused
        assert (await reload_state(it))["ok"]
    assert set(load.answered) == GOOD


async def test_changes_under_load_fail_nothing(tmp_path: Path) -> None:
    """Everything that can change for others: clients, keys that are added, limits, links, the upstream."""
    async with under_load(tmp_path) as (it, load):
        jwks = json.loads(of(it, "jwks.json").read_text())
        for number in range(8):
            edit(of(it, PARTNER), "priority: low", "priority: normal\n    # low")
            [added] = json.loads(new_key("ES256")[1])["keys"]
            of(it, "jwks.json").write_text(json.dumps({"keys": [*jwks["keys"], added]}))
            say(
                it,
                public_url=f"https://chat{number}.example",
                max_body_bytes=2048 + number,
                link_hosts=[f"host{number}.example"],
            )
            before = it.gateway._state.policies.version
            await it.gateway.look_again()
            assert it.gateway._state.policies.version == before + 1
            await load.goes_on()
            edit(of(it, PARTNER), "priority: normal\n    # low", "priority: low")
    assert set(load.answered) == GOOD


@pytest.mark.parametrize("message_", ["Invalid User", "Bad captcha"])
async def test_a_chat_that_is_refused_changes_nothing_about_the_key(tmp_path: Path, message_: str) -> None:
    """The vendor's 401 with code 10 says "bad key" anywhere else."""
    async with under_load(tmp_path) as (it, load):
        edit(of(it, PARTNER), "allow: [chat:read]", "allow: [chat:read, chat:start]")
        of(it, "next-key").write_text(NEXT)
        it.emulator.app_keys = (APP_KEY, NEXT)
        await it.gateway.look_again()
        in_order = whole(it)[-1]
        it.emulator.fail(Fault(resource="start-chat", status=401, code=10, message=message_, times=None))
        for number in range(20):
            body = json.dumps({"request": {}}).encode()
            fields = {"content-type": "application/json"}
            path = account_path("/chat/request")
            refused = await it.ask("POST", path, fields, body, subject="partner")
            assert (refused.status, refused.json()["error"]["message"]) == (401, message_)
            # One request each, and no second try with the other key.
            assert it.emulator.counts().total(resource="start-chat") == number + 1
        await load.goes_on()
        assert whole(it)[-1] is in_order
        assert not it.emulator.saw(NEXT.encode())
    assert set(load.answered) == GOOD


# -- as a process ------------------------------------------------------------------------------------------


def test_sighup_has_everything_read_again(tmp_path: Path) -> None:
    stage = set_stage(
        tmp_path,
        listen="127.0.0.1:0",
        admin_listen="127.0.0.1:0",
        public_url=PUBLIC_URL,
        upstream_url="http://127.0.0.1:1",
        app_key=APP_KEY,
        reload_s=SELDOM_S,
        drain_delay_s=0,
    )
    command = [sys.executable, "-m", "gateway", "serve", "--config", str(stage.config)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:  # noqa: S603 - our own
        try:

            def line() -> dict[str, Any]:
                assert process.stderr is not None
                said: dict[str, Any] = json.loads(process.stderr.readline())
                return said

            assert line()["event"] == "listening"
            edit(tmp_path / PARTNER, "deny: [exitSurvey]", "deny: [exitSurvey, events]")
            process.send_signal(signal.SIGHUP)
            told = line()
            assert (told["event"], told["policies_version"]) == ("configuration changed", 2)
            edit(tmp_path / PARTNER, "deny:", "denny:")
            process.send_signal(signal.SIGHUP)
            told = line()
            assert told["event"] == "configuration refused"
            assert "clients.partner.denny" in str(told["mistakes"])
            process.send_signal(signal.SIGINT)
            assert [line()["event"], line()["event"]] == ["ending", "stopped"]
            assert process.wait(10) == 0
        finally:
            process.kill()


# -- while somebody writes ----------------------------------------------------------------------------------


async def test_what_changes_while_it_is_read_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client moves from one file to the other just as both are read: it is in force all the time."""
    async with changeable(tmp_path) as it:
        clients = tmp_path / "policies" / "clients"
        partner, bff = (clients / "partner.yaml").read_text(), (clients / "bff.yaml").read_text()
        moved = bff + partner[partner.index("  partner:") :]

        def swap_in_between(path: Path, environ: Mapping[str, str]) -> Configuration:
            (clients / "partner.yaml").unlink(missing_ok=True)
            read = configure(path, environ)
            (clients / "bff.yaml").write_text(moved)
            return read

        monkeypatch.setattr("gateway.app.configure", swap_in_between)
        assert (await reload(it)).status == 200
        assert [client.name for client in it.gateway._configuration.policies.clients].count("partner") == 1
        assert (await it.ask("GET", chat_path(it.chat(), "/info"), subject="partner")).status == 200


async def test_files_that_never_come_to_rest_change_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with changeable(tmp_path) as it:
        before = it.gateway._configuration
        notes = iter(range(1_000_000))
        say_nothing = "# {}\nclients:\n  other: {{match: {{iss: 'https://issuer.example', sub: other}}, "
        say_nothing += "accounts: '*', allow: [info]}}\n"

        def restless(path: Path, environ: Mapping[str, str]) -> Configuration:
            read = configure(path, environ)
            (tmp_path / "policies" / "clients" / "note.yaml").write_text(say_nothing.format(next(notes)))
            return read

        monkeypatch.setattr("gateway.app.configure", restless)
        response = await reload(it)
        assert response.status == 409
        assert "expected them to stay while they are read" in str(response.json()["mistakes"])
        assert it.gateway._configuration is before
        monkeypatch.undo()
        (tmp_path / "policies" / "clients" / "note.yaml").unlink()
        assert (await reload(it)).status == 200


async def test_half_a_file_waits_for_its_other_half(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The half is sound by itself, and shows a partner all there is."""
    async with changeable(tmp_path) as it:
        file = tmp_path / "policies" / "clients" / "partner.yaml"
        whole = file.read_text()
        file.write_text(whole[: whole.index("    # Beats allow")])
        looks = iter(range(100))

        def finished_in_time(path: Path, settings: Settings, revocations: Path | None) -> bytes:
            # Has it changed? Twice: is it at rest? Then it is read.
            if next(looks) == 3:
                file.write_text(whole)
            return fingerprint(path, settings, revocations)

        monkeypatch.setattr("gateway.app.fingerprint", finished_in_time)
        await it.gateway.look_again()
        response = await it.ask("GET", chat_path(it.chat(), "/info"), subject="partner")
        assert "visitorName" not in response.json()["info"]


async def test_what_is_revoked_while_files_are_read_is_revoked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "revoked").write_text("")
    async with changeable(tmp_path, revocations={"file": "revoked"}) as it:

        def meanwhile(path: Path, environ: Mapping[str, str]) -> Configuration:
            (tmp_path / "revoked").write_text('{"client": "partner"}\n')
            return configure(path, environ)

        monkeypatch.setattr("gateway.app.configure", meanwhile)
        edit(tmp_path / "policies" / "clients" / "bff.yaml", "priority: high", "priority: normal")
        await it.gateway.look_again()
        response = await it.ask("GET", chat_path(it.chat(), "/info"), subject="partner")
        assert response.problem == "token-revoked"


async def test_a_folder_of_clients_may_be_a_link(tmp_path: Path) -> None:
    async with changeable(tmp_path) as it:
        clients = tmp_path / "policies" / "clients"
        clients.rename(tmp_path / "elsewhere")
        clients.symlink_to(tmp_path / "elsewhere")
        await it.gateway.look_again()
        edit(tmp_path / "elsewhere" / "partner.yaml", "allow: [chat:read]", "allow: [info]")
        await it.gateway.look_again()
        events = chat_path(it.chat(), "/events")
        assert (await it.ask("GET", events, subject="partner")).problem == "action-denied"


async def test_an_admin_token_that_is_half_written_opens_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was sound when it was checked, and is empty when it is read."""
    async with changeable(tmp_path) as it:
        file = tmp_path / "admin-token"

        def emptied(path: Path, environ: Mapping[str, str]) -> Loaded:
            loaded = load(path, environ)
            file.write_text("")
            return loaded

        monkeypatch.setattr("gateway.configuration.load", emptied)
        assert (await reload(it)).status == 409
        assert (await operator(it, "GET", "/usage", token=" ")).status == 401
        assert (await operator(it, "GET", "/usage")).status == 200


async def test_what_tokens_must_say_changes_and_the_keys_stay(tmp_path: Path) -> None:
    async with provider() as idp:
        sources = ((ISSUER, {"jwks": "jwks.json"}), (idp.issuer, {"jwks_url": idp.jwks_url}))
        issuers = [
            {"issuer": issuer, "audience": AUDIENCE, "algorithms": ["ES256"], **source}
            for issuer, source in sources
        ]
        async with changeable(tmp_path, issuers=issuers) as it:
            fetched = idp.fetches
            idp.behaviour = FAILURES["down"]
            config = yaml.safe_load(it.stage.config.read_text())
            config["issuers"][1] |= {"leeway_s": 30, "refresh_s": 600, "max_stale_s": 3600, "cooldown_s": 20}
            it.stage.config.write_text(yaml.safe_dump(config))
            assert (await reload(it)).json()["changed"] is True
            # The provider was not needed, and its tokens are as good as before.
            assert idp.fetches == fetched
            assert it.gateway._key_sources.remotes[idp.issuer].current is not None
