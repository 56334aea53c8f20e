"""Entries are read as they were written, or not at all."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.answers import Undressed
from gateway.core.documents import MAX_CHAT_TIMEOUT_S, InfoFacts
from gateway.core.faults import Verdict
from gateway.core.freshness import GONE, Contact
from gateway.core.messages import Answer, Headers, Representation
from gateway.core.policy import STATES
from gateway.core.sharing import Told
from gateway.shared.commands import Kept
from gateway.shared.names import Place
from gateway.shared.records import DIGEST_BYTES, LONGEST_AGO_S, MAX_LINE_BYTES, Records

PLACE = Place("c" * 32, "f" * 16)
HEAD = b"1800054000123456 1800054001123456 1800054003123456 0a1b2c3d.token"
AGE_S = 2.0
PLAIN = Records(None, os.urandom)
SEALED = Records(b"k" * 32, os.urandom)
BOTH = pytest.mark.parametrize("records", [PLAIN, SEALED], ids=["plain", "sealed"])

TYPES = [(b"content-type", representation.media_type) for representation in Representation]
LOCATIONS = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=200)
HEADERS = st.tuples(
    st.lists(st.sampled_from(TYPES), max_size=1),
    st.lists(LOCATIONS.map(lambda url: (b"location", url.encode())), max_size=1),
).map(lambda both: tuple(both[0] + both[1]))
STATUSES = {
    Verdict.GOOD: st.sampled_from([200, 201, 203, 299]),
    Verdict.GONE: st.just(404),
    Verdict.CALLERS: st.integers(400, 499),
}
TIMEOUTS_S = st.floats(0, MAX_CHAT_TIMEOUT_S)
AGES_S = st.floats(-LONGEST_AGO_S, AGE_S)


@st.composite
def undressed(draw: st.DrawFn) -> Undressed:
    verdict = draw(st.sampled_from(sorted(STATUSES, key=str)))
    headers: Headers = draw(HEADERS)
    facts = InfoFacts(draw(st.none() | st.sampled_from(STATES)), draw(st.none() | TIMEOUTS_S))
    return Undressed(
        Answer(draw(STATUSES[verdict]), headers, draw(st.binary(max_size=2_000))), verdict, facts
    )


TOLD = st.builds(
    Told,
    undressed(),
    st.builds(
        Contact, AGES_S, TIMEOUTS_S, st.none() | st.sampled_from((*STATES, GONE)), AGES_S | st.just(-math.inf)
    ),
    st.just(0.0),
    st.floats(0, 600),
)

EXAMPLE = Told(
    Undressed(
        Answer(200, (TYPES[0], (b"location", b"https://gw.example/x")), b'{"info":{}}'),
        Verdict.GOOD,
        InfoFacts("chatting", 40.0),
    ),
    Contact(-1.5, 40.0, "chatting", -3.25),
    0.0,
    0.125,
)


def kept(value: bytes) -> Kept:
    head, _, payload = value.partition(b"\n")
    return Kept(head, payload, AGE_S)


def test_a_record_is_written_as_other_replicas_of_this_format_read_it() -> None:
    # Whoever changes this raises the format's number.
    digest = bytes.fromhex("7a5401f583135222e01266058a3d4a68")
    assert PLAIN.write(PLACE, HEAD, EXAMPLE) == HEAD + b"\n" + digest + (
        b'{"status": 200, "verdict": "good", "type": "application/json", "location": "https://gw.example/x",'
        b' "state": "chatting", "chat_timeout_s": 40.0, "contact": {"at_s": -1.5, "timeout_s": 40.0,'
        b' "state": "chatting", "told_at_s": -3.25}, "round_trip_s": 0.125}\n{"info":{}}'
    )


@BOTH
@given(TOLD)
def test_what_was_written_is_read(records: Records, told: Told) -> None:
    value = records.write(PLACE, HEAD, told)
    assert value.startswith(HEAD + b"\n")
    assert records.read(PLACE, kept(value), 0.0) == told
    assert records.read(PLACE, kept(value), 0.0, was_awaited=True) == replace(told, was_awaited=True)


@BOTH
def test_times_are_those_of_who_reads(records: Records) -> None:
    value = records.write(
        PLACE, HEAD, replace(EXAMPLE, sent_at=1000.0, contact=Contact(999.0, told_at=990.0))
    )
    told = records.read(PLACE, kept(value), 5.0)
    assert told is not None
    assert (told.sent_at, told.contact.at, told.contact.told_at) == (5.0, 4.0, -5.0)


def test_nobody_has_heard_of_a_chat_later_than_now() -> None:
    value = PLAIN.write(PLACE, HEAD, replace(EXAMPLE, contact=Contact(3600.0, told_at=3600.0)))
    told = PLAIN.read(PLACE, kept(value), 100.0)
    assert told is not None
    assert (told.contact.at, told.contact.told_at) == (100.0 + AGE_S, 100.0 + AGE_S)


def test_long_ago_and_slow_are_still_written() -> None:
    long_ago = replace(EXAMPLE, contact=Contact(-1e9, told_at=-1e9), round_trip_s=1e4)
    told = PLAIN.read(PLACE, kept(PLAIN.write(PLACE, HEAD, long_ago)), 0.0)
    assert told is not None
    assert (told.contact.at, told.round_trip_s) == (-LONGEST_AGO_S, 600.0)


# -- what is foreign -----------------------------------------------------------------------------------------


@BOTH
@given(TOLD, st.data())
def test_what_was_touched_is_nothing(records: Records, told: Told, data: st.DataObject) -> None:
    value = bytearray(records.write(PLACE, HEAD, told))
    value[data.draw(st.integers(0, len(value) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    assert records.read(PLACE, kept(bytes(value)), 0.0) is None


@BOTH
@given(TOLD, st.integers(0, 200))
def test_what_was_cut_is_nothing(records: Records, told: Told, cut: int) -> None:
    value = records.write(PLACE, HEAD, told)
    assert records.read(PLACE, Kept(HEAD, kept(value).payload[: -cut - 1], AGE_S), 0.0) is None


@BOTH
@pytest.mark.parametrize(
    ("place", "head"),
    [
        (PLACE._replace(field="0" * 16), HEAD),
        (PLACE._replace(chat="0" * 32), HEAD),
        (PLACE, HEAD.replace(b"180005400", b"180005401")),
    ],
    ids=["field", "chat", "younger"],
)
def test_a_record_holds_for_one_place_and_one_head(records: Records, place: Place, head: bytes) -> None:
    payload = kept(records.write(PLACE, HEAD, EXAMPLE)).payload
    assert records.read(PLACE, Kept(HEAD, payload, AGE_S), 0.0) == EXAMPLE
    assert records.read(place, Kept(head, payload, AGE_S), 0.0) is None


def test_who_has_another_key_or_none_reads_nothing() -> None:
    other = Records(b"K" * 32, os.urandom)
    for writer, reader in ((SEALED, other), (SEALED, PLAIN), (PLAIN, SEALED)):
        assert reader.read(PLACE, kept(writer.write(PLACE, HEAD, EXAMPLE)), 0.0) is None
    assert len({PLAIN.key_id, SEALED.key_id, other.key_id}) == 3
    assert b"k" * 8 not in SEALED.key_id


def test_what_is_sealed_shows_nothing_and_is_never_the_same() -> None:
    first, second = (SEALED.write(PLACE, HEAD, EXAMPLE) for _ in range(2))
    assert first != second
    assert b"info" not in first
    assert b"good" not in first


@BOTH
@given(st.binary(max_size=200))
def test_any_bytes_are_nothing(records: Records, payload: bytes) -> None:
    assert records.read(PLACE, Kept(HEAD, payload, AGE_S), 0.0) is None


def forged(payload: bytes) -> Kept:
    """What somebody writes who knows how."""
    bound = f"{PLACE.chat}/{PLACE.field}\n".encode() + HEAD + b"\n"
    return Kept(HEAD, hashlib.blake2b(bound + payload, digest_size=16).digest() + payload, AGE_S)


def said(change: Callable[[dict[str, Any]], object]) -> bytes:
    line, _, body = kept(PLAIN.write(PLACE, HEAD, EXAMPLE)).payload[DIGEST_BYTES:].partition(b"\n")
    members = json.loads(line)
    change(members)
    return json.dumps(members).encode() + b"\n" + body


def contact(**changed: object) -> Callable[[dict[str, Any]], object]:
    return lambda members: members["contact"].update(changed)


def member(**changed: object) -> Callable[[dict[str, Any]], object]:
    return lambda members: members.update(changed)


@pytest.mark.parametrize(
    "change",
    [
        member(more=1),
        lambda members: members.pop("state"),
        member(status=200.0),
        member(status=True),
        member(status="200"),
        member(status=204),
        member(status=404),
        member(status=500),
        member(verdict="our-key"),
        member(verdict=[]),
        member(verdict="gone"),
        member(type="text/html"),
        member(type="application/json\r\nset-cookie: a=b"),
        member(type=7),
        member(location="https://gw.example/\r\nx: y"),
        member(location=""),
        member(location="/" * 8_193),
        member(location=7),
        member(state="asleep"),
        member(state=GONE),
        member(state=1),
        member(chat_timeout_s=-1),
        member(chat_timeout_s=MAX_CHAT_TIMEOUT_S + 1),
        member(chat_timeout_s=math.nan),
        member(chat_timeout_s=math.inf),
        member(chat_timeout_s=True),
        member(chat_timeout_s="40"),
        member(chat_timeout_s=10**400),
        member(round_trip_s=None),
        member(round_trip_s=-0.1),
        member(round_trip_s=601),
        member(contact=None),
        member(contact=[]),
        contact(more=1),
        contact(at_s=None),
        contact(at_s=math.nan),
        contact(at_s=-math.inf),
        contact(at_s=10**400),
        contact(told_at_s="x"),
        contact(timeout_s=math.inf),
        contact(timeout_s=-1),
        contact(state="asleep"),
    ],
)
def test_what_is_not_as_it_is_written_is_nothing(change: Callable[[dict[str, Any]], object]) -> None:
    assert PLAIN.read(PLACE, forged(said(change)), 0.0) is None


@pytest.mark.parametrize(
    "line", [b"[" * 10_000, b"{" + b" " * MAX_LINE_BYTES + b"}", b"1" * 5_000, b"\xff", b""]
)
def test_a_line_of_anything_else_is_nothing(line: bytes) -> None:
    assert PLAIN.read(PLACE, forged(line + b"\n{}"), 0.0) is None


def test_an_unchanged_line_is_something() -> None:
    assert PLAIN.read(PLACE, forged(said(lambda members: members)), 0.0) == EXAMPLE
