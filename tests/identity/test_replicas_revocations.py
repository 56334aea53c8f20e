"""What replicas tell each other of revocations: alike in the end, whatever the order."""

from __future__ import annotations

import asyncio
import itertools
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.identity import records
from gateway.identity import revocations as journals
from gateway.identity.records import Record, RevocationsError, heard, latest, numbered
from gateway.identity.revocations import WITHDRAWN_S, Revocations, Told
from tests.identity.world import NOW, Clock

MS = int(1000 * NOW)
SUBJECT = ("client", "", "bff")
RECORDS = st.one_of(
    st.builds(
        Record,
        st.just(SUBJECT),
        until=st.sampled_from([NOW + 10, NOW + 20, math.inf]),
        note=st.sampled_from([None, "a"]),
        number=st.integers(0, 4),
    ),
    st.builds(Record, st.just(SUBJECT), withdrawn=st.just(True), note=st.none(), number=st.integers(0, 4)),
)


def replica(path: Path | None = None, clock: Clock | None = None) -> Revocations:
    return Revocations(None, path, clock or Clock())


def lines(told: Told) -> Mapping[str, bytes]:
    return {place: line for place, (line, _) in told.items()}


def merge(revocations: Revocations, *told: bytes) -> Mapping[str, bytes]:
    return lines(asyncio.run(revocations.merge(told)))


def noted(revocations: Revocations) -> Mapping[str, bytes]:
    return lines(asyncio.run(revocations.noted()))


def record(revocations: Revocations, said: Mapping[str, object], *, heard: bool = True) -> bytes:
    told: list[bytes] = []

    async def tell(those: Told) -> bool:
        told.extend(lines(those).values())
        return heard

    revocations.tell = tell
    assert asyncio.run(revocations.record(said)) == heard
    return told[0]


# -- which of two holds ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "other", "holds"),
    [
        ({}, {"withdrawn": True, "number": 1}, "other"),
        ({"number": 2}, {"withdrawn": True, "number": 1}, "one"),
        # At the same moment: refusing one time too many does less harm.
        ({"number": 1}, {"withdrawn": True, "number": 1}, "one"),
        ({"until": NOW}, {"until": NOW + 1}, "other"),
        ({"until": NOW}, {}, "other"),
        ({"withdrawn": True, "number": 1}, {"withdrawn": True, "number": 2}, "other"),
    ],
)
def test_which_holds(one: dict[str, object], other: dict[str, object], holds: str) -> None:
    pair = {"one": Record(SUBJECT, **one), "other": Record(SUBJECT, **other)}  # type: ignore[arg-type]  # of a table
    assert latest(*pair.values()) == pair[holds]


def test_of_two_that_revoke_the_longer_holds_and_is_not_taken_back_by_what_was_before_either() -> None:
    long, short = Record(SUBJECT, number=1), Record(SUBJECT, until=NOW, number=3)
    assert latest(long, short) == Record(SUBJECT, number=3)


@given(RECORDS, RECORDS)
def test_it_does_not_matter_which_was_heard_first(one: Record, other: Record) -> None:
    assert latest(one, other) == latest(other, one)
    assert latest(one, one) == one
    assert latest(latest(one, other), other) == latest(one, other)


@given(st.lists(st.lists(RECORDS, min_size=1, max_size=4), min_size=2, max_size=4))
def test_whoever_tells_each_other_all_ends_alike(each: list[list[Record]]) -> None:
    known = [list(itertools.accumulate(heard, latest))[-1] for heard in each]
    for _ in range(8):
        known = [latest(before, known[index - 1]) for index, before in enumerate(known)]
    assert len(set(known)) == 1


# -- lines ------------------------------------------------------------------------------------------


@given(RECORDS)
def test_what_is_told_is_heard(said: Record) -> None:
    assert heard(said.told, NOW) == said


@pytest.mark.parametrize(
    "told",
    [
        b"",
        b'{"client": "bff"}',
        b'-1 {"client": "bff"}',
        b'1.5 {"client": "bff"}',
        b'99999999999999999 {"client": "bff"}',
        b'%d {"client": "bff"}' % (MS + records.MAX_AHEAD_MS + 1000),
        b'1 {"client": "bff"',
        b"1 nonsense",
        b"1 []",
        b'1 {"client": "bff", "more": 1}',
        b'1 {"client": 7}',
        b'1 {"client": "bff", "until": 1, "withdrawn": true}',
        b'1 {"client": "bff"}\n2 {"client": "bff"}',
        b"\xff",
        b"1 " + b"[" * 100_000,
    ],
)
def test_what_is_no_record_is_counted_and_no_more(told: bytes) -> None:
    with pytest.raises(RevocationsError):
        heard(told, NOW)
    revocations = replica()
    assert merge(revocations, told, b'1 {"client": "other"}') == {}
    assert (revocations.foreign, revocations.count()) == (1, 1)


