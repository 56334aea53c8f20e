"""What `explain` says is what happens: asked right before each of a thousand requests, in whatever state the
gateway is, it names the outcome, the rule, the key and the upstream request of the real answer, and leaves no
trace.
"""

from __future__ import annotations

import asyncio
import json
import math
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import pytest

from gateway.config.policy_tests import PolicyTest, read_tests
from gateway.core.access import ALLOW, Claims
from gateway.core.errors import Reason, Refusal
from gateway.core.freshness import Contact, Entry
from gateway.core.limits import Limits, Rate
from gateway.core.messages import Chat, Key
from gateway.core.policy import Client, Condition, Policies, Priority, VisitorIp
from gateway.core.replies import How
from gateway.core.requests import Request
from gateway.core.views import View
from gateway.demo.stage import ACCOUNT, ISSUER, shipped_policies
from gateway.emulator import Fault, Hang
from gateway.explain import Explanation, explain
from gateway.stores.memory import MemoryStore
from tests.simulation import EPOCH, Simulation, as_json, shipped
from tests.virtual import simulate, virtual

T = TypeVar("T")

#: Outcomes that an upstream which is slow or unwell can turn into another.
HOPED = {How.MISS.value, How.COLLAPSED.value, How.FORWARD.value, How.WRITE.value}
UPSTREAMS = {reason.slug for reason in Reason if reason.slug.startswith("upstream-")} | {"key-refused"}
#: Past this a stale answer is served instead, where there is one.
SLOW_S = 0.25
VISITOR = "203.0.113.7"


class Watched(MemoryStore):
    """A store that remembers what it was asked for, and what was done to it."""

    def __init__(self, max_bytes: int, now: Callable[[], float], **more: Any) -> None:
        super().__init__(max_bytes, now, **more)
        self.asked: list[Key] = []
        self.kept: list[Key] = []
        self.touched = 0

    def get(self, key: Key) -> Entry | None:
        self.asked.append(key)
        return super().get(key)

    def put(self, key: Key, entry: Entry, owner: str) -> None:
        self.kept.append(key)
        super().put(key, entry, owner)

    def raise_generation(self, chat: Chat) -> None:
        self.touched += 1
        super().raise_generation(chat)

    def touch(self, chat: Chat, contact: Contact) -> None:
        self.touched += 1
        super().touch(chat, contact)


def client(name: str, sub: str | None = None, **said: Any) -> Client:
    """A client that may read and write chats, unless it is said otherwise."""
    match = (Condition("iss", (ISSUER,)), Condition("sub", (sub or name,)))
    defaults: dict[str, Any] = {"accounts": None, "allow": ("account:read", "chat:read", "chat:write")}
    return Client(name, match, **defaults | said)


CLIENTS = (
    client("limited", limits=Limits(requests=Rate(0.5, 3))),
    client("quota", limits=Limits(requests_per_day=10)),
    client("fetcher", limits=Limits(fetches=Rate(0.2, 2))),
    client(
        "careful",
        limits=Limits(resources={"info": Limits(Rate(0.5, 2)), "chat": Limits(fetches=Rate(0.2, 1))}),
    ),
    client("one-by-one", limits=Limits(in_flight=1), priority=Priority.LOW),
    client("visitor", chats="chat", view=View(hide=frozenset({"agentName", "visitorName"}))),
    client("elsewhere", accounts=frozenset({"999"})),
    client("starter", allow=("chat:start", "GET info"), deny=("events",), visitor_ip=VisitorIp.REQUIRE),
    client("twin"),
    client("other-twin", sub="twin"),
)
LIMITED = ("limited", "quota", "fetcher", "careful", "one-by-one")
SHADOWS = (
    client("partner-next", sub="partner", allow=("info",), limits=Limits(requests=Rate(0.5, 2))),
    client("bff-next", sub="bff", deny=("chat:write",)),
)
SUBJECTS = (
    "bff",
    "partner",
    "internal",
    *(one.name for one in CLIENTS),
    "stranger",
    "expired",
    "revoked",
    "gone",
)


def policies() -> Policies:
    return replace(shipped(), clients=shipped().clients + CLIENTS, shadows=SHADOWS)


