"""The show of the faults, in small: it says so when all is well, and also when something is not."""

from __future__ import annotations

import pytest

from tests.shows.faults import SICK, Row, is_as_promised, left, play, table, theatre
from tests.shows.slow import gateway_pid

pytestmark = pytest.mark.anyio


async def test_faults_do_as_promised_and_leave_nothing() -> None:
    async with theatre() as on:
        pid = gateway_pid()
        before = await left(on, pid)
        rows = {name: await play(on, SICK[name]) for name in ("kept, reset before the answer", "500")}
        after = await left(on, pid)
    assert all(map(is_as_promised, rows.values())), table(rows)
    for row in rows.values():
        assert set(row.got) == {"hit", "cold", "stale"}
        assert row.asked
    assert before | {"resident_mib": 0} == after | {"resident_mib": 0}


@pytest.mark.parametrize(
    "row",
    [
        Row(wrong=["cold: said by nobody"], expected=10, asked=10),
        Row(expected=10, asked=12),
        Row(expected=10, asked=10, longest_s=60.0),
        Row(expected=10, asked=10, healed_s=60.0),
    ],
)
def test_a_broken_promise_is_seen(row: Row) -> None:
    assert not is_as_promised(row)


def test_a_repeat_over_a_kept_connection_is_none() -> None:
    assert is_as_promised(Row(expected=10, asked=12, repeats=1))
    assert not is_as_promised(Row(expected=10, asked=13, repeats=1))


def test_there_are_enough_of_them() -> None:
    assert len(SICK) >= 20
