"""`POST /explain` and the same request over real sockets: they agree, and to ask does nothing."""

from __future__ import annotations

import asyncio
import json
import shutil
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest

from gateway.demo.stage import ISSUER, shipped_policies
from gateway.emulator import EmulatorConfig, Fault
from tests.support import (
    APP_KEY,
    VISITOR,
    Response,
    Wire,
    World,
    account_path,
    chat_path,
    path_of,
    until,
    world,
)

pytestmark = pytest.mark.anyio

MORE_CLIENTS = f"""
clients:
  limited:
    match: {{iss: "{ISSUER}", sub: limited}}
    accounts: "*"
    allow: [chat:read]
    limits: {{requests: {{per_minute: 1, burst: 2}}}}
  fetcher:
    match: {{iss: "{ISSUER}", sub: fetcher}}
    accounts: "*"
    allow: [chat:read]
    limits: {{fetches: {{per_minute: 1, burst: 1}}}}
  visitor:
    match: {{iss: "{ISSUER}", scope: visitor}}
    accounts: "*"
    allow: [chat:read]
    chats: {{claim: chat}}
    view: {{hide: [agentName]}}
"""


@pytest.fixture(scope="module")
async def shared_world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    folder = tmp_path_factory.mktemp("explained")
    shutil.copytree(shipped_policies(), folder / "more")
    (folder / "more" / "clients" / "more.yaml").write_text(MORE_CLIENTS)
    settings: dict[str, Any] = {
        "policies": "more/",
        "admin": {"token_file": "admin-token", "hosts": ["gateway.test"]},
    }
    async with world(folder, emulator=EmulatorConfig(app_key=APP_KEY, record=1000), **settings) as it:
        yield it


async def operate(here: World, said: object, token: str | None = None) -> Response:
    """What the private listener answers to a question."""
    wire = Wire(*await asyncio.open_connection(*here.addresses.private), here.received)
    fields = {
        "authorization": f"Bearer {token or here.stage.admin_token}",
        "content-type": "application/json",
    }
    try:
        return await wire.ask("POST", "/explain", fields, json.dumps(said).encode())
    finally:
        await wire.close()


@dataclass(frozen=True, slots=True)
class Ask:
    """A request; `{}` in its path is the chat. `claims` go into its token, beside the subject."""

    method: str
    path: str
    subject: str | None = "bff"
    fields: Mapping[str, str] = field(default_factory=dict)
    body: str = ""
    claims: Mapping[str, object] = field(default_factory=dict)
    token: str | None = None


async def agree(here: World, ask: Ask, chat: str) -> Any:
    """Explain it and make it; returns the explanation, which has to say what came of it."""
    token = ask.token or (ask.subject and here.token(ask.subject, **ask.claims))
    target = ask.path.format(chat)
    said = {"method": ask.method, "path": target, "headers": dict(ask.fields), "body": ask.body}
    explained = await operate(here, said | ({"token": token} if token else {}))
    assert explained.status == 200
    assert not token or token.encode() not in explained.body
    told = explained.json()

    heard, logged = len(here.emulator.recorded), here.log.tell()
    bearer = {"authorization": f"Bearer {token}"} if token else {}
    async with here.wire() as wire:
        await wire.ask(ask.method, target, {**ask.fields, **bearer}, ask.body.encode())
    await here.flights_landed()
    lines = [json.loads(line) for line in here.log.getvalue()[logged:].splitlines()]
    (line,) = [line for line in lines if line["event"] == "request"]
    client = None if line["client"] == "-" else line["client"]
    assert (told["outcome"], told["client"], told["rule"]) == (line["outcome"], client, line["rule"])
    sent = [parsed(raw) for raw in list(here.emulator.recorded)[heard:]]
    assert sent == (
        [] if told["upstream_request"] is None else [told["upstream_request"] | {"account": "123"}]
    )
    return told


def parsed(raw: bytes) -> dict[str, object]:
    """A request as the upstream got it, without what only the wire and the key need."""
    head, _, body = raw.partition(b"\r\n\r\n")
    line, *rest = head.decode().split("\r\n")
    method, target, _ = line.split(" ")
    fields = {name.lower(): value for name, _, value in (each.partition(": ") for each in rest)}
    assert fields.pop("authorization").startswith("LivePerson appKey=")
    headers = {n: v for n, v in fields.items() if n not in {"host", "content-length", "connection"}}
    return {"account": "123", "method": method, "target": target, "headers": headers, "body_bytes": len(body)}


