"""An upstream that sends what it shouldn't, or nothing: what its clients get, and what is kept."""

from __future__ import annotations

import asyncio
import gzip
import json
import re
import zlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.emulator import Drip, Drop, EmulatorConfig, Fault, Hang, Reset, Truncate
from tests.support import APP_KEY, FRESH_S, World, account_path, chat_path, short_lived, world

pytestmark = pytest.mark.anyio

DEADLINE_S = 0.4
LIMITS = {
    "UPSTREAM__DEADLINE_MS": str(int(DEADLINE_S * 1000)),
    "UPSTREAM__STALE_AFTER_MS": "100",
    "UPSTREAM__MAX_ANSWER_BYTES": "65536",
}


@pytest.fixture(scope="module")
async def shared_world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    config = EmulatorConfig(app_key=APP_KEY)
    async with world(tmp_path_factory.mktemp("world"), emulator=config, environ=LIMITS) as it:
        yield it


LARGE = json.dumps({"info": {"state": "chatting", "pad": "x" * 70_000}}).encode()

#: name → the fault, the status a client gets and the problem's type.
BROKEN: dict[str, tuple[Fault, int, str]] = {
    "redirect": (Fault(redirect="https://evil.example/"), 502, "upstream-redirect"),
    "redirect home": (Fault(redirect=account_path() + "?v=1", status=307), 502, "upstream-redirect"),
    "not modified": (Fault(status=304, body=b""), 502, "upstream-redirect"),
    "no content": (Fault(status=204, body=b""), 502, "upstream-broken"),
    "part of it": (Fault(status=206), 502, "upstream-broken"),
    "html": (Fault(content_type="text/html", body=b"<html>down</html>"), 502, "upstream-broken"),
    "html said to be json": (Fault(body=b"<html>down</html>"), 502, "upstream-broken"),
    "xml for json": (Fault(content_type="application/xml", body=b"<info/>"), 502, "upstream-broken"),
    "nothing": (Fault(body=b""), 502, "upstream-broken"),
    "half of it": (Fault(body=b'{"info": {"state": "cha'), 502, "upstream-broken"),
    "NaN": (Fault(body=b'{"info": {"duration": NaN}}'), 502, "upstream-broken"),
    "infinity": (Fault(body=b'{"info": {"duration": -Infinity}}'), 502, "upstream-broken"),
    "deep": (Fault(body=b'{"a":' * 5_000 + b"1" + b"}" * 5_000), 502, "upstream-broken"),
    "not text": (Fault(body=b'{"info": "\xff\xfe"}'), 502, "upstream-broken"),
    "too large": (Fault(body=LARGE), 502, "upstream-broken"),
    "too large once inflated": (
        Fault(body=b"[" + b" " * 5_000_000 + b"]", gzip=True),
        502,
        "upstream-broken",
    ),
    "said to be gzip": (Fault(headers=((b"content-encoding", b"gzip"),)), 502, "upstream-broken"),
    "gzip cut short": (
        Fault(body=gzip.compress(b"{}" * 99)[:-9], headers=((b"content-encoding", b"gzip"),)),
        502,
        "upstream-broken",
    ),
    "unknown coding": (Fault(headers=((b"content-encoding", b"br"),)), 502, "upstream-broken"),
    "truncated": (Fault(delivery=Truncate(20)), 502, "upstream-reset"),
    "truncated at once": (Fault(delivery=Truncate(0)), 502, "upstream-reset"),
    "reset in the body": (Fault(delivery=Reset(200)), 502, "upstream-reset"),
    "hangs": (Fault(delivery=Hang()), 504, "upstream-timeout"),
    "drips past the deadline": (Fault(delivery=Drip(8, 0.05)), 504, "upstream-timeout"),
    "too slow": (Fault(delay_s=DEADLINE_S + 0.2), 504, "upstream-timeout"),
    "500": (Fault(status=500, code=20), 502, "upstream-error"),
    "503 with a pause": (Fault(status=503, retry_after="1"), 502, "upstream-error"),
    "an unknown status": (Fault(status=599), 502, "upstream-error"),
    "our key": (Fault(status=401, code=10), 502, "key-refused"),
    "our scheme": (Fault(status=400, code=5), 502, "key-refused"),
    "forbidden": (Fault(status=403), 502, "key-refused"),
}


@pytest.mark.parametrize("name", BROKEN)
async def test_a_broken_answer_is_a_problem_and_not_kept(here: World, name: str) -> None:
    fault, status, problem = BROKEN[name]
    target = chat_path(here.chat(), "/info")
    here.emulator.fail(fault)
    response = await here.get(target)
    assert (response.status, response.problem) == (status, problem)
    assert response.header("content-type") == "application/problem+json"
    assert response.header("location") is None
    assert here.upstream_requests() == 1
    # The next one waits out the step, and then asks again.
    held = await here.get(target)
    assert (held.status, held.problem) == (status, problem)
    assert here.upstream_requests() == 1


