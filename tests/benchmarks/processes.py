"""Servers as processes on one core, the load on another, and what Linux says they cost."""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

HOST = "127.0.0.1"
START_S = 20.0
STOP_S = 5.0
_PR_SET_PDEATHSIG = 1
_TICKS = os.sysconf("SC_CLK_TCK")
#: Where the fields of /proc/PID/stat stand after the name, which may have spaces in it; see proc(5).
_GROUP, _UTIME, _STIME = 2, 11, 12


class DidNotStart(Exception):
    """A server did not come up; the message says which, and how it explained itself."""


def cores() -> tuple[int, int]:
    """The core of the servers and that of the load. Raises DidNotStart where there is only one."""
    usable = sorted(os.sched_getaffinity(0))
    if len(usable) < 2:
        raise DidNotStart(f"cores: expected two, one for servers and one for the load, got {len(usable)}")
    return usable[0], usable[1]


def pin(core: int) -> None:
    """Keep this process, and those it starts, on one core."""
    os.sched_setaffinity(0, {core})


def allow_many_files() -> int:
    """Raise the soft limit of open files as far as may be; returns it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


class Server:
    """One running server: a process group, so that masters and workers are one."""

    def __init__(self, name: str, command: Sequence[str], log: Path, *, port: int, core: int) -> None:
        self.name = name
        self.port = port
        self.log = log

        def prepare() -> None:
            pin(core)
            allow_many_files()
            # SIGTERM, as a master that is killed would leave its workers.
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)

        with log.open("ab") as output:
            self._process = subprocess.Popen(  # noqa: S603 - our own commands
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=own_environ(),
                process_group=0,
                preexec_fn=prepare,  # noqa: PLW1509 - there are no threads here
            )

    def wait(self) -> None:
        """Wait until it accepts connections. Raises DidNotStart."""
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline and self._process.poll() is None:
            if is_listening(self.port):
                return
            time.sleep(0.01)
        said = self.log.read_text(errors="replace").strip()[-2000:]
        raise DidNotStart(f"{self.name} did not start: {said}")

    def pause(self) -> None:
        """Have it do nothing while others are measured."""
        os.killpg(self._process.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Have it go on."""
        os.killpg(self._process.pid, signal.SIGCONT)

    def cpu_s(self) -> float:
        """The processor time of all its processes up to now, in steps of a clock tick."""
        return sum(int(stat[_UTIME]) + int(stat[_STIME]) for stat in self._stats()) / _TICKS

    def rss_bytes(self) -> int:
        """The memory of its first process that is resident now."""
        pages = int(Path(f"/proc/{self._process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    def stop(self) -> None:
        """End it, gently at first."""
        with contextlib.suppress(ProcessLookupError):
            self.resume()
            os.killpg(self._process.pid, signal.SIGTERM)
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def _stats(self) -> Iterator[list[str]]:
        for path in Path("/proc").glob("[0-9]*/stat"):
            # It may end while it is read.
            with contextlib.suppress(OSError):
                fields = path.read_text().rpartition(")")[2].split()
                if int(fields[_GROUP]) == self._process.pid:
                    yield fields


@contextlib.contextmanager
def running(
    name: str,
    command: Sequence[str],
    folder: Path,
    *,
    port: int,
    core: int,
) -> Iterator[Server]:
    """A server that listens on `port` while the block runs. Raises DidNotStart."""
    log = folder / f"{name.replace(' ', '-')}.log"
    server = Server(name, command, log, port=port, core=core)
    try:
        server.wait()
        yield server
    finally:
        server.stop()


def own_environ() -> dict[str, str]:
    """This environment, without settings that are meant for a gateway of one's own."""
    return {name: value for name, value in os.environ.items() if not name.startswith("CHAT_GATEWAY_")}


@contextlib.contextmanager
def in_turn(server: Server, others: Sequence[Server]) -> Iterator[None]:
    """All but one of the servers stand still while the block runs."""
    standing = [other for other in others if other is not server]
    for other in standing:
        other.pause()
    try:
        yield
    finally:
        for other in standing:
            other.resume()


def is_listening(port: int) -> bool:
    """Whether somebody accepts connections there."""
    try:
        socket.create_connection((HOST, port), timeout=1).close()
    except OSError:
        return False
    return True
