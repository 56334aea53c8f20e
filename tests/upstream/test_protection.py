"""What is held back after failures: targets by steps, accounts by pauses and by their breaker."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.errors import Reason
from gateway.core.freshness import Failed
from gateway.core.messages import Key, Representation
from gateway.upstream.protection import FIRST_OPEN_S, LAST_OPEN_S, LAST_STEP_S, TRIP, Breaker, Protection

ACCOUNT, OTHER = "1", "2"
RESET = Failed(Reason.UPSTREAM_RESET)
LIFELESS = [
    Reason.UPSTREAM_ERROR,
    Reason.UPSTREAM_RESET,
    Reason.UPSTREAM_TIMEOUT,
    Reason.UPSTREAM_UNREACHABLE,
]
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
    """Protection on a hand clock."""

    now: float = 100.0
    protection: Protection = field(init=False)

    def __post_init__(self) -> None:
        self.protection = Protection(lambda: self.now, lambda: LAST_STEP_S)

    def fail(self, times: int = 1, reason: Reason = Reason.UPSTREAM_RESET, account: str = ACCOUNT) -> None:
        for _ in range(times):
            self.protection.failed(account, None, Failed(reason))

    def state(self, account: str = ACCOUNT) -> Breaker:
        return self.protection.state().get(account, Breaker.CLOSED)

    def left_s(self) -> float:
        """What is left of the breaker's step; 0 if the next request would be sent."""
        hold = self.protection.hold(ACCOUNT, None)
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
    assert world.protection.admit(ACCOUNT) == Failed(Reason.UPSTREAM_DOWN, None, FIRST_OPEN_S)


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
        world.protection.failed(ACCOUNT, key(chat) if chat % 2 else None, Failed(LIFELESS[chat % 4]))
    assert world.state() is Breaker.OPEN


def test_accounts_have_breakers_of_their_own(tripped: World) -> None:
    assert tripped.protection.hold(OTHER, None) is None
    assert tripped.protection.admit(OTHER) is None
    tripped.protection.succeeded(OTHER, None)
    assert tripped.state() is Breaker.OPEN
    tripped.fail(1, account=OTHER)
    assert dict(tripped.protection.state()) == {ACCOUNT: Breaker.OPEN, OTHER: Breaker.CLOSED}


# -- while it is open ------------------------------------------------------------------------------------


def test_after_a_step_exactly_one_request_probes(tripped: World) -> None:
    tripped.now += FIRST_OPEN_S
    assert tripped.state() is Breaker.HALF_OPEN
    assert tripped.protection.admit(ACCOUNT) is None
    assert tripped.state() is Breaker.OPEN
    for _ in range(3):
        assert tripped.protection.admit(ACCOUNT) == Failed(Reason.UPSTREAM_DOWN, None, 2 * FIRST_OPEN_S)


def test_to_look_is_not_to_probe(tripped: World) -> None:
    tripped.now += FIRST_OPEN_S
    for _ in range(3):
        assert tripped.protection.hold(ACCOUNT, None) is None
        assert tripped.protection.hold(ACCOUNT, key(1)) is None
    assert tripped.state() is Breaker.HALF_OPEN
    assert tripped.protection.admit(ACCOUNT) is None


@pytest.mark.parametrize("ends", [True, False], ids=["it fails", "it never ends"])
def test_with_each_probe_the_step_doubles_up_to_its_bound(tripped: World, *, ends: bool) -> None:
    steps = []
    for _ in range(6):
        steps.append(tripped.left_s())
        tripped.now += tripped.left_s()
        assert tripped.protection.admit(ACCOUNT) is None
        if ends:
            tripped.fail()
    assert steps == [0.5, 1.0, 2.0, 2.0, 2.0, 2.0]


def test_failures_of_what_was_sent_before_are_no_probes(tripped: World) -> None:
    tripped.fail(5 * TRIP)
    assert tripped.left_s() == FIRST_OPEN_S
    tripped.now += FIRST_OPEN_S
    assert tripped.protection.admit(ACCOUNT) is None
    tripped.fail(5 * TRIP)
    assert tripped.left_s() == 2 * FIRST_OPEN_S


@pytest.mark.parametrize("probes", [0, 1, 4])
def test_a_success_closes_at_once_and_wholly(tripped: World, probes: int) -> None:
    """Also that of a request sent before: the upstream answers."""
    for _ in range(probes):
        tripped.now += tripped.left_s()
        tripped.protection.admit(ACCOUNT)
    tripped.protection.succeeded(ACCOUNT, None)
    assert (tripped.state(), tripped.left_s()) == (Breaker.CLOSED, 0.0)
    tripped.fail(TRIP - 1)
    assert tripped.state() is Breaker.CLOSED
    tripped.fail()
    assert tripped.left_s() == FIRST_OPEN_S


