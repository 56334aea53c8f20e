"""Coalescing: one fetch in progress, shared by all who wait for it. Keys and awaitables, nothing else.

A flight belongs to its key, never to a client: it runs as its own task, and whoever stops waiting leaves
alone. What a flight brings is a value, also when it failed; a flight that raises is a mistake of ours.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Hashable
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Flights(Generic[T]):
    """The flights of one event loop."""

    def __init__(self) -> None:
        self._by_key: dict[Hashable, asyncio.Task[T]] = {}
        #: Whether `drain` has come to its end: who has waited for a turn until now opens no flight any more.
        self.drained = False

    def __len__(self) -> int:
        return len(self._by_key)

    def join(
        self, key: Hashable, fetch: Callable[[], Coroutine[Any, Any, T]]
    ) -> tuple[asyncio.Task[T], bool]:
        """The flight of that key, and whether this call started it. There is no await between the two."""
        flight = self._by_key.get(key)
        if flight is not None:
            return flight, False
        flight = asyncio.create_task(fetch())
        self._by_key[key] = flight
        # The key is free in the same step of the loop in which the flight lands, before any waiter runs:
        # done callbacks are called in the order they were added.
        flight.add_done_callback(lambda _: self._by_key.pop(key))
        return flight, True

    async def drain(self, timeout_s: float) -> None:
        """Let what flies land; after the timeout end it."""
        now = asyncio.get_running_loop().time
        ends_at = now() + timeout_s
        # What lands may be what another request waited for before its own flight.
        while self._by_key and now() < ends_at:
            await asyncio.wait(set(self._by_key.values()), timeout=ends_at - now())
        self.drained = True
        late = set(self._by_key.values())
        for flight in late:
            flight.cancel()
        if late:
            await asyncio.wait(late)


async def landing(flight: asyncio.Task[T], timeout_s: float | None = None) -> T | None:
    """Wait for a flight without holding it: a cancelled or impatient waiter leaves it as it is.

    None after `timeout_s`, and for a flight that `drain` ended.
    """
    if not flight.done():
        loop = asyncio.get_running_loop()
        landed = loop.create_future()

        # As asyncio.wait does it for one, at a third of the cost: a thousand may wait for the same.
        def wake(_: object = None) -> None:
            if not landed.done():
                landed.set_result(None)

        flight.add_done_callback(wake)
        timer = None if timeout_s is None else loop.call_later(timeout_s, wake)
        try:
            await landed
        finally:
            if timer is not None:
                timer.cancel()
    return flight.result() if flight.done() and not flight.cancelled() else None
