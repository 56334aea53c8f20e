"""Two listeners in one process: the clients' and the private one."""

from __future__ import annotations

import asyncio
import contextlib
import math
import signal
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Generator
from dataclasses import dataclass
from typing import cast

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from gateway.edge.protocol import ShortCut, speaking
from gateway.edge.web import Web

#: Longer than the idle time of most load balancers, so that they close first and never write to a dead peer.
KEEP_ALIVE_S = 75
BACKLOG = 2048
#: How much longer than the flights a connection may take to end.
GRACE_S = 2


class CannotListen(Exception):
    """An address cannot be listened on; the message says which and why."""


class _Listener(uvicorn.Server):
    """A uvicorn server that leaves signals to the process, and sleeps until it is told to end."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._told = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield

    async def main_loop(self) -> None:
        """What it does every tenth of a second, write a Date and count requests, is done elsewhere."""
        await self._told.wait()

    def end(self) -> None:
        """Take no more connections, and end when those that are open have."""
        self.should_exit = True
        self._told.set()


@dataclass(frozen=True, slots=True)
class Running:
    """Where the two listeners are, once they are."""

    public: tuple[str, int]
    private: tuple[str, int]


def bind(host: str, port: int) -> socket.socket:
    """A bound socket; port 0 takes a free one."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio switches Nagle's algorithm off only where the protocol is named.
    bound = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((host, port))
    except OSError as error:
        bound.close()
        raise CannotListen(f"cannot listen on {host}:{port}: {error.strerror or error}") from error
    bound.setblocking(False)
    return bound


def _listener(app: ASGIApp, http: type[HttpToolsProtocol], drain_s: float) -> _Listener:
    config = uvicorn.Config(
        app,
        http=http,
        interface="asgi3",
        ws="none",
        lifespan="off",
        access_log=False,
        log_config=None,
        date_header=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        # Requests end by themselves when the flights they wait for are ended; this is for what does not.
        timeout_graceful_shutdown=math.ceil(drain_s) + GRACE_S,
        backlog=BACKLOG,
    )
    return _Listener(config)


@contextlib.asynccontextmanager
async def listening(
    public: tuple[Web, ShortCut | None, socket.socket],
    private: tuple[ASGIApp, socket.socket],
    drain_s: float,
    drain: Callable[[], Awaitable[None]],
) -> AsyncIterator[Running]:
    """Both listeners, open while the block runs.

    On the way out the clients' listener takes no more, `drain` ends what its requests wait for, and they are
    answered. The private one answers probes until the end.
    """
    web, short_cut, public_socket = public
    app, private_socket = private
    # The protocol asks the site itself; there is no application between them.
    clients = _listener(cast(ASGIApp, web), speaking(web, short_cut, web.max_body_bytes), drain_s)
    operators = _listener(app, HttpToolsProtocol, drain_s)
    serving = asyncio.create_task(clients.serve([public_socket]))
    watching = asyncio.create_task(operators.serve([private_socket]))
    try:
        await _started(clients, serving)
        await _started(operators, watching)
        yield Running(public_socket.getsockname()[:2], private_socket.getsockname()[:2])
    finally:
        clients.end()
        await drain()
        await serving
        operators.end()
        await watching


async def _started(listener: _Listener, serving: asyncio.Task[None]) -> None:
    # uvicorn tells of its start by an attribute only.
    while not (listener.started or serving.done()):  # noqa: ASYNC110
        await asyncio.sleep(0.005)


async def until_signalled() -> None:
    """Wait for SIGTERM or SIGINT; a second one ends the process at once."""
    loop = asyncio.get_running_loop()
    signalled = asyncio.Event()

    def on_signal(number: int) -> None:
        if signalled.is_set():
            loop.remove_signal_handler(number)
            signal.raise_signal(number)
        signalled.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal, number)
    await signalled.wait()
