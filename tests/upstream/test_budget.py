"""The upstream's budget on virtual time: its bounds, whose turn it is, and what nobody must wait for."""

from __future__ import annotations

import asyncio
import itertools
import math
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.errors import Reason
from gateway.core.freshness import Failed
from gateway.core.policy import Client, Priority
from gateway.upstream.budget import RECOVERY_S, SLOWEST, Budget, BudgetState, Pace, Ticket
from tests.virtual import simulate, virtual

ACCOUNT = "1234567"
PACE = Pace(per_s=50, burst=10, in_flight=20, queue=100, wait_s=1.0, reserve=0.0)
#: One after the other, and nobody is refused: for tests of the order.
ONE_BY_ONE = Pace(per_s=10, burst=1, in_flight=1000, queue=1000, wait_s=1000.0, reserve=0.0)
TENTH = 0.1 + 1e-6


def client(name: str, priority: Priority = Priority.NORMAL) -> Client:
    return Client(name, (), None, (), priority=priority)


FRONTEND = client("frontend", Priority.HIGH)
SERVICE = client("service", Priority.NORMAL)
OTHER = client("other", Priority.NORMAL)
PARTNER = client("partner", Priority.LOW)


def now() -> float:
    return asyncio.get_running_loop().time()


class World:
    """A budget, and what became of everyone who came."""

    def __init__(self, pace: Pace = PACE, luck: float = 0.0) -> None:
        self.pace = pace
        self.budget = Budget(lambda _: self.pace, now, lambda: luck)
        #: (when, name) of each boarding, in order.
        self.boardings: list[tuple[float, str]] = []
        self.refusals: list[tuple[float, str, Failed]] = []
        self.waits_s: dict[str, list[float]] = {}

    @property
    def state(self) -> BudgetState:
        return self.budget.state()[ACCOUNT]

    @property
    def order(self) -> str:
        return " ".join(name for _, name in self.boardings)

    def ticket(self, who: Client, dies_at: float = math.inf) -> Ticket:
        return self.budget.ticket(ACCOUNT, who, dies_at)

    async def fly(self, ticket: Ticket, holds_s: float = 0.0, name: str = "") -> None:
        """One flight from its queue to its end."""
        name = name or ticket.client.name
        came = now()
        refused = await self.budget.enter(ticket)
        if refused is not None:
            self.refusals.append((now(), name, refused))
            return
        self.boardings.append((now(), name))
        self.waits_s.setdefault(name, []).append(now() - came)
        try:
            await asyncio.sleep(holds_s)
        finally:
            self.budget.leave(ticket)

    async def flood(self, who: Client, per_s: float, for_s: float, holds_s: float = 0.0) -> None:
        """So many fetches a second, come what may."""
        async with asyncio.TaskGroup() as flights:
            for _ in range(int(per_s * for_s)):
                flights.create_task(self.fly(self.ticket(who), holds_s))
                await asyncio.sleep(1 / per_s)

    async def drained(self) -> None:
        """Take the whole burst, as others would just have done."""
        for _ in range(self.pace.burst):
            assert at_once(self.budget)

    def counts(self, since: float = 0.0, until: float = math.inf) -> Counter[str]:
        return Counter(name for at, name in self.boardings if since <= at < until)

    def is_clean(self) -> bool:
        """Nothing is left of those who came."""
        queue = self.budget._queue(ACCOUNT)
        return (
            (self.state.waiting, self.state.in_flight) == (0, 0)
            and queue._timer is None
            and not queue._lines
            and not queue._waiting
            and not queue._repeats
        )


@contextmanager
def tasks() -> Iterator[Callable[[Awaitable[None]], asyncio.Task[None]]]:
    """Start tasks that nobody need wait for."""
    started: list[asyncio.Task[None]] = []

    def start(work: Awaitable[None]) -> asyncio.Task[None]:
        started.append(asyncio.ensure_future(work))
        return started[-1]

    yield start
    for task in started:
        task.cancel()


def at_once(budget: Budget) -> bool:
    """Ask once more, if that takes no wait."""
    asking = budget.again(ACCOUNT)
    try:
        asking.send(None)
    except StopIteration:
        return True
    asking.close()
    return False


def steps_of(awaitable: Awaitable[object]) -> int:
    """How often it suspends before it is done."""
    return sum(1 for _ in awaitable.__await__())


# -- where there is room ---------------------------------------------------------------------------------


@virtual
async def test_whoever_comes_after_the_longest_wait_is_refused_where_there_is_room() -> None:
    world = World()
    ticket = world.ticket(PARTNER)
    await asyncio.sleep(PACE.wait_s)
    await world.fly(ticket)
    assert len(world.refusals) == 1
    assert world.is_clean()


@virtual
async def test_whoever_finds_room_goes_at_once() -> None:
    world = World()
    ticket = world.ticket(PARTNER)
    assert steps_of(world.budget.enter(ticket)) == 0
    assert ticket.boarded
    assert ticket.turn.done()
    assert world.state == BudgetState(waiting=0, in_flight=1, pace=1.0)
    world.budget.leave(ticket)
    assert world.is_clean()