@pytest.mark.parametrize("name", ["half of it", "truncated", "500", "redirect", "drips past the deadline"])
async def test_resources_that_are_only_forwarded_fail_the_same(here: World, name: str) -> None:
    fault, status, problem = BROKEN[name]
    here.emulator.fail(fault)
    response = await here.get(account_path("/chat/preSurvey"), accept="application/xml")
    assert (response.status, response.problem) == (
        status,
        problem if name != "half of it" else "upstream-broken",
    )
    assert response.header("content-type") == "application/problem+xml"
    assert (await here.get(account_path("/chat/preSurvey"))).status == 200


@pytest.mark.parametrize(
    ("fault", "problem"),
    [
        (Fault(delivery=Hang()), "upstream-timeout"),
        (Fault(delivery=Reset(20)), "upstream-reset"),
        (Fault(body=b"{}", content_type="application/json", delivery=Truncate(1)), "upstream-reset"),
        (Fault(status=500), "upstream-error"),
        (Fault(status=302, redirect="/"), "upstream-redirect"),
    ],
)
async def test_a_write_is_never_sent_twice(here: World, fault: Fault, problem: str) -> None:
    chat = here.chat()
    here.emulator.fail(fault)
    said = {"event": {"@type": "line", "text": "once"}}
    response = await here.write("POST", chat_path(chat, "/events"), said)
    assert response.problem == problem
    assert here.upstream_requests() == 1


async def test_all_that_a_good_answer_brings_along_is_dropped(here: World) -> None:
    here.emulator.fail(
        Fault(
            set_cookie="session=secret",
            headers=(
                (b"cache-control", b"public, max-age=3600"),
                (b"etag", b'"theirs"'),
                (b"age", b"7"),
                (b"expires", b"Thu, 01 Jan 2099 00:00:00 GMT"),
                (b"last-modified", b"Thu, 01 Jan 2015 00:00:00 GMT"),
                (b"vary", b"*"),
                (b"server", b"Apache"),
                (b"access-control-allow-origin", b"*"),
                (b"strict-transport-security", b"max-age=1"),
                (b"x-lp-host", b"va-e.convep.liveperson.net"),
                (b"connection", b"keep-alive, x-hop"),
                (b"x-hop", b"1"),
            ),
        )
    )
    response = await here.get(chat_path(here.chat(), "/info"))
    assert response.status == 200
    assert {name for name, _ in response.headers} == {
        *("content-type", "content-length", "cache-control", "vary", "etag"),
        *("date", "via", "x-request-id", "age", "cache-status"),
    }
    assert response.header("cache-control") == "private, no-cache"
    assert response.header("age") == "0"
    assert "theirs" not in (response.header("etag") or "")


async def test_no_cookie_goes_back_up(tmp_path: Path) -> None:
    async with world(tmp_path, emulator=EmulatorConfig(app_key=APP_KEY, record=10)) as it:
        it.emulator.fail(Fault(set_cookie="session=secret; Path=/", times=None))
        for _ in range(3):
            assert (await it.get(account_path())).status == 200
        assert not it.emulator.saw(b"ookie")


@pytest.mark.parametrize("coding", ["gzip", "x-gzip", "deflate"])
async def test_a_compressed_answer_is_understood(here: World, coding: str) -> None:
    plain = b'{"info": {"state": "chatting"}}'
    body = zlib.compress(plain) if coding == "deflate" else gzip.compress(plain)
    here.emulator.fail(Fault(body=body, headers=((b"content-encoding", coding.encode()),)))
    response = await here.get(chat_path(here.chat(), "/info"))
    assert (response.status, response.body) == (200, plain)
    assert response.header("content-encoding") is None


async def test_a_redirect_is_not_followed(here: World) -> None:
    here.emulator.fail(Fault(redirect=here.server.url + account_path("/chat/availability") + "?v=1"))
    assert (await here.get(account_path())).status == 502
    assert here.emulator.counts().totals() == {"base": 1}


async def test_a_slow_upstream_is_covered_by_the_last_good_answer(tmp_path: Path) -> None:
    async with world(tmp_path, environ=short_lived(tmp_path) | LIMITS) as it:
        target = chat_path(it.chat(), "/info")
        first = await it.get(target)
        await asyncio.sleep(FRESH_S)
        it.emulator.fail(Fault(delivery=Hang()))
        stale = await it.get(target)
        assert (stale.status, stale.body) == (200, first.body)
        assert re.search("hit; ttl=-[0-9]+$", stale.header("cache-status") or "")


