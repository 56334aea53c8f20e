"""The proxy does what it is told, on bytes that mean nothing."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator

import pytest

from tests.faults.proxy import HOST, NONE, Door, End, Fault, Proxy, Way, proxy

pytestmark = pytest.mark.anyio

SENT = random.Random(1).randbytes(5_000)
PATIENCE_S = 5.0


@contextlib.asynccontextmanager
async def echoing(seed: int = 1) -> AsyncIterator[Proxy]:
    """A proxy before a server that sends back what it gets."""
    writers = []

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        with contextlib.suppress(OSError):
            while data := await reader.read(65_536):
                writer.write(data)
        writer.close()

    server = await asyncio.start_server(echo, HOST, 0)
    async with proxy(server.sockets[0].getsockname()[:2], seed=seed) as it:
        try:
            yield it
        finally:
            server.close()
            for writer in writers:
                writer.close()


@contextlib.asynccontextmanager
async def connection(it: Proxy) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection(HOST, it.port)
    try:
        yield reader, writer
    finally:
        writer.close()


async def heard(reader: asyncio.StreamReader, patience_s: float = PATIENCE_S) -> tuple[bytes, str]:
    """All that comes, and how it ends."""
    got = b""
    try:
        async with asyncio.timeout(patience_s):
            while data := await reader.read(65_536):
                got += data
    except ConnectionResetError:
        return got, "reset"
    except TimeoutError:
        return got, "silence"
    return got, "end"


@pytest.mark.parametrize(
    "fault",
    [
        NONE,
        Fault(up=Way(latency_s=0.01, jitter_s=0.01)),
        Fault(down=Way(latency_s=0.01, jitter_s=0.01)),
        Fault(up=Way(piece_bytes=500, every_s=0.002), down=Way(piece_bytes=250, every_s=0.001)),
    ],
)
async def test_what_only_delays_changes_no_byte(fault: Fault) -> None:
    async with echoing() as it:
        await it.inject(fault)
        async with connection(it) as (reader, writer):
            writer.write(SENT)
            writer.write_eof()
            assert await heard(reader) == (SENT, "end")


@pytest.mark.parametrize(
    ("way", "least_s"),
    [(Way(latency_s=0.1), 0.1), (Way(piece_bytes=500, every_s=0.01), 0.1), (Way(jitter_s=0.2), 0.02)],
)
@pytest.mark.parametrize("up", [True, False])
async def test_delays_take_their_time(way: Way, least_s: float, up: bool) -> None:
    async with echoing() as it:
        await it.inject(Fault(up=way) if up else Fault(down=way))
        async with connection(it) as (reader, writer):
            began = time.monotonic()
            writer.write(SENT)
            assert await reader.readexactly(len(SENT)) == SENT
            # The loop's timers count whole milliseconds.
            assert time.monotonic() - began >= least_s * 0.9


@pytest.mark.parametrize("passes", [0, 1, 777])
@pytest.mark.parametrize("up", [True, False])
@pytest.mark.parametrize(
    ("end", "told"),
    [(End.RESET, "reset"), (End.CLOSE, "end"), (End.HALF_CLOSE, "end"), (End.SILENCE, "silence")],
)
async def test_so_many_bytes_pass_and_then_it_ends(passes: int, up: bool, end: End, told: str) -> None:
    async with echoing() as it:
        way = Way(passes=passes, end=end)
        async with connection(it) as (reader, writer):
            writer.write(b"before")
            assert await reader.readexactly(6) == b"before"
            await it.inject(Fault(up=way) if up else Fault(down=way))
            writer.write(SENT)
            got, how = await heard(reader, 0.2)
        assert how == told
        # A reset or a close on the way up may overtake the echo.
        assert SENT[:passes].startswith(got) if up else got == SENT[:passes]


async def test_half_a_connection_goes_on() -> None:
    async with echoing() as it:
        await it.inject(Fault(up=Way(passes=100, end=End.HALF_CLOSE)))
        async with connection(it) as (reader, writer):
            writer.write(SENT)
            assert await heard(reader) == (SENT[:100], "end")


@pytest.mark.parametrize(("end", "told"), [(End.RESET, "reset"), (End.CLOSE, "end")])
async def test_a_connection_may_end_as_it_is_made(end: End, told: str) -> None:
    async with echoing() as it:
        await it.inject(Fault(at_once=end))
        async with connection(it) as (reader, _):
            assert await heard(reader) == (b"", told)


async def test_only_so_many_connections_are_struck() -> None:
    async with echoing() as it, contextlib.AsyncExitStack() as stack:
        made = [await stack.enter_async_context(connection(it)) for _ in range(4)]
        made[0][1].write(b"x")
        assert await made[0][0].readexactly(1) == b"x"
        await it.inject(Fault(down=Way(passes=0), times=2))
        told = []
        for reader, writer in made:
            writer.write(b"y")
            writer.write_eof()
            told.append(await heard(reader))
        assert told == [(b"", "reset")] * 2 + [(b"y", "end")] * 2


async def test_doors() -> None:
    async with echoing() as it:
        await it.inject(Fault(door=Door.SHUT))
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection(HOST, it.port)
        await it.inject(Fault(door=Door.BLACK_HOLE))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.open_connection(HOST, it.port), 0.2)
        await it.inject(NONE)
        async with connection(it) as (reader, writer):
            writer.write(SENT)
            writer.write_eof()
            assert await heard(reader) == (SENT, "end")


async def test_nobody_behind_it() -> None:
    async with proxy((HOST, 1)) as it, connection(it) as (reader, _):
        assert await heard(reader) == (b"", "reset")


async def test_idle_connections_are_closed_and_nothing_is_left() -> None:
    async with echoing() as it:
        async with connection(it) as (reader, writer):
            writer.write(b"x")
            assert await reader.readexactly(1) == b"x"
            closing = asyncio.create_task(it.close_idle())
            assert await heard(reader) == (b"", "end")
        await closing
        assert not it.links


async def test_equal_seeds_are_equally_late() -> None:
    async with proxy(seed=7) as one, proxy(seed=7) as other, proxy(seed=8) as third:
        first, second, unlike = ([it.chance.random() for _ in range(5)] for it in (one, other, third))
        assert first == second != unlike
