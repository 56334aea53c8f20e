"""What the gateway counts, and what those at the other ends of the wire count, in one place to be compared.

Clients of every kind ask for everything that can be asked for, and count what they get; so does the emulator
with what it is asked. Nothing here is nearly equal.
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
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from gateway.core.messages import Chat
from gateway.core.replies import How
from gateway.demo.stage import ACCOUNT, ISSUER
from gateway.observe.logs import hashed
from tests.observe.log_schema import mistakes_of
from tests.support import Response, Wire, World, account_path, chat_path, message

NOBODY = "-"
#: For an outcome that a reply does not tell: a problem without its body.
UNTOLD = "?"
FRESH_S = 0.3
#: How many may be open for the one whose streams are few.
STREAMS = 3
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
  watcher:
    match: {{iss: "{ISSUER}", sub: watcher}}
    accounts: "*"
    allow: [account:read, chat:read]
    limits: {{streams: {STREAMS}}}
  guest:
    match: {{iss: "{ISSUER}", sub: guest}}
    accounts: "*"
    allow: [chat:read]
"""
#: Those that ask about the same chats. Everyone else has one of his own, so that the upstream, too, can tell
#: whose requests it got.
TOGETHER = ("bff", "internal")
ALONE = ("partner", "limited", "fetcher", "watcher")
#: Who watches chats that nobody else asks about.
WATCHERS = ("bff", "internal", "partner", "watcher", "guest")


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
    #: Streams by (client, resource), and by why they ended; messages on them by (resource, kind).
    opened: Counter[tuple[str, str]] = field(default_factory=Counter)
    closed: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    messages: Counter[tuple[str, str]] = field(default_factory=Counter)
    reloads: int = 0

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
#: Whose age is counted, as they may be anybody's.
SHARED = frozenset({"hit", "stale", "miss", "collapsed", "waited"})


def told(response: Response) -> str:
    """The outcome, as far as a client can tell."""
    if response.header("x-accel-buffering"):
        return How.STREAM.value
    status = response.header("cache-status")
    if status is None:
        return "rate-limited" if violated(response) else response.problem or UNTOLD
    if response.header("preference-applied"):
        return How.WAITED.value
    if "hit" in status:
        return "stale" if "ttl=-" in status else "hit"
    if "collapsed" in status:
        return "collapsed"
    return WAYS[status.partition("fwd=")[2].partition(";")[0]]


WAYS = {"miss": "miss", "bypass": "forward", "method": "write"}


def violated(response: Response) -> Sequence[str]:
    """The limits that were broken. The field says it also where there is no body, but not of streams."""
    if response.status != 429:
        return ()
    limits = re.findall('"([^"]+)"', response.header("ratelimit") or "")
    return ["streams"] if _OF_STREAMS.search(response.body) else limits


_OF_STREAMS = re.compile(rb'violated-policies(": \["|><i>)streams\b')

# -- what is asked -------------------------------------------------------------------------------------------


class Callers:
    """Clients with their tokens and chats."""

    def __init__(self, here: World, dice: random.Random) -> None:
        self.here = here
        self.dice = dice
        self.shared = [here.chat() for _ in range(12)]
        self.own = {client: [here.chat() for _ in range(4)] for client in ALONE}
        self.watched: dict[str, list[str]] = {client: [] for client in WATCHERS}
        self.tokens = {
            client: [here.token(client, jti=f"{client}-{number}") for number in range(4)]
            for client in (*TOGETHER, *ALONE, "stranger")
        }
        expired = here.token("bff", exp=int(time.time()) - 5)
        self.bad = ["abc", "a.b.c", expired, self.tokens["bff"][0][:-6] + "AAAAAA"]

    def to_watch(self, client: str) -> str:
        """One more chat that nobody but this client asks about."""
        chat = self.here.chat()
        self.watched[client].append(chat)
        return chat

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
        return self._upstream(self.own[client]) + self.of_watched(client) + book.alone[client, "availability"]

    def of_watched(self, client: str) -> int:
        """What the upstream got about the chats that it watches."""
        return self._upstream(self.watched.get(client, ()))

    def _upstream(self, chats: Iterable[str]) -> int:
        counts = self.here.emulator.counts()
        return sum(counts.total(chat=chat) for chat in chats)


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
        self.closed = [line for line in lines if line["event"] == "stream closed"]

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


# -- compared ------------------------------------------------------------------------------------------------


def same(what: str, gateway: Mapping[Any, int], others: Mapping[Any, int]) -> None:
    """What the gateway counted is what the others did; raises AssertionError with what differs."""
    ours, theirs = only(gateway), only(others)
    differs = {key: (ours.get(key, 0), theirs.get(key, 0)) for key in {*ours, *theirs}}
    differs = {key: pair for key, pair in differs.items() if pair[0] != pair[1]}
    assert not differs, f"{what}: by the gateway, by the others: {differs}"


def has(what: str, counts: Iterable[str], wanted: Collection[str]) -> None:
    """There is some of each; raises AssertionError with what is missing."""
    missing = {*wanted} - {*counts}
    assert not missing, f"{what}: there was none of {sorted(missing)}"


def compare(book: Book, counted: Counted, callers: Callers) -> None:
    """Raises AssertionError where two have counted differently, or where there was nothing to count."""
    has("clients", {client for client, *_ in book.requests}, {NOBODY, *TOGETHER, *ALONE, *WATCHERS})
    has("outcomes", {outcome for *_, outcome in book.requests}, LANDMARKS)
    compare_requests(book, counted)
    compare_limits(book, counted)
    compare_upstream(book, counted, callers)
    compare_decisions(book, counted)
    compare_streams(book, counted)
    same("crashes", counted.by("crashes"), {})


