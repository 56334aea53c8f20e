"""Who may call the private listener, from where, and with what."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.routing import Route

from gateway.admin.web import MAX_BODY_BYTES, Access
from tests.admin.listener import GOOD, TOKEN, Listener

pytestmark = pytest.mark.anyio

GETS = ("/readyz?verbose", "/usage", "/revocations", "/live")
POSTS = ("/revocations", "/reload", "/explain", "/purge")
GUARDED = (*(("GET", path) for path in GETS), *(("POST", path) for path in POSTS))
PROBE = {"host": "evil.example"}


def but(**fields: str) -> dict[str, str]:
    """What a command sends, but for these fields, with underscores for dashes."""
    return {**GOOD, **{name.replace("_", "-"): value for name, value in fields.items()}}


def without(name: str) -> dict[str, str]:
    return {key: value for key, value in GOOD.items() if key != name}


# -- what is open ----------------------------------------------------------------------------------


@pytest.mark.parametrize("token", [None, TOKEN.encode()])
@pytest.mark.parametrize("ready", [True, False])
async def test_probes_need_nothing(*, token: bytes | None, ready: bool) -> None:
    it = Listener(token=token, ready=ready)
    alive = await it.ask("GET", "/healthz", PROBE)
    assert (alive.status, alive.body) == (200, b"alive\n")
    answered = await it.ask("GET", "/readyz", PROBE)
    assert (answered.status, answered.json()) == (200 if ready else 503, {"ready": ready})


async def test_metrics_are_open_where_they_are_said_to_be() -> None:
    it = Listener()
    response = await it.ask("GET", "/metrics", {"host": "10.1.2.3:8081"})
    assert (response.status, response.body) == (200, b"families 1.0\n")
    assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
    # To no page, whatever its name resolves to.
    assert (await it.ask("GET", "/metrics", PROBE)).status == 421
    it.open_metrics = False
    assert (await it.ask("GET", "/metrics", PROBE)).status == 421
    assert (await it.ask("GET", "/metrics", {"host": "127.0.0.1"})).status == 401
    assert (await it.ask("GET", "/metrics")).status == 200


@pytest.mark.parametrize("ready", [True, False])
async def test_readyz_tells_more_to_operators(*, ready: bool) -> None:
    it = Listener(ready=ready)
    response = await it.ask("GET", "/readyz?verbose")
    assert (response.status, response.json()) == (200 if ready else 503, {"policies": 3, "ready": ready})


# -- the token -------------------------------------------------------------------------------------

#: Values of Authorization that are not the token.
WRONG = [
    (),
    ("Bearer",),
    ("Bearer ",),
    (TOKEN,),
    (f"Basic {TOKEN}",),
    (f"Bearer {TOKEN[:-1]}",),
    (f"Bearer {TOKEN}x",),
    (f"Bearer  {TOKEN}",),
    (f"Bearer {TOKEN.upper()}",),
    (f"Bearer {TOKEN}", f"Bearer {TOKEN}"),
    ("Bearer wrong", f"Bearer {TOKEN}"),
    ("Bearer \xe9\xff",),
]


@pytest.mark.parametrize("values", WRONG)
@pytest.mark.parametrize(("method", "path"), GUARDED)
async def test_another_token_is_401(method: str, path: str, values: tuple[str, ...]) -> None:
    it = Listener()
    fields = [*without("authorization").items(), *(("authorization", value) for value in values)]
    response = await it.ask(method, path, fields)
    assert response.status == 401
    assert response.headers["www-authenticate"] == 'Bearer realm="chat-gateway admin"'
    assert it.told == []


@pytest.mark.parametrize("said", [None, "", TOKEN, "None"])
@pytest.mark.parametrize(("method", "path"), GUARDED)
async def test_without_a_token_configured_nobody_has_one(method: str, path: str, said: str | None) -> None:
    it = Listener(token=None)
    fields = without("authorization") if said is None else but(authorization=f"Bearer {said}")
    response = await it.ask(method, path, fields)
    assert (response.status, it.told) == (403, [])
    assert "admin.token_file" in response.json()["error"]


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
@pytest.mark.parametrize(("method", "path"), GUARDED)
async def test_the_token_opens(method: str, path: str, scheme: str) -> None:
    response = await Listener().ask(method, path, but(authorization=f"{scheme} {TOKEN}"))
    assert response.status == 200


async def test_access_is_asked_at_each_request() -> None:
    it = Listener()
    it.token = b"a-new-one"
    assert (await it.ask("GET", "/usage")).status == 401
    assert (await it.ask("GET", "/usage", but(authorization="Bearer a-new-one"))).status == 200


def test_the_token_is_not_shown() -> None:
    assert TOKEN not in repr(Access(TOKEN.encode(), open_metrics=True, hosts=frozenset()))


# -- by which name ---------------------------------------------------------------------------------

OURS = [
    "127.0.0.1",
    "127.0.0.1:8081",
    "10.1.2.3:1",
    "[::1]",
    "[::1]:8081",
    "[2001:DB8::1]:65535",
    "localhost",
    "LocalHost:9",
    "gateway.internal",
    "Gateway.Internal:8081",
]
NOT_OURS = [
    "",
    ":8081",
    "evil.example",
    "127.0.0.1.evil.example",
    "localhost.evil.example",
    "evil.gateway.internal",
    "gateway.internal.",
    "gateway.internal:",
    "localhost:8081:8081",
    "localhost:123456",
    "user@localhost",
    "localhost/",
    "::1",
    "[::1",
    "[localhost]",
    "[::1%25eth0]",
    "0127.0.0.1",
    "127.1",
    "localhost, localhost",
    "loc\u00e4lhost",
]


@pytest.mark.parametrize("host", OURS)
@pytest.mark.parametrize(("method", "path"), GUARDED)
async def test_names_that_are_ours(method: str, path: str, host: str) -> None:
    assert (await Listener().ask(method, path, but(host=host))).status == 200


@pytest.mark.parametrize("host", NOT_OURS)
@pytest.mark.parametrize(("method", "path"), GUARDED)
async def test_any_other_name_is_421(method: str, path: str, host: str) -> None:
    it = Listener()
    assert (await it.ask(method, path, but(host=host))).status == 421
    assert it.told == []


@pytest.mark.parametrize("hosts", [(), ("localhost", "localhost"), ("localhost", "evil.example")])
async def test_there_is_one_name(hosts: tuple[str, ...]) -> None:
    fields = [*without("host").items(), *(("host", host) for host in hosts)]
    assert (await Listener().ask("GET", "/usage", fields)).status == 421


@given(host=st.text(st.characters(max_codepoint=255), max_size=30))
async def test_no_host_crashes_or_is_taken_by_mistake(host: str) -> None:
    response = await Listener().ask("GET", "/usage", but(host=host))
    if response.status != 421:
        bare = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
        assert bare.strip("[]").replace(".", "").replace(":", "").isalnum()


# -- changes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("http://127.0.0.1:8081", 200),
        ("https://gateway.internal", 200),
        ("https://gateway.internal:9443", 200),
        ("http://evil.example", 403),
        ("http://127.0.0.1:9999", 403),
        ("http://203.0.113.5", 403),
        ("http://localhost:3000", 403),
        ("null", 403),
        ("", 403),
        ("127.0.0.1:8081", 403),
    ],
)
@pytest.mark.parametrize("path", POSTS)
async def test_pages_of_other_origins_change_nothing(path: str, origin: str, status: int) -> None:
    it = Listener()
    response = await it.ask("POST", path, but(origin=origin))
    assert (response.status, len(it.told)) == (status, int(status == 200))


@pytest.mark.parametrize("path", POSTS)
async def test_one_good_origin_does_not_make_another_good(path: str) -> None:
    fields = [*GOOD.items(), ("origin", "http://127.0.0.1:8081"), ("origin", "http://evil.example")]
    assert (await Listener().ask("POST", path, fields)).status == 403


async def test_reading_takes_no_origin() -> None:
    assert (await Listener().ask("GET", "/usage", but(origin="http://evil.example"))).status == 200


@pytest.mark.parametrize(
    ("content_type", "status"),
    [
        ("application/json", 200),
        ("Application/JSON; charset=utf-8", 200),
        ("", 415),
        ("text/plain", 415),
        ("application/x-www-form-urlencoded", 415),
        ("multipart/form-data; boundary=x", 415),
        ("text/plain; application/json", 415),
        ("application/json+x", 415),
    ],
)
@pytest.mark.parametrize("path", POSTS)
async def test_a_form_cannot_say_this(path: str, content_type: str, status: int) -> None:
    it = Listener()
    response = await it.ask("POST", path, but(content_type=content_type))
    assert (response.status, len(it.told)) == (status, int(status == 200))


async def test_content_type_must_be_there() -> None:
    assert (await Listener().ask("POST", "/reload", without("content-type"))).status == 415


BAD_BODIES = [
    b"",
    b"x",
    b"[]",
    b"null",
    b'"x"',
    b"{",
    b"{}{}",
    b'{"a": 1, "a": 2}',
    b'{"a": {"b": 1, "b": 2}}',
    b'{"a": NaN}',
    b'{"a": Infinity}',
    b'{"a": 1e999}',
    b'{"a": -1e999}',
    b'{"a": ' + b"9" * 5000 + b"}",
    b'{"a": "\xff"}',
    b"\xef\xbb\xbf{}",
    b'{"a":' * 3000 + b"1" + b"}" * 3000,
    b"[" * 20000,
    '{"a": 1}'.encode("utf-16"),
]


@pytest.mark.parametrize("body", BAD_BODIES, ids=lambda body: repr(body[:12]))
@pytest.mark.parametrize("path", POSTS)
async def test_what_is_no_object_is_refused(path: str, body: bytes) -> None:
    it = Listener()
    response = await it.ask("POST", path, GOOD, body)
    assert (response.status, it.told) == (400, [])
    assert response.json()["error"].startswith("The body must be one JSON object")


@given(body=st.one_of(st.binary(max_size=60), st.text(max_size=60).map(str.encode)))
async def test_no_body_crashes(body: bytes) -> None:
    assert (await Listener().ask("POST", "/explain", GOOD, body)).status in {200, 400}


@pytest.mark.parametrize("path", ["/revocations", "/explain"])
async def test_what_was_said_is_handed_on_and_the_outcome_back(path: str) -> None:
    it = Listener(outcome=(409, {"faults": ["\ud800 ünd <script>"]}))
    response = await it.ask("POST", path, GOOD, b'{"n": 1, "x": 1.5,', b' "s": "\\ud800\xc3\xa4"}')
    assert it.told == [{"n": 1, "x": 1.5, "s": "\ud800ä"}]
    assert (response.status, response.json()) == (409, {"faults": ["\ud800 ünd <script>"]})
    assert response.body.isascii()


async def test_reload_is_told_nothing() -> None:
    it = Listener(outcome=(409, {"mistakes": ["x"]}))
    response = await it.ask("POST", "/reload", GOOD, b"{}")
    assert (response.status, response.json(), it.told) == (409, {"mistakes": ["x"]}, ["reload"])
    assert (await it.ask("POST", "/reload", GOOD, b'{"policies": true}')).status == 400
    assert it.told == ["reload"]


@pytest.mark.parametrize(("over", "status"), [(0, 200), (1, 413)])
async def test_a_body_has_an_end(over: int, status: int) -> None:
    body = b'{"a": "' + b"x" * (MAX_BODY_BYTES + over - 9) + b'"}'
    it = Listener()
    response = await it.ask("POST", "/explain", GOOD, body[:1000], body[1000:])
    assert (response.status, len(it.told)) == (status, int(status == 200))
    assert ("connection" in response.headers) == (status == 413)


# -- calls there are -------------------------------------------------------------------------------

ALLOW = {
    "/healthz": "GET, HEAD",
    "/readyz": "GET, HEAD",
    "/metrics": "GET, HEAD",
    "/usage": "GET, HEAD",
    "/revocations": "GET, HEAD, POST",
    "/reload": "POST",
    "/explain": "POST",
    "/purge": "POST",
    "/live": "GET, HEAD",
    "/": "GET, HEAD",
    "/page.css": "GET, HEAD",
    "/page.js": "GET, HEAD",
}


@pytest.mark.parametrize("path", ALLOW)
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"])
async def test_other_methods_are_405(path: str, method: str) -> None:
    response = await Listener().ask(method, path)
    if method in ALLOW[path].split(", "):
        assert response.status == 200
    else:
        assert (response.status, response.headers["allow"]) == (405, ALLOW[path])


@pytest.mark.parametrize(
    "path",
    [
        "/page.html",
        "/page/page.js",
        "/usage/",
        "//usage",
        "/Usage",
        "/nothing/Wilhelmina",
        "/healthz/x",
        "/..",
    ],
)
async def test_other_paths_are_404(path: str) -> None:
    response = await Listener().ask("GET", path)
    assert (response.status, response.json()) == (404, {"error": "There is no such call."})


def test_every_call_is_documented_and_no_other() -> None:
    page = (Path(__file__).parents[2] / "docs" / "operating.md").read_text()
    routes = [route for route in Listener().app.routes if isinstance(route, Route)]
    assert {route.path for route in routes} == ALLOW.keys()
    for route in routes:
        for method in ("GET", "POST"):
            assert (f"| `{method} {route.path}` |" in page) == (method in (route.methods or ()))


EVERY_REPLY: Mapping[str, tuple[str, str, Mapping[str, str], int]] = {
    "health": ("GET", "/healthz", GOOD, 200),
    "metrics": ("GET", "/metrics", GOOD, 200),
    "usage": ("GET", "/usage", GOOD, 200),
    "done": ("POST", "/reload", GOOD, 200),
    "no token": ("GET", "/usage", without("authorization"), 401),
    "no origin": ("POST", "/reload", but(origin="http://Wilhelmina.example"), 403),
    "no call": ("GET", "/Wilhelmina", GOOD, 404),
    "no method": ("PUT", "/usage", GOOD, 405),
    "preflight": ("OPTIONS", "/reload", but(origin="http://Wilhelmina.example"), 405),
    "no content type": ("POST", "/reload", but(content_type="Wilhelmina"), 415),
    "no name": ("GET", "/usage", but(host="Wilhelmina"), 421),
}


@pytest.mark.parametrize("name", EVERY_REPLY)
async def test_every_reply_stays_where_it_is(name: str) -> None:
    method, path, fields, status = EVERY_REPLY[name]
    response = await Listener().ask(method, path, fields)
    assert response.status == status
    assert response.headers["cache-control"] == "no-store"
    assert response.headers["x-content-type-options"] == "nosniff"
    assert not any(name.startswith("access-control-") for name in response.headers)
    assert "Wilhelmina" not in f"{response.headers}{response.body!r}"
    assert TOKEN not in f"{response.headers}{response.body!r}"


@pytest.mark.parametrize("path", ["/revocations", "/explain"])
async def test_a_crash_says_nothing(path: str) -> None:
    it = Listener(outcome=(200, {"not JSON": float("nan")}))
    with pytest.raises(ValueError, match="JSON"):
        await it.ask("POST", path)


async def test_half_a_body_changes_nothing() -> None:
    it = Listener()
    sent = []

    async def receive() -> dict[str, object]:
        return {"type": "http.disconnect"}

    async def send(message: object) -> None:
        sent.append(message)

    headers = [(name.encode(), value.encode()) for name, value in GOOD.items()]
    scope = {"type": "http", "method": "POST", "path": "/reload", "query_string": b"", "headers": headers}
    await it.app(scope, receive, send)
    assert it.told == []
    assert json.dumps(str(sent)).count("'status': 400") == 1
