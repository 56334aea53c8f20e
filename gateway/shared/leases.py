"""Flights across replicas: one asks the upstream, and the others wait for what it hears.

    board   look: an entry that is there → told
                  nobody flies           → a lease: this replica leads
                  somebody does          → follow, until a message says how it went; then look again, or told
    lease   renewed while it flies; land, fail or let go

A follower is woken by a message, never by asking again and again. The lease's end is for a leader that has
died: then all who follow look again, and the first of them leads. Whoever is left without Redis goes alone.
"""

from __future__ import annotations

import asyncio
import enum
import json
from collections import Counter
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, replace
from typing import Any, Self, assert_never

from gateway.core.errors import Reason
from gateway.core.freshness import Entry, Failed
from gateway.core.messages import Chat, Key, Representation
from gateway.core.paths import Target
from gateway.core.sharing import Told
from gateway.shared.commands import Commands, Follow, Found, Kept, Lead
from gateway.shared.names import Place, chat_of, field_of, place_of
from gateway.shared.records import Records
from gateway.shared.replicas import Membership, Said

#: How much later than the end of a lease its followers look again: not before it is over there, too.
OVER_S = 0.010
#: A lease is renewed so many times in its life.
RENEWALS = 3
#: So many chats are remembered of whose writes nobody could be told.
MAX_UNTOLD = 10_000
#: No pause that a replica tells is believed beyond this.
MAX_PAUSE_S = 5.0

#: Told of what may stand in should the leader fail.
Stale = Callable[[Told], object]
#: Another replica's failure, and of what: what this replica makes of it is what its waiters hear.
Believe = Callable[[str, Key, str, Failed], Failed]


class Role(enum.Enum):
    """How this replica came by an answer that it had not."""

    LED = "led"
    FOLLOWED = "followed"
    FOUND = "found"
    ALONE = "alone"


class _Woken(enum.Enum):
    """Why a follower is woken: there is something to fetch; to look again; there is nobody to wait for."""

    LANDED = enum.auto()
    MOVED = enum.auto()
    ALONE = enum.auto()


_Outcome = Failed | _Woken
_Boarded = tuple[Role, "Told | Failed | Lease | None"]


