"""The road: one request, from socket to socket, in the order of time.

    answer → full                   is there room for it?
           → travel → judge         1 verify, 2 locate, 3 admit
                    → charged       4 limit
                    → serve
                      → held back   a long poll waits, aside, for another answer than its client has
                      → streaming   a stream begins with the answer
                      → deliver     5 look, 6 plan
                        → wait      7 fly
                          → flight    what another replica has, or is fetching, is not asked for again
                            → fetch → ask   8 dress, 9 send, 10 undress
                                    → keep  11 keep
                      → write → alone → ask   a write goes past the cache, and raises the generation
           → reply                  12 view (core/replies.py)

Steps 1 to 4 come before 5: the cache is shared between clients, permission is not.
Every step returns a value; what went wrong is a value too, and every waiter of a flight gets the same one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, TypeVar, assert_never

from gateway.core.access import Claims, Grant, Shadow, identify
from gateway.core.answers import Undressed, render, undress
from gateway.core.errors import Reason, Refusal, too_often
from gateway.core.freshness import (
    DEFAULT_CHAT_TIMEOUT_S,
    Contact,
    Entry,
    Failed,
    Fetch,
    Generation,
    Hold,
    Plan,
    Serve,
    hit_until,
    keep,
    keep_nothing,
    learned,
    may_serve,
    merged,
    plan,
    smoothed,
)
from gateway.core.headers import dress
from gateway.core.judgement import Granted, Judged, Refused, judge
from gateway.core.known import known
from gateway.core.limits import UNCOUNTED
from gateway.core.links import LinkMap
from gateway.core.messages import Answer, Chat, Key, Representation, UpstreamRequest
from gateway.core.paths import DESCRIPTION, Target
from gateway.core.places import Armed
from gateway.core.policy import Client, Priority
from gateway.core.replies import Delivered, Described, How, Reply, Result, Trip, reply
from gateway.core.requests import Request
from gateway.core.sharing import Told
from gateway.core.writes import document_of, dressed
from gateway.flights import Flights, landing
from gateway.ports import (
    Budget,
    Clock,
    Lease,
    Limiter,
    Observer,
    Overload,
    Protection,
    Replicas,
    ShortCut,
    State,
    Store,
    Ticket,
    Tracer,
    Verifier,
    Watchers,
)

T = TypeVar("T")

DRAINED = Failed(Reason.DRAINING)
#: A write that was ended with the process, and may have been applied.
CUT_OFF = Failed(Reason.UPSTREAM_TIMEOUT)
CRASHED = Failed(Reason.CRASHED)
#: While a request waited for its turn, its grant ended or the upstream changed: it is judged again.
MOVED = Failed(Reason.UPSTREAM_UNREACHABLE)
#: Where nobody follows requests. It may be entered any number of times.
_NO_SPAN = nullcontext()
#: A write and a forwarded read are nobody else's: their answers belong to no generation.
OWN: Generation = (0, 0)
_DESCRIBED = ("GET", "HEAD")
#: A reload changes what is asked of whom; nobody follows more of them than this.
MAX_MOVES = 3


class Exchange:
    """The road's owner: it holds the flights and knows the rooms only by their ports."""

    def __init__(
        self,
        *,
        state: Callable[[], State],
        clock: Clock,
        verifier: Verifier,
        store: Store,
        limiter: Limiter,
        budget: Budget[Any],
        protection: Protection,
        overload: Overload,
        observer: Observer,
        short_cut: ShortCut | None = None,
        replicas: Replicas | None = None,
        watchers: Watchers | None = None,
        max_wait_s: Callable[[], int] = int,
        tracer: Tracer | None = None,
        description: Callable[[], bytes] = bytes,
    ) -> None:
        self._state = state
        self.clock = clock
        self._verifier = verifier
        self._store = store
        self.limiter = limiter
        self._budget = budget
        self.protection = protection
        self._overload = overload
        self._observer = observer
        self._short_cut = short_cut
        self._replicas = replicas
        #: Who is told of changes, by an owner who asks here in turn.
        self.watchers = watchers
        self._max_wait_s = max_wait_s
        self._tracer = tracer
        self._description = description
        self._round_trips_s: dict[str, float] = {}
        self._turns: dict[Hashable, _Turn] = {}
        self.flights: Flights[Entry | Failed] = Flights()
        #: Requests that wait for a flight.
        self.waiting = 0

    async def answer(self, request: Request) -> Reply:
        """The whole road."""
        with self._span(lambda tracer: tracer.request(request)):
            return await self._answer(request)

    def _span(self, of: Callable[[Tracer], AbstractContextManager[object]]) -> AbstractContextManager[object]:
        """What is done within it is followed, where anybody does."""
        return _NO_SPAN if self._tracer is None else of(self._tracer)

    async def _answer(self, request: Request) -> Reply:
        began = self.clock.now()
        full = self.full(request.fields.get(b"authorization"))
        if full is not None:
            return self.refuse(request, full)
        # What the edge made of the request, it made under these.
        version = self._state().policies.version
        self._overload.enter()
        try:
            trip = self._described(request, await self._guarded(lambda: self._travel(request), Trip(CRASHED)))
        finally:
            self._overload.leave()
        made = self._reply(request, trip, began)
        if request.poll is not None and self._short_cut is not None:
            try:
                self._remember(self._short_cut, request, trip, version)
            except Exception as error:  # noqa: BLE001 - it would only be quicker the next time
                self._observer.crashed(error)
        return made

    def _described(self, request: Request, trip: Trip) -> Trip:
        """To a client there is one thing more than resources."""
        refusal = trip.result
        if not isinstance(refusal, Refusal) or refusal.reason is not Reason.UNKNOWN_RESOURCE:
            return trip
        if trip.client is None or request.path != DESCRIPTION.encode():
            return trip
        if request.method not in _DESCRIBED:
            return replace(trip, result=replace(refusal, reason=Reason.METHOD_NOT_ALLOWED, allow=_DESCRIBED))
        return replace(trip, result=Described(self._description()))

    def full(self, authorization: bytes | None) -> Refusal | None:
        """Why there is no room for one more request.

        Whose it is counts where that is known at once: it is cheaper here than after the first steps.
        """
        if self._overload.refuses(Priority.LOW) is None:
            return None
        full = self._overload.refuses(None)
        claims = None if full or authorization is None else self._verifier.known(authorization)
        if claims is None:
            return full
        client = identify(claims, self._state().policies, self._state().is_revoked)
        if isinstance(client, Refusal):
            return None
        full = self._overload.refuses(client.priority)
        return None if full is None else replace(full, client=client.name)

    def refuse(self, request: Request, refusal: Refusal) -> Reply:
        """What the edge refuses before the road begins is told and counted like everything else."""
        return self._reply(request, Trip(refusal, client=refusal.client), self.clock.now())

    def _reply(self, request: Request, trip: Trip, began: float) -> Reply:
        now = self.clock.now()
        default, wall = self._state().default_representation, self.clock.wall()
        try:
            made = reply(trip, request, default, now, wall)
        except Exception as error:  # noqa: BLE001 - what cannot be rendered is told like any other crash
            self._observer.crashed(error)
            trip = replace(trip, result=CRASHED)
            made = reply(trip, request, default, now, wall)
        self._observer.replied(request, trip, made, now - began, now, self._dies_at(trip))
        if self._tracer is not None:
            self._tracer.replied(request, trip, made)
        return made

    def _dies_at(self, trip: Trip) -> float | None:
        contact = None if trip.target is None else self._contact(trip.target)
        return None if contact is None else contact.dies_at

    def _remember(self, short_cut: ShortCut, request: Request, trip: Trip, version: int) -> None:
        """Hand over what would be a hit the next time."""
        result, target, grant = trip.result, trip.target, trip.grant
        if not isinstance(result, Delivered) or target is None or grant is None:
            return
        if target.dropped or target.streamed or trip.shadows or grant.dead_when.policies_version != version:
            # A dropped parameter may be another each time, what a shadow says is counted, and after a reload
            # the same bytes may be another request.
            return
        entry = result.entry
        if self._store.get(target.key) is not entry or entry.generation != self._generation(target):
            return
        # While a flight waits for its turn, whoever joins it may get it an earlier one.
        turn = self._turns.get((target.key, entry.generation))
        has_left = turn is not None and (turn.ticket.boarded or not turn.needed.done())
        now = self.clock.now()
        until = hit_until(entry, self._contact(target), now, has_left=has_left)
        if now < until:
            slot = render(entry, grant.view, target)
            armed = Armed(slot, until, entry.sent_at, entry.fresh_until, target.chat, self._dies_at(trip))
            short_cut.remember(request, target, grant, armed)

    async def _travel(self, request: Request) -> Trip:
        judged = await self.judge(request)
        client = judged.client
        full = None if client is None else self._overload.refuses(client.priority)
        if client is not None and full is not None:
            return Refused(replace(full, client=client.name), client, judged.target).trip()
        if not judged.shadows:
            return await self._charged(judged, request)
        entered: list[tuple[Client, str | None]] = []
        try:
            told = [await self._shadowed(*pair, judged.target, entered) for pair in judged.shadows]
            return replace(await self._charged(judged, request), shadows=tuple(told))
        finally:
            for shadowing in entered:
                self.limiter.leave(*shadowing)

    # -- 1 to 3: may it? ------------------------------------------------------------------------------

    async def judge(self, request: Request) -> Judged:
        """Steps 1 to 3. Nothing is charged, but for a token that is not accepted."""
        claims = await self._verifier.verify(request.fields.get(b"authorization"), request.peer)
        return Refused(claims) if isinstance(claims, Refusal) else self.decided(claims, request)

    def decided(self, claims: Claims, request: Request) -> Judged:
        """Steps 2 and 3, for a token that is known to say this."""
        state = self._state()
        return judge(
            claims,
            request.line,
            state.policies,
            accounts=state.accounts,
            default=state.default_representation,
            is_revoked=state.is_revoked,
        )

    async def _still_allowed(self, judged: Granted, request: Request) -> Judged:
        """After a wait: the same, or judged again where the grant has ended."""
        return await self.judge(request) if self._has_ended(judged.grant) else judged

    def _has_ended(self, grant: Grant) -> bool:
        return grant.dead_when.passed(self.clock.wall(), self._state().policies.version)

    # -- 4: not too often? ----------------------------------------------------------------------------

    async def _charged(self, judged: Judged, request: Request) -> Trip:
        """Every request of a known client is charged, also one that is refused."""
        client = judged.client
        if client is None:
            return judged.trip() if isinstance(judged, Refused) else Trip(CRASHED)
        resource = None if judged.target is None else judged.target.resource.name
        standing = await self.limiter.enter(client, resource)
        if standing.violated:
            refused = Refused(too_often(client.name, standing), client, judged.target)
            return refused.trip().charged(standing)
        try:
            trip = judged.trip() if isinstance(judged, Refused) else await self._serve(judged, request)
        finally:
            self.limiter.leave(client, resource)
        if isinstance(trip.result, Refusal) and trip.result.violated:
            standing = trip.result.standing
        return trip if standing is UNCOUNTED else trip.charged(standing)

    async def _shadowed(
        self, client: Client, shadow: Shadow, target: Target | None, entered: list[tuple[Client, str | None]]
    ) -> Shadow:
        """What a shadow says, charged as if it were in force; who is let in is to leave in the end."""
        resource = None if target is None else target.resource.name
        standing = await self.limiter.enter(client, resource)
        if standing.violated:
            refusal = too_often(client.name, standing)
            return Shadow(client.name, refusal.reason.slug, refusal.rule or "")
        entered.append((client, resource))
        return shadow

    # -- 5 and 6: is it here? -------------------------------------------------------------------------

    async def _serve(self, judged: Granted, request: Request) -> Trip:
        return await (self._read if judged.target.is_read else self._write)(judged, request)

    async def _read(self, granted: Granted, request: Request) -> Trip:
        wait_s = 0 if request.wait_s is None else min(request.wait_s, self._max_wait_s())
        waits_until = self.clock.now() + wait_s
        entered, opened = granted, False
        for _ in range(MAX_MOVES):
            epoch = self._state().epoch
            result = await self._deliver(granted)
            if wait_s and isinstance(result, Delivered):
                left_s = waits_until - self.clock.now()
                result = await self._held_back(granted, entered, request, result, left_s)
            # What it has caused stays, also where it is judged again.
            opened = opened or (isinstance(result, Delivered) and result.opened)
            if opened and isinstance(result, Delivered) and not result.opened:
                result = replace(result, opened=True)
            # An answer is shared, permission is not: whoever waited must still be allowed.
            judged = await self._still_allowed(granted, request)
            if isinstance(judged, Refused):
                return judged.trip()
            # A reload may also change what those get who don't say which representation they want.
            is_it = self._state().epoch == epoch and judged.target.key == granted.target.key
            if is_it and result is not MOVED:
                return self._streaming(judged, request, result) or judged.trip(result)
            granted = judged
        return granted.trip(self._budget.busy(granted.target.account))

    @contextmanager
    def _aside(self, entered: Granted) -> Iterator[None]:
        """The request, as it has entered, is not counted as being under way within the block."""
        client, resource = entered.client, entered.target.resource.name
        self._overload.leave()
        self.limiter.leave(client, resource)
        try:
            yield
        finally:
            self.limiter.rejoin(client, resource)
            self._overload.enter()

    async def _held_back(
        self, granted: Granted, entered: Granted, request: Request, result: Delivered, wait_s: float
    ) -> Result:
        """A long poll's answer: this one if it is news to its client, else the next one that is."""
        # What is answered with a stream needs no wait.
        is_streamed = granted.target.streamed or granted.target.resource.stream is None
        if self.watchers is None or is_streamed or wait_s <= 0 or result.entry.answer.status != 200:
            return result
        # Who only waits is no work, and nothing in flight.
        with self._aside(entered):
            entry = await self.watchers.change(request, granted, result.entry, wait_s)
        if entry is None:
            return result
        if isinstance(entry, Refusal):
            return entry
        if not self._is_fresh(granted.target, entry):
            # What is to be done about one that is old by now is the same as ever.
            late = await self._deliver(granted)
            if not isinstance(late, Delivered):
                return late
            return replace(late, how=How.WAITED, opened=late.opened or result.opened)
        return Delivered(entry, How.WAITED, opened=result.opened)

    def _is_fresh(self, target: Target, entry: Entry) -> bool:
        now = self.clock.now()
        is_current = entry.generation == self._generation(target)
        return is_current and now < entry.fresh_until and may_serve(entry, self._contact(target), now)

    def _streaming(self, judged: Granted, request: Request, result: Result) -> Trip | None:
        """The beginning of a stream, where one is wanted and there is something to begin with."""
        if not (judged.target.streamed and isinstance(result, Delivered)) or self.watchers is None:
            return None
        if result.entry.answer.status != 200:
            return None
        trip = judged.trip(replace(result, how=How.STREAM))
        if request.method == "HEAD":
            return trip
        stream = self.watchers.open(request, judged, result.entry)
        return judged.trip(stream) if isinstance(stream, Refusal) else replace(trip, stream=stream)

    async def poll(self, granted: Granted) -> Result:
        """What a read of that grant brings, for those who are told of it later."""
        return DRAINED if self.flights.drained else await self._deliver(granted)

    async def _deliver(self, granted: Granted) -> Result:
        target, client = granted.target, granted.client
        of_info = self.from_info(target)
        if of_info is not None:
            return Delivered(of_info, How.HIT)
        if not target.resource.coalesce:
            # A flight of its own, which no one can join.
            return await self._alone(granted, dress(target), How.FORWARD)
        generation = self._generation(target)
        planned = self.look(target)
        match planned:
            case Serve(entry, refresh):
                # Whose fetches are used up is served all the same.
                flying = self._fly(target, generation, client) if refresh else None
                opened = isinstance(flying, _Flying) and flying.opened
                return Delivered(entry, How.HIT, opened=opened)
            case Hold(failed, fallback):
                return self._instead(target, fallback, failed)
            case Fetch(fallback):
                self.waiting += 1
                try:
                    return await self._wait(target, generation, fallback, client)
                finally:
                    self.waiting -= 1
            case _:
                assert_never(planned)

    def look(self, target: Target) -> Plan:
        """What is to be done about a target whose answers are shared."""
        hold = self.protection.hold(target.account, target.key, target.whose)
        entry, contact = self._store.get(target.key), self._contact(target)
        return plan(entry, self._generation(target), contact, hold, self.clock.now())

    def from_info(self, target: Target) -> Entry | None:
        """What a fresh info of either representation says of a field of it, where that may be told."""
        field_name = target.resource.field
        if not target.resource.from_info or field_name is None or not target.is_read:
            return None
        path = target.path.rpartition("/")[0]
        for of in sorted(Representation, key=lambda other: other is not target.representation):
            entry = self._store.get((path, target.query, of))
            if entry is not None and entry.answer.status == 200 and self._is_fresh(target, entry):
                answer = known(entry.answer, field_name, of, target.representation)
                if answer is not None:
                    return replace(entry, answer=answer, slots={})
        return None

    # -- 7: one flight for all who wait ---------------------------------------------------------------

    def is_flying(self, target: Target) -> bool:
        """Whether there is a flight that a request for this target would join."""
        return (target.key, self._generation(target)) in self._turns

    def _fly(self, target: Target, generation: Generation, client: Client) -> _Flying | Refusal | Failed:
        """Join the flight of that key, or open it. There is no await between the look and the opening."""
        key = (target.key, generation)
        turn = self._turns.get(key)
        opened = turn is None
        if turn is None:
            if self.flights.drained:
                return DRAINED
            standing = self.limiter.fetch(client, target.resource.name)
            if standing is not None:
                return too_often(client.name, standing)
            turn = self._turns[key] = _Turn(self._ticket(target, client))
            if self._replicas is None:
                turn.needed.set_result(None)
        else:
            turn.ticket.join(client)
        task, _ = self.flights.join(key, lambda: self._flight(target, generation, turn, client))
        if opened:
            task.add_done_callback(lambda _: self._landed(key, target))
        return _Flying(task, turn, opened, turn.ticket.turn.done() and not turn.ticket.boarded)

    def _landed(self, key: Hashable, target: Target) -> None:
        """Whatever a flight brings, the next request may open another."""
        self._turns.pop(key)
        self._store.disarm(target.chat)

    def _ticket(self, target: Target, client: Client) -> Ticket:
        contact = self._contact(target)
        last_s, timeout_s = (
            (self.clock.now(), DEFAULT_CHAT_TIMEOUT_S) if contact is None else (contact.at, contact.timeout_s)
        )
        ticket: Ticket = self._budget.ticket(target.account, client, last_s + timeout_s)
        return ticket

    async def _wait(
        self, target: Target, generation: Generation, fallback: Entry | None, client: Client
    ) -> Result:
        began = self.clock.now()
        flying = self._fly(target, generation, client)
        while isinstance(flying, _Flying) and flying.given_up:
            # That refusal is for those who waited, not for who comes as they are told. Unlike `landing` this
            # waits for a flight that has landed too, until its key is free.
            await asyncio.wait((flying.task,))
            flying = self._fly(target, generation, client)
        if not isinstance(flying, _Flying):
            return flying
        landed: Entry | Failed | None = None
        if self.usable(target, fallback):
            landed = await landing(flying.task, self._state().stale_after_s)
            if landed is None and (stale := self.usable(target, fallback)):
                return Delivered(stale, How.STALE, opened=flying.opened)
        if landed is None:
            patience_s = self._budget.patience_s(target.account) - (self.clock.now() - began)
            if not await _boarded(flying, patience_s):
                return self._budget.busy(target.account)
            landed = await landing(flying.task)
        if self._tracer is not None and not flying.opened:
            self._tracer.joined(flying.turn.span)
        opened = flying.opened and not flying.turn.is_anothers
        if isinstance(landed, Entry):
            return Delivered(landed, How.MISS if opened else How.COLLAPSED, opened=opened)
        return self._instead(target, fallback, landed or DRAINED, opened=opened)

    def _instead(
        self, target: Target, fallback: Entry | None, failed: Failed, *, opened: bool = False
    ) -> Delivered | Failed:
        """A stale answer for a failure that excuses one."""
        if fallback is None and self._replicas is not None:
            # Since then another replica may have had one.
            fallback = self._kept(target)
        stale = self.usable(target, fallback) if failed.excuses_stale else None
        return failed if stale is None else Delivered(stale, How.STALE, failed.reason, opened)

    def usable(self, target: Target, fallback: Entry | None) -> Entry | None:
        """A stale answer that may be served, if this one still may."""
        if fallback is None or not may_serve(fallback, self._contact(target), self.clock.now()):
            return None
        # Whoever may have missed that a chat was written to does not know how old his answers are.
        return None if self._replicas is not None and not self._replicas.whole else fallback

    async def _guarded(self, work: Callable[[], Awaitable[T]], crashed: T) -> T:
        """A crash is a mistake of ours. In a fetch it wakes everyone and frees the key like any ending."""
        try:
            return await work()
        except Exception as error:  # noqa: BLE001 - the outermost edge of a request, and of a flight
            self._observer.crashed(error)
            return crashed

    async def _flight(
        self, target: Target, generation: Generation, turn: _Turn, client: Client
    ) -> Entry | Failed:
        """A fetch, by this replica or by another, to its landing."""
        with self._span(lambda tracer: tracer.flight(target)) as turn.span:
            return await self._flown(target, generation, turn, client)

    async def _flown(
        self, target: Target, generation: Generation, turn: _Turn, client: Client
    ) -> Entry | Failed:
        lease: Lease | None = None
        if self._replicas is not None:
            led = await self._guarded(lambda: self._led(target, generation, client), None)
            if isinstance(led, Entry | Failed):
                self.limiter.refund(client, target.resource.name)
                turn.is_anothers = True
                return led
            lease = led
        try:
            if not turn.needed.done():
                # From here on it waits in a queue, and whoever joins it may get it an earlier turn.
                turn.ticket.join(client)
                self._store.disarm(target.chat)
                turn.needed.set_result(None)
            return await self._queued(target, generation, turn.ticket, client, lease)
        finally:
            if lease is not None:
                lease.let_go()

    async def _led(
        self, target: Target, generation: Generation, client: Client
    ) -> Entry | Failed | Lease | None:
        """What another replica's flight brings, or the lease to fly for all; None if nobody is there."""
        replicas = self._replicas
        if replicas is None:
            return None

        def stale(told: Told) -> None:
            # It may stand in should the upstream fail.
            self._adopt(target, generation, told, client)

        board = await replicas.board(target, stale if self._kept(target) is None else None)
        if not isinstance(board, Told):
            return board
        entry = self._adopt(target, generation, board, client)
        # Whoever asked there, the upstream has answered.
        self.protection.succeeded(target.account, target.key)
        # What a flight has brought is shared by all who waited for it, however short its life. Of what was
        # there already this replica may know better.
        now = self.clock.now()
        is_fresh = now < entry.fresh_until and may_serve(entry, self._contact(target), now)
        return entry if board.was_awaited or is_fresh else None

    async def _queued(
        self,
        target: Target,
        generation: Generation,
        ticket: Ticket,
        client: Client,
        lease: Lease | None,
    ) -> Entry | Failed:
        """A fetch of this replica's own, from its place in the queue on."""
        busy = await self._budget.enter(ticket)
        if busy is not None:
            return busy
        try:
            return await self._guarded(lambda: self._fetch(target, generation, client, lease), CRASHED)
        finally:
            self._budget.leave(ticket)

    async def _fetch(
        self, target: Target, generation: Generation, client: Client, lease: Lease | None
    ) -> Entry | Failed:
        if self._state().epoch != generation[0]:
            return MOVED
        # Look again: between this request's look and its flight another flight may have landed.
        sent_at = self.clock.now()
        match plan(self._store.get(target.key), generation, self._contact(target), None, sent_at):
            case Serve(entry, refresh=False):
                return entry
        # While it waited for its turn, the account may have been told to pause.
        hold = self.protection.admit(target.account, target.whose)
        if hold is not None:
            return hold
        heard = await self._ask(target, dress(target), sent_at, client)
        if isinstance(heard, Failed):
            # Asked before a write: it says nothing of what was asked since.
            key = target.key if self._generation(target) == generation else None
            failed = self._failed(target.account, key, target.whose, heard)
            if lease is not None:
                await lease.fail(failed)
            return failed
        self.protection.succeeded(target.account, target.key)
        entry = self._entry(target, generation, sent_at, heard)
        if self._generation(target) == generation and (
            lease is None or await lease.land(self._told(target, sent_at, heard), entry)
        ):
            self._keep(target, entry, client)
        return entry

    # -- 8 to 11: ask, and keep what was heard --------------------------------------------------------

    async def _ask(
        self, target: Target, request: UpstreamRequest, sent_at: float, client: Client
    ) -> Undressed | Failed:
        with self._span(lambda tracer: tracer.upstream(target)):
            heard = await self._heard(target, request, sent_at)
            if self._tracer is not None:
                self._tracer.asked(heard)
        self._observer.asked(target, heard, client.name, self.clock.now() - sent_at)
        if isinstance(heard, Undressed) and target.chat is not None:
            known = learned(self._contact(target), heard.verdict, heard.facts, sent_at)
            if known is not None:
                self._store.touch(target.chat, known)
        return heard

    async def _heard(self, target: Target, request: UpstreamRequest, sent_at: float) -> Undressed | Failed:
        upstream = self._state().upstream
        asked_under = upstream.links
        answer = await upstream.send(request, is_read=target.is_read)
        if isinstance(answer, Answer):
            round_trip_s = self.clock.now() - sent_at
            previous_s = self._round_trips_s.get(target.account)
            self._round_trips_s[target.account] = smoothed(previous_s, round_trip_s)
        # Links are written as they are to be now, also where the address changed meanwhile.
        links = self._state().upstream.links.after(asked_under)
        return answer if isinstance(answer, Failed) else self._undressed(target, answer, links)

    def _undressed(self, target: Target, answer: Answer, links: LinkMap) -> Undressed | Failed:
        refused = self._state().refuse_other_session_key
        return undress(target, answer, links, refuse_other_session_key=refused)

    def _failed(self, account: str, key: Key | None, whose: str, failed: Failed) -> Failed:
        told = self.protection.failed(account, key, failed, whose)
        if failed.reason is Reason.UPSTREAM_THROTTLED:
            self._budget.slow_down(account, self.clock.now() + (told.retry_after_s or 0.0))
        return told

    def _entry(self, target: Target, generation: Generation, sent_at: float, heard: Undressed) -> Entry:
        known = self._contact(target) or Contact(sent_at)
        contact = replace(known, at=sent_at, state=heard.facts.state or known.state)
        round_trip_s = self._round_trips_s.get(target.account, 0.0)
        return keep(
            heard.answer, heard.verdict, target.resource.cache, generation, contact, round_trip_s=round_trip_s
        )

    def _keep(self, target: Target, entry: Entry, client: Client) -> None:
        if entry.fresh_until > entry.sent_at and self._generation(target) == entry.generation:
            self._store.put(target.key, entry, client.name)
            if self.watchers is not None:
                self.watchers.landed(target, entry)

    # -- what other replicas hear, and tell --------------------------------------------------------------

    def _told(self, target: Target, sent_at: float, heard: Undressed) -> Told:
        contact = self._contact(target) or Contact(sent_at)
        return Told(heard, contact, sent_at, self._round_trips_s.get(target.account, 0.0))

    def _adopt(self, target: Target, generation: Generation, told: Told, client: Client) -> Entry:
        """Keep what another replica has heard as if it had been heard here, when it was asked for there."""
        if target.chat is not None:
            self._store.touch(target.chat, merged(self._contact(target), told.contact))
        self._round_trips_s.setdefault(target.account, told.round_trip_s)
        entry = self._entry(target, generation, told.sent_at, told.heard)
        # Not before it is to be refreshed there: until then, to look again would bring the same.
        refresh_at = min(max(entry.refresh_at, told.refresh_at), entry.fresh_until)
        entry = replace(entry, refresh_at=refresh_at)
        newest = self._kept(target)
        if newest is None or newest.sent_at < entry.sent_at:
            self._keep(target, entry, client)
        return entry

    def _kept(self, target: Target) -> Entry | None:
        """What is kept, unless it is of before a write."""
        entry = self._store.get(target.key)
        return None if entry is None or entry.generation != self._generation(target) else entry

    def believe(self, account: str, key: Key, whose: str, failed: Failed) -> Failed:
        """Another replica has asked, and failed: it would be no better here."""
        if account not in self._state().accounts:
            # It may be any word.
            return failed
        return self._failed(account, key, whose, failed)

    def missed(self) -> None:
        """Any chat may have been written to."""
        self._store.raise_all()
        if self.watchers is not None:
            self.watchers.purged(None)

    def written(self, chat: Chat) -> None:
        """The chat was written to, here or by another replica."""
        self._store.raise_generation(chat)
        if self.watchers is not None:
            self.watchers.written(chat)

    # -- what operators let go --------------------------------------------------------------------------

    async def purge(self, account: str | None, chat: Chat | None = None) -> tuple[int, bool | None]:
        """Let go what is kept of a chat, of an account, or of all: what is on its way will not be kept.

        How many entries there were, and whether the other replicas know; None if there are none.
        """
        dropped = self.purged(account, chat)
        if self._replicas is None:
            return dropped, None
        if chat is not None:
            await self._end_write(chat)
            return dropped, self._replicas.whole
        told = await self._replicas.purge(account)
        # What was fetched from them in between is old.
        self.purged(account)
        return dropped, told

    def purged(self, account: str | None, chat: Chat | None = None) -> int:
        """The same in this replica alone."""
        if account is not None and account not in self._state().accounts:
            # Heard from another it may be any word, and each would be remembered.
            return 0
        dropped = self._store.purge(account, chat)
        if self.watchers is not None and chat is not None:
            self.watchers.written(chat)
        elif self.watchers is not None:
            self.watchers.purged(account)
        return dropped

    # -- writes, and reads that are nobody else's --------------------------------------------------------

    async def _write(self, granted: Granted, request: Request) -> Trip:
        """A write: once sent it is carried through, and its answer is its writer's own."""
        body = await self.whole_body(granted.target, request)
        if isinstance(body, Refusal):
            return granted.trip(body)
        for _ in range(MAX_MOVES):
            # The client says how long its body takes, the queue how long it waits: its token may have died.
            judged = await self._still_allowed(granted, request)
            if isinstance(judged, Refused):
                return judged.trip()
            granted = judged
            said = dressed(granted, *body, request.visitor)
            if isinstance(said, Refusal):
                return granted.trip(said)
            result = await self._alone(granted, said, How.WRITE)
            if result is not MOVED:
                return await self._written(granted, request, result)
        return granted.trip(self._budget.busy(granted.target.account))

    async def whole_body(self, target: Target, request: Request) -> tuple[bytes, Representation] | Refusal:
        """The body of a write and what it is, well-formed; or why it goes no further."""
        bound, most = target.resource.max_body_bytes, self._state().max_body_bytes
        body = await request.body(most if bound is None else min(bound, most))
        return body if isinstance(body, Refusal) else document_of(body, request)

    async def _written(self, granted: Granted, request: Request, result: Result) -> Trip:
        """What a writer hears who has waited: how it went, and of the chat what he may see by now."""
        judged = await self._still_allowed(granted, request)
        if isinstance(judged, Granted):
            return judged.trip(result)
        # After a refusal he would do again what is done.
        if isinstance(result, Delivered):
            result = replace(result, entry=bare(result.entry))
        return granted.trip(result)

    async def _alone(self, granted: Granted, request: UpstreamRequest, how: How) -> Result:
        target, client = granted.target, granted.client
        hold = self.protection.hold(target.account, None, target.whose)
        if hold is not None:
            return hold
        standing = self.limiter.fetch(client, target.resource.name)
        if standing is not None:
            return too_often(client.name, standing)
        ticket = self._ticket(target, client)
        busy = await self._budget.enter(ticket)
        if busy is not None:
            return busy
        # From here to the flight that has the ticket there is no await.
        if self.flights.drained or self._has_ended(granted.grant):
            self._budget.leave(ticket)
            return DRAINED if self.flights.drained else MOVED
        flight, _ = self.flights.join(
            object(), lambda: self._guarded(lambda: self._carry(target, request, client), CRASHED)
        )
        # Not by itself: who is ended before his first step does nothing at all.
        flight.add_done_callback(lambda _: self._budget.leave(ticket))
        landed = await landing(flight)
        if isinstance(landed, Entry):
            return Delivered(landed, how, opened=True)
        # Who is told to come again would do twice what is done.
        return landed or (DRAINED if target.is_read else CUT_OFF)

    async def _carry(self, target: Target, request: UpstreamRequest, client: Client) -> Entry | Failed:
        hold = self.protection.admit(target.account, target.whose)
        if hold is not None:
            return hold
        sent_at = self.clock.now()
        try:
            heard = await self._ask(target, request, sent_at, client)
        finally:
            # However a write ends, it may have been applied; what was read before it is old before its
            # writer hears of it.
            if target.chat is not None and not target.is_read:
                await self._end_write(target.chat)
        if isinstance(heard, Failed):
            return self._failed(target.account, None, target.whose, heard)
        self.protection.succeeded(target.account, None)
        return keep_nothing(heard.answer, OWN, sent_at)

    async def _end_write(self, chat: Chat) -> None:
        # 1 this replica knows, 2 the others do, 3 what was fetched from them in between is old.
        # Who watches hears of it when the others know.
        try:
            if self._replicas is not None:
                self._store.raise_generation(chat)
                await self._replicas.write_ended(chat)
        finally:
            self.written(chat)

    # -- what is known of a chat -----------------------------------------------------------------------

    def _generation(self, target: Target) -> Generation:
        writes = 0 if target.chat is None else self._store.generation(target.chat)
        return self._state().epoch, self._store.purges(target.account) + writes

    def _contact(self, target: Target) -> Contact | None:
        return None if target.chat is None else self._store.contact(target.chat)