def test_places_differ_by_all_of_the_subject() -> None:
    subjects = [
        ("jti", "a", "b"),
        ("sub", "a", "b"),
        ("jti", "b", "a"),
        ("jti", "", "ab"),
        ("client", "", "b"),
    ]
    assert len({Record(subject).place for subject in subjects}) == len(subjects)
    assert Record(SUBJECT, note="a").place == Record(SUBJECT, withdrawn=True, number=7).place


@pytest.mark.parametrize(
    ("at", "number"),
    [
        ("2026-11-22T10:00:00Z", 1_795_341_600_000),
        ("2996-11-22T10:00:00Z", 1_795_343_225_000),
        ("1900-01-01T00:00:00Z", 0),
        ("2026-13-22T10:00:00Z", 0),
        ("yesterday", 0),
        (None, 0),
    ],
)
def test_when_a_record_of_a_journal_was_noted(at: str | None, number: int) -> None:
    assert numbered(Record(SUBJECT, at=at), 1_795_343_225.0).number == number


# -- a replica --------------------------------------------------------------------------------------


def test_what_one_notes_another_takes_over_and_may_withdraw(tmp_path: Path) -> None:
    one, other = replica(tmp_path / "one"), replica(tmp_path / "other")
    told = record(one, {"client": "bff", "note": "lost"})
    assert told == b'%d {"client": "bff", "at": "%s", "note": "lost"}' % (
        MS,
        str(one.entries()[0]["at"]).encode(),
    )
    assert merge(other, told) == {}
    assert other.is_client_revoked("bff")
    assert other.entries() == one.entries()
    back = record(other, {"client": "bff", "withdrawn": True})
    assert merge(one, told, back) == {}
    assert not one.is_client_revoked("bff")
    # Who was away comes with what is over.
    assert merge(one, told) == noted(other) == {Record(SUBJECT).place: back}
    assert not one.is_client_revoked("bff")


def test_who_takes_a_record_hears_whether_others_could_be_told(tmp_path: Path) -> None:
    revocations = replica(tmp_path / "journal")
    assert asyncio.run(revocations.record({"client": "a"})) is None
    record(revocations, {"client": "b"}, heard=False)
    assert revocations.is_client_revoked("b")


def test_others_are_told_though_the_one_who_asked_has_left(tmp_path: Path) -> None:
    async def leave() -> Told:
        told: asyncio.Future[Told] = asyncio.get_running_loop().create_future()

        async def tell(those: Told) -> bool:
            told.set_result(those)
            return True

        revocations = replica(tmp_path / "journal")
        revocations.tell = tell
        asking = asyncio.create_task(revocations.record({"client": "bff"}))
        await asyncio.sleep(0)
        asking.cancel()
        return await told

    assert len(asyncio.run(leave())) == 1


def test_it_stays_over_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    clock = Clock()
    first = replica(path, clock)
    merge(first, b'%d {"client": "a"}' % MS, b'%d {"client": "b"}' % MS, b'%d {"client": "c"}' % MS)
    merge(first, b'%d {"client": "b", "withdrawn": true}' % (MS + 1))
    again = replica(path, clock)
    assert [again.is_client_revoked(name) for name in "abc"] == [True, False, True]


def test_without_a_journal_it_is_in_force_all_the_same() -> None:
    revocations = replica()
    merge(revocations, b'1 {"sub": "s", "issuer": "i"}')
    assert revocations.is_revoked("i", None, "s")


