"""Whatever is malformed gets a 4xx problem, and nothing behind the gateway hears of it."""

from __future__ import annotations

import contextlib
import json
from asyncio import IncompleteReadError
from collections.abc import Mapping
from typing import Any
from xml.etree import ElementTree as ET

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.demo.stage import AUDIENCE, ISSUER
from gateway.identity.development import mint, new_key
from tests.support import Fields, Response, World, account_path, chat_path, message

pytestmark = pytest.mark.anyio

CHAT = "H1-2K3"
INFO = chat_path(CHAT, "/info")
NAME = chat_path(CHAT, "/info/visitorName")
JSON = {"content-type": "application/json"}
XML = {"content-type": "application/xml"}
MAX_BODY = 262_144

#: Lets hypothesis share a world: each example starts it over.
SHARED = settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def check(here: World, response: Response, status: int, problem: str) -> None:
    assert (response.status, response.problem) == (status, problem), response
    assert response.header("cache-control") == "no-store"
    assert int(response.header("content-length") or "") == len(response.body)
    if response.header("content-type") == "application/problem+json":
        said = response.json()
        assert said["type"] == f"urn:chat-gateway:problem:{problem}"
        assert said["status"] == status
    else:
        assert response.header("content-type") == "application/problem+xml"
        ET.fromstring(response.body)  # noqa: S314 - it is ours
    assert here.upstream_requests() == 0


PATHS = {
    "/": 404,
    "//": 400,
    "/api": 404,
    "/api/account": 404,
    "/favicon.ico": 404,
    "/API/account/123": 404,
    "/api/account/124": 404,
    "/api/account/": 400,
    "/api/account/1-2": 400,
    f"/api/account/{'1' * 65}": 400,
    account_path("/"): 400,
    account_path("/js2rest"): 404,
    account_path("/js2rest/x"): 404,
    "/hcp/html/postmessage.html": 404,
    account_path("/service/conversationVep/baseURI.json"): 404,
    account_path("/chat"): 404,
    account_path("/chat//preSurvey"): 400,
    account_path("/chat/Availability"): 400,
    account_path("/conversation"): 404,
    chat_path(CHAT, "/nothing"): 404,
    chat_path(CHAT, "/info/"): 400,
    chat_path(CHAT, "/info/visitorName/x"): 404,
    chat_path(CHAT, "/info.xml"): 404,
    chat_path(CHAT, "/info.json.json"): 404,
    chat_path("..", "/info"): 400,
    chat_path(".", "/info"): 400,
    chat_path("%2e%2e", "/info"): 400,
    chat_path("..%2f..", "/info"): 400,
    chat_path("..%5c..", "/info"): 400,
    chat_path("..\\..", "/info"): 400,
    chat_path("H1-2K3;x=1", "/info"): 400,
    chat_path("H1-2K3%00", "/info"): 400,
    chat_path("H1-2K3%0d%0aX:y", "/info"): 400,
    chat_path("H1%2D2K3", "/info"): 400,
    chat_path("H1-2K3%252f", "/info"): 400,
    chat_path("x", "/info"): 400,
    chat_path("request", "/info"): 400,
    chat_path("H1-" + "2" * 97, "/info"): 400,
    chat_path("H1-2K3*", "/info"): 400,
    chat_path("H1-2K3@evil.example", "/info"): 400,
    chat_path(CHAT, "/events/x"): 400,
    chat_path(CHAT, "/events/-1"): 400,
    chat_path(CHAT, f"/events/{'1' * 19}"): 400,
    chat_path(CHAT, "/info") + "%2ejson": 400,
}


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("accept", ["application/json", "application/xml"])
async def test_paths(here: World, path: str, accept: str) -> None:
    problem = {400: "malformed-target", 404: "unknown-resource"}[PATHS[path]]
    response = await here.get(path, accept=accept)
    check(here, response, PATHS[path], problem)
    wanted = "json" if path.endswith(".json") else accept.rpartition("/")[2]
    assert response.header("content-type") == f"application/problem+{wanted}"


