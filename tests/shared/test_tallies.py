"""Tallies: what replicas count is summed, once, whatever gets lost on the way."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import count
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.limits import DAY_S, Limits
from gateway.observe.usage import Usage
from gateway.shared.commands import Tallied
from gateway.shared.tallies import DAYS, Tallies
from gateway.stores.limits import MemoryLimiter
from tests.stores.limiter_contract import HandClocks, admitted, client

#: What becomes of a batch: it is answered, or lost, or its answer is.
Fate = Literal["answered", "lost", "unanswered"]


@dataclass(slots=True)
class Redis:
    """The command `tally`, for all replicas."""

    totals: defaultdict[int, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    numbers: dict[tuple[int, int], int] = field(default_factory=dict)

    def tally(self, replica: int, day: int, number: int, deltas: Mapping[str, int]) -> Tallied:
        known = self.numbers.get((day, replica), 0)
        if number > known:
            self.numbers[day, replica] = number
            self.totals[day].update(deltas)
        return Tallied(known, dict(self.totals[day]))

    def flush(self) -> None:
        self.totals.clear()
        self.numbers.clear()


@dataclass(slots=True)
class Wire:
    redis: Redis
    replica: int
    fate: Fate = "answered"
    asked: list[int] = field(default_factory=list)

    async def tally(self, day: int, number: int, life_s: int, deltas: Mapping[str, int]) -> Tallied | None:
        assert life_s == DAYS * DAY_S
        assert bool(number) == bool(deltas)
        self.asked.append(day)
        if self.fate == "lost":
            return None
        tallied = self.redis.tally(self.replica, day, number, deltas)
        return tallied if self.fate == "answered" else None


class Replica:
    """Counts usage and daily quotas, and forgets both when it is started anew."""

    _processes = count()

    def __init__(self, redis: Redis, clocks: HandClocks) -> None:
        self.clocks = clocks
        self.wire = Wire(redis, next(self._processes))
        self.usage = Usage(clocks.wall)
        self.limiter = MemoryLimiter(clocks.now, clocks.wall)
        self.tallies = Tallies(self.wire, {"usage": self.usage, "limits": self.limiter}, clocks.wall)

    def sync(self, fate: Fate = "answered") -> bool:
        self.wire.fate = fate
        return asyncio.run(self.tallies.sync())

    def serve(self, requests: int) -> int:
        """How many are within the day's quota."""
        self.usage.today("bff").requests += requests
        return asyncio.run(admitted(self.limiter, WHO, None, requests))

    def requests(self) -> dict[str, int]:
        return {str(row["day"]): int(row["requests"]) for row in self.usage.table() if row["requests"]}


WHO = client(Limits(requests_per_day=10), name="bff")
#: Of `HandClocks`.
FIRST, SECOND = "2026-11-03", "2026-11-04"


def two() -> tuple[Redis, Replica, Replica]:
    redis, clocks = Redis(), HandClocks()
    return redis, Replica(redis, clocks), Replica(redis, clocks)


def test_replicas_know_what_all_have_counted() -> None:
    _, here, there = two()
    here.serve(3)
    there.serve(2)
    assert [one.sync() for one in (here, there, here)] == [True] * 3
    assert here.requests() == there.requests() == {FIRST: 5}
    # One's own counts since are there at once.
    here.serve(1)
    assert (here.requests(), there.requests()) == ({FIRST: 6}, {FIRST: 5})
    # Of a day's quota of 10, six are used; the other knows of five.
    assert (there.serve(9), here.serve(9)) == (5, 4)


def test_one_that_is_started_anew_goes_on() -> None:
    redis, here, _ = two()
    here.serve(7)
    here.sync()
    here.clocks.sleep(DAY_S)
    here.serve(4)
    here.sync()
    again = Replica(redis, here.clocks)
    again.sync()
    assert again.requests() == {FIRST: 7, SECOND: 4}
    assert again.serve(9) == 6


