"""The outward header fields: conditional requests, CORS, ids, Via, Age and the like."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from gateway.emulator import Fault
from tests.support import World, account_path, chat_path, message, world

pytestmark = pytest.mark.anyio

SITE = "https://site.example"


@pytest.mark.parametrize("accept", ["application/json", "application/xml"])
async def test_a_known_etag_saves_the_body(here: World, accept: str) -> None:
    target = chat_path(here.chat(), "/info")
    first = await here.get(target, accept=accept)
    etag = first.header("etag") or ""
    assert etag.startswith('W/"')
    for known in (etag, etag.removeprefix("W/"), f'"other", {etag}', "*"):
        second = await here.get(target, accept=accept, if_none_match=known)
        assert (second.status, second.body) == (304, b""), known
        assert second.header("etag") == etag
        assert second.header("content-length") is None
    assert (await here.get(target, accept=accept, if_none_match='"other"')).status == 200
    assert here.upstream_requests() == 1


async def test_the_etag_moves_with_the_chat_and_not_with_the_polls(here: World) -> None:
    chat = here.chat()
    target = chat_path(chat, "/info")
    etag = (await here.get(target)).header("etag")
    # A write of no effect makes the next read ask again: only lastUpdate differs.
    await here.write("PUT", chat_path(chat, "/customVariables"), {"customVariables": {}})
    again = await here.get(target)
    assert "fwd=miss" in (again.header("cache-status") or "")
    assert again.header("etag") == etag
    await here.write("PUT", chat_path(chat, "/info/visitorName"), {"visitorName": "Zoe"})
    assert (await here.get(target)).header("etag") != etag


@pytest.mark.parametrize("given", ["abc", "A-b_c.9", "x" * 64])
async def test_a_request_id_is_kept(here: World, given: str) -> None:
    response = await here.get(account_path("/nothing"), x_request_id=given)
    assert response.header("x-request-id") == given
    assert response.json()["request_id"] == given


@pytest.mark.parametrize("given", ["", "x" * 65, "a b", 'a"<&', "ü", None])
async def test_a_request_id_of_another_shape_is_replaced(here: World, given: str | None) -> None:
    fields = {} if given is None else {"x-request-id": given}
    response = await here.ask("GET", account_path(), fields)
    assert re.fullmatch("[0-9a-f]{16}", response.header("x-request-id") or "")


@pytest.mark.parametrize("path", ["", "/nothing", "/chat/H1-1/info"])
async def test_what_every_reply_has(here: World, path: str) -> None:
    response = await here.get(account_path(path))
    assert response.header("via") == "1.1 chat-gateway"
    assert re.fullmatch(r"\w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT", response.header("date") or "")
    assert response.header("vary") == "Accept, Authorization"
    assert response.header("server") is None
    assert response.header("x-request-id")


async def test_how_an_answer_came_is_told(here: World) -> None:
    chat = here.chat()
    info, typing = chat_path(chat, "/info"), chat_path(chat, "/info/agentTyping")
    told = [(await here.get(target)).header("cache-status") for target in (info, info, typing)]
    told.append(
        (await here.write("PUT", chat_path(chat, "/info/visitorName"), {"visitorName": "Z"})).header(
            "cache-status"
        )
    )
    assert told[0] == "chat-gateway; fwd=miss; fwd-status=200; stored"
    assert (told[1] or "").startswith("chat-gateway; hit; ttl=")
    assert told[2:] == [
        "chat-gateway; fwd=bypass; fwd-status=200",
        "chat-gateway; fwd=method; fwd-status=201",
    ]
    assert (await here.get(info)).header("age") == "0"
    assert (await here.get(info)).header("cache-control") == "private, no-cache"


async def test_a_failure_is_told(here: World) -> None:
    here.emulator.fail(Fault(status=503))
    response = await here.get(account_path())
    assert (response.status, response.problem) == (502, "upstream-error")
    assert response.header("proxy-status") == "chat-gateway; received-status=503"


async def test_without_configuration_there_is_no_cors(here: World) -> None:
    response = await here.get(account_path(), origin=SITE)
    preflight = await here.ask(
        "OPTIONS", account_path(), {"origin": SITE, "access-control-request-method": "GET"}, subject=None
    )
    assert preflight.status == 401
    for reply in (response, preflight):
        assert not [name for name, _ in reply.headers if name.startswith("access-control-")]


async def test_configured_origins_may_read(tmp_path: Path) -> None:
    async with world(tmp_path, cors={"origins": [SITE], "max_age_s": 77}) as it:
        response = await it.get(account_path(), origin=SITE)
        assert response.header("access-control-allow-origin") == SITE
        assert "ETag" in (response.header("access-control-expose-headers") or "")
        refused = await it.ask("GET", account_path(), {"origin": SITE}, subject=None)
        assert (refused.status, refused.header("access-control-allow-origin")) == (401, SITE)
        asked = {"origin": SITE, "access-control-request-method": "PUT"}
        preflight = await it.ask("OPTIONS", account_path("/any/thing"), asked, subject=None)
        assert (preflight.status, preflight.body) == (204, b"")
        assert preflight.header("access-control-allow-origin") == SITE
        assert preflight.header("access-control-max-age") == "77"
        assert "PUT" in (preflight.header("access-control-allow-methods") or "")
        assert "Authorization" in (preflight.header("access-control-allow-headers") or "")
        for other in ("https://evil.example", f"{SITE}.evil.example", SITE.upper(), "null"):
            response = await it.get(account_path(), origin=other)
            assert response.header("access-control-allow-origin") is None
            preflight = await it.ask("OPTIONS", account_path(), {**asked, "origin": other}, subject=None)
            assert preflight.status == 401
        assert it.upstream_requests() == 5


async def test_replies_that_depend_on_the_origin_say_so(tmp_path: Path) -> None:
    async with world(tmp_path, cors={"origins": [SITE]}) as it:
        for origin in (SITE, "https://other.example"):
            assert "Origin" in ((await it.get(account_path(), origin=origin)).header("vary") or "")


async def test_a_connection_is_kept_over_answers_and_refusals(here: World) -> None:
    info = chat_path(here.chat(), "/info")
    async with here.wire() as wire:
        for target, status in ((info, 200), ("/x", 404), (info + "?x=1", 400), (info, 200)):
            assert (await wire.ask("GET", target, here.bearer())).status == status
        assert (await wire.ask("GET", info)).status == 401
        last = await wire.ask("GET", info, {**here.bearer(), "connection": "close"})
        assert last.header("connection") == "close"
        assert await wire.until_closed() == b""


async def test_requests_in_one_write_are_answered_in_order(here: World) -> None:
    targets = ["", "/chat/availability", "/nothing", "/chat/availableSlots"]
    async with here.wire() as wire:
        await wire.send(b"".join(message("GET", account_path(t), here.bearer()) for t in targets))
        assert [(await wire.response()).status for _ in targets] == [200, 200, 404, 200]


async def test_a_client_that_waits_for_100_continue(here: World) -> None:
    body = b'{"visitorName": "Zoe"}'
    fields = {**here.bearer(), "content-type": "application/json", "expect": "100-continue"}
    request = message("PUT", chat_path(here.chat(), "/info/visitorName"), fields, body)
    async with here.wire() as wire:
        await wire.send(request.removesuffix(body))
        assert (await wire.response()).status == 100
        await wire.send(body)
        assert (await wire.response()).status == 201


async def test_http_1_0(here: World) -> None:
    async with here.wire() as wire:
        await wire.send(message("GET", account_path(), here.bearer()).replace(b"HTTP/1.1", b"HTTP/1.0"))
        assert (await wire.response()).status == 200
        assert await wire.until_closed() == b""


async def test_a_write_answered_with_nothing(tmp_path: Path) -> None:
    async with world(tmp_path) as it:
        path = chat_path(it.chat(), "/info/visitorName")
        it.emulator.fail(Fault(status=204, body=b"", applies=True))
        response = await it.write("PUT", path, {"visitorName": "Zoe"})
        assert (response.status, response.header("content-length")) == (204, None)
        # An empty body that says it is compressed is an empty body: the write was carried out.
        it.emulator.fail(Fault(status=200, body=b"", headers=((b"content-encoding", b"gzip"),), applies=True))
        assert (await it.write("PUT", path, {"visitorName": "Zoe"})).status == 200


@pytest.mark.parametrize("path", ["/api", "/live/chat", ""])
async def test_the_public_path_may_be_sent_or_left_out(tmp_path: Path, path: str) -> None:
    async with world(tmp_path, public_url=f"https://chat.example{path}") as it:
        for prefix in {path, ""}:
            response = await it.get(prefix + account_path())
            assert response.status == 200
            assert f"https://chat.example{path}/api/account/".encode() in response.body
        assert (await it.get("/elsewhere" + account_path())).problem == "unknown-resource"