QUERIES = [
    *("x=1", "v=2", "v=", "v", "v=1&v=1", "NC=1", "NC=TRUE", "nc=true", "V=1", "from=1", "=1", "=", "%76=2"),
    *("v=1%00", "v=1;NC=true", "v=%31%30", "v[]=1", "format=xml", "X-HTTP-Method-Override=PUT", "APPKEY=x"),
]


@pytest.mark.parametrize("query", QUERIES)
async def test_queries(here: World, query: str) -> None:
    check(here, await here.get(f"{INFO}?{query}"), 400, "malformed-query")


@pytest.mark.parametrize(
    ("path", "query"),
    [
        (chat_path(CHAT, "/events"), "from=-1"),
        (chat_path(CHAT, "/events"), "from=1e3"),
        (chat_path(CHAT, "/events"), f"from={'9' * 19}"),
        (chat_path(CHAT, "/events"), "from=%D9%A1"),
        (chat_path(CHAT, "/events"), "from=1.json"),
        (chat_path(CHAT), "from=1&from=2"),
        (account_path("/chat/availability"), "maxWaitTime=86401"),
        (account_path("/chat/availability"), "skill=%0A"),
        (account_path("/chat/availability"), "skill=%FF"),
        (account_path("/chat/availability"), "skill=a&skill=b"),
        (account_path("/chat/availability"), f"skill={'x' * 257}"),
        (account_path("/chat/preSurvey"), "visitorIp=1.2.3.4.5"),
        (account_path("/chat/preSurvey"), "visitorIp=evil.example"),
        (account_path("/chat/preSurvey"), "surveyApiId=a%20b"),
    ],
)
async def test_values_that_a_resource_does_not_take(here: World, path: str, query: str) -> None:
    check(here, await here.get(f"{path}?{query}"), 400, "malformed-query")


@pytest.mark.parametrize(
    ("fields", "status", "problem"),
    [
        ({"x-http-method-override": "PUT"}, 400, "unsupported-override"),
        ({"accept": "text/html"}, 406, "not-acceptable"),
        ({"accept": "application/json;q=0"}, 406, "not-acceptable"),
        ({"accept": "nonsense"}, 406, "not-acceptable"),
        ({"accept": ",,;;q=9"}, 406, "not-acceptable"),
        ({"accept": "\xff\xfe"}, 406, "not-acceptable"),
        ({"accept": ""}, 406, "not-acceptable"),
    ],
)
async def test_header_fields(here: World, fields: Fields, status: int, problem: str) -> None:
    check(here, await here.ask("GET", INFO, fields), status, problem)


@pytest.mark.parametrize(
    "name", ["authorization", "content-type", "origin", "x-http-method-override", "x-request-id"]
)
async def test_fields_that_must_be_single(here: World, name: str) -> None:
    doubled = f"{name}: a\r\n{name.upper()}: a\r\n".encode()
    request = message("GET", INFO, {}).replace(b"host:", doubled + b"host:")
    async with here.wire() as wire:
        await wire.send(request)
        check(here, await wire.response(), 400, "malformed-header")


@pytest.mark.parametrize("value", ["DELETE", "put", "GET", "PATCH", "PUT, PUT", "", "PUT;x"])
async def test_overrides(here: World, value: str) -> None:
    response = await here.write("POST", NAME, {}, x_http_method_override=value)
    check(here, response, 400, "unsupported-override")


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("DELETE", INFO, "GET, HEAD"),
        ("PATCH", INFO, "GET, HEAD"),
        ("OPTIONS", INFO, "GET, HEAD"),
        ("POST", INFO, "GET, HEAD"),
        ("PUT", INFO, "GET, HEAD"),
        ("POST", NAME, "GET, HEAD, POST, PUT"),
        ("GET", account_path("/chat/request"), "POST"),
        ("HEAD", account_path("/chat/request"), "POST"),
        ("DELETE", chat_path(CHAT), "GET, HEAD"),
    ],
)
async def test_methods(here: World, method: str, path: str, allow: str) -> None:
    response = await here.ask(method, path)
    assert response.header("allow") == allow
    if method == "HEAD":
        assert (response.status, response.body) == (405, b"")
    else:
        check(here, response, 405, "method-not-allowed")