JSON = {"content-type": "application/json"}
NAME = json.dumps({"visitorName": "Ann"})
ASKS: Mapping[str, Ask] = {
    "an info": Ask("GET", chat_path("{}", "/info")),
    "an info in XML": Ask("GET", chat_path("{}", "/info"), fields={"accept": "application/xml"}),
    "an info by its suffix": Ask("GET", chat_path("{}", "/info.json"), fields={"Accept": "application/xml"}),
    "a HEAD": Ask("HEAD", chat_path("{}", "/info"), "partner"),
    "a condition": Ask("GET", chat_path("{}", "/info"), fields={"If-None-Match": "*"}),
    "a chat with events": Ask("GET", chat_path("{}", "?from=0&appKey=theirs&_=7"), "internal"),
    "events that are not shared": Ask("GET", chat_path("{}", "/info/visitorName")),
    "a read of the account": Ask("GET", account_path("/chat/availability?skill=A+B%2f"), "internal"),
    "a name": Ask("PUT", chat_path("{}", "/info/visitorName"), fields=JSON, body=NAME),
    "a name in XML": Ask(
        "POST",
        chat_path("{}", "/info/visitorName"),
        fields={"content-type": "text/xml", "x-http-method-override": "PUT"},
        body="<visitorName>Änn</visitorName>",
    ),
    "a start": Ask(
        "POST",
        account_path("/chat/request"),
        fields={**JSON, "X-Forwarded-For": VISITOR},
        body='{"request":{}}',
    ),
    "a start without a visitor": Ask(
        "POST", account_path("/chat/request"), fields=JSON, body='{"request":{}}'
    ),
    "a visitor's own chat": Ask(
        "GET", chat_path("{}", "/info"), "v", claims={"scope": "visitor", "chat": "{}"}
    ),
    "another's chat": Ask(
        "GET", chat_path("{}", "/info"), "v", claims={"scope": "visitor", "chat": "H1-2K3"}
    ),
    "a denied field": Ask("GET", chat_path("{}", "/info/visitorName"), "partner"),
    "a denied write": Ask("PUT", chat_path("{}", "/info/visitorName"), "partner", JSON, NAME),
    "a denied resource": Ask("GET", chat_path("{}", "/exitSurvey"), "partner"),
    "a broken body": Ask("PUT", chat_path("{}", "/info/visitorName"), fields=JSON, body="{"),
    "a body of no type": Ask("PUT", chat_path("{}", "/info/visitorName"), body=NAME),
    "no method of it": Ask("DELETE", chat_path("{}", "/info")),
    "another method": Ask("PATCH", chat_path("{}", "/info")),
    "an override": Ask("GET", chat_path("{}", "/info"), fields={"x-http-method-override": "DELETE"}),
    "a bad query": Ask("GET", chat_path("{}", "/info?callback=x")),
    "dots": Ask("GET", chat_path("{}", "/../info")),
    "escapes": Ask("GET", account_path("/chat/%48/info")),
    "doubled slashes": Ask("GET", "//api/account/123"),
    "a quote": Ask("GET", chat_path("{}", '/info"')),
    "nothing": Ask("GET", "/"),
    "another account": Ask("GET", "/api/account/999/chat/availability"),
    "HTML": Ask("GET", chat_path("{}", "/info"), fields={"accept": "text/html"}),
    "nobody": Ask("GET", chat_path("{}", "/info"), None),
    "a stranger": Ask("GET", chat_path("{}", "/info"), "stranger"),
    "another audience": Ask("GET", chat_path("{}", "/info"), claims={"aud": "other"}),
    "another issuer": Ask("GET", chat_path("{}", "/info"), claims={"iss": "https://other.example"}),
    "an expired token": Ask("GET", chat_path("{}", "/info"), claims={"exp": int(time.time()) - 60}),
    "no token at all": Ask("GET", chat_path("{}", "/info"), token="abc"),
}


@pytest.mark.parametrize("name", ASKS)
async def test_what_is_explained_is_what_happens(here: World, name: str) -> None:
    """Cold, and again with whatever came of it."""
    ask, chat = ASKS[name], here.chat()
    if ask.claims.get("chat") == "{}":
        ask = Ask(ask.method, ask.path, ask.subject, claims={**ask.claims, "chat": chat})
    for _ in range(2):
        await agree(here, ask, chat)


