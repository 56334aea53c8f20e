from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.limits import Rate
from gateway.identity.failures import MAX_PEERS, Failures
from tests.identity.world import Clock


def spent(failures: Failures, peer: str) -> bool:
    return failures.wait_s(peer) > 0


def test_a_burst_and_then_the_rate() -> None:
    clock = Clock(1000.3)
    failures = Failures(lambda: Rate(1.0, 60), clock)
    for _ in range(60):
        assert not spent(failures, "192.0.2.1")
        failures.charge("192.0.2.1")
    assert failures.wait_s("192.0.2.1") == pytest.approx(1.0)
    for _ in range(1000):  # makes nothing worse
        failures.charge("192.0.2.1")
    clock.now += 1.001
    assert not spent(failures, "192.0.2.1")
    failures.charge("192.0.2.1")
    assert spent(failures, "192.0.2.1")
    clock.now += 100
    assert not spent(failures, "192.0.2.1")


@given(
    st.lists(st.floats(0.0, 3.0), min_size=1, max_size=60),
    st.floats(0.1, 50.0),
    st.integers(1, 10),
)
def test_over_any_window(pauses: list[float], per_s: float, burst: int) -> None:
    clock = Clock(1e6)
    failures = Failures(lambda: Rate(per_s, burst), clock)
    times: list[float] = []
    for pause in pauses:
        clock.now += pause
        if not spent(failures, "peer"):
            times.append(clock.now)
        failures.charge("peer")
    for first, begin in enumerate(times):
        for last in range(first, len(times)):
            assert last - first + 1 <= per_s * (times[last] - begin) + burst + 1e-6


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("192.0.2.1", "192.0.2.1", True),
        ("192.0.2.1", "192.0.2.2", False),
        ("2001:db8::1", "2001:db8::ffff:1", True),
        ("2001:db8::1", "2001:db8:0:0:8000::", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("2001:DB8::1", "2001:db8::2", True),
        ("fe80::1%eth0", "fe80::2", True),
        ("::ffff:192.0.2.1", "192.0.2.1", True),
        ("::ffff:192.0.2.1", "::ffff:192.0.2.2", False),
        ("::1", "::ffff:192.0.2.1", False),
        ("", "", True),
        ("", "192.0.2.1", False),
    ],
)
def test_whose_count_it_is(one: str, other: str, same: bool) -> None:
    failures = Failures(lambda: Rate(1.0, 1), Clock())
    failures.charge(one)
    assert spent(failures, other) is same


def test_the_rate_is_asked_for_each_time() -> None:
    rate = Rate(1.0, 1)
    failures = Failures(lambda: rate, Clock())
    failures.charge("peer")
    assert spent(failures, "peer")
    rate = Rate(1.0, 2)
    assert not spent(failures, "peer")


def test_the_peers_are_bounded() -> None:
    failures = Failures(lambda: Rate(1.0, 1), Clock())
    for number in range(MAX_PEERS + 10):
        failures.charge(f"10.0.{number // 256}.{number % 256}")
    assert len(failures._arrivals) == MAX_PEERS
    assert not spent(failures, "10.0.0.0")
    assert spent(failures, f"10.0.{MAX_PEERS // 256}.{MAX_PEERS % 256}")


def test_who_only_asks_is_not_kept() -> None:
    failures = Failures(lambda: Rate(1.0, 1), Clock())
    assert not spent(failures, "peer")
    assert len(failures._arrivals) == 0


def test_forgiving() -> None:
    failures = Failures(lambda: Rate(1.0, 1), Clock())
    failures.charge("peer")
    failures.forgive()
    assert not spent(failures, "peer")
