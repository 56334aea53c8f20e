"""Which tokens and clients somebody has revoked, and where that is written down.

A record is one line of JSON: `{"jti": …, "issuer": …}`, `{"sub": …, "issuer": …}` or `{"client": …}`. It
holds until its `until`, or until a later record of the same source takes it back.

There are two sources, and what either of them revokes is revoked. The file is the operators': it is read
again when it changes. The journal is the gateway's own: it is read at the start, and each record that the
gateway takes is written to it before that is confirmed.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import errno
import hashlib
import json
import math
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import IO

from gateway.identity.documents import read_object, type_name
from gateway.identity.tokens import MAX_CLIENT_CHARACTERS, MAX_NAME_CHARACTERS, MAX_TIME

MAX_RECORDS = 100_000
MAX_BYTES = 64 * 1024 * 1024
MAX_NOTE_CHARACTERS = 200
#: A file of another kind is wrong in every line, and nobody reads that many sentences.
MAX_FAULTS = 20

#: What can be revoked → how long its name may be.
_KINDS = {"jti": MAX_NAME_CHARACTERS, "sub": MAX_NAME_CHARACTERS, "client": MAX_CLIENT_CHARACTERS}
_MEMBERS = frozenset({*_KINDS, "issuer", "until", "withdrawn", "at", "note"})

_Subject = tuple[str, str, str]  # (kind, its issuer or nothing, name)


class RevocationsError(ValueError):
    """Records were refused. `faults` has a sentence for each thing that is wrong with them."""

    def __init__(self, faults: Iterable[str]) -> None:
        self.faults = tuple(faults)
        super().__init__("\n".join(self.faults))


@dataclass(frozen=True, slots=True)
class _Record:
    """One line. `until` is in epoch seconds; `at` and `note` are for people."""

    subject: _Subject
    until: float = math.inf
    withdrawn: bool = False
    at: str | None = None
    note: str | None = None

    @property
    def members(self) -> dict[str, object]:
        """The object that the line is."""
        kind, issuer, name = self.subject
        optional = {
            "issuer": issuer or None,
            "until": None if self.until == math.inf else int(self.until),
            "withdrawn": self.withdrawn or None,
            "at": self.at,
            "note": self.note,
        }
        return {kind: name} | {member: value for member, value in optional.items() if value is not None}

    @property
    def line(self) -> bytes:
        return json.dumps(self.members).encode() + b"\n"


_Records = dict[_Subject, _Record]


class Revocations:
    """What is revoked now. `wall` gives the epoch seconds that `until` is measured by.

    `changes` rises with every change. `notices` has a sentence for each thing that was found and mended at
    the start. Raises RevocationsError when a source is unfit at the start; later the last good file stays.
    """

    def __init__(self, file: Path | None, journal: Path | None, wall: Callable[[], float]) -> None:
        self.changes = 0
        self.notices: tuple[str, ...] = ()
        self._wall = wall
        self._file = file
        self._seen: bytes | str | None = None
        self._filed: _Records = {}
        self._journal = None if journal is None else _Journal(journal)
        self._noted: _Records = {}
        self._turn = asyncio.Lock()
        self._entering: set[asyncio.Task[None]] = set()
        outcome = self.refresh()
        if isinstance(outcome, RevocationsError):
            raise outcome
        if self._journal is not None:
            self._open(self._journal)

    # -- what is asked --------------------------------------------------------------------------------

    def is_revoked(self, issuer: str, jti: str | None, sub: str | None) -> bool:
        """Whether a token of that issuer is revoked, by its id or with all others of its subject."""
        if not self._filed and not self._noted:
            return False
        return (jti is not None and self._has(("jti", issuer, jti))) or (
            sub is not None and self._has(("sub", issuer, sub))
        )

    def is_client_revoked(self, name: str) -> bool:
        """Whether a client of the policies is revoked, with all its tokens."""
        return self._has(("client", "", name))

    def entries(self) -> list[Mapping[str, object]]:
        """Every record that holds, and its `source`: `file` or `journal`."""
        return [
            {**record.members, "source": source}
            for source, records in (("file", self._filed), ("journal", self._noted))
            for record in _in_force(records.values(), self._wall()).values()
        ]

    def count(self) -> int:
        """How many records hold."""
        wall = self._wall()
        return sum(len(_in_force(records.values(), wall)) for records in (self._filed, self._noted))

    def _has(self, subject: _Subject) -> bool:
        return self._holds(self._filed, subject) or self._holds(self._noted, subject)

    def _holds(self, records: _Records, subject: _Subject) -> bool:
        record = records.get(subject)
        return record is not None and self._wall() < record.until

    # -- the operators' file --------------------------------------------------------------------------

    def refresh(self) -> int | RevocationsError | None:
        """Reads the file again: how many records hold now, or why the old ones stay, or None for no change.

        A fault is told once. Content is compared, not times. Blocks while it reads: 100,000 lines take
        about a second.
        """
        if self._file is None:
            return None
        content = _read(self._file)
        seen = hashlib.sha256(content).digest() if isinstance(content, bytes) else str(content)
        if seen == self._seen:
            return None
        self._seen = seen
        if isinstance(content, RevocationsError):
            return content
        try:
            self._filed = _in_force(_parse(content, self._file), self._wall())
        except RevocationsError as error:
            return error
        self.changes += 1
        return len(self._filed)

    # -- the gateway's journal ------------------------------------------------------------------------

    async def record(self, said: Mapping[str, object]) -> None:
        """Takes a record. It is in effect and written down when this returns; `at` is added where missing.

        Raises RevocationsError when the record is refused; nothing has changed then. Raises OSError when it
        cannot be written down: then it is in effect until this gateway ends, unless it is a withdrawal.
        """
        entering = asyncio.create_task(self._enter(_checked(said, self._wall())))
        self._entering.add(entering)
        entering.add_done_callback(self._entering.discard)
        # Whoever asked may leave; a record that is written but not in effect would come back as a surprise.
        await asyncio.shield(entering)

    async def _enter(self, record: _Record) -> None:
        async with self._turn:
            journal = self._prepared(record)
            if not record.withdrawn:
                self._apply(record)
            try:
                await asyncio.to_thread(self._write_down, journal, record)
            except OSError as error:
                state = "is not taken back" if record.withdrawn else "is in effect until this gateway ends"
                told = f"expected to write the record down, got: {error.strerror}; it {state}"
                raise OSError(error.errno, told, str(journal.path)) from error
            if record.withdrawn:
                self._apply(record)

    def _prepared(self, record: _Record) -> _Journal:
        """The journal, if it can take this record. Raises RevocationsError."""
        if self._journal is None:
            raise RevocationsError(["revocations.journal: expected a file to write to, got none"])
        if record.withdrawn and not self._holds(self._noted, record.subject):
            where = "only the file has" if self._holds(self._filed, record.subject) else "nobody has"
            raise RevocationsError([f"withdrawn: expected what the journal revokes, got what {where}"])
        if self._journal.is_full and len(self._after(record)) > MAX_RECORDS:
            raise RevocationsError([f"expected at most {MAX_RECORDS} records in the journal, got one more"])
        return self._journal

    def _write_down(self, journal: _Journal, record: _Record) -> None:
        if journal.is_full or not journal.path.exists():
            journal.rewrite(entry.line for entry in self._after(record).values())
        else:
            journal.append(record.line)

    def _after(self, record: _Record) -> _Records:
        return _in_force([*self._noted.values(), record], self._wall())

    def _apply(self, record: _Record) -> None:
        _take(self._noted, record)
        self.changes += 1

    def _open(self, journal: _Journal) -> None:
        self._noted = _in_force(_parse(journal.open(), journal.path), self._wall())
        notices = journal.notices
        if len(self._noted) * 2 < journal.lines:
            try:
                journal.rewrite(record.line for record in self._noted.values())
            except OSError as error:
                notices.append(f"{journal.path}: expected to leave out what is over, got: {error.strerror}")
        self.notices = tuple(notices)


def _in_force(records: Iterable[_Record], wall: float) -> _Records:
    """What is left of records in their order."""
    found: _Records = {}
    for record in records:
        _take(found, record)
    return {subject: record for subject, record in found.items() if wall < record.until}


def _take(records: _Records, record: _Record) -> None:
    if record.withdrawn:
        records.pop(record.subject, None)
    # Of two that revoke the same, the longer one holds: only a withdrawal gives anything back.
    elif record.subject not in records or records[record.subject].until < record.until:
        records[record.subject] = record


class _Journal:
    """The lines in a file that this process alone writes to."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lines = 0
        self.notices: list[str] = []
        self._torn_at: int | None = None

    @property
    def is_full(self) -> bool:
        return self.lines >= MAX_RECORDS

    def open(self) -> bytes:
        """All whole lines; makes the file where there is none. Raises RevocationsError."""
        try:
            with open(self.path, "a+b", opener=_private) as file:
                file.seek(0)
                content = self._mend(file, file.read())
            _sync(self.path.parent)
        except OSError as error:
            told = f"{self.path}: expected a file that can be written, got: {error.strerror}"
            raise RevocationsError([told]) from None
        self.lines = content.count(b"\n")
        return content

    def _mend(self, file: IO[bytes], content: bytes) -> bytes:
        """A crash while writing leaves a last line without its end, which nobody was told is there."""
        whole = _without_torn_end(content)
        if whole != content:
            self.notices.append(f"{self.path}: expected a whole last line, got a part of one; it was cut off")
            file.truncate(len(whole))
        elif content and not content.endswith(b"\n"):
            file.write(b"\n")
            whole += b"\n"
        return whole

    def append(self, line: bytes) -> None:
        """One more line, on the disk when this returns. Raises OSError; the line is not there then."""
        with self.path.open("ab", buffering=0) as file:
            if self._torn_at is not None:
                file.truncate(self._torn_at)
                self._torn_at = None
            start = file.seek(0, os.SEEK_END)
            try:
                _write(file, line)
            except OSError:
                # The next line must not begin in the middle of this one.
                self._torn_at = start
                with contextlib.suppress(OSError):
                    file.truncate(start)
                raise
        self.lines += 1

    def rewrite(self, lines: Iterable[bytes]) -> None:
        """These lines instead of all others, in one step. Raises OSError."""
        kept = list(lines)
        path = self.path.resolve()
        fresh = path.with_name(path.name + ".new")
        with open(fresh, "wb", opener=_private) as file:
            file.writelines(kept)
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileNotFoundError):
            shutil.copymode(path, fresh)
        fresh.replace(path)
        _sync(path.parent)
        self.lines, self._torn_at = len(kept), None


