"""`healthcheck`: of a gateway that runs and then ends, and of whoever else sits at that address."""

from __future__ import annotations

import contextlib
import re
import signal
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner, Result

from gateway.cli import app, health
from gateway.config.settings import Settings
from gateway.demo.stage import set_stage
from tests.cli.processes import line_of, started
from tests.identity_provider import certified

READY = b'{"ready": true}\n'
#: What it does without, although the gateway needs it: it would take most of the command's time.
HEAVY = {"aiohttp", "cryptography", "starlette", "uvicorn", "uvloop"}

SHOWS_MODULES = """
import sys
from gateway.cli import app
app(["healthcheck"], standalone_mode=False)
print(*sys.modules)
"""


def configured(folder: Path, **settings: Any) -> Path:
    path = folder / "gateway.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["healthcheck", *map(str, arguments)])


def answer(body: bytes, status: bytes = b"200 OK") -> bytes:
    return b"HTTP/1.1 %s\r\ncontent-length: %d\r\n\r\n%s" % (status, len(body), body)


@contextlib.contextmanager
def saying(said: bytes, *, then_waits: bool = False, tls: ssl.SSLContext | None = None) -> Iterator[str]:
    """Who says this to one caller and hangs up, or waits until the block ends: its address."""
    ended = threading.Event()

    def serve() -> None:
        with (
            contextlib.suppress(OSError),
            listener.accept()[0] as raw,
            raw if tls is None else tls.wrap_socket(raw, server_side=True) as caller,
        ):
            caller.recv(65_536)
            caller.sendall(said)
            # Byte after byte: none of them comes too late.
            while then_waits and not ended.wait(0.01):
                caller.sendall(b"x")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"127.0.0.1:{listener.getsockname()[1]}"
        finally:
            ended.set()
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def test_a_gateway_from_its_start_to_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = set_stage(
        tmp_path,
        listen="127.0.0.1:0",
        admin_listen="0.0.0.0:0",
        public_url="http://127.0.0.1:8080",
        upstream_url="http://127.0.0.1:9",
        app_key="key",
        drain_delay_s=300,
    ).config
    with started("serve", "--config", str(path)) as process:
        monkeypatch.setenv("CHAT_GATEWAY_ADMIN_LISTEN", line_of(process)["private"])
        for more, told in (([], "ready\n"), (["--live"], "alive\n")):
            result = run("--config", path, *more)
            assert (result.exit_code, result.output) == (0, told)
        process.send_signal(signal.SIGTERM)
        assert line_of(process)["event"] == "ending"
        ends, lives = run("--config", path), run("--config", path, "--live")
        assert (ends.exit_code, ends.output) == (1, "not ready\n")
        assert (lives.exit_code, lives.output) == (0, "alive\n")


def test_it_reads_gateway_yaml_where_it_stands_and_imports_little(tmp_path: Path) -> None:
    with saying(answer(READY)) as address:
        configured(tmp_path, admin_listen=address)
        told = subprocess.run(  # noqa: S603 - our own command
            [sys.executable, "-c", SHOWS_MODULES],
            cwd=tmp_path,
            env={"PYTHONPATH": str(Path(__file__).parents[2])},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.splitlines()
    assert told[0] == "ready"
    assert "gateway.admin.client" in told[1].split()
    assert not HEAVY & set(told[1].split())


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (answer(READY, b"503 Service Unavailable"), "not ready"),
        (answer(b'{"ready": false}', b"503 Service Unavailable"), "not ready"),
        (answer(b"[]"), "the private listener at .* answered 200, but not whether it is ready"),
        (answer(b'{"error": "no"}', b"404 Not Found"), ".* answered 404, but not whether it is ready"),
        (answer(b"alive\n"), "expected JSON from .*"),
        (b"SSH-2.0-x\r\n", ".* does not speak as a private listener does"),
    ],
)
def test_who_is_not_ready_or_no_gateway(tmp_path: Path, said: bytes, told: str) -> None:
    with saying(said) as address:
        result = run("--config", configured(tmp_path, admin_listen=address))
    assert_failed(result, told)


