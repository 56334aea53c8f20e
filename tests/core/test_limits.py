"""Rates by the generic cell rate algorithm, and the fields that tell of them."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.limits import (
    UNCOUNTED,
    UNUSED,
    Left,
    Rate,
    Standing,
    advanced,
    carried,
    remaining,
    taken,
    wait_s,
)

TEN = Rate(10, 4)

rates = st.builds(
    Rate,
    st.integers(1, 1000).map(float) | st.integers(1, 6000).map(lambda minute: minute / 60),
    st.integers(1, 30),
)
#: Uptimes in seconds, as a monotonic clock tells them.
nows = st.integers(0, 10**10).map(lambda milliseconds: milliseconds / 1000)


def used(rate: Rate, times: int, now: float) -> float:
    tat = UNUSED
    for _ in range(times):
        tat = advanced(tat, rate, now)
    return tat


@pytest.mark.parametrize(
    ("times", "later_s", "left", "wait", "more"),
    [
        (0, 0.0, 4, 0.0, 0.0),
        (1, 0.0, 3, 0.0, 0.1),
        (3, 0.0, 1, 0.0, 0.1),
        (4, 0.0, 0, 0.1, 0.1),
        (4, 0.05, 0, 0.05, 0.05),
        (4, 0.15, 1, 0.0, 0.05),
        (4, 0.45, 4, 0.0, 0.0),
        (4, 9.0, 4, 0.0, 0.0),
    ],
)
def test_what_is_used_comes_back_at_the_rate(
    times: int, later_s: float, left: int, wait: float, more: float
) -> None:
    tat, now = used(TEN, times, 1000.0), 1000.0 + later_s
    many, more_in_s = remaining(tat, TEN, now)
    assert many == left
    assert more_in_s == pytest.approx(more, abs=1e-6)
    assert wait_s(tat, TEN, now) == pytest.approx(wait, abs=1e-6)


@given(rates, nows)
def test_a_burst_is_exact_wherever_the_clock_stands(rate: Rate, now: float) -> None:
    tat = UNUSED
    for left in range(rate.burst, 0, -1):
        assert remaining(tat, rate, now)[0] == left
        assert wait_s(tat, rate, now) == 0
        tat = advanced(tat, rate, now)
    assert remaining(tat, rate, now)[0] == 0
    assert wait_s(tat, rate, now) > 0


@given(rates, nows, st.data())
def test_waits_are_neither_too_short_nor_too_long(rate: Rate, now: float, data: st.DataObject) -> None:
    tat = used(rate, data.draw(st.integers(1, rate.burst)), now)
    left, more = remaining(tat, rate, now)
    assert remaining(tat, rate, now + more)[0] == left + 1
    assert remaining(tat, rate, now + more * 0.99)[0] == left
    wait = wait_s(tat, rate, now)
    assert wait == (0 if left else more)


@given(rates, nows, st.floats(-1, 9), st.data())
def test_to_take_one_is_to_advance_and_look(
    rate: Rate, now: float, later_s: float, data: st.DataObject
) -> None:
    tat = used(rate, data.draw(st.integers(0, rate.burst)), now)
    after = advanced(tat, rate, now + later_s)
    assert taken(tat, rate, now + later_s) == (after, *remaining(after, rate, now + later_s))


@given(rates)
def test_the_rate_is_kept_to_and_not_far_below(rate: Rate) -> None:
    assert 1 <= rate.interval_s * rate.per_s < 1.0001


# -- any window --------------------------------------------------------------------------------------------

#: How many milliseconds pass before each request.
_pauses = st.lists(st.sampled_from([0, 0, 0, 1, 7]) | st.integers(0, 3000), min_size=1, max_size=60)


def _bounded(admitted: Sequence[int], allowed: Fraction, burst: int) -> None:
    """In no window that begins and ends with a request (in ms) are there more than rate * window + burst."""
    for first, start in enumerate(admitted):
        for last, end in enumerate(admitted[first:], first):
            assert last - first + 1 <= allowed * (end - start) + burst


@pytest.mark.parametrize("per_s", [Fraction(20), Fraction(30), Fraction(7, 60), Fraction(100, 60)])
@given(burst=st.integers(1, 9), pauses=_pauses)
def test_over_any_window_no_more_than_rate_and_burst(per_s: Fraction, burst: int, pauses: list[int]) -> None:
    rate, tat, at, admitted = Rate(float(per_s), burst), UNUSED, 0, []
    for pause in pauses:
        at += pause
        if wait_s(tat, rate, at / 1000) == 0:
            tat = advanced(tat, rate, at / 1000)
            admitted.append(at)
    assert admitted
    _bounded(admitted, per_s / 1000, burst)


_changing = st.lists(
    st.tuples(
        st.integers(0, 3000),
        st.sampled_from([None, 1, 5, 30]),
        st.integers(1, 9),
        st.sampled_from([0, 1, 3, 99]),
    )
)


@given(st.integers(1, 9), _changing)
def test_a_change_of_limits_is_never_a_gift(
    burst: int, steps: list[tuple[int, int | None, int, int]]
) -> None:
    """A window that begins under one limit holds no more than that limit's burst and what came at the rates
    of the time."""
    rate, tat, at = Rate(10, burst), UNUSED, 0
    #: (ms, drips until then in thousandths, burst then), of each request that was admitted
    admitted: list[tuple[int, int, int]] = []
    drips = 0
    for pause, per_s, new_burst, wanted in steps:
        at += pause
        drips += pause * int(rate.per_s)
        if per_s is not None:
            new = Rate(per_s, new_burst)
            tat = carried(tat, rate, new, at / 1000)
            assert wait_s(tat, new, at / 1000) <= new.interval_s
            rate = new
        for _ in range(min(wanted, remaining(tat, rate, at / 1000)[0])):
            tat = advanced(tat, rate, at / 1000)
            admitted.append((at, drips, rate.burst))
    for first, (_, before, burst_then) in enumerate(admitted):
        for last, (_, until, _) in enumerate(admitted[first:], first):
            assert (last - first + 1 - burst_then) * 1000 <= until - before


@given(rates, rates, nows, st.data())
def test_a_change_takes_no_more_than_the_new_burst_cannot_hold(
    old: Rate, new: Rate, now: float, data: st.DataObject
) -> None:
    tat = used(old, data.draw(st.integers(0, old.burst)), now)
    left = min(remaining(tat, old, now)[0], new.burst)
    tat = carried(tat, old, new, now)
    for expected in range(left, -1, -1):
        assert remaining(tat, new, now)[0] == expected
        tat = advanced(tat, new, now)


# -- what clients are told ---------------------------------------------------------------------------------

REQUESTS = Left("requests", 40, 39, 2, 1)
A_DAY = Left("requests-per-day", 9, 0, 86_400, 47)
IN_FLIGHT = Left("in-flight", 2, 0)
OF_INFO = Left("info.requests", 1, 1, 9, 0)


@pytest.mark.parametrize(
    ("standing", "policy", "left"),
    [
        (Standing((REQUESTS,)), b'"requests";q=40;w=2', b'"requests";r=39;t=1'),
        (
            Standing((A_DAY, OF_INFO)),
            b'"requests-per-day";q=9;w=86400, "info.requests";q=1;w=9',
            b'"requests-per-day";r=0;t=47, "info.requests";r=1;t=0',
        ),
        (
            Standing((REQUESTS, IN_FLIGHT), ("in-flight",), 1.0),
            b'"requests";q=40;w=2, "in-flight";q=2;qu="concurrent-requests"',
            b'"in-flight";r=0',
        ),
    ],
)
def test_the_fields_are_structured_lists(standing: Standing, policy: bytes, left: bytes) -> None:
    assert standing.lines == b"ratelimit-policy: %b\r\nratelimit: %b\r\n" % (policy, left)


def test_who_has_no_limits_gets_no_fields() -> None:
    assert UNCOUNTED.lines == b""
