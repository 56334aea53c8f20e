"""A gateway with an emulator behind it, on a thread of its own, for clients that wait for their sockets."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from gateway.emulator import EmulatorConfig
from tests.support import APP_KEY, PATIENCE_S, World, world

T = TypeVar("T")

#: Chats that nobody keeps alive are there until the end.
LONG_LIVED = EmulatorConfig(app_key=APP_KEY, chat_timeout_s=3_600)


@dataclass(frozen=True, slots=True)
class Ground:
    """A world on another thread, where its gateway is, and a token for it."""

    it: World
    loop: asyncio.AbstractEventLoop
    end: asyncio.Event
    url: str
    token: str = field(repr=False)

    def do(self, act: Callable[[World], T]) -> T:
        """Have something done where the world is."""

        async def done(it: World) -> T:
            return act(it)

        return self.wait_for(done)

    def wait_for(self, act: Callable[[World], Coroutine[Any, Any, T]]) -> T:
        """Have something done that takes its time."""
        return asyncio.run_coroutine_threadsafe(act(self.it), self.loop).result(PATIENCE_S)

    def chat(self) -> str:
        """A chat that an agent has accepted."""
        return self.do(World.chat)


@contextlib.contextmanager
def ground(folder: Path, *, emulator: EmulatorConfig = LONG_LIVED, **settings: Any) -> Iterator[Ground]:
    """A running gateway; whatever its world has to complain of in the end is raised here."""
    ready: Future[Ground] = Future()
    ended: Future[None] = Future()

    async def run() -> None:
        async with world(folder, emulator=emulator, **settings) as it:
            host, port = it.addresses.public
            end = asyncio.Event()
            ready.set_result(
                Ground(it, asyncio.get_running_loop(), end, f"http://{host}:{port}", it.token("bff"))
            )
            await end.wait()

    def whole() -> None:
        try:
            asyncio.run(run())
        except BaseException as error:  # noqa: BLE001 - it is raised on the other thread
            (ended if ready.done() else ready).set_exception(error)
        else:
            ended.set_result(None)

    thread = threading.Thread(target=whole)
    thread.start()
    it = ready.result(PATIENCE_S)
    try:
        yield it
    finally:
        it.loop.call_soon_threadsafe(it.end.set)
        thread.join()
    ended.result()
