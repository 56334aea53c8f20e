"""The road on virtual time: a whole hour passes in a second, and every run of a seed is the same.

`Simulation` wires a real exchange, and before it a real edge, to the emulator without sockets; only the
transports are replaced: the one to the upstream by one that takes time (see tests/virtual.py), those of
clients by ones in memory (see tests/connections.py).
"""

from __future__ import annotations

import asyncio
import io
import itertools
import json
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, assert_never

from gateway.config.policies import load_policies
from gateway.core.access import Claims
from gateway.core.errors import Reason, Refusal
from gateway.core.freshness import Failed
from gateway.core.links import LinkMap
from gateway.core.messages import Answer, Representation, UpstreamRequest
from gateway.core.policy import STATES, CacheRule, Client, Policies
from gateway.core.replies import Reply
from gateway.core.requests import Request
from gateway.demo.stage import ACCOUNT, ISSUER, shipped_policies
from gateway.edge.web import Cors, Web, WebConfig
from gateway.emulator import (
    Drip,
    Drop,
    Emulator,
    EmulatorConfig,
    EmulatorRequest,
    Hang,
    Reset,
    Truncate,
    Whole,
)
from gateway.exchange import Exchange
from gateway.observe.logs import logger
from gateway.observe.metrics import Metrics
from gateway.observe.observer import Observer
from gateway.observe.usage import Usage
from gateway.overload import Bounds, Overload
from gateway.ports import Replicas, State, Tracer
from gateway.shortcut import News, ShortCut
from gateway.stores.limits import MemoryLimiter
from gateway.stores.memory import MemoryStore
from gateway.upstream.budget import Budget, Pace
from gateway.upstream.protection import Protection
from tests.connections import Edge

#: Epoch seconds at which virtual time starts.
EPOCH = 1_800_000_000.0
APP_KEY = "0123456789abcdef0123456789abcdef"
UPSTREAM_HOST = "va-e.convep.liveperson.net"
PUBLIC_URL = "https://chat.example"
DEADLINE_S = 5.0
MAX_PAUSE_S = 5.0
STALE_AFTER_S = 0.250
#: A budget that nobody meets by chance.
PLENTY = Pace(per_s=10_000, burst=10_000, in_flight=10_000, queue=10_000, wait_s=1.0, reserve=0.0)
#: Nothing sent by then is still in flight.
SETTLED_S = 2 * DEADLINE_S


class VirtualClock:
    """The loop's time, as the gateway's clock."""

    def now(self) -> float:
        return asyncio.get_running_loop().time()

    def wall(self) -> float:
        return EPOCH + self.now()


class TokensAsNames:
    """A verifier for simulations: the token is the subject, good until `expires_at`."""

    def __init__(self, clock: VirtualClock) -> None:
        self._clock = clock
        self.expires_at: dict[str, float] = {}
        #: Claims of a subject beside `iss` and `sub`.
        self.more: dict[str, dict[str, object]] = {}
        self.revoked: set[str] = set()
        #: How often the keys were changed: what was verified before does not stand.
        self.keys = 0

    async def verify(self, authorization: bytes | None, peer: str | None) -> Claims | Refusal:
        del peer
        return Refusal(Reason.TOKEN_MISSING) if authorization is None else self._judge(authorization)

    def known(self, authorization: bytes) -> Claims | None:
        outcome = self._judge(authorization)
        return outcome if isinstance(outcome, Claims) else None

    def _judge(self, authorization: bytes) -> Claims | Refusal:
        subject = authorization.decode().removeprefix("Bearer ")
        expires_at = self.expires_at.get(subject, EPOCH * 2)
        if self._clock.wall() >= expires_at:
            return Refusal(Reason.TOKEN_EXPIRED)
        if subject in self.revoked:
            return Refusal(Reason.TOKEN_REVOKED)
        values = {"iss": ISSUER, "sub": subject, **self.more.get(subject, {})}
        keys = self.keys
        return Claims(values, expires_at, lambda: keys == self.keys and subject not in self.revoked)


@dataclass(slots=True)
class Sent:
    """One request on the upstream side of the gateway. Times are the loop's; `outcome` is None in flight."""

    request: UpstreamRequest
    at: float
    outcome: Answer | Failed | None = None

    @property
    def is_contact(self) -> bool:
        """Whether the chat answered it, as far as the gateway can know."""
        return isinstance(self.outcome, Answer) and 200 <= self.outcome.status < 300