@virtual
async def test_accounts_have_budgets_of_their_own() -> None:
    world = World(replace(PACE, burst=1))
    for account in ("a", "b"):
        ticket = world.budget.ticket(account, SERVICE, math.inf)
        assert ticket.account == account
        assert steps_of(world.budget.enter(ticket)) == 0
    assert set(world.budget.state()) == {"a", "b"}


@virtual
async def test_the_rate_is_used_up_and_not_exceeded() -> None:
    world = World(replace(PACE, wait_s=5.0, queue=1000))
    await world.flood(SERVICE, 100, 4.0)
    assert world.counts(until=4.0)["service"] in range(10 + 199, 10 + 201)
    assert world.is_clean()


@virtual
async def test_places_are_used_up_and_not_exceeded() -> None:
    world = World(replace(PACE, in_flight=3, burst=50, wait_s=0.5))
    with tasks() as start:
        for _ in range(10):
            start(world.fly(world.ticket(SERVICE), holds_s=0.2))
        await asyncio.sleep(0.1)
        assert (world.state.in_flight, world.state.waiting) == (3, 7)
        await asyncio.sleep(0.9)
    assert [at for at, _ in world.boardings] == pytest.approx([0.0] * 3 + [0.2] * 3 + [0.4] * 3)
    assert len(world.refusals) == 1
    assert world.is_clean()


@virtual
async def test_a_pace_that_changes_is_seen_at_once() -> None:
    world = World(replace(PACE, in_flight=1))
    with tasks() as start:
        for _ in range(2):
            start(world.fly(world.ticket(SERVICE), holds_s=0.5))
        await asyncio.sleep(0.1)
        assert world.state.waiting == 1
        world.pace = replace(PACE, in_flight=5)
        start(world.fly(world.ticket(SERVICE), holds_s=0.5))
        await asyncio.sleep(0)
        assert world.state == BudgetState(waiting=0, in_flight=3, pace=1.0)


# -- the bounds, whatever happens ------------------------------------------------------------------------

CLIENTS = (FRONTEND, SERVICE, OTHER, PARTNER)
#: Steps of a schedule: (after how many seconds, what, whom it concerns or for how many tenths of a second).
STEPS = st.lists(
    st.tuples(
        st.sampled_from([0.0, 0.0, 0.0, 0.01, 0.03, 0.1, 0.4, 3.0]),
        st.sampled_from(["come", "come", "come", "come", "join", "cancel", "again", "429"]),
        st.integers(0, 30),
        st.sampled_from(CLIENTS),
    ),
    max_size=80,
)
PACES = st.builds(
    Pace,
    per_s=st.sampled_from([1.0, 7.0, 50.0, 300.0]),
    burst=st.integers(1, 12),
    in_flight=st.integers(1, 8),
    queue=st.integers(0, 6),
    wait_s=st.sampled_from([0.05, 0.5, 2.0]),
    reserve=st.sampled_from([0.0, 0.2, 0.5, 0.9]),
)


@dataclass
class Schedule:
    """A random life of one account, watched from outside."""

    world: World
    tickets: list[Ticket] = field(default_factory=list)
    flights: list[asyncio.Task[None]] = field(default_factory=list)
    repeats: list[asyncio.Task[None]] = field(default_factory=list)
    deadlines: dict[Ticket, float] = field(default_factory=dict)
    taken: list[float] = field(default_factory=list)
    paused: list[tuple[float, float]] = field(default_factory=list)

    async def run(self, steps: Sequence[tuple[float, str, int, Client]]) -> None:
        for after_s, what, number, who in steps:
            await asyncio.sleep(after_s)
            self.step(what, number, who)
            self.check()
        await asyncio.sleep(60.0)
        for flight in self.flights:
            if not flight.cancelled():
                flight.result()
        assert self.world.is_clean()
        assert all(ticket.turn.done() for ticket in self.tickets)

    def step(self, what: str, number: int, who: Client) -> None:
        wait_s = self.world.pace.wait_s
        if what == "come":
            ticket = self.world.ticket(who, dies_at=now() + number)
            self.tickets.append(ticket)
            self.flights.append(asyncio.create_task(self.fly(ticket, number / 10)))
            self.deadlines[ticket] = now() + wait_s
        elif what == "again":
            self.repeats.append(asyncio.create_task(self.again()))
            if number % 5 == 0:
                self.repeats[number % len(self.repeats)].cancel()
        elif what == "429":
            until = now() + number / 10
            self.world.budget.slow_down(ACCOUNT, until)
            self.paused.append((now(), until))
        elif self.tickets:
            index = number % len(self.tickets)
            if what == "cancel":
                self.flights[index].cancel()
            else:
                ticket = self.tickets[index]
                if not ticket.turn.done():
                    self.deadlines[ticket] = now() + wait_s
                ticket.join(who)

    async def again(self) -> None:
        await self.world.budget.again(ACCOUNT)
        self.taken.append(now())

    async def fly(self, ticket: Ticket, holds_s: float) -> None:
        refused = await self.world.budget.enter(ticket)
        assert now() <= self.deadlines[ticket] + 0.001
        if refused is not None:
            assert not ticket.boarded
            assert refused.reason is Reason.UPSTREAM_BUSY
            assert refused.retry_after_s is not None
            assert refused.retry_after_s >= 1
            return
        assert ticket.boarded
        self.taken.append(now())
        self.check()
        try:
            await asyncio.sleep(holds_s)
        finally:
            self.world.budget.leave(ticket)

    def check(self) -> None:
        if not self.world.budget.state():
            return
        state, pace = self.world.state, self.world.pace
        assert 0 <= state.in_flight <= pace.in_flight
        assert 0 <= state.waiting <= pace.queue
        assert SLOWEST <= state.pace <= 1.0