class SharedFlights:
    """The port `Replicas` of the road.

    `common` is what replicas must have in common to believe each other. `longest_s` is how long one follows
    at the most. `now` is monotonic seconds.
    """

    def __init__(
        self,
        commands: Commands,
        records: Records,
        members: Membership,
        *,
        common: Callable[[], bytes],
        believe: Believe,
        new_token: Callable[[], str],
        now: Callable[[], float],
        lease_s: float,
        longest_s: float,
    ) -> None:
        self.commands = commands
        self.records = records
        self.members = members
        self.now = now
        self.lease_s = lease_s
        self._common = common
        self._believe = believe
        self._new_token = new_token
        self._longest_s = longest_s
        self.roles: Counter[Role] = Counter()
        #: Who follows, by place. Flights of before and after a write may follow the same.
        self._following: dict[Place, set[_Follower]] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        #: Chats that were written to here, and it is not certain that anybody was told.
        self._untold: dict[Chat, None] = {}

    @property
    def whole(self) -> bool:
        return self.members.whole

    async def write_ended(self, chat: Chat) -> None:
        told = False
        try:
            told = await self.members.write_ended(chat)
        finally:
            self._note(chat, told=told)
            # Others' followers have heard it. Whom those of this replica follow lands nothing, and is silent.
            self.written(chat)

    def _note(self, chat: Chat, *, told: bool) -> None:
        self._untold.pop(chat, None)
        if not told:
            self._untold[chat] = None
            if len(self._untold) > MAX_UNTOLD:
                del self._untold[next(iter(self._untold))]

    async def tell_untold(self) -> None:
        """Redis is back, and has what was before those writes."""
        for chat in tuple(self._untold):
            await self.write_ended(chat)

    # -- look, lead or follow ---------------------------------------------------------------------------

    async def board(self, target: Target, stale: Stale | None) -> Told | Failed | Lease | None:
        """What there is of the target, in time, or the lease to fetch it; None if nobody is there."""
        if target.chat is not None and target.chat in self._untold:
            await self.write_ended(target.chat)
            if target.chat in self._untold:
                self.roles[Role.ALONE] += 1
                return None
        role, boarded = await self._boarded(target, place_of(target, self._common()), stale)
        self.roles[role] += 1
        return boarded

    async def _boarded(self, target: Target, place: Place, stale: Stale | None) -> _Boarded:
        ends_at = self.now() + self._longest_s
        while self.now() < ends_at:
            boarded = await self._looked(target, place, stale)
            if boarded is not None:
                return boarded
        return Role.FOLLOWED, Failed(Reason.UPSTREAM_TIMEOUT)

    async def _looked(self, target: Target, place: Place, stale: Stale | None) -> _Boarded | None:
        """None: what was waited for did not come, and it is time to look again."""
        # Before the look: a message may come before its answer does.
        with _Follower(self._following, place) as follower:
            asked_at = self.now()
            looked = await self.commands.look(place, self._new_token(), cold=stale is not None)
            if looked is None:
                return Role.ALONE, None
            told = self._told(place, looked.kept, asked_at)
            if not isinstance(looked, Found) and told is not None and stale is not None:
                stale(told)
            if isinstance(looked, Follow):
                return await self._followed(follower, place, looked)
            if isinstance(looked, Lead):
                return Role.LED, Lease(self, target, place, looked)
            # What cannot be read is in nobody's way: whoever lands next writes over it.
            return (Role.ALONE, None) if told is None else (Role.FOUND, told)

    async def _followed(self, follower: _Follower, place: Place, leader: Follow) -> _Boarded | None:
        # Where no message would come, there is nothing to wait for.
        outcome: _Outcome = _Woken.ALONE
        if self.members.hears:
            outcome = await follower.woken(leader.token, leader.left_s + OVER_S)
        match outcome:
            case Failed():
                return Role.FOLLOWED, outcome
            case _Woken.ALONE:
                return Role.ALONE, None
            case _Woken.LANDED:
                landed = await self._landed(place, leader.token)
                return None if landed is None else (Role.FOLLOWED, landed)
            case _Woken.MOVED:
                return None
            case _:
                assert_never(outcome)

    async def _landed(self, place: Place, token: str) -> Told | None:
        asked_at = self.now()
        kept = await self.commands.fetch(place, token)
        if kept is not None and kept.age_s > self._longest_s:
            # No flight takes so long: somebody has put back what was there before.
            kept = None
        return self._told(place, kept, asked_at, was_awaited=True)

    def _told(
        self, place: Place, kept: Kept | None, asked_at: float, *, was_awaited: bool = False
    ) -> Told | None:
        if kept is None:
            return None
        sent_at = asked_at - kept.age_s
        told = self.records.read(place, kept, sent_at, was_awaited=was_awaited)
        if told is None:
            self.members.counts.foreign += 1
            return None
        return replace(told, refresh_at=sent_at + kept.refresh_s)

    # -- messages ---------------------------------------------------------------------------------------

    def landed(self, said: Said) -> None:
        """A leader, here or elsewhere, has landed, failed or let go. Raises ValueError and the like."""
        place, token = Place(str(said["chat"]), str(said["field"])), str(said["token"])
        outcome: _Outcome = _Woken.LANDED if said["kept"] else _Woken.MOVED
        if said["failed"] is not None and said["by"] != self.members.name:
            failure = _Failure.read(said["failed"])
            if field_of(failure.key, self._common()) == place.field:
                # Elsewhere it may be another upstream that is asked.
                outcome = self._believe(failure.account, failure.key, failure.whose, failure.failed)
        for follower in self._following.get(place, ()):
            follower.hear(token, outcome)

    def written(self, chat: Chat) -> None:
        """Whoever led before the write has lost his lease, and lands nothing."""
        self._wake(_Woken.MOVED, chat_of(chat))

    async def purge(self, account: str | None) -> bool:
        told = await self.members.purge(account)
        self.purged()
        return told

    def purged(self) -> None:
        """All leases are lost, whosever they were."""
        self._wake(_Woken.MOVED)

    def lost(self) -> None:
        """There is nobody to wait for."""
        self._wake(_Woken.ALONE)

    def _wake(self, outcome: _Outcome, chat: str | None = None) -> None:
        for place, followers in self._following.items():
            if chat is None or place.chat == chat:
                for follower in followers:
                    follower.move(outcome)

    def start(self, work: Coroutine[Any, Any, object]) -> None:
        """Nobody waits for it."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


class Lease:
    """The right to fly for all, renewed until it lands."""

    def __init__(self, flights: SharedFlights, target: Target, place: Place, lead: Lead) -> None:
        self._flights = flights
        self._target = target
        self._place = place
        self._lead = lead
        self._had_at = flights.now()
        self._is_held = True
        # A lease begins short: whoever asked for it may have given up waiting for the answer.
        self._renew()

    async def land(self, told: Told, entry: Entry) -> bool:
        """Keep an entry for all, and tell them. False: there was a write, or somebody has taken over."""
        self._stop()
        head = self._lead.head(
            after_s=max(0.0, told.sent_at - self._had_at),
            refresh_s=entry.refresh_at - told.sent_at,
            stale_s=entry.stale_until - told.sent_at,
        )
        value = self._flights.records.write(self._place, head, told)
        landed = await self._flights.commands.land(
            self._place,
            self._lead.token,
            value,
            self._message(kept=True),
            life_s=entry.stale_until - entry.sent_at,
        )
        # Where nobody answered, nobody has said that it is old.
        return landed is not False

    async def fail(self, failed: Failed) -> None:
        """Tell all that it is no use to ask."""
        self._stop()
        await self._end(self._message(failed=_Failure.of(self._target, failed).said))

    def let_go(self) -> None:
        """Of what has neither landed nor failed: somebody else may lead."""
        if self._is_held:
            self._stop()
            self._flights.start(self._end(self._message()))

    async def _end(self, message: bytes) -> None:
        await self._flights.commands.land(self._place, self._lead.token, None, message)

    def _stop(self) -> None:
        self._is_held = False
        self._timer.cancel()

    def _renew(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(self._flights.lease_s / RENEWALS, self._renew)
        self._flights.start(self._flights.commands.renew(self._place, self._lead.token))

    def _message(self, *, kept: bool = False, failed: Said | None = None) -> bytes:
        said = {
            "do": "landed",
            "by": self._flights.members.name,
            **self._place._asdict(),
            "token": self._lead.token,
            "kept": kept,
            "failed": failed,
        }
        return json.dumps(said).encode()


class _Follower:
    """One who waits for a leader. What is said before he knows whom he follows counts as well."""

    def __init__(self, following: dict[Place, set[_Follower]], place: Place) -> None:
        self._following = following
        self._place = place
        self._token: str | None = None
        self._outcomes: dict[str, _Outcome] = {}
        self._moved: _Outcome | None = None
        self._woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def __enter__(self) -> Self:
        self._following.setdefault(self._place, set()).add(self)
        return self

    def __exit__(self, *_: object) -> None:
        followers = self._following[self._place]
        followers.discard(self)
        if not followers:
            del self._following[self._place]

    def hear(self, token: str, outcome: _Outcome) -> None:
        self._outcomes[token] = outcome
        if token == self._token:
            self._wake()

    def move(self, outcome: _Outcome) -> None:
        self._moved = outcome
        self._wake()

    def _wake(self) -> None:
        if not self._woken.done():
            self._woken.set_result(None)

    async def woken(self, token: str, timeout_s: float) -> _Outcome:
        """How the leader's flight went; MOVED if nobody says so in time."""
        self._token = token
        if token not in self._outcomes and self._moved is None:
            await asyncio.wait((self._woken,), timeout=timeout_s)
        return self._outcomes.get(token) or self._moved or _Woken.MOVED