class EmulatedUpstream:
    """The port `Upstream`, straight into the emulator. `latency_s` is asked twice: half of it is the way
    there, half of it the way back.
    """

    def __init__(self, emulator: Emulator, latency_s: Callable[[], float]) -> None:
        self.emulator = emulator
        self.latency_s = latency_s
        self.links = LinkMap(PUBLIC_URL, {ACCOUNT: frozenset({UPSTREAM_HOST})}, ("*.liveperson.net",))
        self.sent: list[Sent] = []
        #: Called with each request before it leaves; what it returns, if anything, is the outcome instead.
        self.interfere: Callable[[UpstreamRequest], Awaitable[Answer | Failed | None]] | None = None
        #: Called whenever the emulator has carried out a request, before the answer is on its way.
        self.arrived: Callable[[], None] = lambda: None

    async def send(self, request: UpstreamRequest, *, is_read: bool) -> Answer | Failed:
        del is_read
        sent = Sent(request, asyncio.get_running_loop().time())
        self.sent.append(sent)
        try:
            async with asyncio.timeout(DEADLINE_S):
                sent.outcome = await self._send(request)
        except TimeoutError:
            sent.outcome = Failed(Reason.UPSTREAM_TIMEOUT)
        return sent.outcome

    async def _send(self, request: UpstreamRequest) -> Answer | Failed:
        if self.interfere is not None:
            outcome = await self.interfere(request)
            if outcome is not None:
                return outcome
        await asyncio.sleep(self.latency_s() / 2)
        headers = (*request.headers, (b"authorization", f"LivePerson appKey={APP_KEY}".encode()))
        response = self.emulator.handle(
            EmulatorRequest(request.method, request.target, headers, request.body)
        )
        self.arrived()
        await asyncio.sleep(self.latency_s() / 2 + response.delay_s)
        match response.delivery:
            case Whole():
                return Answer(response.status, response.headers, response.body)
            case Hang():
                return await nothing()
            case Drop() | Reset() | Truncate():
                return Failed(Reason.UPSTREAM_RESET)
            case Drip(chunk_bytes, every_s):
                await asyncio.sleep(len(response.body) / chunk_bytes * every_s)
                return Answer(response.status, response.headers, response.body)
            case _:
                assert_never(response.delivery)


async def nothing() -> Failed:
    """What comes back when nothing comes back: the deadline ends it."""
    await asyncio.sleep(DEADLINE_S * 2)
    return Failed(Reason.UPSTREAM_TIMEOUT)


