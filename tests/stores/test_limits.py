"""What the road may expect of a limiter: nobody gets more than the limits say, or is told otherwise."""

from __future__ import annotations

import abc
import asyncio
import itertools
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.limits import DAY_S, UNCOUNTED, UNLIMITED, Left, Limits, Rate, Standing
from gateway.core.policy import Client
from gateway.ports import Limiter
from gateway.stores.limits import Lane, MemoryLimiter

#: 2026-11-03 at 12:00 UTC, in epoch seconds.
NOON = 20_760 * DAY_S + DAY_S // 2


@dataclass(slots=True)
class HandClocks:
    """Monotonic and epoch seconds that pass when told, together or not."""

    at: float = 1000.0
    wall_at: float = NOON

    def now(self) -> float:
        return self.at

    def wall(self) -> float:
        return self.wall_at

    def sleep(self, seconds: float) -> None:
        self.at += seconds
        self.wall_at += seconds


def client(limits: Limits, name: str = "partner") -> Client:
    return Client(name, (), None, ("chat:read",), limits=limits)


async def admitted(limiter: Limiter, who: Client, resource: str | None, times: int) -> int:
    """How many of so many requests at this instant are let in; they stay."""
    standings = await asyncio.gather(*(limiter.enter(who, resource) for _ in range(times)))
    return sum(not standing.violated for standing in standings)


def remaining(standing: Standing) -> dict[str, int]:
    return {left.limit: left.remaining for left in standing.left}


ONE_A_MINUTE = Rate(1 / 60, 30)

rates = st.builds(Rate, st.sampled_from([0.1, 1.0, 20.0]), st.integers(1, 6))
some_limits = st.builds(
    Limits,
    requests=st.none() | rates,
    requests_per_day=st.none() | st.integers(1, 9),
    fetches=st.none() | rates,
    in_flight=st.none() | st.integers(1, 6),
)
limits_with_info = st.builds(
    lambda own, info: replace(own, resources={"info": info}), some_limits, some_limits
)


