"""Who else is alive, and whether anything is missing of what they say.

    beat     each replica, twice a second, says that it lives, and sends itself a mark
    mark     comes back by the way that all messages come, and says how many writes there were: whoever has
             seen as many has missed none
    raised   one write more: whoever hears so forgets what was before it, and acknowledges

A replica is whole while its marks come back and the numbers agree. When they don't, it forgets everything it
has, for it cannot know what of it is old, and goes on from there.
"""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field

from gateway.core.messages import Chat
from gateway.shared.commands import Beat, Commands

#: How often a replica says that it lives.
BEAT_S = 0.5
#: How long a mark stands: one may be late.
WHOLE_S = 1.0
#: How long a writer waits for the others.
ACKNOWLEDGED_S = 0.050
#: A path of 8 KB and what is said of it is a fourth of that.
MAX_MESSAGE_BYTES = 65_536
#: How many steps a purge may take, each over some five hundred keys: no Redis has it go on for ever.
MAX_STEPS = 100_000
#: How many marks may be on their way.
MAX_MARKS = 16

Said = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Heard:
    """Who is told what the others say. None of it waits.

    `purged` is told an account, or None for all. `revoked` is told the version of the revocations again and
    again.
    """

    written: Callable[[Chat], None]
    purged: Callable[[str | None], None]
    missed: Callable[[], None]
    landed: Callable[[Said], None]
    living: Callable[[int], None]
    revoked: Callable[[int], None]


@dataclass(slots=True)
class Counts:
    """What operators should know: acknowledgements that did not come in time, gaps in what was heard, and
    messages that are no messages.
    """

    silent: int = 0
    missed: int = 0
    foreign: int = 0


@dataclass(slots=True)
class _Write:
    """Who has acknowledged a write of this replica's, and who has to."""

    by: set[str] = field(default_factory=set)
    wanted: frozenset[str] | None = None
    done: asyncio.Future[None] | None = None


