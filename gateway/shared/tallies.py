"""Counts that are summed over replicas and survive restarts: usage, and what was used of daily quotas.

Each replica counts for itself, in ledgers, and tells Redis every two seconds what has come on top since; the
reply says what all have told. What was sent without being answered is sent again under the same number, so it
counts once.

    ledger   day → what was counted here by name, and what others have counted as far as is known
    sync     its news → batch, numbered → totals, less what was sent from here → the ledger learns
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from gateway.core.limits import DAY_S
from gateway.shared.commands import Tallied

#: How often `sync` is to be called.
SYNC_S = 2.0

#: How many days are kept, today included.
DAYS = 31


class Ledger(Protocol):
    """Who counts here. Days are epoch days."""

    def counted(self, day: int) -> Mapping[str, int]:
        """What was counted here on that day, since this process began."""

    def learn(self, day: int, elsewhere: Mapping[str, int]) -> None:
        """So much was counted by others: other replicas, and this one in former lives."""


class Adds(Protocol):
    """Who sums: `Commands`. A batch whose number is known already is not added again; number 0 only looks."""

    async def tally(
        self, day: int, number: int, life_s: int, deltas: Mapping[str, int]
    ) -> Tallied | None: ...


@dataclass(frozen=True, slots=True)
class _Batch:
    number: int
    deltas: Mapping[str, int]


@dataclass(slots=True)
class _Day:
    """What Redis has of one day from here: as far as is known, and on its way."""

    sent: dict[str, int] = field(default_factory=dict)
    number: int = 0
    batch: _Batch | None = None


class Tallies:
    """The tallies of this replica. `wall` is epoch seconds; ledgers go by the word before their names."""

    def __init__(self, adds: Adds, ledgers: Mapping[str, Ledger], wall: Callable[[], float]) -> None:
        self._adds = adds
        self._ledgers = ledgers
        self._wall = wall
        self._days: dict[int, _Day] = {}
        self._numbers = 0
        #: How many days ago the one was that had its turn; None if it is all days' turn.
        self._turn: int | None = None

    async def sync(self) -> bool:
        """Tell what was counted, and learn what others have; False if nobody answered, which loses nothing.

        That goes for today and yesterday each time, and for older days in turn: at first, and after each
        failure, for all of them.
        """
        today = int(self._wall() // DAY_S)
        for day in self._due(today):
            if not await self._synced(day):
                self._turn = None
                return False
        self._turn = 1 if self._turn is None else self._turn % (DAYS - 1) + 1
        while len(self._days) > 2 * DAYS:
            # Not the oldest: a clock that runs ahead and is set back finds them where they were.
            del self._days[next(iter(self._days))]
        return True

    def _due(self, today: int) -> Iterator[int]:
        former = range(1, DAYS) if self._turn is None else sorted({1, self._turn})
        yield from (today - back for back in (0, *former))

    async def _synced(self, day: int) -> bool:
        it = self._days.get(day) or _Day()
        # 1 what is on its way, as it was; 2 what came on top since.
        if it.batch is not None and not await self._told(day, it, it.batch):
            return False
        return await self._told(day, it, self._batch(day, it))

    async def _told(self, day: int, it: _Day, batch: _Batch) -> bool:
        if batch.deltas:
            self._days[day] = it
            it.batch = batch
        tallied = await self._adds.tally(day, batch.number, DAYS * DAY_S, batch.deltas)
        if tallied is None:
            return False
        _answered(it, batch, tallied.known)
        for name, ledger in self._ledgers.items():
            ledger.learn(day, _elsewhere(f"{name}/", tallied.totals, it.sent))
        return True

    def _batch(self, day: int, it: _Day) -> _Batch:
        counted = {
            f"{name}/{key}": count
            for name, ledger in self._ledgers.items()
            for key, count in ledger.counted(day).items()
        }
        deltas = {
            name: count - it.sent.get(name, 0)
            for name, count in counted.items()
            if count > it.sent.get(name, 0)
        }
        if not deltas:
            return _Batch(0, {})
        self._numbers += 1
        return _Batch(self._numbers, deltas)


def _answered(it: _Day, batch: _Batch, known: int) -> None:
    if it.number and not known:
        # Redis was emptied: with the next batch everything is told again.
        it.sent, it.number = {}, 0
    if batch.deltas:
        for name, delta in batch.deltas.items():
            it.sent[name] = it.sent.get(name, 0) + delta
        it.number = batch.number
        it.batch = None


def _elsewhere(prefix: str, totals: Mapping[str, int], sent: Mapping[str, int]) -> dict[str, int]:
    return {
        name.removeprefix(prefix): total - sent.get(name, 0)
        for name, total in totals.items()
        if name.startswith(prefix)
    }
