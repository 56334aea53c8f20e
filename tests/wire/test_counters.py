"""What the gateway counts is what its clients and its upstream count, over ten thousand mixed requests.

Every number is counted twice: by the gateway, and by whoever was at the other end of the wire.
"""

from __future__ import annotations

import asyncio
import json
import random
import re
import time
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from gateway.core.replies import How
from gateway.demo.stage import ACCOUNT, ISSUER
from gateway.emulator import Drop, EmulatorConfig, Fault
from tests.observe.log_schema import mistakes_of
from tests.support import (
    APP_KEY,
    Response,
    Wire,
    World,
    account_path,
    chat_path,
    message,
    policies_with,
    world,
)

pytestmark = pytest.mark.anyio

NOBODY = "-"
#: For an outcome that a reply does not tell: a problem without its body.
UNTOLD = "?"
FRESH_S = 0.3
MORE_CLIENTS = f"""
clients:
  limited:
    match: {{iss: "{ISSUER}", sub: limited}}
    accounts: "*"
    allow: [account:read, chat:read]
    view: {{hide: [visitorName, by]}}
    limits:
      requests: {{per_minute: 300, burst: 40}}
      resources: {{chat: {{requests: {{per_minute: 6, burst: 2}}}}}}
  fetcher:
    match: {{iss: "{ISSUER}", sub: fetcher}}
    accounts: "*"
    allow: [account:read, chat:read]
    limits: {{fetches: {{per_minute: 60, burst: 10}}}}
"""
#: Those that ask about the same chats. Everyone else has one of his own, so that the upstream, too, can tell
#: whose requests it got.
TOGETHER = ("bff", "internal")
ALONE = ("partner", "limited", "fetcher")


@dataclass(frozen=True, slots=True)
class Ask:
    """A request, and where it should be counted."""

    client: str
    resource: str
    raw: bytes
    method: str = "GET"
    #: Whether its answer is nobody else's, so that each of these is one to the upstream.
    alone: bool = False


@dataclass
class Book:
    """What the clients counted."""

    requests: Counter[tuple[str, str, str, str]] = field(default_factory=Counter)
    body_bytes: Counter[str] = field(default_factory=Counter)
    limited: Counter[tuple[str, str]] = field(default_factory=Counter)
    #: Requests whose answer is nobody else's and that the upstream got, and those of them that failed.
    alone: Counter[tuple[str, str]] = field(default_factory=Counter)
    alone_failed: Counter[str] = field(default_factory=Counter)

    def enter(self, ask: Ask, response: Response) -> None:
        outcome = told(response)
        self.requests[ask.client, ask.resource, str(response.status), outcome] += 1
        self.body_bytes[ask.client] += len(response.body)
        for limit in violated(response):
            self.limited[ask.client, limit] += 1
        if ask.alone and outcome in DELIVERED | FAILED:
            self.alone[ask.client, ask.resource] += 1
            self.alone_failed[ask.client] += outcome in FAILED


DELIVERED = frozenset(how.value for how in How)
FAILED = frozenset({"upstream-error", "upstream-broken"})
#: Said of a request that was not sent, but for the one by which it was learned.
HELD = frozenset({"upstream-throttled"})


def told(response: Response) -> str:
    """The outcome, as far as a client can tell."""
    status = response.header("cache-status")
    if status is None:
        return "rate-limited" if violated(response) else response.problem or UNTOLD
    if "hit" in status:
        return "stale" if "ttl=-" in status else "hit"
    if "collapsed" in status:
        return "collapsed"
    return WAYS[status.partition("fwd=")[2].partition(";")[0]]


WAYS = {"miss": "miss", "bypass": "forward", "method": "write"}


def violated(response: Response) -> Sequence[str]:
    """The limits that were broken. The field says it also where there is no body."""
    return re.findall('"([^"]+)"', response.header("ratelimit") or "") if response.status == 429 else ()