@given(PACES, STEPS)
def test_no_window_has_more_than_the_budget(pace: Pace, steps: list[tuple[float, str, int, Client]]) -> None:
    async def live() -> Schedule:
        schedule = Schedule(World(pace))
        await schedule.run(steps)
        return schedule

    schedule = simulate(live())
    taken = schedule.taken
    for (i, first), (j, last) in itertools.combinations(enumerate(taken), 2):
        assert j - i + 1 <= pace.per_s * (last - first) + pace.burst + 0.001
    for since, until in schedule.paused:
        assert not [at for at in taken if since < at < until - 1e-6]


# -- whose turn it is ------------------------------------------------------------------------------------


async def queue_up(world: World, *arrivals: tuple[Client, float, str]) -> None:
    """All come at once, in this order, to a budget that is used up; and all get their turn."""
    await world.drained()
    async with asyncio.TaskGroup() as flights:
        for who, dies_at, name in arrivals:
            flights.create_task(world.fly(world.ticket(who, dies_at), name=name))


@pytest.mark.parametrize(
    ("arrivals", "order"),
    [
        pytest.param([(SERVICE, 9, "a"), (SERVICE, 7, "b"), (SERVICE, 8, "c")], "b c a", id="nearest death"),
        pytest.param(
            [(SERVICE, 9, "a"), (SERVICE, 9, "b"), (SERVICE, 9, "c")], "a b c", id="order of coming"
        ),
        pytest.param(
            [(SERVICE, 1, "a"), (SERVICE, 2, "b"), (OTHER, 9, "x"), (OTHER, 8, "y")],
            "a y b x",
            id="no client has more because its chats are older",
        ),
        pytest.param(
            [(PARTNER, 0, "p"), (SERVICE, 0, "s"), (FRONTEND, 0, "f")], "f s p", id="the better first"
        ),
        pytest.param(
            [(PARTNER, 0, "p")] * 3 + [(FRONTEND, 0, "f")] * 9, "f p f f f f f f f f p p", id="by weight"
        ),
        pytest.param(
            [(SERVICE, 0, "s")] * 3 + [(PARTNER, 0, "p")] * 2 + [(OTHER, 0, "o")] * 3,
            "s o p s o s o p",
            id="three lines",
        ),
    ],
)
@virtual
async def test_the_order_of_the_queue(arrivals: list[tuple[Client, float, str]], order: str) -> None:
    world = World(ONE_BY_ONE)
    await queue_up(world, *arrivals)
    assert world.order == order
    assert world.is_clean()


@virtual
async def test_whoever_was_idle_has_saved_nothing_up() -> None:
    world = World(ONE_BY_ONE)
    with tasks() as start:
        start(world.flood(SERVICE, 20, 60.0))
        await asyncio.sleep(30)
        start(world.flood(OTHER, 20, 30.0))
        await asyncio.sleep(20)
    counts = world.counts(since=30.5)
    assert abs(counts["service"] - counts["other"]) <= 1


@virtual
async def test_whoever_was_passed_over_does_not_turn_time_back() -> None:
    world = World(replace(ONE_BY_ONE, burst=2, reserve=0.5))
    await world.drained()
    with tasks() as start:
        for who in [PARTNER] * 3 + [FRONTEND] * 20:
            start(world.fly(world.ticket(who)))
        await asyncio.sleep(10 * TENTH)
        assert world.order == "frontend " * 9 + "partner"
        for _ in range(5):
            start(world.fly(world.ticket(client("backend", Priority.HIGH))))
        await asyncio.sleep(4 * TENTH)
        assert world.order.endswith("partner backend frontend backend frontend")


@pytest.mark.parametrize(
    ("one", "other", "ratio"),
    [(SERVICE, OTHER, 1), (FRONTEND, PARTNER, 8), (FRONTEND, SERVICE, 2), (SERVICE, PARTNER, 4)],
    ids=lambda value: value.name if isinstance(value, Client) else str(value),
)
@pytest.mark.parametrize("reserve", [0.0, 0.2, 0.9])
@virtual
async def test_who_floods_gets_a_share_by_weight(
    one: Client, other: Client, ratio: int, reserve: float
) -> None:
    world = World(replace(PACE, reserve=reserve, in_flight=100, queue=10_000, wait_s=100.0))
    with tasks() as start:
        start(world.flood(one, 60, 20.0))
        start(world.flood(other, 60, 20.0))
        await asyncio.sleep(19)
    counts = world.counts(since=1.0)
    assert sum(counts.values()) in range(898, 903)
    assert counts[one.name] == pytest.approx(ratio * counts[other.name], rel=0.06)


