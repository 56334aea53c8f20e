from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import math
import os
import re
import resource
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from gateway.identity import records
from gateway.identity import revocations as journals
from gateway.identity.records import RevocationsError, faults_in_file, faults_in_journal
from gateway.identity.revocations import Revocations
from tests.identity.world import NOW, Clock

A, B = "https://a.example", "https://b.example"
Said = Mapping[str, object]


def lines(*records: Said) -> bytes:
    return b"".join(json.dumps(record).encode() + b"\n" for record in records)


def journal_of(path: Path, clock: Clock | None = None) -> Revocations:
    return Revocations(None, path, clock or Clock())


def take(revocations: Revocations, said: Said) -> None:
    asyncio.run(revocations.record(said))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "revocations.jsonl"


# What a record says.


def test_without_sources_nothing_is_revoked() -> None:
    revocations = Revocations(None, None, Clock())
    assert not revocations.is_revoked(A, "j1", "s1")
    assert not revocations.is_client_revoked("bff")
    assert revocations.refresh() is None
    assert revocations.entries() == []


@pytest.mark.parametrize("source", ["file", "journal"])
def test_what_is_revoked(path: Path, source: str) -> None:
    path.write_bytes(
        lines({"jti": "j1", "issuer": A}, {"sub": "s1", "issuer": A}, {"client": "bff"}) + b"\n  \n"
    )
    revocations = Revocations(
        path if source == "file" else None, path if source == "journal" else None, Clock()
    )
    assert revocations.is_revoked(A, "j1", None)
    assert revocations.is_revoked(A, None, "s1")
    assert revocations.is_revoked(A, "j1", "s2")
    assert revocations.is_revoked(A, "j2", "s1")
    assert not revocations.is_revoked(A, "s1", "j1")
    assert not revocations.is_revoked(B, "j1", "s1")
    assert not revocations.is_revoked(A, None, None)
    assert not revocations.is_revoked(A, "J1", "S1")
    assert revocations.is_client_revoked("bff")
    assert not revocations.is_client_revoked("j1")
    assert [entry["source"] for entry in revocations.entries()] == [source] * 3


def test_until(path: Path) -> None:
    clock = Clock()
    path.write_bytes(lines({"jti": "j1", "issuer": A, "until": int(NOW) + 10}, {"client": "old", "until": 1}))
    revocations = Revocations(path, None, clock)
    assert revocations.is_revoked(A, "j1", None)
    assert not revocations.is_client_revoked("old")
    assert [entry.get("jti") for entry in revocations.entries()] == ["j1"]
    clock.now += 9.999
    assert revocations.is_revoked(A, "j1", None)
    clock.now = NOW + 10
    assert not revocations.is_revoked(A, "j1", None)
    assert revocations.entries() == []


@pytest.mark.parametrize(
    ("records", "revoked"),
    [
        ([{}], True),
        ([{}, {"withdrawn": True}], False),
        ([{"withdrawn": True}, {}], True),
        ([{}, {"withdrawn": True}, {}], True),
        ([{}, {"until": 1}], True),
        ([{"until": 1}, {}], True),
        ([{"until": int(NOW) + 5}, {"until": int(NOW) + 1}], True),
        ([{"until": int(NOW) + 1}, {"until": int(NOW) + 5}], True),
        ([{"until": int(NOW) + 1}], False),
    ],
)
def test_the_order_of_records(path: Path, records: list[Said], revoked: bool) -> None:
    """Only a withdrawal gives anything back; of two that revoke the same, the longer one holds."""
    path.write_bytes(lines(*({"client": "bff"} | dict(record) for record in records)))
    clock = Clock()
    revocations = Revocations(path, None, clock)
    clock.now += 2
    assert revocations.is_client_revoked("bff") is revoked


