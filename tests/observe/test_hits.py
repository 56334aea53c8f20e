"""Hits by the short cut: told in their own way, and in every table as if the road had told them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.messages import Chat
from gateway.core.paths import Target
from gateway.core.replies import How, Reply
from gateway.observe.logs import hashed
from gateway.observe.metrics import AGES_S, BUCKETS_S, SLACKS_S
from tests.observe.log_schema import mistakes_of
from tests.observe.trips import CHAT, FAILED, OF_ACCOUNT, OF_CHAT, REQUEST, Desk, armed, delivered

DAY_S = 86_400


@dataclass(frozen=True)
class Hit:
    """`by_short_cut` or by the road; `after_s` is since the one before, and clocks can step back."""

    by_short_cut: bool
    client: str = "bff"
    target: Target = OF_CHAT
    status: int = 200
    body: bytes = b"0123456789"
    seconds: float = 0.0002
    after_s: float = 0.0
    request_id: str = "a59f53808ceeecee"
    opened: bool = False
    age_s: float = 0.5
    slack_s: float | None = None

    @property
    def dies_at(self) -> float | None:
        return None if self.slack_s is None else self.age_s + self.slack_s


HITS = st.builds(
    Hit,
    by_short_cut=st.booleans(),
    client=st.sampled_from(["bff", "partner", 'quo"te\n']),
    target=st.sampled_from([OF_CHAT, OF_ACCOUNT, replace(OF_CHAT, chat=Chat("7", "other"))]),
    status=st.sampled_from([200, 304, 404]),
    body=st.binary(max_size=5),
    seconds=st.one_of(st.sampled_from(BUCKETS_S), st.floats(0, 20)),
    after_s=st.one_of(st.floats(0, 2), st.sampled_from([-DAY_S, -0.5, DAY_S / 2, 30.0 * DAY_S])),
    request_id=st.text(max_size=5),
    age_s=st.one_of(st.sampled_from(AGES_S), st.floats(0, 400)),
    slack_s=st.one_of(st.none(), st.sampled_from(SLACKS_S), st.floats(-1, 80)),
)


def on_road(desk: Desk, hit: Hit) -> None:
    trip = delivered(How.HIT, hit.client, target=hit.target, opened=hit.opened)
    request = replace(REQUEST, id=hit.request_id)
    reply = Reply(hit.status, b"", hit.body)
    desk.observer.replied(request, trip, reply, hit.seconds, hit.age_s, hit.dies_at)


def by_short_cut(desk: Desk, hit: Hit) -> None:
    rule = f"{hit.client}/allow/{hit.target.action}"
    hits = desk.observer.hits(hit.client, rule, hit.target.resource.name)
    slot = armed(hit.target, hit.dies_at)
    hits.hit(slot, hit.request_id, hit.status, len(hit.body), hit.age_s, hit.seconds, desk.wall)


def told(desk: Desk) -> tuple[dict[str, float], list[dict[str, str | int]], str]:
    """All that anybody can read."""
    return desk.exposed(), desk.usage.table(), desk.log.getvalue()


@given(st.lists(HITS, max_size=30), st.sampled_from(["debug", "warning"]), st.sampled_from([0, 1, 3]))
def test_a_hit_by_the_short_cut_is_told_as_if_by_the_road(
    hits: Sequence[Hit], level: str, one_in: int
) -> None:
    mixed, road = Desk(level=level, log_one_hit_in=one_in), Desk(level=level, log_one_hit_in=one_in)
    for hit in hits:
        for desk in (mixed, road):
            desk.wall += hit.after_s
        on_road(road, hit)
        (by_short_cut if hit.by_short_cut else on_road)(mixed, hit)
        # Looked at in between, for to look must not change anything.
        assert told(mixed) == told(road)


@given(st.lists(st.tuples(HITS, st.booleans()), max_size=30))
def test_no_hit_is_lost_and_none_counts_twice(hits: Sequence[tuple[Hit, bool]]) -> None:
    desk = Desk(level="warning")
    requests: Counter[tuple[str, str, str, str]] = Counter()
    decisions: Counter[tuple[str, str, str]] = Counter()
    saved: Counter[str] = Counter()
    bytes_sent: Counter[str] = Counter()
    for hit, opened in hits:
        is_saved = hit.by_short_cut or not opened
        (by_short_cut if hit.by_short_cut else on_road)(desk, replace(hit, opened=opened))
        requests[hit.client, hit.target.resource.name, str(hit.status), "hit"] += 1
        decisions[hit.client, f"{hit.client}/allow/{hit.target.action}", "allow"] += 1
        saved[hit.client] += is_saved
        bytes_sent[hit.client] += len(hit.body)
    assert desk.metrics.requests == requests
    assert desk.metrics.decisions == decisions
    assert desk.metrics.saved == saved
    rows = {str(row["client"]): row for row in desk.usage.table()}
    assert {client: row["bytes_sent"] for client, row in rows.items()} == bytes_sent
    assert {client: row["saved"] for client, row in rows.items()} == saved
    assert sum(sum(took.counts) for took in desk.metrics.durations.values()) == len(hits)
    assert sum(sum(age.counts) for age in desk.metrics.ages.values()) == len(hits)
    assert sum(desk.metrics.slack.counts) == sum(hit.slack_s is not None for hit, _ in hits)
    assert desk.usage.sent() == bytes_sent


def test_each_hit_has_the_line_of_a_request() -> None:
    desk = Desk()
    by_short_cut(desk, Hit(by_short_cut=True, status=304, body=b"", seconds=0.000_021))
    assert desk.lines() == [
        {
            "request_id": "a59f53808ceeecee",
            "client": "bff",
            "rule": "bff/allow/chat:read",
            "method": "GET",
            "resource": "info",
            "chat": hashed(CHAT),
            "status": 304,
            "outcome": "hit",
            "duration_ms": 0.021,
            "event": "request",
            "level": "info",
            "timestamp": "2026-11-22T10:27:03.000000Z",
        }
    ]


def test_hits_before_and_after_midnight_are_of_two_days() -> None:
    desk = Desk(wall=1_795_391_999.9)
    hits = desk.observer.hits("bff", "bff/allow/chat:read", "info")
    for wall, body_bytes in ((desk.wall, 3), (desk.wall + 0.1, 4), (desk.wall, 5)):
        hits.hit(armed(), "x", 200, body_bytes, 0.5, 0.1, wall)
    rows = [(row["day"], row["requests"], row["bytes_sent"]) for row in desk.usage.table()]
    assert rows == [("2026-11-22", 2, 8), ("2026-11-23", 1, 4)]


def test_the_same_labels_have_the_same_hits() -> None:
    observer = Desk().observer
    hits = observer.hits("bff", "bff/allow/chat:read", "info")
    assert observer.hits("bff", "bff/allow/chat:read", "info") is hits
    others = [("partner", "bff/allow/chat:read", "info"), ("bff", "bff/allow/info", "info")]
    assert all(observer.hits(*labels) is not hits for labels in others)


def test_who_was_never_hit_is_in_no_table() -> None:
    desk = Desk()
    before = told(desk)
    desk.observer.hits("bff", "bff/allow/chat:read", "info")
    assert told(desk) == before


@pytest.mark.parametrize("tell", [on_road, by_short_cut])
def test_a_line_that_nobody_wants_is_not_made(tell: Callable[[Desk, Hit], None]) -> None:
    desk = Desk(level="warning")
    hashed.cache_clear()
    tell(desk, Hit(by_short_cut=True))
    assert (desk.log.getvalue(), hashed.cache_info().misses) == ("", 0)


# -- one line for many hits --------------------------------------------------------------------------------


@pytest.mark.parametrize(("one_in", "written"), [(0, []), (1, list("abcdefg")), (3, ["a", "d", "g"])])
@pytest.mark.parametrize("tell", [on_road, by_short_cut])
def test_one_hit_in_so_many_has_a_line(
    tell: Callable[[Desk, Hit], None], one_in: int, written: list[str]
) -> None:
    desk = Desk(log_one_hit_in=one_in)
    for name in "abcdefg":
        tell(desk, Hit(by_short_cut=True, request_id=name))
    lines = desk.lines()
    assert [line["request_id"] for line in lines] == written
    assert [line.get("one_in") for line in lines] == [3 if one_in == 3 else None] * len(written)
    assert [mistake for line in lines for mistake in mistakes_of(line)] == []
    assert sum(desk.metrics.requests.values()) == 7


def test_they_are_counted_together_whichever_way_they_came() -> None:
    desk = Desk(log_one_hit_in=3)
    for name, tell in zip("abcdefg", [on_road, by_short_cut] * 4, strict=False):
        tell(desk, Hit(by_short_cut=True, request_id=name))
    assert [line["request_id"] for line in desk.lines()] == ["a", "d", "g"]


def test_all_else_always_has_a_line() -> None:
    desk = Desk(log_one_hit_in=0)
    for how in How:
        desk.tell(delivered(how))
    desk.tell(replace(delivered(How.MISS), result=FAILED))
    outcomes = [line["outcome"] for line in desk.lines()]
    assert outcomes == [*(how.value for how in How if how is not How.HIT), "upstream-error"]
