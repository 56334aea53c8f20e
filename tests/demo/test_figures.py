"""What Cache-Status says, and percentiles."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.demo.figures import COLLAPSED, HIT, MISS, OTHER, STALE, Spread, outcome


@pytest.mark.parametrize(
    ("cache_status", "expected"),
    [
        ("chat-gateway; hit; ttl=0", HIT),
        ("chat-gateway; hit; ttl=-1; detail=upstream-timeout", STALE),
        ("chat-gateway; fwd=miss; fwd-status=200; stored", MISS),
        ("chat-gateway; fwd=miss; fwd-status=200; collapsed", COLLAPSED),
        ("chat-gateway; fwd=bypass; fwd-status=200", OTHER),
        ("", OTHER),
    ],
)
def test_outcomes(cache_status: str, expected: str) -> None:
    assert outcome(cache_status) == expected


@given(st.lists(st.integers(0, 20_000), min_size=1), st.sampled_from([50, 99, 100]))
def test_a_percentile_is_the_nearest_rank(tenths: list[int], percent: int) -> None:
    spread = Spread()
    for step in tenths:
        spread.add(step / 10_000)
    expected = sorted(tenths)[math.ceil(len(tenths) * percent / 100) - 1]
    measured = spread.percentile_ms(percent)
    assert measured is not None
    # A duration between two steps counts as the longer.
    assert round(measured * 10) - expected in {0, 1}


def test_nothing_has_no_percentile() -> None:
    assert Spread().percentile_ms(99) is None
