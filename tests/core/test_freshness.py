"""How long an answer may be served, as arithmetic: the bounds, and what is done at each moment."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.documents import InfoFacts
from gateway.core.errors import Reason
from gateway.core.faults import Verdict
from gateway.core.freshness import (
    ENDED_MAX_S,
    GONE,
    GONE_TTL_S,
    Contact,
    Entry,
    Failed,
    Fetch,
    Generation,
    Hold,
    Serve,
    hit_until,
    keep,
    keep_nothing,
    learned,
    may_serve,
    plan,
    smoothed,
)
from gateway.core.messages import Answer
from gateway.core.policy import STATES, CacheRule

ANSWER = Answer(200, (), b"{}")
SENT = 100.0
FAILED = Failed(Reason.UPSTREAM_ERROR, 503, 1.0)


def rule(waiting: float = 1.0, chatting: float = 2.0, ended: float = 10.0, stale_s: float = 5.0) -> CacheRule:
    return CacheRule({"waiting": waiting, "chatting": chatting, "ended": ended}, stale_s, frozenset())


def kept(
    state: str | None = "chatting", timeout_s: float = 40.0, round_trip_s: float = 0.12, **of_rule: float
) -> Entry:
    contact = Contact(SENT, timeout_s, state)
    return keep(ANSWER, Verdict.GOOD, rule(**of_rule), (0, 0), contact, round_trip_s=round_trip_s)


@pytest.mark.parametrize(
    ("state", "ttl_s"), [("waiting", 1.0), ("chatting", 2.0), ("ended", 10.0), (None, 1.0), ("resume", 1.0)]
)
def test_the_state_picks_the_ttl_and_an_unknown_one_the_shortest(state: str | None, ttl_s: float) -> None:
    assert kept(state).fresh_until == pytest.approx(SENT + ttl_s)


@pytest.mark.parametrize(
    ("timeout_s", "fresh_s", "stale_s"),
    [
        (40.0, 8.0, 8.0),  # the largest: 40 s, less a poll of 30 s and two for the way
        (50.0, 8.0, 13.0),
        (42.0, 8.0, 10.0),
        (36.0, 4.0, 4.0),
        (33.0, 1.0, 1.0),
        (32.0, 0.0, 0.0),
        (20.0, 0.0, 0.0),
    ],
)
def test_the_silence_bound_cuts_ttl_and_stale_time(timeout_s: float, fresh_s: float, stale_s: float) -> None:
    entry = kept(timeout_s=timeout_s, chatting=8.0)
    assert entry.fresh_until == pytest.approx(SENT + fresh_s)
    assert entry.stale_until == pytest.approx(SENT + stale_s)


@pytest.mark.parametrize("state", ["ended", GONE])
def test_what_has_no_life_has_no_silence_bound(state: str) -> None:
    assert kept("ended", timeout_s=20.0).fresh_until == SENT + 10.0
    entry = kept("ended", timeout_s=20.0)
    assert may_serve(entry, Contact(SENT, 20.0, state), SENT + 9.9)


def test_an_ended_chat_is_kept_for_half_a_minute_at_most() -> None:
    assert kept("ended", ended=60.0, stale_s=8.0).stale_until <= SENT + ENDED_MAX_S


@pytest.mark.parametrize(
    ("round_trip_s", "early_s"), [(0.0, 0.020), (0.12, 0.170), (0.4, 0.520), (1.0, 1.0), (60.0, 1.0)]
)
def test_the_next_flight_starts_a_round_trip_early_but_not_before_half_the_ttl(
    round_trip_s: float, early_s: float
) -> None:
    entry = kept(round_trip_s=round_trip_s)
    assert entry.fresh_until - entry.refresh_at == pytest.approx(early_s)


@given(
    state=st.none() | st.sampled_from(STATES),
    timeout_s=st.floats(0.001, 86_400),
    ttl_s=st.floats(0.001, 30),
    stale_s=st.floats(0, 8),
    round_trip_s=st.floats(0, 10),
    sent_at=st.floats(0, 1e9),
)
def test_the_bounds_stand_in_their_order(
    *, state: str | None, timeout_s: float, ttl_s: float, stale_s: float, round_trip_s: float, sent_at: float
) -> None:
    contact = Contact(sent_at, timeout_s, state)
    of_rule = rule(ttl_s, ttl_s, ttl_s, stale_s)
    entry = keep(ANSWER, Verdict.GOOD, of_rule, (0, 0), contact, round_trip_s=round_trip_s)
    assert sent_at <= entry.refresh_at <= entry.fresh_until <= entry.stale_until
    assert entry.fresh_until <= sent_at + ttl_s
    assert entry.stale_until <= max(sent_at, contact.quiet_until())


def test_a_chat_that_is_gone_is_remembered_for_two_seconds_and_not_refreshed_early() -> None:
    entry = keep(ANSWER, Verdict.GONE, rule(), (0, 0), Contact(SENT), round_trip_s=0.1)
    assert entry.refresh_at == entry.fresh_until == entry.stale_until == SENT + GONE_TTL_S


def test_what_is_not_kept_is_never_served_again() -> None:
    assert not may_serve(keep_nothing(ANSWER, (0, 0), SENT), None, SENT)


FRESH = Entry(ANSWER, (0, 3), SENT, SENT + 0.8, SENT + 1.0, SENT + 6.0)
TALKED = Contact(SENT, 40.0, "chatting")


@pytest.mark.parametrize(
    ("at", "held", "expected"),
    [
        (0.0, None, Serve(FRESH, refresh=False)),
        (0.79, None, Serve(FRESH, refresh=False)),
        (0.8, None, Serve(FRESH, refresh=True)),
        (0.8, FAILED, Serve(FRESH, refresh=False)),
        (0.99, None, Serve(FRESH, refresh=True)),
        (1.0, None, Fetch(FRESH)),
        (1.0, FAILED, Hold(FAILED, FRESH)),
        (7.0, None, Fetch(FRESH)),
    ],
)
def test_what_is_done_about_a_request(at: float, held: Failed | None, expected: object) -> None:
    assert plan(FRESH, (0, 3), TALKED, held, SENT + at) == expected


@pytest.mark.parametrize("entry", [None, FRESH])
@pytest.mark.parametrize("generation", [(0, 4), (1, 3)])
def test_what_is_not_of_this_generation_is_not_there(entry: Entry | None, generation: Generation) -> None:
    assert plan(entry, generation, TALKED, None, SENT) == Fetch(None)
    assert plan(entry, generation, TALKED, FAILED, SENT) == Hold(FAILED, None)


@pytest.mark.parametrize(
    ("contact", "serves"),
    [
        (None, True),
        (TALKED, True),
        (Contact(SENT, 32.5, "chatting"), True),
        (Contact(SENT, 32.4, "chatting"), False),
        (Contact(SENT, 20.0, "chatting"), False),
        (Contact(SENT, 20.0, "ended"), True),
        (Contact(SENT + 10, 24.0, "chatting"), True),
    ],
)
def test_a_newer_contact_may_know_a_shorter_timeout(contact: Contact | None, serves: bool) -> None:
    entry = replace(FRESH)
    now = SENT + 0.5
    assert may_serve(entry, contact, now) is serves
    assert isinstance(plan(entry, (0, 3), contact, None, now), Serve) is serves


def test_stale_ends_sharply() -> None:
    assert may_serve(FRESH, TALKED, SENT + 5.99)
    assert not may_serve(FRESH, TALKED, SENT + 6.0)


def test_an_age_is_never_negative() -> None:
    assert (FRESH.age(SENT + 1.5), FRESH.age(SENT - 1)) == (1.5, 0.0)


def test_a_round_trip_is_smoothed_by_an_eighth() -> None:
    assert smoothed(None, 0.2) == 0.2
    assert smoothed(0.2, 1.0) == pytest.approx(0.3)


def test_a_chat_that_ended_can_be_silent_for_ever() -> None:
    assert Contact(SENT, 40.0, GONE).quiet_until() == math.inf
    assert Contact(SENT, 40.0, "waiting").quiet_until() == SENT + 8.0


# -- what an answer tells of a chat's life -------------------------------------------------------------

NOTHING = InfoFacts(None, None)
CHATTING = InfoFacts("chatting", 20.0)


@pytest.mark.parametrize("verdict", [v for v in Verdict if v not in {Verdict.GOOD, Verdict.GONE}])
@pytest.mark.parametrize("known", [None, Contact(90.0, 30.0, "chatting", 90.0)])
def test_only_a_good_answer_is_contact(verdict: Verdict, known: Contact | None) -> None:
    assert learned(known, verdict, CHATTING, SENT) == known


@pytest.mark.parametrize(
    ("known", "facts", "contact"),
    [
        (None, NOTHING, Contact(SENT)),
        (None, CHATTING, Contact(SENT, 20.0, "chatting", SENT)),
        # An answer that tells nothing takes nothing away, and does not make what was told any newer.
        (Contact(90.0, 20.0, "chatting", 90.0), NOTHING, Contact(SENT, 20.0, "chatting", 90.0)),
        (Contact(90.0, 20.0, "chatting", 90.0), InfoFacts("ended", None), Contact(SENT, 20.0, "ended", SENT)),
        (Contact(90.0, 20.0, "waiting", 90.0), InfoFacts(None, 30.0), Contact(SENT, 30.0, "waiting", SENT)),
        # A chat that answers is not gone.
        (Contact(90.0, 20.0, GONE, 90.0), NOTHING, Contact(SENT, 20.0, None, 90.0)),
        # What was asked for earlier and lands later is contact, but knows less.
        (Contact(110.0, 30.0, "ended", 110.0), CHATTING, Contact(110.0, 30.0, "ended", 110.0)),
        # Overtaken by an answer that told nothing, it is still the newest that told.
        (Contact(110.0, 40.0, None, 90.0), CHATTING, Contact(110.0, 20.0, "chatting", SENT)),
    ],
)
def test_what_is_learned(known: Contact | None, facts: InfoFacts, contact: Contact) -> None:
    assert learned(known, Verdict.GOOD, facts, SENT) == contact


def test_a_chat_that_is_gone_keeps_what_was_known() -> None:
    known = Contact(90.0, 20.0, "ended", 80.0)
    assert learned(known, Verdict.GONE, NOTHING, SENT) == replace(known, state=GONE)
    assert learned(None, Verdict.GONE, NOTHING, SENT) == Contact(SENT, state=GONE)


@pytest.mark.parametrize("reason", [reason for reason in Reason if reason.status >= 500])
def test_only_an_unwell_upstream_excuses_a_stale_answer(reason: Reason) -> None:
    unwell = {
        "upstream-busy",
        "upstream-down",
        "upstream-error",
        "upstream-reset",
        "upstream-throttled",
        "upstream-timeout",
        "upstream-unreachable",
    }
    assert Failed(reason).excuses_stale == (reason.slug in unwell)


@given(
    ends_s=st.tuples(st.floats(0, 2), st.floats(0, 2)),
    contact_s=st.none() | st.floats(-10, 10),
    now_s=st.floats(-1, 5),
    share=st.floats(0, 1, exclude_max=True),
    has_left=st.booleans(),
)
def test_until_then_it_is_a_hit(
    ends_s: tuple[float, float], contact_s: float | None, now_s: float, share: float, has_left: bool
) -> None:
    """What may be served without a look at the plan is what the plan would say, at each moment."""
    refresh_at, fresh_until = 100 + min(ends_s), 100 + ends_s[1]
    kept = Entry(Answer(200, (), b""), (0, 0), 100.0, refresh_at, fresh_until, fresh_until + 1)
    contact = None if contact_s is None else Contact(100 + contact_s)
    now = 100 + now_s
    until = hit_until(kept, contact, now, has_left=has_left)
    at = now + (until - now) * share
    if now <= at < until:
        planned = plan(kept, (0, 0), contact, None, at)
        assert planned == Serve(kept, refresh=at >= refresh_at)
        assert has_left or not planned.refresh