def _token_cases() -> Mapping[str, str]:
    private, _ = new_key("RS256")
    said = {"iss": ISSUER, "aud": AUDIENCE, "sub": "bff", "exp": 4_000_000_000}
    return {
        "nothing": "",
        "another scheme": "Basic eDp5",
        "the vendor's scheme": "LivePerson appKey=abc",
        "no token": "Bearer",
        "an empty token": "Bearer ",
        "no parts": "Bearer abc",
        "empty parts": "Bearer ..",
        "unsigned": "Bearer eyJhbGciOiJub25lIn0.eyJzdWIiOiJiZmYifQ.",
        "five parts": "Bearer a.b.c.d.e",
        "not base64": "Bearer !.!.!",
        "not text": "Bearer \xff.\xff.\xff",
        "kilobytes": "Bearer " + "a" * 12_000,
        "two tokens": "Bearer a.b.c, Bearer a.b.c",
        "a stranger's key": f"Bearer {mint(private, 'RS256', 'unknown', said)}",
    }


TOKENS = _token_cases()


@pytest.mark.parametrize("name", TOKENS)
async def test_tokens(here: World, name: str) -> None:
    response = await here.ask("GET", INFO, {"authorization": TOKENS[name]}, subject=None)
    check(here, response, 401, "token-invalid")
    assert (response.header("www-authenticate") or "").startswith('Bearer realm="chat-gateway", error=')


async def test_no_token(here: World) -> None:
    response = await here.ask("GET", INFO, subject=None)
    check(here, response, 401, "token-missing")
    assert response.header("www-authenticate") == 'Bearer realm="chat-gateway"'


@pytest.mark.parametrize(
    ("said", "status", "problem"),
    [
        ({"lifetime_s": -10.0}, 401, "token-expired"),
        ({"aud": "another"}, 401, "token-invalid"),
        ({"iss": "https://evil.example"}, 401, "token-invalid"),
        ({"nbf": 4_000_000_000}, 401, "token-invalid"),
        ({"exp": "soon"}, 401, "token-invalid"),
        ({"subject": "nobody"}, 403, "no-client"),
        ({"subject": "BFF"}, 403, "no-client"),
        ({"subject": "partner"}, 403, "action-denied"),
    ],
)
async def test_tokens_that_were_signed(here: World, said: dict[str, Any], status: int, problem: str) -> None:
    response = await here.ask("GET", account_path(), here.bearer(**said), subject=None)
    check(here, response, status, problem)


async def test_no_token_is_told_what_exists(here: World) -> None:
    for path in (INFO, account_path("/nothing"), "/"):
        assert (await here.ask("GET", path, subject=None)).status == 401


@pytest.mark.parametrize("subject", ["internal", "partner"])
async def test_writing_takes_leave(here: World, subject: str) -> None:
    response = await here.ask("PUT", NAME, JSON, b'{"visitorName": "x"}', subject=subject)
    check(here, response, 403, "action-denied")


