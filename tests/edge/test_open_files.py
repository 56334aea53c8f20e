"""No file descriptor left: who is listening goes on, and takes clients again as soon as there is one."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys

import pytest

from tests.edge.road import GET

#: Says its port, lowers its limit to what it has and some more, and listens until its input ends.
LISTENER = """
import asyncio, os, resource, sys
import uvloop
from tests.edge.road import Road, on_sockets

async def main():
    async with on_sockets(Road()) as addresses:
        open_files = len(os.listdir("/proc/self/fd"))
        resource.setrlimit(resource.RLIMIT_NOFILE, (open_files + 5, open_files + 5))
        print(addresses.public[1], flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)

uvloop.run(main())
"""


def ask(connected: socket.socket) -> bytes:
    """What it is answered; nothing where the connection is gone."""
    with contextlib.suppress(OSError):
        connected.sendall(GET + b"\r\n")
        return connected.recv(1_000)
    return b""


def ask_anew(address: tuple[str, int]) -> bytes:
    with socket.create_connection(address, timeout=5) as connected:
        return ask(connected)


@pytest.mark.skipif(sys.platform != "linux", reason="counts descriptors in /proc")
def test_no_descriptor_is_left_and_then_some_are() -> None:
    command = [sys.executable, "-c", LISTENER]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe) as process:  # noqa: S603 - our own
        assert process.stdout is not None
        address = "127.0.0.1", int(process.stdout.readline())
        for _ in range(3):
            with contextlib.ExitStack() as stack:
                clients = [
                    stack.enter_context(socket.create_connection(address, timeout=5)) for _ in range(20)
                ]
                told = [ask(each)[:12] for each in clients]
                # Those that were let in are served; nobody else is left to wait.
                assert told[:3] == [b"HTTP/1.1 200"] * 3
                assert b"" in told
            # It takes a moment to notice that they are gone.
            assert any(ask_anew(address).startswith(b"HTTP/1.1 200 ") for _ in range(100))
        _, errors = process.communicate(timeout=10)
    assert (process.returncode, errors) == (0, b"")
