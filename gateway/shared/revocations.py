"""What operators revoke at one replica, or take back, is in force at all of them.

Redis has the latest line of each place, and a version that rises with each change. Who hears of another
version asks for what has changed since the last one, and puts what it knows better in its place; so it ends
alike everywhere, and nothing is lost with Redis. What a line says is nothing to this room.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

#: So many lines are put at once: each command has to end within its deadline.
LINES_AT_ONCE = 100


#: By its place, a line, and from when on (epoch seconds) it says nothing any more.
Told = Mapping[str, tuple[bytes, float]]


class Commands(Protocol):
    """What is done in Redis; None where nobody answered."""

    async def revoke(self, lines: Told) -> int | None:
        """Puts lines in their places; gives the version from then on."""

    async def revocations(self, since: int) -> tuple[int, Sequence[bytes]] | None:
        """Lines that came after a version, the oldest first, and the version that they lead to."""


class Noted(Protocol):
    """What this replica has noted, by its place."""

    async def noted(self) -> Told: ...
    async def merge(self, told: Iterable[bytes]) -> Told:
        """Takes what others have noted; gives what of it is known better here."""


class SharedRevocations:
    """Keeps the records of one replica and those in Redis alike."""

    def __init__(self, commands: Commands, noted: Noted) -> None:
        self._commands = commands
        self._noted = noted
        self._version = 0
        #: How often Redis may have lost something, and up to which of these times all has been compared.
        self._losses, self._compared = 1, 0
        self._turn = asyncio.Lock()

    async def publish(self, lines: Told) -> bool:
        """Tell the others of new records; whether they could be told. If not, they are when Redis is back."""
        put = await self._put(lines)
        if not put:
            self.forget()
        return put

    def forget(self) -> None:
        """Redis may have lost something, or not been there: with the next mark all is compared."""
        self._losses += 1

    async def learn(self, version: int) -> None:
        """Redis is at this version now. To be called with each mark, and when there is news."""
        async with self._turn:
            if version != self._version and self._compared == self._losses:
                await self._read_on()
            if self._compared != self._losses:
                await self._compare_all()

    async def _read_on(self) -> None:
        """What has changed. An older version than before means that Redis was emptied."""
        while (found := await self._commands.revocations(self._version)) is not None:
            version, lines = found
            if version < self._version:
                self.forget()
            if version <= self._version:
                return
            if not await self._put(await self._noted.merge(lines)):
                return
            self._version = version

    async def _compare_all(self) -> None:
        """Read all that is there, and put what is missing."""
        losses = self._losses
        at, theirs = 0, set[bytes]()
        while (found := await self._commands.revocations(at)) is not None and found[0] > at:
            at = found[0]
            theirs.update(found[1])
            await self._noted.merge(found[1])
        ours = await self._noted.noted()
        missing = {place: told for place, told in ours.items() if told[0] not in theirs}
        if found is not None and await self._put(missing):
            self._version, self._compared = at, losses

    async def _put(self, lines: Told) -> bool:
        items = list(lines.items())
        for begin in range(0, len(items), LINES_AT_ONCE):
            if await self._commands.revoke(dict(items[begin : begin + LINES_AT_ONCE])) is None:
                return False
        return True