@virtual
async def test_a_thousand_cold_chats_a_second_do_not_starve_the_frontend() -> None:
    world = World(replace(PACE, reserve=0.2))
    with tasks() as start:
        start(world.flood(PARTNER, 1000, 10.0, holds_s=0.1))
        start(world.flood(FRONTEND, 20, 10.0, holds_s=0.1))
        await asyncio.sleep(10)
    assert {name for _, name, _ in world.refusals} == {"partner"}
    assert len(world.waits_s["frontend"]) >= 199
    assert max(world.waits_s["frontend"]) <= 0.001
    # And what the frontend leaves is not wasted.
    assert world.counts(since=1.0)["partner"] in range(268, 273)


@virtual
async def test_the_frontend_waits_for_one_token_at_the_most_where_nothing_is_kept_for_it() -> None:
    world = World(replace(PACE, in_flight=100, reserve=0.0))
    with tasks() as start:
        start(world.flood(PARTNER, 1000, 10.0, holds_s=0.1))
        start(world.flood(FRONTEND, 20, 10.0, holds_s=0.1))
        await asyncio.sleep(10)
    assert max(world.waits_s["frontend"]) <= 1 / 50 + 0.002


@virtual
async def test_the_frontend_is_as_fast_where_it_joins_what_the_partner_opened() -> None:
    world = World(replace(PACE, reserve=0.2))
    with tasks() as start:
        start(world.flood(PARTNER, 1000, 6.0, holds_s=0.1))
        await asyncio.sleep(1)
        for _ in range(100):
            opened = world.ticket(PARTNER)
            start(world.fly(opened, holds_s=0.1, name="joined"))
            opened.join(FRONTEND)
            came = now()
            await asyncio.wait((opened.turn,))
            assert opened.boarded
            assert now() - came <= 0.001
            await asyncio.sleep(0.05)


# -- the reserve -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("who", "reserve", "of", "at_once"),
    [
        (FRONTEND, 0.5, 10, 10),
        (SERVICE, 0.5, 10, 7),
        (PARTNER, 0.5, 10, 5),
        (PARTNER, 0.0, 10, 10),
        (PARTNER, 0.25, 10, 7),
        (PARTNER, 0.9, 10, 1),
        (PARTNER, 0.9, 2, 1),
        (SERVICE, 0.9, 2, 1),
        (PARTNER, 0.9, 1, 1),
        (SERVICE, 0.9, 1, 1),
    ],
    ids=lambda value: value.name if isinstance(value, Client) else str(value),
)
@pytest.mark.parametrize("bound", ["burst", "in_flight"])
@virtual
async def test_what_is_left_to_the_better(
    who: Client, reserve: float, of: int, at_once: int, bound: str
) -> None:
    pace = replace(PACE, per_s=0.001, reserve=reserve, burst=1000, in_flight=1000)
    world = World(replace(pace, burst=of) if bound == "burst" else replace(pace, in_flight=of))
    with tasks() as start:
        for _ in range(of):
            start(world.fly(world.ticket(who), holds_s=0.5))
        await asyncio.sleep(0.1)
        assert len(world.boardings) == at_once
        for _ in range(of - at_once):
            start(world.fly(world.ticket(FRONTEND), holds_s=0.5))
        await asyncio.sleep(0)
        assert len(world.boardings) == of


@virtual
async def test_the_better_does_not_wait_until_there_is_room_for_the_less() -> None:
    world = World(replace(ONE_BY_ONE, burst=10, reserve=0.5))
    await world.drained()
    with tasks() as start:
        for who in (PARTNER, FRONTEND):
            start(world.fly(world.ticket(who)))
            await asyncio.sleep(0.01)
        await asyncio.sleep(1.0)
    assert world.order == "frontend partner"
    assert [at for at, _ in world.boardings] == pytest.approx([0.1, 0.7])


@virtual
async def test_the_smallest_budget_serves_the_least_client() -> None:
    world = World(Pace(per_s=1, burst=1, in_flight=1, queue=5, wait_s=10.0, reserve=0.9))
    await world.flood(PARTNER, 1, 5.0, holds_s=0.1)
    assert world.order == "partner partner partner partner partner"


@virtual
async def test_slow_fetches_of_the_least_take_one_place_of_the_reserve_at_the_most() -> None:
    world = World(replace(PACE, per_s=1000, burst=1000, in_flight=10, reserve=0.5, wait_s=5.0))
    with tasks() as start:
        start(world.flood(PARTNER, 20, 4.0, holds_s=100.0))
        start(world.flood(FRONTEND, 40, 4.0, holds_s=0.01))
        await asyncio.sleep(4)
        assert world.counts()["partner"] == 5
    assert max(world.waits_s["frontend"]) == 0