def assert_failed(result: Result, told: str) -> None:
    """With one line, on standard error."""
    assert (result.exit_code, result.stdout) == (1, "")
    assert re.fullmatch(told + "\n", result.stderr), result.stderr


def test_nobody_is_there(tmp_path: Path) -> None:
    with saying(b"") as address:
        pass
    result = run("--config", configured(tmp_path, admin_listen=address))
    assert_failed(result, f"cannot reach the private listener at {address}: connection refused")


@pytest.mark.parametrize("said", [b"", b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n"])
def test_it_waits_two_seconds_and_not_for_the_last_byte(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: bytes
) -> None:
    assert health.DEADLINE_S == 2.0
    monkeypatch.setattr(health, "DEADLINE_S", 0.05)
    with saying(said, then_waits=True) as address:
        result = run("--config", configured(tmp_path, admin_listen=address))
    assert_failed(result, f"the private listener at {address} did not answer within 0.05 s")


@pytest.mark.parametrize("shown", ["server", "other"])
def test_over_tls_only_who_shows_that_certificate(tmp_path: Path, shown: str) -> None:
    contexts = {name: certified(tmp_path / name) for name in ("server", "other")}
    tls = {"certificate_file": "server/server.pem", "key_file": "server/server.key"}
    with saying(answer(READY), tls=contexts[shown]) as address:
        result = run("--config", configured(tmp_path, admin_listen=address, admin_tls=tls))
    if shown == "server":
        assert (result.exit_code, result.output) == (0, "ready\n")
    else:
        assert_failed(result, f"{address} does not show the certificate of admin_tls.certificate_file")


@pytest.mark.parametrize(
    ("listens", "called"),
    [
        ("0.0.0.0:8081", ("127.0.0.1", 8081)),
        ("[::]:8081", ("::1", 8081)),
        ("[::1]:8081", ("::1", 8081)),
        ("10.0.0.7:1", ("10.0.0.7", 1)),
        ("localhost:65535", ("localhost", 65535)),
        (Settings.model_fields["admin_listen"].default, ("127.0.0.1", 8081)),
        (None, ("127.0.0.1", 8081)),
    ],
)
def test_where_it_calls(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, listens: str | None, called: tuple[str, int]
) -> None:
    calls: list[tuple[str, int]] = []

    def call(address: tuple[str, int], *_: object, **__: object) -> tuple[int, object]:
        calls.append(address)
        return 200, {"ready": True}

    monkeypatch.setattr("gateway.admin.client.call", call)
    settings = {} if listens is None else {"admin_listen": listens}
    assert run("--config", configured(tmp_path, **settings)).exit_code == 0
    assert calls == [called]


@pytest.mark.parametrize("listens", ["127.0.0.1:0", "127.0.0.1", ":8081", "[::", "a:b", 8081, None, ["a:1"]])
def test_an_address_that_nobody_can_call(tmp_path: Path, listens: object) -> None:
    result = run("--config", configured(tmp_path, admin_listen=listens))
    assert_failed(result, r"admin_listen: expected host:port, with the port that is listened on, got .*")
    assert result.stderr.endswith(f"got {listens!r}\n")


def test_a_mistake_elsewhere_makes_nobody_sick(tmp_path: Path) -> None:
    with saying(answer(READY)) as address:
        path = configured(tmp_path, admin_listen=address, acounts={}, policies="none", admin_tls=7)
        path.write_text(path.read_text() + "drain_s: 1\ndrain_s: 2\n")
        assert run("--config", path).exit_code == 0


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, r"gateway\.yaml: expected a readable file, got no such file or directory"),
        ("a: [", r"gateway\.yaml:2: expected well-formed YAML, got this: .*"),
    ],
)
def test_a_file_that_says_nothing(tmp_path: Path, content: str | None, told: str) -> None:
    path = tmp_path / "gateway.yaml"
    if content is not None:
        path.write_text(content)
    assert_failed(run("--config", path), told)
