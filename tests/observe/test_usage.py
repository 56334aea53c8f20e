"""Who used how much: by UTC day, and never more days than are remembered."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.observe.usage import DAYS, Usage

DAY_S = 86_400
MIDNIGHT = 1_795_305_600.0  # 2026-11-22T00:00:00Z


class Calendar:
    """Turned by hand."""

    def __init__(self, wall: float = MIDNIGHT) -> None:
        self.wall = wall
        self.usage = Usage(lambda: self.wall)

    def rows(self) -> list[tuple[str | int, ...]]:
        return [(row["day"], row["client"], row["requests"]) for row in self.usage.table()]


@pytest.mark.parametrize(
    ("before_s", "day"), [(0.0, "2026-11-22"), (0.001, "2026-11-21"), (-86_399.999, "2026-11-22")]
)
def test_a_day_begins_at_midnight_utc(before_s: float, day: str) -> None:
    it = Calendar(MIDNIGHT - before_s)
    it.usage.today("bff").requests += 1
    assert it.rows() == [(day, "bff", 1)]


def test_rows_are_in_order_and_can_be_said_in_json() -> None:
    it = Calendar()
    for wall, client in ((MIDNIGHT + DAY_S, "bff"), (MIDNIGHT, "partner"), (MIDNIGHT, "bff")):
        it.wall = wall
        it.usage.today(client).requests += 1
    assert it.rows() == [("2026-11-22", "bff", 1), ("2026-11-22", "partner", 1), ("2026-11-23", "bff", 1)]
    assert json.loads(json.dumps(it.usage.table())) == it.usage.table()


@given(st.lists(st.tuples(st.integers(-90, 90), st.sampled_from("abc")), max_size=150))
def test_the_last_days_are_remembered_whatever_the_clock_does(requests: list[tuple[int, str]]) -> None:
    it = Calendar()
    for day, client in requests:
        it.wall = MIDNIGHT + day * DAY_S
        it.usage.today(client).requests += 1
    table = it.usage.table()
    days = {str(row["day"]) for row in table}
    assert len(days) == min(DAYS, len({day for day, _ in requests}))
    if len(requests) < DAYS:
        assert sum(int(row["requests"]) for row in table) == len(requests)


def test_the_oldest_day_goes_first() -> None:
    it = Calendar()
    for day in range(DAYS + 1):
        it.wall = MIDNIGHT + day * DAY_S
        it.usage.today("bff").requests += 1
    days = [day for day, _, _ in it.rows()]
    assert (len(days), days[0], days[-1]) == (DAYS, "2026-11-23", "2026-12-23")


def test_bytes_stay_counted_when_their_day_is_forgotten() -> None:
    it = Calendar()
    for day in range(DAYS + 5):
        it.wall = MIDNIGHT + day * DAY_S
        it.usage.today("bff").bytes_sent += 2
        it.usage.today("partner").bytes_sent += 1
    it.usage.learn(int(it.wall // DAY_S), {"bff/bytes_sent": 9})
    assert it.usage.sent() == {"bff": 2 * (DAYS + 5), "partner": DAYS + 5}


# -- of several replicas -----------------------------------------------------------------------------------

TODAY = int(MIDNIGHT // DAY_S)


def test_what_others_counted_is_added() -> None:
    it = Calendar()
    row = it.usage.today("bff")
    row.requests += 2
    it.usage.learn(TODAY, {"bff/requests": 5, "bff/bytes_sent": 9, "partner/fetches": 1})
    it.usage.learn(TODAY - 1, {"bff/requests": 1})
    # The row is still counted on, and what is known is not taken back.
    row.requests += 1
    it.usage.learn(TODAY, {"bff/requests": 4})
    assert it.rows() == [("2026-11-21", "bff", 1), ("2026-11-22", "bff", 8), ("2026-11-22", "partner", 0)]
    assert [(row["bytes_sent"], row["fetches"]) for row in it.usage.table()[1:]] == [(9, 0), (0, 1)]


def test_what_was_counted_here_is_told_without_what_others_counted() -> None:
    it = Calendar()
    it.usage.today("bff").requests += 2
    it.usage.today("-").refused += 1
    it.usage.learn(TODAY, {"bff/requests": 5})
    assert it.usage.counted(TODAY) == {"bff/requests": 2, "-/refused": 1}
    assert it.usage.counted(TODAY - 1) == {}


@pytest.mark.parametrize("name", ["bff/sausages", "bff", "", "bff/requests/more", "bff/__class__"])
def test_what_is_no_field_is_not_learned(name: str) -> None:
    it = Calendar()
    it.usage.learn(TODAY, {name: 5})
    assert it.rows() == []


def test_of_others_too_only_the_last_days_are_remembered() -> None:
    it = Calendar()
    for day in range(TODAY, TODAY + DAYS + 5):
        it.usage.learn(day, {"bff/requests": 1})
    assert len(it.rows()) == DAYS
    assert it.rows()[-1][0] == "2026-12-27"


def test_each_field_is_documented_and_no_other() -> None:
    page = (Path(__file__).parents[2] / "docs" / "operating.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \|", page.split("\n## Usage\n")[1], re.MULTILINE)
    it = Calendar()
    it.usage.today("bff")
    assert rows == list(it.usage.table()[0])


@given(st.lists(st.tuples(st.integers(0, 90), st.sampled_from("abc"), st.booleans()), max_size=60))
def test_since_the_start_all_is_counted_also_of_days_that_are_forgotten(
    requests: list[tuple[int, str, bool]],
) -> None:
    it = Calendar()
    expected: Counter[str] = Counter()
    for day, client, looks in sorted(requests, key=lambda request: request[0]):
        it.wall = MIDNIGHT + day * DAY_S
        it.usage.today(client).requests += 1
        expected[client] += 1
        if looks:
            assert {name: used.requests for name, used in it.usage.since_start().items()} == expected
    assert {name: used.requests for name, used in it.usage.since_start().items()} == expected