@pytest.mark.parametrize("fate", ["lost", "unanswered"])
def test_what_was_not_answered_counts_once_with_what_came_since(fate: Fate) -> None:
    _, here, there = two()
    here.serve(2)
    assert not here.sync(fate)
    here.serve(3)
    assert not here.sync(fate)
    assert here.sync()
    assert here.sync()
    there.sync()
    assert there.requests() == here.requests() == {FIRST: 5}


def test_what_was_counted_before_midnight_is_of_the_day_before() -> None:
    _, here, there = two()
    here.sync()
    here.clocks.sleep(DAY_S / 2 - 1)
    here.serve(3)
    here.clocks.sleep(2)
    here.serve(1)
    here.sync()
    there.sync()
    assert there.requests() == {FIRST: 3, SECOND: 1}
    assert there.serve(99) == 9


def test_a_redis_that_was_emptied_is_told_again() -> None:
    redis, here, there = two()
    for one in (here, there):
        one.serve(3)
        one.sync()
    redis.flush()
    here.serve(1)
    for one in (here, there, here, there, here):
        one.sync()
    fresh = Replica(redis, here.clocks)
    fresh.sync()
    assert here.requests() == there.requests() == fresh.requests() == {FIRST: 7}
    assert fresh.serve(9) == 3


def test_a_redis_that_was_emptied_takes_back_nothing() -> None:
    redis, here, there = two()
    there.serve(8)
    there.sync()
    here.sync()
    redis.flush()
    here.sync()
    assert here.requests() == {FIRST: 8}
    assert here.serve(9) == 2


def test_former_days_are_asked_for_in_turn() -> None:
    _, here, _ = two()
    today = int(here.clocks.wall() // DAY_S)
    here.sync()
    assert here.wire.asked == [today - back for back in range(DAYS)]
    here.wire.asked.clear()
    for _ in range(DAYS - 1):
        here.sync()
    assert set(here.wire.asked) == {today - back for back in range(DAYS)}
    # Today and yesterday each time, and one more.
    assert len(here.wire.asked) == 3 * (DAYS - 1) - 1
    here.wire.asked.clear()
    # After a failure it is all days' turn again.
    here.sync("lost")
    here.sync()
    assert here.wire.asked == [today, *(today - back for back in range(DAYS))]


def test_a_clock_that_runs_ahead_and_is_set_back_counts_nothing_twice() -> None:
    _, here, there = two()
    here.serve(3)
    here.sync()
    here.clocks.wall_at += 400 * DAY_S
    here.sync()
    here.clocks.wall_at -= 400 * DAY_S
    here.sync()
    there.sync()
    assert there.requests() == {FIRST: 3}


_acts = st.lists(
    st.tuples(
        st.integers(0, 2),
        st.sampled_from(["serve", "serve", "answered", "lost", "unanswered", "restart", "midnight", "flush"]),
        st.integers(1, 4),
    ),
    max_size=30,
)


@settings(max_examples=50)
@given(_acts)
def test_whatever_gets_lost_nothing_is_counted_twice_or_not_at_all(acts: list[tuple[int, str, int]]) -> None:
    redis, clocks = Redis(), HandClocks()
    replicas = [Replica(redis, clocks) for _ in range(3)]
    served: Counter[int] = Counter()
    for number, act, many in acts:
        one = replicas[number]
        match act:
            case "serve":
                one.serve(many)
                served[int(clocks.wall() // DAY_S)] += many
            case "restart":
                # Who ends tells what there is to tell.
                one.sync()
                replicas[number] = Replica(redis, clocks)
            case "midnight":
                clocks.sleep(DAY_S)
            case "flush":
                redis.flush()
            case "answered" | "lost" | "unanswered":
                one.sync(act)
        assert all(sum(each.requests().values()) <= served.total() for each in replicas)
    for each in replicas * (DAYS + 1):
        each.sync()
    # Of what those had counted who were started anew, a Redis that is emptied may know nothing.
    if "flush" not in (act for _, act, _ in acts):
        for each in replicas:
            assert list(each.requests().values()) == [many for _, many in sorted(served.items())]
