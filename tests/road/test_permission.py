"""No client ever receives a byte of a chat, or a field, that its policy denies when the answer is delivered.

A schedule is a list of steps, each at its time, whatever became of the others: reads, one or of everybody at
once; writes; and changes of policies, tokens, the address, the resources, and of the upstream's health. Each
reply is held against `tests.oracle` at the very instant of its delivery: whether it may be one, by which
rule, and what may be in it. What a chat tells of people and places is a value that is nowhere else, and is
looked for in every reply.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.limits import UNLIMITED, Limits, Rate
from gateway.core.links import LinkMap
from gateway.core.messages import Answer, Representation, UpstreamRequest
from gateway.core.policy import Client, Condition, Priority
from gateway.core.replies import Reply
from gateway.core.views import FULL, View
from gateway.demo.stage import ACCOUNT, ISSUER
from gateway.emulator import Dialect, EmulatorConfig, Fault, Hang, Reset
from gateway.upstream.budget import Pace
from tests.oracle import Asked, Decision, cut, decide, shows
from tests.simulation import (
    APP_KEY,
    PLENTY,
    PUBLIC_URL,
    UPSTREAM_HOST,
    Simulation,
    as_json,
    cache_rule,
    caching,
    header,
)
from tests.virtual import simulate

OTHER_ACCOUNT = "456"
ACCOUNTS = (ACCOUNT, ACCOUNT, OTHER_ACCOUNT)  # of the three chats
UPSTREAM_LINKS = f"https://{UPSTREAM_HOST}/api/"
VOLATILE = frozenset({"lastUpdate", "duration"})

# -- what may happen ---------------------------------------------------------------------------------------

TOKENS: Mapping[str, Mapping[str, object]] = {
    "ann": {"team": "shop-1"},
    "bob": {"team": "shop-2"},
    "cat": {"team": "desk"},
    "vi0": {},
    "vi1": {},
}
#: Their tokens are each for one chat.
VISITORS = ("vi0", "vi1")
FORMS: Mapping[str, dict[str, str]] = {
    "json": {"accept": "application/json"},
    "xml": {"accept": "application/xml"},
    "default": {},
}
PATHS = {
    "info": "/chat/{chat}/info",
    "chat": "/chat/{chat}",
    "events": "/chat/{chat}/events",
    "event": "/chat/{chat}/events/3",
    "visitorName": "/chat/{chat}/info/visitorName",
    "visitorTyping": "/chat/{chat}/info/visitorTyping",
    "agentTyping": "/chat/{chat}/info/agentTyping",
    "account": "",
    "availability": "/chat/availability",
    "preSurvey": "/chat/preSurvey",
}


@dataclass(frozen=True, slots=True)
class Read:
    """A GET or HEAD with the token of each of these; `tag` is whose ETag they send, if any."""

    after_s: float
    whose: tuple[str, ...]
    chat: int
    resource: str
    form: str
    method: str
    tag: str | None


@dataclass(frozen=True, slots=True)
class Write:
    """A write; `answer` is a document of the chat that the upstream answers with, in that form."""

    after_s: float
    whose: str
    chat: int
    resource: str
    answer: str | None


@dataclass(frozen=True, slots=True)
class Policy:
    """From now on the client has this row; in shadow mode, or none, where it says so."""

    after_s: float
    client: Client
    mode: str


@dataclass(frozen=True, slots=True)
class Change:
    """Something happens to a token, a client, the configuration or the upstream."""

    after_s: float
    what: str
    whom: str = ""


Step = Read | Write | Policy | Change

VIEWS = [
    FULL,
    FULL,
    View(show=frozenset({"state", "agentTyping", "visitorTyping", "startTime", "lastUpdate", "time"})),
    View(show=frozenset({"state", "visitorName", "agentName", "by", "text", "id", "type"})),
    View(show=frozenset({"visitorName", "by", "text", "skill", "chatRequestParameters", "survey", "title"})),
    View(hide=frozenset({"visitorName"})),
    View(hide=frozenset({"agentName", "text", "skillName", "availability"})),
    View(hide=frozenset({"visitorId", "sharkVisitorId", "startTime", "channelGroup"})),
    View(hide=frozenset({"info"})),
    View(hide=frozenset({"event", "link"})),
]
ALLOWED = [
    *[("account:read", "chat:read", "chat:write")] * 6,
    ("chat:read",),
    ("info", "GET events", "chat:write"),
    ("chat", "visitorName", "account:read"),
]
DENIED: list[tuple[str, ...]] = [
    *[()] * 8,
    ("info",),
    ("chat:read",),
    ("GET visitorName", "chat"),
    ("POST events", "account:read"),
    ("chat:write",),
]
LIMITS = [
    *[UNLIMITED] * 8,
    Limits(requests=Rate(2.0, 3)),
    Limits(fetches=Rate(1.0, 2)),
    Limits(in_flight=1, resources={"info": Limits(requests=Rate(1.0, 2))}),
]
BY_ISSUER = Condition("iss", (ISSUER,))
MATCHES = {
    "front": Condition("sub", ("ann",)),
    "partner": Condition("team", prefix="shop-2"),
    "desk": Condition("team", ("desk", "stall")),
    "visitor": Condition("sub", prefix="vi"),
}
# Some match what is another client's.
OTHER_MATCHES = [
    Condition("team", prefix="shop-"),
    Condition("sub", ("bob", "vi1")),
    Condition("sub", (True,)),
]


def first_rows(name: str) -> st.SearchStrategy[Client]:
    """What a schedule begins with: everybody may do much and sees his part."""
    chats, match = "chat" if name == "visitor" else None, (BY_ISSUER, MATCHES[name])
    return st.sampled_from(VIEWS).map(
        lambda view: Client(name, match, None, ("account:read", "chat:read", "chat:write"), (), chats, view)
    )


def rows(name: str) -> st.SearchStrategy[Client]:
    """A row of policies/clients for the client of that name."""
    match = st.sampled_from([MATCHES[name]] * 16 + OTHER_MATCHES)
    return st.builds(
        Client,
        name=st.just(name),
        match=match.map(lambda condition: (BY_ISSUER, condition)),
        accounts=st.sampled_from([*[None] * 8, {ACCOUNT}, {OTHER_ACCOUNT}]).map(
            lambda accounts: None if accounts is None else frozenset(accounts)
        ),
        allow=st.sampled_from(ALLOWED),
        deny=st.sampled_from(DENIED),
        chats=st.sampled_from(["chat", "chat", "chat", None] if name == "visitor" else [None] * 8 + ["chat"]),
        view=st.sampled_from(VIEWS),
        limits=st.sampled_from(LIMITS),
        priority=st.sampled_from(Priority),
    )


TROUBLES: Mapping[str, Fault] = {
    "fails": Fault(status=500),
    "fails for a while": Fault(method="GET", status=500, times=4),
    "is slow": Fault(method="GET", delay_s=0.7),
    "is slower": Fault(delay_s=1.1),
    "hangs": Fault(method="GET", delivery=Hang()),
    "resets": Fault(delivery=Reset()),
    "pauses": Fault(status=429, retry_after="1"),
}
TOKEN_CHANGES = ["is revoked", "expires soon", "expires later", *["is good again"] * 4]
CLIENT_CHANGES = ["client is revoked", *["client is good again"] * 2]
CHANGES = ["address", "resources", "representation"]
AFTER_S = st.sampled_from([0.0, 0.061, 0.13, 0.17, 0.29, 0.31, 0.71, 0.93, 1.37])

READS = st.builds(
    Read,
    after_s=AFTER_S,
    whose=st.sampled_from([*[tuple(TOKENS)] * 4, *((token,) for token in TOKENS)]),
    chat=st.sampled_from([*[0] * 8, 1, 2]),
    resource=st.sampled_from([*["info"] * 16, *["chat"] * 3, *["events"] * 3, *PATHS]),
    form=st.sampled_from([*["json"] * 4, "xml", "default"]),
    method=st.sampled_from(["GET", "GET", "GET", "HEAD"]),
    tag=st.sampled_from([None, None, "own", "any", "*"]),
)
WRITES = st.builds(
    Write,
    after_s=AFTER_S,
    whose=st.sampled_from(list(TOKENS)),
    chat=st.sampled_from([0, 0, 0, 1, 2]),
    resource=st.sampled_from(["visitorName", "visitorName", "events", "visitorTyping"]),
    answer=st.sampled_from([None, "json", "xml"]),
)
POLICIES = st.builds(
    Policy,
    after_s=AFTER_S,
    client=st.one_of(*map(rows, MATCHES)),
    mode=st.sampled_from(["enforce"] * 6 + ["shadow", "gone"]),
)
CHANGED = {
    "of a token": st.builds(Change, AFTER_S, st.sampled_from(TOKEN_CHANGES), st.sampled_from(list(TOKENS))),
    "of a client": st.builds(
        Change, AFTER_S, st.sampled_from(CLIENT_CHANGES), st.sampled_from(list(MATCHES))
    ),
    "of the configuration": st.builds(Change, AFTER_S, st.sampled_from(CHANGES)),
    "trouble": st.builds(Change, AFTER_S, st.sampled_from(list(TROUBLES))),
}
KINDS: Mapping[str, st.SearchStrategy[Step]] = {"read": READS, "write": WRITES, "policy": POLICIES, **CHANGED}
# `one_of` would give all kinds the same weight.
STEPS = st.sampled_from(
    ["read"] * 22 + ["write"] * 2 + ["policy"] * 2 + ["trouble"] * 3 + list(CHANGED)
).flatmap(KINDS.__getitem__)
LATENCIES = st.lists(st.sampled_from([0.12, 0.12, 0.05, 0.31, 0.83]), min_size=1, max_size=5)
PACES = st.sampled_from(
    [PLENTY, PLENTY, Pace(per_s=6, burst=2, in_flight=2, queue=5, wait_s=0.6, reserve=0.5)]
)
CACHED: list[dict[str, float]] = [
    {"info": 1.0},
    {"info": 1.0, "chat": 1.0, "events": 1.0, "visitorName": 0.8, "availability": 1.0},
]

# -- the run of a schedule -----------------------------------------------------------------------------------


@dataclass
class Values:
    """Which value is which chat's, and the fields that may carry it (none: the id, which is in links)."""

    of: dict[bytes, tuple[str, frozenset[str]]] = field(default_factory=dict)

    def plant(self, chat: str, value: str, *fields: str) -> str:
        self.of[value.encode()] = chat, frozenset(fields)
        return value

    def strangers(self, text: bytes, chat: str | None, view: View | None) -> list[bytes]:
        """The values in there that somebody who has asked for that chat, with that view, may not see."""
        found = (value for value in self.of if value in text)
        return [value for value in found if not self._may_see(value, chat, view)]

    def _may_see(self, value: bytes, chat: str | None, view: View | None) -> bool:
        whose, fields = self.of[value]
        if view is None or whose != chat:
            return False
        return not fields or any(shows(view, name) for name in fields)


