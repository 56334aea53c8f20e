"""The families: documented, complete, and right in their arithmetic."""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from gateway.core.errors import Reason, Refusal
from gateway.core.limits import Standing
from gateway.core.replies import How
from gateway.observe.metrics import (
    BUCKETS_S,
    LINES_AT_ONCE,
    Durations,
    Family,
    Gauges,
    Load,
    Metrics,
    Reloads,
    Shared,
)
from tests.observe.trips import FAILED, OF_CHAT, SHADOW, Desk, delivered, refused

PAGE = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text()


@dataclass(frozen=True)
class Keys:
    failures: int
    age: float | None

    def age_s(self) -> float | None:
        return self.age


@dataclass(frozen=True)
class AccountBudget:
    waiting: int
    in_flight: int
    pace: float


GAUGES = Gauges(
    flights=lambda: 3,
    keys=lambda: {"https://issuer.example": Keys(2, 12.5), "https://never.example": Keys(7, None)},
    reloads=lambda: Reloads(1_795_343_223.0, 4, failed=True, policies_version=5),
    budgets=lambda: {"123": AccountBudget(8, 6, 0.5)},
    revocations=lambda: 9,
    kept=lambda: {"entries": (10, 20), "tokens": (30, 40)},
    breakers=lambda: {"123": True, "456": False},
    load=lambda: Load(11, 12, 0.25, 13, 14),
    shared=lambda: Shared(
        up=True,
        whole=False,
        replicas=4,
        commands={("look", "ok"): 21, ("look", "none"): 22},
        failures={"timeout": 23},
        flights={"led": 24, "followed": 25},
        silent_replicas=26,
        missed_messages=27,
        foreign=28,
    ),
)


def full() -> Desk:
    """A desk in which every family has a sample."""
    desk = Desk()
    desk.metrics.gauges = GAUGES
    desk.metrics.repeats["123"] += 1
    trip = delivered(How.HIT)
    desk.tell(trip)
    desk.tell(delivered(How.STALE, instead_of=Reason.UPSTREAM_ERROR))
    violated = Refusal(Reason.RATE_LIMITED, standing=Standing(violated=("requests",)), because="-")
    desk.tell(refused(violated, rule="partner/allow/info", shadows=(SHADOW,)))
    desk.observer.asked(OF_CHAT, FAILED, "bff")
    return desk


def described(one: Family) -> tuple[str, str, frozenset[str]]:
    """Its name as it is exposed, its type and its labels."""
    [family] = one.collect()
    name = f"{family.name}_total" if family.type == "counter" else family.name
    assert family.samples, name
    return name, family.type, frozenset(family.samples[0].labels) - {"le"}


def test_every_family_is_documented_and_no_other() -> None:
    rows = re.findall(r"^\| `(chat_gateway_\w+)` \| (\w+) \| ([^|]*)\|", PAGE, re.MULTILINE)
    documented = [(name, kind, frozenset(re.findall(r"`(\w+)`", labels))) for name, kind, labels in rows]
    exposed = [described(family) for family in full().metrics.families()]
    assert len(documented) == len(set(documented))
    assert set(documented) == set(exposed)


def test_alerts_ask_for_families_that_exist() -> None:
    names = set(re.findall(r"chat_gateway_\w+", PAGE))
    assert names == {described(family)[0] for family in full().metrics.families()}


@pytest.mark.parametrize(
    ("sample", "value"),
    [
        ("flights", 3),
        ('budget_waiting{account="123"}', 8),
        ('budget_in_flight{account="123"}', 6),
        ('budget_pace_ratio{account="123"}', 0.5),
        ("reload_failures_total", 4),
        ("reload_failed", 1),
        ("reload_success_timestamp_seconds", 1_795_343_223.0),
        ("policies_version", 5),
        ('key_set_age_seconds{issuer="https://issuer.example"}', 12.5),
        ('key_set_age_seconds{issuer="https://never.example"}', None),
        ('key_set_fetch_failures_total{issuer="https://never.example"}', 7),
        ("revocations", 9),
        ('kept_bytes{kind="entries"}', 10),
        ('kept_bytes_limit{kind="entries"}', 20),
        ('kept_bytes{kind="tokens"}', 30),
        ('kept_bytes_limit{kind="grants"}', None),
        ("shared_up", 1),
        ("shared_whole", 0),
        ("shared_replicas", 4),
        ('shared_commands_total{command="look",outcome="ok"}', 21),
        ('shared_commands_total{command="look",outcome="none"}', 22),
        ('shared_failures_total{kind="timeout"}', 23),
        ('shared_flights_total{role="followed"}', 25),
        ("shared_silent_replicas_total", 26),
        ("shared_missed_messages_total", 27),
        ("shared_foreign_total", 28),
    ],
)
def test_gauges_are_looked_up(sample: str, value: float | None) -> None:
    desk = full()
    assert desk.exposed().get(f"chat_gateway_{sample}") == value


