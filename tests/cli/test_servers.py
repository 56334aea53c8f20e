"""`serve` and `emulator`, as processes."""

from __future__ import annotations

import json
import signal
import socket
from pathlib import Path

import pytest

from gateway.demo.stage import set_stage
from gateway.edge.server import GRACE_S
from tests.cli.processes import line_of, started, status_of
from tests.observe.log_schema import mistakes_of


def stage(folder: Path, listen: str = "127.0.0.1:0") -> str:
    set_ = set_stage(
        folder,
        listen=listen,
        admin_listen="127.0.0.1:0",
        public_url="http://127.0.0.1:8080",
        upstream_url="http://127.0.0.1:9100",
        app_key="key",
    )
    return str(set_.config)


def overlap(folder: Path) -> None:
    """Policies with something to warn of."""
    client = '  overlap:\n    match: {iss: "https://issuer.example", email: x}\n'
    (folder / "policies/clients/overlap.yaml").write_text(
        f'clients:\n{client}    accounts: "*"\n    allow: [chat:read]\n'
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_serve_says_where_it_listens_and_ends_when_told(tmp_path: Path, number: signal.Signals) -> None:
    environ = {"CHAT_GATEWAY_DRAIN_DELAY_S": "1", "CHAT_GATEWAY_DRAIN_S": "3"}
    with started("serve", "--config", stage(tmp_path), environ=environ) as process:
        said = line_of(process)
        assert (said["event"], said["level"]) == ("listening", "info")
        assert status_of(said["public"], "/api/account/123") == 401
        assert status_of(said["private"], "/readyz") == 200
        process.send_signal(number)
        out, err = process.communicate(timeout=15)
    assert process.returncode == 0
    assert out == ""
    lines = [json.loads(line) for line in err.splitlines()]
    assert [line["event"] for line in lines] == ["request", "ending", "stopped"]
    at_most_s = (1 if number is signal.SIGTERM else 0) + 3 + GRACE_S
    assert (lines[1]["signal"], lines[1]["at_most_s"]) == (number.name, at_most_s)
    assert [mistake for line in lines for mistake in mistakes_of(line)] == []


def test_serve_logs_warnings(tmp_path: Path) -> None:
    config = stage(tmp_path)
    overlap(tmp_path)
    with started("serve", "--config", config) as process:
        said = line_of(process)
        assert (said["event"], said["level"]) == ("configuration", "warning")
        assert "overlap.yaml" in said["warning"]


@pytest.mark.parametrize(("level", "events"), [("info", {"configuration"}), ("error", set())])
def test_serve_logs_from_its_level_up(tmp_path: Path, level: str, events: set[str]) -> None:
    """A warning, and then an end: the address is taken."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        config = stage(tmp_path, f"127.0.0.1:{taken.getsockname()[1]}")
        overlap(tmp_path)
        environ = {"CHAT_GATEWAY_LOG_LEVEL": level}
        with started("serve", "--config", config, environ=environ) as process:
            _, err = process.communicate(timeout=15)
    assert {json.loads(line)["event"] for line in err.splitlines()[:-1]} == events


def test_an_address_in_use_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with started("emulator", "--port", str(port)) as process:
            out, err = process.communicate(timeout=15)
    assert (process.returncode, out) == (1, "")
    assert err == f"cannot listen on 127.0.0.1:{port}: Address already in use\n"


def test_a_host_that_is_none_is_named() -> None:
    with started("emulator", "--host", "host.invalid", "--port", "0") as process:
        out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (1, "")
    assert err.startswith("cannot listen on host.invalid:0: ")
    assert "Unknown error" not in err


def test_an_environment_variable_overrides(tmp_path: Path) -> None:
    config = stage(tmp_path)
    with started("serve", "--config", config, environ={"CHAT_GATEWAY_DRAIN_S": "many"}) as process:
        _, err = process.communicate(timeout=15)
    assert process.returncode == 1
    assert "CHAT_GATEWAY_DRAIN_S" in err


def test_the_emulator_takes_its_key_and_accounts(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("its-key\n")
    arguments = ("--port", "0", "--app-key-file", str(tmp_path / "key"), "--account", "77")
    with started("emulator", *arguments) as process:
        assert process.stdout is not None
        url = process.stdout.readline().split()[5].rstrip(",")
        assert base_of(url, "77", "its-key") == 200
        assert base_of(url, "77", "another") == 401
        assert base_of(url, "123", "its-key") == 404
        process.terminate()
        assert process.wait(15) == 0


def base_of(url: str, account: str, key: str) -> int:
    """The status of an account's base document."""
    return status_of(
        url.removeprefix("http://"),
        f"/api/account/{account}?v=1",
        {"Authorization": f"LivePerson appKey={key}"},
    )
