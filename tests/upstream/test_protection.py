"""What is held back after failures: targets by steps, accounts by pauses and by their breaker."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.errors import Reason
from gateway.core.freshness import Failed
from gateway.core.messages import Key, Representation
from gateway.upstream.protection import FIRST_OPEN_S, LAST_OPEN_S, LAST_STEP_S, TRIP, Breaker, Protection

ACCOUNT, OTHER = "1", "2"
#: A chat that is asked for again and again.
NOISY = "noisy"
RESET = Failed(Reason.UPSTREAM_RESET)
LIFELESS = [
    Reason.UPSTREAM_ERROR,
    Reason.UPSTREAM_RESET,
    Reason.UPSTREAM_TIMEOUT,
    Reason.UPSTREAM_UNREACHABLE,
]
#: Somebody was there to be asked.
SICK = [reason for reason in LIFELESS if reason is not Reason.UPSTREAM_UNREACHABLE]
LIVELY = [
    Reason.UPSTREAM_THROTTLED,
    Reason.UPSTREAM_REDIRECT,
    Reason.UPSTREAM_BROKEN,
    Reason.UPSTREAM_MISMATCH,
    Reason.KEY_REFUSED,
]


def key(chat: int) -> Key:
    return f"/chat/{chat}", "v=1", Representation.JSON


@dataclass
class World:
    """Protection on a hand clock. Whose a request is, is somebody new's each time, unless it is said."""

    now: float = 100.0
    protection: Protection = field(init=False)
    chats: Iterator[str] = field(default_factory=lambda: map(str, itertools.count()))

    def __post_init__(self) -> None:
        self.protection = Protection(lambda: self.now, lambda: LAST_STEP_S)

    def fail(
        self,
        times: int = 1,
        reason: Reason = Reason.UPSTREAM_RESET,
        account: str = ACCOUNT,
        whose: str | None = None,
    ) -> None:
        for _ in range(times):
            self.protection.failed(account, None, Failed(reason), whose or next(self.chats))

    def hold(self, shared: Key | None = None) -> Failed | None:
        return self.protection.hold(ACCOUNT, shared, next(self.chats))

    def admit(self, whose: str | None = None) -> Failed | None:
        return self.protection.admit(ACCOUNT, whose or next(self.chats))

    def state(self, account: str = ACCOUNT) -> Breaker:
        return self.protection.state().get(account, Breaker.CLOSED)

    def left_s(self, whose: str | None = None) -> float:
        """What is left of the breaker's step; 0 if the next request would be sent."""
        hold = self.protection.hold(ACCOUNT, None, whose or next(self.chats))
        if hold is None:
            return 0.0
        assert hold.reason is Reason.UPSTREAM_DOWN
        assert hold.retry_after_s is not None
        return hold.retry_after_s


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def tripped() -> World:
    world = World()
    world.fail(TRIP)
    return world


# -- when it opens ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("reason", LIFELESS)
def test_so_many_in_a_row_open_it(world: World, reason: Reason) -> None:
    world.fail(TRIP - 1, reason)
    assert (world.state(), world.left_s()) == (Breaker.CLOSED, 0.0)
    world.fail(1, reason)
    assert (world.state(), world.left_s()) == (Breaker.OPEN, FIRST_OPEN_S)
    assert world.admit() == Failed(Reason.UPSTREAM_DOWN, None, FIRST_OPEN_S)


@pytest.mark.parametrize("reason", LIVELY)
def test_an_answer_of_any_other_kind_is_a_sign_of_life(world: World, reason: Reason) -> None:
    world.fail(TRIP - 1)
    world.fail(1, reason)
    world.fail(TRIP - 1)
    assert world.state() is Breaker.CLOSED
    world.fail(1)
    assert world.state() is Breaker.OPEN
    world.fail(1, reason)
    assert world.state() is Breaker.CLOSED