class Membership:
    """One replica among others. `now` is monotonic seconds, `name` nobody else's."""

    def __init__(self, name: str, commands: Commands, heard: Heard, now: Callable[[], float]) -> None:
        self.name = name
        self.living = 1
        #: Whether messages arrive.
        self.hears = False
        self.counts = Counts()
        self._commands = commands
        self._heard = heard
        self._now = now
        self._beats = 0
        self._sent_at: dict[int, float] = {}
        self._marked_at = -math.inf
        #: How many writes there were, and on which server, as far as this replica has heard.
        self._seen: int | None = None
        self._server: str | None = None
        self._writes: dict[int, _Write] = {}
        #: How many writes of this replica's have no number yet: acknowledgements may come before that.
        self._unnumbered = 0
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def whole(self) -> bool:
        """Whether nothing is missing, as of a moment ago."""
        return self._now() - self._marked_at < WHOLE_S

    # -- signs of life --------------------------------------------------------------------------------------

    async def beat(self) -> Beat | None:
        """Say that this replica lives."""
        self._beats += 1
        number = self._beats
        self._sent_at[number] = self._now()
        self._sent_at.pop(number - MAX_MARKS, None)
        beat = await self._commands.beat(number)
        if beat is None:
            self._sent_at.pop(number, None)
        else:
            self._count(beat.living)
        return beat

    def connected(self) -> None:
        """Messages arrive from now on; what was missed before that the first mark tells."""
        self.hears = True

    def lost(self) -> None:
        """The way by which messages come has broken: no mark that is under way counts."""
        self.hears = False
        self._marked_at = -math.inf
        self._sent_at.clear()

    async def leave(self) -> None:
        """Nobody is to wait for this replica any more."""
        await self._commands.bye()

    def _count(self, living: int) -> None:
        if living != self.living and living > 0:
            self.living = living
            self._heard.living(living)

    # -- what the others say --------------------------------------------------------------------------------

    def hear(self, payload: bytes) -> None:
        """A message. Whoever can reach Redis can write one."""
        if len(payload) > MAX_MESSAGE_BYTES:
            self.counts.foreign += 1
            return
        try:
            said = json.loads(payload)
            self._messages[said["do"]](self, said)
        except (ValueError, TypeError, KeyError, RecursionError):
            self.counts.foreign += 1

    def _raised(self, said: Said) -> None:
        chat, number, by = (
            Chat(_text(said, "account"), _text(said, "id")),
            _whole(said, "n"),
            _text(said, "by"),
        )
        self._count_write(number)
        if by == self.name:
            return
        self._heard.written(chat)
        message = json.dumps({"do": "ack", "n": number, "by": self.name}).encode()
        self._start(self._tell(by, message))

    def _purged(self, said: Said) -> None:
        account = None if said["account"] is None else _text(said, "account")
        self._count_write(_whole(said, "n"))
        if _text(said, "by") != self.name:
            self._heard.purged(account)

    def _count_write(self, number: int) -> None:
        if self._seen is not None and number != self._seen + 1:
            self._miss()
        self._seen = number

    async def _tell(self, name: str, message: bytes) -> None:
        await self._commands.tell(name, message)

    def _acknowledged(self, said: Said) -> None:
        number, by = _whole(said, "n"), _text(said, "by")
        write = self._writes.get(number)
        if write is None:
            if not self._unnumbered:
                # Too late.
                return
            write = self._writes[number] = _Write()
        write.by.add(by)
        if write.wanted is not None and write.done is not None and write.wanted <= write.by:
            _wake(write.done)

    def _marked(self, said: Said) -> None:
        number, writes, revocations = (_whole(said, name) for name in ("number", "writes", "revocations"))
        sent_at = self._sent_at.pop(number, None)
        if sent_at is None:
            # Of before the connection broke.
            return
        # A server that was started again may have come to the same number.
        server = _text(said, "server")
        if (server, writes) != (self._server, self._seen):
            if self._server is not None:
                self._miss()
            else:
                # Of what it has had from before it heard anything it cannot know how old it is.
                self._heard.missed()
            self._server, self._seen = server, writes
        self._marked_at = max(self._marked_at, sent_at)
        self._heard.revoked(revocations)

    def _miss(self) -> None:
        self.counts.missed += 1
        self._heard.missed()

    def _revoked(self, said: Said) -> None:
        self._heard.revoked(_whole(said, "version"))

    def _landed(self, said: Said) -> None:
        self._heard.landed(said)

    _messages: Mapping[str, Callable[[Membership, Said], None]] = {
        "raised": _raised,
        "purged": _purged,
        "ack": _acknowledged,
        "mark": _marked,
        "revoked": _revoked,
        "landed": _landed,
    }

    # -- a write --------------------------------------------------------------------------------------------

    async def write_ended(self, chat: Chat) -> bool:
        """Tell all others, and wait until they have acknowledged, or for ACKNOWLEDGED_S.

        False: nobody has answered, and it may be that nobody was told.
        """
        self._unnumbered += 1
        try:
            raised = await self._commands.raised(chat.account, chat.id)
            if raised is None:
                return False
            write = self._writes.setdefault(raised.number, _Write())
            write.wanted = frozenset(raised.alive) - {self.name}
        finally:
            self._unnumbered -= 1
        try:
            if not write.wanted <= write.by:
                write.done = asyncio.get_running_loop().create_future()
                await asyncio.wait((write.done,), timeout=ACKNOWLEDGED_S)
        finally:
            # After a failover another may have the same number.
            self._writes.pop(raised.number, None)
            if not self._unnumbered:
                # Of writes whose number never came.
                self._writes = {number: of for number, of in self._writes.items() if of.wanted is not None}
        self.counts.silent += len(write.wanted - write.by)
        return True

    async def purge(self, account: str | None) -> bool:
        """Drop all that is kept for all, and tell the others of which account, or None, that is meant."""
        cursor = "0"
        for _ in range(MAX_STEPS):
            following = await self._commands.purge(account, cursor)
            if following is None:
                return False
            if following == "0":
                return True
            cursor = following
        return False

    # -- life -----------------------------------------------------------------------------------------------

    def _start(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _text(said: Said, name: str) -> str:
    value = said[name]
    if not isinstance(value, str):
        raise TypeError(name)
    return value


def _whole(said: Said, name: str) -> int:
    value = said[name]
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(name)
    return value