# -- one request, explained and made -------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Ask:
    """A request as somebody sends it; without a subject it has no token."""

    method: str
    path: str
    query: str = ""
    subject: str | None = "bff"
    fields: Mapping[str, str] = field(default_factory=dict)
    body: bytes | Refusal = b""
    visitor: str | None = None

    def request(self, called: str, peer: str | None) -> Request:
        named = {name.encode(): value.encode() for name, value in self.fields.items()}
        if self.subject is not None:
            named[b"authorization"] = f"Bearer {self.subject}".encode()

        async def read(_: int) -> bytes | Refusal:
            return self.body

        path, query = self.path.encode(), self.query.encode()
        return Request(called, self.method, path, query, named, read, peer=peer, visitor=self.visitor)


@dataclass(frozen=True, slots=True)
class Real:
    """What came of it: of its log line, and what it did."""

    outcome: str
    client: str | None
    rule: str | None
    keys: frozenset[Key]
    sent: tuple[object, ...]
    shadows: tuple[str, ...]
    #: Whether the upstream failed meanwhile, or took its time.
    troubled: bool


class World(Simulation):
    """A simulation that can compare, whose policies know all kinds of clients."""

    store: Watched

    def __init__(self, latency_s: Callable[[], float] = lambda: 0.120) -> None:
        super().__init__(policies=policies(), latency_s=latency_s, store=Watched)
        self.verifier.expires_at["expired"] = EPOCH
        self.verifier.revoked.add("revoked")
        self.verifier.more["gone"] = {"sub": "internal-gone"}

    async def explained(self, ask: Ask, claims: Claims | None = None) -> Explanation:
        """The explanation, which leaves no trace."""
        before = self.traces()
        told = await explain(self.exchange, ask.request("explained", None), claims)
        assert self.traces() == before
        return told

    def traces(self) -> object:
        """All that a request can leave behind at once."""
        limiter, protection = self.limiter, self.exchange.protection
        return (
            {key: arrival.tat for key, arrival in limiter._arrivals.items() if arrival.rate},
            [
                {key: count.used for key, count in counts.items() if count.used}
                for counts in (limiter._in_flight, limiter._day.counts)
            ],
            (dict(protection._targets), dict(protection._accounts)),  # type: ignore[attr-defined]
            (dict(protection._down), repr(dict(protection._rows))),  # type: ignore[attr-defined]
            (self.store.kept[:], self.store.touched, sorted(map(str, self.store._entries.held))),
            (len(self.exchange.flights), len(self.exchange._turns), dict(self.budget.state())),
            (len(self.upstream.sent), len(asyncio.all_tasks())),
            (self.log.tell(), Counter(self.metrics.requests), self.usage.table()),
        )

    async def made(self, ask: Ask) -> Real:
        """The request itself, at this very instant."""
        under_way = [sent for sent in self.upstream.sent if sent.outcome is None]
        sent_before, logged, began = len(self.upstream.sent), self.log.tell(), self.clock.now()
        self.store.asked.clear()
        await self.exchange.answer(ask.request("test", "192.0.2.1"))
        keys = frozenset(self.store.asked)
        # A flight that nobody waits for has yet to leave.
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        own = self.upstream.sent[sent_before:]
        lines = [json.loads(line) for line in self.log.getvalue()[logged:].splitlines()]
        line = next(line for line in lines if line["event"] == "request" and line["request_id"] == "test")
        slow = self.clock.now() - began > SLOW_S
        return Real(
            line["outcome"],
            None if line["client"] == "-" else line["client"],
            line["rule"],
            keys,
            tuple(sent.request for sent in own),
            tuple(
                f"were {told['client']} in force: {told['outcome']} by {told['rule']}"
                for told in line.get("shadows", ())
            ),
            slow or any(not sent.is_contact for sent in (*own, *under_way)),
        )


def check(told: Explanation, real: Real) -> None:
    assert (told.client, told.rule) == (real.client, real.rule)
    assert (set() if told.key is None else {told.key}) == real.keys
    assert (() if told.upstream is None else (told.upstream,)) == real.sent
    assert tuple(says for step, says in told.steps if step == "shadow") == real.shadows
    if told.outcome != real.outcome:
        assert real.troubled
        assert told.outcome in HOPED
        assert real.outcome in UPSTREAMS | {How.STALE.value}


async def compare(world: World, ask: Ask, claims: Claims | None = None) -> tuple[Explanation, Real]:
    """Explain a request and make it; they have to agree."""
    told = await world.explained(ask, claims)
    real = await world.made(ask)
    check(told, real)
    return told, real