UNREADABLE: list[tuple[bytes, str]] = [
    (b"x", "expected one JSON object, got something else from character 1 on"),
    (b"[]", "expected a JSON object, got an array"),
    (
        b'{"client":"a","client":"b"}',
        'expected a JSON object without doubt, got: the member "client" is doubled',
    ),
    (b'{"client":"a"} {"client":"b"}', "expected one JSON object, got something else from character 16 on"),
    (b'{"client":"\xff"}', "expected UTF-8, got something else from byte 12 on"),
]
UNFIT: list[tuple[bytes, str]] = [
    (b"{}", "expected one of jti, sub, client, got none"),
    (b'{"issuer":"i"}', "expected one of jti, sub, client, got none"),
    (b'{"jti":"j","sub":"s","issuer":"i"}', "expected one of jti, sub, client, got jti and sub"),
    (b'{"jti":"j"}', "issuer: expected the issuer of this jti, got none"),
    (b'{"sub":"s"}', "issuer: expected the issuer of this sub, got none"),
    (b'{"client":"c","issuer":"i"}', "issuer: expected none, as a client is the policies', got one"),
    (b'{"client":7}', "client: expected a string, got a number"),
    (b'{"client":null}', "client: expected a string, got nothing"),
    (b'{"client":""}', "client: expected 1 to 128 characters, got 0"),
    (b'{"client":"' + b"c" * 129 + b'"}', "client: expected 1 to 128 characters, got 129"),
    (b'{"sub":"' + b"s" * 1025 + b'","issuer":"i"}', "sub: expected 1 to 1024 characters, got 1025"),
    (b'{"sub":"s","issuer":""}', "issuer: expected 1 to 1024 characters, got 0"),
    (b'{"sub":"s","issuer":["i"]}', "issuer: expected a string, got an array"),
    (b'{"client":"c","until":1.5}', "until: expected whole seconds since 1970, up to the year 9999, got 1.5"),
    (b'{"client":"c","until":true}', "until: expected whole seconds"),
    (b'{"client":"c","until":null}', "until: expected whole seconds"),
    (b'{"client":"c","until":"2030-01-01"}', "until: expected whole seconds"),
    (b'{"client":"c","until":-1}', "until: expected whole seconds"),
    (b'{"client":"c","until":1800000000000}', "until: expected whole seconds"),
    (b'{"client":"c","withdrawn":false}', "withdrawn: expected true or no such member, got something else"),
    (b'{"client":"c","withdrawn":1}', "withdrawn: expected true"),
    (b'{"client":"c","withdrawn":true,"until":5}', "until: expected none, as withdrawn is for good, got one"),
    (b'{"client":"c","note":"' + b"n" * 201 + b'"}', "note: expected at most 200 printable characters"),
    (b'{"client":"c","note":"a\\nb"}', "note: expected at most 200 printable characters"),
    (b'{"client":"c","note":"\\ud800"}', "surrogates"),
    (b'{"client":"c","at":7}', "at: expected at most 200 printable characters"),
    (
        b'{"client":"c","expires":5}',
        'expected only at, client, issuer, jti, note, sub, until, withdrawn, got "e',
    ),
]


@pytest.mark.parametrize(("line", "told"), [*UNREADABLE, *UNFIT])
def test_unfit_lines(path: Path, line: bytes, told: str) -> None:
    path.write_bytes(lines({"client": "fit"}) + line + b"\n" + lines({"client": "fit"}))
    for file, journal in ((path, None), (None, path)):
        with pytest.raises(RevocationsError, match=re.escape(told)) as caught:
            Revocations(file, journal, Clock())
        assert all(fault.startswith(f"{path}:2: ") for fault in caught.value.faults)
        assert caught.value.faults == faults_in_file(path) == faults_in_journal(path)


@pytest.mark.parametrize(("line", "told"), UNFIT)
def test_unfit_records_change_nothing(path: Path, line: bytes, told: str) -> None:
    revocations = journal_of(path)
    with pytest.raises(RevocationsError, match=re.escape(told)):
        take(revocations, json.loads(line))
    assert path.read_bytes() == b""
    assert revocations.entries() == []


def test_all_faults_of_all_lines_are_told(path: Path) -> None:
    path.write_bytes(b'{"sub":7}\n\n{"client":"ok"}\n{"client":""}\n')
    with pytest.raises(RevocationsError) as caught:
        Revocations(path, None, Clock())
    assert caught.value.faults == (
        f"{path}:1: issuer: expected the issuer of this sub, got none",
        f"{path}:1: sub: expected a string, got a number",
        f"{path}:4: client: expected 1 to 128 characters, got 0",
    )


def test_of_very_many_faults_some_are_told(path: Path) -> None:
    path.write_bytes(b"x\n" * 1000)
    with pytest.raises(RevocationsError) as caught:
        Revocations(path, None, Clock())
    assert len(caught.value.faults) == records.MAX_FAULTS + 1
    assert caught.value.faults[-1] == f"and {1000 - records.MAX_FAULTS} more"


# The operators' file.


def test_a_changed_file_is_read_again(path: Path) -> None:
    path.write_bytes(b"")
    revocations = Revocations(path, None, Clock())
    assert revocations.refresh() is None
    path.write_bytes(lines({"client": "a"}, {"client": "b"}))
    assert revocations.refresh() == 2
    assert revocations.refresh() is None
    path.write_bytes(lines({"client": "b"}))
    assert revocations.refresh() == 1
    assert not revocations.is_client_revoked("a")
    assert revocations.is_client_revoked("b")


