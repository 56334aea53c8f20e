"""What the road may expect of a limiter: nobody gets more than the limits say, or is told otherwise."""

from __future__ import annotations

import abc
import asyncio
import itertools
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from fractions import Fraction

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.core.limits import DAY_S, UNCOUNTED, UNLIMITED, Left, Limits, Rate, Standing
from gateway.core.policy import Client
from gateway.ports import Limiter

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


def in_order(standing: Standing) -> list[Left]:
    return sorted(standing.left, key=lambda left: left.limit)


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


#: A test of a contract belongs to several classes, of which each makes something else.
of_a_contract = settings(suppress_health_check=[HealthCheck.differing_executors])


class LimiterContract(abc.ABC):
    """For every implementation of the port `Limiter`."""

    @abc.abstractmethod
    def make(self, clocks: HandClocks) -> Limiter: ...

    def client(self, limits: Limits, name: str = "partner") -> Client:
        return client(limits, name)

    def given_limiter(self, story: Callable[[Limiter, HandClocks], Awaitable[None]]) -> None:
        async def told() -> None:
            clocks = HandClocks()
            await story(self.make(clocks), clocks)

        asyncio.run(told())

    def test_who_has_no_limits_is_not_counted(self) -> None:
        async def story(limiter: Limiter, _: HandClocks) -> None:
            who = self.client(UNLIMITED)
            assert await limiter.enter(who, "info") is UNCOUNTED
            assert await limiter.peek(who, None) is UNCOUNTED
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
            assert await admitted(limiter, self.client(limits), resource, 60) == 30
            assert await admitted(limiter, self.client(limits, name="other"), resource, 60) == 30
            limited = self.client(Limits(resources={"info": limits}), name="third")
            assert await admitted(limiter, limited, resource, 60) == (30 if resource == "info" else 60)

        self.given_limiter(story)

    def test_a_standing_says_what_is_left(self) -> None:
        limits = Limits(Rate(20, 40), 100, Rate(1, 1), 3, {"info": Limits(Rate(0.25, 2), None, None, 2)})

        async def story(limiter: Limiter, _: HandClocks) -> None:
            who = self.client(limits)
            expected = [
                Left("in-flight", 3, 2),
                Left("info.in-flight", 2, 1),
                Left("info.requests", 2, 1, 8, 4),
                Left("requests", 40, 39, 2, 1),
                Left("requests-per-day", 100, 99, DAY_S, DAY_S // 2),
            ]
            for standing in (await limiter.peek(who, "info"), await limiter.enter(who, "info")):
                assert not standing.violated
                assert in_order(standing) == expected
            assert remaining(await limiter.enter(who, "events")) == {
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
            who = self.client(limits)
            assert not (await limiter.enter(who, "info")).violated
            standing = await limiter.enter(who, "info")
            assert sorted(standing.violated) == ["in-flight", "info.requests", "requests"]
            assert standing.retry_after_s == 4.0
            assert set(remaining(standing).values()) == {0}
            assert sorted((await limiter.enter(who, "events")).violated) == ["in-flight", "requests"]
            limiter.leave(who, "info")
            clocks.sleep(0.06)
            assert (await limiter.enter(who, "info")).violated == ("info.requests",)
            assert not (await limiter.enter(who, "events")).violated

        self.given_limiter(story)

    def test_requests_in_flight_are_counted_from_entering_to_leaving(self) -> None:
        who = self.client(Limits(in_flight=2, resources={"info": Limits(in_flight=1)}))

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
            assert remaining(await limiter.peek(who, "info")) == {"in-flight": 1, "info.in-flight": 0}

        self.given_limiter(story)

    def test_watchers_are_counted_from_the_first_to_the_last_moment(self) -> None:
        async def story(limiter: Limiter, _: HandClocks) -> None:
            who = self.client(Limits(ONE_A_MINUTE, in_flight=1, streams=2))
            other = self.client(UNLIMITED, name="other")
            assert [limiter.watch(who) for _ in range(2)] == [None, None]
            assert limiter.watch(who) == Standing((), ("streams",), 1.0)
            assert {limiter.watch(other) for _ in range(UNLIMITED.streams)} == {None}
            assert limiter.watch(other) is not None
            # To be told is no request, and none in progress.
            assert remaining(await limiter.peek(who, None)) == {"requests": 29, "in-flight": 0}
            limiter.unwatch(who)
            assert limiter.watch(who) is None
            assert limiter.watch(who) is not None

        self.given_limiter(story)

    def test_a_change_of_limits_forgets_no_watcher(self) -> None:
        async def story(limiter: Limiter, _: HandClocks) -> None:
            old, new = self.client(Limits(streams=3)), self.client(Limits(streams=2))
            assert [limiter.watch(old) for _ in range(3)] == [None] * 3
            limiter.unwatch(new)
            assert limiter.watch(new) is not None
            limiter.unwatch(old)
            assert limiter.watch(new) is None

        self.given_limiter(story)

    def test_a_change_of_limits_forgets_no_one_who_is_in(self) -> None:
        async def story(limiter: Limiter, _: HandClocks) -> None:
            old, new = self.client(Limits(in_flight=3)), self.client(Limits(in_flight=2))
            assert await admitted(limiter, old, None, 3) == 3
            assert await admitted(limiter, new, None, 1) == 0
            limiter.leave(old, None)
            limiter.leave(old, None)
            assert await admitted(limiter, new, None, 9) == 1
            # One that entered while there was no limit was never counted.
            limiter.leave(self.client(UNLIMITED), None)
            assert await admitted(limiter, new, None, 1) == 0

        self.given_limiter(story)

    def test_a_change_of_limits_leaves_what_was_left(self) -> None:
        slow, fast = self.client(Limits(ONE_A_MINUTE)), self.client(Limits(Rate(10, 5)))

        async def story(limiter: Limiter, clocks: HandClocks) -> None:
            assert await admitted(limiter, slow, None, 28) == 28
            assert await admitted(limiter, fast, None, 9) == 2
            assert (await limiter.peek(fast, None)).retry_after_s == pytest.approx(0.1, abs=1e-6)
            assert (await limiter.peek(slow, None)).retry_after_s == pytest.approx(60, abs=1e-6)
            clocks.sleep(0.35)
            assert await admitted(limiter, fast, None, 1) == 1
            assert await admitted(limiter, slow, None, 9) == 2

        self.given_limiter(story)

    def test_fetches_have_limits_of_their_own(self) -> None:
        who = self.client(
            Limits(Rate(1, 9), None, Rate(0.5, 3), resources={"info": Limits(fetches=Rate(0.25, 1))})
        )

        async def story(limiter: Limiter, clocks: HandClocks) -> None:
            await limiter.enter(who, "info")
            assert limiter.fetch(who, "info") is None
            standing = limiter.fetch(who, "info")
            assert standing is not None
            assert limiter.peek_fetch(who, "info") == standing
            assert standing.violated == ("info.fetches",)
            assert standing.retry_after_s == 4.0
            assert standing.left[-1] == Left("info.fetches", 1, 0, 4, 4)
            # Two are left in all: what was refused was charged to neither.
            for _ in range(2):
                assert limiter.peek_fetch(who, "events") is None
                assert limiter.fetch(who, "events") is None
            standing = limiter.fetch(who, "info")
            assert standing is not None
            assert standing.violated == ("fetches", "info.fetches")
            clocks.sleep(4.0)
            assert limiter.fetch(who, "info") is None
            assert remaining(await limiter.peek(who, "info")) == {"requests": 8}

        self.given_limiter(story)

    def test_a_fetch_that_asked_nobody_is_given_back(self) -> None:
        who = self.client(Limits(fetches=Rate(0.5, 2), resources={"info": Limits(fetches=Rate(0.25, 1))}))

        async def story(limiter: Limiter, _clocks: HandClocks) -> None:
            limiter.refund(who, "info")
            for _ in range(3):
                assert limiter.fetch(who, "info") is None
                assert limiter.fetch(who, "info") is not None
                limiter.refund(who, "info")
            # To both limits, and no more than was taken.
            assert [limiter.fetch(who, "events") for _ in range(2)] == [None, None]
            assert limiter.fetch(who, "events") is not None

        self.given_limiter(story)

    @pytest.mark.parametrize(("per_s", "burst"), [(20, 28), (0.1, 11), (77, 12)])
    def test_a_reload_that_changes_no_rate_changes_no_wait(self, per_s: float, burst: int) -> None:
        async def story(limiter: Limiter, clocks: HandClocks) -> None:
            before, after = self.client(Limits(Rate(per_s, burst))), self.client(Limits(Rate(per_s, burst)))
            for _ in range(3 * burst):
                assert (await limiter.peek(after, None)) == (await limiter.peek(before, None))
                await limiter.enter(before, None)
                clocks.sleep(0.7 / per_s)

        self.given_limiter(story)

    @of_a_contract
    @given(limits_with_info, st.sampled_from(["info", "events", None]), st.integers(0, 9))
    def test_what_is_said_to_remain_does(self, limits: Limits, resource: str | None, before: int) -> None:
        async def story(limiter: Limiter, clocks: HandClocks) -> None:
            who = self.client(limits)
            await admitted(limiter, who, "info", before)
            clocks.sleep(0.7)
            standing = await limiter.enter(who, resource)
            if standing is UNCOUNTED:
                return
            fewest = min(left.remaining for left in standing.left)
            assert await admitted(limiter, who, resource, fewest + 5) == fewest

        self.given_limiter(story)

    @of_a_contract
    @given(limits_with_info, st.sampled_from(["info", None]), st.integers(1, 9))
    def test_a_refusal_charges_nothing(self, limits: Limits, resource: str | None, times: int) -> None:
        async def story(limiter: Limiter, clocks: HandClocks) -> None:
            who = self.client(limits)
            await admitted(limiter, who, "info", times)
            for _ in range(3):
                looks = [await limiter.peek(who, each) for each in ("info", "events", None)]
                violated = (await limiter.enter(who, resource)).violated
                if violated:
                    assert [await limiter.peek(who, each) for each in ("info", "events", None)] == looks
                clocks.sleep(0.3)

        self.given_limiter(story)

    @of_a_contract
    @given(limits_with_info, st.sampled_from(["info", None]), st.integers(1, 9))
    def test_who_comes_back_when_told_is_let_in(
        self, limits: Limits, resource: str | None, times: int
    ) -> None:
        async def story(limiter: Limiter, clocks: HandClocks) -> None:
            who = self.client(limits)
            inside = await admitted(limiter, who, resource, times)
            standing = await limiter.peek(who, resource)
            for _ in range(inside):
                limiter.leave(who, resource)
            clocks.sleep(standing.retry_after_s)
            assert not (await limiter.enter(who, resource)).violated

        self.given_limiter(story)

    @of_a_contract
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
        old, new = self.client(Limits(Rate(20, burst))), self.client(Limits(Rate(7, 3), resources={}))

        async def story(limiter: Limiter, clocks: HandClocks) -> None:
            at, times = 0, []
            for pause, changed in steps:
                at += pause
                clocks.at = 1000.0 + at / 1000
                times += [at] * await admitted(limiter, new if changed else old, None, 2)
            for (first, start), (last, end) in itertools.combinations(enumerate(times), 2):
                assert last - first + 1 <= Fraction(20, 1000) * (end - start) + max(burst, 3)

        self.given_limiter(story)