async def test_it_knows_what_the_gateway_went_through(here: World) -> None:
    info, whole = Ask("GET", chat_path("{}", "/info")), Ask("GET", chat_path("{}"))
    chats = [here.chat() for _ in range(3)]
    assert (await agree(here, info, chats[0]))["outcome"] == "miss"
    assert (await agree(here, info, chats[0]))["outcome"] == "hit"
    here.emulator.fail(Fault(resource="info", status=503))
    refused = await here.get(chat_path(chats[1], "/info"))
    assert refused.status == 502
    assert (await agree(here, info, chats[1]))["outcome"] == "upstream-error"
    limited = Ask("GET", chat_path("{}", "/info"), "limited")
    told = [await agree(here, limited, chats[0]) for _ in range(3)]
    assert [each["outcome"] for each in told] == ["hit", "hit", "rate-limited"]
    assert told[-1]["rule"] == "limited/limits/requests"
    fetcher = Ask("GET", chat_path("{}"), "fetcher")
    told = [await agree(here, fetcher, chats[0]) for _ in range(2)]
    assert [each["outcome"] for each in told] == ["miss", "rate-limited"]
    assert told[-1]["rule"] == "fetcher/limits/fetches"
    here.emulator.fail(Fault(status=429, retry_after="1"))
    assert (await here.get(chat_path(chats[2]))).status == 503
    for ask in (whole, Ask("PUT", chat_path("{}", "/info/visitorName"), fields=JSON, body=NAME)):
        assert (await agree(here, ask, chats[2]))["outcome"] == "upstream-throttled"


async def test_a_flight_under_way_is_told_and_joined(here: World) -> None:
    chat = here.chat()
    await until(lambda: here.gateway.exchange.protection.hold("123", None, chat) is None)
    here.emulator.fail(Fault(resource="info", delay_s=0.5))
    first = asyncio.create_task(here.get(chat_path(chat, "/info")))
    await until(lambda: here.upstream_requests() == 1)
    told = (await operate(here, {"path": chat_path(chat, "/info"), "token": here.token("partner")})).json()
    assert (told["outcome"], told["upstream_request"]) == ("collapsed", None)
    assert (await here.get(chat_path(chat, "/info"))).header("cache-status") == (
        "chat-gateway; fwd=miss; fwd-status=200; collapsed"
    )
    assert (await first).status == 200
    assert here.upstream_requests() == 1


async def test_bad_tokens_that_are_only_asked_about_count_against_nobody(here: World) -> None:
    path = account_path("/chat/availability")
    for number in range(80):
        told = (await operate(here, {"path": path, "token": f"bad.{number}.token"})).json()
        assert told["outcome"] == "token-invalid"
    refused = await here.ask("GET", path, {"authorization": "Bearer bad.again.token"}, subject=None)
    assert refused.status == 401


async def counters(here: World) -> list[bytes]:
    lines = (await here.admin("/metrics")).body.splitlines()
    ours = (line for line in lines if line.startswith(b"chat_gateway_"))
    return [line for line in ours if b"_total" in line or b"_count" in line]


async def test_to_ask_does_nothing(here: World) -> None:
    before = await counters(here)
    logged = here.log.tell()
    for path in (chat_path(here.chat(), "/info"), account_path("/chat/preSurvey"), "/nothing"):
        for subject in ("bff", "partner", "stranger"):
            await operate(here, {"path": path, "token": here.token(subject)})
    assert await counters(here) == before
    assert here.log.tell() == logged
    assert here.upstream_requests() == 0


@pytest.mark.parametrize(
    "said",
    [
        {},
        {"path": 5},
        {"path": "api/account/123"},
        {"path": "/", "headers": {"accept": "x\r\nhost: y"}},
        {"path": "/\ud800"},
        {"path": "/", "token": "\u00e4"},
        {"path": "/", "claims": []},
        {"path": "/", "body": ["x"]},
        {"path": "/", "method": "CONNECT"},
        {"path": "/", "peer": "127.0.0.1"},
        {"path": "/" + "a" * 60_000, "x": 1},
        [],
        "path",
        None,
    ],
)
async def test_bad_questions_are_normal(here: World, said: object) -> None:
    answer = await operate(here, said)
    assert answer.status == 400
    (sentence,) = answer.json().get("faults") or [answer.json()["error"]]
    assert "expected" in sentence or "must be one JSON object" in sentence
    assert len(sentence) < 250


async def test_a_long_path_is_a_question_too(here: World) -> None:
    told = (await operate(here, {"path": "/" + "a" * 60_000, "token": here.token()})).json()
    assert told["outcome"] == "unknown-resource"


async def test_it_takes_the_operators_token(here: World) -> None:
    for token in (here.token(), "x" * 32):
        assert (await operate(here, {"path": path_of("/")}, token)).status == 401