#: What there has to be some of, or nothing is shown.
LANDMARKS = frozenset(
    {
        *DELIVERED | FAILED | HELD,
        *("token-missing", "token-invalid", "token-expired", "too-many-bad-tokens", "no-client"),
        *("malformed-request", "malformed-header", "malformed-query", "method-not-allowed", "not-acceptable"),
        *("action-denied", "field-denied", "rate-limited", "draining"),
    }
)
ENDS = frozenset({"ended", "gone", "lost", "token-expired", "token-revoked", "policies-changed", "draining"})
KINDS = frozenset({"info", "event", "ended", "problem", "closed", "heartbeat"})


def compare_requests(book: Book, counted: Counted) -> None:
    """By client, resource and status, and by outcome where the reply tells it; in metrics, log and usage."""
    requests = counted.by("requests", "client", "resource", "status", "outcome")
    same("requests", without_outcome(requests), without_outcome(book.requests))
    untold = where(book.requests, 3, {UNTOLD})
    assert 0 < untold.total() < 0.1 * requests.total()
    # Nothing that a reply told is missing, and nothing else is there but what none told.
    same("told outcomes", {}, book.requests - untold - requests)
    assert (requests - book.requests).total() == untold.total()

    labels = ("client", "resource", "status", "outcome")
    same("lines", requests, Counter(tuple(str(line[name]) for name in labels) for line in counted.lines))
    assert not [mistake for line in counted.lines[::50] for mistake in mistakes_of(line)]
    took = counted.by("request_duration_seconds", "resource", suffix="_count")
    same("durations", took, by(book.requests, 1))
    ages = counted.by("answer_age_seconds", "resource", suffix="_count")
    same("ages", ages, by(where(book.requests, 3, SHARED), 1))
    same("used requests", counted.used("requests"), by(book.requests, 0))
    same("used bytes", counted.used("bytes_sent"), book.body_bytes)
    same("bytes", counted.by("response_body_bytes", "client"), book.body_bytes)


def compare_limits(book: Book, counted: Counted) -> None:
    limited = counted.by("limited_requests", "client", "limit")
    same("limited", limited, book.limited)
    has("limited clients", by(limited, 0), {"limited", "fetcher", "watcher"})
    has("limits", by(limited, 1), {"requests", "chat.requests", "fetches", "streams"})
    same("used limits", counted.used("limited"), by(where(book.requests, 2, {"429"}), 0))


def compare_upstream(book: Book, counted: Counted, callers: Callers) -> None:
    """By resource, and by whose they were; and what was saved, which is what caused none."""
    upstream = counted.by("upstream_requests", "resource", "outcome", "client")
    asked = {emulated(name): count for name, count in by(upstream, 0).items()}
    same("upstream requests", asked, callers.here.emulator.counts().totals())
    took = counted.by("upstream_duration_seconds", "resource", suffix="_count")
    same("upstream durations", took, by(upstream, 0))
    fetches = by(upstream, 2)
    same("used fetches", counted.used("fetches"), fetches)
    own = {client: callers.own_fetches(book, client) for client in ALONE}
    same("fetches for oneself", {client: fetches[client] for client in ALONE}, own)
    failed = upstream - where(upstream, 1, {"good", "gone", "callers-fault"})
    assert len(counted.failures) == failed.total()

    saved = counted.by("saved_requests", "client")
    same("used savings", counted.used("saved"), saved)
    answers = [line for line in counted.lines if line["outcome"] in DELIVERED]
    same("lines of savings", saved, Counter(line["client"] for line in answers if "fetch" not in line))
    # Each request to the upstream was answered to the one who caused it, or failed him, or was a watch's.
    caused = by(where(book.requests, 3, DELIVERED), 0)
    caused.subtract(saved)
    caused.update(book.alone_failed)
    caused.update(polls(answers, callers))
    same("fetches", fetches, caused)


def polls(answers: Iterable[Mapping[str, Any]], callers: Callers) -> Counter[str]:
    """What the upstream got for those who watch, but for what requests of theirs have caused."""
    whose = {
        hashed(Chat(ACCOUNT, chat)): client for client, chats in callers.watched.items() for chat in chats
    }
    asked = Counter({client: callers.of_watched(client) for client in WATCHERS})
    asked.subtract(whose[line["chat"]] for line in answers if "fetch" in line and line["chat"] in whose)
    return asked


def compare_decisions(book: Book, counted: Counted) -> None:
    """What decided, and what was wrong with tokens, is in the log too."""
    decided = Counter(line["client"] for line in counted.lines if line["rule"] is not None)
    same("decisions", counted.by("decisions", "client"), decided)
    wrong = counted.by("token_refusals", "because")
    same("bad tokens", wrong, Counter(line["because"] for line in counted.lines if "because" in line))
    refused = where(book.requests, 2, {"401"}).total()
    refused += where(book.requests, 3, {"too-many-bad-tokens"}).total()
    assert wrong.total() == refused


def compare_streams(book: Book, counted: Counted) -> None:
    """By client and resource, by why they ended, and message by message."""
    same("streams opened", counted.by("streams_opened", "client", "resource"), book.opened)
    same("streams closed", counted.by("streams_closed", "client", "resource", "why"), book.closed)
    lines = (tuple(line[name] for name in ("client", "resource", "why")) for line in counted.closed)
    same("lines of streams", Counter(lines), book.closed)
    same("messages", counted.by("stream_messages", "resource", "kind"), book.messages)
    same("open streams", counted.by("streams", "client", "resource", suffix=""), {})
    same("watches", counted.by("watches", suffix=""), {})
    has("ends", by(book.closed, 2), ENDS)
    has("messages", by(book.messages, 1), KINDS)


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