@pytest.mark.parametrize("shared", [None, key(1)])
def test_a_success_in_between_starts_the_count_anew(world: World, shared: Key | None) -> None:
    world.fail(TRIP - 1)
    world.protection.succeeded(ACCOUNT, shared)
    world.fail(TRIP - 1)
    assert world.state() is Breaker.CLOSED


def test_requests_of_all_kinds_count_together(world: World) -> None:
    for chat in range(TRIP):
        failed = Failed(LIFELESS[chat % 4])
        world.protection.failed(ACCOUNT, key(chat) if chat % 2 else None, failed, str(chat))
    assert world.state() is Breaker.OPEN


@pytest.mark.parametrize("shared", [None, key(1)])
@pytest.mark.parametrize("reason", SICK)
def test_a_sick_chat_says_nothing_of_the_others(world: World, reason: Reason, shared: Key | None) -> None:
    for _ in range(10 * TRIP):
        world.protection.failed(ACCOUNT, shared, Failed(reason), NOISY)
    assert (world.state(), world.left_s(), world.admit()) == (Breaker.CLOSED, 0.0, None)
    # It is one of the ten, and only one.
    world.fail(TRIP - 2)
    world.fail(TRIP, reason, whose=NOISY)
    assert world.state() is Breaker.CLOSED
    world.fail()
    assert world.state() is Breaker.OPEN


def test_where_nobody_is_there_one_chat_is_enough(world: World) -> None:
    world.fail(TRIP - 1, Reason.UPSTREAM_UNREACHABLE, whose=NOISY)
    assert world.state() is Breaker.CLOSED
    world.fail(1, Reason.UPSTREAM_UNREACHABLE, whose=NOISY)
    assert (world.state(), world.left_s()) == (Breaker.OPEN, FIRST_OPEN_S)


def test_nobody_there_and_sick_chats_count_together(world: World) -> None:
    world.fail(TRIP - 2, Reason.UPSTREAM_UNREACHABLE, whose=NOISY)
    world.fail(TRIP, whose=NOISY)
    assert world.state() is Breaker.CLOSED
    world.fail()
    assert world.state() is Breaker.OPEN


def test_accounts_have_breakers_of_their_own(tripped: World) -> None:
    assert tripped.protection.hold(OTHER, None, NOISY) is None
    assert tripped.protection.admit(OTHER, NOISY) is None
    tripped.protection.succeeded(OTHER, None)
    assert tripped.state() is Breaker.OPEN
    tripped.fail(1, account=OTHER)
    assert dict(tripped.protection.state()) == {ACCOUNT: Breaker.OPEN, OTHER: Breaker.CLOSED}


# -- while it is open ------------------------------------------------------------------------------------


def test_after_a_step_exactly_one_request_probes(tripped: World) -> None:
    tripped.now += FIRST_OPEN_S
    assert tripped.state() is Breaker.HALF_OPEN
    assert tripped.admit() is None
    assert tripped.state() is Breaker.OPEN
    for _ in range(3):
        assert tripped.admit() == Failed(Reason.UPSTREAM_DOWN, None, 2 * FIRST_OPEN_S)


def test_to_look_is_not_to_probe(tripped: World) -> None:
    tripped.now += FIRST_OPEN_S
    for _ in range(3):
        assert tripped.hold() is None
        assert tripped.hold(key(1)) is None
    assert tripped.state() is Breaker.HALF_OPEN
    assert tripped.admit() is None


@pytest.mark.parametrize("ends", [True, False], ids=["it fails", "it never ends"])
def test_with_each_probe_the_step_doubles_up_to_its_bound(tripped: World, *, ends: bool) -> None:
    steps = []
    for _ in range(6):
        steps.append(tripped.left_s())
        tripped.now += tripped.left_s()
        assert tripped.admit() is None
        if ends:
            tripped.fail()
    assert steps == [0.5, 1.0, 2.0, 2.0, 2.0, 2.0]


