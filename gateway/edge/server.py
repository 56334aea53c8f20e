"""Two listeners in one process: the clients' and the private one."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Generator
from dataclasses import dataclass

import uvicorn
from starlette.types import ASGIApp

from gateway.edge.protocol import Protocol

#: Longer than the idle time of most load balancers, so that they close first and never write to a dead peer.
KEEP_ALIVE_S = 75
BACKLOG = 2048


class CannotListen(Exception):
    """An address cannot be listened on; the message says which and why."""


class _Listener(uvicorn.Server):
    """A uvicorn server that leaves signals to the process."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield


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


def _listener(app: ASGIApp, drain_s: float) -> _Listener:
    config = uvicorn.Config(
        app,
        http=Protocol,
        ws="none",
        lifespan="off",
        access_log=False,
        log_config=None,
        date_header=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=max(1, round(drain_s)),
        backlog=BACKLOG,
    )
    return _Listener(config)


@contextlib.asynccontextmanager
async def listening(
    public: tuple[ASGIApp, socket.socket],
    private: tuple[ASGIApp, socket.socket],
    drain_s: float,
    drained: Callable[[], Awaitable[None]],
) -> AsyncIterator[Running]:
    """Both listeners, open while the block runs.

    On the way out the clients' listener closes first and finishes what it has, then `drained` is awaited;
    the private one answers probes until the end.
    """
    pairs = [(_listener(app, drain_s), bound) for app, bound in (public, private)]
    tasks = [asyncio.create_task(listener.serve([bound])) for listener, bound in pairs]
    try:
        # uvicorn tells of its start by an attribute only.
        while not all(  # noqa: ASYNC110
            listener.started or task.done() for (listener, _), task in zip(pairs, tasks, strict=True)
        ):
            await asyncio.sleep(0.005)
        yield Running(public[1].getsockname()[:2], private[1].getsockname()[:2])
    finally:
        for (listener, _), task in zip(pairs, tasks, strict=True):
            listener.should_exit = True
            await task
            if task is tasks[0]:
                await drained()


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