# -- what operators wrote down -------------------------------------------------------------------------------

TESTS, MISTAKES = read_tests(shipped_policies())


def test_there_are_policy_tests() -> None:
    assert len(TESTS) > 20
    assert not MISTAKES


@pytest.mark.parametrize("test", [pytest.param(test, id=test.name) for test in TESTS])
@virtual
async def test_a_shipped_policy_test_is_explained_as_it_is_answered(test: PolicyTest) -> None:
    """Asked cold, and again with whatever came of it the first time; by its token, and by its claims."""
    world, expect = World(), test.row.expect
    world.adopt(shipped().clients)
    # Without a subject of its own the simulated token would have one.
    world.verifier.more["token"] = {"sub": None, **test.row.claims}
    method, _, target = test.row.request.partition(" ")
    path, _, query = target.partition("?")
    accept = {} if test.row.accept is None else {"accept": test.row.accept}
    fields = {"content-type": "application/json"} | accept
    ask = Ask(method, path, query, "token", fields, as_json({"request": {}}), VISITOR)
    for _ in range(2):
        by_claims = await world.explained(ask, Claims(test.row.claims, math.inf, client=test.row.client))
        told, _ = await compare(world, ask)
        assert (told.outcome in HOPED | {How.HIT.value}) == (expect.outcome == ALLOW)
        assert told.rule == expect.rule
        assert expect.outcome in {ALLOW, told.outcome}
        assert expect.client in {None, told.client}
        assert replace(by_claims, steps=told.steps) == told


# -- a thousand requests of all kinds ------------------------------------------------------------------------

USUAL = (
    *["/chat/{}/info"] * 25,
    *["/chat/{}", "/chat/{}/events", "/chat/{}/info.json", "/chat/{}/info/visitorName"] * 3,
    *(
        "/chat/{}/events.json",
        "/chat/{}/events/3",
        "/chat/{}/info/visitorTyping",
        "/chat/{}/info/agentTyping",
    ),
    *("/chat/{}/exitSurvey", "/chat/{}/transcriptRequest", "/chat/request", "/chat/request"),
    *("/chat/availability", "/chat/estimatedWaitTime", "/chat/preSurvey", "/conversation.json"),
)
UNUSUAL = (
    *("/chat/offlineSurvey", "/chat/{}/customVariables", "", ".json", "/nothing", "/chat/abc/info"),
    *("/chat/%41/info", "/chat/../request", "/chat/{}/Info", "/chat/{}/info/"),
)
#: Methods that a path takes, beside GET.
TAKES = {
    "/chat/{}/events": "POST",
    "/chat/{}/info/visitorName": "PUT",
    "/chat/{}/transcriptRequest": "PUT",
    "/chat/request": "POST",
    "/conversation.json": "POST",
}
QUERIES = (
    "",
    "",
    "",
    "",
    "v=1",
    "NC=true&v=1",
    "from=0",
    "appKey=abc&_=1",
    "from=x",
    "callback=x",
    "v=1&v=1",
    "skill=Sales",
)
ACCEPTS = (
    None,
    None,
    "application/json",
    "application/xml",
    "*/*",
    "application/xml;q=0.5, */*;q=0.1",
    "text/html",
)
TYPES = ("application/json", "application/xml", "text/plain", None)
TOO_LARGE, GONE = Refusal(Reason.BODY_TOO_LARGE), Refusal(Reason.CLIENT_GONE)
BODIES: tuple[bytes | Refusal, ...] = (
    *[as_json({"visitorName": "Ann", "event": {"@type": "line", "text": "hello"}, "request": {}})] * 6,
    as_json({"request": {"visitorIp": VISITOR}}),
    b"<visitorName>Ann</visitorName>",
    b"{",
    b"",
    *(TOO_LARGE, GONE),
)
FAULTS: tuple[Callable[[], Fault], ...] = (
    lambda: Fault(status=503, times=2),
    lambda: Fault(resource="info", status=500, times=3),
    lambda: Fault(resource="info", delay_s=0.4, times=2),
    lambda: Fault(delay_s=1.5),
    lambda: Fault(delivery=Hang()),
    lambda: Fault(status=429, retry_after="2"),
    lambda: Fault(status=404, code=12),
    lambda: Fault(method="GET", status=401, code=10),
    lambda: Fault(redirect="https://example.net/"),
)


