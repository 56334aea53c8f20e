"""Deadlines on real sockets, where the system has buffers of its own and closing is an art."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from dataclasses import replace

import pytest

from gateway.edge.operators import MAX_OPERATORS
from gateway.edge.protocol import LINGER_BYTES, Bounds
from tests.edge.road import BOUNDS, GET, PUT, Road, client, heard, on_sockets, replies
from tests.support import PATIENCE_S

pytestmark = pytest.mark.anyio

SHORT = replace(BOUNDS, head_s=0.2, body_s=0.3, idle_s=0.4, send_s=0.5)
MANY = 50


async def gone(reader: asyncio.StreamReader) -> None:
    """Who writes on after the server hung up may be told so by a reset instead of an end."""
    with contextlib.suppress(ConnectionResetError):
        await heard(reader)


@pytest.mark.parametrize(
    ("sent", "told"),
    [
        (b"GET /a HT", ["request-timeout"]),
        (PUT + b"content-length: 9\r\n\r\nabc", ["request-timeout"]),
        (PUT + b"transfer-encoding: chunked\r\n\r\n3\r\nabc", ["request-timeout"]),
        (b"", []),
        (GET + b"\r\n", ["200"]),
        (GET + b"\r\n" + GET, ["200", "request-timeout"]),
    ],
)
async def test_many_who_stop_halfway_are_all_gone_in_time(sent: bytes, told: list[str]) -> None:
    async with contextlib.AsyncExitStack() as stack:
        at = (await stack.enter_async_context(on_sockets(Road(), SHORT))).public
        clients = [await stack.enter_async_context(client(at)) for _ in range(MANY)]
        for _, writer in clients:
            writer.write(sent)
        assert [replies(await heard(reader)) for reader, _ in clients] == [told] * MANY


async def test_many_who_do_not_read_are_all_gone_in_time() -> None:
    """More than the system takes for them is on its way to each."""
    async with contextlib.AsyncExitStack() as stack:
        road = Road(reply=b"a" * 16_000_000)
        at = (await stack.enter_async_context(on_sockets(road, SHORT))).public
        loop = asyncio.get_running_loop()
        sockets = [stack.enter_context(socket.socket()) for _ in range(5)]
        for each in sockets:
            each.setblocking(False)
            await loop.sock_connect(each, at)
            await loop.sock_sendall(each, GET + b"\r\n")
        async with asyncio.timeout(PATIENCE_S):
            for each in sockets:
                with pytest.raises(ConnectionResetError):
                    await reset(each)


async def reset(each: socket.socket) -> None:
    """Wait, without reading, until the connection is."""
    while True:
        if error := each.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            raise ConnectionResetError(error)
        await asyncio.sleep(0.02)


async def test_who_reads_slowly_gets_it_all() -> None:
    """Less in any `send_s` than it takes for the system to take more of the rest."""
    async with contextlib.AsyncExitStack() as stack:
        road = Road(reply=b"a" * 8_000_000)
        bounds = replace(SHORT, send_s=0.3)
        at = (await stack.enter_async_context(on_sockets(road, bounds))).public
        loop = asyncio.get_running_loop()
        each = stack.enter_context(socket.socket())
        each.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
        each.setblocking(False)
        await loop.sock_connect(each, at)
        await loop.sock_sendall(each, GET + b"connection: close\r\n\r\n")
        got = 0
        async with asyncio.timeout(3 * PATIENCE_S):
            while piece := await loop.sock_recv(each, 60_000):
                got += len(piece)
                await asyncio.sleep(0.02)
        assert got > 8_000_000


async def test_half_a_head_for_operators_is_no_request_either() -> None:
    async with contextlib.AsyncExitStack() as stack:
        at = (await stack.enter_async_context(on_sockets(Road(), SHORT))).private
        for sent, told in ((b"", b""), (b"GET /", b""), (GET + b"\r\n", b"HTTP/1.1 204 ")):
            reader, writer = await stack.enter_async_context(client(at))
            writer.write(sent)
            assert (await heard(reader))[:13] == told


@pytest.mark.parametrize("begun", [b"GET / HTTP/1.1\r\n", PUT + b"content-length: 900000\r\n\r\n"])
async def test_operators_may_not_drip(begun: bytes) -> None:
    async with on_sockets(Road(), SHORT) as addresses, client(addresses.private) as (reader, writer):
        writer.write(begun)
        reading = asyncio.create_task(gone(reader))
        async with asyncio.timeout(PATIENCE_S):
            while not reading.done():
                writer.write(b"x")
                await asyncio.sleep(0.02)


async def test_of_too_many_operators_the_one_who_waited_longest_has_to_go() -> None:
    async with contextlib.AsyncExitStack() as stack:
        at = (await stack.enter_async_context(on_sockets(Road()))).private
        first, _ = await stack.enter_async_context(client(at))
        for _ in range(MAX_OPERATORS - 1):
            await stack.enter_async_context(client(at))
        reader, writer = await stack.enter_async_context(client(at))
        assert await heard(first) == b""
        writer.write(GET + b"\r\n")
        assert (await reader.readuntil(b"\r\n")).startswith(b"HTTP/1.1 204 ")


TOO_MUCH: dict[str, bytes] = {
    "a value": b"GET / HTTP/1.1\r\nx: " + b"y" * 1_000_000,
    "a target": b"GET /" + b"y" * 1_000_000,
    "fields": b"GET / HTTP/1.1\r\n" + b"x: y\r\n" * 200,
    "trailers": PUT + b"transfer-encoding: chunked\r\n\r\n0\r\n" + b"x: y\r\n" * 200,
    "an extension": PUT + b"transfer-encoding: chunked\r\n\r\n1;" + b"y" * 1_000_000,
}


@pytest.mark.parametrize("name", TOO_MUCH)
async def test_nobody_asks_an_operators_questions_at_such_length(name: str) -> None:
    async with on_sockets(Road()) as addresses, client(addresses.private) as (reader, writer):
        # RuntimeError is what uvloop says when the other side is gone.
        with contextlib.suppress(ConnectionError, RuntimeError):
            for at in range(0, len(TOO_MUCH[name]), 50_000):
                writer.write(TOO_MUCH[name][at : at + 50_000])
                await asyncio.sleep(0)
        with contextlib.suppress(ConnectionError):
            assert b" 20" not in (await heard(reader))[:13]


async def test_operators_ask_one_thing_at_a_time() -> None:
    async with on_sockets(Road()) as addresses, client(addresses.private) as (reader, writer):
        for _ in range(3):
            writer.write(GET + b"\r\n")
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 204 ")
        writer.write(2 * (GET + b"\r\n"))
        with contextlib.suppress(ConnectionError):
            assert (await heard(reader)).count(b"HTTP/1.1 ") <= 1


LAST: dict[str, bytes] = {
    "malformed-request": b"GET  / HTTP/1.1\r\n\r\n",
    "unexpected-body": GET + b"content-length: 900000\r\n\r\n",
    "head-too-large": GET + b"x: y\r\n" * 200,
    "expectation-failed": PUT + b"expect: x\r\ncontent-length: 900000\r\n\r\n",
    "body-too-large": PUT + b"content-length: 900000\r\n\r\n",
}


@pytest.mark.parametrize("problem", LAST)
async def test_who_still_sends_hears_why_it_need_not(problem: str) -> None:
    """Else the system would reset the connection, and the reply would be lost on its way."""
    async with on_sockets(road := Road()) as addresses, client(addresses.public) as (reader, writer):
        writer.write(LAST[problem])
        for _ in range(LINGER_BYTES // 20_000):
            writer.write(b"a" * 10_000)
            await asyncio.sleep(0)
        assert replies(await heard(reader)) == [problem]
        assert road.asked == []


@pytest.mark.parametrize(
    "sent", [b"", GET + b"\r\n", (GET + b"\r\n") * 3, PUT + b"content-length: 2\r\n\r\n{}"]
)
async def test_who_sends_no_more_gets_its_answers(sent: bytes) -> None:
    async with on_sockets(Road(latency_s=0.05)) as addresses, client(addresses.public) as (reader, writer):
        writer.write(sent)
        writer.write_eof()
        assert replies(await heard(reader)) == ["200"] * sent.count(b"host")


async def test_half_a_body_is_all_there_will_be() -> None:
    async with on_sockets(Road()) as addresses, client(addresses.public) as (reader, writer):
        writer.write(PUT + b"content-length: 9\r\n\r\nabc")
        writer.write_eof()
        assert replies(await heard(reader)) == ["client-gone"]


async def test_one_connection_more_is_told_so() -> None:
    bounds = Bounds(max_connections_per_peer=3)
    async with contextlib.AsyncExitStack() as stack:
        at = (await stack.enter_async_context(on_sockets(Road(), bounds))).public
        held = [await stack.enter_async_context(client(at)) for _ in range(3)]
        for _ in range(10):
            reader, writer = await stack.enter_async_context(client(at))
            writer.write(GET + b"\r\n")
            assert replies(await heard(reader)) == ["too-many-connections"]
        held[0][1].write(GET + b"connection: close\r\n\r\n")
        assert replies(await heard(held[0][0])) == ["200"]
        reader, writer = await stack.enter_async_context(client(at))
        writer.write(GET + b"connection: close\r\n\r\n")
        assert replies(await heard(reader)) == ["200"]


async def test_a_listener_that_retires_answers_all_and_keeps_none() -> None:
    async with on_sockets(Road()) as addresses:
        async with client(addresses.public) as (reader, writer):
            writer.write(GET + b"\r\n")
            assert b"connection: close" not in await reader.readuntil(b"\r\n\r\n")
            addresses.retire()
            writer.write((GET + b"\r\n") * 3)
            assert replies(await heard(reader)) == ["200"] * 3
        for _ in range(3):
            async with client(addresses.public) as (reader, writer):
                writer.write(GET + b"\r\n")
                assert replies(await heard(reader)) == ["200"]
