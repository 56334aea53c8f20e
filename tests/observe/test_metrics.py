"""The families: documented, complete, and right in their arithmetic."""

from __future__ import annotations

import asyncio
import platform
import re
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from gateway import __version__
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
    breakers=lambda: {"123": "open", "456": "closed", "789": "half-open"},
    load=lambda: Load(11, 12, 0.25, 13, 14, 1.5),
    counts=lambda: {"entries": 50, "slots": 51},
    evictions=lambda: {"entries": 52},
    sent=lambda: {"bff": 53},
    waiters=lambda: 54,
    watches=lambda: 55,
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
    desk.tell(delivered(How.HIT), dies_at=39.5)
    desk.tell(delivered(How.STALE, instead_of=Reason.UPSTREAM_ERROR))
    violated = Refusal(Reason.RATE_LIMITED, standing=Standing(violated=("requests",)), because="-")
    desk.tell(refused(violated, rule="partner/allow/info", shadows=(SHADOW,)))
    desk.observer.asked(OF_CHAT, FAILED, "bff", 0.1)
    desk.observer.stream_opened("bff", "info")
    desk.observer.stream_sent("bff", "info", "event", 10)
    desk.observer.stream_closed(OF_CHAT, "bff", "gone", 12.5)
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
        ("event_loop_lag_seconds", 0.25),
        ("event_loop_lag_max_seconds", 1.5),
        ('kept{kind="slots"}', 51),
        ('evictions_total{kind="entries"}', 52),
        ('response_body_bytes_total{client="bff"}', 53),
        ("waiters", 54),
        ("watches", 55),
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


def test_who_runs_says_so() -> None:
    said = f'python="{platform.python_version()}",version="{__version__}"'
    assert Desk().exposed()[f"chat_gateway_build_info{{{said}}}"] == 1


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
        desk.hit()
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


#: Each way to answer, and whether its age and its chat's slack count.
COUNTED = {
    How.HIT: (True, True),
    How.STALE: (True, True),
    How.MISS: (True, False),
    How.COLLAPSED: (True, False),
    How.WAITED: (True, False),
    How.FORWARD: (False, False),
    How.WRITE: (False, False),
    How.STREAM: (False, False),
}


@pytest.mark.parametrize("how", How)
def test_age_counts_for_what_is_shared_and_slack_for_what_was_kept(how: How) -> None:
    desk = Desk()
    desk.tell(delivered(how), now=0.7, dies_at=39.9)
    exposed = desk.exposed()
    age = exposed.get('chat_gateway_answer_age_seconds_sum{resource="info"}')
    slack = exposed.get("chat_gateway_keepalive_slack_seconds_sum")
    assert (age, slack) == (
        pytest.approx(0.7) if COUNTED[how][0] else None,
        pytest.approx(39.2) if COUNTED[how][1] else None,
    )


def test_ages_and_slack_have_buckets_of_their_own() -> None:
    desk = Desk()
    for now in (0.05, 0.75, 0.8):
        desk.tell(delivered(How.HIT), now=now, dies_at=33.75)
    desk.tell(delivered(How.HIT), now=400.0)
    exposed = desk.exposed()
    age = "chat_gateway_answer_age_seconds_bucket"
    slack = "chat_gateway_keepalive_slack_seconds_bucket"
    assert [
        exposed[f'{age}{{le="{le}",resource="info"}}'] for le in ("0.1", "0.5", "0.75", "1.0", "+Inf")
    ] == [
        1,
        1,
        2,
        3,
        4,
    ]
    assert [exposed[f'{slack}{{le="{le}"}}'] for le in ("32.0", "33.0", "34.0", "+Inf")] == [0, 2, 3, 3]


def test_what_the_upstream_took_is_counted_for_each_request() -> None:
    desk = Desk()
    for seconds in (0.004, 0.3):
        desk.observer.asked(OF_CHAT, FAILED, "bff", seconds)
    exposed = desk.exposed()
    family = "chat_gateway_upstream_duration_seconds"
    assert exposed[f'{family}_bucket{{le="0.005",resource="info"}}'] == 1
    assert exposed[f'{family}_count{{resource="info"}}'] == 2
    assert exposed[f'{family}_sum{{resource="info"}}'] == pytest.approx(0.304)


def test_streams_are_counted_from_first_to_last() -> None:
    desk = Desk()
    for client in ("bff", "bff", "partner"):
        desk.observer.stream_opened(client, "info")
    for kind in ("info", "heartbeat", "info"):
        desk.observer.stream_sent("bff", "info", kind, 10)
    desk.observer.stream_closed(OF_CHAT, "bff", "token-expired", 12.5)
    streams = {
        sample.removeprefix("chat_gateway_"): value
        for sample, value in desk.exposed().items()
        if "_stream" in sample
    }
    assert streams == {
        'streams{client="bff",resource="info"}': 1,
        'streams{client="partner",resource="info"}': 1,
        'streams_opened_total{client="bff",resource="info"}': 2,
        'streams_opened_total{client="partner",resource="info"}': 1,
        'streams_closed_total{client="bff",resource="info",why="token-expired"}': 1,
        'stream_messages_total{kind="info",resource="info"}': 2,
        'stream_messages_total{kind="heartbeat",resource="info"}': 1,
    }
    assert desk.exposed()['chat_gateway_response_body_bytes_total{client="bff"}'] == 30
