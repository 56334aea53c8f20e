"""What one process does for all watchers of one target: it polls while there are any, and tells them.

A poll is a read on behalf of one of them, past judging and charging a request; so the cache, flights, the
budget and pauses hold for it as for any other. It is made when the newest answer is no longer fresh, after
a write, or after a failure.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from gateway.core.errors import Reason, Refusal
from gateway.core.freshness import Entry, Failed
from gateway.core.judgement import Granted
from gateway.core.replies import Delivered, Result
from gateway.ports import Polls
from gateway.push.heard import Heard, asking_from, first_of
from gateway.push.streams import House, Watcher

#: After a write it polls at once, but no more often than this, in seconds.
MIN_GAP_S = 0.25
#: What may not be kept is asked for every so many seconds; so is an upstream that fails.
UNKEPT_S = 1.0
RETRY_S = 1.0
#: Nobody is told of an end of trouble later than this after it, in seconds: steps of pauses are no longer.
MAX_RETRY_S = 5.0


class Watch:
    """One target's; `spread` tells that its watchers wait for events from different numbers on."""

    def __init__(self, polls: Polls, house: House, first: Heard, *, spread: bool) -> None:
        self.newest = first
        self.trouble: Failed | Refusal | None = None
        self.watchers: dict[Watcher, None] = {}
        self._polls = polls
        self._house = house
        self._spread = spread
        self._stir = asyncio.Event()
        #: What is known is of before a write, or not known to be of after the last one.
        self._is_old = True
        self._writes = 0
        self._polled_at = float("-inf")
        self._retry_at = 0.0
        self._task: asyncio.Task[None] | None = None

    def join(self, watcher: Watcher) -> None:
        """One more; with the first one the polling begins."""
        self.watchers[watcher] = None
        if self._task is None:
            # Whose request happened to come first has no part in it.
            self._task = asyncio.create_task(self._run(), context=contextvars.Context())

    def leave(self, watcher: Watcher) -> bool:
        """One less; True if that was the last one. Then nothing is done any more."""
        self.watchers.pop(watcher, None)
        if self.watchers:
            return False
        if self._task is not None:
            self._task.cancel()
        return True

    def take(self, heard: Heard) -> None:
        """Tell it to all, unless they know better; what came is no older than the last write."""
        if heard.is_good and self._spread and first_of(heard.target) > self._first():
            return  # Of what somebody waits for, something may be missing.
        if heard.entry is self.newest.entry:
            heard = self.newest
        elif heard.entry.sent_at < self.newest.entry.sent_at:
            return
        is_known = heard is self.newest and self.trouble is None
        self.newest, self.trouble, self._is_old = heard, None, False
        if not is_known:
            self._each(lambda watcher: watcher.tell(heard))
        self._stir.set()

    def written(self) -> None:
        """What is known is old, and so is what is on its way."""
        self._writes += 1
        self._is_old = True
        self._stir.set()

    def answer(self, first: Entry) -> Entry:
        """The newest there is, for who has this; it may be old."""
        newest = self.newest.entry
        return newest if newest.sent_at >= first.sent_at else first

    def _each(self, tell: Callable[[Watcher], None]) -> None:
        for watcher in list(self.watchers):
            self._house.safely(partial(tell, watcher), watcher)

    def _first(self) -> int:
        """The number of the first event that anybody waits for."""
        return min((watcher.next for watcher in self.watchers), default=0)

    async def _run(self) -> None:
        while True:
            await self._until_due()
            self._polled_at = self._house.clock.now()
            writes = self._writes
            came = await self._poll()
            # A write that came meanwhile may not be in it: then it is asked for again. But who goes on
            # writing must not keep it from everybody for ever: it is newer than what they have.
            is_overtaken = writes != self._writes
            if not is_overtaken or self._polled_at - self.newest.entry.sent_at >= MAX_RETRY_S:
                self._landed(came)
                self._is_old = is_overtaken

    def _landed(self, came: Heard | Failed | Refusal) -> None:
        if not isinstance(came, Heard):
            self._fail(came)
        elif came.is_good or came.end is not None:
            self.take(came)
        else:
            # Our read is the caller's fault: there is nothing that anybody could do about it here.
            self._fail(Failed(Reason.UPSTREAM_ERROR))

    def _fail(self, trouble: Failed | Refusal) -> None:
        self.trouble = trouble
        pause_s = max(RETRY_S, trouble.retry_after_s or 0.0)
        self._retry_at = self._house.clock.now() + min(pause_s, MAX_RETRY_S)
        violated = trouble.violated if isinstance(trouble, Refusal) else ()
        self._each(lambda watcher: watcher.fail(trouble.reason, violated))

    async def _until_due(self) -> None:
        while (left_s := self._due_at() - self._house.clock.now()) > 0:
            self._stir.clear()
            try:
                # Timers of some loops are whole milliseconds: less would be none.
                async with asyncio.timeout(max(left_s, 0.001)):
                    await self._stir.wait()
            except TimeoutError:
                continue

    def _due_at(self) -> float:
        if self._is_old:
            return self._polled_at + MIN_GAP_S
        if self.trouble is not None:
            return self._retry_at
        entry = self.newest.entry
        gap_s = MIN_GAP_S if entry.fresh_until > entry.sent_at else UNKEPT_S
        return max(entry.fresh_until, self._polled_at + gap_s)

    async def _poll(self) -> Heard | Failed | Refusal:
        refused: Refusal | None = None
        tried: set[str] = set()
        for watcher in list(self.watchers):
            granted = watcher.granted
            is_out = watcher not in self.watchers or granted.client.name in tried
            if is_out or self._house.dead_of(granted) is not None:
                continue
            # Whoever was asked for goes to the end.
            self.watchers[watcher] = self.watchers.pop(watcher)
            tried.add(granted.client.name)
            target = asking_from(granted.target, self._first()) if self._spread else granted.target
            result = await self._asked(replace(granted, target=target))
            if isinstance(result, Delivered):
                return Heard(target, result.entry) if result.instead_of is None else Failed(result.instead_of)
            if isinstance(result, Failed):
                return result
            if isinstance(result, Refusal):
                # Its fetches are used up, perhaps not another's.
                refused = result
        return refused or Failed(Reason.UPSTREAM_BUSY)

    async def _asked(self, granted: Granted) -> Result:
        try:
            return await self._polls.poll(granted)
        except Exception as error:  # noqa: BLE001 - the outermost edge of a watch
            self._house.observer.crashed(error)
            return Failed(Reason.CRASHED)
