"""The link to Redis: scripts that are run there, and messages that come from there.

Each command has a deadline: whoever asks hears within it that nobody answered. After three failures in a
row, or one that the server itself calls its own, the breaker opens: nothing is sent but a probe now and then,
until one succeeds.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from structlog.typing import FilteringBoundLogger

from gateway.shared.connections import (
    FAILURES,
    LATE,
    MOVED,
    NO_SCRIPT,
    READ_ONLY,
    Connector,
    Failed,
    Kind,
    Place,
    packed,
)
from gateway.shared.pipe import Command, Outcome, Pipe
from gateway.shared.scripts import Reply, Script
from gateway.shared.subscription import Subscription

#: So many failures in a row open the breaker.
TRIP = 3
#: Between probes, a tenth more or less.
PROBE_S = 0.25
#: A deadline that is noticed later than this was held up in here: what has come meanwhile is read first.
LAG_S = 0.005
#: To put a command, to send it and to read its reply are three passes of the loop; in a rush each is slow.
EXCUSES = 8
#: How often Sentinels are asked where the master is. After a failover that an operator asked for, the old one
#: takes writes for ten seconds more.
WATCH_S = 1.0
_NOBODY = Failed(Kind.REFUSED, "nobody")

Word = bytes | str | int


@dataclass(frozen=True, slots=True)
class Health:
    """How it stands with Redis, since when, and how often what has failed. `last_error` is a fixed word."""

    up: bool
    subscribed: bool
    since: float
    commands: int
    failures: Mapping[str, int]
    last_error: str | None
    opened: int


class Link:
    """Runs scripts, and hears what is published on `channels`.

    `now` is monotonic seconds, `jitter` gives numbers from 0 to 1. `heard` is called for each message, in
    order, `changed` when `up` (the breaker is closed) or `subscribed` has changed. While the breaker is open
    `probe` is called now and then, and nothing is sent but what it runs itself, in no task of its own. It
    should be a write, as a server that takes none is of no use, and must not raise.
    """

    def __init__(
        self,
        place: Place,
        *,
        deadline_s: float,
        now: Callable[[], float],
        jitter: Callable[[], float],
        channels: tuple[str, ...],
        heard: Callable[[bytes], None],
        changed: Callable[[], None],
        log: FilteringBoundLogger,
    ) -> None:
        self.probe: Callable[[], Awaitable[object]] = self._ping
        self.up = True
        self.subscribed = False
        self._place = place
        self._connector = Connector(place)
        self._deadline_s = deadline_s
        self._now = now
        self._jitter = jitter
        self._changed = changed
        self._log = log
        self._subscription = Subscription(
            self._connector.connect, channels, heard, self._subscription_changed, jitter
        )
        self._pipe: Pipe | None = None
        self._tasks: set[asyncio.Task[Any]] = set()
        self._mending: asyncio.Task[Any] | None = None
        self._is_closed = False
        # Who never answered is given up on at once.
        self._row = TRIP - 1
        self._since = now()
        self._commands = 0
        self._failures: Counter[Kind] = Counter()
        self._last_error: str | None = None
        self._opened = 0

    async def begin(self) -> None:
        """Connect, and wait for it no longer than a deadline: what is not there may come later."""
        pipe = self._piped()
        self._start(self._subscription.run())
        if self._place.sentinel is not None:
            self._start(self._watch())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._deadline_s):
                await pipe.tried.wait()
                if pipe.address is not None:
                    await self._subscription.begun.wait()

    async def close(self) -> None:
        """Disconnect. Whatever still waits hears that nobody answered."""
        self._is_closed = True
        if self._pipe is not None:
            self._pipe.drop(_NOBODY)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def run(self, script: Script, keys: Sequence[str], args: Sequence[Word]) -> Reply | None:
        """What the script says; None where nobody answered in time, and it may have been run all the same."""
        until = self._now() + self._deadline_s
        words = (len(keys), *keys, *args)
        reply = await self._ask(("EVALSHA", script.sha, *words), until)
        if reply is NO_SCRIPT:
            reply = await self._ask(("EVAL", script.text, *words), until)
        return None if isinstance(reply, Failed) else reply

    def health(self) -> Health:
        failures = {kind.value: self._failures[kind] for kind in Kind}
        return Health(
            self.up, self.subscribed, self._since, self._commands, failures, self._last_error, self._opened
        )

    async def _ping(self) -> None:
        await self._ask(("PING",), self._now() + self._deadline_s)

    async def _ask(self, words: Sequence[Word], until: float) -> Outcome:
        if self._is_closed or not (self.up or asyncio.current_task() is self._mending):
            return _NOBODY
        loop = asyncio.get_running_loop()
        command = Command(packed(words), loop.create_future(), until)
        pipe = self._piped()
        command.timer = loop.call_later(until - self._now(), self._due, pipe, command)
        pipe.put(command)
        self._commands += 1
        return await command.answer

    def _piped(self) -> Pipe:
        if self._pipe is None:
            self._pipe = Pipe(self._connector.connect, self._answered, self._ended)
            self._keep(self._pipe.task)
        return self._pipe

    # -- how commands end ----------------------------------------------------------------------------------

    def _answered(self, command: Command, outcome: Outcome) -> None:
        if command.settle(outcome):
            if isinstance(outcome, Failed):
                self._failed(outcome)
            else:
                self._succeeded()

    def _due(self, pipe: Pipe, command: Command) -> None:
        loop = asyncio.get_running_loop()
        now = self._now()
        if now - command.until > LAG_S and command.excuses < EXCUSES:
            command.excuses += 1
            command.until = now + LAG_S
            command.timer = loop.call_later(LAG_S, self._due, pipe, command)
            return
        # A reply that still comes is read. If none does, the connection is dead, or the replies of all that
        # comes after it are late, too.
        command.timer = loop.call_later(self._deadline_s, self._overdue, pipe, command)
        if command.settle(LATE):
            self._failed(LATE)

    def _overdue(self, pipe: Pipe, command: Command) -> None:
        if command.is_sent:
            pipe.drop(LATE)

    def _ended(self, pipe: Pipe, why: Failed) -> None:
        if self._pipe is pipe:
            self._pipe = None
        self._give_up(pipe, why)
        for command in pipe.commands():
            command.over()
        if not self._is_closed:
            self._strike(why)

    def _give_up(self, pipe: Pipe, why: Failed) -> None:
        """Whoever waits hears it now."""
        for command in pipe.commands():
            if command.settle(why):
                self._count(why)

    # -- the breaker ---------------------------------------------------------------------------------------

    def _succeeded(self) -> None:
        self._row = 0
        if not self.up:
            self.up = True
            self._since = self._now()
            self._log.info("redis back", where=str(self._place))
            self._changed()

    def _failed(self, why: Failed) -> None:
        if why is NO_SCRIPT:
            return  # it is sent whole now
        self._count(why)
        self._strike(why)
        if why is READ_ONLY:
            self._move()

    def _count(self, why: Failed) -> None:
        self._failures[why.kind] += 1

    def _strike(self, why: Failed) -> None:
        self._last_error = why.word
        if why.kind is Kind.ERROR:
            return
        self._row = TRIP if why.kind is Kind.SICK else self._row + 1
        if self._row >= TRIP and self.up:
            self._open(why)

    def _open(self, why: Failed) -> None:
        self.up = False
        self._since = self._now()
        self._opened += 1
        if self._pipe is not None:
            self._give_up(self._pipe, why)
        self._log.warning("redis lost", where=str(self._place), error=why.word)
        if self._mending is None or self._mending.done():
            self._mending = self._start(self._mend())
        self._changed()

    async def _mend(self) -> None:
        while not self.up:
            await asyncio.sleep(PROBE_S * (0.9 + 0.2 * self._jitter()))
            await self.probe()

    # -- where Redis is ------------------------------------------------------------------------------------

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(WATCH_S)
            with contextlib.suppress(*FAILURES):
                master = await self._connector.master()
                addresses = {self._subscription.address, None if self._pipe is None else self._pipe.address}
                if addresses - {master, None}:
                    self._move()

    def _move(self) -> None:
        """The master is somewhere else: connect anew."""
        if self._pipe is not None:
            self._pipe.drop(MOVED)
        self._subscription.move()

    def _subscription_changed(self, why: Failed | None) -> None:
        if self.subscribed == (why is None):
            return
        self.subscribed = why is None
        if why is not None:
            self._log.warning("redis messages lost", where=str(self._place), error=why.word)
        else:
            self._log.info("redis messages heard", where=str(self._place))
        self._changed()

    # -- tasks ---------------------------------------------------------------------------------------------

    def _start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[Any]:
        return self._keep(asyncio.create_task(work))

    def _keep(self, task: asyncio.Task[Any]) -> asyncio.Task[Any]:
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task
