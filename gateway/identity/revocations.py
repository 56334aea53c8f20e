"""Which tokens and clients somebody has revoked, and where that is written down.

There are two sources, and what either of them revokes is revoked. The file is the operators': it is read
again when it changes. The journal is the gateway's own: it is read at the start, and each record that the
gateway takes is written to it before that is confirmed. Where several replicas share what they note, each has
all of it, and writes what it hears of to its own journal, if it has one.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hashlib
import os
import shutil
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from io import FileIO
from pathlib import Path
from typing import IO

from gateway.identity.records import (
    MAX_RECORDS,
    Record,
    Records,
    RevocationsError,
    Subject,
    checked,
    heard,
    in_force,
    latest,
    numbered,
    parse,
    read,
    take,
    without_torn_end,
)

#: A withdrawal is remembered so long for replicas that were away.
WITHDRAWN_S = 31 * 86_400
#: By its place, what other replicas are told, and from when on (epoch seconds) that is over.
Told = Mapping[str, tuple[bytes, float]]


class Revocations:
    """What is revoked now. `wall` gives the epoch seconds that `until` is measured by.

    `notices` has a sentence for each thing that was found and mended at the start. Raises RevocationsError
    when a source is unfit at the start; later the last good file stays. `changed` is called right after more
    or less is revoked, and in the thread in which `refresh` runs: it has to be one step, which no other
    thread can come into.
    """

    def __init__(
        self,
        file: Path | None,
        journal: Path | None,
        wall: Callable[[], float],
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        self.notices: tuple[str, ...] = ()
        self._wall = wall
        self._changed = changed
        self._file = file
        self._seen: bytes | str | None = None
        self._filed: Records = {}
        self._journal = None if journal is None else _Journal(journal)
        self._noted: Records = {}
        self._withdrawn: Records = {}
        #: How other replicas are told of a record that was taken; whether they could be.
        self.tell: Callable[[Told], Awaitable[bool]] | None = None
        #: How many records of other replicas could not be taken.
        self.foreign = 0
        self._turn = asyncio.Lock()
        self._entering: set[asyncio.Task[bool | None]] = set()
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
            for record in in_force(records.values(), self._wall()).values()
        ]

    def count(self) -> int:
        """How many records hold."""
        wall = self._wall()
        return sum(len(in_force(records.values(), wall)) for records in (self._filed, self._noted))

    def _has(self, subject: Subject) -> bool:
        return self._holds(self._filed, subject) or self._holds(self._noted, subject)

    def _holds(self, records: Records, subject: Subject) -> bool:
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
        content = read(self._file)
        seen = hashlib.sha256(content).digest() if isinstance(content, bytes) else str(content)
        if seen == self._seen:
            return None
        self._seen = seen
        if isinstance(content, RevocationsError):
            return content
        try:
            filed = in_force(parse(content, self._file), self._wall())
        except RevocationsError as error:
            return error
        # 1 the records are in place, 2 it is told. Who judges between the two, as the loop may where this is
        # another thread, judges by the new ones; who judged before 1 has not heard 2 by then.
        self._filed = filed
        self._changed()
        return len(self._filed)

    # -- the gateway's journal ------------------------------------------------------------------------

    async def record(self, said: Mapping[str, object]) -> bool | None:
        """Takes a record. It is in effect and written down when this returns; `at` is added where missing.

        Says whether other replicas could be told, None where there is nobody to `tell`. Raises
        RevocationsError when the record is refused; nothing has changed then. Raises OSError when it cannot
        be written down: then it is in effect until this gateway ends, unless it is a withdrawal.
        """
        entering = asyncio.create_task(self._enter(checked(said, self._wall())))
        self._entering.add(entering)
        entering.add_done_callback(self._entering.discard)
        # Whoever asked may leave; a record that is written but not in effect would come back as a surprise.
        return await asyncio.shield(entering)

    async def _enter(self, record: Record) -> bool | None:
        async with self._turn:
            journal = self._prepared(record)
            record = self._next(record)
            if not record.withdrawn:
                self._take(record)
            try:
                await asyncio.to_thread(self._write_down, journal, [record])
            except OSError as error:
                state = "is not taken back" if record.withdrawn else "is in effect until this gateway ends"
                told = f"expected to write the record down, got: {error.strerror}; it {state}"
                raise OSError(error.errno, told, str(journal.path)) from error
            if record.withdrawn:
                self._take(record)
        known = self._known(record.subject) or record
        return None if self.tell is None else await self.tell(_told([known]))

    def _next(self, record: Record) -> Record:
        """A record with its number: later than all that is known of its subject, whatever the clock says."""
        before = self._known(record.subject)
        return replace(record, number=max(int(1000 * self._wall()), before.number + 1 if before else 0))

    def _take(self, record: Record) -> None:
        take(self._noted, record)
        if record.withdrawn:
            self._remember(record)
        else:
            self._withdrawn.pop(record.subject, None)
            self._noted[record.subject] = replace(self._noted[record.subject], number=record.number)
        self._changed()

    def _remember(self, record: Record) -> None:
        """A withdrawal, for those who have not heard of it. Of too many the oldest are forgotten."""
        self._withdrawn.pop(record.subject, None)
        if len(self._withdrawn) >= MAX_RECORDS:
            del self._withdrawn[next(iter(self._withdrawn))]
        self._withdrawn[record.subject] = record

    def _known(self, subject: Subject) -> Record | None:
        return self._noted.get(subject) or self._withdrawn.get(subject)

    def _prepared(self, record: Record) -> _Journal:
        """The journal, if it can take this record. Raises RevocationsError."""
        if self._journal is None:
            raise RevocationsError(["revocations.journal: expected a file to write to, got none"])
        if record.withdrawn and not self._holds(self._noted, record.subject):
            where = "only the file has" if self._holds(self._filed, record.subject) else "nobody has"
            raise RevocationsError([f"withdrawn: expected what the journal revokes, got what {where}"])
        if not self._journal.has_room(1) and len(self._after([record])) > MAX_RECORDS:
            raise RevocationsError([f"expected at most {MAX_RECORDS} records in the journal, got one more"])
        return self._journal

    def _write_down(self, journal: _Journal, records: Sequence[Record]) -> None:
        if not journal.has_room(len(records)) or not journal.path.exists():
            journal.rewrite(entry.line for entry in self._after(records).values())
        else:
            journal.append(b"".join(record.line for record in records))

    def _after(self, records: Sequence[Record]) -> Records:
        return in_force([*self._noted.values(), *records], self._wall())

    # -- what other replicas have noted ---------------------------------------------------------------

    async def noted(self) -> Told:
        """All that this replica could tell others, by its place."""
        wall = self._wall()
        records = [*self._noted.values(), *self._withdrawn.values()]
        # To write so many lines can take a second.
        return await asyncio.to_thread(lambda: _told(record for record in records if wall < _over(record)))

    async def merge(self, told: Iterable[bytes]) -> Told:
        """Takes what others have noted. Gives what of it this replica knows better.

        It is in effect when this returns, also where it cannot be written down: others remember it.
        """
        async with self._turn:
            if len(self._noted) >= MAX_RECORDS:
                self._noted = in_force(self._noted.values(), self._wall())
            pairs = [self._merged(theirs) for line in told if (theirs := self._heard(line)) is not None]
            news = [found for _, found, is_new in pairs if is_new]
            if news:
                self._changed()
                if self._journal is not None:
                    with contextlib.suppress(OSError):
                        await asyncio.to_thread(self._write_down, self._journal, news)
            return _told(found for theirs, found, _ in pairs if found != theirs)

    def _heard(self, told: bytes) -> Record | None:
        """A record that still matters."""
        wall = self._wall()
        try:
            record = heard(told, wall)
        except RevocationsError:
            self.foreign += 1
            return None
        return None if wall >= _over(record) else record

    def _merged(self, theirs: Record) -> tuple[Record, Record, bool]:
        """What was heard, what holds from now on, and whether that is new."""
        ours = self._known(theirs.subject)
        found = theirs if ours is None else latest(ours, theirs)
        if ours is None and not found.withdrawn and len(self._noted) >= MAX_RECORDS:
            self.foreign += 1
            return theirs, theirs, False
        if found != ours:
            self._put(found)
        return theirs, found, found != ours

    def _put(self, record: Record) -> None:
        if record.withdrawn:
            self._noted.pop(record.subject, None)
            self._remember(record)
        else:
            self._withdrawn.pop(record.subject, None)
            self._noted[record.subject] = record

    def _open(self, journal: _Journal) -> None:
        wall = self._wall()
        records = [numbered(record, wall) for record in parse(journal.open(), journal.path)]
        self._noted = in_force(records, wall)
        notices = journal.notices
        if len(self._noted) * 2 < journal.lines:
            try:
                journal.rewrite(record.line for record in self._noted.values())
            except OSError as error:
                notices.append(f"{journal.path}: expected to leave out what is over, got: {error.strerror}")
        self.notices = tuple(notices)


class _Journal:
    """The lines in a file that this process alone writes to."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lines = 0
        self.notices: list[str] = []
        self._torn_at: int | None = None

    def has_room(self, lines: int) -> bool:
        return self.lines + lines <= MAX_RECORDS

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
        whole = without_torn_end(content)
        if whole != content:
            self.notices.append(f"{self.path}: expected a whole last line, got a part of one; it was cut off")
            file.truncate(len(whole))
        elif content and not content.endswith(b"\n"):
            file.write(b"\n")
            whole += b"\n"
        return whole

    def append(self, lines: bytes) -> None:
        """More lines, on the disk when this returns. Raises OSError; they are not there then."""
        with self.path.open("ab", buffering=0) as file:
            if self._torn_at is not None:
                file.truncate(self._torn_at)
                self._torn_at = None
            start = file.seek(0, os.SEEK_END)
            try:
                _write(file, lines)
            except OSError:
                # The next line must not begin in the middle of these.
                self._torn_at = start
                with contextlib.suppress(OSError):
                    file.truncate(start)
                raise
        self.lines += lines.count(b"\n")

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


def _told(records: Iterable[Record]) -> Told:
    return {record.place: (record.told, _over(record)) for record in records}


def _over(record: Record) -> float:
    """From when on nobody needs to hear of it."""
    return record.number / 1000 + WITHDRAWN_S if record.withdrawn else record.until


def _write(file: FileIO, lines: bytes) -> None:
    if file.write(lines) != len(lines):  # and the rest would be refused
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
