"""Two listeners in one process: the clients' and the private one."""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Generator
from dataclasses import dataclass
from typing import Any, cast

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from gateway.edge.operators import operators
from gateway.edge.protocol import LINGER_S, Bounds, ShortCut, speaking
from gateway.edge.web import Web

BACKLOG = 2048
DEFAULT_BOUNDS = Bounds()
#: How much longer than the flights a connection may take to end: to be heard out, and some more.
GRACE_S = math.ceil(LINGER_S) + 1
#: How often is looked whether the last connection has ended.
PAUSE_S = 0.01
#: Whoever calls the private listener while it ends.
PRIVATE_GRACE_S = 1


class CannotListen(Exception):
    """An address cannot be listened on; the message says which and why."""


class _Listener(uvicorn.Server):
    """A uvicorn server that leaves signals to the process, and sleeps until it is told to end.

    It takes a TLS context as it is: certificates that are loaded into it later are shown from then on.
    """

    def __init__(self, config: uvicorn.Config, bounds: Bounds, tls: ssl.SSLContext | None) -> None:
        super().__init__(config)
        self._told = asyncio.Event()
        # How long the two ends may take to agree, at the beginning and at the end; asyncio says 60 and 30 s.
        self._tls: dict[str, Any] = {}
        if tls is not None:
            self._tls = {
                "ssl": tls,
                "ssl_handshake_timeout": bounds.head_s,
                "ssl_shutdown_timeout": bounds.send_s,
            }

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen; uvicorn's own knows certificates by their files only, and has no lifespan to begin here."""
        loop = asyncio.get_running_loop()

        def connection() -> asyncio.Protocol:
            made: type[HttpToolsProtocol] = self.config.http_protocol_class  # type: ignore[assignment]
            return made(self.config, self.server_state, {}, loop)

        self.servers = []
        for one in sockets or ():
            try:
                server = await loop.create_server(
                    connection, sock=one, backlog=self.config.backlog, **self._tls
                )
            except OSError as error:
                # Who has bound in the same moment is only found out now.
                host, port = one.getsockname()[:2]
                raise _cannot_listen(host, port, error) from error
            self.servers.append(server)
        self.started = True

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield

    async def main_loop(self) -> None:
        """What it does every tenth of a second, write a Date and count requests, is done elsewhere."""
        await self._told.wait()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """As ever, but over as soon as the last connection is."""
        for listening_on in (*self.servers, *(sockets or ())):
            listening_on.close()
        state = self.server_state
        try:
            async with asyncio.timeout(self.config.timeout_graceful_shutdown):
                # Who was accepted just now, or is in a handshake yet, comes to be among them.
                await self._close_all(0.1 if self._tls else PAUSE_S)
                while state.connections or state.tasks:
                    await self._close_all(PAUSE_S)
        except TimeoutError:
            # Whoever waits for a body that never comes is told so.
            for task in state.tasks:
                task.cancel()

    async def _close_all(self, then_s: float) -> None:
        for connection in list(self.server_state.connections):
            connection.shutdown()
        await asyncio.sleep(then_s)

    def end(self) -> None:
        """Take no more connections, and end when those that are open have."""
        self.should_exit = True
        self._told.set()


@dataclass(frozen=True, slots=True)
class Running:
    """Where the two listeners are, once they are. `connections` tells how many the clients have open.

    `retire` has the clients' one send its clients elsewhere, a reply each, while it still takes who comes.
    """

    public: tuple[str, int]
    private: tuple[str, int]
    retire: Callable[[], None]
    connections: Callable[[], int]


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
        raise _cannot_listen(host, port, error) from error
    bound.setblocking(False)
    return bound


def _cannot_listen(host: str, port: int, error: OSError) -> CannotListen:
    why = os.strerror(error.errno) if error.errno else error
    return CannotListen(f"cannot listen on {host}:{port}: {why}")


def _listener(
    app: ASGIApp,
    http: type[HttpToolsProtocol],
    grace_s: float,
    bounds: Bounds,
    tls: ssl.SSLContext | None = None,
) -> _Listener:
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
        timeout_keep_alive=bounds.idle_s,  # type: ignore[arg-type]  # it only waits so long
        # Requests end by themselves when the flights they wait for are ended; this is for what does not.
        timeout_graceful_shutdown=math.ceil(grace_s),
        backlog=BACKLOG,
    )
    return _Listener(config, bounds, tls)


@contextlib.asynccontextmanager
async def listening(
    public: tuple[Web, ShortCut | None, socket.socket],
    private: tuple[ASGIApp, socket.socket],
    drain_s: float,
    drain: Callable[[], Awaitable[None]],
    *,
    bounds: Bounds = DEFAULT_BOUNDS,
    tls: tuple[ssl.SSLContext | None, ssl.SSLContext | None] = (None, None),
) -> AsyncIterator[Running]:
    """Both listeners, open while the block runs.

    On the way out the clients' listener takes no more, `drain` ends what its requests wait for, and they are
    answered. The private one answers probes until the end. `tls` is for the clients' and the private one.
    """
    web, short_cut, public_socket = public
    app, private_socket = private
    protocol = speaking(web, short_cut, bounds, web.is_trusted)

    def retire() -> None:
        # Hits say nothing of a close: all take the road from now on.
        protocol.short_cut, protocol.is_leaving = None, True

    # The protocol asks the site itself; there is no application between them.
    clients = _listener(cast(ASGIApp, web), protocol, drain_s + GRACE_S, bounds, tls[0])
    watchers = _listener(app, operators(), PRIVATE_GRACE_S, bounds, tls[1])
    serving = asyncio.create_task(clients.serve([public_socket]))
    watching = asyncio.create_task(watchers.serve([private_socket]))
    try:
        await _started(clients, serving)
        await _started(watchers, watching)
        addresses = (public_socket.getsockname()[:2], private_socket.getsockname()[:2])
        yield Running(*addresses, retire, lambda: protocol.connections_open.count)
    finally:
        try:
            clients.end()
            await drain()
            await serving
        finally:
            watchers.end()
            await watching


async def _started(listener: _Listener, serving: asyncio.Task[None]) -> None:
    # uvicorn tells of its start by an attribute only.
    while not (listener.started or serving.done()):  # noqa: ASYNC110
        await asyncio.sleep(0.005)
    if serving.done():
        serving.result()
