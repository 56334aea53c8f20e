"""Records of what is revoked: one line of JSON each, read strictly, and what many of them come to.

`{"jti": …, "issuer": …}`, `{"sub": …, "issuer": …}` or `{"client": …}`. A record holds until its `until`, or
until a later one of the same source takes it back.

Replicas tell each other what they have noted. Each record has a number then, the time at which it was noted,
and always more than its replica had seen of the same subject. Whatever the order in which they hear of them,
all end with the same.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from gateway.identity.documents import read_object, type_name
from gateway.identity.tokens import MAX_CLIENT_CHARACTERS, MAX_NAME_CHARACTERS, MAX_TIME

MAX_RECORDS = 100_000
MAX_BYTES = 64 * 1024 * 1024
MAX_NOTE_CHARACTERS = 200
#: A file of another kind is wrong in every line, and nobody reads that many sentences.
MAX_FAULTS = 20
#: How much the clock of another replica may be ahead.
MAX_AHEAD_MS = 86_400_000

#: What can be revoked → how long its name may be.
_KINDS = {"jti": MAX_NAME_CHARACTERS, "sub": MAX_NAME_CHARACTERS, "client": MAX_CLIENT_CHARACTERS}
_MEMBERS = frozenset({*_KINDS, "issuer", "until", "withdrawn", "at", "note"})

#: As `checked` writes it.
_AT = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z")
_TOLD = re.compile(rb"([0-9]{1,16}) (.+)")

Subject = tuple[str, str, str]  # (kind, its issuer or nothing, name)


class RevocationsError(ValueError):
    """Records were refused. `faults` has a sentence for each thing that is wrong with them."""

    def __init__(self, faults: Iterable[str]) -> None:
        self.faults = tuple(faults)
        super().__init__("\n".join(self.faults))


@dataclass(frozen=True, slots=True)
class Record:
    """One line. `until` is in epoch seconds; `at` and `note` are for people.

    `number` is when it was noted, in epoch milliseconds, 0 if nobody knows; the line has it only where
    replicas tell each other.
    """

    subject: Subject
    until: float = math.inf
    withdrawn: bool = False
    at: str | None = None
    note: str | None = None
    number: int = 0

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

    @property
    def told(self) -> bytes:
        """As it is told to other replicas."""
        return b"%d %s" % (self.number, self.line.rstrip())

    @property
    def place(self) -> str:
        """Where all replicas keep what is the latest of its subject."""
        return hashlib.blake2b("\0".join(self.subject).encode(), digest_size=16).hexdigest()


Records = dict[Subject, Record]


def in_force(records: Iterable[Record], wall: float) -> Records:
    """What is left of records in their order."""
    found: Records = {}
    for record in records:
        take(found, record)
    return {subject: record for subject, record in found.items() if wall < record.until}


def take(records: Records, record: Record) -> None:
    if record.withdrawn:
        records.pop(record.subject, None)
    # Of two that revoke the same, the longer one holds: only a withdrawal gives anything back.
    elif record.subject not in records or records[record.subject].until < record.until:
        records[record.subject] = record


def numbered(record: Record, wall: float) -> Record:
    """A record out of a journal: it was noted when its `at` says, if the gateway wrote that."""
    if record.at is None or not _AT.fullmatch(record.at):
        return record
    try:
        at = dt.datetime.fromisoformat(record.at).timestamp()
    except ValueError:
        return record
    return replace(record, number=int(1000 * min(max(at, 0), wall)))


def latest(one: Record, other: Record) -> Record:
    """What holds of two that were noted of one subject, by whatever replicas, whichever is heard first.

    A withdrawal takes back what was noted before it; of two that revoke, the one that holds longer counts.
    """
    if one.withdrawn or other.withdrawn:
        return max(one, other, key=lambda record: (record.number, not record.withdrawn, record.line))
    longer = max(one, other, key=lambda record: (record.until, record.line))
    return replace(longer, number=max(one.number, other.number))


def heard(told: bytes, wall: float) -> Record:
    """What another replica has told. Whoever can write to Redis can say so. Raises RevocationsError."""
    found = _TOLD.fullmatch(told)
    if found is None or int(found[1]) > 1000 * wall + MAX_AHEAD_MS:
        raise RevocationsError(["expected the time at which it was noted, got something else"])
    return replace(_read_record(found[2]), number=int(found[1]))


def faults_in_file(path: Path) -> tuple[str, ...]:
    """A sentence for each thing for which a start would refuse the operators' file."""
    content = read(path)
    return content.faults if isinstance(content, RevocationsError) else _faults_in(content, path)


def faults_in_journal(path: Path) -> tuple[str, ...]:
    """The same of a journal, which stays as it is. There may be none yet, and a torn end is no fault."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return ()
    except OSError as error:
        return (f"{path}: expected a file that can be read, got: {error.strerror}",)
    return _faults_in(without_torn_end(content), path)


def _faults_in(content: bytes, path: Path) -> tuple[str, ...]:
    try:
        parse(content, path)
    except RevocationsError as error:
        return error.faults
    return ()


def without_torn_end(content: bytes) -> bytes:
    last = content.rpartition(b"\n")[2]
    try:
        read_object(last)
    except ValueError:
        return content.removesuffix(last)
    return content


def read(path: Path) -> bytes | RevocationsError:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        return RevocationsError([f"{path}: expected a file that can be read, got: {error.strerror}"])
    if len(content) > MAX_BYTES:
        return RevocationsError([f"{path}: expected at most {MAX_BYTES} bytes, got more"])
    return content


def parse(content: bytes, path: Path) -> list[Record]:
    """The records of all lines that are not blank. Raises RevocationsError with the faults of all lines."""
    lines = content.split(b"\n")
    count = sum(not line.isspace() for line in lines if line)
    if count > MAX_RECORDS:
        raise RevocationsError([f"{path}: expected at most {MAX_RECORDS} records, got {count}"])
    records: list[Record] = []
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


def checked(said: Mapping[str, object], wall: float) -> Record:
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


def _read_record(line: bytes) -> Record:
    try:
        members = read_object(line)
    except ValueError as error:
        raise RevocationsError([_unread(error)]) from None
    if faults := tuple(_faults(members)):
        raise RevocationsError(faults)
    kind = next(kind for kind in _KINDS if kind in members)
    return Record(
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
