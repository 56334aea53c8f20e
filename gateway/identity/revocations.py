"""Which tokens and clients somebody has revoked, and where that is written down.

There are two sources, and what either of them revokes is revoked. The file is the operators': it is read
again when it changes. The journal is the gateway's own: it is read at the start, and each record that the
gateway takes is written to it before that is confirmed.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hashlib
import os
import shutil
from collections.abc import Callable, Iterable, Mapping
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
    in_force,
    parse,
    read,
    take,
    without_torn_end,
)


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

    async def record(self, said: Mapping[str, object]) -> None:
        """Takes a record. It is in effect and written down when this returns; `at` is added where missing.

        Raises RevocationsError when the record is refused; nothing has changed then. Raises OSError when it
        cannot be written down: then it is in effect until this gateway ends, unless it is a withdrawal.
        """
        entering = asyncio.create_task(self._enter(checked(said, self._wall())))
        self._entering.add(entering)
        entering.add_done_callback(self._entering.discard)
        # Whoever asked may leave; a record that is written but not in effect would come back as a surprise.
        await asyncio.shield(entering)

    async def _enter(self, record: Record) -> None:
        async with self._turn:
            journal = self._prepared(record)
            if not record.withdrawn:
                self._take(record)
            try:
                await asyncio.to_thread(self._write_down, journal, record)
            except OSError as error:
                state = "is not taken back" if record.withdrawn else "is in effect until this gateway ends"
                told = f"expected to write the record down, got: {error.strerror}; it {state}"
                raise OSError(error.errno, told, str(journal.path)) from error
            if record.withdrawn:
                self._take(record)

    def _take(self, record: Record) -> None:
        take(self._noted, record)
        self._changed()

    def _prepared(self, record: Record) -> _Journal:
        """The journal, if it can take this record. Raises RevocationsError."""
        if self._journal is None:
            raise RevocationsError(["revocations.journal: expected a file to write to, got none"])
        if record.withdrawn and not self._holds(self._noted, record.subject):
            where = "only the file has" if self._holds(self._filed, record.subject) else "nobody has"
            raise RevocationsError([f"withdrawn: expected what the journal revokes, got what {where}"])
        if self._journal.is_full and len(self._after(record)) > MAX_RECORDS:
            raise RevocationsError([f"expected at most {MAX_RECORDS} records in the journal, got one more"])
        return self._journal

    def _write_down(self, journal: _Journal, record: Record) -> None:
        if journal.is_full or not journal.path.exists():
            journal.rewrite(entry.line for entry in self._after(record).values())
        else:
            journal.append(record.line)

    def _after(self, record: Record) -> Records:
        return in_force([*self._noted.values(), record], self._wall())

    def _open(self, journal: _Journal) -> None:
        self._noted = in_force(parse(journal.open(), journal.path), self._wall())
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
        whole = without_torn_end(content)
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