def test_who_has_probed_lets_another_go_first(tripped: World) -> None:
    tripped.now += FIRST_OPEN_S
    assert tripped.admit(NOISY) is None
    assert (tripped.left_s(), tripped.left_s(NOISY)) == (1.0, 2.0)
    tripped.now += 1.0
    assert tripped.state() is Breaker.HALF_OPEN
    assert tripped.admit(NOISY) == Failed(Reason.UPSTREAM_DOWN, None, 1.0)
    assert tripped.admit("another") is None
    # Now it is the other's turn to wait.
    assert (tripped.left_s(), tripped.left_s(NOISY), tripped.left_s("another")) == (2.0, 2.0, 4.0)
    tripped.now += 2.0
    assert tripped.admit("another") == Failed(Reason.UPSTREAM_DOWN, None, 2.0)
    assert tripped.admit(NOISY) is None


def test_where_nobody_else_asks_the_same_probes_after_another_step(tripped: World) -> None:
    waits = []
    for _ in range(5):
        waits.append(tripped.left_s(NOISY))
        tripped.now += tripped.left_s(NOISY)
        assert tripped.admit(NOISY) is None
    assert waits == [0.5, 2.0, 4.0, 4.0, 4.0]


TICK_S = 1 / 64


@pytest.mark.parametrize("every", [1, 7, 16, 32, 150], ids=lambda every: f"{every / 64:.2f} s")
@pytest.mark.parametrize("rest", [1, 45, 333], ids=lambda rest: f"{rest / 64:.2f} s")
def test_beside_a_noisy_chat_a_polite_one_probes_within_five_seconds(
    tripped: World, every: int, rest: int
) -> None:
    """It comes when it was told to, in whole seconds, and asks again a while after each probe in vain."""
    waits: list[float] = []
    first = at = rest
    for tick in range(200 * 64):
        tripped.now += TICK_S
        if tick % every == 0:
            tripped.admit(NOISY)
        if tick != at:
            continue
        hold = tripped.admit("polite")
        if hold is None:
            waits.append((tick - first) * TICK_S)
            first = at = tick + rest
        else:
            at += 64 * math.ceil(hold.retry_after_s or 0.0)
    assert len(waits) > 20
    assert max(waits) <= LAST_STEP_S


def test_failures_of_what_was_sent_before_are_no_probes(tripped: World) -> None:
    tripped.fail(5 * TRIP)
    assert tripped.left_s() == FIRST_OPEN_S
    tripped.now += FIRST_OPEN_S
    assert tripped.admit() is None
    tripped.fail(5 * TRIP)
    assert tripped.left_s() == 2 * FIRST_OPEN_S


@pytest.mark.parametrize("probes", [0, 1, 4])
def test_a_success_closes_at_once_and_wholly(tripped: World, probes: int) -> None:
    """Also that of a request sent before: the upstream answers."""
    for _ in range(probes):
        tripped.now += tripped.left_s()
        tripped.admit()
    tripped.protection.succeeded(ACCOUNT, None)
    assert (tripped.state(), tripped.left_s()) == (Breaker.CLOSED, 0.0)
    tripped.fail(TRIP - 1)
    assert tripped.state() is Breaker.CLOSED
    tripped.fail()
    assert tripped.left_s() == FIRST_OPEN_S


def test_a_pause_is_told_first_and_keeps_the_probe_back(tripped: World) -> None:
    pause = Failed(Reason.UPSTREAM_THROTTLED, 429, 2.0)
    tripped.protection.failed(ACCOUNT, None, pause, NOISY)
    tripped.fail(TRIP)
    tripped.now += FIRST_OPEN_S
    assert tripped.admit() == Failed(Reason.UPSTREAM_THROTTLED, 429, 1.5)
    tripped.now += 1.5
    assert tripped.admit() is None
    assert tripped.left_s() == 2 * FIRST_OPEN_S