def test_what_cannot_be_written_down_is_in_force_all_the_same(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    revocations = replica(folder / "journal")
    (folder / "journal").unlink()
    folder.rmdir()
    merge(revocations, b'1 {"client": "bff"}')
    assert revocations.is_client_revoked("bff")


def test_what_is_new_is_told_at_once_and_only_then() -> None:
    changes: list[int] = []
    revocations = Revocations(None, None, Clock(), lambda: changes.append(revocations.count()))
    merge(revocations, b'1 {"client": "a"}', b'1 {"client": "b"}')
    merge(revocations, b'1 {"client": "a"}')
    assert changes == [2]


def test_a_record_is_later_than_all_that_its_replica_knew_whatever_its_clock_says(tmp_path: Path) -> None:
    clock = Clock()
    revocations = replica(tmp_path / "journal", clock)
    ahead = MS + 60_000
    merge(revocations, b'%d {"client": "bff"}' % ahead)
    assert record(revocations, {"client": "bff", "withdrawn": True}).startswith(b"%d " % (ahead + 1))
    clock.now -= 3600
    assert record(revocations, {"client": "bff"}).startswith(b"%d " % (ahead + 2))
    assert revocations.is_client_revoked("bff")


def test_the_longer_one_is_told_where_a_shorter_one_was_taken(tmp_path: Path) -> None:
    clock = Clock()
    revocations = replica(tmp_path / "journal", clock)
    record(revocations, {"client": "bff", "note": "long"})
    clock.now += 1
    told = heard(record(revocations, {"client": "bff", "until": int(NOW) + 9}), clock.now)
    assert (told.note, told.until, told.number) == ("long", math.inf, MS + 1000)


def test_what_is_over_is_neither_taken_nor_told() -> None:
    clock = Clock()
    revocations = replica(clock=clock)
    old = MS - 1000 * WITHDRAWN_S - 1
    merge(
        revocations,
        b'1 {"client": "a", "until": %d}' % NOW,
        b'%d {"client": "b", "withdrawn": true}' % old,
        b'1 {"client": "c", "until": %d}' % (NOW + 1),
    )
    assert len(noted(revocations)) == 1
    clock.now += 1
    assert noted(revocations) == {}


def test_a_withdrawal_that_is_over_takes_nothing_back(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    path.write_bytes(b'{"client": "bff"}\n')
    revocations = replica(path)
    merge(revocations, b'%d {"client": "bff", "withdrawn": true}' % (MS - 1000 * WITHDRAWN_S))
    assert revocations.is_client_revoked("bff")


def test_what_is_told_says_when_it_is_over() -> None:
    revocations = replica()
    until = int(NOW) + 9
    merge(revocations, b'1 {"client": "a"}', b'1 {"client": "b", "until": %d}' % until)
    merge(revocations, b'%d {"client": "c", "withdrawn": true}' % MS)
    told = asyncio.run(revocations.noted()).values()
    assert [over for _, over in told] == [math.inf, until, NOW + WITHDRAWN_S]


def test_there_is_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journals, "MAX_RECORDS", 3)
    clock = Clock()
    revocations = replica(clock=clock)
    names = [f"c{number}" for number in range(5)]
    merge(revocations, *(b'1 {"client": "%s", "until": %d}' % (name.encode(), NOW + 5) for name in names))
    assert (revocations.count(), revocations.foreign) == (3, 2)
    merge(revocations, *(b'%d {"client": "%s", "withdrawn": true}' % (MS, name.encode()) for name in names))
    assert revocations.count() == 0
    assert len(noted(revocations)) == 3
    clock.now += 5
    merge(revocations, b'1 {"client": "new"}')
    assert revocations.is_client_revoked("new")


def test_a_journal_has_no_more_lines_than_a_start_would_take(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (records, journals):
        monkeypatch.setattr(module, "MAX_RECORDS", 5)
    path = tmp_path / "journal"
    revocations = replica(path)
    for number in range(3):
        merge(revocations, *(b'%d {"client": "%s"}' % (MS + number, name) for name in (b"a", b"b")))
        merge(revocations, b'%d {"client": "b", "withdrawn": true}' % (MS + number))
        merge(revocations, b'%d {"client": "b", "note": "%d"}' % (MS + number, number))
    assert path.read_bytes().count(b"\n") <= 5
    assert replica(path).entries() == revocations.entries()


def test_an_old_journal_loses_against_what_is_newer(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    path.write_bytes(b'{"client": "a", "at": "2020-01-01T00:00:00Z"}\n{"client": "b"}\n')
    revocations = replica(path)
    assert [heard(told, NOW).number for told in noted(revocations).values()] == [1_577_836_800_000, 0]
    merge(
        revocations,
        b'%d {"client": "a", "withdrawn": true}' % MS,
        b'%d {"client": "b", "withdrawn": true}' % MS,
    )
    assert revocations.count() == 0


def test_numbers_are_no_part_of_what_is_shown(tmp_path: Path) -> None:
    revocations = replica(tmp_path / "journal")
    record(revocations, {"client": "bff"})
    assert replace(Record(SUBJECT), number=7).members == {"client": "bff"}
    assert "number" not in revocations.entries()[0]
    assert b"number" not in (tmp_path / "journal").read_bytes()