BODIES: dict[str, tuple[Fields, bytes, int, str]] = {
    "no type": ({}, b'{"visitorName": "x"}', 415, "unsupported-media-type"),
    "a form": ({"content-type": "application/x-www-form-urlencoded"}, b"a=b", 415, "unsupported-media-type"),
    "plain text": ({"content-type": "text/plain"}, b"x", 415, "unsupported-media-type"),
    "no type, nothing": ({}, b"", 415, "unsupported-media-type"),
    "nothing": (JSON, b"", 400, "malformed-body"),
    "broken": (JSON, b'{"visitorName": ', 400, "malformed-body"),
    "two documents": (JSON, b"{}{}", 400, "malformed-body"),
    "xml said to be json": (JSON, b"<visitorName>x</visitorName>", 400, "malformed-body"),
    "NaN": (JSON, b'{"visitorName": NaN}', 400, "malformed-body"),
    "infinity": (JSON, b'{"visitorName": -Infinity}', 400, "malformed-body"),
    "a key twice": (JSON, b'{"visitorName": "a", "visitorName": "b"}', 400, "malformed-body"),
    "deep": (JSON, b"[" * 100_000 + b"]" * 100_000, 400, "malformed-body"),
    "deep and open": (JSON, b'{"a":' * 50_000, 400, "malformed-body"),
    "not text": (JSON, b'{"visitorName": "\xff"}', 400, "malformed-body"),
    "utf-16": (JSON, '{"visitorName": "x"}'.encode("utf-16"), 400, "malformed-body"),
    "a control character": (JSON, b'{"visitorName": "\x00"}', 400, "malformed-body"),
    "too large": (JSON, b'"' + b"x" * MAX_BODY + b'"', 413, "body-too-large"),
    "broken xml": (XML, b"<visitorName>", 400, "malformed-body"),
    "json said to be xml": (XML, b"{}", 400, "malformed-body"),
    "a dtd": (XML, b'<!DOCTYPE a SYSTEM "http://evil.example/"><a/>', 400, "malformed-body"),
    "entities": (XML, b'<!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>', 400, "malformed-body"),
    "an unknown entity": (XML, b"<a>&b;</a>", 400, "malformed-body"),
    "deep xml": (XML, b"<a>" * 30_000 + b"</a>" * 30_000, 400, "malformed-body"),
    "an encoding": (XML, b'<?xml version="1.0" encoding="utf-7"?><a/>', 400, "malformed-body"),
    "two roots": (XML, b"<a/><b/>", 400, "malformed-body"),
    "nothing in xml": (XML, b"", 400, "malformed-body"),
}


@pytest.mark.parametrize("name", BODIES)
@pytest.mark.parametrize("chunked", [False, True])
async def test_bodies(here: World, name: str, chunked: bool) -> None:
    fields, body, status, problem = BODIES[name]
    fields = {**here.bearer(), **fields}
    async with here.wire() as wire:
        if chunked:
            head = message("PUT", NAME, {**fields, "transfer-encoding": "chunked"})
            await wire.send(head.replace(b"content-length: 0\r\n", b""))
            pieces = [body[at : at + 65_536] for at in range(0, len(body), 65_536)]
            await wire.send(
                b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"
            )
        else:
            await wire.send(message("PUT", NAME, fields, body))
        check(here, await wire.response(), status, problem)
        # The rest of the body is not taken for a request.
        if status == 413:
            assert await wire.until_closed() == b""
        else:
            assert (await wire.ask("GET", "/nothing", here.bearer())).status == 404


async def test_the_largest_body(here: World) -> None:
    body = b'{"a": "' + b"x" * (MAX_BODY - 9) + b'"}'
    assert len(body) == MAX_BODY
    assert (await here.ask("PUT", chat_path(here.chat(), "/customVariables"), JSON, body)).status == 200


async def test_a_body_that_never_ends_costs_nothing(here: World) -> None:
    head = message("PUT", NAME, {**here.bearer(), **JSON, "content-length": str(10**12)})
    async with here.wire() as wire:
        await wire.send(head.replace(b"content-length: 0\r\n", b""))
        with contextlib.suppress(ConnectionError):
            for _ in range(8):
                await wire.send(b" " * 65_536)
        check(here, await wire.response(), 413, "body-too-large")


