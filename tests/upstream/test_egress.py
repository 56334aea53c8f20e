"""Requests by an egress proxy: what it gets to see, and what it can do."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.core.errors import Reason
from gateway.upstream.session import Session, Unanswered, trusted
from tests.identity_provider import CA_FILE, certified
from tests.proxy import FAILURES, WORDS, Proxy, hangs, proxying, says, tunnels_nowhere
from tests.support import until
from tests.upstream.peers import ANSWER, FIELDS, Peer, always, peer

pytestmark = pytest.mark.anyio

KEY = (b"authorization", b"LivePerson appKey=9e11ad9b22")


@contextlib.asynccontextmanager
async def stage(folder: Path) -> AsyncIterator[tuple[Peer, Proxy, Session]]:
    """An upstream over TLS, a proxy before it, and a session that goes by it."""
    context = certified(folder)
    async with peer(always(ANSWER), context) as it, proxying() as proxy:
        session = Session(10, 15.0, proxy.url, trusted(folder / CA_FILE))
        try:
            yield it, proxy, session
        finally:
            await session.aclose()


async def ask(by: Session, origin: str) -> bytes:
    async with asyncio.timeout(5):
        return (await by.ask("GET", f"{origin}/path?a=b", (*FIELDS, KEY), 1000)).body


async def test_the_key_is_in_the_tunnel_and_nowhere_else(tmp_path: Path) -> None:
    async with stage(tmp_path) as (it, proxy, session):
        assert [await ask(session, it.origin) for _ in range(3)] == [b"body"] * 3
        place = it.origin.removeprefix("https://").encode()
        # One tunnel for all of them, as a connection is kept.
        [head] = proxy.heads
        assert head.startswith(b"CONNECT %b HTTP/1.1\r\nHost: %b\r\n" % (place, place))
        assert b"uthorization" not in head
        assert b"appKey" not in proxy.sent
        assert b"/path" not in proxy.sent
        assert [request.count(b"appKey=9e11ad9b22") for request in it.requests] == [1] * 3
        assert all(request.startswith(b"GET /path?a=b HTTP/1.1\r\n") for request in it.requests)


async def test_a_plain_upstream_elsewhere_is_asked_by_the_proxy_too() -> None:
    async with proxying() as proxy:
        proxy.behaviour = says(ANSWER)
        session = Session(10, 15.0, proxy.url)
        assert await ask(session, "http://upstream.example") == b"body"
        await session.aclose()
    [head] = proxy.heads
    assert head.startswith(b"GET http://upstream.example/path?a=b HTTP/1.1\r\n")
    # There is nothing to hide it in.
    assert b"appKey=9e11ad9b22" in head


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_what_is_plain_and_for_this_machine_does_not_leave_it(host: str) -> None:
    async with peer(always(ANSWER)) as it, proxying() as proxy:
        session = Session(10, 15.0, proxy.url)
        assert await ask(session, it.origin.replace("127.0.0.1", host)) == b"body"
        await session.aclose()
        assert (proxy.heads, len(it.requests)) == ([], 1)


async def test_proxies_of_the_environment_are_not_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with stage(tmp_path) as (it, proxy, _), proxying() as other:
        for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, other.url)
        monkeypatch.setenv("no_proxy", "*")
        for by, asked in ((None, 0), (proxy.url, 1)):
            session = Session(10, 15.0, by, trusted(tmp_path / CA_FILE))
            assert await ask(session, it.origin) == b"body"
            await session.aclose()
            assert (len(proxy.heads), len(other.heads)) == (asked, 0)


@pytest.mark.parametrize("name", FAILURES)
async def test_a_proxy_that_makes_no_tunnel(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    missed: list[str] = []
    async with stage(tmp_path) as (it, proxy, session):
        proxy.behaviour = FAILURES[name]
        with caplog.at_level(logging.DEBUG, "aiohttp"), pytest.raises(Unanswered) as why:
            await session.ask("GET", it.origin, (*FIELDS, KEY), 1000, missed=lambda: missed.append(name))
        assert (why.value.reason, why.value.unseen) == (Reason.UPSTREAM_UNREACHABLE, False)
        assert missed == [name]
        assert WORDS.decode() not in f"{why.value!r} {why.value} {caplog.text}"
        assert b"appKey" not in proxy.sent
        assert len(proxy.heads) == 1
        await until(lambda: proxy.open == 0)
        proxy.behaviour = None
        assert await ask(session, it.origin) == b"body"
        assert session._places._value == 10


@pytest.mark.parametrize("behaviour", [hangs, tunnels_nowhere])
async def test_a_proxy_that_hangs_is_left(tmp_path: Path, behaviour: object) -> None:
    missed: list[int] = []
    async with stage(tmp_path) as (it, proxy, session):
        proxy.behaviour = hangs if behaviour is hangs else tunnels_nowhere
        asking = asyncio.create_task(
            session.ask("GET", it.origin, (*FIELDS, KEY), 1000, missed=lambda: missed.append(1))
        )
        # Also into the handshake, where there is one.
        await until(lambda: proxy.open == 1 and bool(proxy.heads))
        await asyncio.sleep(0.02)
        asking.cancel()
        await asyncio.wait([asking])
        assert asking.cancelled()
        assert missed == [1]
        await until(lambda: proxy.open == 0)
        proxy.behaviour = None
        assert await ask(session, it.origin) == b"body"


async def test_no_proxy_is_unreachable(tmp_path: Path) -> None:
    async with stage(tmp_path) as (it, _, _session):
        for proxy in ("http://127.0.0.1:1", "http://no-such-host.invalid:3128"):
            session = Session(10, 15.0, proxy)
            for origin in (it.origin, "http://127.0.0.1:1"):
                with pytest.raises(Unanswered) as why:
                    await ask(session, origin)
                assert why.value.reason is Reason.UPSTREAM_UNREACHABLE
            await session.aclose()


async def test_a_certificate_is_looked_at_through_the_tunnel(tmp_path: Path) -> None:
    async with stage(tmp_path) as (it, proxy, _):
        session = Session(10, 15.0, proxy.url)
        with pytest.raises(Unanswered) as why:
            await ask(session, it.origin)
        assert why.value.reason is Reason.UPSTREAM_UNREACHABLE
        assert not it.requests
        await session.aclose()
