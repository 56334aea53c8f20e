"""Tallies: what replicas count is summed, once, whatever gets lost on the way."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.limits import DAY_S, Limits
from gateway.observe.usage import Usage
from gateway.shared.commands import RedisCommands
from gateway.shared.names import Names
from gateway.shared.scripts import Reply, Script, Word
from gateway.shared.tallies import DAYS, Tallies
from gateway.stores.limits import MemoryLimiter
from tests.shared.model import Model
from tests.stores.limiter_contract import NOON, HandClocks, admitted, client

#: What becomes of a batch: it is answered, or lost, or its answer is.
Fate = Literal["answered", "lost", "unanswered"]


@dataclass(slots=True)
class Wire:
    """The way to Redis. Each batch is for the day at the end of its key."""

    redis: Model
    fate: Fate = "answered"
    asked: list[int] = field(default_factory=list)

    async def run(self, script: Script, keys: Sequence[str], args: Sequence[Word]) -> Reply | None:
        self.asked.append(int(keys[0].rpartition(":")[2]))
        if self.fate == "lost":
            return None
        reply = await self.redis.run(script, keys, args)
        return reply if self.fate == "answered" else None


class Replica:
    """Counts usage and daily quotas, and forgets both when it is started anew."""

    _processes = count()

    def __init__(self, redis: Model, clocks: HandClocks) -> None:
        self.clocks = clocks
        self.wire = Wire(redis)
        commands = RedisCommands(self.wire, Names("p"), f"r{next(self._processes)}", lease_s=1.0)
        self.usage = Usage(clocks.wall)
        self.limiter = MemoryLimiter(clocks.now, clocks.wall)
        self.tallies = Tallies(commands, {"usage": self.usage, "limits": self.limiter}, clocks.wall)

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
TODAY = NOON // DAY_S
FIRST, SECOND = "2026-11-03", "2026-11-04"


def two() -> tuple[Model, Replica, Replica]:
    clocks = HandClocks()
    redis = Model(clocks.wall)
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
    assert here.limiter.counted(TODAY) == {"bff/requests-per-day": 4}
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
    # One that ends now has told everything.
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
    redis.empty()
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
    redis.empty()
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
    clocks = HandClocks()
    redis = Model(clocks.wall)
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
                redis.empty()
            case "answered" | "lost" | "unanswered":
                one.sync(act)
        assert all(sum(each.requests().values()) <= served.total() for each in replicas)
    for each in replicas * (DAYS + 1):
        each.sync()
    # Of what those had counted who were started anew, a Redis that is emptied may know nothing.
    if "flush" not in (act for _, act, _ in acts):
        for each in replicas:
            assert list(each.requests().values()) == [many for _, many in sorted(served.items())]