@virtual
async def test_the_least_is_served_where_the_better_hold_all_places_for_ever() -> None:
    world = World(replace(PACE, per_s=1000, burst=1000, in_flight=4, reserve=0.5, queue=1000, wait_s=100.0))
    with tasks() as start:
        start(world.flood(FRONTEND, 100, 10.0, holds_s=0.1))
        start(world.flood(PARTNER, 100, 10.0, holds_s=0.1))
        await asyncio.sleep(10)
    assert world.counts()["partner"] in range(38, 48)


# -- the queue -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("waiting", "newcomer", "refused"),
    [
        ((PARTNER, PARTNER), FRONTEND, 1),
        ((PARTNER, SERVICE), FRONTEND, 0),
        ((SERVICE, PARTNER), SERVICE, 1),
        ((SERVICE, OTHER), FRONTEND, 1),
        ((OTHER, SERVICE), FRONTEND, 1),
        ((SERVICE, OTHER), SERVICE, 2),
        ((SERVICE, OTHER), PARTNER, 2),
        ((PARTNER, PARTNER), PARTNER, 2),
        ((FRONTEND, FRONTEND), FRONTEND, 2),
        ((FRONTEND, FRONTEND), SERVICE, 2),
        # Not by priority alone: whoever fills the queue makes room in it.
        ((SERVICE, SERVICE), OTHER, 1),
    ],
    ids=lambda value: value.name if isinstance(value, Client) else str(value and ""),
)
@virtual
async def test_who_must_go_when_the_queue_is_full(
    waiting: tuple[Client, ...], newcomer: Client, refused: int
) -> None:
    world = World(replace(ONE_BY_ONE, queue=2))
    await world.drained()
    with tasks() as start:
        # The earlier in its line, the later it came: to be next is not to be oldest.
        tickets = [world.ticket(who, dies_at=-at) for at, who in enumerate((*waiting, newcomer))]
        for ticket in tickets:
            start(world.fly(ticket))
        await asyncio.sleep(0)
        assert [at for at, ticket in enumerate(tickets) if ticket.turn.done()] == [refused]
        assert not tickets[refused].boarded
        assert tickets[refused].refused is not None
        assert world.state.waiting == 2


@virtual
async def test_a_full_queue_takes_nothing_from_the_share_of_who_comes_seldom() -> None:
    # As many as the queue holds, again and again, of the same priority as the other who comes seldom.
    world = World(replace(PACE, per_s=50, burst=5, in_flight=50, queue=20, wait_s=1.0))
    with tasks() as start:
        start(world.flood(SERVICE, per_s=1000, for_s=10.0))
        start(world.flood(OTHER, per_s=5, for_s=10.0))
        await asyncio.sleep(11.0)
    assert not [name for _, name, _ in world.refusals if name == "other"]
    assert world.counts()["other"] == 50


@virtual
async def test_whoever_can_board_evicts_nobody() -> None:
    world = World(replace(PACE, queue=1, burst=2, per_s=0.1, reserve=0.5, in_flight=100))
    with tasks() as start:
        for who in (PARTNER, PARTNER, FRONTEND):
            start(world.fly(world.ticket(who)))
            await asyncio.sleep(0)
        assert world.order == "partner frontend"
        assert world.state.waiting == 1
        assert world.refusals == []


@virtual
async def test_whoever_waits_too_long_is_refused_in_time() -> None:
    world = World(replace(PACE, per_s=0.1, burst=1, wait_s=2.0))
    await world.drained()
    with tasks() as start:
        start(world.fly(world.ticket(PARTNER)))
        await asyncio.sleep(1.5)
        start(world.fly(world.ticket(FRONTEND)))
        await asyncio.sleep(2.5)
    assert [name for _, name, _ in world.refusals] == ["partner", "frontend"]
    assert [at for at, _, _ in world.refusals] == pytest.approx([2.0, 3.5])
    assert world.is_clean()


@pytest.mark.parametrize(
    ("pace", "waiting", "retry_after_s"),
    [
        pytest.param(replace(PACE, queue=0), 0, 1.0, id="never less than a second"),
        pytest.param(replace(PACE, queue=0, per_s=0.25), 0, 4.0, id="the next token"),
        pytest.param(replace(PACE, queue=9, per_s=2), 9, 5.0, id="after all who wait"),
    ],
)
@virtual
async def test_a_refusal_says_when_there_will_be_room(pace: Pace, waiting: int, retry_after_s: float) -> None:
    world = World(pace)
    await world.drained()
    with tasks() as start:
        for _ in range(waiting + 1):
            start(world.fly(world.ticket(SERVICE)))
        await asyncio.sleep(0)
        assert [refused.retry_after_s for _, _, refused in world.refusals] == [pytest.approx(retry_after_s)]