@dataclass(frozen=True, slots=True)
class _Failure:
    """What failed, and how, as messages say it."""

    account: str
    key: Key
    whose: str
    failed: Failed

    @classmethod
    def of(cls, target: Target, failed: Failed) -> _Failure:
        return cls(target.account, target.key, target.whose, failed)

    @property
    def said(self) -> Said:
        path, query, representation = self.key
        return {
            "account": self.account,
            "key": [path, query, representation.value],
            "whose": self.whose,
            "reason": self.failed.reason.slug,
            "received": self.failed.received,
            "retry_after_s": self.failed.retry_after_s,
        }

    @classmethod
    def read(cls, said: object) -> _Failure:
        """Raises ValueError and the like."""
        if not isinstance(said, dict):
            raise TypeError("failed")
        path, query, representation = said["key"]
        key = (str(path), str(query), Representation(representation))
        failed = Failed(_REASONS[said["reason"]], _status(said["received"]), _pause(said["retry_after_s"]))
        return cls(str(said["account"]), key, str(said["whose"]), failed)


#: Of what a replica may believe another.
_REASONS = {
    reason.slug: reason
    for reason in (
        Reason.KEY_REFUSED,
        Reason.UPSTREAM_BROKEN,
        Reason.UPSTREAM_ERROR,
        Reason.UPSTREAM_MISMATCH,
        Reason.UPSTREAM_REDIRECT,
        Reason.UPSTREAM_RESET,
        Reason.UPSTREAM_THROTTLED,
        Reason.UPSTREAM_TIMEOUT,
        Reason.UPSTREAM_UNREACHABLE,
    )
}


def _status(said: object) -> int | None:
    if said is None or (isinstance(said, int) and 100 <= said <= 599):
        return said
    raise ValueError("received")


def _pause(said: object) -> float | None:
    if said is None:
        return None
    if isinstance(said, int | float) and 0 <= said <= MAX_PAUSE_S:
        return float(said)
    raise ValueError("retry_after_s")