def test_a_pause_is_told_first_and_keeps_the_probe_back(tripped: World) -> None:
    pause = Failed(Reason.UPSTREAM_THROTTLED, 429, 2.0)
    tripped.protection.failed(ACCOUNT, None, pause)
    tripped.fail(TRIP)
    tripped.now += FIRST_OPEN_S
    assert tripped.protection.admit(ACCOUNT) == Failed(Reason.UPSTREAM_THROTTLED, 429, 1.5)
    tripped.now += 1.5
    assert tripped.protection.admit(ACCOUNT) is None
    assert tripped.left_s() == 2 * FIRST_OPEN_S


def test_of_all_that_stands_the_longest_is_told(world: World) -> None:
    for _ in range(TRIP):
        world.now += LAST_STEP_S
        world.protection.failed(ACCOUNT, key(1), RESET)
    assert world.protection.hold(ACCOUNT, key(1)) == Failed(RESET.reason, None, LAST_STEP_S)
    assert world.protection.hold(ACCOUNT, key(2)) == Failed(Reason.UPSTREAM_DOWN, None, FIRST_OPEN_S)
    world.now += FIRST_OPEN_S
    # Where others may probe, what is held is held.
    assert world.protection.hold(ACCOUNT, key(1)) == Failed(RESET.reason, None, LAST_STEP_S - FIRST_OPEN_S)
    assert world.protection.hold(ACCOUNT, key(2)) is None
    for _ in range(4):
        assert world.protection.admit(ACCOUNT) is None
        world.now += world.left_s()
    world.protection.admit(ACCOUNT)
    assert world.protection.hold(ACCOUNT, key(1)) == Failed(Reason.UPSTREAM_DOWN, None, LAST_OPEN_S)
    world.protection.failed(ACCOUNT, key(3), RESET)
    assert world.protection.hold(ACCOUNT, key(3)) == Failed(Reason.UPSTREAM_DOWN, None, LAST_OPEN_S)


def test_what_is_somewhere_else_from_now_on_is_asked_at_once(tripped: World) -> None:
    tripped.protection.failed(ACCOUNT, key(1), RESET)
    tripped.protection.forget_targets()
    assert tripped.protection.hold(ACCOUNT, key(1)) is None
    assert tripped.state() is Breaker.CLOSED
    tripped.fail(TRIP - 1)
    assert tripped.state() is Breaker.CLOSED


# -- always ----------------------------------------------------------------------------------------------

HAPPENINGS = st.lists(
    st.one_of(
        st.floats(0.0, 3.0),  # so much time passes
        st.sampled_from(["ask", "ask", "look", "fail", "outage", "throttled", "succeed"]),
    ),
    max_size=120,
)


@given(HAPPENINGS)
def test_never_longer_than_a_step_and_never_two_in_one(happenings: list[float | str]) -> None:
    """Against a breaker as simple as can be: a row, and until when nobody is sent."""
    world = World()
    row, until, step_s, paused_until = 0, 0.0, 0.0, 0.0
    for happening in happenings:
        left_s = max(until, paused_until) - world.now
        assert left_s <= LAST_STEP_S + 1e-9
        match happening:
            case "ask":
                admitted = world.protection.admit(ACCOUNT) is None
                assert admitted == (left_s <= 0)
                if admitted and until:
                    step_s = min(2 * step_s, LAST_OPEN_S)
                    until = world.now + step_s
            case "look":
                assert (world.protection.hold(ACCOUNT, None) is None) == (left_s <= 0)
            case "fail" | "outage":
                failures = 1 if happening == "fail" else TRIP
                row += failures
                if row >= TRIP and not until:
                    step_s = FIRST_OPEN_S
                    until = world.now + step_s
                world.fail(failures)
            case "throttled":
                row, until = 0, 0.0
                paused_until = max(paused_until, world.now + 1.0)
                world.fail(1, Reason.UPSTREAM_THROTTLED)
            case "succeed":
                row, until = 0, 0.0
                world.protection.succeeded(ACCOUNT, None)
            case float():
                world.now += happening
        is_open = Breaker.CLOSED if not until else Breaker.OPEN if world.now < until else Breaker.HALF_OPEN
        assert world.state() is is_open
