"""How a gateway ends, and what goes on until then: real processes, real signals, real sockets."""

from __future__ import annotations

import contextlib
import fcntl
import http.client
import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from gateway.demo.stage import ISSUER, Stage
from gateway.edge.server import GRACE_S
from gateway.observe.logs import PIPE_BYTES
from tests.cli.processes import line_of, started, status_of
from tests.support import PATIENCE_S, account_path, staged

TERM, INT = signal.SIGTERM, signal.SIGINT
#: Longer than any test takes: who waits for it has failed.
LONG_S = 60
#: More than the delay and the drain: for what does not end by itself, and a second for the machine.
SLACK_S = GRACE_S + 1


@dataclass(frozen=True)
class Process:
    """A gateway that listens. `upstream` is its upstream's socket, which takes connections and is silent."""

    process: subprocess.Popen[str]
    public: str
    private: str
    upstream: socket.socket
    stage: Stage

    def readiness(self) -> int:
        return status_of(self.private, "/readyz")

    def asked(self) -> http.client.HTTPConnection:
        """A connection on which the account has just been asked for; the upstream has got the request."""
        connection = http.client.HTTPConnection(self.public, timeout=PATIENCE_S)
        connection.request("GET", account_path(), headers=self.bearer())
        return connection

    def bearer(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.stage.token()}", "Accept": "application/json"}

    def end(self) -> tuple[int, float, list[str]]:
        """Wait for it: its exit code, when it was over, and the events that it logged."""
        _, err = self.process.communicate(timeout=LONG_S)
        return (
            self.process.returncode,
            time.monotonic(),
            [json.loads(line)["event"] for line in err.splitlines()],
        )


@contextlib.contextmanager
def silent() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(PATIENCE_S)
        yield server


def set_up(folder: Path, upstream: socket.socket, **settings: Any) -> Stage:
    host, port = upstream.getsockname()
    return staged(folder, f"http://{host}:{port}", **settings)


@contextlib.contextmanager
def gateway(folder: Path, **settings: Any) -> Iterator[Process]:
    with silent() as upstream:
        stage = set_up(folder, upstream, **settings)
        with started("serve", "--config", str(stage.config)) as process:
            said = line_of(process)
            assert said["event"] == "listening"
            yield Process(process, said["public"], said["private"], upstream, stage)