@dataclass(frozen=True, slots=True)
class Said:
    """What was asked, by whom."""

    who: str
    token: str
    asked: Asked
    form: str
    method: str
    tag: str | None = None
    body: bytes = b""


class Run:
    """One schedule. `seen` counts what happened, for as many runs as it is handed to."""

    def __init__(
        self,
        seen: Counter[str],
        *,
        clients: tuple[Client, ...],
        pace: Pace,
        cached: int = 0,
        latencies: Iterable[float] = (0.31,),
    ) -> None:
        config = EmulatorConfig(
            app_key=APP_KEY,
            accounts=(ACCOUNT, OTHER_ACCOUNT),
            transfer_account="789",
            dialect=Dialect(unknown_fields=True, event_body=True),
        )
        self.world = Simulation(config=config, policies=self._resources(cached), pace=pace)
        self.seen = seen
        self.cached = cached
        self.numbers = itertools.count()
        self.values = Values()
        self.tags: dict[str, tuple[str, bytes]] = {}
        self.own_tags: dict[tuple[str, Asked, str], str] = {}
        self.chats: list[str] = []
        self.tokens: dict[str, str] = {}
        self.writes: dict[bytes, Said] = {}
        self.sent: dict[bytes, str | None] = {}
        self.changed_at = 0.0
        self.public_url = PUBLIC_URL
        waits = itertools.cycle(latencies)
        self.world.upstream.latency_s = lambda: next(waits)
        self.world.upstream.interfere = self._leaves
        self.world.state = replace(self.world.state, accounts=frozenset(ACCOUNTS))
        self.world.adopt(clients)
        self._move(PUBLIC_URL)

    @staticmethod
    def _resources(cached: int) -> Any:
        return caching({name: cache_rule(ttl_s) for name, ttl_s in CACHED[cached].items()})

    async def run(self, steps: list[Step]) -> None:
        for account in ACCOUNTS:
            self.chats.append(self._chat(account))
            await asyncio.sleep(0.01)
        for who in TOKENS:
            self._issue(who)
        tasks: list[asyncio.Task[None]] = []
        for step in steps:
            await asyncio.sleep(step.after_s)
            tasks += (asyncio.create_task(work) for work in self._works(step))
        await asyncio.gather(*tasks)
        self.world.emulator.clear_faults()
        await self.world.settle()
        assert self.world.metrics.crashes == 0
        assert set(self.sent.values()) <= {None}

    def _issue(self, who: str, lifetime_s: float | None = None) -> None:
        """From now on this is their token. It is what its bytes say, for ever; it can only be revoked."""
        token = self.tokens[who] = f"{who}-{next(self.numbers)}"
        claims = {"sub": who, **TOKENS[who]}
        if who in VISITORS:
            claims["chat"] = self.chats[VISITORS.index(who)]
        self.world.verifier.more[token] = claims
        if lifetime_s is not None:
            self.world.verifier.expires_at[token] = self.world.clock.wall() + lifetime_s

    def _chat(self, account: str) -> str:
        """A chat in which everything is a value of its own."""
        number, emulator = len(self.chats), self.world.emulator
        ids = {
            "visitorId": f"700000000{number}",
            "LETagVisitorId": f"shark-visitor-{number}-x",
            "LETagSessionId": f"shark-session-{number}-x",
            "engagementId": f"engagement-{number}-x",
            "skill": f"skill-{number}-x",
        }
        id_ = emulator.start_chat(account, **ids)
        plant = self.values.plant
        plant(id_, id_)
        plant(id_, ids["visitorId"], "visitorId")
        plant(id_, ids["LETagVisitorId"], "sharkVisitorId")
        plant(id_, ids["LETagSessionId"], "sharkSessionId")
        plant(id_, ids["engagementId"], "engagementId")
        plant(id_, ids["skill"], "skillName", "skill")
        emulator.accept(id_)
        chat = emulator._find(id_)
        chat.agent = plant(id_, f"agent-{number}-x", "agentName", "by")
        chat.visitor_name = plant(id_, f"person-{number}-x", "visitorName", "by")
        emulator.agent_line(id_, plant(id_, f"line-{number}-x", "text"))
        chat.say(
            self.world.clock.wall(), plant(id_, f"words-{number}-x", "text"), chat.visitor_name, "visitor"
        )
        emulator.transfer(id_)
        return id_

    async def _leaves(self, request: UpstreamRequest) -> None:
        """A write goes upstream: why it may not, at this moment.

        Between the road's last look and here the loop may take a few steps, but no time passes.
        """
        if request.body:
            is_told = self.world.clock.now() > self.changed_at
            self.sent[request.body] = self._decision(self.writes[request.body]).reason if is_told else None

    # -- steps --------------------------------------------------------------------------------------------

    def _works(self, step: Step) -> Iterator[Any]:
        match step:
            case Read(whose=tokens):
                for who in tokens:
                    yield self._read(who, step)
            case Write():
                yield self._write(step)
            case Policy(client=client, mode=mode):
                self.changed_at = self.world.clock.now()
                self._row(client, mode)
            case Change(what=what, whom=whom):
                self.changed_at = self.world.clock.now()
                self._change(what, whom)

    async def _read(self, who: str, step: Read) -> None:
        asked = self._asked(step.chat, step.resource, "GET")
        tag = "*"
        if step.tag == "own":
            tag = self.own_tags.get((who, asked, step.form), '"none"')
        elif step.tag == "any":
            tag = ", ".join(list(self.tags)[-3:]) or '"none"'
        await self._ask(Said(who, self.tokens[who], asked, step.form, step.method, tag if step.tag else None))

    async def _write(self, step: Write) -> None:
        chat, number = self.chats[step.chat], next(self.numbers)
        said: dict[str, object] = {"mark": number}
        if step.resource == "visitorName":
            said["visitorName"] = self.values.plant(chat, f"name-{number}-x", "visitorName", "by")
        elif step.resource == "visitorTyping":
            said["visitorTyping"] = "typing"
        else:
            said["event"] = {"@type": "line", "text": self.values.plant(chat, f"text-{number}-x", "text")}
        method = "POST" if step.resource == "events" else "PUT"
        if step.answer is not None:
            self._answer_with(chat, method, step.answer)
        asked = self._asked(step.chat, step.resource, method)
        await self._ask(Said(step.whose, self.tokens[step.whose], asked, "json", method, None, as_json(said)))

    def _answer_with(self, chat: str, method: str, form: str) -> None:
        """Let the next such write be answered with the chat."""
        now = self.world.emulator._find(chat)
        fields = {"state": now.state, "visitorName": now.visitor_name, "agentName": now.agent, "news": "x"}
        body = json.dumps({"info": {**fields, "by": [now.agent]}}, separators=(",", ":"))
        if form == "xml":
            body = "".join(f"<{name}>{value}</{name}>" for name, value in fields.items())
            body = f'<?xml version="1.0"?><info skillName="{now.skill}">{body}</info>'
        fault = Fault(chat=chat, method=method, body=body.encode(), content_type=f"application/{form}")
        self.world.emulator.fail(fault)

    def _row(self, client: Client, mode: str) -> None:
        policies = self.world.state.policies
        others = [other for other in policies.clients if other.name != client.name]
        self.world.adopt(
            [*others, client] if mode == "enforce" else others if mode == "gone" else policies.clients
        )
        if mode == "shadow":
            policies = replace(self.world.state.policies, shadows=(replace(client, name="ghost"),))
            self.world.state = replace(self.world.state, policies=policies)

    def _change(self, what: str, whom: str) -> None:
        world = self.world
        match what:
            case "is revoked":
                world.verifier.revoked.add(self.tokens[whom])
            case "expires soon":
                self._issue(whom, 0.09)
            case "expires later":
                self._issue(whom, 0.6)
            case "is good again":
                self._issue(whom)
            case "client is revoked":
                world.revoked_clients.add(whom)
            case "client is good again":
                world.revoked_clients.discard(whom)
            case "address":
                self._move(f"https://chat-{next(self.numbers)}.example")
            case "resources":
                self.cached = 1 - self.cached
                self._reload(resources=self._resources(self.cached).resources)
                world.state = replace(world.state, epoch=world.state.epoch + 1)
            case "representation":
                self._reload()
                other = {Representation.JSON: Representation.XML, Representation.XML: Representation.JSON}
                state = world.state
                world.state = replace(state, default_representation=other[state.default_representation])
            case _:
                world.emulator.fail(TROUBLES[what])

    def _move(self, public_url: str) -> None:
        self.public_url = public_url
        upstreams = dict.fromkeys(ACCOUNTS, frozenset({UPSTREAM_HOST}))
        self.world.upstream.links = LinkMap(public_url, upstreams, ("*.liveperson.net",))
        self._reload()
        self.world.state = replace(self.world.state, epoch=self.world.state.epoch + 1)

    def _reload(self, **changed: Any) -> None:
        policies = self.world.state.policies
        policies = replace(policies, version=policies.version + 1, **changed)
        self.world.state = replace(self.world.state, policies=policies)

    # -- requests ------------------------------------------------------------------------------------------

    def _asked(self, chat: int, resource: str, method: str) -> Asked:
        of_chat = "{chat}" in PATHS[resource]
        return Asked(ACCOUNTS[chat], self.chats[chat] if of_chat else None, resource, method)

    async def _ask(self, said: Said) -> None:
        fields = dict(FORMS[said.form])
        if said.tag is not None:
            fields["if_none_match"] = said.tag
        if said.body:
            fields["content_type"] = "application/json"
            self.writes[said.body] = said
        before, began = self._decision(said), self.world.clock.now()
        reply = await self.world.ask(
            said.method, path_of(said.asked), subject=said.token, body=said.body, **fields
        )
        # Between the reply and here there is no await: this is the instant of its delivery.
        now = self._decision(said)
        line = self._line()
        self._count(said, before, now, reply, line, waited=self.world.clock.now() > began)
        self._check(said, now, reply, line)

    def _decision(self, said: Said) -> Decision:
        """By the book, what is to be said to this request at this moment."""
        verifier, policies = self.world.verifier, self.world.state.policies
        if self.world.clock.wall() >= verifier.expires_at.get(said.token, float("inf")):
            return Decision("token-expired")
        if said.token in verifier.revoked:
            return Decision("token-revoked")
        claims = {"iss": ISSUER, **verifier.more[said.token]}
        return decide(claims, policies.clients, self.world.revoked_clients, said.asked)

    def _line(self) -> dict[str, Any]:
        """What was logged of the reply that was just made."""
        log = self.world.log
        lines = log.getvalue().splitlines()
        log.seek(0)
        log.truncate()
        line: dict[str, Any] = json.loads(lines[-1])
        assert line["event"] == "request"
        return line

    def _count(
        self,
        said: Said,
        before: Decision,
        now: Decision,
        reply: Reply,
        line: Mapping[str, Any],
        *,
        waited: bool,
    ) -> None:
        how = line["outcome"]
        self.seen[f"answer: {how}" if reply.status < 400 else f"refusal: {how}"] += 1
        if before.reason is None and now.reason is not None and waited:
            self.seen[f"while waiting: {now.reason}"] += 1
            self.seen["while writing"] += bool(said.body)
        if reply.status >= 400 or now.client is None:
            return
        self.seen[said.method if how != "write" else "write"] += 1
        self.seen[str(reply.status)] += 1
        self.seen["early refresh"] += how == "hit" and bool(line.get("fetch"))
        if now.client.view != FULL:
            self.seen[f"part of it: {reply.status if reply.status == 304 else how}"] += 1

    # -- checks --------------------------------------------------------------------------------------------

    def _check(self, said: Said, now: Decision, reply: Reply, line: Mapping[str, Any]) -> None:
        context = (said, now, reply.status, line)
        may_see = now.client is not None and now.reason is None and reply.status < 300
        view = now.client.view if now.client is not None and may_see else None
        head = b"\n".join(value for _, value in reply.headers)
        strangers = self.values.strangers(reply.body + head, said.asked.chat, view)
        assert not strangers, (strangers, context)
        if reply.status == 429:
            self._check_limited(now, line)
            return
        if now.reason is not None and said.body and (said.body in self.sent or reply.status >= 500):
            # A write was allowed when it was sent. Its writer hears how it went, and nothing else.
            assert reply.status not in {401, 403}, context
            assert reply.status >= 500 or (reply.body, header(reply, "location")) == (b"", None), context
            return
        if now.reason is not None:
            assert (line["outcome"], line["rule"] in now.rules) == (now.reason, True), context
            assert reply.status == (401 if now.reason.startswith("token-") else 403), context
            if said.method != "HEAD":
                assert f'problem:{now.reason}"'.encode() in reply.body.replace(b"<", b'"'), context
            return
        assert now.client is not None
        assert line["client"] == now.client.name, context
        assert line["rule"] in now.rules, context
        assert reply.status not in {401, 403}, context
        if reply.status < 400:
            self._check_answer(said, now.client.view, reply)

    def _check_limited(self, now: Decision, line: Mapping[str, Any]) -> None:
        """How often is another test's affair; here, only whose limit it was and that there is one."""
        assert now.client is not None, line
        assert line["client"] == now.client.name
        assert line["rule"] == f"{now.client.name}/limits/{line['limits'][0]}"
        assert now.client.limits != UNLIMITED

    def _check_answer(self, said: Said, view: View, reply: Reply) -> None:
        location = header(reply, "location")
        assert location is None or location.startswith(f"{self.public_url}/api/"), location
        wanted = self._answers(said, view)
        content_type = header(reply, "content-type") or ""
        tag = header(reply, "etag")
        if reply.status == 304:
            assert tag is not None
            assert said.tag == "*" or tag in (said.tag or "").split(", ")
            # What the client knows by that tag is what it would have been sent.
            if tag in self.tags:
                assert self.tags[tag] in {(kind, steady(body, kind)) for kind, body in wanted}
            return
        if said.method == "HEAD":
            assert header(reply, "content-length") in {str(len(body)) for _, body in wanted}
            assert reply.body == b""
        else:
            assert (content_type, reply.body) in wanted
            assert header(reply, "content-length") == str(len(reply.body))
        if tag is not None:
            assert said.tag is None or (said.tag != "*" and tag not in said.tag.split(", "))
            self.own_tags[said.who, said.asked, said.form] = tag
            if said.method == "GET":
                content = content_type, steady(reply.body, content_type)
                assert self.tags.setdefault(tag, content) == content

    def _answers(self, said: Said, view: View) -> set[tuple[str, bytes]]:
        """All that the upstream ever answered to that, by type, as this client is to see it now."""
        accept = FORMS[said.form].get("accept")
        if accept is None:
            accept = self.world.state.default_representation.media_type.decode()
        path = path_of(said.asked).encode()
        found: set[tuple[str, bytes]] = set()
        for sent in self.world.upstream.sent:
            request, answer = sent.request, sent.outcome
            same = request.target.partition(b"?")[0] == path and request.body == said.body
            if same and isinstance(answer, Answer) and (b"accept", accept.encode()) in request.headers:
                body = answer.body.replace(UPSTREAM_LINKS.encode(), f"{self.public_url}/api/".encode())
                kind = (answer.header(b"content-type") or b"").decode()
                found.add((kind, cut(body, kind, lambda name: shows(view, name))))
        return found


