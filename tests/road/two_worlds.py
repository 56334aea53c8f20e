"""Two worlds for the same traffic: one has the short cut, the other takes the road.

A schedule is a list of steps: requests of many kinds on several connections, pipelined and in pieces, and all
that may happen around them, at times of every size, those included at which something ends. Both worlds have
the same clock, ids and emulator, so they must agree in every byte, when it came, and in every count.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import itertools
import re
import selectors
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import pytest

from gateway.core.limits import DAY_S, Limits, Rate
from gateway.core.messages import Representation
from gateway.core.policy import Client, Condition
from gateway.core.requests import Poll
from gateway.core.views import FULL, View
from gateway.demo.stage import ACCOUNT, ISSUER
from gateway.edge.web import Cors
from gateway.emulator import Fault, Hang, Reset, UnknownChatError, WrongStateError
from gateway.shortcut import ShortCut
from tests.connections import Peer
from tests.simulation import EPOCH, Simulation, cache_rule, caching, chat_path
from tests.virtual import NoWait, VirtualLoop

# -- who asks ------------------------------------------------------------------------------------------------

ALLOW = ("chat:read", "chat:write", "account:read")


def client(name: str, *subjects: str, view: View = FULL, limits: Limits | None = None) -> Client:
    conditions = (Condition("iss", (ISSUER,)), Condition("sub", subjects or (name,)))
    return Client(name, conditions, None, ALLOW, view=view, limits=limits or Limits())


LITTLE = View(show=frozenset({"state", "agentTyping", "visitorTyping", "lastUpdate"}))
CLIENTS = (
    client("bff", "bff", "bff-2", "bff-short"),
    client("partner", "partner", "partner-short", view=LITTLE),
    client("hider", view=View(hide=frozenset({"visitorName"}))),
    # Often enough for a burst of polls, not for two.
    client("few", limits=Limits(Rate(9.0, 40), resources={"info": Limits(Rate(7.0, 35), in_flight=2)})),
    client("daily", view=LITTLE, limits=Limits(requests_per_day=90)),
    client("one", limits=Limits(in_flight=1)),
    client(
        "busy", limits=Limits(Rate(900.0, 900), 5_000, in_flight=9, resources={"info": Limits(in_flight=8)})
    ),
    client("thrifty", limits=Limits(Rate(50.0, 200), fetches=Rate(0.5, 2))),
)
SHADOW = Client("shadow", (Condition("iss", (ISSUER,)),), None, ("chat:write",))
SUBJECTS = [subject for each in CLIENTS for subject in each.match[1].any_of]
#: Seconds after the start.
EXPIRIES = {"bff-short": 10.25, "partner-short": 5.0}
ORIGIN = "https://shop.example"

# -- what is asked -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Ask:
    """A request. `more` are further lines of its head; in them `{etag}` is the last one the client was told,
    and `{n}` a number that is never the same.
    """

    subject: str | None
    chat: int = 0
    resource: str = "info"
    query: str = ""
    method: str = "GET"
    accept: str | None = "application/json"
    more: tuple[str, ...] = ()
    spelling: str = "small"


PLACES = {
    "info": "/info",
    "chat": "",
    "name": "/info/visitorName",
    "events": "/events",
    "info.json": "/info.json",
}
WRITES: Mapping[str, tuple[str, str, str]] = {
    "rename": ("PUT", "/info/visitorName", '{"visitorName": "Name-{n}"}'),
    "line": ("POST", "/events", '{"event": {"@type": "line", "text": "Line-{n}"}}'),
    "end": ("POST", "/events", '{"event": {"@type": "state", "state": "ended"}}'),
}
#: Lines that a short cut may meet, and those that it must leave to the road.
HARMLESS = (
    "if-none-match: {etag}",
    'if-none-match: "other", {etag}',
    'if-none-match: W/"other"',
    "if-none-match: *",
    "x-request-id: mine-{n}",
    "x-request-id: mine",
    "x-request-id: no id!",
    f"origin: {ORIGIN}",
    "origin: https://elsewhere.example",
    "x-forwarded-for: 203.0.113.{n}",
    "content-type: text/plain",
    "traceparent: 00-{n}",
    "traceparent: 00-{n}\r\nuser-agent: polls/1\r\ncookie: a=b",
    "connection: keep-alive",
    "cache-control: no-cache\r\nrange: bytes=0-1",
)
OTHERWISE = (
    "host: gateway.test",
    "authorization: Bearer bff",
    "accept: application/xml",
    "if-none-match: {etag}\r\nif-none-match: *",
    "x-request-id: one\r\nx-request-id: two",
    f"origin: {ORIGIN}\r\norigin: {ORIGIN}",
    "content-type: text/plain\r\ncontent-type: text/plain",
    "x-forwarded-for: 203.0.113.1\r\nx-forwarded-for: 203.0.113.2",
    "access-control-request-method: GET",
    "x-http-method-override: PUT",
    "connection: close",
    "connection: upgrade\r\nupgrade: h2c",
    "upgrade: h2c",
    "expect: 100-continue",
    "content-length: 0",
    "content-length: 5\r\n\r\nhello",
    "transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nhost: x\r\n\r\n",
)
SPELLINGS: Mapping[str, Callable[[bytes], bytes]] = {
    "small": lambda head: head,
    "LARGE": lambda head: re.sub(rb"(?m)^[a-z-]+:", lambda found: found[0].upper(), head),
    "wide": lambda head: re.sub(rb"(?m)^([a-z-]+): (.*?)\r", rb"\1:\t \2 \r", head),
    "1.0": lambda head: head.replace(b"HTTP/1.1", b"HTTP/1.0", 1),
    "no host": lambda head: re.sub(rb"host: .*\r\n", b"", head),
    "empty line before": lambda head: b"\r\n" + head,
    # These are no requests that are read on.
    "bare LF": lambda head: head.replace(b"\r\n", b"\n", 1),
    "all bare LF": lambda head: head.replace(b"\r\n", b"\n"),
    "two spaces": lambda head: head.replace(b" /", b"  /", 1),
    "folded": lambda head: head.replace(b"accept: ", b"accept:\r\n ", 1),
    "absolute": lambda head: head.replace(b" /", b" http://gateway.test/", 1),
}


def spelled(ask: Ask, chats: list[str], etag: str, number: int) -> bytes:
    method, rest, body = WRITES.get(ask.method) or (ask.method, PLACES.get(ask.resource, ""), "")
    path = f"/api/account/{ACCOUNT}" if ask.resource == "account" else chat_path(chats[ask.chat], rest)
    lines = [f"{method} {path}{ask.query} HTTP/1.1", "host: gateway.test"]
    if ask.subject is not None:
        lines.append(f"authorization: Bearer {ask.subject}")
    if ask.accept is not None:
        lines.append(f"accept: {ask.accept}")
    body = body.replace("{n}", str(number))
    if body:
        lines += ["content-type: application/json", f"content-length: {len(body)}"]
    # What brings its own body comes last.
    lines += sorted(ask.more, key=lambda line: "\r\n\r\n" in line)
    text = "\r\n".join(lines).replace("{etag}", etag).replace("{n}", str(number))
    return (
        SPELLINGS[ask.spelling](text.encode() + (b"" if "\r\n\r\n" in text else b"\r\n\r\n")) + body.encode()
    )


# -- what happens --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class When:
    """So many seconds later, or later than an event that is to come: when the entry of the info of the first
    chat is refreshed or grows old, a second of the calendar begins, a day, or when a token expires.
    """

    later_s: float = 0.0
    event: str = ""


@dataclass(frozen=True, slots=True)
class Send:
    """Requests in one segment on a connection, or cut in two or more; all that so many times."""

    asks: tuple[Ask, ...]
    when: When = When()
    connection: int = 0
    cuts: tuple[float, ...] = ()
    times: int = 1
    every: When = When()


@dataclass(frozen=True, slots=True)
class Do:
    """Anything but a request."""

    act: str
    when: When = When()


Step = Send | Do
Seen = Mapping[str, object]


class Counting(ShortCut):
    """A short cut that takes down what it was good for."""

    def __init__(self, told: Counter[str], **parts: Any) -> None:
        super().__init__(**parts)
        self._told = told
        self._way = ""
        self.is_pipelined = False

    def recall(self, data: bytes) -> bytes | None:
        self._way = "recall"
        return super().recall(data)

    def answer(self, poll: Poll) -> bytes | None:
        self._way = "answer"
        return super().answer(poll)

    def _hit(self, line: bytes, block: Any) -> bytes | None:
        caller = block.caller
        known = self._passes.get(caller.id + line)
        armed = None if known is None else known.place.armed
        made = super()._hit(line, block)
        if made is not None and known is not None and armed is not None:
            told = [self._way, made[9:12].decode(), f"of {caller.grant.client.name}"]
            # Past a refresh that has begun it is armed until the very end.
            told += ["after refresh"] * (armed.until == armed.fresh_until and armed.slot.status == 200)
            told += ["pipelined"] * self.is_pipelined
            told += ["limited"] * (b"ratelimit" in made)
            told += ["shared origin"] * (b"access-control-allow-origin" in made)
            self._told.update(told)
        return made


@dataclass(frozen=True, slots=True)
class Options:
    """What the world is made of."""

    starts_at: float = 0.0
    store_bytes: int = 64 * 1024 * 1024
    grants_bytes: int = 16 * 1024 * 1024
    latency_s: float = 0.12
    has_cors: bool = False


class Run:
    """One world that goes through a schedule."""

    def __init__(self, options: Options, short_cut: Callable[..., ShortCut] | None) -> None:
        rules = {name: cache_rule(1.0) for name in ("info", "events", "visitorName")}
        policies = caching(rules | {"account": cache_rule(4.0)})
        self.it = Simulation(
            policies=replace(policies, clients=CLIENTS),
            store_bytes=options.store_bytes,
            grants_bytes=options.grants_bytes,
            short_cut=short_cut,
        )
        # No two timers for the same instant: which of them comes first is nobody's promise.
        delays = itertools.count()
        self.it.upstream.latency_s = lambda: self.latency_s + next(delays) * 1e-6
        self.latency_s = options.latency_s
        self.options = options
        self.chats: list[str] = []
        self.peers: list[list[Peer]] = [[] for _ in range(4)]
        self.number = 0

    async def go(self, steps: list[Step]) -> Seen:
        await asyncio.sleep(self.options.starts_at)
        for subject, expiry in EXPIRIES.items():
            self.it.verifier.expires_at[subject] = self.it.clock.wall() + expiry
        self.chats = [self.it.chat(), self.it.chat(), "H0-nobody-knows-it"]
        if self.options.has_cors:
            self._share_with(ORIGIN)
        for step in steps:
            await self._wait(step.when)
            if isinstance(step, Send):
                await self._send(step)
            else:
                ACTS[step.act](self)
                await quiet()
        for peer in self._all():
            peer.read_on()
        await quiet()
        return await self._record()

    def _all(self) -> list[Peer]:
        return [peer for peers in self.peers for peer in peers]

    async def _record(self) -> Seen:
        # A crowd of writes that came at once takes minutes.
        await asyncio.sleep(1_000)
        it = self.it
        assert it.metrics.crashes == 0
        return {
            "received": [peer.received for peer in self._all()],
            "closed": [peer.closed_at or 0 for peer in self._all()],
            "sent": [(sent.at, sent.request, sent.outcome) for sent in it.upstream.sent],
            "counts": it.emulator.counts(),
            "metrics": sorted(it.metrics.exposition().splitlines()),
            "usage": it.usage.table(),
            "log": it.log.getvalue().splitlines(),
        }

    # -- time ---------------------------------------------------------------------------------------------

    async def _wait(self, when: When) -> None:
        """Be there at that very instant, when all that was due before is done."""
        now, loop = self.it.clock.now(), asyncio.get_running_loop()
        at = now + when.later_s if not when.event else self._at(when.event, now) + when.later_s
        if at > now:
            await asyncio.sleep(at - now - 1e-7)
            assert isinstance(loop, FairLoop)
            loop._virtual.now = max(round(at, 9), loop.time())
        await quiet()

    def _at(self, event: str, now: float) -> float:
        wall = self.it.clock.wall()
        if event == "midnight":
            return now + DAY_S - wall % DAY_S
        if event == "second":
            return now + 1 - wall % 1
        if event == "expiry":
            return min((at for at in self.it.verifier.expires_at.values() if at > wall), default=wall) - EPOCH
        path = chat_path(self.chats[0], "/info")
        entry = self.it.store.get((path, "v=1&NC=true", Representation.JSON))
        if entry is None:
            return now
        return {"refresh": entry.refresh_at, "fresh": entry.fresh_until, "stale": entry.stale_until}[event]

    # -- requests -----------------------------------------------------------------------------------------

    async def _send(self, step: Send) -> None:
        for time in range(step.times):
            if time:
                await self._wait(step.every)
            peer = self._peer(step.connection)
            data = b"".join(self._spelled(ask, peer) for ask in step.asks)
            at = sorted({int(cut * len(data)) for cut in step.cuts} | {0, len(data)})
            if isinstance(self.it.short_cut, Counting):
                self.it.short_cut.is_pipelined = len(step.asks) > 1
            for begin, end in itertools.pairwise(at):
                peer.send(data[begin:end])
                await quiet()

    def _spelled(self, ask: Ask, peer: Peer) -> bytes:
        self.number += 1
        etags = re.findall(rb'etag: (W/"[^"]*")', b"".join(piece for _, piece in peer.received[-5:]))
        etag = etags[-1].decode() if etags else 'W/"none"'
        return spelled(ask, self.chats, etag, self.number)

    def _peer(self, connection: int) -> Peer:
        peers = self.peers[connection]
        if not peers or peers[-1].is_closing():
            peers.append(self.it.edge.connect(f"192.0.2.{connection + 1}"))
        return peers[-1]

    # -- acts ---------------------------------------------------------------------------------------------

    def reload(self, **changes: Any) -> None:
        """Something else than clients changed; as in the app, that is a new version of the whole."""
        self.it.state = replace(self.it.state, **changes)
        self.it.adopt(self.it.state.policies.clients, self.it.state.policies.shadows)

    def change_client(self, name: str, **changes: Any) -> None:
        clients = self.it.state.policies.clients
        self.it.adopt(replace(each, **changes) if each.name == name else each for each in clients)

    def _share_with(self, *origins: str) -> None:
        cors = Cors(frozenset(origin.encode() for origin in origins), 600)
        self.it.web_config = replace(self.it.web_config, cors=cors)
        self.reload()

    def toggle_cors(self) -> None:
        self._share_with(*(() if self.it.web_config.cors.origins else (ORIGIN,)))

    def with_chat(self, act: Callable[[str], object], chat: int = 0) -> None:
        with contextlib.suppress(UnknownChatError, WrongStateError):
            act(self.chats[chat])

    def stranger_reads(self) -> None:
        """Other chats are read by the same client, and push out its entries where there is room for few."""
        for _ in range(6):
            self.chats.append(self.it.chat())
            ask = Ask("bff", len(self.chats) - 1)
            peer = self.it.edge.connect()
            peer.send(spelled(ask, self.chats, "", 0))
            self.peers[3].append(peer)

    def open_peer(self, connection: int, act: Callable[[Peer], None]) -> None:
        if self.peers[connection]:
            act(self.peers[connection][-1])

    def drain(self) -> None:
        self.it.edge.shut_down()
        flights = self.it.exchange.flights
        if len(flights) < 2:  # several would end in no order
            self.draining = asyncio.get_running_loop().create_task(flights.drain(0))


class Timer(asyncio.TimerHandle):
    """Of several that are due at the same instant, the one that was set first comes first."""

    numbers = itertools.count()

    def __init__(self, when: float, *parts: Any) -> None:
        super().__init__(when, *parts)
        self._order = (when, next(self.numbers))

    def __lt__(self, other: object) -> bool:
        return isinstance(other, Timer) and self._order < other._order


class RoundNumbers(NoWait):
    """The sum of the steps on the way depends on how many there were, its nanoseconds do not."""

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        events = super().select(timeout)
        if timeout:
            self.now = round(self.now, 9)
        return events


class FairLoop(VirtualLoop):
    """A loop on which nothing depends on how many timers there are that change nothing."""

    selector = RoundNumbers

    def call_at(self, when: float, callback: Any, *args: Any, context: Any = None) -> Timer:  # type: ignore[override]  # simpler
        timer = Timer(when, callback, args, self, context)
        # As asyncio does it, but for the kind of timer.
        heapq.heappush(vars(self)["_scheduled"], timer)
        object.__setattr__(timer, "_scheduled", True)
        return timer


def went(options: Options, short_cut: Callable[..., ShortCut] | None, steps: list[Step]) -> Seen:
    """What is to be seen of a world after a schedule."""

    async def go() -> Seen:
        return await Run(options, short_cut).go(steps)

    with asyncio.Runner(loop_factory=FairLoop) as runner:
        return runner.run(go())


async def quiet() -> None:
    """Wait until nothing happens any more at this instant."""
    loop: Any = asyncio.get_running_loop()
    await asyncio.sleep(0)
    while loop._ready:  # noqa: ASYNC110 - nobody sets an event for it
        await asyncio.sleep(0)


def _fault(**what: Any) -> Callable[[Run], None]:
    return lambda run: run.it.emulator.fail(Fault(**what))


ACTS: Mapping[str, Callable[[Run], None]] = {
    "a token is revoked": lambda run: run.it.revoke("bff"),
    "a token is forgiven": lambda run: run.it.verifier.revoked.clear(),
    "a client is revoked": lambda run: run.it.revoke_client("partner"),
    "a client is forgiven": lambda run: run.it.revoked_clients.clear(),
    "a client is removed": lambda run: run.it.forget_client("hider"),
    "all as before": lambda run: run.it.adopt(CLIENTS),
    "a limit is raised": lambda run: run.change_client("few", limits=Limits(Rate(40.0, 60), in_flight=9)),
    "a limit is lowered": lambda run: run.change_client("few", limits=Limits(Rate(0.5, 3))),
    "a limit is new": lambda run: run.change_client(
        "bff", limits=Limits(Rate(20.0, 30), requests_per_day=99)
    ),
    "a view is narrowed": lambda run: run.change_client("bff", view=LITTLE),
    "a view is widened": lambda run: run.change_client("partner", view=FULL),
    "a read is denied": lambda run: run.change_client("bff", deny=("info",)),
    "a shadow comes": lambda run: run.it.adopt(run.it.state.policies.clients, (SHADOW,)),
    "keys change": lambda run: run.it.change_keys(),
    "XML by default": lambda run: run.reload(default_representation=Representation.XML),
    "the upstream moves": lambda run: run.reload(epoch=run.it.state.epoch + 1),
    "CORS on or off": lambda run: run.toggle_cors(),
    "others read": lambda run: run.stranger_reads(),
    "the agent types": lambda run: run.with_chat(run.it.emulator.agent_typing),
    "the agent says": lambda run: run.with_chat(lambda chat: run.it.emulator.agent_line(chat, "Hm.")),
    "the agent ends": lambda run: run.with_chat(run.it.emulator.end),
    "the chat waits": lambda run: run.with_chat(run.it.emulator.requeue),
    "500": _fault(status=500),
    "500 twice": lambda run: run.it.emulator.fail(Fault(status=500, times=2)),
    "429": _fault(status=429, retry_after="2"),
    "gone": _fault(status=404, code=12),
    "slow": _fault(delay_s=0.7),
    "hangs": _fault(delivery=Hang()),
    "resets": _fault(delivery=Reset()),
    "redirects": _fault(redirect="https://example.net/"),
    "slower": lambda run: setattr(run, "latency_s", 0.6),
    "quicker": lambda run: setattr(run, "latency_s", 0.01),
    "leaves": lambda run: run.open_peer(0, Peer.hang_up),
    "reads no more": lambda run: run.open_peer(0, Peer.stop_reading),
    "reads on": lambda run: run.open_peer(0, Peer.read_on),
    "drain": Run.drain,
}


def both(options: Options, steps: list[Step], told: Counter[str]) -> None:
    """Go through a schedule in both worlds."""
    with_it = went(options, partial(Counting, told), steps)
    without = went(options, None, steps)
    for what, seen in with_it.items():
        # The patience with an idle connection may be put together of several timers.
        expected = without[what] if what != "closed" else pytest.approx(without[what], abs=0.002)
        assert seen == expected, what
