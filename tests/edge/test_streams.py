"""Streams on the wire: their framing, what comes before and behind, and who does not read or is not there."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from gateway.config.settings import server_context
from gateway.core.push import Sink
from gateway.core.replies import Reply
from gateway.core.requests import Request
from gateway.edge.outlet import LATE_S, MAX_UNSENT_BYTES
from tests.connections import HIGH_WATER_BYTES, Peer
from tests.edge.road import BOUNDS, GET, HOST, Road, client, edge, heard, on_sockets
from tests.support import PATIENCE_S
from tests.virtual import virtual
from tests.wire.test_tls import certificate

OPEN = b"GET /s HTTP/1.1\r\n" + HOST
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"
CHUNKED = HEAD + b"transfer-encoding: chunked\r\n\r\n"
LAST = b"0\r\n\r\n"
SEND_S = 5.0


@dataclass
class Spoken:
    """A stream that says what its test says; it counts how often it was told that nobody is there."""

    sink: Sink | None = None
    losses: int = 0
    begun: asyncio.Event = field(default_factory=asyncio.Event)
    gone: asyncio.Event = field(default_factory=asyncio.Event)
    is_over: bool = False

    def begin(self, sink: Sink) -> None:
        self.sink = sink
        self.begun.set()

    def lost(self) -> None:
        self.losses += 1
        self.gone.set()

    def say(self, message: bytes) -> None:
        assert self.sink is not None
        self.sink.write(message)

    def end(self) -> None:
        assert self.sink is not None
        self.sink.close()

    @property
    def is_open(self) -> bool:
        return self.sink is not None and self.sink.is_open


@dataclass
class Telling(Road):
    """Answers `/s` with a stream, and the rest as ever."""

    streams: list[Spoken] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)

    async def answer(self, request: Request) -> Reply:
        self.requests.append(request)
        if request.path != b"/s":
            return await super().answer(request)
        if self.busy_s:
            await asyncio.sleep(self.busy_s)
        self.streams.append(Spoken())
        return Reply(200, b"content-type: text/event-stream\r\n", b"", self.streams[-1])


async def opened(road: Telling, peer: Peer, rest: bytes = b"\r\n") -> Spoken:
    before = len(road.streams)
    peer.send(OPEN + rest)
    await asyncio.sleep(0.1)
    return road.streams[before]


# -- framing ----------------------------------------------------------------------------------------------


@virtual
async def test_each_message_is_a_chunk() -> None:
    peer = edge(road := Telling()).connect()
    stream = await opened(road, peer)
    stream.say(b"data: 1\n\n")
    stream.say(b"")
    stream.say(b"a" * 26)
    assert [text for _, text in peer.received] == [
        CHUNKED,
        b"9\r\ndata: 1\n\n\r\n",
        b"1a\r\n%b\r\n" % (b"a" * 26),
    ]
    stream.end()
    stream.end()
    assert peer.text.endswith(b"a\r\n" + LAST)
    assert not stream.is_open
    stream.say(b"late")
    await asyncio.sleep(1)
    assert peer.text.endswith(b"a\r\n" + LAST)
    assert (peer.closed_at, stream.losses) == (None, 0)


@pytest.mark.parametrize(
    ("line", "rest", "head", "said"),
    [
        (b"1.0", b"", HEAD + b"connection: close\r\n\r\n", b":\n\n"),
        (
            b"1.1",
            b"connection: close\r\n",
            HEAD + b"transfer-encoding: chunked\r\nconnection: close\r\n\r\n",
            b"3\r\n:\n\n\r\n" + LAST,
        ),
    ],
)
def test_the_last_of_its_connection(line: bytes, rest: bytes, head: bytes, said: bytes) -> None:
    @virtual
    async def ask() -> None:
        peer = edge(road := Telling()).connect()
        peer.send(b"GET /s HTTP/%b\r\n" % line + HOST + rest + b"\r\n")
        await asyncio.sleep(0.1)
        assert peer.closed_at is None
        road.streams[0].say(b":\n\n")
        road.streams[0].end()
        await asyncio.sleep(0.1)
        assert peer.text == head + said
        assert peer.closed_at == pytest.approx(0.1)

    ask()


# -- what comes before and behind --------------------------------------------------------------------------


@virtual
async def test_streams_one_after_the_other() -> None:
    peer = edge(road := Telling()).connect()
    for _ in range(2):
        stream = await opened(road, peer)
        stream.say(b"x")
        stream.end()
        await asyncio.sleep(1)
    assert peer.text == (CHUNKED + b"1\r\nx\r\n" + LAST) * 2


@virtual
async def test_requests_behind_a_stream_wait_for_its_end() -> None:
    peer = edge(road := Telling()).connect()
    stream = await opened(road, peer, b"\r\n" + GET + b"\r\n")
    await asyncio.sleep(100)
    assert peer.text == CHUNKED
    stream.end()
    await asyncio.sleep(1)
    assert peer.text.startswith(CHUNKED + LAST + b"HTTP/1.1 200 OK\r\nx: 200 /a\r\n")


@virtual
async def test_no_deadline_of_a_connection_ends_a_stream() -> None:
    peer = edge(road := Telling(), replace(BOUNDS, head_s=3, body_s=4, idle_s=7, send_s=6)).connect()
    stream = await opened(road, peer, b"\r\nGET")
    for _ in range(30):
        stream.say(b":\n\n")
        await asyncio.sleep(SEND_S)
    assert (stream.is_open, stream.losses, peer.closed_at) == (True, 0, None)
    assert peer.text == CHUNKED + b"3\r\n:\n\n\r\n" * 30
    stream.end()
    await asyncio.sleep(0.1)
    # What did not come in time behind it is told so only now.
    assert b"request-timeout" in peer.text


@virtual
async def test_after_a_stream_a_connection_is_idle_as_long_as_ever() -> None:
    peer = edge(road := Telling(), replace(BOUNDS, idle_s=20)).connect()
    stream = await opened(road, peer)
    await asyncio.sleep(99.9)
    stream.end()
    await asyncio.sleep(100)
    assert peer.closed_at == pytest.approx(120)


# -- who is there -----------------------------------------------------------------------------------------


@virtual
async def test_who_leaves_before_the_head_never_begins() -> None:
    peer = edge(road := Telling(busy_s=3)).connect()
    peer.send(OPEN + b"\r\n")
    await asyncio.sleep(1)
    assert road.requests[0].is_there()
    peer.hang_up()
    await asyncio.sleep(1)
    assert not road.requests[0].is_there()
    await asyncio.sleep(5)
    (stream,) = road.streams
    assert (stream.sink, stream.losses, peer.text) == (None, 1, b"")


@pytest.mark.parametrize("before", [True, False])
def test_who_says_that_it_sends_no_more_gets_no_more_either(before: bool) -> None:
    @virtual
    async def ask() -> None:
        peer = edge(road := Telling(busy_s=1)).connect()
        peer.send(OPEN + b"\r\n")
        await asyncio.sleep(0.5 if before else 2)
        assert road.requests[0].is_there()
        peer.no_more()
        await asyncio.sleep(2)
        (stream,) = road.streams
        assert (stream.sink is None, stream.losses, stream.is_open) == (before, 1, False)
        closes = b"connection: close\r\n" if before else b""
        assert peer.text == CHUNKED[:-2] + closes + b"\r\n" + LAST
        assert peer.closed_at is not None

    ask()


@virtual
async def test_a_process_that_ends_closes_after_the_stream() -> None:
    here = edge(road := Telling())
    peer = here.connect()
    stream = await opened(road, peer)
    here.shut_down()
    assert stream.is_open
    stream.end()
    await asyncio.sleep(0.1)
    assert peer.text == CHUNKED + LAST
    assert peer.closed_at == pytest.approx(0.1)


@virtual
async def test_a_process_that_waits_no_longer_cuts_it() -> None:
    here = edge(road := Telling())
    peer = here.connect()
    stream = await opened(road, peer)
    for task in list(here._state.tasks):
        task.cancel()
    await asyncio.sleep(0.1)
    assert (stream.losses, peer.text) == (1, CHUNKED)
    assert peer.closed_at == pytest.approx(0.1)


# -- who does not read ------------------------------------------------------------------------------------


@virtual
async def test_who_acknowledges_nothing_is_dropped_after_the_deadline() -> None:
    here = edge(road := Telling())
    peer, other = here.connect(), here.connect()
    stream, reader = await opened(road, peer), await opened(road, other)
    await asyncio.sleep(10)
    peer.stop_reading()
    for one in (stream, reader):
        one.say(b":\n\n")
    # And a little more: it is looked at twice.
    await asyncio.sleep(SEND_S + LATE_S - 0.1)
    assert stream.is_open
    await asyncio.sleep(0.2)
    assert (stream.is_open, stream.losses) == (False, 1)
    assert peer.closed_at == pytest.approx(10.2 + SEND_S + LATE_S)
    assert (reader.is_open, other.text) == (True, CHUNKED + b"3\r\n:\n\n\r\n")


@virtual
async def test_who_acknowledges_late_but_in_time_stays() -> None:
    peer = edge(road := Telling()).connect()
    stream = await opened(road, peer)
    peer.stop_reading()
    for _ in range(20):
        stream.say(b"x" * 1_000)
        await asyncio.sleep(SEND_S - 1)
        peer.take(len(peer.unread))
    assert stream.is_open


@virtual
async def test_who_leaves_too_much_is_dropped_at_once_but_a_long_message_is_no_reason() -> None:
    peer = edge(road := Telling()).connect()
    stream = await opened(road, peer)
    peer.stop_reading()
    stream.say(b"x" * MAX_UNSENT_BYTES)
    opened_still = stream.is_open
    stream.say(b"y")
    assert (opened_still, stream.is_open) == (True, False)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert stream.losses == 1


@virtual
async def test_a_full_buffer_is_the_streams_deadline_to_see_until_the_stream_ends() -> None:
    peer = edge(road := Telling(), replace(BOUNDS, send_s=1)).connect()
    stream = await opened(road, peer, b"\r\n" + GET + b"\r\n")
    peer.stop_reading()
    stream.say(b"x" * 2 * HIGH_WATER_BYTES)
    await asyncio.sleep(SEND_S - 1)
    assert (stream.is_open, peer.closed_at) == (True, None)
    stream.end()
    # What waits behind it would wait for ever.
    await asyncio.sleep(2)
    assert peer.closed_at == pytest.approx(SEND_S + 0.1, abs=0.1)


# -- real sockets -----------------------------------------------------------------------------------------

#: Both loops, by hand: what runs on virtual time above needs neither.
LOOPS = pytest.mark.parametrize(
    "anyio_backend",
    [("asyncio", {"use_uvloop": True}), ("asyncio", {"use_uvloop": False})],
    ids=["uvloop", "asyncio"],
)


@contextlib.asynccontextmanager
async def standing(folder: Path | None, road: Telling) -> AsyncIterator[tuple[tuple[str, int], Path | None]]:
    """The edge on a socket, and its certificate where it has TLS."""
    chain, key = (None, None) if folder is None else certificate(folder, "a.example")
    tls = None if chain is None or key is None else server_context(chain, key)
    async with on_sockets(road, tls=tls) as addresses:
        yield addresses.public, chain


async def follow(road: Telling, writer: asyncio.StreamWriter, rest: bytes = b"\r\n") -> Spoken:
    before = len(road.streams)
    writer.write(OPEN + rest)
    async with asyncio.timeout(PATIENCE_S):
        while len(road.streams) == before:  # noqa: ASYNC110  # nobody tells
            await asyncio.sleep(0.005)
        await road.streams[before].begun.wait()
    return road.streams[before]


async def is_gone(stream: Spoken) -> None:
    async with asyncio.timeout(PATIENCE_S):
        await stream.gone.wait()
    assert (stream.losses, stream.is_open) == (1, False)


@LOOPS
@pytest.mark.parametrize("has_tls", [False, True], ids=["plain", "tls"])
@pytest.mark.anyio
async def test_messages_arrive_and_the_next_request_is_answered(tmp_path: Path, has_tls: bool) -> None:
    road = Telling()
    async with (
        standing(tmp_path if has_tls else None, road) as (address, chain),
        client(address, chain) as (reader, writer),
    ):
        for _ in range(2):
            stream = await follow(road, writer)
            stream.say(b"data: 1\n\n")
            async with asyncio.timeout(PATIENCE_S):
                assert await reader.readuntil(b"\n\n\r\n") == CHUNKED + b"9\r\ndata: 1\n\n\r\n"
            stream.end()
            async with asyncio.timeout(PATIENCE_S):
                assert await reader.readexactly(len(LAST)) == LAST
        writer.write(GET + b"connection: close\r\n\r\n")
        assert b"x: 200 /a" in await heard(reader)


@LOOPS
@pytest.mark.parametrize("has_tls", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize("is_reset", [False, True], ids=["FIN", "RST"])
@pytest.mark.anyio
async def test_who_leaves_is_known_to_be_gone_at_once(tmp_path: Path, has_tls: bool, is_reset: bool) -> None:
    road = Telling()
    async with (
        standing(tmp_path if has_tls else None, road) as (address, chain),
        client(address, chain) as (_, writer),
    ):
        stream = await follow(road, writer)
        if is_reset:
            linger = struct.pack("ii", 1, 0)
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            writer.transport.abort()
        else:
            writer.close()
        await is_gone(stream)


@LOOPS
@pytest.mark.parametrize("has_tls", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize("by_bytes", [False, True], ids=["deadline", "bytes"])
@pytest.mark.anyio
async def test_who_does_not_read_is_dropped_and_holds_nobody_up(
    tmp_path: Path, has_tls: bool, by_bytes: bool
) -> None:
    road = Telling(stream_send_s=60 if by_bytes else 0.3)
    async with (
        standing(tmp_path if has_tls else None, road) as (address, chain),
        client(address, chain) as (_, writer),
        client(address, chain) as (other_reader, other_writer),
    ):
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        writer.transport.pause_reading()  # type: ignore[attr-defined]  # what is connected can be read from
        stream, other = await follow(road, writer), await follow(road, other_writer)
        said = 0
        while stream.is_open and (by_bytes or said < MAX_UNSENT_BYTES // 2):
            stream.say(b"x" * 8_192)
            said += 8_192
            other.say(b"%09d" % said)
            async with asyncio.timeout(PATIENCE_S):
                await other_reader.readuntil(b"%09d\r\n" % said)
        if by_bytes:
            # What the client's system and TLS have taken, or one layer hides from the other, comes on top.
            assert MAX_UNSENT_BYTES <= said < 4 * MAX_UNSENT_BYTES
        await is_gone(stream)
        assert other.is_open