# -- what is asked -------------------------------------------------------------------------------------------


class Callers:
    """Clients with their tokens and chats."""

    def __init__(self, here: World, dice: random.Random) -> None:
        self.here = here
        self.dice = dice
        self.shared = [here.chat() for _ in range(12)]
        self.own = {client: [here.chat() for _ in range(4)] for client in ALONE}
        self.tokens = {
            client: [here.token(client, jti=f"{client}-{number}") for number in range(4)]
            for client in (*TOGETHER, *ALONE, "stranger")
        }
        expired = here.token("bff", exp=int(time.time()) - 5)
        self.bad = ["abc", "a.b.c", expired, self.tokens["bff"][0][:-6] + "AAAAAA"]

    def chat(self, client: str) -> str:
        return self.dice.choice(self.own.get(client, self.shared))

    def ask(
        self,
        client: str,
        resource: str,
        path: str,
        method: str = "GET",
        *,
        fields: Mapping[str, str] | None = None,
        body: bytes = b"",
        alone: bool = False,
        token: str | None = None,
    ) -> Ask:
        bearer = {"authorization": f"Bearer {token or self.dice.choice(self.tokens[client])}"}
        raw = message(method, path, {**bearer, **(fields or {})}, body)
        return Ask(client, resource, raw, method, alone=alone)

    def any(self) -> Ask:
        """One of the mix."""
        dice, client = self.dice, self.dice.choice([*TOGETHER * 3, *ALONE * 2])
        chat = self.chat(client)
        kind = dice.random()
        if kind < 0.55:
            return self.info(client, chat)
        if kind < 0.65:
            rest, resource = dice.choice([("", "chat"), ("/events", "events"), ("/events?from=0", "events")])
            return self.ask(client, resource, chat_path(chat, rest))
        if kind < 0.75:
            return self.by_itself(client, chat)
        if kind < 0.81:
            return self.rename(client, chat)
        return self.refused(client, chat)

    def info(self, client: str, chat: str) -> Ask:
        dice = self.dice
        fields = dice.choice([{}, {}, {"accept": "application/xml"}, {"if-none-match": "*"}, {"origin": "x"}])
        path = chat_path(chat, dice.choice(["/info", "/info", "/info?appKey=x", "/info.json", "/info?_=7"]))
        return self.ask(client, "info", path, dice.choice(["GET"] * 5 + ["HEAD"]), fields=fields)

    def poll(self, chat: str) -> Ask:
        return self.ask(self.dice.choice(TOGETHER), "info", chat_path(chat, "/info"))

    def by_itself(self, client: str, chat: str) -> Ask:
        """A read that nobody shares; partners may not read the account."""
        if client in {*TOGETHER, "limited", "fetcher"} and self.dice.random() < 0.5:
            return self.ask(client, "availability", account_path("/chat/availability"), alone=True)
        return self.ask(client, "agentTyping", chat_path(chat, "/info/agentTyping"), alone=True)

    def rename(self, client: str, chat: str) -> Ask:
        """A write, of which only one of these clients is allowed any."""
        body = json.dumps({"visitorName": self.dice.choice("ABC")}).encode()
        fields = {"content-type": "application/json"}
        path = chat_path(chat, "/info/visitorName")
        return self.ask(client, "visitorName", path, "PUT", fields=fields, body=body, alone=client == "bff")

    def refused(self, client: str, chat: str) -> Ask:
        dice, info = self.dice, chat_path(chat, "/info")
        kinds = (
            lambda: self.ask(client, NOBODY, chat_path(chat, "/nothing")),
            lambda: self.ask(client, NOBODY, info + "?callback=x"),
            lambda: self.ask(client, NOBODY, info, "DELETE"),
            lambda: self.ask(client, NOBODY, info, fields={"accept": "text/html"}),
            lambda: self.ask(client, NOBODY, chat_path(chat, "/../x"), "HEAD"),
            lambda: self.ask(
                client, "exitSurvey", chat_path(chat, "/exitSurvey"), "PUT", alone=client == "bff"
            ),
            lambda: self.ask("partner", "visitorName", chat_path(self.chat("partner"), "/info/visitorName")),
            lambda: self.ask("partner", "availability", account_path("/chat/availability"), "HEAD"),
            lambda: Ask(NOBODY, NOBODY, message("GET", info, {})),
            lambda: self.ask(NOBODY, NOBODY, info, token=dice.choice(self.bad)),
            lambda: self.ask(NOBODY, "info", info, token=dice.choice(self.tokens["stranger"])),
            lambda: Ask(NOBODY, NOBODY, message("GET", info, {"Authorization": "x", "authorization": "y"})),
        )
        return dice.choice(kinds)()

    def own_fetches(self, book: Book, client: str) -> int:
        """What the upstream got from one who shares no chat: about its chats, and for the account."""
        counts = self.here.emulator.counts()
        about_chats = sum(counts.total(chat=chat) for chat in self.own[client])
        return about_chats + book.alone[client, "availability"]


