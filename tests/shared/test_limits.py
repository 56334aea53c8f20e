"""Exact limits over several replicas, with Redis and without it."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.limits import DAY_S, Left, Limits, Rate, Standing
from gateway.core.policy import Client
from gateway.ports import Limiter
from gateway.shared.commands import RedisCommands
from gateway.shared.limits import Alone, SharedLimiter
from gateway.shared.names import Names
from gateway.shared.scripts import Reply, Script, Word
from gateway.stores.limits import MemoryLimiter
from tests.shared.model import Model
from tests.stores.limiter_contract import NOON, HandClocks, LimiterContract, admitted, client, remaining


def exact(limits: Limits, name: str = "partner") -> Client:
    return client(replace(limits, exact=True), name)


@dataclass(slots=True)
class Wire:
    """The way to Redis, which can be cut."""

    redis: Model
    is_cut: bool = False

    async def run(self, script: Script, keys: Sequence[str], args: Sequence[Word]) -> Reply | None:
        # Whoever else wants to goes first.
        await asyncio.sleep(0)
        return None if self.is_cut else await self.redis.run(script, keys, args)


def redis_at(clocks: HandClocks) -> Model:
    """Its clock is set by nobody."""
    return Model(lambda: NOON - 1000.0 + clocks.at)


def limiter_of(memory: MemoryLimiter, wire: Wire, alone: Alone) -> SharedLimiter:
    return SharedLimiter(memory, RedisCommands(wire, Names("p"), "r", lease_s=1.0), alone)


class Cluster:
    """Replicas on one Redis."""

    def __init__(self, replicas: int, alone: Alone = Alone.PER_REPLICA) -> None:
        self.clocks = HandClocks()
        self.redis = redis_at(self.clocks)
        self.wires = [Wire(self.redis) for _ in range(replicas)]
        self.memories = [MemoryLimiter(self.clocks.now, self.clocks.wall) for _ in range(replicas)]
        for memory in self.memories:
            memory.divide(replicas)
        self.limiters = [
            limiter_of(memory, wire, alone) for memory, wire in zip(self.memories, self.wires, strict=True)
        ]

    def cut(self, replicas: Sequence[int]) -> None:
        for number, wire in enumerate(self.wires):
            wire.is_cut = number in replicas


# -- the contract ------------------------------------------------------------------------------------------


class TestExactLimits(LimiterContract):
    def make(self, clocks: HandClocks) -> Limiter:
        memory = MemoryLimiter(clocks.now, clocks.wall)
        return limiter_of(memory, Wire(redis_at(clocks)), Alone.DENY)

    def client(self, limits: Limits, name: str = "partner") -> Client:
        return exact(limits, name)


class TestExactLimitsAlone(LimiterContract):
    """Cut off, a single replica keeps to the same limits."""

    def make(self, clocks: HandClocks) -> Limiter:
        memory = MemoryLimiter(clocks.now, clocks.wall)
        return limiter_of(memory, Wire(redis_at(clocks), is_cut=True), Alone.PER_REPLICA)

    def client(self, limits: Limits, name: str = "partner") -> Client:
        return exact(limits, name)


class TestLimitsThatAreNotExact(LimiterContract):
    def make(self, clocks: HandClocks) -> Limiter:
        memory = MemoryLimiter(clocks.now, clocks.wall)
        return limiter_of(memory, Wire(redis_at(clocks), is_cut=True), Alone.DENY)


# -- with Redis --------------------------------------------------------------------------------------------


OF_INFO = Limits(resources={"info": Limits(Rate(1, 1))}, exact=True)


@pytest.mark.parametrize(
    ("limits", "resource", "has_lane"),
    [
        pytest.param(Limits(Rate(1, 1)), "info", True, id="not exact"),
        pytest.param(Limits(Rate(1, 1), exact=True), "info", False, id="exact"),
        pytest.param(Limits(requests_per_day=1, exact=True), None, False, id="exact, a day"),
        pytest.param(Limits(None, None, Rate(1, 1), 1, exact=True), "info", True, id="nothing to ask"),
        pytest.param(OF_INFO, "info", False, id="of info"),
        pytest.param(OF_INFO, "events", True, id="not of info"),
    ],
)
def test_who_has_to_be_counted_elsewhere_has_no_lane(
    limits: Limits, resource: str | None, has_lane: bool
) -> None:
    cluster, who = Cluster(1), client(limits)
    lane = cluster.limiters[0].lane(who, resource)
    assert lane is (cluster.memories[0].lane(who, resource) if has_lane else None)


_schedule = st.lists(
    # Milliseconds before, which replica is asked, how many requests.
    st.tuples(st.sampled_from([0, 0, 1, 40]) | st.integers(0, 3000), st.integers(0, 3), st.integers(0, 9)),
    max_size=40,
)


@given(_schedule, st.integers(1, 9))
def test_all_replicas_together_let_in_no_more_than_rate_and_burst(
    steps: list[tuple[int, int, int]], burst: int
) -> None:
    async def story() -> None:
        cluster, who = Cluster(4), exact(Limits(Rate(20, burst)))
        at, times = 0, []
        for pause_ms, replica, many in steps:
            at += pause_ms
            cluster.clocks.at = 1000.0 + at / 1000
            times += [at] * await admitted(cluster.limiters[replica], who, None, many)
        for (first, start), (last, end) in itertools.combinations(enumerate(times), 2):
            assert last - first + 1 <= Fraction(20, 1000) * (end - start) + burst

    asyncio.run(story())


def test_a_request_that_is_one_too_many_here_is_charged_to_nobody_there() -> None:
    async def story() -> None:
        cluster, who = Cluster(2), exact(Limits(Rate(1, 4), 9, None, 2))
        assert await admitted(cluster.limiters[0], who, None, 3) == 1
        standing = await cluster.limiters[0].enter(who, None)
        assert standing.violated == ("in-flight",)
        assert remaining(standing) == {"requests": 3, "requests-per-day": 8, "in-flight": 0}
        assert remaining(await cluster.limiters[1].enter(who, None)) == {
            "requests": 2,
            "requests-per-day": 7,
            "in-flight": 0,
        }

    asyncio.run(story())


def test_a_request_that_is_one_too_many_there_is_not_in_progress_here() -> None:
    async def story() -> None:
        cluster, who = Cluster(1), exact(Limits(Rate(1, 1), in_flight=2))
        await cluster.limiters[0].enter(who, None)
        standing = await cluster.limiters[0].enter(who, None)
        assert standing.violated == ("requests",)
        assert remaining(standing) == {"requests": 0, "in-flight": 1}
        cluster.limiters[0].leave(who, None)
        # Nobody is in any more.
        with pytest.raises(RuntimeError, match="in-flight"):
            cluster.limiters[0].leave(who, None)

    asyncio.run(story())


@pytest.mark.parametrize("is_cut", [False, True], ids=["there", "alone"])
@pytest.mark.parametrize("steps", range(4))
def test_who_is_gone_before_he_was_counted_is_not_in_progress(steps: int, is_cut: bool) -> None:
    async def story() -> None:
        cluster, who = Cluster(1), exact(Limits(Rate(1, 9), in_flight=1))
        cluster.cut([0] if is_cut else [])
        entering = asyncio.ensure_future(cluster.limiters[0].enter(who, None))
        for _ in range(steps):
            await asyncio.sleep(0)
        if entering.cancel():
            await asyncio.wait([entering])
        else:
            cluster.limiters[0].leave(who, None)
        assert await admitted(cluster.limiters[0], who, None, 2) == 1

    asyncio.run(story())


def test_requests_that_enter_at_once_are_in_progress_together() -> None:
    async def story() -> None:
        cluster, who = Cluster(1), exact(Limits(Rate(1, 9), in_flight=3))
        assert await admitted(cluster.limiters[0], who, None, 9) == 3

    asyncio.run(story())


# -- without it --------------------------------------------------------------------------------------------

SHARE_OF_TWO = Limits(Rate(4, 10), 6, None, 2)


@pytest.mark.parametrize(
    ("alone", "expected"),
    [
        (
            Alone.PER_REPLICA,
            Standing(
                (
                    Left("requests", 5, 4, 3, 1),
                    Left("requests-per-day", 6, 5, DAY_S, DAY_S // 2),
                    Left("in-flight", 1, 0),
                )
            ),
        ),
        (Alone.ALLOW, Standing((Left("in-flight", 1, 0),))),
        (Alone.DENY, Standing((), ("requests", "requests-per-day"), 1.0)),
    ],
)
def test_what_is_done_alone_is_a_setting(alone: Alone, expected: Standing) -> None:
    async def story() -> None:
        cluster, who = Cluster(2, alone), exact(SHARE_OF_TWO)
        cluster.cut([0])
        limiter = cluster.limiters[0]
        assert await limiter.peek(who, None) == expected
        assert await limiter.enter(who, None) == expected
        if not expected.violated:
            limiter.leave(who, None)
        # Nobody is in progress, and the other replica has Redis.
        assert remaining(await cluster.limiters[1].enter(who, None)) == {
            "requests": 9,
            "requests-per-day": 5,
            "in-flight": 0,
        }
        cluster.cut([])
        assert not (await limiter.enter(who, None)).violated

    asyncio.run(story())


def test_who_is_alone_goes_on_with_the_day_from_what_redis_said_last() -> None:
    async def story() -> None:
        cluster, who = Cluster(2), exact(Limits(requests_per_day=10))
        here, other = cluster.limiters
        assert await admitted(other, who, None, 6) == 6
        assert await admitted(here, who, None, 1) == 1
        cluster.cut([0])
        assert await admitted(here, who, None, 9) == 3
        assert await admitted(other, who, None, 9) == 3
        # What was let in alone is not charged there.
        cluster.cut([])
        assert remaining(await here.peek(who, None)) == {"requests-per-day": 0}
        cluster.clocks.sleep(DAY_S / 2)
        assert await admitted(here, who, None, 99) == 10

    asyncio.run(story())


RATE, BURST, REPLICAS = 10, 6, 4

#: How many bursts an outage adds, by whether Redis comes back empty. Without a count there is no bound.
MORE_BURSTS = {
    (Alone.PER_REPLICA, False): 2,
    (Alone.PER_REPLICA, True): 2,
    (Alone.DENY, False): 0,
    (Alone.DENY, True): 1,
}


@pytest.mark.parametrize(("alone", "is_emptied"), MORE_BURSTS)
@given(_schedule, _schedule, _schedule)
def test_one_outage_lets_in_no_more_than_is_promised(
    alone: Alone,
    is_emptied: bool,
    before: list[tuple[int, int, int]],
    meanwhile: list[tuple[int, int, int]],
    after: list[tuple[int, int, int]],
) -> None:
    async def story() -> None:
        cluster, who = Cluster(REPLICAS, alone), exact(Limits(Rate(RATE, BURST)))
        at, total = 0, 0

        async def lived(steps: list[tuple[int, int, int]]) -> None:
            nonlocal at, total
            for pause_ms, replica, many in steps:
                at += pause_ms
                cluster.clocks.at = 1000.0 + at / 1000
                total += await admitted(cluster.limiters[replica], who, None, many)

        await lived(before)
        cluster.cut(range(REPLICAS))
        await lived(meanwhile)
        cluster.cut([])
        if is_emptied:
            cluster.redis.empty()
        await lived(after)
        rounding = REPLICAS - 1 if alone is Alone.PER_REPLICA else 0
        assert total <= Fraction(RATE * at, 1000) + BURST * (1 + MORE_BURSTS[alone, is_emptied]) + rounding

    asyncio.run(story())


def test_the_bound_of_an_outage_can_be_reached() -> None:
    async def story() -> None:
        cluster, who = Cluster(REPLICAS), exact(Limits(Rate(RATE, 8)))
        total = await admitted(cluster.limiters[0], who, None, 99)
        cluster.cut(range(REPLICAS))
        for limiter in cluster.limiters:
            total += await admitted(limiter, who, None, 99)
        cluster.clocks.sleep(1.0)
        for limiter in cluster.limiters:
            total += await admitted(limiter, who, None, 99)
        cluster.cut([])
        total += await admitted(cluster.limiters[0], who, None, 99)
        # Three bursts, and what each share of a burst had room for of what came back meanwhile.
        assert total == 3 * 8 + 8 * 1

    asyncio.run(story())