async def play(seen: Counter[str], steps: list[Step], **begins_with: Any) -> None:
    await Run(seen, **begins_with).run(steps)


def path_of(asked: Asked) -> str:
    return f"/api/account/{asked.account}" + PATHS[asked.resource].format(chat=asked.chat)


def steady(body: bytes, content_type: str) -> bytes:
    """What of a document an ETag is about, wherever it was fetched from."""
    body = re.sub(rb"https://chat[-0-9]*\.example/", b"", body)
    return cut(body, content_type, lambda name: name not in VOLATILE)


#: What must have happened, and how often at least, or the test has not seen enough to say anything. An
#: ordinary run has about four times as many.
MUST_BE_SEEN = {
    **{f"part of it: {how}": 40 for how in ("hit", "collapsed", "miss", "forward", "stale", "write", "304")},
    "early refresh": 20,
    "GET": 1000,
    "HEAD": 200,
    "304": 200,
    "write": 50,
    **{f"refusal: {slug}-denied": 40 for slug in ("account", "action", "chat", "field")},
    **{f"refusal: {slug}": 100 for slug in ("no-client", "ambiguous", "token-expired", "token-revoked")},
}


@settings(max_examples=2 * settings().max_examples)
@given(
    clients=st.tuples(*map(first_rows, MATCHES)),
    steps=st.lists(STEPS, min_size=30, max_size=60),
    cached=st.sampled_from([0, 1]),
    pace=PACES,
    latencies=LATENCIES,
)
def schedules(seen: Counter[str], steps: list[Step], **begins_with: Any) -> None:
    simulate(play(seen, steps, **begins_with))