class Simulation:
    """Edge, exchange and emulator on one virtual clock. Make it inside `simulate`.

    Several may share an `upstream`, and other things by `replicas`. Without `short_cut` all that comes over a
    `connection` takes the road. Whoever ends grants before their time, other than by the methods here, has to
    tell `news`.
    """

    def __init__(
        self,
        *,
        config: EmulatorConfig | None = None,
        policies: Policies | None = None,
        latency_s: Callable[[], float] = lambda: 0.120,
        store: type[MemoryStore] = MemoryStore,
        log_level: str = "info",
        pace: Pace = PLENTY,
        store_bytes: int = 64 * 1024 * 1024,
        short_cut: Callable[..., ShortCut] | None = ShortCut,
        grants_bytes: int = 16 * 1024 * 1024,
        upstream: EmulatedUpstream | None = None,
        replicas: Callable[[Simulation], Replicas] | None = None,
        tracer: Tracer | None = None,
    ) -> None:
        self.clock = VirtualClock()
        self.upstream = upstream or EmulatedUpstream(
            Emulator(config or EmulatorConfig(app_key=APP_KEY, accounts=(ACCOUNT,)), now=self.clock.wall),
            latency_s,
        )
        self.emulator = self.upstream.emulator
        self.verifier = TokensAsNames(self.clock)
        self.store = store(store_bytes, self.clock.now)
        self.metrics = Metrics()
        self.log = io.StringIO()
        self.revoked_clients: set[str] = set()
        self.pace = pace
        self.limiter = MemoryLimiter(self.clock.now, self.clock.wall)
        self.budget = Budget(lambda _: self.pace, self.clock.now)
        self.usage = Usage(self.clock.wall)
        self.state = State(
            policies or shipped(),
            frozenset({ACCOUNT}),
            Representation.JSON,
            STALE_AFTER_S,
            self.upstream,
            self.revoked_clients.__contains__,
            1_000_000,
        )
        self.news = News()
        self._ids = itertools.count()
        observer = Observer(self.metrics, logger(log_level, self.log, self.clock.wall), self.usage)
        self.short_cut = short_cut and short_cut(
            max_bytes=grants_bytes,
            state=lambda: self.state,
            news=self.news,
            clock=self.clock,
            limiter=self.limiter,
            store=self.store,
            observer=observer,
            new_id=self._new_id,
            is_traced=tracer and tracer.wants,
        )
        self.exchange = Exchange(
            state=lambda: self.state,
            clock=self.clock,
            verifier=self.verifier,
            store=self.store,
            limiter=self.limiter,
            budget=self.budget,
            protection=Protection(self.clock.now, lambda: MAX_PAUSE_S),
            overload=Overload(Bounds, self.clock.now, lambda: 0.0),
            observer=observer,
            short_cut=self.short_cut,
            replicas=replicas and replicas(self),
            tracer=tracer,
        )
        self.web_config = WebConfig(b"", Cors(frozenset(), 600))
        self.web = Web(self.exchange, lambda: self.web_config, self._new_id, self.clock.wall)
        self.edge = Edge(self.web, self.short_cut)

    def _new_id(self) -> str:
        return f"id-{next(self._ids)}"

    async def ask(
        self,
        method: str,
        path: str,
        query: str = "",
        *,
        subject: str = "bff",
        body: bytes = b"",
        **fields: str,
    ) -> Reply:
        """One request; `fields` are header fields, with underscores for dashes."""
        named = {name.replace("_", "-").encode(): value.encode() for name, value in fields.items()}

        async def read(_: int) -> bytes:
            return body

        named.setdefault(b"authorization", f"Bearer {subject}".encode())
        return await self.exchange.answer(Request("test", method, path.encode(), query.encode(), named, read))

    async def info(self, chat: str, **fields: Any) -> Reply:
        return await self.ask("GET", chat_path(chat, "/info"), **fields)

    async def put(self, chat: str, name: str, value: str) -> Reply:
        """Set `visitorName` or `visitorTyping`."""
        path = chat_path(chat, f"/info/{name}")
        return await self.ask("PUT", path, body=as_json({name: value}), content_type="application/json")

    async def rename(self, chat: str, name: str) -> Reply:
        """The write that most tests use."""
        return await self.put(chat, "visitorName", name)

    async def post(self, chat: str, **event: str) -> Reply:
        """Post an event: `type="line", text=...`, or `type="state", state="ended"`."""
        said = {"event": {"@type": event.pop("type")} | event}
        path = chat_path(chat, "/events")
        return await self.ask("POST", path, body=as_json(said), content_type="application/json")

    def chat(self, **fields: Any) -> str:
        """A chat that an agent has accepted. `fields` are those of Start Chat."""
        chat = self.emulator.start_chat(ACCOUNT, **fields)
        self.emulator.accept(chat)
        return chat

    def asked(self, resource: str | None = None) -> int:
        """How many requests reached the emulator."""
        return self.emulator.counts().total(resource=resource)

    def forget_client(self, name: str) -> None:
        """Read new policies, in which that client is no more."""
        self.adopt(client for client in self.state.policies.clients if client.name != name)

    def adopt(self, clients: Iterable[Client], shadows: Iterable[Client] = ()) -> None:
        """Read new policies, in which these are the clients, and those the ones in shadow mode."""
        old = self.state.policies
        version = old.version + 1
        policies = replace(old, version=version, clients=tuple(clients), shadows=tuple(shadows))
        self.state = replace(self.state, policies=policies)
        self.news.tell()

    def revoke(self, subject: str) -> None:
        """Revoke a token."""
        self.verifier.revoked.add(subject)
        self.news.tell()

    def revoke_client(self, name: str) -> None:
        """Revoke a client, with all its tokens."""
        self.revoked_clients.add(name)
        self.news.tell()

    def change_keys(self) -> None:
        """Let the issuer have other keys, and sign all tokens anew with them."""
        self.verifier.keys += 1
        self.news.tell()

    async def settle(self) -> None:
        """Let all that is in flight land, and see that nothing is left of it."""
        await asyncio.sleep(SETTLED_S)
        assert len(self.exchange.flights) == 0
        assert asyncio.all_tasks() == {asyncio.current_task()}


def as_json(value: object) -> bytes:
    return json.dumps(value).encode()


def chat_path(chat: str, rest: str = "") -> str:
    return f"/api/account/{ACCOUNT}/chat/{chat}{rest}"


@lru_cache
def shipped() -> Policies:
    """The policies that come with the package."""
    policies, mistakes = load_policies(shipped_policies(), frozenset({ACCOUNT}), frozenset({ISSUER}), 1)
    assert policies is not None, mistakes
    return policies


def caching(rules: Mapping[str, CacheRule]) -> Policies:
    """The shipped policies with other cache rules, by the name of the resource."""
    resources = (
        replace(resource, cache=rules[resource.name], coalesce=True) if resource.name in rules else resource
        for resource in shipped().resources
    )
    return replace(shipped(), resources=tuple(resources))


def cache_rule(ttl_s: float, stale_s: float = 5.0) -> CacheRule:
    """One TTL for all states, and the volatile fields of the shipped policies."""
    return CacheRule(dict.fromkeys(STATES, ttl_s), stale_s, frozenset({"lastUpdate", "duration"}))


def header(reply: Reply, name: str) -> str | None:
    return next((value.decode() for key, value in reply.headers if key == name.encode()), None)


def outcome(reply: Reply) -> str:
    """How the reply says it came about: hit, stale, miss, collapsed, bypass, method; empty for problems."""
    status = header(reply, "cache-status") or ""
    if "hit" in status:
        return "stale" if "ttl=-" in status else "hit"
    if "collapsed" in status:
        return "collapsed"
    return status.partition("fwd=")[2].partition(";")[0]


def name_of(reply: Reply) -> str:
    """The visitor's name in an info."""
    name: str = json.loads(reply.body)["info"]["visitorName"]
    return name
