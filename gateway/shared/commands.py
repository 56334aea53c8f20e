"""What replicas ask of Redis, as typed calls: each is one script.

Everywhere None means that nobody has answered: whether it was done is not known. Durations are seconds.
Redis's own clock does not leave this file, but for the heads of what is kept.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, TypeVar

from gateway.core.limits import Rate
from gateway.core.messages import Chat
from gateway.shared.names import Names, Place, chat_of
from gateway.shared.scripts import Reply, Runner, Script, Word, script

#: For so long after its last beat a replica is held for alive.
ALIVE_S = 3.0


@dataclass(frozen=True, slots=True)
class Kept:
    """What a flight has landed. `head` says when, by Redis's clock, and under which token.

    `age_s` is how long before the answer to this call it was asked for.
    """

    head: bytes
    payload: bytes
    age_s: float

    @property
    def refresh_s(self) -> float:
        """How long after it was asked for it is to be refreshed."""
        sent, refresh, *_ = map(int, self.head.split(b" ")[:3])
        return (refresh - sent) / 1e6

    @property
    def token(self) -> str:
        return self.head.rpartition(b" ")[2].decode()


@dataclass(frozen=True, slots=True)
class Found:
    """There is an entry, and it need not be refreshed yet."""

    kept: Kept


@dataclass(frozen=True, slots=True)
class Follow:
    """Somebody fetches it, and has at least `left_s` more to do so. `kept` may be stale."""

    token: str
    left_s: float
    kept: Kept | None


@dataclass(frozen=True, slots=True)
class Lead:
    """Nobody fetches it but who has asked. `token` is to be given back whole. `kept` may be stale."""

    token: str
    at_us: int
    kept: Kept | None

    def head(self, *, after_s: float, refresh_s: float, stale_s: float) -> bytes:
        """The head of an entry that was asked for so long after this reply arrived.

        From then it is to be refreshed after `refresh_s`, and is of no use after `stale_s`.
        """
        sent_us = self.at_us + _us(after_s)
        times = (sent_us, sent_us + _us(refresh_s), sent_us + _us(stale_s))
        return b"%d %d %d %s" % (*times, self.token.encode())


Looked = Found | Follow | Lead


@dataclass(frozen=True, slots=True)
class Raised:
    """A write's number, and who has to hear of it."""

    number: int
    alive: frozenset[str]


@dataclass(frozen=True, slots=True)
class Beat:
    """How many replicas live, how many writes there were, and which version of revocations is in force."""

    living: int
    writes: int
    revocations: int


@dataclass(frozen=True, slots=True)
class Charged:
    """How one limit stands.

    `wait_s` is 0 if it has room, else how long until it has. `remaining` is after this request if all limits
    had room for it. There is more in `reset_s` (a day's quota: at its end); 0 if all is there.
    """

    wait_s: float
    remaining: int
    reset_s: float


@dataclass(frozen=True, slots=True)
class Tallied:
    """The number that this replica had come to before this call, and what all have counted with it."""

    known: int
    totals: Mapping[str, int]


class Revocations(NamedTuple):
    """Lines, and the version that they lead to."""

    version: int
    lines: Sequence[bytes]


class Commands(Protocol):
    """What replicas ask of Redis, in the name of one of them. None: nobody has answered."""

    async def look(self, place: Place, token: str, *, cold: bool) -> Looked | None:
        """What there is, or who fetches it; if nobody does, who asks. `cold` asks for what may be stale, too.

        Tokens are of letters, digits and dashes, and nobody else's.
        """

    async def land(
        self, place: Place, token: str, value: bytes | None, message: bytes, *, life_s: float = 0.0
    ) -> bool | None:
        """End a flight: keep what it has brought, for a lease's time or longer, and tell all.

        False: its lease is not its own any more, and nothing was done. See `records` for the value.
        """

    async def renew(self, place: Place, token: str) -> bool | None:
        """Fly on. False: the lease is not its own any more."""

    async def fetch(self, place: Place, token: str) -> Kept | None:
        """What was landed under that token, however old; None also if there is none."""

    async def raised(self, account: str, chat_id: str) -> Raised | None:
        """A write to a chat has ended: drop all of before it, and tell all."""

    async def purge(self, account: str | None, cursor: str) -> str | None:
        """Drop some of what is kept of chats, from a cursor on; the next one, "0" after the last step.

        With the first step, that from "0" on, all are told of which account that is meant, or of all.
        """

    async def beat(self, number: int) -> Beat | None:
        """Say that this replica lives, and send it a mark of that number."""

    async def bye(self) -> bool | None:
        """Say that this replica lives no more."""

    async def tell(self, replica: str, message: bytes) -> bool | None:
        """Send a message to one replica. False: it does not hear."""

    async def charge(
        self, client: str, limits: Sequence[tuple[str, Rate | int]], *, take: bool = True
    ) -> Sequence[Charged] | None:
        """Charge a request to all its limits, rates and a day's quotas, or to none if one has no room.

        How each stands, in their order. Without `take` nothing is charged, and the reply is the same.
        """

    async def tally(self, day: int, number: int, life_s: int, deltas: Mapping[str, int]) -> Tallied | None:
        """Add what this replica has counted on a day, kept for so long.

        Nothing is added if it had come to that number before, and nothing is written for number 0.
        """

    async def revoke(self, lines: Mapping[str, tuple[bytes, float]]) -> int | None:
        """Put lines in their places, and tell all; the version from then on. A hundred at a time.

        Each comes with when it is over, in epoch seconds: some time after that it is dropped.
        """

    async def revocations(self, since: int) -> Revocations | None:
        """Lines that came after a version, the oldest first. There are no more once that is the version."""


