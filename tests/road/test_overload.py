"""Who is refused when there is too much to do, and that nobody is a moment after."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.errors import Reason
from gateway.core.policy import Priority
from gateway.overload import LOOKS, TICK_S, Bounds, Overload
from tests.simulation import Simulation, chat_path, header
from tests.virtual import VirtualLoop, simulate, virtual

HIGH, NORMAL, LOW = Priority.HIGH, Priority.NORMAL, Priority.LOW
#: From whoever is refused last to whoever is refused first; None is one at the door.
EVERYBODY = (None, HIGH, NORMAL, LOW)
BOUNDS = Bounds(max_requests=100, lag_s=0.1)


def now() -> float:
    return asyncio.get_running_loop().time()


def stall(seconds: float) -> None:
    """Let this step of the loop take so long."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    loop._virtual.now += seconds


async def looked() -> None:
    """Let the loop find what is due by now."""
    for _ in range(4):
        await asyncio.sleep(0)


async def late(seconds: float, looks: int = LOOKS) -> None:
    """Let the loop be as late at so many looks in a row; the last of them is yet to come."""
    for look in range(looks):
        if look:
            await looked()
        stall(TICK_S + seconds)


class World:
    """Overload on virtual time, and a wall clock that can be set."""

    def __init__(self, bounds: Bounds = BOUNDS, luck: float = 0.0) -> None:
        self.bounds = bounds
        self.luck = luck
        self.set_by_s = 1_000_000.0
        self.jumps_s: list[float] = []
        self.overload = Overload(lambda: self.bounds, now, lambda: self.luck)

    @contextlib.asynccontextmanager
    async def watching(self) -> AsyncIterator[None]:
        watch = self.overload.watch(lambda: now() + self.set_by_s, self.jumps_s.append)
        task = asyncio.create_task(watch)
        await asyncio.sleep(0)
        yield
        task.cancel()
        await asyncio.wait((task,))

    def come(self, count: int) -> None:
        for _ in range(count):
            self.overload.enter()

    def refused(self) -> tuple[Priority | None, ...]:
        return tuple(one for one in EVERYBODY if self.overload.refuses(one) is not None)


# -- by number -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("requests", "refused"),
    [
        (0, ()),
        (50, ()),
        (51, (LOW,)),
        (75, (LOW,)),
        (76, (NORMAL, LOW)),
        (99, (NORMAL, LOW)),
        # One at the door would be one more.
        (100, (None, NORMAL, LOW)),
        (101, EVERYBODY),
    ],
)
@virtual
async def test_the_lower_the_priority_the_fewer_may_be_under_way(
    requests: int, refused: tuple[Priority | None, ...]
) -> None:
    world = World()
    world.come(requests)
    assert world.refused() == refused
    for _ in range(requests):
        world.overload.leave()
    assert (world.overload.requests, world.refused()) == (0, ())


@virtual
async def test_bounds_that_change_count_at_once() -> None:
    world = World()
    world.come(20)
    world.bounds = Bounds(max_requests=10)
    assert world.refused() == EVERYBODY
    world.bounds = Bounds()
    assert world.refused() == ()


@given(st.integers(10, 200), st.lists(st.sampled_from([*EVERYBODY, "leave"]), max_size=400))
def test_it_is_never_full_for_those_who_go_first(most: int, comers: list[Priority | str | None]) -> None:
    """Whoever is let in finds room left for his betters, and all of it is used."""

    async def main() -> None:
        overload = Overload(lambda: Bounds(max_requests=most), now, lambda: 0.0)
        inside: Counter[Priority] = Counter()
        for one in comers:
            if one == "leave":
                if inside:
                    inside -= Counter([next(inside.elements())])
                    overload.leave()
            elif isinstance(one, Priority) and overload.refuses(None) is None:
                overload.enter()
                if overload.refuses(one) is None:
                    inside[one] += 1
                else:
                    overload.leave()
            assert overload.requests == inside.total() <= most
            assert inside[LOW] <= most * 0.5
            assert inside[LOW] + inside[NORMAL] <= most * 0.75
        assert (overload.refuses(None) is None) == (inside.total() < most)

    simulate(main())


