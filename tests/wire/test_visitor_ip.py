"""Where a chat is started: whose address the vendor is told, by policy and by who forwards what."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.emulator import EmulatorConfig
from tests.support import APP_KEY, World, account_path, chat_path, policies_with, world

pytestmark = pytest.mark.anyio

START = account_path("/chat/request")
SAID, FORWARDED, PROXY = "198.51.100.9", "203.0.113.7", "192.0.2.1"

#: Bodies by representation: (content type, without an address, with one, what FROM_FORWARDED makes of it).
BODIES = {
    "json": (
        "application/json",
        b' {"request" : { "skill":"Sales"} } ',
        b'{"request":{"visitorIp":"198.51.100.9","skill":"Sales"}}',
        b' {"request" : {"visitorIp":"203.0.113.7", "skill":"Sales"} } ',
    ),
    "json, empty": (
        "application/json",
        b'{"request": {}}',
        b'{"request": {"visitorIp": "198.51.100.9"}}',
        b'{"request": {"visitorIp":"203.0.113.7"}}',
    ),
    "xml": (
        "application/xml",
        b"<request>\n  <skill>Sales</skill>\n</request>",
        b"<request><visitorIp>198.51.100.9</visitorIp></request>",
        b"<request><visitorIp>203.0.113.7</visitorIp>\n  <skill>Sales</skill>\n</request>",
    ),
    "xml, empty": (
        "application/xml",
        b'<?xml version="1.0"?><request/>',
        b"<request><visitorIp>198.51.100.9</visitorIp></request>",
        b'<?xml version="1.0"?><request><visitorIp>203.0.113.7</visitorIp></request>',
    ),
}
some = pytest.mark.parametrize("kind", BODIES)


@pytest.fixture(scope="module", params=["from_forwarded", "require", "pass"])
def rule(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
async def there(rule: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    """A world whose bff has this rule, and in which nobody's X-Forwarded-For is a proxy's."""
    folder = tmp_path_factory.mktemp(rule)
    policies = policies_with(folder / "ruled", "visitor_ip: from_forwarded", f"visitor_ip: {rule}")
    config = EmulatorConfig(app_key=APP_KEY, record=10_000)
    async with world(folder, emulator=config, policies=policies) as it:
        yield it


async def start(it: World, content_type: str, body: bytes, **fields: str) -> tuple[int, bytes | None]:
    """The status of the reply, and the body that the emulator got, if it got any."""
    it.start_over()
    named = {name.replace("_", "-"): value for name, value in fields.items()}
    async with it.wire() as wire:
        reply = await wire.ask("POST", START, {"content-type": content_type, **it.bearer(), **named}, body)
    if not it.emulator.recorded:
        assert (reply.status, reply.problem) == (400, "visitor-ip-missing")
        return reply.status, None
    return reply.status, sent_body(it)


def sent_body(it: World) -> bytes:
    """The body of the one request that the emulator got; no other part of it has an address."""
    [raw] = it.emulator.recorded
    head, _, body = raw.partition(b"\r\n\r\n")
    assert not any(address.encode() in head for address in (SAID, FORWARDED, PROXY))
    return body


@some
async def test_without_an_address(there: World, rule: str, kind: str) -> None:
    content_type, bare, _, _ = BODIES[kind]
    wanted = (201, bare) if rule == "pass" else (400, None)
    assert await start(there, content_type, bare) == wanted


@some
async def test_an_address_in_the_body_goes_first(there: World, kind: str) -> None:
    content_type, _, complete, _ = BODIES[kind]
    assert await start(there, content_type, complete) == (201, complete)
    assert await start(there, content_type, complete, x_forwarded_for=FORWARDED) == (201, complete)


@some
async def test_an_address_that_is_forwarded(there: World, rule: str, kind: str) -> None:
    content_type, bare, _, filled = BODIES[kind]
    wanted = {"pass": (201, bare), "require": (400, None), "from_forwarded": (201, filled)}
    assert await start(there, content_type, bare, x_forwarded_for=FORWARDED) == wanted[rule]


@pytest.mark.parametrize("forwarded", [f"{PROXY}, {FORWARDED}", f"garbage, {FORWARDED}:4711"])
async def test_without_trusted_proxies_the_last_one_counts(there: World, rule: str, forwarded: str) -> None:
    content_type, bare, _, filled = BODIES["json"]
    wanted = {"pass": (201, bare), "require": (400, None), "from_forwarded": (201, filled)}
    assert await start(there, content_type, bare, x_forwarded_for=forwarded) == wanted[rule]


@pytest.mark.parametrize("forwarded", ["unknown", f"{FORWARDED}, _hidden", "", "203.0.113.256"])
async def test_what_is_no_address_is_none(there: World, rule: str, forwarded: str) -> None:
    content_type, bare, _, _ = BODIES["json"]
    wanted = (201, bare) if rule == "pass" else (400, None)
    assert await start(there, content_type, bare, x_forwarded_for=forwarded) == wanted


@pytest.mark.parametrize(
    "body",
    [
        b'{"request": {"visitorIp": "visitor.example"}}',
        b'{"request": {"visitorIp": 7}}',
        b'{"request": {"visitorIp": null}}',
        b'{"other": {}}',
        b"[]",
    ],
)
async def test_a_body_that_has_something_else_there_is_refused(there: World, rule: str, body: bytes) -> None:
    _, sent = await start(there, "application/json", body, x_forwarded_for=FORWARDED)
    # If it is passed, what the vendor makes of it is the vendor's affair.
    assert sent == (body if rule == "pass" else None)


WRITES = {
    "a line": ("POST", "/events", b'{"event": {"@type": "line", "text": "request", "x": {"request": {}}}}'),
    "the name": ("PUT", "/info/visitorName", b'{"visitorName": "request"}'),
    "typing": ("PUT", "/info/visitorTyping", b'{"visitorTyping": "typing"}'),
    "variables": ("PUT", "/customVariables", b'{"request": {}}'),
}


@pytest.mark.parametrize("name", WRITES)
async def test_other_writes_are_left_alone(there: World, name: str) -> None:
    method, rest, body = WRITES[name]
    fields = {"content-type": "application/json", "x-forwarded-for": FORWARDED}
    there.start_over()
    await there.ask(method, chat_path(there.chat(), rest), fields, body)
    assert sent_body(there) == body


@pytest.mark.parametrize(
    ("forwarded", "visitor"),
    [
        # The proxy appended the address of the backend, which had said whose request it is.
        (f"{FORWARDED}, 10.1.2.3", FORWARDED),
        (f"{PROXY}, {FORWARDED}, 10.1.2.3, 127.0.0.9", FORWARDED),
        ("2001:db8::7, 10.1.2.3", "2001:db8::7"),
        # The backend said nothing: its own address is nobody's visitor.
        ("10.1.2.3", None),
        ("127.0.0.9", None),
        ("nobody, 10.1.2.3", None),
    ],
)
async def test_behind_trusted_proxies(tmp_path: Path, forwarded: str, visitor: str | None) -> None:
    config = EmulatorConfig(app_key=APP_KEY, record=10)
    async with world(tmp_path, emulator=config, trusted_proxies=["127.0.0.0/8"]) as it:
        status, sent = await start(it, "application/json", b'{"request":{}}', x_forwarded_for=forwarded)
        if visitor is None:
            assert (status, sent) == (400, None)
        else:
            assert status == 201
            assert json.loads(sent or b"") == {"request": {"visitorIp": visitor}}
