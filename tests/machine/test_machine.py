"""The road as a state machine: whatever happens, in whatever order, between whichever two callbacks.

Rules are what may happen: clients ask, hang up, are denied or revoked; the upstream answers, fails or says
nothing; time passes, or only the next few callbacks run. `tests.machine.model` says after each what must
hold; at the end the upstream obliges, and nothing may be left.

A failure prints its steps as a program. Each run is the same; `HYPOTHESIS_PROFILE=thorough` looks further,
and `--hypothesis-seed` repeats what it found.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Hashable
from dataclasses import replace
from typing import Any

from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from gateway.core.limits import UNLIMITED, Limits, Rate
from gateway.core.messages import Chat as ChatKey
from gateway.core.policy import Client, Condition, Priority
from gateway.core.replies import Reply
from gateway.core.requests import Poll, Request
from gateway.core.views import FULL, View
from gateway.demo.stage import ACCOUNT, ISSUER
from gateway.upstream.budget import Pace
from tests.machine.model import ANSWERS, CRASH, GOOD, PLACES, SHARED, Ask, Bounds, Chat, Model
from tests.machine.stepping import SteppedLoop
from tests.simulation import DEADLINE_S, EPOCH, PLENTY, Simulation, as_json, cache_rule, caching, chat_path

WHO = ("ann", "bob", "cat")
PARTNER_RATE = Rate(5.0, 8)
PARTNER_IN_FLIGHT = 2
ALLOW = ("chat:read", "chat:write")
LITTLE = View(hide=frozenset({"visitorName"}))
ROWS = {
    "ann": Client("front", (), None, ALLOW, priority=Priority.HIGH),
    "bob": Client("partner", (), None, ALLOW, view=LITTLE, priority=Priority.LOW),
    "cat": Client("desk", (), None, ALLOW),
}
LIMITS = {"bob": Limits(requests=PARTNER_RATE, in_flight=PARTNER_IN_FLIGHT)}
CHATS = 3
TIGHT = Pace(per_s=5, burst=3, in_flight=2, queue=3, wait_s=1.0, reserve=0.3)
ONE = Pace(per_s=20, burst=2, in_flight=1, queue=8, wait_s=2.0, reserve=0.0)
#: (what is cached and for how long, how much longer it may be served stale)
CACHED = [({"info": 1.0}, 5.0), ({"info": 8.0}, 8.0), ({"info": 3.0, "chat": 2.0}, 0.0)]
#: Room for all, for one or two, for none.
ROOM = [64 * 1024 * 1024, 64 * 1024 * 1024, 9_000, 100]

WHOSE = st.sampled_from(WHO)
CHAT = st.sampled_from([0, 0, 0, 0, 1, 2])
WHICH = st.integers(0, 7)
READ = st.sampled_from(["info", "info", "info", "info", "chat", "agentTyping"])
MOSTLY_GOOD = st.sampled_from([GOOD] * 30 + ["fails"] * 3 + ["resets"] * 2 + list(ANSWERS))
HOW = st.sampled_from([GOOD] * 6 + [*ANSWERS, CRASH])
CHANGES = ["is good again"] * 6 + [
    "expires",
    "is revoked",
    "client is revoked",
    "may not read",
    "may not write",
    "the upstream moves",
]
TIMES = st.sampled_from(
    [0.001, 0.05, 0.1, 0.1, 0.2, 0.2, 0.249, 0.26, 0.4, 0.5, 0.7, 0.9, 0.99, 1.01, 2.0, 4.0, 5.0, 8.0, 31.0]
)


def row(who: str, **changes: Any) -> Client:
    match = (Condition("iss", (ISSUER,)), Condition("sub", (who,)))
    return replace(ROWS[who], match=match, limits=LIMITS.get(who, UNLIMITED), **changes)


class Road(RuleBasedStateMachine):
    """A real exchange with flights, store, budget, protection, limiter and short cut, on stepped time."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = SteppedLoop()
        self.numbers = itertools.count()
        self.admitted_at: list[float] = []

    @initialize(
        cached=st.sampled_from(CACHED),
        room=st.sampled_from(ROOM),
        pace=st.sampled_from([PLENTY, PLENTY, TIGHT, ONE]),
        drains=st.sampled_from([None, None, None, 0.0, 3.0]),
    )
    def begin(
        self, cached: tuple[dict[str, float], float], room: int, pace: Pace, drains: float | None
    ) -> None:
        self.drains = drains
        self.room = room
        self.loop.run_until_complete(self._wire(cached, pace))

    async def _wire(self, cached: tuple[dict[str, float], float], pace: Pace) -> None:
        ttl_s, stale_s = cached
        policies = caching({name: cache_rule(ttl, stale_s) for name, ttl in ttl_s.items()})
        self.world = Simulation(policies=policies, store_bytes=self.room, pace=pace, log_level="error")
        # Always the same clock, for `VirtualClock` asks the running loop.
        self.model = Model(
            Bounds(ttl_s, stale_s, pace),
            now=self.loop.time,
            flight=self._flight,
            is_current=self._is_current,
            allows=self._allows,
            hides_name=lambda who: self.rows[who].view is not FULL,
            is_troubled=pace is not PLENTY,
        )
        self.model.chats = [Chat(f"H{number}-x") for number in range(CHATS)]
        self.world.state = replace(self.world.state, upstream=self.model)
        self.rows = {who: row(who) for who in WHO}
        self.tokens: dict[str, str] = {}
        for who in WHO:
            self._issue(who)
        self._adopt()

    # -- what the model may know of the gateway ----------------------------------------------------------

    def _flight(self) -> Hashable:
        task = asyncio.current_task()
        flights = self.world.exchange.flights._by_key
        return next((key for key, flight in flights.items() if flight is task), None)

    def _is_current(self, flight: Hashable, chat: Chat) -> bool:
        generation = self.world.state.epoch, self.world.store.generation(ChatKey(ACCOUNT, chat.id))
        return isinstance(flight, tuple) and flight[1] == generation

    def _allows(self, ask: Ask) -> bool:
        verifier, client = self.world.verifier, self.rows[ask.who]
        lives = EPOCH + self.loop.time() < verifier.expires_at.get(ask.token, float("inf"))
        stands = ask.token not in verifier.revoked and client.name not in self.world.revoked_clients
        needed = "chat:write" if ask.place == "rename" else "chat:read"
        return lives and stands and needed in client.allow

    # -- clients ask -------------------------------------------------------------------------------------

    @rule(who=WHOSE, chat=CHAT, place=READ, form=st.sampled_from(["GET", "GET", "HEAD", "304"]))
    def reads(self, who: str, chat: int, place: str, form: str) -> None:
        tags = [tag for at, tag in self.model._projections if at == place]
        tag = tags[-1] if tags and form == "304" else None
        self._ask(who, chat, place, "HEAD" if form == "HEAD" else "GET", tag=tag)

    @rule(who=WHOSE, chat=CHAT)
    def polls(self, who: str, chat: int) -> None:
        self._ask(who, chat, "info", "GET", polls=True)

    @rule(chat=CHAT, place=READ)
    def all_read(self, chat: int, place: str) -> None:
        for who in WHO:
            self._ask(who, chat, place, "GET", polls=place in SHARED)

    @rule(who=WHOSE, chat=CHAT)
    def writes(self, who: str, chat: int) -> None:
        self._write(who, chat)

    def _write(self, who: str, chat: int) -> None:
        body = as_json({"visitorName": f"name-{next(self.numbers)}"})
        self._ask(who, chat, "rename", "PUT", body=body)

    def _ask(self, who: str, chat: int, place: str, method: str, **more: Any) -> None:
        ask = Ask(who, self.tokens[who], self.model.chats[chat], place, method, **more)
        self.model.asks.append(ask)
        ask.task = self.loop.start(self._asked(ask))

    async def _asked(self, ask: Ask) -> None:
        self.model.begin(ask)
        try:
            reply = await self._answered(ask)
            # Between the reply and here there is no await: this is the instant of its delivery.
            self.model.told(ask, reply)
            if ask.who == "bob" and reply.status not in {401, 403, 429}:
                self._admitted(ask.began_at)
        finally:
            self.model.gone(ask)

    async def _answered(self, ask: Ask) -> Reply:
        request = self._request(ask)
        short_cut = self.world.short_cut
        if request.poll is not None and short_cut is not None:
            hit = short_cut.answer(request.poll)
            if hit is not None:
                head, _, body = hit.partition(b"\r\n\r\n")
                status, _, fields = head.partition(b"\r\n")
                return Reply(int(status.split()[1]), fields + b"\r\n", body)
        return await self.world.exchange.answer(request)

    def _request(self, ask: Ask) -> Request:
        path = chat_path(ask.chat.id, PLACES[ask.place]).encode()
        fields = {b"authorization": f"Bearer {ask.token}".encode(), b"accept": b"application/json"}
        if ask.tag is not None:
            fields[b"if-none-match"] = ask.tag.encode()
        poll = Poll(b"GET %b HTTP/1.1" % path, fields, repr(fields).encode()) if ask.polls else None
        if ask.body:
            fields[b"content-type"] = b"application/json"

        async def body(_: int) -> bytes:
            return ask.body

        return Request("test", ask.method, path, b"", fields, body, poll=poll)

    def _admitted(self, at: float) -> None:
        """The partner was let in: never more than his rate allows."""
        self.admitted_at = sorted([*self.admitted_at, at])
        for index, earlier in enumerate(self.admitted_at):
            for later in range(index, len(self.admitted_at)):
                most = PARTNER_RATE.burst + PARTNER_RATE.per_s * (self.admitted_at[later] - earlier) + 1e-3
                self.model.must(later - index + 1 <= most, "more than the partner's rate")

    # -- and leave ---------------------------------------------------------------------------------------

    @rule(which=WHICH, steps=st.integers(0, 12))
    def hangs_up(self, which: int, steps: int) -> None:
        on_their_way = [ask.task for ask in self.model.asks if ask.task and not ask.task.done()]
        for _ in range(steps):
            self.loop.step()
        if on_their_way:
            on_their_way[which % len(on_their_way)].cancel()

    # -- the upstream ------------------------------------------------------------------------------------

    @rule(which=WHICH, how=HOW)
    def upstream_answers(self, which: int, how: str) -> None:
        if self.model.pending:
            self.model.answer(self.model.pending[which % len(self.model.pending)], how)

    @rule(
        chat=CHAT,
        state=st.sampled_from(["chatting", "chatting", "waiting", "ended"]),
        timeout_s=st.sampled_from([20, 33, 36, 40, 90]),
        known_for_s=st.sampled_from([None, 0.0, 1.1]),
    )
    def chat_changes(self, chat: int, state: str, timeout_s: int, known_for_s: float | None) -> None:
        self.model.chats[chat].state = state
        self.model.chats[chat].timeout_s = timeout_s
        if known_for_s is not None:
            # What is known of it then bounds what was kept before.
            self._ask("cat", chat, "chat", "GET")
            self._land(GOOD)
            self.loop.pass_time(known_for_s)
            self._ask("ann", chat, "info", "GET")

    # -- time ----------------------------------------------------------------------------------------------

    @rule(steps=st.integers(1, 12))
    def steps(self, steps: int) -> None:
        for _ in range(steps):
            self.loop.step()

    @rule(seconds=TIMES)
    def time_passes(self, seconds: float) -> None:
        self.loop.pass_time(seconds)

    @rule(who=WHOSE, chat=CHAT, place=READ, how=MOSTLY_GOOD)
    def reads_and_is_told(self, who: str, chat: int, place: str, how: str) -> None:
        """What mostly happens: somebody asks, and a moment later the upstream has answered."""
        self._ask(who, chat, place, "GET", polls=place in SHARED)
        self._land(how)

    @rule(how=MOSTLY_GOOD)
    def a_round_trip(self, how: str) -> None:
        self._land(how)

    def _land(self, how: str) -> None:
        self.loop.pass_time(0.05)
        for call in self.model.pending:
            self.model.answer(call, how)
        self.loop.pass_time(0.01)

    # -- permission ----------------------------------------------------------------------------------------

    def _adopt(self) -> None:
        self.world.adopt(self.rows.values())
        self._changed()

    def _changed(self) -> None:
        self.model.changes += 1
        self.model.changed_at = self.loop.time()

    def _issue(self, who: str, lifetime_s: float | None = None) -> None:
        token = self.tokens[who] = f"{who}-{next(self.numbers)}"
        self.world.verifier.more[token] = {"sub": who}
        if lifetime_s is not None:
            self.world.verifier.expires_at[token] = EPOCH + self.loop.time() + lifetime_s

    @rule(
        what=st.sampled_from(CHANGES), who=WHOSE, view=st.sampled_from([FULL, LITTLE]), writes=st.booleans()
    )
    def something_changes(self, what: str, who: str, view: View, *, writes: bool) -> None:
        if writes:
            self._write(who, 0)
            self.loop.pass_time(0.01)
        world, client = self.world, self.rows[who].name
        match what:
            case "expires":
                self._issue(who, 0.3)
                self._ask(who, 0, "info", "GET", polls=True)
                self._land(GOOD)
                # It dies of itself: nothing is told.
                self._changed()
                return
            case "is revoked":
                world.revoke(self.tokens[who])
            case "client is revoked":
                world.revoke_client(client)
            case "may not read":
                self.rows[who] = row(who, allow=("chat:write",), view=view)
            case "may not write":
                self.rows[who] = row(who, allow=("chat:read",), view=view)
            case "the upstream moves":
                # A reload after which nothing that was asked before is to be shown.
                world.state = replace(world.state, epoch=world.state.epoch + 1)
                self.model.reloaded = self.model.number()
                self.model.is_troubled = True
            case _:
                self._issue(who)
                world.revoked_clients.discard(client)
                self.rows[who] = row(who, view=view)
        self._adopt()

    # -- always --------------------------------------------------------------------------------------------

    @invariant()
    def nothing_is_wrong(self) -> None:
        if not hasattr(self, "model"):
            return
        model, world = self.model, self.world
        model.nobody_waits_for_ever()
        partners = [ask for ask in model.asks if ask.who == "bob" and ask.is_on_its_way]
        model.must(len(partners) <= PARTNER_IN_FLIGHT, "more of the partner's at once")
        model.must(world.store.weight <= self.room, "more is kept than there is room for")
        with self.loop.asked():
            budget = world.budget.state().get(ACCOUNT)
        model.must(budget is None or budget.waiting <= model.bounds.pace.queue, "a longer queue")
        model.must(world.metrics.crashes <= model.crashes, "a crash", world.log.getvalue())
        for ask in model.asks:
            if ask.task is not None and ask.task.done() and not ask.task.cancelled():
                ask.task.result()
        model.asks = [ask for ask in model.asks if ask.task is not None and not ask.task.done()]
        assert not model.wrong, model.wrong[0]

    # -- and in the end ------------------------------------------------------------------------------------

    def teardown(self) -> None:
        try:
            if hasattr(self, "model"):
                self._drained() if self.drains is not None else self._settled()
                self.nothing_is_wrong()
        finally:
            self.loop.end()

    def _drained(self) -> None:
        """Nobody answers any more; the process ends all the same, and everybody is told."""
        model, wait_s = self.model, self.model.bounds.pace.wait_s
        model.is_troubled = True
        while self.loop.step():
            pass
        window_s, began = self.drains or 0.0, self.loop.time()
        self.loop.run_until_complete(self.world.exchange.flights.drain(window_s))
        assert self.loop.time() <= began + window_s
        # Who waits for his turn may come to it only now.
        self.loop.pass_time(wait_s + 0.01)
        # Who has to ask again after a reload may wait for a deadline more.
        assert not [ask for ask in model.asks if ask.is_on_its_way and ask.began > model.reloaded]
        self.loop.pass_time(DEADLINE_S)
        self._nothing_flies()

    def _settled(self) -> None:
        """The upstream answers all: every request ends, then all is as new, then nothing happens."""
        self.model.is_obliging = True
        for call in self.model.pending:
            self.model.answer(call, GOOD)
        self.loop.pass_time(2 * DEADLINE_S)
        self._nothing_is_left()
        self.rows = {who: row(who) for who in WHO}
        self.world.revoked_clients.clear()
        self._adopt()
        self.loop.pass_time(40.0)
        for who, chat in itertools.product(WHO, range(CHATS)):
            self._issue(who)
            self._whole(who, chat)
        self._quiet()

    def _whole(self, who: str, chat: int) -> None:
        sent = len(self.model.calls)
        self._ask(who, chat, "agentTyping", "GET")
        ask = self.model.asks[-1]
        self.loop.pass_time(1.0)
        assert ask.task is not None
        assert ask.task.done()
        ask.task.result()
        assert len(self.model.calls) == sent + 1, "it was answered by nobody"

    def _quiet(self) -> None:
        sent = len(self.model.calls)
        self.loop.pass_time(60.0)
        assert len(self.model.calls) == sent, "nobody asked any more"
        self._nothing_is_left()

    def _nothing_flies(self) -> None:
        assert len(self.world.exchange.flights) == 0
        assert not self.world.exchange._turns
        assert not asyncio.all_tasks(self.loop)
        assert not self.model.pending

    def _nothing_is_left(self) -> None:
        self._nothing_flies()
        world = self.world
        with self.loop.asked():
            budgets = world.budget.state().values()
        for budget in budgets:
            assert (budget.waiting, budget.in_flight) == (0, 0)
        assert all(count.used == 0 for count in world.limiter._in_flight.values())
        # Timers that were cancelled may still lie there.
        assert not [timer for timer in self.loop._scheduled if not timer.cancelled()]


TestRoad = Road.TestCase
TestRoad.settings = settings(
    max_examples=10 * settings().max_examples,
    stateful_step_count=30,
    # To explain a failure would take longer than to find it.
    phases=set(settings().phases) - {Phase.explain},
)