def until(condition: Callable[[], bool]) -> None:
    """Wait for what another process does within milliseconds."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def refused(address: str) -> bool:
    """Whether nobody listens there."""
    host, port = address.split(":")
    # Reset is who came while the listener was closed.
    with contextlib.suppress(ConnectionResetError):
        try:
            socket.create_connection((host, int(port)), PATIENCE_S).close()
        except ConnectionRefusedError:
            return True
    return False


def answer(upstream: socket.socket) -> None:
    """Answer the request that is there."""
    peer, _ = upstream.accept()
    with peer:
        peer.recv(65_536)
        body = b'{"account": {}}'
        peer.sendall(
            b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body)
            + body
        )


# -- gently ------------------------------------------------------------------------------------------------


def test_from_sigterm_on_it_is_not_ready_and_serves_on_for_the_delay(tmp_path: Path) -> None:
    with gateway(tmp_path, drain_delay_s=1, drain_s=5) as it:
        kept = http.client.HTTPConnection(it.public, timeout=PATIENCE_S)
        kept.request("GET", account_path())
        first = kept.getresponse()
        assert (first.read() != b"", first.headers["connection"]) == (True, None)
        began = time.monotonic()
        it.process.send_signal(TERM)
        until(lambda: it.readiness() == 503)
        assert status_of(it.private, "/healthz") == 200
        # Who came before is sent elsewhere, by the reply to his next request; who comes now as well.
        for connection in (kept, http.client.HTTPConnection(it.public, timeout=PATIENCE_S)):
            with contextlib.closing(connection):
                connection.request("GET", account_path())
                reply = connection.getresponse()
                assert (reply.status, reply.headers["connection"]) == (401, "close")
        code, over, events = it.end()
        assert (code, sorted(events)) == (0, ["ending", *["request"] * 3, "stopped"])
        assert 1 <= over - began < 1 + SLACK_S


def test_ctrl_c_has_no_delay(tmp_path: Path) -> None:
    with gateway(tmp_path, drain_delay_s=LONG_S) as it:
        began = time.monotonic()
        it.process.send_signal(INT)
        code, over, events = it.end()
        assert (code, events) == (0, ["ending", "stopped"])
        assert over - began < SLACK_S


@pytest.mark.parametrize("number", [TERM, INT])
def test_what_flies_lands(tmp_path: Path, number: int) -> None:
    with gateway(tmp_path, drain_delay_s=0, drain_s=LONG_S) as it, contextlib.closing(it.asked()) as asked:
        it.process.send_signal(number)
        until(lambda: refused(it.public))
        assert it.readiness() == 503
        answer(it.upstream)
        assert asked.getresponse().status == 200
        assert it.end()[0] == 0


def test_what_does_not_land_is_told_so_within_the_drain(tmp_path: Path) -> None:
    with gateway(tmp_path, drain_delay_s=1, drain_s=1) as it, contextlib.closing(it.asked()) as asked:
        began = time.monotonic()
        it.process.send_signal(TERM)
        assert asked.getresponse().status == 503
        code, over, events = it.end()
        assert (code, events[-1]) == (0, "stopped")
        assert over - began < 1 + 1 + SLACK_S


HALVES = {
    "nothing": b"",
    "half a head": b"GET / HT",
    "half a body": b"POST /revocations HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
    b"authorization: Bearer %s\r\ncontent-length: 9\r\n\r\n{",
}


@pytest.mark.parametrize("half", HALVES)
def test_whoever_lingers_is_not_waited_for(tmp_path: Path, half: str) -> None:
    with gateway(tmp_path, drain_delay_s=0, drain_s=1) as it, contextlib.ExitStack() as stack:
        for listener in (it.public, it.private):
            host, port = listener.split(":")
            lingering = stack.enter_context(socket.create_connection((host, int(port)), PATIENCE_S))
            lingering.sendall(HALVES[half].replace(b"%s", it.stage.admin_token.encode()))
            # Whoever is answered after him came after him.
            status_of(listener, "/healthz")
        began = time.monotonic()
        it.process.send_signal(TERM)
        code, over, events = it.end()
        assert (code, events[-1]) == (0, "stopped")
        assert over - began < 1 + SLACK_S


# -- at once -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("first", [TERM, INT])
@pytest.mark.parametrize("second", [TERM, INT])
def test_a_second_signal_in_the_drain_ends_it_at_once(tmp_path: Path, first: int, second: int) -> None:
    with gateway(tmp_path, drain_delay_s=0, drain_s=LONG_S) as it, contextlib.closing(it.asked()):
        it.process.send_signal(first)
        until(lambda: refused(it.public))
        it.process.send_signal(second)
        began = time.monotonic()
        code, over, events = it.end()
        assert (code, events) == (-second, ["ending"])
        assert over - began < SLACK_S


@pytest.mark.parametrize("second", [TERM, INT])
def test_a_second_signal_in_the_delay_ends_it_at_once(tmp_path: Path, second: int) -> None:
    with gateway(tmp_path, drain_delay_s=LONG_S) as it:
        it.process.send_signal(TERM)
        until(lambda: it.readiness() == 503)
        it.process.send_signal(second)
        code, _, events = it.end()
        assert (code, events) == (-second, ["ending"])


@pytest.mark.parametrize("number", [TERM, INT])
def test_a_signal_before_it_listens_ends_it_at_once(tmp_path: Path, number: int) -> None:
    """It waits for an issuer's keys, and the issuer is silent."""
    with silent() as issuer:
        host, port = issuer.getsockname()
        said = {
            "issuer": ISSUER,
            "audience": "a",
            "algorithms": ["ES256"],
            "jwks_url": f"http://{host}:{port}/",
        }
        stage = set_up(tmp_path, issuer, issuers=[said])
        with started("serve", "--config", str(stage.config)) as process:
            with issuer.accept()[0]:
                process.send_signal(number)
                assert process.communicate(timeout=PATIENCE_S) == ("", "")
            assert process.returncode == -number