def test_of_all_that_stands_the_longest_is_told(world: World) -> None:
    for _ in range(TRIP):
        world.now += LAST_STEP_S
        world.protection.failed(ACCOUNT, key(1), RESET, next(world.chats))
    assert world.hold(key(1)) == Failed(RESET.reason, None, LAST_STEP_S)
    assert world.hold(key(2)) == Failed(Reason.UPSTREAM_DOWN, None, FIRST_OPEN_S)
    world.now += FIRST_OPEN_S
    # Where others may probe, what is held is held.
    assert world.hold(key(1)) == Failed(RESET.reason, None, LAST_STEP_S - FIRST_OPEN_S)
    assert world.hold(key(2)) is None
    for _ in range(4):
        assert world.admit() is None
        world.now += world.left_s()
    world.admit()
    assert world.hold(key(1)) == Failed(Reason.UPSTREAM_DOWN, None, LAST_OPEN_S)
    world.protection.failed(ACCOUNT, key(3), RESET, next(world.chats))
    assert world.hold(key(3)) == Failed(Reason.UPSTREAM_DOWN, None, LAST_OPEN_S)


def test_what_is_somewhere_else_from_now_on_is_asked_at_once(tripped: World) -> None:
    tripped.protection.failed(ACCOUNT, key(1), RESET, next(tripped.chats))
    tripped.protection.forget_targets()
    assert tripped.hold(key(1)) is None
    assert tripped.state() is Breaker.CLOSED
    tripped.fail(TRIP - 1)
    assert tripped.state() is Breaker.CLOSED


# -- always ----------------------------------------------------------------------------------------------

#: How long after the one before, what happens, and whose it is.
HAPPENINGS = st.lists(
    st.tuples(
        st.just(0.0) | st.floats(0.0, 3.0),
        st.sampled_from(["ask", "ask", "ask", "look", "sick", "outage", "nobody", "throttled", "succeed"]),
        st.sampled_from("abc"),
    ),
    max_size=120,
)


@given(HAPPENINGS)
def test_never_longer_than_five_seconds_and_never_two_in_a_step(
    happenings: list[tuple[float, str, str]],
) -> None:
    """Against a breaker as simple as can be: a row, until when nobody is sent, and who waits longer."""
    world = World()
    row: list[str] = []
    until, step_s, prober, paused_until = 0.0, 0.0, "", 0.0
    for passed_s, what, whose in happenings:
        world.now += passed_s
        left_s = max(until + (step_s if whose == prober else 0.0), paused_until) - world.now
        assert left_s <= LAST_STEP_S + 1e-9
        match what:
            case "ask":
                admitted = world.admit(whose) is None
                assert admitted == (left_s <= 0)
                if admitted and until:
                    step_s, prober = min(2 * step_s, LAST_OPEN_S), whose
                    until = world.now + step_s
            case "look":
                hold = world.protection.hold(ACCOUNT, None, whose)
                assert (hold and hold.retry_after_s) == (left_s if left_s > 0 else None)
            case "sick":
                row += [whose] * (whose not in row)
                world.fail(TRIP, whose=whose)
            case "outage":
                row += ["somebody's"] * TRIP
                world.fail(TRIP)
            case "nobody":
                row += ["nobody's"] * 4
                world.fail(4, Reason.UPSTREAM_UNREACHABLE, whose=whose)
            case _:
                row, until, step_s, prober = [], 0.0, 0.0, ""
                if what == "succeed":
                    world.protection.succeeded(ACCOUNT, None)
                else:
                    paused_until = max(paused_until, world.now + 1.0)
                    world.fail(1, Reason.UPSTREAM_THROTTLED, whose=whose)
        if len(row) >= TRIP and not until:
            step_s = FIRST_OPEN_S
            until = world.now + step_s
        is_open = Breaker.CLOSED if not until else Breaker.OPEN if world.now < until else Breaker.HALF_OPEN
        assert world.state() is is_open