# -- by lag ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lag_s", "refused"),
    [
        (0.09, ()),
        (0.11, (LOW,)),
        (0.19, (LOW,)),
        (0.21, (NORMAL, LOW)),
        (0.39, (NORMAL, LOW)),
        (0.41, EVERYBODY),
        (5.0, EVERYBODY),
    ],
)
@virtual
async def test_the_lower_the_priority_the_less_late_the_loop_may_be(
    lag_s: float, refused: tuple[Priority | None, ...]
) -> None:
    world = World()
    async with world.watching():
        await late(lag_s, LOOKS - 1)
        assert world.refused() == (), "not for less than so many in a row"
        await looked()
        stall(TICK_S + lag_s)
        assert world.overload.lag_s == pytest.approx(lag_s)
        assert world.refused() == refused, "those at the end of a long step know already"
        await looked()
        assert world.refused() == refused
        await asyncio.sleep(0.051)
        assert world.refused() == (), "one look in time, and it is over"
        assert world.overload.lag_s == pytest.approx(0.0, abs=1e-4)


@pytest.mark.parametrize("seconds", [0.2, 0.6, 30.0])
@virtual
async def test_one_stall_is_no_overload(seconds: float) -> None:
    """A reload, a collection: when it is over, so is all that there was to it."""
    world = World()
    async with world.watching():
        for _ in range(3):
            stall(seconds)
            assert world.refused() == ()
            for _ in range(LOOKS):
                await asyncio.sleep(TICK_S)
                assert world.refused() == ()


@virtual
async def test_a_setting_of_the_lag_counts_at_once() -> None:
    world = World(Bounds(lag_s=1.0))
    async with world.watching():
        await late(0.5)
        assert world.refused() == ()
        world.bounds = Bounds(lag_s=0.2)
        assert world.refused() == (NORMAL, LOW)


@given(st.lists(st.tuples(st.floats(0.0, 0.6), st.booleans()), max_size=60))
def test_the_lag_is_the_least_of_the_last(steps: list[tuple[float, bool]]) -> None:
    """Whatever steps the loop takes: (what one takes, whether it rests until it is looked at)."""

    async def main() -> None:
        world = World()
        async with world.watching():
            due, lags = TICK_S, [0.0] * LOOKS
            for took_s, rests in steps:
                stall(took_s)
                running = [*lags, max(0.0, now() - due)][-LOOKS:]
                assert world.overload.lag_s == pytest.approx(max(min(lags), min(running)), abs=1e-4)
                if rests:
                    await asyncio.sleep(max(0.0, due - now()) + 1e-6)
                await looked()
                if now() >= due:
                    lags = [*lags, now() - due][-LOOKS:]
                    due = now() + TICK_S
                    assert world.overload.lag_s == pytest.approx(min(lags), abs=1e-4)
            await asyncio.sleep(2 * TICK_S)
            assert world.refused() == ()
            await late(1.0)
            assert world.refused() == EVERYBODY, "it is looked at as ever"

    simulate(main())


@virtual
async def test_who_does_not_look_knows_of_no_lag() -> None:
    """Should the watch end, however it came about, nobody is locked out for ever."""
    world = World()
    assert world.refused() == ()
    async with world.watching():
        await late(1.0)
        await looked()
        assert world.refused() == EVERYBODY
    stall(10.0)
    assert world.refused() == ()
    assert world.overload.lag_s == 0.0


# -- what the refused are told ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("luck", "retry_after_s"), [(0.0, 1), (0.32, 1), (0.34, 2), (0.66, 2), (0.67, 3), (0.999, 3)]
)
@virtual
async def test_those_who_are_refused_together_do_not_come_back_together(
    luck: float, retry_after_s: int
) -> None:
    world = World(luck=luck)
    world.come(101)
    for one in EVERYBODY:
        refusal = world.overload.refuses(one)
        assert refusal is not None
        assert (refusal.reason, refusal.retry_after_s) == (Reason.OVERLOADED, retry_after_s)


# -- a clock that is set ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sets_s", "jumps_s"),
    [
        ([0.0], []),
        ([0.9, -0.9, 0.9], []),
        ([1.1], [1.1]),
        ([-3600.0], [-3600.0]),
        ([2.0, 0.0, -2.0], [2.0, -2.0]),
        ([0.4, 0.4, 0.4], [1.2]),  # bit by bit, and told when it has become much
    ],
)
@virtual
async def test_a_wall_clock_that_is_set_is_told(sets_s: list[float], jumps_s: list[float]) -> None:
    world = World()
    async with world.watching():
        for set_s in sets_s:
            world.set_by_s += set_s
            await asyncio.sleep(2 * TICK_S)
        assert world.jumps_s == pytest.approx(jumps_s)


@virtual
async def test_a_loop_that_stands_still_moves_no_clock() -> None:
    world = World()
    async with world.watching():
        stall(60.0)
        await asyncio.sleep(1.0)
        assert world.jumps_s == []


# -- on the road -----------------------------------------------------------------------------------------