async def send(here: World, asks: Iterable[Ask], book: Book, connections: int = 24, at_once: int = 8) -> None:
    """Ask all that over so many connections, so many at once on each."""
    waiting = iter(list(asks))

    async def work() -> None:
        async with here.wire() as wire:
            while batch := list(islice(waiting, at_once)):
                await wire.send(b"".join(ask.raw for ask in batch))
                for ask in batch:
                    book.enter(ask, await wire.response(ask.method))

    await asyncio.gather(*(work() for _ in range(connections)))
    await here.flights_landed()


MALFORMED = (
    b"BREW / HTTP/1.1\r\n\r\n",
    b"GET / HTTP/1.1\r\nno colon\r\n\r\n",
    b"\x16\x03\x01\x02\x00\r\n\r\n",
)


async def garble(here: World, book: Book, times: int) -> None:
    """What is no request, and nobody's."""
    for number in range(times):
        async with here.wire() as wire:
            await wire.send(MALFORMED[number % len(MALFORMED)])
            book.enter(Ask(NOBODY, NOBODY, b""), await wire.response())


# -- what was counted ----------------------------------------------------------------------------------------


class Counted:
    """What the gateway counted, as it tells those who ask."""

    def __init__(self, exposition: str, usage: Any, lines: Sequence[Mapping[str, Any]]) -> None:
        self._families = {family.name: family for family in text_string_to_metric_families(exposition)}
        self.usage = usage
        self.lines = [line for line in lines if line["event"] == "request"]
        self.failures = [line for line in lines if line["event"] == "upstream failed"]

    def by(self, family: str, *labels: str, suffix: str = "_total") -> Counter[Any]:
        """A family's samples, summed over all other labels; one label stands for itself."""
        counted: Counter[Any] = Counter()
        for sample in self._families[f"chat_gateway_{family}"].samples:
            if sample.name == f"chat_gateway_{family}{suffix}":
                values = tuple(sample.labels[label] for label in labels)
                counted[values if len(values) != 1 else values[0]] += int(sample.value)
        return counted

    def used(self, column: str) -> Counter[str]:
        """A column of the usage, over all days."""
        used: Counter[str] = Counter()
        for row in self.usage:
            used[row["client"]] += row[column]
        return used


async def counted(here: World) -> Counted:
    wire = Wire(*await asyncio.open_connection(*here.addresses.private), here.received)
    try:
        usage = await wire.ask("GET", "/usage", {"authorization": f"Bearer {here.stage.admin_token}"})
        exposition = await wire.ask("GET", "/metrics")
    finally:
        await wire.close()
    return Counted(exposition.body.decode(), usage.json(), here.lines())


def only(counts: Mapping[Any, int]) -> dict[Any, int]:
    """Without what was counted zero times."""
    return {key: count for key, count in counts.items() if count}


