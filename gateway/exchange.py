"""The road: one request, from socket to socket, in the order of time.

    answer → travel → authorise   1 verify, 2 locate, 3 admit, 4 limit
                    → deliver     5 look, 6 plan
                      → wait      7 fly
                        → fetch → ask   8 dress, 9 send, 10 undress
                                → keep  11 keep
                    → write → once → ask    a write goes past the cache, and raises the generation
           → reply                12 view (core/replies.py)

Steps 1 to 4 come before 5: the cache is shared between clients, permission is not.
Every step returns a value; what went wrong is a value too, and every waiter of a flight gets the same one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar, assert_never

from gateway.core.access import Claims, Grant, admit
from gateway.core.answers import Undressed, undress
from gateway.core.documents import Broken, well_formed
from gateway.core.errors import Reason, Refusal
from gateway.core.freshness import (
    Contact,
    Entry,
    Failed,
    Fetch,
    Hold,
    Serve,
    keep,
    keep_nothing,
    learned,
    may_serve,
    plan,
    smoothed,
)
from gateway.core.headers import body_representation, dress
from gateway.core.links import LinkMap
from gateway.core.messages import Answer, Chat, Key, Representation, UpstreamRequest
from gateway.core.paths import Target, locate
from gateway.core.policy import Policies
from gateway.core.replies import Delivered, How, Reply, Trip, reply
from gateway.core.requests import Request
from gateway.flights import Flights, landing

T = TypeVar("T")


class Clock(Protocol):
    """Time, injected once."""

    def now(self) -> float:
        """Monotonic seconds: for ages and deadlines."""

    def wall(self) -> float:
        """Epoch seconds: for what other machines say, such as a token's expiry."""


class Verifier(Protocol):
    """Tokens to claims."""

    async def verify(self, authorization: bytes | None) -> Claims | Refusal: ...


class Store(Protocol):
    """Entries, generations, and when each chat was last heard of. Bounded: it may forget entries."""

    def get(self, key: Key) -> Entry | None: ...
    def put(self, key: Key, entry: Entry) -> None: ...
    def generation(self, chat: Chat) -> int: ...
    def raise_generation(self, chat: Chat) -> None: ...
    def contact(self, chat: Chat) -> Contact | None: ...
    def touch(self, chat: Chat, contact: Contact) -> None: ...


class Upstream(Protocol):
    """The way to the vendor. It adds the appKey, and it is the only place that has it."""

    @property
    def links(self) -> LinkMap: ...

    async def send(self, request: UpstreamRequest, *, is_read: bool) -> Answer | Failed: ...


class Protection(Protocol):
    """Which failures are remembered, so that a sick upstream is not asked at every request."""

    def hold(self, account: str, key: Key | None) -> Failed | None: ...
    def failed(self, account: str, key: Key | None, failed: Failed) -> Failed: ...
    def succeeded(self, key: Key) -> None: ...


class Observer(Protocol):
    """Who counts and logs. It is told, and decides nothing."""

    def replied(self, request: Request, trip: Trip, reply: Reply, seconds: float) -> None: ...
    def asked(self, target: Target, outcome: Undressed | Failed) -> None: ...
    def crashed(self, error: Exception) -> None: ...


@dataclass(frozen=True, slots=True)
class Rules:
    """What operators say, as the road needs it; one value, asked for at each request."""

    policies: Policies
    accounts: Collection[str]
    default_representation: Representation
    stale_after_s: float


DRAINED = Failed(Reason.DRAINING)
CRASHED = Failed(Reason.CRASHED)