class Full(Simulation):
    """A gateway that takes so many requests at a time, before an upstream that is slow."""

    def __init__(self, most: int, latency_s: float = 1.0) -> None:
        super().__init__(latency_s=lambda: latency_s)
        self.bounds = Bounds(max_requests=most)
        self.overload = Overload(lambda: self.bounds, self.clock.now, lambda: 0.0)
        self.exchange._overload = self.overload

    @contextlib.asynccontextmanager
    async def busy(self, count: int) -> AsyncIterator[None]:
        """So many are under way, and end well."""
        chats = [self.chat() for _ in range(count)]
        under_way = [asyncio.create_task(self.info(chat)) for chat in chats]
        await asyncio.sleep(0.1)
        assert self.overload.requests == count
        yield
        assert {reply.status for reply in await asyncio.gather(*under_way)} == {200}
        assert self.overload.requests == 0
        await self.settle()


@pytest.mark.parametrize(("subject", "most"), [("partner", 5), ("internal", 7), ("bff", 10)])
@pytest.mark.parametrize("room", [1, 0])
@virtual
async def test_the_frontend_finds_room_for_longest(subject: str, most: int, room: int) -> None:
    world = Full(10)
    async with world.busy(most - room):
        reply = await world.ask("GET", chat_path(world.chat(), "/info"), subject=subject)
        assert (reply.status, header(reply, "retry-after")) == ((200, None) if room else (503, "1"))
        assert (b"overloaded" in reply.body) == (not room)


@virtual
async def test_who_is_refused_costs_nothing_and_is_charged_nothing() -> None:
    world = Full(10)
    async with world.busy(10):
        before = world.asked(), world.limiter._arrivals.copy()
        verified = world.verifier.verify
        world.verifier.verify = nobody  # type: ignore[method-assign]
        assert (await world.info(world.chat())).status == 503
        world.verifier.verify = verified  # type: ignore[method-assign]
        world.bounds = Bounds(max_requests=11)
        assert (await world.ask("GET", chat_path(world.chat()), subject="partner")).status == 503
        assert (world.asked(), world.limiter._arrivals) == before


@virtual
async def test_whose_token_is_known_is_refused_at_the_door() -> None:
    world = Full(10)
    async with world.busy(6):
        refused = {
            subject: world.exchange.full(f"Bearer {subject}".encode())
            for subject in ("partner", "internal", "bff", "stranger")
        }
        assert {subject: full and full.client for subject, full in refused.items()} == {
            "partner": "partner",
            "internal": None,
            "bff": None,
            # Nobody's client: the road says so.
            "stranger": None,
        }
        assert world.exchange.full(None) is None


async def nobody(authorization: bytes | None, peer: str | None) -> Any:
    del authorization, peer
    raise AssertionError("there is no room to look at a token")


@virtual
async def test_a_late_loop_is_refused_for_by_priority_and_then_for_nobody() -> None:
    world = Full(10)
    watch = asyncio.create_task(world.overload.watch(world.clock.wall, lambda _: None))
    await asyncio.sleep(0)
    await late(0.25)
    statuses = {
        subject: (await world.ask("GET", chat_path(world.chat()), subject=subject)).status
        for subject in ("partner", "internal", "bff")
    }
    assert statuses == {"partner": 503, "internal": 503, "bff": 200}
    assert (await world.ask("GET", chat_path(world.chat()), subject="partner")).status == 200
    watch.cancel()
    await world.settle()


@virtual
async def test_a_request_that_is_cancelled_or_crashes_leaves() -> None:
    world = Full(10)
    asking = asyncio.create_task(world.info(world.chat()))
    await asyncio.sleep(0.1)
    asking.cancel()
    await asyncio.wait((asking,))
    world.verifier.verify = nobody  # type: ignore[method-assign]
    assert (await world.info(world.chat())).status == 502
    assert world.overload.requests == 0
    await world.settle()


@virtual
async def test_polls_of_what_is_fresh_are_answered_however_much_there_is_to_do() -> None:
    world = Full(10, latency_s=0.01)
    chat, peer = world.chat(), world.edge.connect()
    poll = f"GET {chat_path(chat, '/info')} HTTP/1.1\r\nhost: gateway\r\nauthorization: Bearer partner\r\n"
    question = f"{poll}accept: application/json\r\n\r\n".encode()
    for _ in range(2):
        peer.send(question)
        await asyncio.sleep(0.1)
    world.bounds = Bounds(max_requests=0)
    peer.send(question)
    replies = peer.text.split(b"HTTP/1.1 ")[1:]
    assert [reply[:3] for reply in replies] == [b"200"] * 3
    assert (await world.info(chat)).status == 503, "the road has no room"
    await world.settle()