GARBAGE: dict[str, bytes] = {
    "nothing of HTTP": b"hello\r\n\r\n",
    "another protocol": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(64),
    "http/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "http/0.9": b"GET /\r\n\r\n",
    "http/3.1": b"GET / HTTP/3.1\r\n\r\n",
    "no method": b" / HTTP/1.1\r\nhost: x\r\n\r\n",
    "an invented method": b"STEAL / HTTP/1.1\r\nhost: x\r\n\r\n",
    "a small method": b"get / HTTP/1.1\r\nhost: x\r\n\r\n",
    "connect": b"CONNECT evil.example:443 HTTP/1.1\r\nhost: x\r\n\r\n",
    "an asterisk": b"OPTIONS * HTTP/1.1\r\nhost: x\r\n\r\n",
    "no path": b"GET x HTTP/1.1\r\nhost: x\r\n\r\n",
    "only a query": b"GET ?v=1 HTTP/1.1\r\nhost: x\r\n\r\n",
    "an address without a path": b"GET http://evil.example HTTP/1.1\r\nhost: x\r\n\r\n",
    "a space in the path": b"GET /a b HTTP/1.1\r\nhost: x\r\n\r\n",
    "a NUL in the path": b"GET /a\x00b HTTP/1.1\r\nhost: x\r\n\r\n",
    "a path that is no ascii": "GET /\u00fc HTTP/1.1\r\nhost: x\r\n\r\n".encode(),
    "a path that is no text": b"GET /\xff\xfe HTTP/1.1\r\nhost: x\r\n\r\n",
    "a space before the colon": b"GET / HTTP/1.1\r\nhost : x\r\n\r\n",
    "a folded field": b"GET / HTTP/1.1\r\nhost: x\r\nx-a: b\r\n c\r\n\r\n",
    "a NUL in a field": b"GET / HTTP/1.1\r\nhost: x\r\nx-a: \x00\r\n\r\n",
    "no colon": b"GET / HTTP/1.1\r\nhost\r\n\r\n",
    "an empty name": b"GET / HTTP/1.1\r\n: x\r\n\r\n",
    "a bare line feed": b"GET / HTTP/1.1\r\nhost: x\rx-a: b\r\n\r\n",
    "no length": b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: x\r\n\r\n",
    "a negative length": b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n",
    "a signed length": b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: +1\r\n\r\na",
    "a huge length": b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 99999999999999999999\r\n\r\n",
    "two lengths": b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab",
    "length and chunks": (
        b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n"
    ),
    "chunks twice": b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    "a broken chunk": b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
}


@pytest.mark.parametrize("name", GARBAGE)
async def test_what_is_no_request(here: World, name: str) -> None:
    """The first reply is a 4xx problem; where framing is lost, so is the connection."""
    async with here.wire() as wire:
        await wire.send(GARBAGE[name])
        response = await wire.response()
        assert 400 <= response.status < 500
        assert response.problem
        check(here, response, response.status, response.problem)
        if response.problem == "malformed-request":
            assert response.header("connection") == "close"
            assert await wire.until_closed() == b""


@pytest.mark.parametrize("hosts", [0, 2])
async def test_a_request_has_one_host(here: World, hosts: int) -> None:
    request = message("GET", account_path(), here.bearer())
    async with here.wire() as wire:
        await wire.send(request.replace(b"host: gateway.test\r\n", b"host: gateway.test\r\n" * hosts))
        check(here, await wire.response(), 400, "malformed-header")


@pytest.mark.parametrize("protocol", ["websocket", "h2c"])
async def test_an_upgrade_is_refused(here: World, protocol: str) -> None:
    """What follows it would be read as another request."""
    fields = {**here.bearer(), "connection": "upgrade", "upgrade": protocol, "sec-websocket-key": "x"}
    async with here.wire() as wire:
        await wire.send(
            message("GET", account_path(), fields) + message("GET", account_path(), here.bearer())
        )
        check(here, await wire.response(), 400, "malformed-request")
        assert await wire.until_closed() == b""