async def test_a_pause_is_kept_and_told(tmp_path: Path) -> None:
    async with world(tmp_path) as it:
        it.emulator.fail(Fault(status=429, retry_after="3"))
        first = await it.get(account_path())
        second = await it.get(chat_path(it.chat(), "/info"))
        for response in (first, second):
            assert (response.status, response.problem) == (503, "upstream-throttled")
            assert response.header("retry-after") == "3"
        assert it.upstream_requests() == 1


@pytest.mark.parametrize(
    ("status", "code", "message"),
    [
        (400, 5, "Cannot add line while not in chat"),
        (404, 12, "Chat session not found"),
        (409, 99, "something new"),
    ],
)
@pytest.mark.parametrize("accept", ["application/json", "application/xml"])
async def test_the_callers_fault_passes_in_the_upstreams_words(
    here: World, status: int, code: int, message: str, accept: str
) -> None:
    here.emulator.fail(Fault(status=status, code=code, message=message))
    response = await here.write(
        "POST", chat_path(here.chat(), "/events"), {"event": {"@type": "line", "text": "x"}}, accept=accept
    )
    assert (response.status, response.header("content-type")) == (status, accept)
    assert message.encode() in response.body
    assert str(code).encode() in response.body


@pytest.mark.parametrize("message", ["Invalid User", "Bad captcha"])
async def test_a_chat_that_is_refused_is_the_callers_fault(here: World, message: str) -> None:
    here.emulator.fail(Fault(status=401, code=10, message=message))
    response = await here.write("POST", account_path("/chat/request"), {"request": {}})
    assert (response.status, response.json()["error"]["message"]) == (401, message)
    assert response.header("www-authenticate") is None


async def test_addresses_in_the_upstreams_words_are_removed(here: World) -> None:
    address = f"{here.server.url}/api/account/123/x?v=1&appKey={APP_KEY}"
    said = f"null for uri: {address} at va-e.convep.liveperson.net:443"
    here.emulator.fail(Fault(status=404, code=28, message=said))
    response = await here.get(account_path("/chat/availability"))
    assert (response.status, response.json()["error"]["internalCode"]) == (404, 28)
    for secret in (APP_KEY, "liveperson", str(here.server.port), "127.0.0.1"):
        assert secret not in response.json()["error"]["message"]


@pytest.mark.parametrize("delivery", [Drop(), Reset(0)])
async def test_a_kept_connection_that_closed_costs_a_read_one_more_try(
    here: World, delivery: Drop | Reset
) -> None:
    await here.get(account_path())
    assert len(here.server.connections) == 1
    here.start_over()
    here.emulator.fail(Fault(delivery=delivery))
    assert (await here.get(account_path())).status == 200
    assert here.upstream_requests() == 2


@pytest.mark.parametrize("delivery", [Drop(), Reset(0)])
async def test_one_more_try_and_not_two(here: World, delivery: Drop | Reset) -> None:
    await here.get(account_path())
    here.start_over()
    here.emulator.fail(Fault(delivery=delivery, times=3))
    response = await here.get(account_path())
    assert (response.status, response.problem) == (502, "upstream-reset")
    assert here.upstream_requests() == 2


@pytest.mark.parametrize("delivery", [Drop(), Reset(0)])
async def test_a_new_connection_that_closed_is_not_tried_again(
    tmp_path: Path, delivery: Drop | Reset
) -> None:
    async with world(tmp_path) as it:
        it.emulator.fail(Fault(delivery=delivery))
        response = await it.get(account_path())
        assert (response.status, response.problem) == (502, "upstream-reset")
        assert it.upstream_requests() == 1


async def test_once_the_answers_head_is_there_nothing_is_tried_again(here: World) -> None:
    await here.get(account_path())
    here.start_over()
    here.emulator.fail(Fault(delivery=Reset(400)))
    response = await here.get(account_path())
    assert (response.status, response.problem) == (502, "upstream-reset")
    assert here.upstream_requests() == 1


@pytest.mark.parametrize("delivery", [Drop(), Reset(0)])
async def test_a_write_on_a_closed_connection_is_not_tried_again(here: World, delivery: Drop | Reset) -> None:
    chat = here.chat()
    await here.get(account_path())
    here.start_over()
    here.emulator.fail(Fault(delivery=delivery))
    response = await here.write("PUT", chat_path(chat, "/info/visitorName"), {"visitorName": "Z"})
    assert (response.status, response.problem) == (502, "upstream-reset")
    assert here.upstream_requests() == 1


async def test_nobody_there(tmp_path: Path) -> None:
    async with world(tmp_path) as it:
        await it.server.close()
        for target in (account_path(), chat_path("H1-1", "/info")):
            response = await it.get(target)
            assert (response.status, response.problem) == (502, "upstream-unreachable")
            assert (response.header("proxy-status") or "").endswith("error=destination_unavailable")