class Exchange:
    """The road's owner: it holds the flights and knows the rooms only by their ports."""

    def __init__(
        self,
        *,
        rules: Callable[[], Rules],
        clock: Clock,
        verifier: Verifier,
        store: Store,
        upstream: Upstream,
        protection: Protection,
        observer: Observer,
    ) -> None:
        self._rules = rules
        self._clock = clock
        self._verifier = verifier
        self._store = store
        self._upstream = upstream
        self._protection = protection
        self._observer = observer
        self._round_trips_s: dict[str, float] = {}
        self.flights: Flights[Entry | Failed] = Flights()

    async def answer(self, request: Request) -> Reply:
        """The whole road."""
        began = self._clock.now()
        trip = await self._guarded(lambda: self._travel(request), Trip(CRASHED))
        return self._reply(request, trip, began)

    def refuse(self, request: Request, refusal: Refusal) -> Reply:
        """What the edge refuses before the road begins is told and counted like everything else."""
        return self._reply(request, Trip(refusal), self._clock.now())

    def _reply(self, request: Request, trip: Trip, began: float) -> Reply:
        now = self._clock.now()
        made = reply(trip, request, self._rules().default_representation, now, self._clock.wall())
        self._observer.replied(request, trip, made, now - began)
        return made

    async def _travel(self, request: Request) -> Trip:
        allowed = await self._authorise(request)
        if isinstance(allowed, Trip):
            return allowed
        target, grant = allowed
        if not target.is_read:
            return await self._write(target, grant, request)
        result = await self._deliver(target)
        # An answer is shared, permission is not: whoever waited must still be allowed.
        allowed = await self._still_allowed(target, grant, request)
        return allowed if isinstance(allowed, Trip) else Trip(result, *allowed)

    # -- 1 to 4: may it? ------------------------------------------------------------------------------

    async def _authorise(self, request: Request) -> tuple[Target, Grant] | Trip:
        claims = await self._verifier.verify(request.fields.get(b"authorization"))
        if isinstance(claims, Refusal):
            return Trip(claims)
        rules = self._rules()
        target = locate(request.line, rules.policies.resources, rules.accounts, rules.default_representation)
        if isinstance(target, Refusal):
            return Trip(target)
        grant = admit(claims, rules.policies, target)
        if isinstance(grant, Refusal):
            return Trip(grant, target)
        # 4 limit: no grant has a limit yet.
        return target, grant

    async def _still_allowed(
        self, target: Target, grant: Grant, request: Request
    ) -> tuple[Target, Grant] | Trip:
        """After a wait: the same grant, a new one where that has ended, or a refusal."""
        if grant.dead_when.passed(self._clock.wall(), self._rules().policies.version):
            return await self._authorise(request)
        return target, grant

    # -- 5 and 6: is it here? -------------------------------------------------------------------------

    async def _deliver(self, target: Target) -> Delivered | Failed:
        if not target.resource.coalesce:
            # A flight of its own, which no one can join.
            return await self._alone(target, dress(target), How.FORWARD)
        generation = self._generation(target)
        hold = self._protection.hold(target.account, target.key)
        planned = plan(
            self._store.get(target.key), generation, self._contact(target), hold, self._clock.now()
        )
        match planned:
            case Serve(entry, refresh):
                if refresh:
                    self._fly(target, generation)
                return Delivered(entry, How.HIT)
            case Hold(failed, fallback):
                return self._instead(target, fallback, failed)
            case Fetch(fallback):
                return await self._wait(target, generation, fallback)
            case _:
                assert_never(planned)

    # -- 7: one flight for all who wait ---------------------------------------------------------------

    def _fly(self, target: Target, generation: int) -> tuple[asyncio.Task[Entry | Failed], bool]:
        return self.flights.join(
            (target.key, generation), lambda: self._guarded(lambda: self._fetch(target, generation), CRASHED)
        )

    async def _wait(self, target: Target, generation: int, fallback: Entry | None) -> Delivered | Failed:
        flight, opened = self._fly(target, generation)
        patience_s = self._rules().stale_after_s if self._usable(target, fallback) else None
        landed = await landing(flight, patience_s)
        if landed is None:
            if stale := self._usable(target, fallback):
                return Delivered(stale, How.STALE)
            landed = await landing(flight)
        if isinstance(landed, Entry):
            return Delivered(landed, How.MISS if opened else How.COLLAPSED)
        return self._instead(target, fallback, landed or DRAINED)

    def _instead(self, target: Target, fallback: Entry | None, failed: Failed) -> Delivered | Failed:
        """A stale answer for a failure that excuses one."""
        stale = self._usable(target, fallback) if failed.excuses_stale else None
        return failed if stale is None else Delivered(stale, How.STALE, failed.reason)

    def _usable(self, target: Target, fallback: Entry | None) -> Entry | None:
        if fallback is None or not may_serve(fallback, self._contact(target), self._clock.now()):
            return None
        return fallback

    async def _guarded(self, work: Callable[[], Awaitable[T]], crashed: T) -> T:
        """A crash is a mistake of ours. In a fetch it wakes everyone and frees the key like any ending."""
        try:
            return await work()
        except Exception as error:  # noqa: BLE001 - the outermost edge of a request, and of a flight
            self._observer.crashed(error)
            return crashed

    async def _fetch(self, target: Target, generation: int) -> Entry | Failed:
        # Look again: between this request's look and its flight another flight may have landed.
        sent_at = self._clock.now()
        match plan(self._store.get(target.key), generation, self._contact(target), None, sent_at):
            case Serve(entry, refresh=False):
                return entry
        heard = await self._ask(target, dress(target), sent_at)
        if isinstance(heard, Failed):
            # Asked before a write: it says nothing of what was asked since.
            key = target.key if self._generation(target) == generation else None
            return self._protection.failed(target.account, key, heard)
        self._protection.succeeded(target.key)
        return self._keep(target, generation, sent_at, heard)

    # -- 8 to 11: ask, and keep what was heard --------------------------------------------------------

    async def _ask(self, target: Target, request: UpstreamRequest, sent_at: float) -> Undressed | Failed:
        answer = await self._upstream.send(request, is_read=target.is_read)
        if isinstance(answer, Answer):
            round_trip_s = self._clock.now() - sent_at
            previous_s = self._round_trips_s.get(target.account)
            self._round_trips_s[target.account] = smoothed(previous_s, round_trip_s)
        heard = answer if isinstance(answer, Failed) else undress(target, answer, self._upstream.links)
        self._observer.asked(target, heard)
        if isinstance(heard, Undressed) and target.chat is not None:
            known = learned(self._contact(target), heard.verdict, heard.facts, sent_at)
            if known is not None:
                self._store.touch(target.chat, known)
        return heard

    def _keep(self, target: Target, generation: int, sent_at: float, heard: Undressed) -> Entry:
        known = self._contact(target) or Contact(sent_at)
        contact = replace(known, at=sent_at, state=heard.facts.state or known.state)
        round_trip_s = self._round_trips_s.get(target.account, 0.0)
        entry = keep(
            heard.answer, heard.verdict, target.resource.cache, generation, contact, round_trip_s=round_trip_s
        )
        if entry.fresh_until > entry.sent_at and self._generation(target) == generation:
            self._store.put(target.key, entry)
        return entry

    # -- writes, and reads that are nobody else's --------------------------------------------------------

    async def _write(self, target: Target, grant: Grant, request: Request) -> Trip:
        """A write: once sent it is carried through, and its answer is its writer's own."""
        body = await _whole_body(request)
        if isinstance(body, Refusal):
            return Trip(body, target, grant)
        # The client says how long its body takes; its token may be dead by now.
        allowed = await self._still_allowed(target, grant, request)
        if isinstance(allowed, Trip):
            return allowed
        target, grant = allowed
        return Trip(await self._alone(target, dress(target, *body), How.WRITE), target, grant)

    async def _alone(self, target: Target, request: UpstreamRequest, how: How) -> Delivered | Failed:
        hold = self._protection.hold(target.account, None)
        if hold is not None:
            return hold
        flight, _ = self.flights.join(
            object(), lambda: self._guarded(lambda: self._once(target, request), CRASHED)
        )
        landed = await landing(flight)
        return Delivered(landed, how) if isinstance(landed, Entry) else landed or DRAINED

    async def _once(self, target: Target, request: UpstreamRequest) -> Entry | Failed:
        sent_at = self._clock.now()
        try:
            heard = await self._ask(target, request, sent_at)
        finally:
            # However a write ends, it may have been applied; what was read before it is old before its
            # writer hears of it.
            if target.chat is not None and not target.is_read:
                self._store.raise_generation(target.chat)
        if isinstance(heard, Failed):
            return self._protection.failed(target.account, None, heard)
        return keep_nothing(heard.answer, 0, sent_at)

    # -- what is known of a chat -----------------------------------------------------------------------

    def _generation(self, target: Target) -> int:
        return 0 if target.chat is None else self._store.generation(target.chat)

    def _contact(self, target: Target) -> Contact | None:
        return None if target.chat is None else self._store.contact(target.chat)


async def _whole_body(request: Request) -> tuple[bytes, Representation] | Refusal:
    """The body of a write and what it is, well-formed; or why it goes no further."""
    body = await request.body()
    if isinstance(body, Refusal):
        return body
    body_is = body_representation(request.fields)
    if body_is is None:
        return Refusal(Reason.UNSUPPORTED_MEDIA_TYPE)
    try:
        well_formed(body, body_is)
    except Broken:
        return Refusal(Reason.MALFORMED_BODY)
    return body, body_is