def _write(file: FileIO, line: bytes) -> None:
    if file.write(line) != len(line):  # and the rest would be refused
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    os.fsync(file.fileno())


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _sync(folder: Path) -> None:
    """A new name in a folder is on the disk only when the folder is."""
    opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


# Reading.


def faults_in_file(path: Path) -> tuple[str, ...]:
    """A sentence for each thing for which a start would refuse the operators' file."""
    content = _read(path)
    return content.faults if isinstance(content, RevocationsError) else _faults_in(content, path)


def faults_in_journal(path: Path) -> tuple[str, ...]:
    """The same of a journal, which stays as it is. There may be none yet, and a torn end is no fault."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return ()
    except OSError as error:
        return (f"{path}: expected a file that can be read, got: {error.strerror}",)
    return _faults_in(_without_torn_end(content), path)


def _faults_in(content: bytes, path: Path) -> tuple[str, ...]:
    try:
        _parse(content, path)
    except RevocationsError as error:
        return error.faults
    return ()


def _without_torn_end(content: bytes) -> bytes:
    last = content.rpartition(b"\n")[2]
    try:
        read_object(last)
    except ValueError:
        return content.removesuffix(last)
    return content


def _read(path: Path) -> bytes | RevocationsError:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        return RevocationsError([f"{path}: expected a file that can be read, got: {error.strerror}"])
    if len(content) > MAX_BYTES:
        return RevocationsError([f"{path}: expected at most {MAX_BYTES} bytes, got more"])
    return content


def _parse(content: bytes, path: Path) -> list[_Record]:
    """The records of all lines that are not blank. Raises RevocationsError with the faults of all lines."""
    lines = content.split(b"\n")
    count = sum(not line.isspace() for line in lines if line)
    if count > MAX_RECORDS:
        raise RevocationsError([f"{path}: expected at most {MAX_RECORDS} records, got {count}"])
    records: list[_Record] = []
    faults: list[str] = []
    for number, line in enumerate(lines, start=1):
        try:
            if line.strip():
                records.append(_read_record(line))
        except RevocationsError as error:
            faults += (f"{path}:{number}: {fault}" for fault in error.faults)
    if faults:
        raise RevocationsError(_shortened(faults))
    return records


def _shortened(faults: list[str]) -> list[str]:
    more = len(faults) - MAX_FAULTS
    return faults if more <= 0 else [*faults[:MAX_FAULTS], f"and {more} more"]


def _checked(said: Mapping[str, object], wall: float) -> _Record:
    """What is written is read first, so that nothing gets in which the next start would stumble over."""
    at = dt.datetime.fromtimestamp(wall, dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    try:
        line = json.dumps({"at": at, **said}).encode()
    except (TypeError, ValueError, RecursionError):
        raise RevocationsError(["expected such as JSON can say, got something else"]) from None
    record = _read_record(line)
    if record.until <= wall:
        raise RevocationsError([f"until: expected a time to come, got {record.until:.0f}"])
    return record


def _read_record(line: bytes) -> _Record:
    try:
        members = read_object(line)
    except ValueError as error:
        raise RevocationsError([_unread(error)]) from None
    if faults := tuple(_faults(members)):
        raise RevocationsError(faults)
    kind = next(kind for kind in _KINDS if kind in members)
    return _Record(
        (kind, str(members.get("issuer", "")), str(members[kind])),
        float(str(members.get("until", "inf"))),
        "withdrawn" in members,
        _note(members, "at"),
        _note(members, "note"),
    )


def _unread(error: ValueError) -> str:
    """Why a line is no record, in words like all others."""
    match error:
        case json.JSONDecodeError():
            return f"expected one JSON object, got something else from character {error.pos + 1} on"
        case UnicodeDecodeError():
            return f"expected UTF-8, got something else from byte {error.start + 1} on"
    told = str(error)
    return told if told.startswith("expected ") else f"expected a JSON object without doubt, got: {told}"


def _note(members: Mapping[str, object], name: str) -> str | None:
    return str(members[name]) if name in members else None


def _faults(members: Mapping[str, object]) -> Iterator[str]:
    for name in sorted(members.keys() - _MEMBERS):
        yield f"expected only {', '.join(sorted(_MEMBERS))}, got {json.dumps(name[:40])}"
    kinds = [kind for kind in _KINDS if kind in members]
    if len(kinds) != 1:
        yield f"expected one of {', '.join(_KINDS)}, got {' and '.join(kinds) or 'none'}"
    elif kinds == ["client"] and "issuer" in members:
        yield "issuer: expected none, as a client is the policies', got one"
    elif kinds != ["client"] and "issuer" not in members:
        yield f"issuer: expected the issuer of this {kinds[0]}, got none"
    for name, most in (*_KINDS.items(), ("issuer", MAX_NAME_CHARACTERS)):
        if name in members:
            yield from _text_faults(name, members[name], most)
    for name in ("at", "note"):
        value = members.get(name, "")
        if not isinstance(value, str) or len(value) > MAX_NOTE_CHARACTERS or not value.isprintable():
            yield f"{name}: expected at most {MAX_NOTE_CHARACTERS} printable characters, got something else"
    yield from _until_faults(members)


def _text_faults(name: str, value: object, most: int) -> Iterator[str]:
    if not isinstance(value, str):
        yield f"{name}: expected a string, got {type_name(value)}"
    elif not 1 <= len(value) <= most:
        yield f"{name}: expected 1 to {most} characters, got {len(value)}"


def _until_faults(members: Mapping[str, object]) -> Iterator[str]:
    if "withdrawn" in members and members["withdrawn"] is not True:
        yield "withdrawn: expected true or no such member, got something else"
    if "until" not in members:
        return
    until = members["until"]
    if "withdrawn" in members:
        yield "until: expected none, as withdrawn is for good, got one"
    elif type(until) is not int or not 0 <= until <= MAX_TIME:
        yield f"until: expected whole seconds since 1970, up to the year 9999, got {json.dumps(until)[:40]}"