@pytest.mark.parametrize("after_s", [0.05, 0.15, 0.25, 0.35, 0.45, 0.6])
def test_a_signal_at_any_moment_of_the_start_leaves_no_traceback(tmp_path: Path, after_s: float) -> None:
    with silent() as upstream:
        stage = set_up(tmp_path, upstream, drain_delay_s=0)
        with started("serve", "--config", str(stage.config)) as process:
            time.sleep(after_s)
            process.send_signal(TERM)
            _, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode in {0, -TERM}
    assert "Traceback" not in err


# -- until then --------------------------------------------------------------------------------------------


def test_a_dead_upstream_leaves_it_alive_and_ready(tmp_path: Path) -> None:
    with gateway(tmp_path) as it:
        it.upstream.close()
        for _ in range(3):
            assert status_of(it.public, account_path(), it.bearer()) in {502, 503}
            assert status_of(it.private, "/healthz") == 200
            assert it.readiness() == 200


@contextlib.contextmanager
def logging_to(stderr: int, folder: Path, **options: Any) -> Iterator[tuple[subprocess.Popen[str], str, str]]:
    """A gateway with that standard error, and its two addresses; it cannot say them."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(2)]
        public, private = (f"127.0.0.1:{each.getsockname()[1]}" for each in sockets)
        stage = staged(
            folder, listen=public, admin_listen=private, admin={"open_metrics": True}, drain_delay_s=0
        )
    with started("serve", "--config", str(stage.config), stderr=stderr, **options) as process:
        until(lambda: not refused(private) and status_of(private, "/readyz") == 200)
        yield process, public, private


def close_standard_error() -> None:
    os.close(2)


@contextlib.contextmanager
def full_disk() -> Iterator[int]:
    with Path("/dev/full").open("w") as stream:
        yield stream.fileno()


@contextlib.contextmanager
def closed_pipe() -> Iterator[int]:
    reader, writer = os.pipe()
    os.close(reader)
    yield writer
    os.close(writer)


@contextlib.contextmanager
def nothing() -> Iterator[int]:
    yield subprocess.DEVNULL


@pytest.mark.parametrize(
    ("stderr", "options"),
    [(full_disk, {}), (closed_pipe, {}), (nothing, {"first": close_standard_error})],
    ids=["a full disk", "a closed pipe", "closed"],
)
def test_it_serves_and_ends_without_anywhere_to_log(
    tmp_path: Path, stderr: Callable[[], Any], options: dict[str, Any]
) -> None:
    with stderr() as descriptor, logging_to(descriptor, tmp_path, **options) as (process, public, _):
        for _ in range(3):
            assert status_of(public, account_path()) == 401
        process.send_signal(TERM)
        assert process.wait(PATIENCE_S) == 0


def test_a_log_that_nobody_reads_holds_up_nobody(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    with os.fdopen(reader, "rb") as log, logging_to(writer, tmp_path) as (process, public, _):
        assert status_of(public, account_path()) == 401
        until(lambda: fcntl.fcntl(writer, fcntl.F_GETPIPE_SZ) == PIPE_BYTES)
        os.set_blocking(writer, False)
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(writer, b"#" * 511 + b"\n")
        for _ in range(20):
            assert status_of(public, account_path()) == 401
        os.set_blocking(reader, False)
        before = log.read() or b""
        process.send_signal(TERM)
        assert process.wait(PATIENCE_S) == 0
        os.close(writer)
        after = log.read() or b""
    events = [json.loads(line)["event"] for line in before.splitlines() if not line.startswith(b"#")]
    assert events[:2] == ["listening", "request"]
    assert len(events) < 12
    assert [json.loads(line)["event"] for line in after.splitlines()] == ["ending", "stopped"]
