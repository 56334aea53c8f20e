"""The limits of one process, alone and as one of several replicas: the contract, days, and lanes."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.limits import DAY_S, UNLIMITED, Left, Limits, Rate
from gateway.core.policy import Client
from gateway.ports import Limiter
from gateway.stores.limits import Lane, MemoryLimiter
from tests.stores.limiter_contract import (
    NOON,
    HandClocks,
    LimiterContract,
    admitted,
    client,
    limits_with_info,
    remaining,
)


class TestMemoryLimiter(LimiterContract):
    def make(self, clocks: HandClocks) -> Limiter:
        return MemoryLimiter(clocks.now, clocks.wall)

    def test_a_fetch_that_is_refused_tells_of_the_day_that_it_is(self) -> None:
        who = client(Limits(requests_per_day=9, fetches=Rate(1 / DAY_S, 1)))

        async def story(limiter: Limiter, clocks: HandClocks) -> None:
            await limiter.enter(who, "info")
            limiter.fetch(who, "info")
            clocks.sleep(DAY_S / 2)
            standing = limiter.fetch(who, "info")
            assert standing is not None
            assert remaining(standing) == {"requests-per-day": 9, "fetches": 0}

        self.given_limiter(story)

    def test_who_leaves_without_having_entered_is_a_mistake(self) -> None:
        async def story(limiter: Limiter, _: HandClocks) -> None:
            who = client(Limits(in_flight=2))
            await limiter.enter(who, None)
            limiter.leave(who, None)
            with pytest.raises(RuntimeError, match="in-flight"):
                limiter.leave(who, None)

        self.given_limiter(story)

    # -- a day --------------------------------------------------------------------------------------------

    @pytest.mark.parametrize(
        ("jumps_s", "let_in"),
        [
            pytest.param([0], [3], id="the same day"),
            pytest.param([DAY_S // 2 - 1], [3], id="a second before midnight"),
            pytest.param([DAY_S // 2], [6], id="midnight"),
            pytest.param([DAY_S // 2, -1], [6, 6], id="back over midnight"),
            pytest.param([DAY_S // 2, -1, 1, -1, 1], [6, 6, 6, 6, 6], id="to and fro over midnight"),
            pytest.param([DAY_S // 2 - 1, 1], [3, 6], id="two steps over midnight"),
            pytest.param([-DAY_S], [3], id="a day back"),
            pytest.param([-DAY_S, DAY_S], [3, 3], id="a day back and forth"),
            pytest.param([365 * DAY_S, -365 * DAY_S], [6, 6], id="a year forth and back"),
        ],
    )
    def test_a_clock_that_is_set_gives_no_day_twice(self, jumps_s: list[int], let_in: list[int]) -> None:
        async def story(limiter: Limiter, clocks: HandClocks) -> None:
            who = client(Limits(requests_per_day=3))
            total = await admitted(limiter, who, None, 9)
            for jump_s, expected in zip(jumps_s, let_in, strict=True):
                clocks.wall_at += jump_s
                total += await admitted(limiter, who, None, 9)
                assert total == expected

        self.given_limiter(story)

    @given(
        st.floats(0, DAY_S),
        st.lists(st.integers(-3, 3).map(lambda days: days * DAY_S) | st.integers(-4000, 4000), max_size=4),
    )
    def test_nobody_is_locked_out_for_longer_than_a_day(self, at_s: float, jumps_s: list[float]) -> None:
        async def story(limiter: Limiter, clocks: HandClocks) -> None:
            clocks.wall_at += at_s
            who = client(Limits(requests_per_day=1))
            for jump_s in (0.0, *jumps_s):
                await limiter.enter(who, None)
                clocks.sleep(100.0)
                clocks.wall_at += jump_s
            await limiter.enter(who, None)
            standing = await limiter.enter(who, None)
            assert standing.violated
            assert 0 < standing.retry_after_s <= DAY_S
            # What the clock's being set has cost is known at once.
            clocks.sleep(standing.retry_after_s + 0.001)
            assert not (await limiter.enter(who, None)).violated

        self.given_limiter(story)

    @given(
        st.lists(st.tuples(st.sampled_from([0, 60, 40_000]), st.sampled_from([0, 0, -30, -DAY_S, 50_000])))
    )
    def test_a_day_has_one_quota(self, steps: list[tuple[int, int]]) -> None:
        """No more quotas than new days that the clock has shown, and days that have passed."""

        async def story(limiter: Limiter, clocks: HandClocks) -> None:
            who, total, latest, new_days = client(Limits(requests_per_day=2)), 0, 0.0, 0
            for pause_s, jump_s in steps:
                clocks.sleep(pause_s)
                clocks.wall_at += jump_s
                new_days += clocks.wall_at // DAY_S > latest
                latest = max(latest, clocks.wall_at // DAY_S)
                total += await admitted(limiter, who, None, 3)
                assert total <= 2 * (new_days + (clocks.at - 1000.0) // DAY_S)

        self.given_limiter(story)


# -- shares ------------------------------------------------------------------------------------------------


def test_a_replica_keeps_to_its_share_rounded_up() -> None:
    async def story() -> None:
        clocks = HandClocks()
        limiter = MemoryLimiter(clocks.now, clocks.wall)
        limiter.divide(3)
        who = client(Limits(Rate(2, 7), 100, None, 4, {"info": Limits(Rate(1, 1))}))
        assert (await limiter.peek(who, "info")).left == (
            Left("requests", 3, 2, 5, 2),
            Left("requests-per-day", 100, 99, DAY_S, DAY_S // 2),
            Left("in-flight", 2, 1),
            Left("info.requests", 1, 0, 3, 3),
        )

    asyncio.run(story())


def test_lanes_that_are_held_keep_to_the_new_share_at_once() -> None:
    clocks = HandClocks()
    limiter = MemoryLimiter(clocks.now, clocks.wall)
    versions = [client(Limits(Rate(1, 8))), client(Limits(Rate(1, 8), resources={}))]
    lanes = [limiter.lane(who, resource) for who in versions for resource in ("info", "events")]
    assert [hits(lane, clocks, 1) for lane in lanes] == [[True]] * 4
    limiter.divide(2)
    assert lanes[0].hit(clocks.at, clocks.wall_at) == (
        b'ratelimit-policy: "requests";q=4;w=8\r\nratelimit: "requests";r=3;t=2\r\n'
    )
    assert [hits(lane, clocks, 1) for lane in lanes] == [[True], [True], [True], [False]]
    limiter.divide(1)
    # What was left is left, and comes back at the whole rate again.
    assert [hits(lane, clocks, 1) for lane in lanes] == [[False]] * 4
    clocks.sleep(1.0)
    assert [hits(lane, clocks, 1) for lane in lanes] == [[True], [False], [False], [False]]


def test_what_comes_back_before_a_change_of_shares_does_so_at_the_rate_of_then() -> None:
    clocks = HandClocks()
    limiter = MemoryLimiter(clocks.now, clocks.wall)
    lane = limiter.lane(client(Limits(Rate(4, 40))), None)
    assert sum(hits(lane, clocks, 50)) == 40
    clocks.sleep(1.0)
    limiter.divide(4)
    clocks.sleep(2.0)
    assert sum(hits(lane, clocks, 50)) == 4 * 1 + 1 * 2


def test_a_share_bounds_who_is_in_flight_and_throws_nobody_out() -> None:
    async def story() -> None:
        clocks = HandClocks()
        limiter, who = MemoryLimiter(clocks.now, clocks.wall), client(Limits(in_flight=4))
        assert await admitted(limiter, who, None, 9) == 4
        limiter.divide(2)
        for _ in range(3):
            assert await admitted(limiter, who, None, 1) == 0
            limiter.leave(who, None)
        assert await admitted(limiter, who, None, 9) == 1

    asyncio.run(story())


_shared_steps = st.lists(
    st.tuples(
        st.integers(0, 2000), st.none() | st.integers(1, 5), st.booleans(), st.sampled_from([0, 1, 3, 30])
    ),
    max_size=40,
)


@given(st.integers(1, 20), _shared_steps)
def test_a_change_of_shares_is_never_a_gift(
    burst: int, steps: list[tuple[int, int | None, bool, int]]
) -> None:
    """No window holds more than the burst of its first share and what came at the rates of the time."""
    clocks, per_s = HandClocks(), 8
    limiter = MemoryLimiter(clocks.now, clocks.wall)
    who = client(Limits(Rate(per_s, burst)))
    lanes = [limiter.lane(who, resource) for resource in ("info", "events")]
    at, drips, replicas = 0, Fraction(0), 1
    admitted_: list[tuple[Fraction, int]] = []
    for pause_ms, divided, other, times in steps:
        at += pause_ms
        drips += Fraction(per_s * pause_ms, 1000 * replicas)
        clocks.at = 1000.0 + at / 1000
        if divided is not None:
            replicas = divided
            limiter.divide(replicas)
        got = sum(hits(lanes[other], clocks, times))
        admitted_ += [(drips, -(-burst // replicas))] * got
    for first, (before, most) in enumerate(admitted_):
        for last, (until, _) in enumerate(admitted_[first:], first):
            assert last - first + 1 <= until - before + most


# -- days of several replicas ------------------------------------------------------------------------------

TODAY = NOON // DAY_S


def test_what_others_used_of_a_day_counts() -> None:
    async def story() -> None:
        clocks = HandClocks()
        limiter = MemoryLimiter(clocks.now, clocks.wall)
        who = client(Limits(requests_per_day=5, resources={"info": Limits(requests_per_day=9)}))
        name = "partner/requests-per-day"
        # Before the client has been seen here.
        limiter.learn(TODAY, {name: 2})
        assert await admitted(limiter, who, "info", 1) == 1
        assert limiter.counted(TODAY) == {name: 1, "partner/info.requests-per-day": 1}
        limiter.learn(TODAY, {name: 3})
        # What is known already is not taken back, and nothing is of another day.
        limiter.learn(TODAY, {name: 1})
        limiter.learn(TODAY - 1, {name: 99})
        assert limiter.counted(TODAY - 1) == {}
        assert await admitted(limiter, who, "info", 9) == 1
        clocks.sleep(DAY_S / 2)
        assert set(limiter.counted(TODAY + 1).values()) == {0}
        assert await admitted(limiter, who, "info", 9) == 5

    asyncio.run(story())


def test_who_counts_for_all_says_what_was_used() -> None:
    async def story() -> None:
        clocks = HandClocks()
        limiter, who = MemoryLimiter(clocks.now, clocks.wall), client(Limits(requests_per_day=5))
        await limiter.enter(who, None)
        for used, left in ((4, 1), (3, 2)):
            limiter.recount("partner", "requests-per-day", used)
            assert (await limiter.peek(who, None)).left[0].remaining == left - 1
            assert limiter.counted(TODAY) == {"partner/requests-per-day": 1}

    asyncio.run(story())


# -- lanes --------------------------------------------------------------------------------------------------


def hits(lane: Lane, clocks: HandClocks, times: int) -> list[bool]:
    """Which of so many hits at this instant are let in."""
    return [lane.hit(clocks.at, clocks.wall_at) is not None for _ in range(times)]


@pytest.mark.parametrize(
    ("limits", "resource", "told"),
    [
        pytest.param(UNLIMITED, "info", b"", id="without limits"),
        pytest.param(Limits(fetches=Rate(1, 1)), "info", b"", id="fetches"),
        pytest.param(Limits(resources={"info": Limits(Rate(1, 1))}), "events", b"", id="another resource"),
        pytest.param(
            Limits(Rate(20, 40)),
            "info",
            b'ratelimit-policy: "requests";q=40;w=2\r\nratelimit: "requests";r=39;t=1\r\n',
            id="requests",
        ),
        pytest.param(
            # 11 / (11 / 60) is a little more than 60.
            Limits(Rate(11 / 60, 11)),
            "info",
            b'ratelimit-policy: "requests";q=11;w=60\r\nratelimit: "requests";r=10;t=6\r\n',
            id="requests a minute",
        ),
        pytest.param(
            Limits(None, 9, None, 3, {"info": Limits(Rate(0.25, 2))}),
            "info",
            b'ratelimit-policy: "requests-per-day";q=9;w=86400, "in-flight";q=3;qu="concurrent-requests",'
            b' "info.requests";q=2;w=8\r\n'
            b'ratelimit: "requests-per-day";r=8;t=43200, "in-flight";r=2, "info.requests";r=1;t=4\r\n',
            id="several",
        ),
    ],
)
def test_a_hit_is_told_in_lines_of_a_head(limits: Limits, resource: str, told: bytes) -> None:
    clocks = HandClocks()
    lane = MemoryLimiter(clocks.now, clocks.wall).lane(client(limits), resource)
    assert lane.hit(clocks.at, clocks.wall_at) == told


def test_lanes_of_a_client_share_what_is_the_clients() -> None:
    clocks = HandClocks()
    limiter = MemoryLimiter(clocks.now, clocks.wall)
    who = client(Limits(Rate(1, 3), resources={"info": Limits(requests_per_day=2)}))
    info, events = limiter.lane(who, "info"), limiter.lane(who, "events")
    assert hits(info, clocks, 3) == [True, True, False]
    # What info refused was not charged to the client.
    assert hits(events, clocks, 2) == [True, False]
    assert hits(limiter.lane(client(Limits(Rate(1, 3)), "other"), "info"), clocks, 1) == [True]


def test_a_lane_is_laid_once_for_the_same_limits() -> None:
    clocks = HandClocks()
    limiter = MemoryLimiter(clocks.now, clocks.wall)
    who = client(Limits(Rate(1, 3)))
    assert limiter.lane(who, "info") is limiter.lane(who, "info")
    assert hits(limiter.lane(who, "info"), clocks, 2) == [True, True]
    changed = limiter.lane(client(Limits(Rate(1, 9))), "info")
    assert changed.limits.requests == Rate(1, 9)
    # Of the three, one was left.
    assert hits(changed, clocks, 2) == [True, False]


_steps = st.lists(
    st.tuples(
        # What it does, with the limits of which version of the policies, for which resource.
        st.sampled_from(["hit", "hit", "hit", "enter", "leave", "fetch", "peek"]),
        st.integers(0, 2),
        st.sampled_from(["info", "events", None]),
        # How long it waits before, by each clock.
        st.sampled_from([0.0, 0.0, 0.01, 0.7, 40_000.0, -0.3]) | st.floats(0, 30),
        st.sampled_from([0.0, 0.0, 0.0, DAY_S / 2, -DAY_S / 2, DAY_S, -DAY_S, 9 * DAY_S]),
    ),
    max_size=40,
)


@dataclass(slots=True)
class Pair:
    """Two limiters that live through the same, of which one has hits where the other has requests.

    The one keeps the lanes that it has once asked for, the other asks for each anew.
    """

    clocks: HandClocks
    clients: list[Client]
    short: MemoryLimiter = field(init=False)
    road: MemoryLimiter = field(init=False)
    lanes: dict[tuple[int, str | None], Lane] = field(default_factory=dict)
    inside: list[tuple[Client, str | None]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.short, self.road = (MemoryLimiter(self.clocks.now, self.clocks.wall) for _ in range(2))

    async def step(self, act: str, version: int, resource: str | None) -> None:
        who, now, wall = self.clients[version], self.clocks.at, self.clocks.wall_at
        lane = self.lanes.setdefault((version, resource), self.short.lane(who, resource))
        match act:
            case "hit":
                standing = await self.road.enter(who, resource)
                assert lane.hit(now, wall) == (None if standing.violated else standing.lines)
                if not standing.violated:
                    self.road.leave(who, resource)
            case "enter":
                standing = await self.road.enter(who, resource)
                assert lane.enter(now, wall) == standing
                if not standing.violated:
                    self.inside.append((who, resource))
            case "leave" if self.inside:
                who, resource = self.inside.pop()
                self.road.leave(who, resource)
                self.short.leave(who, resource)
            case "fetch" if resource is not None:
                assert lane.fetch(now, wall) == self.road.fetch(who, resource)
            case "peek":
                assert lane.peek(now, wall) == await self.road.peek(who, resource)


@given(st.lists(limits_with_info, min_size=3, max_size=3), _steps)
def test_a_hit_is_a_request_that_enters_and_leaves_at_once(
    versions: list[Limits], steps: list[tuple[str, int, str | None, float, float]]
) -> None:
    async def story() -> None:
        clocks = HandClocks()
        pair = Pair(clocks, [client(limits) for limits in versions])
        for act, version, resource, pause_s, jump_s in steps:
            clocks.sleep(pause_s)
            clocks.wall_at += jump_s
            await pair.step(act, version, resource)

    asyncio.run(story())