class Walk:
    """Requests one after the other, through whatever the others and the upstream do meanwhile."""

    def __init__(self, seed: int) -> None:
        self.dice = dice = random.Random(seed)
        self.world = World(latency_s=lambda: dice.choice([0.01, 0.12, 0.12, 0.3]))
        self.chats: list[str] = []
        self.others: set[asyncio.Task[object]] = set()
        self.start_chats()

    def start_chats(self) -> None:
        self.chats = [self.world.chat() for _ in range(2)]
        self.world.verifier.more["visitor"] = {"chat": self.chats[0]}

    async def to(self, seen: Counter[str]) -> None:
        """The next request, and what is asked and done before it."""
        dice = self.dice
        await asyncio.sleep(dice.choice([0.0] * 3 + [0.05, 0.13] * 3 + [0.4, 0.7, 1.1, 3.0]))
        if dice.random() < 0.07:
            self.world.emulator.fail(dice.choice(FAULTS)())
        if dice.random() < 0.1:
            self.world.emulator.clear_faults()
        if dice.random() < 0.03:
            self.start_chats()
        if dice.random() < 0.1:
            self.world.revoked_clients ^= {"internal"}
        ask = self.ask()
        if dice.random() < 0.3:
            await self.begin(dice.choice([ask, ask, self.ask()]))
        told, real = await compare(self.world, ask)
        seen[real.outcome] += 1
        seen["promised"] += told.outcome == real.outcome
        seen["shadowed"] += bool(real.shadows)
        if real.outcome == "hit" and real.sent:
            seen["refresh"] += 1
        if real.outcome in UPSTREAMS and not real.sent and told.outcome == real.outcome:
            seen["held"] += 1
        if told.outcome == "rate-limited":
            seen["may not fetch" if told.rule and "fetches" in told.rule else "may not ask"] += 1

    async def begin(self, ask: Ask) -> None:
        """Somebody else asks, and may still wait when this one does."""
        other = asyncio.create_task(self.world.exchange.answer(ask.request("other", "192.0.2.2")))
        self.others.add(other)
        other.add_done_callback(self.others.discard)
        await asyncio.sleep(0.001)

    def ask(self) -> Ask:
        """Mostly a good one, else one with something odd, or with everything."""
        dice = self.dice
        odd = dice.choice([*[None] * 14, *ODD, "everything"])

        def one(name: str, usual: Sequence[T], others: Sequence[T]) -> T:
            return dice.choice(others if odd in {name, "everything"} else usual)

        path = one("path", USUAL, UNUSUAL)
        account = one("account", [ACCOUNT], ["999"])
        fields = {
            "accept": one("accept", ACCEPTS[:3], ACCEPTS),
            "content-type": one("type", TYPES[:1], TYPES[1:]),
            "if-none-match": dice.choice([None, None, "*"]),
            "x-http-method-override": one("override", [None], ["PUT", "DELETE"]),
        }
        return Ask(
            one("method", [TAKES.get(path, "GET"), TAKES.get(path, "GET"), "GET"], METHODS),
            f"/api/account/{account}" + path.format(dice.choice(self.chats)),
            one("query", QUERIES[:3], QUERIES),
            one("subject", ["bff", "partner", "internal", "visitor", "starter", *LIMITED], [*SUBJECTS, None]),
            {name: value for name, value in fields.items() if value is not None},
            one("body", BODIES[:7], BODIES[7:]),
            dice.choice([None, VISITOR]),
        )


ODD = (
    "path",
    "account",
    "accept",
    "type",
    "override",
    "method",
    "method",
    "query",
    "subject",
    "subject",
    "body",
)
METHODS = (*["GET"] * 8, "HEAD", "HEAD", *["PUT", "POST"] * 3, "DELETE", "OPTIONS", "PATCH")
#: What the walks have to come by, or they show nothing.
LANDMARKS = {
    *(how.value for how in How if how not in {How.STREAM, How.WAITED}),
    *("refresh", "held", "may not fetch", "may not ask", "shadowed"),
    *("token-missing", "token-expired", "token-revoked", "no-client", "ambiguous"),
    *("account-denied", "action-denied", "chat-denied", "field-denied"),
    *("malformed-target", "malformed-query", "malformed-body", "unknown-resource", "method-not-allowed"),
    *("not-acceptable", "unsupported-override", "unsupported-media-type", "body-too-large", "client-gone"),
    *("visitor-ip-missing", "upstream-throttled", "upstream-error", "key-refused"),
}