def test_a_new_process_has_zeros() -> None:
    text = Metrics().exposition().decode()
    assert "chat_gateway_crashes_total 0.0" in text
    assert "chat_gateway_flights 0.0" in text


def test_who_shares_nothing_has_nothing_to_say_of_it() -> None:
    assert "chat_gateway_shared" not in Metrics().exposition().decode()


def test_a_label_is_escaped() -> None:
    desk = Desk()
    desk.tell(delivered(How.HIT, 'b"f\n'))
    assert any('client="b\\"f\\n"' in line for line in desk.metrics.exposition().decode().split("\n"))


# -- a scrape --------------------------------------------------------------------------------------


def busy() -> Desk:
    """A desk with more rows than are written at once, of counters and of durations."""
    desk = full()
    for index in range(2 * LINES_AT_ONCE + 1):
        desk.metrics.road.requests["bff", f"resource-{index}", "200", "hit"] += index
        desk.metrics.durations[f"resource-{index}", "hit"].observe(0.004)
    return desk


def test_a_family_is_said_once_however_many_rows_it_has() -> None:
    metrics = busy().metrics
    text = metrics.exposition().decode()
    for said in ("# HELP ", "# TYPE "):
        assert text.count(said) == len(metrics.families())
    exposed = list(text_string_to_metric_families(text))
    made = [family for taken in metrics.families() for family in taken.collect()]
    assert [(family.name, family.type, family.documentation) for family in exposed] == [
        (family.name, family.type, family.documentation) for family in made
    ]
    assert [family.samples for family in exposed] == [family.samples for family in made]


@pytest.mark.anyio
async def test_a_scrape_lets_requests_in_and_does_not_count_them() -> None:
    desk = busy()
    before = desk.metrics.exposition()
    scrape = asyncio.create_task(desk.metrics.scrape())
    await asyncio.sleep(0)
    turns = 0
    while not scrape.done():
        desk.tell(delivered(How.HIT))
        desk.observer.hits("bff", "bff/allow/chat:read", "info").hit(None, "x", 200, 10, 0.1, desk.wall)
        desk.metrics.crashes += 1
        turns += 1
        await asyncio.sleep(0)
    told, process, _ = (await scrape).partition(b"# HELP process_")
    assert told == before
    assert process
    pieces = [piece for family in busy().metrics.families() for piece in family.pieces()]
    assert turns >= len(pieces) - 1
    assert max(len(piece.splitlines()) for piece in pieces) <= LINES_AT_ONCE + 2


# -- durations -------------------------------------------------------------------------------------


@given(st.lists(st.one_of(st.sampled_from(BUCKETS_S), st.floats(0, 20))))
def test_a_bucket_counts_what_took_at_most_its_bound(took_s: list[float]) -> None:
    durations = Durations()
    for seconds in took_s:
        durations.observe(seconds)
    buckets = durations.buckets()
    assert [bound for bound, _ in buckets] == [*map(str, BUCKETS_S), "+Inf"]
    assert buckets == [
        (bound, sum(seconds <= float(bound.replace("+Inf", "inf")) for seconds in took_s))
        for bound, _ in buckets
    ]
    assert durations.sum_s == pytest.approx(sum(took_s))


def test_durations_are_exposed_by_resource_and_outcome() -> None:
    desk = Desk()
    for seconds in (0.0004, 0.003, 0.003, 99.0):
        desk.tell(delivered(How.HIT), seconds)
    exposed = desk.exposed()
    family = "chat_gateway_request_duration_seconds"
    of_hits = 'outcome="hit",resource="info"'
    assert exposed[f'{family}_bucket{{le="0.0005",{of_hits}}}'] == 1
    assert exposed[f'{family}_bucket{{le="0.005",{of_hits}}}'] == 3
    assert exposed[f'{family}_bucket{{le="10.0",{of_hits}}}'] == 3
    assert exposed[f'{family}_bucket{{le="+Inf",{of_hits}}}'] == 4
    assert exposed[f"{family}_count{{{of_hits}}}"] == 4
    assert exposed[f"{family}_sum{{{of_hits}}}"] == pytest.approx(99.0064)
