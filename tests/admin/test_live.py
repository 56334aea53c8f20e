"""The page's files, and the reply that lasts: for as long as somebody reads it."""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

import gateway.admin
from gateway.edge.operators import operators
from tests.admin.listener import GOOD, TOKEN, Listener, Reading
from tests.support import PATIENCE_S

pytestmark = pytest.mark.anyio

PAGE = Path(gateway.admin.__file__).parent / "page"
FILES = {"/": ("index.html", "html"), "/page.css": ("page.css", "css"), "/page.js": ("page.js", "javascript")}
#: How long a connection may be idle here.
IDLE_S = 0.2
GET = f"GET /live HTTP/1.1\r\nhost: 127.0.0.1\r\nauthorization: Bearer {TOKEN}\r\n\r\n".encode()


# -- the page --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", FILES)
async def test_the_page_needs_no_token_and_may_do_nothing_but_its_own(path: str) -> None:
    name, media_type = FILES[path]
    response = await Listener(token=None).ask("GET", path, {"host": "localhost:8081"})
    assert (response.status, response.body) == (200, (PAGE / name).read_bytes())
    assert response.headers["content-type"] == f"text/{media_type}; charset=utf-8"
    assert response.headers["content-security-policy"] == (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:;"
        " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    assert response.headers["referrer-policy"] == "no-referrer"
    assert response.headers["cache-control"] == "no-store"
    assert response.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("path", FILES)
async def test_the_page_comes_by_no_other_name(path: str) -> None:
    assert (await Listener().ask("GET", path, {**GOOD, "host": "evil.example"})).status == 421


async def test_all_that_the_page_names_is_there() -> None:
    html = (PAGE / "index.html").read_text()
    for name in re.findall(r'(?:src|href)="(?!data:)([^"#]+)"', html):
        assert (await Listener().ask("GET", f"/{name}")).status == 200
    # What the policy would not let it do.
    assert not re.search(r"<style|<script>|\sstyle=|\son[a-z]+=", html)
    # What it is told is text.
    assert not re.search(
        r"(inner|outer|Adjacent)HTML|\bwrite\(|DOMParser|Fragment\(", (PAGE / "page.js").read_text()
    )


# -- the reply that lasts ----------------------------------------------------------------------------------


async def test_a_reader_is_told_and_leaves() -> None:
    it = Listener()
    response = await it.ask("GET", "/live")
    assert (response.status, response.body) == (200, b"event: now\ndata: {}\n\n")
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.headers["cache-control"] == "no-store"
    assert response.headers["x-content-type-options"] == "nosniff"
    assert it.reader is not None
    assert it.reader.left == 1


async def test_a_head_reads_nothing() -> None:
    it = Listener()
    response = await it.ask("HEAD", "/live")
    assert (response.status, response.body) == (200, b"")
    assert it.reader is not None
    assert it.reader.left == 0


async def test_one_reader_too_many_is_told_so() -> None:
    response = await Listener(reader=None).ask("GET", "/live")
    assert (response.status, response.headers["retry-after"]) == (503, "5")
    assert response.json() == {"error": "There are readers enough, or the gateway ends."}


def operated(reader: Reading) -> contextlib.AbstractAsyncContextManager[tuple[str, int]]:
    """The listener as it is shipped, on a socket, while the block runs."""
    return Listener(reader=reader).on_a_socket(
        http=operators(), timeout_keep_alive=IDLE_S, timeout_graceful_shutdown=1
    )


async def now_and_then(many: int) -> AsyncIterator[bytes]:
    for number in range(many):
        await asyncio.sleep(IDLE_S / 4)
        yield b"%d\n" % number


async def without_end() -> AsyncIterator[bytes]:
    while True:
        yield b"x" * 1_000_000
        await asyncio.sleep(0)


async def in_the_end(reading: Reading) -> None:
    """It leaves."""
    async with asyncio.timeout(PATIENCE_S):
        while not reading.left:  # noqa: ASYNC110 - nobody tells of it
            await asyncio.sleep(0.01)


async def test_it_lasts_longer_than_anybody_may_be_idle_and_the_connection_goes_on() -> None:
    reading = Reading(now_and_then(20))
    async with operated(reading) as at, asyncio.timeout(PATIENCE_S):
        reader, writer = await asyncio.open_connection(*at)
        writer.write(GET)
        told = await reader.readuntil(b"\r\n0\r\n\r\n")
        assert re.findall(rb"^([0-9]+)\n", told, re.MULTILINE)[-1] == b"19"
        writer.write(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n")
        assert (await reader.readuntil(b"alive\n")).startswith(b"HTTP/1.1 200 ")
        # Whoever asks nothing more has to go, as ever.
        assert await reader.read() == b""
        writer.close()
    assert reading.left == 1


async def test_who_does_not_read_has_to_go() -> None:
    reading = Reading(without_end())
    async with operated(reading) as at:
        with contextlib.closing(socket.socket()) as silent:
            silent.setblocking(False)
            loop = asyncio.get_running_loop()
            await loop.sock_connect(silent, at)
            await loop.sock_sendall(silent, GET)
            await in_the_end(reading)


async def test_who_hangs_up_has_left() -> None:
    reading = Reading(now_and_then(1_000_000))
    async with operated(reading) as at:
        reader, writer = await asyncio.open_connection(*at)
        writer.write(GET)
        await reader.readuntil(b"\r\n0\n")
        writer.close()
        await in_the_end(reading)


async def test_who_takes_nothing_of_little_has_to_go_too() -> None:
    """As when a network is gone: a second's message is small, and the system would take very many."""
    reading = Reading(now_and_then(1_000_000))
    async with operated(reading) as at:
        with contextlib.closing(socket.socket()) as silent:
            silent.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
            silent.setblocking(False)
            loop = asyncio.get_running_loop()
            await loop.sock_connect(silent, at)
            await loop.sock_sendall(silent, GET)
            await in_the_end(reading)