@virtual
async def test_a_refusal_counts_on_how_long_flights_take() -> None:
    world = World(replace(PACE, in_flight=2, queue=5, wait_s=10.0))
    await world.fly(world.ticket(SERVICE), holds_s=2.0)
    with tasks() as start:
        for _ in range(2 + 5 + 1):
            start(world.fly(world.ticket(SERVICE), holds_s=2.0))
        await asyncio.sleep(0)
        assert [refused.retry_after_s for _, _, refused in world.refusals] == [pytest.approx(6.0)]


@pytest.mark.parametrize(
    ("per_s", "until", "retry_after_s"),
    [
        # x/2 + x²/120 = 1: half the rate, growing for 30 s.
        pytest.param(1, 3.0, 3.0 + (math.sqrt(1 / 4 + 1 / 30) - 1 / 2) * 60, id="while it recovers"),
        # Those 30 s are worth 22.5 of 50.
        pytest.param(0.02, 3.0, 3.0 + 30.0 + 27.5, id="after it has recovered"),
    ],
)
@virtual
async def test_a_refusal_counts_the_pause_and_what_is_slow_after_it(
    per_s: float, until: float, retry_after_s: float
) -> None:
    world = World(replace(PACE, per_s=per_s, burst=1, queue=0))
    await world.drained()
    world.budget.slow_down(ACCOUNT, until)
    await world.fly(world.ticket(SERVICE))
    assert [refused.retry_after_s for _, _, refused in world.refusals] == [pytest.approx(retry_after_s)]


@pytest.mark.parametrize(
    ("per_s", "luck", "retry_after_s"),
    [
        pytest.param(50, 0.33, 1.0, id="short, one of three"),
        pytest.param(50, 0.34, 2.0, id="short, two of three"),
        pytest.param(50, 0.999, 3.0, id="short, three of three"),
        pytest.param(0.25, 0.999, 6.0, id="half as long again"),
        pytest.param(0.05, 0.5, 25.0, id="long, in the middle"),
        pytest.param(0.05, 0.999, 30.0, id="long, half as long again"),
    ],
)
@virtual
async def test_those_who_are_refused_together_do_not_come_back_together(
    per_s: float, luck: float, retry_after_s: float
) -> None:
    """By whole seconds: of less, nothing would be left when it is written."""
    world = World(replace(PACE, per_s=per_s, queue=0), luck)
    await world.drained()
    await world.fly(world.ticket(SERVICE))
    assert [refused.retry_after_s for _, _, refused in world.refusals] == [pytest.approx(retry_after_s)]
    assert world.budget.busy(ACCOUNT) == world.refusals[0][2]


@virtual
async def test_who_gives_up_is_told_what_the_refused_are_told() -> None:
    world = World(replace(PACE, queue=9, per_s=2))
    await world.drained()
    assert world.budget.busy(ACCOUNT) == Failed(Reason.UPSTREAM_BUSY, None, 1.0)
    with tasks() as start:
        for _ in range(9):
            start(world.fly(world.ticket(SERVICE)))
        await asyncio.sleep(0.25)
        # Half a token is there, and nine wait.
        assert world.budget.busy(ACCOUNT) == Failed(Reason.UPSTREAM_BUSY, None, 4.75)
        assert world.state.waiting == 9


# -- joining ---------------------------------------------------------------------------------------------


@virtual
async def test_joining_raises() -> None:
    world = World(ONE_BY_ONE)
    await world.drained()
    with tasks() as start:
        for name in "abcdefghi":
            start(world.fly(world.ticket(PARTNER), name=name))
        joined = world.ticket(PARTNER)
        start(world.fly(joined, name="joined"))
        await asyncio.sleep(0)
        joined.join(FRONTEND)
        await asyncio.sleep(TENTH)
        assert world.order == "joined"


@virtual
async def test_joining_opens_the_reserve() -> None:
    world = World(replace(PACE, per_s=0.01, burst=2, reserve=0.5))
    with tasks() as start:
        start(world.fly(world.ticket(PARTNER)))
        ticket = world.ticket(PARTNER)
        start(world.fly(ticket))
        await asyncio.sleep(0.5)
        assert world.state.waiting == 1
        ticket.join(FRONTEND)
        assert ticket.boarded
        assert ticket.turn.done()


@virtual
async def test_a_flight_is_the_better_clients_before_it_enters() -> None:
    world = World(replace(PACE, per_s=0.01, burst=2, reserve=0.5))
    await world.fly(world.ticket(PARTNER))
    ticket = world.ticket(PARTNER)
    ticket.join(FRONTEND)
    assert steps_of(world.budget.enter(ticket)) == 0
    assert ticket.boarded


@virtual
async def test_joining_never_lowers() -> None:
    world = World(replace(PACE, per_s=0.01, burst=2, reserve=0.5))
    await world.fly(world.ticket(PARTNER))
    ticket = world.ticket(FRONTEND)
    ticket.join(PARTNER)
    assert steps_of(world.budget.enter(ticket)) == 0