T = TypeVar("T")

_LOOK, _LAND, _RENEW, _FETCH = script("look"), script("land"), script("renew"), script("fetch")
_RAISE, _BEAT, _BYE, _TELL = script("raise"), script("beat"), script("bye"), script("tell")
_PURGE = script("purge")
_CHARGE, _TALLY = script("charge"), script("tally")
_REVOKE, _REVOCATIONS = script("revoke"), script("revocations")


class RedisCommands(Commands):
    """The commands of one replica, as scripts. `replica` is a name that nobody else has, nor had before.

    `outcomes` counts them by the name of the script, and whether it was answered. A lease is for
    `first_lease_s`, if that is said, until it is renewed.
    """

    def __init__(
        self,
        runner: Runner,
        names: Names,
        replica: str,
        *,
        lease_s: float,
        first_lease_s: float | None = None,
    ) -> None:
        self.outcomes: Counter[tuple[str, bool]] = Counter()
        self._runner = runner
        self._names = names
        self._replica = replica
        self._lease_ms = _ms(lease_s)
        self._first_ms = self._lease_ms if first_lease_s is None else min(self._lease_ms, _ms(first_lease_s))

    async def look(self, place: Place, token: str, *, cold: bool) -> Looked | None:
        args = (place.field, token, self._first_ms, int(cold))
        return await self._run(_LOOK, [self._names.chat(place.chat)], args, _looked)

    async def land(
        self, place: Place, token: str, value: bytes | None, message: bytes, *, life_s: float = 0.0
    ) -> bool | None:
        life_ms = max(_ms(life_s), self._lease_ms)
        args = (place.field, token, value or b"", life_ms, self._names.all, message)
        return await self._run(_LAND, [self._names.chat(place.chat)], args, _done)

    async def renew(self, place: Place, token: str) -> bool | None:
        args = (place.field, token, self._lease_ms)
        return await self._run(_RENEW, [self._names.chat(place.chat)], args, _done)

    async def fetch(self, place: Place, token: str) -> Kept | None:
        kept = await self._run(_FETCH, [self._names.chat(place.chat)], (place.field,), _fetched)
        return kept if kept is not None and kept.token == token else None

    async def raised(self, account: str, chat_id: str) -> Raised | None:
        said = {"do": "raised", "account": account, "id": chat_id, "by": self._replica}
        # Its number is known only there.
        message = json.dumps(said).removesuffix("}") + ', "n": '
        keys = (self._names.chat(chat_of(Chat(account, chat_id))), self._names.writes, self._names.replicas)
        return await self._run(_RAISE, keys, (self._names.all, _ms(ALIVE_S), message), _raised)

    async def beat(self, number: int) -> Beat | None:
        keys = (self._names.replicas, self._names.writes, self._names.revocations_version)
        inbox = self._names.inbox(self._replica)
        return await self._run(_BEAT, keys, (self._replica, _ms(ALIVE_S), inbox, number), _beaten)

    async def bye(self) -> bool | None:
        return await self._run(_BYE, [self._names.replicas], (self._replica,), _done)

    async def purge(self, account: str | None, cursor: str) -> str | None:
        said = {"do": "purged", "account": account, "by": self._replica}
        message = json.dumps(said).removesuffix("}") + ', "n": '
        # A prefix has nothing in it that means anything in a pattern.
        args = (self._names.all, message, cursor, self._names.chat("*"))
        return await self._run(_PURGE, [self._names.writes], args, _cursor)

    async def tell(self, replica: str, message: bytes) -> bool | None:
        return await self._run(_TELL, (), (self._names.inbox(replica), message), _done)

    async def charge(
        self, client: str, limits: Sequence[tuple[str, Rate | int]], *, take: bool = True
    ) -> Sequence[Charged] | None:
        args: list[str | int] = [int(take)]
        for name, limit in limits:
            args += _limit(name, limit)
        charged = await self._run(_CHARGE, [self._names.limits(client)], args, _charged)
        return charged if charged is not None and len(charged) == len(limits) else None

    async def tally(self, day: int, number: int, life_s: int, deltas: Mapping[str, int]) -> Tallied | None:
        args = [self._replica, number, life_s, *(word for pair in deltas.items() for word in pair)]
        keys = (self._names.day(day), self._names.replicas_of_day(day))
        return await self._run(_TALLY, keys, args, _tallied)

    async def revoke(self, lines: Mapping[str, tuple[bytes, float]]) -> int | None:
        args: list[Word] = [self._names.all]
        for place, (line, over) in lines.items():
            # Redis reads "inf" as well.
            args += (place, line, repr(over))
        return await self._run(_REVOKE, self._of_revocations(), args, _number)

    async def revocations(self, since: int) -> Revocations | None:
        return await self._run(_REVOCATIONS, self._of_revocations(), (since,), _revocations)

    def _of_revocations(self) -> Sequence[str]:
        names = self._names
        return (
            names.revocations,
            names.revocations_version,
            names.revocations_order,
            names.revocations_over,
        )

    async def _run(
        self,
        script: Script,
        keys: Sequence[str],
        args: Sequence[Word],
        read: Callable[[Reply], T | None],
    ) -> T | None:
        reply = await self._runner.run(script, keys, args)
        self.outcomes[script.name, reply is not None] += 1
        return None if reply is None else read(reply)