async def test_a_request_before_garbage_is_answered(here: World) -> None:
    async with here.wire() as wire:
        await wire.send(message("GET", account_path(), here.bearer()) + b"garbage\r\n\r\n")
        assert (await wire.response()).status == 200
        assert b" 200 " not in await wire.until_closed()


async def test_trailers_are_no_fields(here: World) -> None:
    fields = {"content-type": "application/json", "transfer-encoding": "chunked"}
    head = message("PUT", NAME, fields).replace(b"content-length: 0\r\n", b"")
    trailer = f"authorization: Bearer {here.token()}\r\n".encode()
    async with here.wire() as wire:
        await wire.send(head + b"2\r\n{}\r\n0\r\n" + trailer + b"\r\n")
        check(here, await wire.response(), 401, "token-missing")


async def test_half_a_request(here: World) -> None:
    whole = message("PUT", NAME, {**here.bearer(), **JSON}, b'{"visitorName": "x"}')
    for end in (1, 20, len(whole) - 30, len(whole) - 1):
        async with here.wire() as wire:
            await wire.send(whole[:end])
            wire.no_more()
            assert not (await wire.until_closed()).startswith(b"HTTP/1.1 5")
        async with here.wire() as wire:
            await wire.send(whole[:end])
            wire.hang_up()
    assert (await here.get("/nothing")).status == 404
    assert here.upstream_requests() == 0


@SHARED
@given(raw=st.binary(max_size=400))
async def test_any_bytes(here: World, raw: bytes) -> None:
    here.start_over()
    for sent in (raw, raw + b"\r\n\r\n", message("GET", INFO, {}).replace(b"gateway", raw)):
        async with here.wire() as wire:
            await wire.send(sent)
            wire.no_more()
            with contextlib.suppress(IncompleteReadError, ConnectionError):
                assert 400 <= (await wire.response()).status < 500
    assert here.upstream_requests() == 0


async def first_reply(here: World, raw: bytes) -> Response:
    async with here.wire() as wire:
        await wire.send(raw)
        return await wire.response()


TARGETS = st.text(
    st.characters(min_codepoint=0x21, max_codepoint=0xFF, exclude_characters="\x7f"), max_size=60
)


@SHARED
@given(target=TARGETS, after=st.sampled_from(["/", account_path("/"), chat_path(CHAT, "/"), INFO + "?"]))
async def test_any_target(here: World, target: str, after: str) -> None:
    here.start_over()
    response = await first_reply(here, message("GET", after + target, here.bearer()))
    if 400 <= response.status < 500 and response.problem:
        check(here, response, response.status, response.problem)
    else:  # it happened to be good
        assert here.upstream_requests() <= 1
        assert response.status in {200, 404}


@SHARED
@given(
    name=st.sampled_from(
        ["accept", "authorization", "if-none-match", "origin", "x-request-id", "content-type"]
    ),
    value=st.text(
        st.characters(min_codepoint=0x20, max_codepoint=0xFF, exclude_characters="\x7f"), max_size=80
    ),
)
async def test_any_value_of_a_field(here: World, name: str, value: str) -> None:
    here.start_over()
    response = await first_reply(
        here, message("GET", account_path("/nothing"), {**here.bearer(), name: value})
    )
    assert response.problem in {"unknown-resource", "token-invalid", "token-missing"}


@SHARED
@given(
    body=st.binary(max_size=200)
    | st.recursive(st.none() | st.text(), st.lists).map(lambda v: json.dumps(v).encode()[1:]),
    kind=st.sampled_from([JSON, XML]),
)
async def test_any_body(here: World, body: bytes, kind: Fields) -> None:
    here.start_over()
    response = await here.ask("PUT", chat_path("H9-9", "/customVariables"), kind, body)
    if response.problem:
        check(here, response, 400, "malformed-body")
    else:
        assert (response.status, here.upstream_requests()) == (404, 1)