@pytest.mark.parametrize("joiner", [PARTNER, FRONTEND], ids=lambda who: who.name)
@virtual
async def test_the_last_to_join_has_the_whole_wait(joiner: Client) -> None:
    world = World(replace(PACE, per_s=0.01, burst=1, wait_s=2.0))
    await world.drained()
    with tasks() as start:
        joined, alone = world.ticket(PARTNER), world.ticket(PARTNER)
        start(world.fly(joined, name="joined"))
        start(world.fly(alone, name="alone"))
        await asyncio.sleep(1.5)
        joined.join(joiner)
        await asyncio.sleep(2.5)
    assert [name for _, name, _ in world.refusals] == ["alone", "joined"]
    assert [at for at, _, _ in world.refusals] == pytest.approx([2.0, 3.5])


@virtual
async def test_whoever_joins_a_client_of_the_same_rank_keeps_its_place() -> None:
    world = World(replace(ONE_BY_ONE, queue=2))
    await world.drained()
    with tasks() as start:
        tickets = [world.ticket(SERVICE), world.ticket(SERVICE)]
        for ticket in tickets:
            start(world.fly(ticket))
        await asyncio.sleep(0)
        tickets[0].join(OTHER)
        start(world.fly(world.ticket(FRONTEND)))
        await asyncio.sleep(0)
        assert [ticket.turn.done() for ticket in tickets] == [False, True]


@virtual
async def test_joining_a_flight_that_waits_no_longer_changes_nothing() -> None:
    world = World(replace(PACE, in_flight=1, queue=0))
    boarded, refused = world.ticket(PARTNER), world.ticket(PARTNER)
    assert await world.budget.enter(boarded) is None
    assert await world.budget.enter(refused) is not None
    for ticket in (boarded, refused):
        ticket.join(FRONTEND)
        assert ticket.client is PARTNER
    assert world.state == BudgetState(waiting=0, in_flight=1, pace=1.0)


# -- a 429 -----------------------------------------------------------------------------------------------


@virtual
async def test_a_429_pauses_then_halves_and_the_rate_comes_back_evenly() -> None:
    world = World(replace(PACE, in_flight=1000, queue=10_000, wait_s=100.0))
    with tasks() as start:
        start(world.flood(SERVICE, 100, 70.0))
        await asyncio.sleep(5)
        world.budget.slow_down(ACCOUNT, until=10.0)
        assert world.state.pace == 0.5
        for at, pace in ((10, 0.5), (25, 0.75), (40, 1.0), (70, 1.0)):
            await asyncio.sleep(at - now())
            assert world.state.pace == pytest.approx(pace)
    assert not [at for at, _ in world.boardings if 5.0 < at < 10.0]
    assert world.counts(10, 11)["service"] in range(24, 28)
    assert world.counts(10, 10.04)["service"] in {1, 2}
    # Half of the rate to begin with, all of it in the end: three quarters on average.
    assert world.counts(10, 40)["service"] in range(1122, 1128)
    assert world.counts(40, 60)["service"] in range(998, 1003)


@virtual
async def test_all_429s_until_the_end_of_the_pause_are_one() -> None:
    world = World()
    for until in (3.0, 5.0, 4.0):
        world.budget.slow_down(ACCOUNT, until)
        assert world.state.pace == 0.5
        await asyncio.sleep(0.5)
    await asyncio.sleep(5.0 - now() - 0.001)
    assert not at_once(world.budget)
    await asyncio.sleep(0.002)
    assert at_once(world.budget)


@virtual
async def test_the_pace_is_never_slowed_to_nothing() -> None:
    world = World()
    seen = []
    for _ in range(6):
        world.budget.slow_down(ACCOUNT, until=now() + 0.001)
        seen.append(world.state.pace)
        await asyncio.sleep(0.001)
    assert seen == pytest.approx([1 / 2, 1 / 4, 1 / 8, SLOWEST, SLOWEST, SLOWEST], rel=0.01)
    await asyncio.sleep(RECOVERY_S)
    assert world.state.pace == 1.0


@virtual
async def test_a_429_that_names_no_time_to_come_slows_down_all_the_same() -> None:
    world = World()
    await asyncio.sleep(100.0)
    world.budget.slow_down(ACCOUNT, until=1.0)
    assert world.state.pace == 0.5
    assert at_once(world.budget)
    assert not at_once(world.budget)


@virtual
async def test_the_next_token_is_not_missed_while_the_rate_recovers() -> None:
    world = World(replace(PACE, per_s=1, burst=1, wait_s=100.0))
    await world.drained()
    for _ in range(4):
        await asyncio.sleep(0.001)
        world.budget.slow_down(ACCOUNT, until=now())
    slowed = now()
    await world.fly(world.ticket(SERVICE))
    # x/16 + x²/64 = 1
    assert now() - slowed == pytest.approx((math.sqrt(1 / 256 + 1 / 16) - 1 / 16) * 32, abs=0.05)


# -- one more --------------------------------------------------------------------------------------------


@virtual
async def test_whoever_asks_once_more_does_so_at_once_where_there_is_a_token() -> None:
    world = World(replace(PACE, per_s=10, burst=1, in_flight=1))
    assert at_once(world.budget)
    assert not at_once(world.budget)
    await asyncio.sleep(TENTH)
    assert at_once(world.budget)