def test_nobody_receives_what_his_policy_denies() -> None:
    seen: Counter[str] = Counter()
    schedules(seen)
    missing = {what: seen[what] for what, often in MUST_BE_SEEN.items() if seen[what] < often}
    assert not missing, seen


# -- without luck: whatever a request waits for, and however its permission ends meanwhile -------------------

FRONT = Client("front", (BY_ISSUER, MATCHES["front"]), None, ("chat:read", "chat:write"))
EVERYBODY = (
    FRONT,
    *(Client(name, (BY_ISSUER, MATCHES[name]), None, ("chat:read",)) for name in ("partner", "desk")),
)
ONE_AT_A_TIME = Pace(per_s=1000, burst=1000, in_flight=1, queue=10, wait_s=5.0, reserve=0.0)
BUSY = Read(0.0, ("cat",), 1, "info", "json", "GET", None)


def reads(resource: str, form: str = "json", method: str = "GET", tag: str | None = None) -> Read:
    return Read(0.0, ("ann", "cat"), 0, resource, form, method, tag)


RENAME = Write(0.0, "ann", 0, "visitorName", "json")
#: The budget, and the steps of which ann waits for the last.
WAITS: Mapping[str, tuple[Pace, list[Step]]] = {
    "flight": (PLENTY, [reads("info")]),
    "flight, any representation": (PLENTY, [reads("info", "default")]),
    "flight, XML": (PLENTY, [reads("chat", "xml")]),
    "flight, HEAD": (PLENTY, [reads("info", method="HEAD")]),
    "flight, with a tag": (PLENTY, [reads("info", tag="*")]),
    "forward": (PLENTY, [reads("event")]),
    "forwarded field": (PLENTY, [reads("visitorTyping")]),
    "write": (PLENTY, [RENAME]),
    "write, XML": (PLENTY, [Write(0.0, "ann", 0, "events", "xml")]),
    "queue, then flight": (ONE_AT_A_TIME, [BUSY, reads("info")]),
    "queue, then forward": (ONE_AT_A_TIME, [BUSY, reads("event")]),
    "queue, then write": (ONE_AT_A_TIME, [BUSY, RENAME]),
    "stale answer": (PLENTY, [reads("info"), Change(0.9, "is slow"), replace(reads("info"), after_s=0.9)]),
}
#: How permission ends or changes, and why ann is refused then.
ENDS: Mapping[str, tuple[Policy | Change, str | None]] = {
    "token revoked": (Change(0.06, "is revoked", "ann"), "token-revoked"),
    "client revoked": (Change(0.06, "client is revoked", "front"), "token-revoked"),
    "no policy": (Policy(0.06, FRONT, "gone"), "no-client"),
    "two policies": (Policy(0.06, replace(FRONT, name="partner"), "enforce"), "ambiguous"),
    "account": (Policy(0.06, replace(FRONT, accounts=frozenset({"456"})), "enforce"), "account-denied"),
    "denied": (Policy(0.06, replace(FRONT, deny=("chat:read", "chat:write")), "enforce"), "action-denied"),
    "not allowed": (Policy(0.06, replace(FRONT, allow=("account:read",)), "enforce"), "action-denied"),
    "chats": (Policy(0.06, replace(FRONT, chats="chat"), "enforce"), "chat-denied"),
    "view": (Policy(0.06, replace(FRONT, view=VIEWS[3]), "enforce"), None),
    "address": (Change(0.06, "address"), None),
    "resources": (Change(0.06, "resources"), None),
    "representation": (Change(0.06, "representation"), None),
    "shadow": (Policy(0.06, replace(FRONT, deny=("chat:read",)), "shadow"), None),
}


