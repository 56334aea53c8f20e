"""One request: one line, the right counters, a row of usage, and nothing that opens anything."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.answers import Undressed
from gateway.core.errors import Reason, Refusal
from gateway.core.faults import Verdict
from gateway.core.limits import Standing
from gateway.core.messages import Answer
from gateway.core.replies import Described, How, Trip
from gateway.observe.logs import adopt, hashed, logger
from tests.observe.log_schema import PAGE, SECTIONS, documented, events, mistakes_of
from tests.observe.trips import (
    CHAT,
    FAILED,
    OF_ACCOUNT,
    OF_CHAT,
    REQUEST,
    SECRETS,
    SHADOW,
    Desk,
    delivered,
    refused,
)

DENIED = Refusal(Reason.ACTION_DENIED, client="partner", rule="partner/deny/info")
LIMITED = Refusal(
    Reason.RATE_LIMITED, client="partner", standing=Standing(violated=("requests", "info.requests"))
)
BAD_TOKEN = Refusal(Reason.TOKEN_INVALID, because="audience")
BY_GRANT = replace(delivered(How.HIT, "partner"), shadows=(SHADOW,))

#: Every kind of end, with what its line says beside request, level and time.
ENDS: Mapping[str, tuple[Trip, dict[str, Any]]] = {
    "hit": (delivered(How.HIT), {"outcome": "hit"}),
    "refreshing": (delivered(How.HIT, opened=True), {"outcome": "hit", "fetch": True}),
    "stale": (
        delivered(How.STALE, instead_of=Reason.UPSTREAM_ERROR),
        {"outcome": "stale", "instead_of": "upstream-error"},
    ),
    "miss": (delivered(How.MISS, opened=True), {"outcome": "miss", "fetch": True}),
    "collapsed": (delivered(How.COLLAPSED), {"outcome": "collapsed"}),
    "forward": (
        delivered(How.FORWARD, opened=True, target=OF_ACCOUNT),
        {
            "outcome": "forward",
            "resource": "account",
            "chat": None,
            "rule": "bff/allow/account:read",
            "fetch": True,
        },
    ),
    "write": (delivered(How.WRITE, opened=True), {"outcome": "write", "fetch": True}),
    "waited": (delivered(How.WAITED), {"outcome": "waited"}),
    "stream": (delivered(How.STREAM), {"outcome": "stream"}),
    "description": (
        Trip(Described(b"{}"), client="bff"),
        {"rule": None, "method": "-", "resource": "-", "chat": None, "outcome": "description"},
    ),
    "shadowed": (
        BY_GRANT,
        {
            "client": "partner",
            "rule": "partner/allow/chat:read",
            "outcome": "hit",
            "shadows": [
                {"client": "partner-next", "outcome": "action-denied", "rule": "partner-next/default-deny"}
            ],
        },
    ),
    "failed": (
        replace(delivered(How.MISS), result=FAILED),
        {"status": 502, "outcome": "upstream-error"},
    ),
    "denied": (
        refused(DENIED, target=OF_CHAT, rule="partner/deny/info"),
        {"client": "partner", "rule": "partner/deny/info", "status": 403, "outcome": "action-denied"},
    ),
    "limited": (
        replace(delivered(How.HIT, "partner"), result=LIMITED),
        {
            "client": "partner",
            "rule": "partner/allow/chat:read",
            "status": 429,
            "outcome": "rate-limited",
            "limits": ["requests", "info.requests"],
        },
    ),
    "nobody": (
        refused(BAD_TOKEN, client=None),
        {
            "client": "-",
            "rule": None,
            "method": "-",
            "resource": "-",
            "chat": None,
            "status": 401,
            "outcome": "token-invalid",
            "because": "audience",
        },
    ),
    "nowhere": (
        refused(Refusal(Reason.UNKNOWN_RESOURCE)),
        {
            "client": "partner",
            "rule": None,
            "method": "-",
            "resource": "-",
            "chat": None,
            "status": 404,
            "outcome": "unknown-resource",
        },
    ),
}


@pytest.mark.parametrize("name", ENDS)
def test_each_end_has_its_line(name: str) -> None:
    trip, said = ENDS[name]
    desk = Desk()
    desk.tell(trip)
    [line] = desk.lines()
    assert line.pop("timestamp")
    usual = {
        "request_id": "a59f53808ceeecee",
        "client": "bff",
        "rule": "bff/allow/chat:read",
        "method": "GET",
        "resource": "info",
        "chat": hashed(CHAT),
        "status": 200,
        "duration_ms": 4.0,
        "event": "request",
        "level": "info",
    }
    assert line == {**usual, **said}


# -- counters --------------------------------------------------------------------------------------

#: The samples that each end moves besides requests and durations.
MOVES: Mapping[str, dict[str, float]] = {
    "hit": {
        'saved_requests_total{client="bff"}': 1,
        'decisions_total{client="bff",outcome="allow",rule="bff/allow/chat:read"}': 1,
    },
    "refreshing": {'decisions_total{client="bff",outcome="allow",rule="bff/allow/chat:read"}': 1},
    "miss": {'decisions_total{client="bff",outcome="allow",rule="bff/allow/chat:read"}': 1},
    "shadowed": {
        'saved_requests_total{client="partner"}': 1,
        'decisions_total{client="partner",outcome="allow",rule="partner/allow/chat:read"}': 1,
        'shadow_decisions_total{client="partner-next",outcome="action-denied",'
        'rule="partner-next/default-deny"}': 1,
    },
    "failed": {'decisions_total{client="bff",outcome="allow",rule="bff/allow/chat:read"}': 1},
    "denied": {'decisions_total{client="partner",outcome="action-denied",rule="partner/deny/info"}': 1},
    "limited": {
        'decisions_total{client="partner",outcome="allow",rule="partner/allow/chat:read"}': 1,
        'limited_requests_total{client="partner",limit="requests"}': 1,
        'limited_requests_total{client="partner",limit="info.requests"}': 1,
    },
    "nobody": {'token_refusals_total{because="audience"}': 1},
    "nowhere": {},
}


@pytest.mark.parametrize("name", MOVES)
def test_each_end_moves_its_counters(name: str) -> None:
    trip, said = ENDS[name]
    desk = Desk()
    before = desk.exposed()
    desk.tell(trip)
    moved = {
        sample.removeprefix("chat_gateway_"): value
        for sample, value in desk.exposed().items()
        if value != before.get(sample, 0.0)
        and not any(also in sample for also in ("_request_duration_", "_answer_age_", "_body_bytes_"))
    }
    client, resource = said.get("client", "bff"), said.get("resource", "info")
    labels = f'client="{client}",outcome="{said["outcome"]}",resource="{resource}"'
    assert moved == {f'requests_total{{{labels},status="{said.get("status", 200)}"}}': 1, **MOVES[name]}


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("hit", "hit"),
        ("stale", "stale"),
        ("collapsed", "collapsed"),
        ("write", "write"),
        ("failed", "failed"),
        ("denied", "refused"),
        ("limited", "refused"),
    ],
)
def test_each_end_has_its_kind_of_duration(name: str, kind: str) -> None:
    desk = Desk()
    desk.tell(ENDS[name][0])
    assert [key for key, took in desk.metrics.durations.items() if sum(took.counts)] == [("info", kind)]


def test_a_refusal_that_is_no_fault_of_the_caller_is_a_failure() -> None:
    desk = Desk()
    desk.tell(refused(Refusal(Reason.KEYS_UNAVAILABLE)))
    assert list(desk.metrics.durations) == [("-", "failed")]


# -- the upstream ----------------------------------------------------------------------------------


def test_what_was_asked_counts_for_whose_request_it_was() -> None:
    desk = Desk()
    good = Undressed(Answer(200, (), b""), Verdict.GOOD, foreign_links=2)
    desk.observer.asked(OF_CHAT, good, "bff", 0.1)
    desk.observer.asked(OF_CHAT, FAILED, "partner", 0.1)
    exposed = desk.exposed()
    family = "chat_gateway_upstream_requests_total"
    assert exposed[f'{family}{{client="bff",outcome="good",resource="info"}}'] == 1
    assert exposed[f'{family}{{client="partner",outcome="upstream-error",resource="info"}}'] == 1
    assert exposed["chat_gateway_foreign_links_total"] == 2
    [line] = desk.lines()
    del line["timestamp"]
    assert line == {
        "event": "upstream failed",
        "level": "warning",
        "account": "123",
        "client": "partner",
        "resource": "info",
        "reason": "upstream-error",
        "received": 503,
    }


# -- usage -----------------------------------------------------------------------------------------


def test_usage_has_a_row_for_each_client() -> None:
    desk = Desk()
    for trip, _ in ENDS.values():
        desk.tell(trip)
    desk.observer.asked(OF_CHAT, FAILED, "bff", 0.1)
    rows = {row.pop("client"): row for row in desk.usage.table()}
    assert rows["bff"] == {
        "day": "2026-11-22",
        "requests": 11,
        "saved": 5,
        "fetches": 1,
        "refused": 0,
        "limited": 0,
        "bytes_sent": 110,
    }
    assert rows["partner"] == {
        "day": "2026-11-22",
        "requests": 4,
        "saved": 1,
        "fetches": 0,
        "refused": 2,
        "limited": 1,
        "bytes_sent": 40,
    }
    assert (rows["-"]["requests"], rows["-"]["refused"]) == (1, 1)


@given(st.lists(st.sampled_from(sorted(ENDS)), max_size=40))
def test_metrics_usage_and_log_agree(names: list[str]) -> None:
    desk = Desk()
    for name in names:
        desk.tell(ENDS[name][0])
    clients = Counter(ENDS[name][1].get("client", "bff") for name in names)
    by_metric: Counter[str] = Counter()
    for (client, *_), count in desk.metrics.requests.items():
        by_metric[client] += count
    assert by_metric == clients
    assert {row["client"]: row["requests"] for row in desk.usage.table()} == clients
    assert Counter(line["client"] for line in desk.lines()) == clients
    assert sum(sum(took.counts) for took in desk.metrics.durations.values()) == len(names)
    saved = {row["client"]: row["saved"] for row in desk.usage.table() if row["saved"]}
    assert saved == desk.metrics.saved


# -- the documented log -----------------------------------------------------------------------------


def test_the_end_of_a_stream_has_a_line() -> None:
    desk = Desk()
    desk.observer.stream_closed(OF_CHAT, "bff", "token-expired", 12.3456789)
    [line] = desk.lines()
    del line["timestamp"]
    assert line == {
        "event": "stream closed",
        "level": "info",
        "client": "bff",
        "resource": "info",
        "chat": hashed(CHAT),
        "why": "token-expired",
        "duration_ms": 12345.679,
    }


def every_line() -> Desk:
    desk = Desk(log_one_hit_in=2)
    for trip, _ in ENDS.values():
        desk.tell(trip)
    desk.observer.asked(OF_CHAT, FAILED, "bff", 0.1)
    desk.observer.asked(OF_CHAT, replace(FAILED, received=None), "bff", 0.1)
    desk.observer.stream_closed(OF_CHAT, "bff", "gone", 1.0)
    desk.observer.stream_closed(OF_ACCOUNT, "bff", "gone", 1.0)
    desk.observer.crashed(ValueError("Wilhelmina"))
    adopt("test.adopted", logger("debug", desk.log))
    logging.getLogger("test.adopted").error("%s hung up", "192.0.2.77")
    logging.getLogger("test.adopted").error("Exception", exc_info=ValueError("Wilhelmina"))
    return desk


def test_every_line_is_documented() -> None:
    lines = every_line().lines()
    assert {line["event"] for line in lines} == set(SECTIONS)
    assert [mistake for line in lines for mistake in mistakes_of(line)] == []


@pytest.mark.parametrize(
    ("change", "mistake"),
    [
        ({"peer": "x"}, "peer is not documented"),
        ({"rule": 1}, "rule is no text or null"),
        ({"status": True}, "status is no whole number"),
        ({"fetch": False}, "fetch is no true"),
        ({"limits": "requests"}, "limits is no list of texts"),
        ({"shadows": [{"client": "x", "rule": "y"}]}, "shadows is no list of decisions"),
        ({"event": "listening"}, "public is missing"),
        ({"event": "made up"}, "event made up is not documented"),
    ],
)
def test_what_is_not_documented_is_found(change: Mapping[str, object], mistake: str) -> None:
    desk = Desk()
    desk.tell(delivered(How.HIT))
    [line] = desk.lines()
    assert mistake in mistakes_of({**line, **change})


def test_a_field_may_come_with_a_setting() -> None:
    line: dict[str, object] = {
        "event": "revocation recorded",
        "level": "warning",
        "timestamp": "2026-11-22T10:27:05.356170Z",
    }
    line |= {"kind": "jti", "withdrawn": False, "warnings": 0}
    assert mistakes_of(line) == mistakes_of({**line, "shared": True}) == []
    assert mistakes_of({**line, "shared": 1}) == ["shared is no true or false"]


def test_every_documented_field_is_written() -> None:
    lines = every_line().lines()
    for event in SECTIONS:
        written = {name for line in lines if line["event"] == event for name in line}
        assert written == documented(event).keys()


def test_every_event_is_documented_and_no_other() -> None:
    code = "".join(file.read_text() for file in (Path(__file__).parents[2] / "gateway").rglob("*.py"))
    said = re.findall(r"\blog\.(?:debug|info|warning|error)\(\s*\"([^\"]+)\"", code.replace("_log.", "log."))
    assert sorted(set(said)) == sorted(events())


def test_the_examples_are_documented_lines() -> None:
    desk = Desk()
    desk.log.write("\n".join(re.findall(r"^    (\{.*\})$", PAGE, re.MULTILINE)))
    assert len(desk.lines()) == 2
    assert [mistakes_of(line) for line in desk.lines()] == [[], []]


def test_nothing_secret_is_written_down() -> None:
    desk = every_line()
    desk.tell(refused(BAD_TOKEN, client=None), request=replace(REQUEST, method="WILHELMINA"))
    told = desk.log.getvalue() + desk.metrics.exposition().decode() + str(desk.usage.table())
    assert [secret for secret in SECRETS if secret.lower() in told.lower()] == []


def test_a_crash_is_counted_and_says_where() -> None:
    desk = Desk()
    try:
        int("Wilhelmina")
    except ValueError as error:
        desk.observer.crashed(error)
    [line] = desk.lines()
    assert line["error"] == "ValueError"
    assert re.fullmatch(r"test_a_crash_is_counted_and_says_where:\d+", line["where"][-1])
    assert desk.exposed()["chat_gateway_crashes_total"] == 1