class _Turn:
    """Of a flight its place in the queue; `needed` is done when it turns out that it needs one.

    It needs none while another replica flies for all; `is_anothers` once it shares what that one has brought.
    """

    __slots__ = ("is_anothers", "needed", "span", "ticket")

    def __init__(self, ticket: Ticket) -> None:
        self.ticket = ticket
        self.needed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.is_anothers = False
        #: What those who join it tell their own traces.
        self.span: object = None


@dataclass(frozen=True, slots=True)
class _Flying:
    """A flight that a request waits for; `opened` if it is this request's own doing.

    `given_up` if its turn had been refused before the request came.
    """

    task: asyncio.Task[Entry | Failed]
    turn: _Turn
    opened: bool
    given_up: bool


async def _boarded(flying: _Flying, patience_s: float) -> bool:
    """Wait for a flight's turn; False if the patience, from where it needs one, ends first."""
    if not flying.turn.needed.done():
        await asyncio.wait((flying.turn.needed, flying.task), return_when=asyncio.FIRST_COMPLETED)
    turn = flying.turn.ticket.turn
    if not turn.done():
        await asyncio.wait(
            (turn, flying.task), timeout=max(0.0, patience_s), return_when=asyncio.FIRST_COMPLETED
        )
    return turn.done() or flying.task.done()


def bare(entry: Entry) -> Entry:
    """How a write went, without a word of the chat."""
    return keep_nothing(Answer(entry.answer.status, (), b""), OWN, entry.sent_at)