async def _walk(seed: int, steps: int, seen: Counter[str]) -> None:
    walk = Walk(seed)
    for step in range(steps):
        try:
            await walk.to(seen)
        except AssertionError as error:
            error.add_note(f"seed {seed}, step {step}")
            raise
    await walk.world.settle()


def test_what_is_explained_is_what_happens_a_thousand_times() -> None:
    seen: Counter[str] = Counter()
    for seed in range(20):
        simulate(_walk(seed, 75, seen))
    assert seen.keys() >= LANDMARKS, LANDMARKS - seen.keys()
    # The rest are those whose upstream failed or was slow, which nobody could have told.
    assert seen["promised"] >= 1350


# -- what it says ------------------------------------------------------------------------------------------


FETCHED = "this would fetch one for all who ask meanwhile"


async def steps(world: World, ask: Ask) -> dict[str, str]:
    told, _ = await compare(world, ask)
    return dict(told.steps)


@virtual
async def test_it_is_told_so_that_one_can_act_on_it() -> None:
    world = World()
    chat = world.chat()
    world.verifier.expires_at["partner"] = EPOCH + 60.0
    ask = Ask("GET", f"/api/account/{ACCOUNT}/chat/{chat}/info.json", "_=1", "partner")
    target = f"/api/account/{ACCOUNT}/chat/{chat}/info?v=1&NC=true"
    assert await steps(world, ask) == {
        "verify": "client partner, priority low; its token is good until 2027-01-15T08:01:00.000Z (60 s)",
        "locate": f"GET info in JSON, account {ACCOUNT}, chat {chat}; the query has names that are left out",
        "admit": "allowed by partner/allow/chat:read",
        "shadow": "were partner-next in force: allow by partner-next/allow/info",
        "limit": (
            "299 of 300 requests, 4999999 of 5000000 requests-per-day, 199 of 200 in-flight left after this"
        ),
        "look": f"nothing is kept that could be served; {FETCHED}",
        "send": f"GET {target} to the upstream of account {ACCOUNT}",
        "view": "only agentTyping, duration, lastUpdate, startTime, state, time, visitorTyping",
    }
    said = await steps(world, ask)
    assert said["look"] == (
        "a 200 is kept that was asked for 0.120 s ago: refreshed from 2027-01-15T08:00:00.830Z (in 0.710 s),"
        " fresh until 2027-01-15T08:00:01.000Z (in 0.880 s),"
        " of use until 2027-01-15T08:00:06.000Z (in 5.880 s)"
    )
    assert said["send"] == "nothing"
    assert (await steps(world, ask))["shadow"] == (
        "were partner-next in force: rate-limited by partner-next/limits/requests"
    )
    await asyncio.sleep(1.0)
    world.emulator.fail(Fault(status=503))
    kept = (
        "a 200 is kept that was asked for 1.120 s ago: refreshed from 2027-01-15T08:00:00.830Z (0.290 s ago),"
        " fresh until 2027-01-15T08:00:01.000Z (0.120 s ago),"
        " of use until 2027-01-15T08:00:06.000Z (in 4.880 s)"
    )
    said = await steps(world, ask)
    assert said["look"] == f"{kept}, which stands in if the upstream is slow or unwell; {FETCHED}"
    said = await steps(world, ask)
    assert said["look"].endswith(
        "; the upstream is not asked for another 0.2 s after upstream-error, when it said 503"
    )


@pytest.mark.parametrize(
    ("ask", "step", "says"),
    [
        (Ask("GET", "/info", subject=None), "verify", "token-missing"),
        (Ask("GET", "/info", subject=None), "answer", "401 token-missing: Send a bearer token in the"),
        (Ask("GET", "/info", subject="stranger"), "verify", "no-client"),
        (Ask("GET", "/info", subject="gone"), "verify", "token-revoked by internal/revoked"),
        (Ask("DELETE", "/info"), "locate", "method-not-allowed; it takes GET, HEAD"),
        (Ask("GET", "/info", subject="elsewhere"), "admit", "account-denied by elsewhere/accounts"),
        (Ask("GET", "/info"), "limit", "its requests are not limited"),
        (Ask("GET", "/info"), "view", "all fields"),
        (Ask("GET", "/info", subject="visitor"), "view", "all but agentName, visitorName"),
        (Ask("GET", "/exitSurvey"), "look", "its answers are neither shared nor kept"),
        (Ask("PUT", "/exitSurvey"), "answer", "415 unsupported-media-type: The body must be"),
    ],
)
@virtual
async def test_each_step_says_why(ask: Ask, step: str, says: str) -> None:
    world = World()
    chat = world.chat()
    world.verifier.more |= {"visitor": {"chat": chat}, "gone": {"sub": "internal"}}
    if ask.subject == "gone":
        world.revoked_clients.add("internal")
    said = await steps(world, replace(ask, path=f"/api/account/{ACCOUNT}/chat/{chat}{ask.path}"))
    assert said[step].startswith(says)