# -- there ------------------------------------------------------------------------------------------------


def _ms(seconds: float) -> int:
    return math.ceil(seconds * 1000)


def _us(seconds: float) -> int:
    return round(seconds * 1_000_000)


def _limit(name: str, limit: Rate | int) -> tuple[str, str, int, int]:
    if isinstance(limit, int):
        return "day", name, limit, 0
    # Up, as there are no parts of a microsecond there: never faster than the rate.
    return "rate", name, limit.burst, math.ceil(1_000_000 / limit.per_s)


# -- and back: what is no reply of these scripts is none ---------------------------------------------------

_WHOLE = re.compile(r"[0-9]{1,16}")
_HEAD = re.compile(rb"([0-9]{1,16}) [0-9]{1,16} [0-9]{1,16} [A-Za-z0-9.-]+")


def _looked(reply: Reply) -> Looked | None:
    match reply:
        case [b"found", int(now), bytes(value)] if kept := _kept(value, now):
            return Found(kept)
        case [b"follow", int(now), bytes(token), int(left_us), bytes(value)]:
            return Follow(_word(token), left_us / 1_000_000, _kept(value, now))
        case [b"lead", int(now), bytes(token), bytes(value)]:
            return Lead(_word(token), now, _kept(value, now))
    return None


def _fetched(reply: Reply) -> Kept | None:
    match reply:
        case [int(now), bytes(value)]:
            return _kept(value, now)
    return None


def _kept(value: bytes, now: int) -> Kept | None:
    head, _, payload = value.partition(b"\n")
    times = _HEAD.fullmatch(head)
    return None if times is None else Kept(head, payload, (now - int(times[1])) / 1_000_000)


def _done(reply: Reply) -> bool | None:
    return reply > 0 if isinstance(reply, int) else None


def _cursor(reply: Reply) -> str | None:
    return reply.decode() if isinstance(reply, bytes) and re.fullmatch(rb"[0-9]{1,20}", reply) else None


def _number(reply: Reply) -> int | None:
    return reply if isinstance(reply, int) else None


def _raised(reply: Reply) -> Raised | None:
    match reply:
        case [int(number), [*alive]]:
            return Raised(number, frozenset(_word(replica) for replica in alive))
    return None


def _beaten(reply: Reply) -> Beat | None:
    match reply:
        case [int(living), int(writes), int(revocations)]:
            return Beat(living, writes, revocations)
    return None


def _charged(reply: Reply) -> Sequence[Charged]:
    charged = []
    for one in reply if isinstance(reply, list) else ():
        match one:
            case [int(wait_us), int(remaining), int(reset_us)]:
                charged.append(Charged(wait_us / 1_000_000, remaining, reset_us / 1_000_000))
    return charged


def _tallied(reply: Reply) -> Tallied | None:
    match reply:
        case [int(known), [*fields]]:
            names, totals = map(_word, fields[::2]), fields[1::2]
            return Tallied(known, {name: _whole(total) for name, total in zip(names, totals, strict=True)})
    return None


def _revocations(reply: Reply) -> Revocations | None:
    match reply:
        case [int(version), [*lines]]:
            return Revocations(version, [line for line in lines if isinstance(line, bytes)])
    return None


def _word(reply: Reply) -> str:
    # Others may have written there, too.
    return reply.decode(errors="replace") if isinstance(reply, bytes) else ""


def _whole(reply: Reply) -> int:
    word = _word(reply)
    return int(word) if _WHOLE.fullmatch(word) else 0