class LimiterContract(abc.ABC):
    """For every implementation of the port `Limiter`."""

    @abc.abstractmethod
    def make(self, clocks: HandClocks) -> Limiter: ...

    def given_limiter(self, story: Callable[[Limiter, HandClocks], Awaitable[None]]) -> None:
        async def told() -> None:
            clocks = HandClocks()
            await story(self.make(clocks), clocks)

        asyncio.run(told())

    def test_who_has_no_limits_is_not_counted(self) -> None:
        async def story(limiter: Limiter, _: HandClocks) -> None:
            who = client(UNLIMITED)
            assert await limiter.enter(who, "info") is UNCOUNTED
            assert limiter.peek(who, None) is UNCOUNTED
            assert limiter.fetch(who, "info") is None
            assert limiter.peek_fetch(who, "info") is None
            limiter.leave(who, "info")

        self.given_limiter(story)

    @pytest.mark.parametrize("resource", ["info", "events", None])
    @pytest.mark.parametrize(
        "limits",
        [Limits(in_flight=30), Limits(requests=ONE_A_MINUTE), Limits(requests_per_day=30)],
        ids=["in-flight", "requests", "requests-per-day"],
    )
    def test_of_sixty_at_once_exactly_thirty_get_in(self, limits: Limits, resource: str | None) -> None:
        async def story(limiter: Limiter, _: HandClocks) -> None:
            assert await admitted(limiter, client(limits), resource, 60) == 30
            assert await admitted(limiter, client(limits, name="other"), resource, 60) == 30
            limited = client(Limits(resources={"info": limits}), name="third")
            assert await admitted(limiter, limited, resource, 60) == (30 if resource == "info" else 60)

        self.given_limiter(story)

    def test_a_standing_says_what_is_left(self) -> None:
        limits = Limits(Rate(20, 40), 100, Rate(1, 1), 3, {"info": Limits(Rate(0.25, 2), None, None, 2)})

        async def story(limiter: Limiter, _: HandClocks) -> None:
            expected = Standing(
                (
                    Left("requests", 40, 39, 2, 1),
                    Left("requests-per-day", 100, 99, DAY_S, DAY_S // 2),
                    Left("in-flight", 3, 2),
                    Left("info.requests", 2, 1, 8, 4),
                    Left("info.in-flight", 2, 1),
                )
            )
            assert limiter.peek(client(limits), "info") == expected
            assert await limiter.enter(client(limits), "info") == expected
            assert remaining(await limiter.enter(client(limits), "events")) == {
                "requests": 38,
                "requests-per-day": 98,
                "in-flight": 1,
            }

        self.given_limiter(story)

    def test_a_violation_names_every_limit_that_is_used_up_and_the_longest_wait(self) -> None:
        limits = Limits(
            Rate(20, 1), None, None, 1, {"info": Limits(Rate(0.25, 1)), "events": Limits(Rate(1, 9))}
        )

        async def story(limiter: Limiter, clocks: HandClocks) -> None:
            who = client(limits)
            assert not (await limiter.enter(who, "info")).violated
            standing = await limiter.enter(who, "info")
            assert standing.violated == ("requests", "in-flight", "info.requests")
            assert standing.retry_after_s == 4.0
            assert set(remaining(standing).values()) == {0}
            assert (await limiter.enter(who, "events")).violated == ("requests", "in-flight")
            limiter.leave(who, "info")
            clocks.sleep(0.06)
            assert (await limiter.enter(who, "info")).violated == ("info.requests",)
            assert not (await limiter.enter(who, "events")).violated

        self.given_limiter(story)

    def test_requests_in_flight_are_counted_from_entering_to_leaving(self) -> None:
        who = client(Limits(in_flight=2, resources={"info": Limits(in_flight=1)}))

        async def story(limiter: Limiter, _: HandClocks) -> None:
            assert await admitted(limiter, who, "info", 9) == 1
            assert await admitted(limiter, who, "events", 9) == 1
            standing = await limiter.enter(who, None)
            assert (standing.violated, standing.retry_after_s) == (("in-flight",), 1.0)
            limiter.leave(who, "info")
            assert await admitted(limiter, who, "info", 9) == 1
            limiter.leave(who, "events")
            assert (await limiter.enter(who, "info")).violated == ("info.in-flight",)
            limiter.leave(who, "info")
            assert remaining(limiter.peek(who, "info")) == {"in-flight": 1, "info.in-flight": 0}

        self.given_limiter(story)

    def test_a_change_of_limits_forgets_no_one_who_is_in(self) -> None:
        async def story(limiter: Limiter, _: HandClocks) -> None:
            old, new = client(Limits(in_flight=3)), client(Limits(in_flight=2))
            assert await admitted(limiter, old, None, 3) == 3
            assert await admitted(limiter, new, None, 1) == 0
            limiter.leave(old, None)
            limiter.leave(old, None)
            assert await admitted(limiter, new, None, 9) == 1
            # One that entered while there was no limit was never counted.
            limiter.leave(client(UNLIMITED), None)
            assert await admitted(limiter, new, None, 1) == 0

        self.given_limiter(story)

    def test_a_change_of_limits_leaves_what_was_left(self) -> None:
        slow, fast = client(Limits(ONE_A_MINUTE)), client(Limits(Rate(10, 5)))

        async def story(limiter: Limiter, clocks: HandClocks) -> None:
            assert await admitted(limiter, slow, None, 28) == 28
            assert await admitted(limiter, fast, None, 9) == 2
            assert limiter.peek(fast, None).retry_after_s == pytest.approx(0.1, abs=1e-6)
            assert limiter.peek(slow, None).retry_after_s == pytest.approx(60, abs=1e-6)
            clocks.sleep(0.35)
            assert await admitted(limiter, fast, None, 1) == 1
            assert await admitted(limiter, slow, None, 9) == 2

        self.given_limiter(story)

    def test_fetches_have_limits_of_their_own(self) -> None:
        who = client(Limits(Rate(1, 9), None, Rate(0.5, 3), None, {"info": Limits(fetches=Rate(0.25, 1))}))

        async def story(limiter: Limiter, clocks: HandClocks) -> None:
            await limiter.enter(who, "info")
            assert limiter.fetch(who, "info") is None
            standing = limiter.fetch(who, "info")
            assert standing is not None
            assert limiter.peek_fetch(who, "info") == standing
            assert standing.violated == ("info.fetches",)
            assert standing.retry_after_s == 4.0
            assert standing.left == (Left("requests", 9, 8, 9, 1), Left("info.fetches", 1, 0, 4, 4))
            # Two are left in all: what was refused was charged to neither.
            for _ in range(2):
                assert limiter.peek_fetch(who, "events") is None
                assert limiter.fetch(who, "events") is None
            standing = limiter.fetch(who, "info")
            assert standing is not None
            assert standing.violated == ("fetches", "info.fetches")
            clocks.sleep(4.0)
            assert limiter.fetch(who, "info") is None
            assert remaining(limiter.peek(who, "info")) == {"requests": 8}

        self.given_limiter(story)

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

    @pytest.mark.parametrize(("per_s", "burst"), [(20, 28), (0.1, 11), (77, 12)])
    def test_a_reload_that_changes_no_rate_changes_no_wait(self, per_s: float, burst: int) -> None:
        async def story(limiter: Limiter, clocks: HandClocks) -> None:
            before, after = client(Limits(Rate(per_s, burst))), client(Limits(Rate(per_s, burst)))
            for _ in range(3 * burst):
                assert limiter.peek(after, None) == limiter.peek(before, None)
                await limiter.enter(before, None)
                clocks.sleep(0.7 / per_s)

        self.given_limiter(story)

    @given(limits_with_info, st.sampled_from(["info", "events", None]), st.integers(0, 9))
    def test_what_is_said_to_remain_does(self, limits: Limits, resource: str | None, before: int) -> None:
        async def story(limiter: Limiter, clocks: HandClocks) -> None:
            who = client(limits)
            await admitted(limiter, who, "info", before)
            clocks.sleep(0.7)
            standing = await limiter.enter(who, resource)
            if standing is UNCOUNTED:
                return
            fewest = min(left.remaining for left in standing.left)
            assert await admitted(limiter, who, resource, fewest + 5) == fewest

        self.given_limiter(story)

    @given(limits_with_info, st.sampled_from(["info", None]), st.integers(1, 9))
    def test_a_refusal_charges_nothing(self, limits: Limits, resource: str | None, times: int) -> None:
        async def story(limiter: Limiter, clocks: HandClocks) -> None:
            who = client(limits)
            await admitted(limiter, who, "info", times)
            for _ in range(3):
                looks = [limiter.peek(who, each) for each in ("info", "events", None)]
                violated = (await limiter.enter(who, resource)).violated
                if violated:
                    assert [limiter.peek(who, each) for each in ("info", "events", None)] == looks
                clocks.sleep(0.3)

        self.given_limiter(story)

    @given(limits_with_info, st.sampled_from(["info", None]), st.integers(1, 9))
    def test_who_comes_back_when_told_is_let_in(
        self, limits: Limits, resource: str | None, times: int
    ) -> None:
        async def story(limiter: Limiter, clocks: HandClocks) -> None:
            who = client(limits)
            inside = await admitted(limiter, who, resource, times)
            standing = limiter.peek(who, resource)
            for _ in range(inside):
                limiter.leave(who, resource)
            clocks.sleep(standing.retry_after_s)
            assert not (await limiter.enter(who, resource)).violated

        self.given_limiter(story)

    @given(
        st.lists(
            st.tuples(st.sampled_from([0, 0, 1, 50]) | st.integers(0, 2000), st.booleans()), max_size=60
        ),
        st.integers(1, 6),
    )
    def test_over_any_window_no_more_than_rate_and_burst(
        self, steps: list[tuple[int, bool]], burst: int
    ) -> None:
        """With policies that change in between: the higher rate, and the larger burst."""
        old, new = client(Limits(Rate(20, burst))), client(Limits(Rate(7, 3), resources={}))

        async def story(limiter: Limiter, clocks: HandClocks) -> None:
            at, times = 0, []
            for pause, changed in steps:
                at += pause
                clocks.at = 1000.0 + at / 1000
                times += [at] * await admitted(limiter, new if changed else old, None, 2)
            for (first, start), (last, end) in itertools.combinations(enumerate(times), 2):
                assert last - first + 1 <= Fraction(20, 1000) * (end - start) + max(burst, 3)

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


class TestMemoryLimiter(LimiterContract):
    def make(self, clocks: HandClocks) -> Limiter:
        return MemoryLimiter(clocks.now, clocks.wall)

    def test_who_leaves_without_having_entered_is_a_mistake(self) -> None:
        async def story(limiter: Limiter, _: HandClocks) -> None:
            who = client(Limits(in_flight=2))
            await limiter.enter(who, None)
            limiter.leave(who, None)
            with pytest.raises(RuntimeError, match="in-flight"):
                limiter.leave(who, None)

        self.given_limiter(story)


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
                assert lane.peek(now, wall) == self.road.peek(who, resource)


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
