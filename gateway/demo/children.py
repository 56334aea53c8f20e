"""Processes of their own, which never outlive this one: emulator, gateways, Redis."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import random
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

START_S = 15.0
STOP_S = 4.0
#: What runs our own commands.
OURS = (sys.executable, "-m", "gateway")
_PR_SET_PDEATHSIG = 1
#: Below what Linux gives to connections that go out.
_PORTS = range(20_000, 32_000)


class DidNotStart(Exception):
    """Something did not come up; the message says what, and how it explained itself."""


def free_ports(count: int) -> list[int]:
    """Ports of the loopback address that nobody uses now, nor gets meanwhile who asks for any port."""
    found: list[int] = []
    with contextlib.ExitStack() as stack:
        for port in random.sample(_PORTS, len(_PORTS)):
            if len(found) == count:
                break
            with contextlib.suppress(OSError):
                stack.enter_context(socket.create_server(("127.0.0.1", port)))
                found.append(port)
    return found


class Child:
    """One running command."""

    def __init__(self, command: Sequence[str], log: Path, program: Sequence[str] = OURS) -> None:
        self.name = command[0]
        self.log = log
        # A setting in the environment is meant for a gateway of one's own.
        environ = {name: value for name, value in os.environ.items() if not name.startswith("CHAT_GATEWAY_")}
        with log.open("wb") as output:
            self._process = subprocess.Popen(  # noqa: S603 - our own arguments
                [*program, *command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environ,
                # Ctrl-C reaches the whole foreground group; these are told when it is their turn.
                process_group=0,
                preexec_fn=_die_with_parent,  # noqa: PLW1509 - there are no threads here
            )

    async def listening(self, port: int) -> None:
        """Wait until it accepts connections. Raises DidNotStart."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + START_S
        while loop.time() < deadline and self._process.poll() is None:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.02)
            else:
                writer.close()
                return
        raise DidNotStart(f"{self.name} did not start: {self.log.read_text(errors='replace').strip()}")

    def stop(self) -> None:
        """End it, gently at first."""
        self._process.terminate()
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """End it at once, in the middle of whatever it does."""
        self._process.kill()
        self._process.wait()


@contextlib.contextmanager
def child(command: Sequence[str], log: Path, program: Sequence[str] = OURS) -> Iterator[Child]:
    """`chat-gateway` with these arguments, while the block runs; what it prints goes to `log`."""
    started = Child(command, log, program)
    try:
        yield started
    finally:
        started.stop()


def _die_with_parent() -> None:
    """Ask Linux to kill this process when its parent is gone, however that came about; see prctl(2)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