def lose(wait: str, end: str) -> Counter[str]:
    """What is seen where ann waits so, and is about to be told what she may no longer hear."""
    seen: Counter[str] = Counter()
    pace, steps = WAITS[wait]
    simulate(play(seen, [*steps, ENDS[end][0]], clients=EVERYBODY, pace=pace))
    return seen


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("wait", WAITS)
def test_a_permission_that_ends_while_its_request_waits(wait: str, end: str) -> None:
    seen = lose(wait, end)
    reason = ENDS[end][1]
    if (wait, end) == ("forwarded field", "view"):
        reason = "field-denied"
    assert {what for what in seen if what.startswith("while waiting")} == (
        {f"while waiting: {reason}"} if reason else set()
    )


@pytest.mark.parametrize("wait", WAITS)
def test_a_token_that_expires_while_its_request_waits(wait: str) -> None:
    seen: Counter[str] = Counter()
    pace, steps = WAITS[wait]
    steps = [*steps[:-1], Change(0.0, "expires soon", "ann"), steps[-1]]
    if wait == "stale answer":
        # Her token is issued as she asks.
        steps[-2:] = [replace(steps[-2], after_s=steps[-1].after_s), replace(steps[-1], after_s=0.0)]
    simulate(play(seen, steps, clients=EVERYBODY, pace=pace))
    assert seen["while waiting: token-expired"] == 1