def emulated(resource: str) -> str:
    """What the emulator calls a resource."""
    return re.sub("([A-Z])", r"-\1", resource).lower()


async def test_everybody_counted_the_same(tmp_path: Path) -> None:
    policies = policies_with(tmp_path / "counted", "chatting: 1000", f"chatting: {FRESH_S * 1000:.0f}")
    (tmp_path / policies / "clients" / "more.yaml").write_text(MORE_CLIENTS)
    settings: dict[str, Any] = {
        "policies": policies,
        "admin": {"token_file": "admin-token", "hosts": ["gateway.test"]},
        "failed_tokens": {"per_minute": 1, "burst": 30},
        "budget": {"per_second": 10_000, "burst": 10_000, "in_flight": 1_000},
    }
    async with world(tmp_path, emulator=EmulatorConfig(app_key=APP_KEY), **settings) as here:
        book = Book()
        callers = Callers(here, random.Random(8))
        await go_through(callers, book)
        assert book.requests.total() >= 10_000
        compare(book, await counted(here), callers)


async def go_through(callers: Callers, book: Book) -> None:
    """A good time, and then bad ones."""
    here = callers.here
    await send(here, (callers.any() for _ in range(9_600)), book)
    # The upstream fails while there is something to show, and on what is nobody else's.
    for round_trip in ("warm", "stale"):
        await send(here, (callers.poll(chat) for chat in callers.shared * 5), book, 4)
        if round_trip == "warm":
            here.emulator.fail(Fault(resource="info", status=503, times=None))
            await asyncio.sleep(FRESH_S)
    here.emulator.clear_faults()
    # So many failures in a row have opened the breaker, which would hide what follows.
    here.gateway._protection.succeeded(ACCOUNT, None)
    faults = (
        # Fewer in a row than open the breaker.
        Fault(resource="availability", status=500, times=4),
        Fault(resource="availability", body=b"{", times=20),
        Fault(resource="visitor-name", status=503, times=4),
        Fault(resource="agent-typing", status=404, code=12, times=20),
    )
    here.emulator.fail(*faults)
    bad = [callers.by_itself(client, callers.chat(client)) for client in TOGETHER * 100]
    await send(here, bad + [callers.rename("bff", callers.chat("bff")) for _ in range(100)], book, 8)
    # Then it asks for a pause: one request is told so, the rest is not sent.
    here.emulator.clear_faults()
    here.emulator.fail(Fault(status=429, retry_after="2"))
    throttled = [callers.by_itself("internal", callers.shared[0]) for _ in range(60)]
    await send(here, throttled[:1], book, 1)
    book.alone["internal", throttled[0].resource] += 1
    book.alone_failed["internal"] += 1
    await send(here, throttled[1:], book, 4)
    await garble(here, book, 60)


def compare(book: Book, counted: Counted, callers: Callers) -> None:
    assert {client for client, *_ in book.requests} == {NOBODY, *TOGETHER, *ALONE}
    assert {outcome for *_, outcome in book.requests} >= LANDMARKS
    compare_requests(book, counted)
    compare_limits(book, counted)
    compare_upstream(book, counted, callers)
    compare_decisions(counted)
    assert not counted.by("crashes").total()


#: What there has to be some of, or nothing is shown.
LANDMARKS = frozenset(
    {
        *(DELIVERED | FAILED | HELD),
        *("token-missing", "token-invalid", "token-expired", "too-many-bad-tokens", "no-client"),
        *("malformed-request", "malformed-header", "malformed-query", "method-not-allowed", "not-acceptable"),
        *("action-denied", "field-denied", "rate-limited"),
    }
)