@virtual
async def test_what_is_used_up_is_named_with_its_end() -> None:
    world = World()
    path = f"/api/account/{ACCOUNT}/chat/{world.chat()}"
    for _ in range(3):
        await world.made(Ask("GET", f"{path}/info", subject="limited"))
    said = await steps(world, Ask("GET", f"{path}/info", subject="limited"))
    assert said["limit"] == "used up: 0 of 3 requests left; again in 1.9 s"
    assert said["answer"].startswith("429 rate-limited: ")
    assert said["answer"].endswith(" Again in 1.9 s.")
    for _ in range(2):
        await world.made(Ask("GET", path, subject="fetcher"))
    said = await steps(world, Ask("GET", path, subject="fetcher"))
    assert said["look"] == "nothing is kept that could be served; to fetch one is more than the client may"


@virtual
async def test_a_token_may_be_good_for_ever() -> None:
    """The last second of the year 9999, and the leeway of its issuer on top."""
    world = World()
    world.verifier.expires_at["bff"] = 253402300799 + 60.0
    said = await steps(world, Ask("GET", f"/api/account/{ACCOUNT}/chat/{world.chat()}/info"))
    assert "good until 9999-12-31T23:59:59.000Z" in said["verify"]


@virtual
async def test_a_document_is_what_json_can_say() -> None:
    world = World()
    path = f"/api/account/{ACCOUNT}/chat/{world.chat()}/info/visitorName"
    ask = Ask("PUT", path, fields={"content-type": "application/json"}, body=b'{"visitorName":"Ann"}')
    document = json.loads(json.dumps((await world.explained(ask)).document()))
    steps = document.pop("steps")
    assert [step["step"] for step in steps] == [
        "verify",
        "locate",
        "admit",
        "shadow",
        "limit",
        "look",
        "send",
        "view",
    ]
    assert document == {
        "outcome": "write",
        "client": "bff",
        "rule": "bff/allow/chat:write",
        "cache_key": None,
        "upstream_request": {
            "account": ACCOUNT,
            "method": "POST",
            "target": f"{path}?v=1&NC=true",
            "headers": {
                "accept": "application/json",
                "accept-encoding": "identity",
                "content-type": "application/json",
                "user-agent": "chat-gateway",
                "x-http-method-override": "PUT",
            },
            "body_bytes": 21,
        },
    }
    read = (await world.explained(Ask("GET", path.removesuffix("/visitorName")))).document()
    key = {"path": path.removesuffix("/visitorName"), "query": "v=1&NC=true", "representation": "json"}
    assert read["cache_key"] == key


@pytest.mark.parametrize(
    ("fault", "later_s", "outcomes"),
    [
        (Fault(status=503), 1.0, ["stale", "stale"]),
        (Fault(redirect="https://example.net/"), 1.0, ["upstream-redirect", "upstream-redirect"]),
        (Fault(status=503), 7.0, ["upstream-error", "upstream-error"]),
    ],
    ids=["unwell", "talking nonsense", "too old"],
)
@virtual
async def test_what_is_held_back_is_told_with_what_stands_in(
    fault: Fault, later_s: float, outcomes: list[str]
) -> None:
    """The first one finds out, which nobody could have told; the next one is told."""
    world = World()
    ask = Ask("GET", f"/api/account/{ACCOUNT}/chat/{world.chat()}/info")
    await world.made(ask)
    await asyncio.sleep(later_s)
    world.emulator.fail(fault)
    told, real = await compare(world, ask)
    assert (told.outcome, real.outcome) == ("miss", outcomes[0])
    told, real = await compare(world, ask)
    assert (told.outcome, real.outcome) == (outcomes[1], outcomes[1])
    assert told.upstream is None