@virtual
async def test_whoever_asks_once_more_goes_before_everyone_who_waits() -> None:
    world = World(replace(PACE, per_s=10, burst=1, in_flight=10))
    await world.drained()
    told: list[str] = []

    async def again() -> None:
        await world.budget.again(ACCOUNT)
        told.append(f"again at {now():.1f}")

    with tasks() as start:
        for _ in range(3):
            start(world.fly(world.ticket(FRONTEND)))
        await asyncio.sleep(0.01)
        for _ in range(2):
            start(again())
        await asyncio.sleep(0.45)
    assert told == ["again at 0.1", "again at 0.2"]
    assert [round(at, 1) for at, _ in world.boardings] == [0.3, 0.4]


@virtual
async def test_whoever_asks_once_more_waits_for_the_end_of_a_pause_and_may_leave() -> None:
    world = World()
    world.budget.slow_down(ACCOUNT, until=5.0)
    waiting = [asyncio.create_task(world.budget.again(ACCOUNT)) for _ in range(2)]
    await asyncio.sleep(4.9)
    assert not any(task.done() for task in waiting)
    waiting[0].cancel()
    await asyncio.wait(waiting)
    assert now() == pytest.approx(5.0, abs=0.01)
    assert (waiting[0].cancelled(), world.is_clean()) == (True, True)


# -- whoever leaves leaves nothing -----------------------------------------------------------------------


@virtual
async def test_whoever_is_cancelled_in_the_queue_leaves_nothing() -> None:
    world = World(ONE_BY_ONE)
    await world.drained()
    tickets = [world.ticket(SERVICE) for _ in range(3)]
    flights = [
        asyncio.create_task(world.fly(ticket, name=name)) for ticket, name in zip(tickets, "abc", strict=True)
    ]
    await asyncio.sleep(0)
    flights[0].cancel()
    await asyncio.sleep(0.01)
    assert world.state.waiting == 2
    assert tickets[0].turn.done()
    assert not tickets[0].boarded
    await asyncio.wait(flights)
    assert world.order == "b c"
    assert world.is_clean()


@virtual
async def test_the_last_to_be_cancelled_leaves_no_timer() -> None:
    world = World(ONE_BY_ONE)
    await world.drained()
    flight = asyncio.create_task(world.fly(world.ticket(SERVICE)))
    await asyncio.sleep(0)
    assert not world.is_clean()
    flight.cancel()
    await asyncio.wait((flight,))
    assert world.is_clean()


@virtual
async def test_whoever_is_cancelled_as_its_turn_comes_gives_its_place_back() -> None:
    world = World(replace(PACE, in_flight=1))
    first, second, third = (world.ticket(SERVICE) for _ in range(3))
    assert await world.budget.enter(first) is None
    flights = [asyncio.create_task(world.fly(ticket)) for ticket in (second, third)]
    await asyncio.sleep(0)
    world.budget.leave(first)
    assert second.boarded
    flights[0].cancel()
    await asyncio.wait(flights)
    assert third.boarded
    assert world.is_clean()


class Asked(World):
    """It counts how often somebody looked at the budget."""

    def __init__(self, pace: Pace, clock: Callable[[], float]) -> None:
        super().__init__(pace)
        self.asked = 0
        self.budget = Budget(self._ask, clock)

    def _ask(self, account: str) -> Pace:
        del account
        self.asked += 1
        return self.pace


@pytest.mark.parametrize(
    ("pace", "paused"),
    [
        pytest.param(replace(PACE, in_flight=1), False, id="for a place"),
        pytest.param(replace(PACE, burst=2, reserve=0.5, per_s=0.1), False, id="for room beside the reserve"),
        pytest.param(replace(PACE, burst=1, per_s=0.1), False, id="for a token"),
        pytest.param(PACE, True, id="for the end of a pause"),
    ],
)
@virtual
async def test_waiting_is_no_polling(pace: Pace, paused: bool) -> None:
    world = Asked(replace(pace, wait_s=5.0), now)
    if paused:
        world.budget.slow_down(ACCOUNT, until=10.0)
    with tasks() as start:
        for _ in range(2):
            start(world.fly(world.ticket(PARTNER), holds_s=10.0))
        await asyncio.sleep(0)
        before = world.asked
        await asyncio.sleep(4)
        assert world.state.waiting >= 1
        assert world.asked <= before + 1


@pytest.mark.anyio
async def test_waiting_is_no_polling_on_the_loop_that_is_shipped() -> None:
    world = Asked(replace(PACE, per_s=300, burst=1, wait_s=10.0), time.monotonic)
    async with asyncio.TaskGroup() as flights:
        for _ in range(20):
            flights.create_task(world.fly(world.ticket(SERVICE)))
    assert len(world.boardings) == 20
    # Each comes, leaves, and is waited for with two timers at the most.
    assert world.asked <= 20 * 4 + 1