def compare_requests(book: Book, counted: Counted) -> None:
    """By client, resource and status, and by outcome where the reply tells it; in metrics, log and usage."""
    requests = counted.by("requests", "client", "resource", "status", "outcome")
    assert without_outcome(requests) == without_outcome(book.requests)
    untold = where(book.requests, 3, {UNTOLD})
    assert 0 < untold.total() < 0.1 * requests.total()
    # Nothing that a reply told is missing, and nothing else is there but what none told.
    assert not book.requests - untold - requests
    assert (requests - book.requests).total() == untold.total()

    labels = ("client", "resource", "status", "outcome")
    assert Counter(tuple(str(line[name]) for name in labels) for line in counted.lines) == requests
    assert not [mistake for line in counted.lines[::50] for mistake in mistakes_of(line)]
    assert counted.by("request_duration_seconds", "resource", suffix="_count") == by(requests, 1)
    assert counted.used("requests") == by(requests, 0)
    assert only(counted.used("bytes_sent")) == only(book.body_bytes)


def compare_limits(book: Book, counted: Counted) -> None:
    limited = counted.by("limited_requests", "client", "limit")
    assert limited == book.limited
    assert {"limited", "fetcher"} <= {client for client, _ in limited} <= set(ALONE)
    assert {limit for _, limit in limited} == {"requests", "chat.requests", "fetches"}
    assert only(counted.used("limited")) == by(where(book.requests, 2, {"429"}), 0)


def compare_upstream(book: Book, counted: Counted, callers: Callers) -> None:
    """By resource, and by whose they were; and what was saved, which is what caused none."""
    upstream = counted.by("upstream_requests", "resource", "outcome", "client")
    by_resource = {emulated(name): count for name, count in by(upstream, 0).items()}
    assert by_resource == callers.here.emulator.counts().totals()
    fetches = by(upstream, 2)
    assert only(counted.used("fetches")) == fetches
    assert {client: fetches[client] for client in ALONE} == {
        client: callers.own_fetches(book, client) for client in ALONE
    }
    failed = upstream - where(upstream, 1, {"good", "gone", "callers-fault"})
    assert len(counted.failures) == failed.total()

    saved = counted.by("saved_requests", "client")
    assert only(counted.used("saved")) == saved
    # Each request to the upstream was answered to the one who caused it, or failed him.
    answered = by(where(book.requests, 3, DELIVERED), 0)
    assert answered - saved == fetches - book.alone_failed


def compare_decisions(counted: Counted) -> None:
    """What decided, and what was wrong with tokens, is in the log too."""
    decided = Counter(line["client"] for line in counted.lines if line["rule"] is not None)
    assert counted.by("decisions", "client") == decided
    wrong = Counter(line["because"] for line in counted.lines if "because" in line)
    assert counted.by("token_refusals", "because") == wrong


def by(counts: Counter[Any], label: int) -> Counter[str]:
    summed: Counter[str] = Counter()
    for labels, count in counts.items():
        summed[labels[label]] += count
    return summed


def where(counts: Counter[Any], label: int, values: Collection[str]) -> Counter[Any]:
    return Counter({labels: count for labels, count in counts.items() if labels[label] in values})


def without_outcome(counts: Counter[tuple[str, str, str, str]]) -> Counter[tuple[str, str, str]]:
    summed: Counter[tuple[str, str, str]] = Counter()
    for labels, count in counts.items():
        summed[labels[:3]] += count
    return summed


async def test_what_is_sent_once_more_is_counted_apart(tmp_path: Path) -> None:
    """A read over a kept connection that had closed: one fetch of its client, two requests to the vendor."""
    settings: dict[str, Any] = {"admin": {"token_file": "admin-token", "hosts": ["gateway.test"]}}
    async with world(tmp_path, **settings) as here:
        path = account_path("/chat/availability")
        await here.get(path)
        here.emulator.fail(Fault(resource="availability", delivery=Drop()))
        assert (await here.get(path)).status == 200
        told = await counted(here)
        assert told.by("upstream_requests", "resource") == {"availability": 2}
        assert told.by("upstream_repeats", "account") == {ACCOUNT: 1}
        assert here.upstream_requests() == 3
        assert told.used("fetches") == {"bff": 2}
