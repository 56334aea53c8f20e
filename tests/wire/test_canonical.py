"""Whatever a client sends, the upstream gets the same bytes for the same target."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support import APP_KEY, PUBLIC_URL, World, account_path, chat_path, message, with_json

pytestmark = pytest.mark.anyio

KEY_FIELD = f"authorization: LivePerson appKey={APP_KEY}".encode()

#: Ways to ask for the same, and what else a head can have in it.
NOISE = {
    "a cookie": {"cookie": "session=abc; other=1"},
    "forwarding": {"x-forwarded-for": "10.0.0.1", "x-forwarded-host": "evil.example", "forwarded": "for=x"},
    "caching": {
        "cache-control": "no-cache",
        "pragma": "no-cache",
        "if-modified-since": "x",
        "range": "bytes=0-1",
    },
    "agents": {"user-agent": "curl/8", "accept-language": "de", "accept-encoding": "gzip, br", "dnt": "1"},
    "tracing": {
        "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "x-request-id": "me",
    },
    "hops": {"te": "trailers", "proxy-authorization": "Basic eDp5", "keep-alive": "timeout=5"},
    "the vendor's": {"lp-url": "https://x.example", "x-requested-with": "XMLHttpRequest", "appkey": "mine"},
    "a method": {"x-http-method": "DELETE", "x-method-override": "DELETE"},
    "cors": {"origin": "https://site.example", "sec-fetch-mode": "cors", "referer": "https://site.example/"},
    "named by connection": {"connection": "authorization, accept, x-a", "x-a": "1"},
    "a condition": {"if-none-match": '"x"'},
}
QUERIES = [
    "",
    "?",
    "?v=1",
    "?NC=true&v=1",
    "?v=1&NC=true&appKey=theirs",
    "?appKey=a&appKey=b",
    "?__d=0.123&cb=f&_=99",
    "?%76=1&N%43=%74rue",
    "?&&v=1&",
]


def heads(here: World) -> list[bytes]:
    """The recorded requests, each without its Host, which names a port."""
    return [re.sub(rb"(?i)\r\nhost: [^\r]*", b"", raw) for raw in here.emulator.recorded]


def check_key(raw: bytes) -> None:
    assert raw.lower().count(b"appkey") == 1
    head = raw.partition(b"\r\n\r\n")[0]
    assert head.split(b"\r\n")[-1].lower() == KEY_FIELD.lower()
    assert KEY_FIELD.partition(b" ")[2] in head


@pytest.mark.parametrize("query", QUERIES)
@pytest.mark.parametrize("suffix", [True, False])
async def test_spellings_of_one_read(here: World, query: str, suffix: bool) -> None:
    # This resource is neither kept nor shared, so each request is sent.
    plain = chat_path(here.chat(), "/info/agentTyping")
    target = (with_json(plain) if suffix else plain) + query
    assert (await here.get(plain)).status == 200
    for accept in ("application/json", "*/*", "application/xml;q=0.5, application/json", "application/*"):
        assert (await here.get(target, accept=accept)).status == 200
    sent = heads(here)
    assert len(sent) == 5
    assert len(set(sent)) == 1
    check_key(sent[0])


@pytest.mark.parametrize("noise", NOISE)
async def test_what_is_not_in_the_table_does_not_matter(here: World, noise: str) -> None:
    target = chat_path(here.chat(), "/info/agentTyping")
    await here.get(target)
    await here.ask("GET", target, NOISE[noise])
    await here.ask("HEAD", target, NOISE[noise])
    await here.ask("GET", target, NOISE[noise], subject="internal")
    sent = heads(here)
    assert len(sent) == 4
    assert len(set(sent)) == 1
    check_key(sent[0])


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    order=st.permutations(["v=1", "NC=true", "skill=S%20ales", "maxWaitTime=5"]),
    dropped=st.lists(st.sampled_from(["appKey=k", "__d=1", "cb=x", "_=1", ""]), max_size=3),
    noise=st.lists(st.sampled_from(sorted(NOISE)), max_size=4, unique=True),
    plus=st.booleans(),
)
async def test_any_mixture_of_spellings(
    here: World, order: list[str], dropped: list[str], noise: list[str], plus: bool
) -> None:
    here.start_over()
    query = "&".join([*dropped, *order])
    fields = {name: value for one in noise for name, value in NOISE[one].items()}
    target = account_path("/chat/availability")
    await here.get(f"{target}?v=1&NC=true&skill=S%20ales&maxWaitTime=5")
    await here.ask("GET", f"{target}.json?{query.replace('%20', '+') if plus else query}", fields)
    first, second = heads(here)
    assert first == second
    check_key(first)


async def test_put_and_the_override_are_the_same_bytes(here: World) -> None:
    target = chat_path(here.chat(), "/info/visitorName")
    said = {"visitorName": "Zoe"}
    assert (await here.write("PUT", target, said)).status == 201
    assert (await here.write("POST", target, said, x_http_method_override="PUT")).status == 201
    assert (
        await here.write("PUT", with_json(target), said, content_type="application/json; charset=utf-8")
    ).status == 201
    chunked = message(
        "PUT", target, {**here.bearer(), "content-type": "application/json", "transfer-encoding": "chunked"}
    )
    chunked = chunked.replace(b"content-length: 0\r\n", b"")
    body = json.dumps(said).encode()
    async with here.wire() as wire:
        await wire.send(
            chunked
            + b"5\r\n"
            + body[:5]
            + b"\r\n"
            + b"%x\r\n" % (len(body) - 5)
            + body[5:]
            + b"\r\n0\r\n\r\n"
        )
        assert (await wire.response()).status == 201
    sent = heads(here)
    assert len(sent) == 4
    assert len(set(sent)) == 1
    assert sent[0].startswith(b"POST ")
    assert b"\r\nx-http-method-override: PUT\r\n" in sent[0]
    assert here.emulator.counts().total(resource="visitor-name", method="PUT") == 4
    check_key(sent[0])


async def test_the_clients_authorization_is_not_sent(here: World) -> None:
    await here.get(account_path())
    assert not here.emulator.saw(b"Bearer")
    assert not any(here.emulator.saw(token.encode()) for token in here.tokens)


async def test_the_host_a_client_names_changes_nothing(here: World) -> None:
    request = message("GET", account_path(), here.bearer()).replace(b"gateway.test", b"evil.example")
    async with here.wire() as wire:
        await wire.send(request)
        response = await wire.response()
    assert b"evil" not in response.body
    assert PUBLIC_URL.encode() in response.body


async def test_a_target_that_names_a_host_is_refused(here: World) -> None:
    """The absolute form (RFC 9112 §3.2.2) is for forward proxies."""
    async with here.wire() as wire:
        response = await wire.ask("GET", f"{PUBLIC_URL}{account_path()}", here.bearer())
    assert (response.status, response.problem) == (400, "malformed-request")
    assert heads(here) == []