@pytest.mark.parametrize("bad", [b"x", None])
def test_a_bad_file_keeps_the_last_good_one_and_is_told_once(path: Path, bad: bytes | None) -> None:
    path.write_bytes(lines({"client": "a"}))
    revocations = Revocations(path, None, Clock())
    path.unlink() if bad is None else path.write_bytes(bad)
    told = revocations.refresh()
    assert isinstance(told, RevocationsError)
    assert str(path) in str(told)
    assert revocations.refresh() is None
    assert revocations.is_client_revoked("a")
    path.write_bytes(b"")
    assert revocations.refresh() == 0
    assert not revocations.is_client_revoked("a")


def test_a_missing_file_at_the_start(path: Path) -> None:
    with pytest.raises(RevocationsError, match="expected a file that can be read, got: No such file"):
        Revocations(path, None, Clock())


def test_bounds(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert records.MAX_RECORDS == 100_000
    monkeypatch.setattr(records, "MAX_RECORDS", 3)
    path.write_bytes(lines(*[{"client": "c"}] * 3) + b"\n\n")
    Revocations(path, None, Clock())
    path.write_bytes(lines(*[{"client": "c"}] * 4))
    with pytest.raises(RevocationsError, match="expected at most 3 records, got 4"):
        Revocations(path, None, Clock())
    with pytest.raises(RevocationsError, match="expected at most 67108864 bytes, got more"):
        Revocations(Path("/dev/zero"), None, Clock())


# The journal.


def test_a_record_is_in_effect_and_survives(path: Path) -> None:
    revocations = journal_of(path)
    take(revocations, {"sub": "sé😀", "issuer": A})
    take(revocations, {"client": "bff", "until": int(NOW) + 60, "note": "stolen laptop"})
    after = journal_of(path)
    for each in (revocations, after):
        assert each.is_revoked(A, None, "sé😀")
        assert each.is_client_revoked("bff")
        assert each.entries()[1] == {
            "client": "bff",
            "until": int(NOW) + 60,
            "at": "2027-01-15T08:00:00Z",
            "note": "stolen laptop",
            "source": "journal",
        }
    assert len(revocations.entries()) == 2
    assert after.notices == ()


def test_a_withdrawal_survives(path: Path) -> None:
    revocations = journal_of(path)
    take(revocations, {"client": "bff"})
    take(revocations, {"client": "partner"})
    take(revocations, {"client": "bff", "withdrawn": True})
    for each in (revocations, journal_of(path)):
        assert not each.is_client_revoked("bff")
        assert each.is_client_revoked("partner")


def test_a_withdrawal_of_nothing_is_a_mistake(path: Path, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(lines({"client": "filed"}))
    revocations = Revocations(file, path, Clock())
    with pytest.raises(RevocationsError, match="got what only the file has"):
        take(revocations, {"client": "filed", "withdrawn": True})
    with pytest.raises(RevocationsError, match="got what nobody has"):
        take(revocations, {"client": "typo", "withdrawn": True})
    assert revocations.is_client_revoked("filed")
    assert path.read_bytes() == b""


def test_what_either_source_revokes_is_revoked(path: Path, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(lines({"client": "bff"}))
    revocations = Revocations(file, path, Clock())
    take(revocations, {"client": "bff"})
    take(revocations, {"client": "bff", "withdrawn": True})
    assert revocations.is_client_revoked("bff")
    take(revocations, {"client": "bff"})
    file.write_bytes(b"")
    revocations.refresh()
    assert revocations.is_client_revoked("bff")


def test_no_journal() -> None:
    revocations = Revocations(None, None, Clock())
    with pytest.raises(
        RevocationsError, match=r"^revocations\.journal: expected a file to write to, got none$"
    ):
        take(revocations, {"client": "bff"})
    assert not revocations.is_client_revoked("bff")


def test_what_ends_in_the_past(path: Path) -> None:
    revocations = journal_of(path)
    with pytest.raises(RevocationsError, match="until: expected a time to come, got 1800000000"):
        take(revocations, {"client": "bff", "until": int(NOW)})


def test_what_json_cannot_say(path: Path) -> None:
    for said in ({"client": b"bff"}, {"client": "c", "until": float("nan")}, {"client": "\ud800"}):
        with pytest.raises(RevocationsError):
            take(journal_of(path), said)
    assert path.read_bytes() == b""


def test_a_journal_is_looked_at_and_not_made(path: Path, tmp_path: Path) -> None:
    assert faults_in_journal(path) == ()
    assert not path.exists()
    assert faults_in_journal(tmp_path) == (
        f"{tmp_path}: expected a file that can be read, got: Is a directory",
    )
    assert faults_in_file(path) == (
        f"{path}: expected a file that can be read, got: No such file or directory",
    )


def test_the_journal_is_its_owners(path: Path) -> None:
    journal_of(path)
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_journal_that_cannot_be_at_the_start(tmp_path: Path) -> None:
    for path, told in ((tmp_path, "Is a directory"), (tmp_path / "no" / "journal", "No such file")):
        with pytest.raises(RevocationsError, match=f"expected a file that can be written, got: {told}"):
            journal_of(path)


@pytest.mark.parametrize("torn", [b'{"client"', b'{"client":"torn"', b"\x00" * 20, b'{"client":"\xf0\x9f'])
def test_a_torn_last_line_is_cut_off_and_told(path: Path, torn: bytes) -> None:
    whole = lines({"client": "a"})
    path.write_bytes(whole + torn)
    assert faults_in_journal(path) == ()
    assert path.read_bytes() == whole + torn
    revocations = journal_of(path)
    assert revocations.notices == (f"{path}: expected a whole last line, got a part of one; it was cut off",)
    assert path.read_bytes() == whole
    take(revocations, {"client": "b"})
    after = journal_of(path)
    assert after.notices == ()
    assert [entry["client"] for entry in after.entries()] == ["a", "b"]


def test_a_last_line_that_lacks_only_its_end(path: Path) -> None:
    path.write_bytes(lines({"client": "a"}).rstrip())
    take(journal_of(path), {"client": "b"})
    assert [entry["client"] for entry in journal_of(path).entries()] == ["a", "b"]


@given(st.data())
def test_wherever_a_crash_cuts(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    path = tmp_path_factory.mktemp("cut") / "journal"
    written = lines(*({"client": f"c{number}"} for number in range(4)))
    path.write_bytes(written[: data.draw(st.integers(0, len(written)))])
    whole = path.read_bytes().count(b"}")
    assert faults_in_journal(path) == ()
    assert len(journal_of(path).entries()) == whole
    assert path.read_bytes().count(b"\n") == whole


def test_what_is_over_is_left_out_once_it_is_most(path: Path) -> None:
    clock = Clock()
    revocations = journal_of(path, clock)
    take(revocations, {"client": "kept", "note": "why"})
    take(revocations, {"client": "over", "until": int(NOW) + 1})
    clock.now += 2
    journal_of(path, clock)
    assert path.read_bytes().count(b"\n") == 2  # half is not most
    take(revocations, {"client": "back"})
    take(revocations, {"client": "back", "withdrawn": True})
    path.chmod(0o640)
    after = journal_of(path, clock)
    assert after.entries() == revocations.entries()
    assert after._journal is not None
    assert after._journal.lines == 1
    assert [json.loads(line)["client"] for line in path.read_bytes().splitlines()] == ["kept"]
    assert path.stat().st_mode & 0o777 == 0o640
    assert list(path.parent.iterdir()) == [path]


def test_a_linked_journal_stays_linked(path: Path, tmp_path: Path) -> None:
    real = tmp_path / "real"
    real.write_bytes(lines({"client": "a"}, {"client": "a", "withdrawn": True}, {"client": "b"}))
    path.symlink_to(real)
    journal_of(path)
    assert path.is_symlink()
    assert real.read_bytes() == lines({"client": "b"})


def test_a_full_journal(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journals, "MAX_RECORDS", 3)
    clock = Clock()
    revocations = journal_of(path, clock)
    for name in ("a", "b", "c"):
        take(revocations, {"client": name, "until": int(NOW) + 10})
    with pytest.raises(RevocationsError, match="expected at most 3 records in the journal, got one more"):
        take(revocations, {"client": "d"})
    assert not revocations.is_client_revoked("d")
    take(revocations, {"client": "b", "withdrawn": True})
    take(revocations, {"client": "d"})
    assert [entry["client"] for entry in journal_of(path, clock).entries()] == ["a", "c", "d"]
    clock.now += 20
    take(revocations, {"client": "e"})
    assert [entry["client"] for entry in journal_of(path, clock).entries()] == ["d", "e"]


def test_a_journal_that_is_gone_is_written_anew(path: Path) -> None:
    revocations = journal_of(path)
    take(revocations, {"client": "a"})
    path.unlink()
    take(revocations, {"client": "b"})
    assert [entry["client"] for entry in journal_of(path).entries()] == ["a", "b"]


@contextlib.contextmanager
def room_for(size: int) -> Iterator[None]:
    """No file of this process gets larger: a full disk, as far as a writer can tell."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize(("more", "because"), [(0, "File too large"), (5, "No space left on device")])
def test_what_cannot_be_written_down_is_revoked_but_not_confirmed(
    path: Path, more: int, because: str
) -> None:
    revocations = journal_of(path)
    take(revocations, {"client": "before"})
    before = path.read_bytes()
    with room_for(len(before) + more):
        with pytest.raises(OSError, match=f"{because}; it is in effect until this gateway ends"):
            take(revocations, {"client": "bff"})
        with pytest.raises(OSError, match=f"{because}; it is not taken back"):
            take(revocations, {"client": "before", "withdrawn": True})
    assert revocations.is_client_revoked("bff")
    assert revocations.is_client_revoked("before")
    assert path.read_bytes() == before
    take(revocations, {"client": "after"})
    assert [entry["client"] for entry in journal_of(path).entries()] == ["before", "after"]


def test_a_line_that_may_not_be_on_the_disk_is_not_left_there(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fsync(_: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    revocations = journal_of(path)
    with monkeypatch.context() as disk:
        disk.setattr(os, "fsync", fsync)
        with pytest.raises(OSError, match="Input/output error; it is in effect"):
            take(revocations, {"client": "bff"})
    assert path.read_bytes() == b""


def test_what_could_not_be_cut_off_at_once_is_cut_off_later(path: Path) -> None:
    revocations = journal_of(path)
    journal = revocations._journal
    assert journal is not None
    path.write_bytes(b'{"cli')
    journal._torn_at = 0
    for name in ("a", "b"):
        take(revocations, {"client": name})
    assert [entry["client"] for entry in journal_of(path).entries()] == ["a", "b"]


def test_whoever_asked_may_leave(path: Path) -> None:
    async def run() -> Revocations:
        revocations = journal_of(path)
        asking = asyncio.create_task(revocations.record({"client": "bff"}))
        await asyncio.sleep(0)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        while revocations._entering:
            await asyncio.wait(revocations._entering)
        return revocations

    revocations = asyncio.run(run())
    for each in (revocations, journal_of(path)):
        assert each.is_client_revoked("bff")


def test_many_at_once(path: Path) -> None:
    async def run() -> Revocations:
        revocations = journal_of(path)
        await asyncio.gather(*(revocations.record({"client": f"c{number}"}) for number in range(50)))
        return revocations

    revocations = asyncio.run(run())
    assert journal_of(path).entries() == revocations.entries()
    assert len(revocations.entries()) == 50


def test_it_is_on_the_disk_before_it_is_confirmed(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[bytes] = []
    real = os.fsync

    def fsync(file: int) -> None:
        real(file)
        synced.append(path.read_bytes())

    revocations = journal_of(path)
    monkeypatch.setattr(os, "fsync", fsync)
    take(revocations, {"client": "bff"})
    assert synced == [path.read_bytes()]
    assert b"bff" in synced[0]


# Any history.


NAMES = ("a", "b", "c")
a_name = st.sampled_from(NAMES)


class History(RuleBasedStateMachine):
    """What holds is what was said, before and after any restart."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.ends: dict[str, float] = {}
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name) / "journal"
        self.restart()

    def teardown(self) -> None:
        self.folder.cleanup()

    @rule(name=a_name)
    def revoke(self, name: str) -> None:
        take(self.revocations, {"client": name})
        self.ends[name] = math.inf

    @rule(name=a_name, seconds=st.integers(1, 30))
    def revoke_for(self, name: str, seconds: int) -> None:
        end = int(self.clock.now) + seconds
        take(self.revocations, {"client": name, "until": end})
        self.ends[name] = max(end, self.ends.get(name, 0.0))

    @rule(name=a_name)
    def withdraw(self, name: str) -> None:
        there = self.ends.pop(name, 0.0) > self.clock.now
        try:
            take(self.revocations, {"client": name, "withdrawn": True})
        except RevocationsError:
            assert not there
        else:
            assert there

    @rule(seconds=st.integers(1, 20))
    def wait(self, seconds: int) -> None:
        self.clock.now += seconds

    @rule()
    def restart(self) -> None:
        self.revocations = journal_of(self.path, self.clock)

    @rule(torn=st.sampled_from([b"{", b'{"client":"x"', b"\x00"]))
    def crash(self, torn: bytes) -> None:
        with self.path.open("ab") as file:
            file.write(torn)
        self.restart()
        assert self.revocations.notices

    @invariant()
    def agrees(self) -> None:
        for name in NAMES:
            assert self.revocations.is_client_revoked(name) is (self.ends.get(name, 0.0) > self.clock.now)


TestHistory = History.TestCase
TestHistory.settings = settings(max_examples=30, stateful_step_count=25)
