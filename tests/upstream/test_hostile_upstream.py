"""What an upstream can send, byte by byte, and what becomes of it; and that nothing of it is left."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import gzip
import ipaddress
import json
import logging
import socket
import ssl
import threading
import tracemalloc
import zlib
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from gateway.core.answers import Undressed, undress
from gateway.core.errors import Reason
from gateway.core.freshness import Failed
from gateway.core.messages import Answer, Representation, UpstreamRequest
from gateway.core.paths import Line, Target, locate
from gateway.upstream.accounts import Account, Accounts, Discovery
from gateway.upstream.keys import AppKeys
from gateway.upstream.session import MAX_FIELDS, MAX_INTERIM, MAX_LINE, Session, Unanswered, trusted
from gateway.upstream.transport import Bounds, HttpUpstream, plain
from tests.simulation import shipped
from tests.support import until
from tests.upstream.peers import FIELDS

pytestmark = pytest.mark.anyio

KEY = "9e11ad9b22"
MOST = 10
MAX_ANSWER = 100_000
#: For what ends by itself, and for what is to end at the deadline.
PATIENT_S, HURRIED_S = 10.0, 0.25
BROKEN, RESET, TIMEOUT = Reason.UPSTREAM_BROKEN, Reason.UPSTREAM_RESET, Reason.UPSTREAM_TIMEOUT

OK = b"HTTP/1.1 200 OK\r\n"
TYPE = b"content-type: application/json\r\n"
BODY = b'{"info": {"state": "chatting"}}'
LENGTH = b"content-length: %d\r\n" % len(BODY)
CHUNKED = b"transfer-encoding: chunked\r\n"
CHUNKS = b"%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY)
GOOD = OK + TYPE + LENGTH + b"\r\n" + BODY
IN_CHUNKS = OK + TYPE + CHUNKED + b"\r\n" + CHUNKS

Then = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def target(accept: bytes = b"application/json") -> Target:
    found = locate(
        Line("GET", b"/api/account/123/chat/H1-2K3/info", b"", accept, None),
        shipped(),
        {"123"},
        Representation.JSON,
    )
    assert isinstance(found, Target)
    return found


JSON_TARGET, XML_TARGET = target(), target(b"application/xml")


async def stay(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
    """Until the other side has left."""
    await reader.read()


async def leave(_: asyncio.StreamReader, __: asyncio.StreamWriter) -> None:
    """Close at once."""


async def reset(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()


async def half_close(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write_eof()
    await reader.read()


class Upstream:
    """Once it is told to, it says `script` to a request, and then does what `then` does, if anything.

    Any other request it answers well.
    """

    def __init__(self) -> None:
        self.script: bytes | None = None
        self.then: Then | None = None
        self.good = GOOD
        self.open = 0
        self.asked = 0

    def play(self, script: bytes, then: Then | None = None, good: bytes = b"") -> None:
        self.script, self.then, self.good, self.asked = script, then, good or GOOD, 0

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.open += 1
        # RuntimeError is what uvloop says when the other side is gone.
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, RuntimeError):
            while await reader.readuntil(b"\r\n\r\n"):
                self.asked += 1
                script, self.script = self.script, None
                writer.write(self.good if script is None else script)
                if script is not None and self.then is not None:
                    await writer.drain()
                    await self.then(reader, writer)
                    break
        writer.close()
        self.open -= 1


@dataclass(frozen=True, slots=True)
class Stage:
    upstream: Upstream
    session: Session
    transport: HttpUpstream
    hurried: HttpUpstream

    async def hear(self, expected: Reason | None = None, of: Target = JSON_TARGET) -> Undressed | Failed:
        """What becomes of the answer; only who expects none is in a hurry."""
        transport = self.hurried if expected is TIMEOUT else self.transport
        accept = of.representation.media_type
        request = UpstreamRequest(
            "123", "GET", f"{of.path}?{of.query}".encode(), ((b"accept", accept), *FIELDS[1:])
        )
        answer = await transport.send(request, is_read=True)
        return answer if isinstance(answer, Failed) else undress(of, answer, transport.links)

    def assert_nothing_left(self) -> None:
        assert self.session._places._value == MOST
        assert self.session._session is not None
        connector = self.session._session.connector
        assert connector is not None
        assert not connector._acquired


def stage_of(upstream: Upstream, origin: str, key_file: Path, session: Session) -> Stage:
    async def nothing(_: str) -> None: ...

    account = Account("123", AppKeys((key_file,)), origin)
    nowhere = Discovery("https://nowhere.example", ())
    accounts = Accounts({"123": account}, nowhere, "https://chat.example", (), nothing)
    patient, hurried = (
        HttpUpstream(accounts, session, Bounds(deadline_s, MAX_ANSWER), nothing)
        for deadline_s in (PATIENT_S, HURRIED_S)
    )
    return Stage(upstream, session, patient, hurried)


def reason_of(heard: Undressed | Failed) -> Reason | None:
    return heard.reason if isinstance(heard, Failed) else None


@pytest.fixture(scope="module")
def by_system() -> ssl.SSLContext:
    return trusted(None)


@pytest.fixture
async def stage(by_system: ssl.SSLContext, tmp_path: Path) -> AsyncIterator[Stage]:
    (tmp_path / "key").write_text(KEY)
    upstream = Upstream()
    async with await asyncio.start_server(upstream, "127.0.0.1", 0) as server:
        origin = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        session = Session(MOST, 15.0, trusted=by_system)
        yield stage_of(upstream, origin, tmp_path / "key", session)
        await session.aclose()
        await until(lambda: upstream.open == 0)


@pytest.fixture
def quiet(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """Nothing is said, neither by a logger nor by the loop."""
    caplog.set_level(logging.WARNING)
    return caplog


# -- framing ---------------------------------------------------------------------------------------------

#: Another answer, in what might be taken for a body.
SMUGGLED = OK + TYPE + b'content-length: 9\r\n\r\n{"a": "x"}'


def head(*fields: bytes, start: bytes = OK) -> bytes:
    return start + TYPE + b"".join(field + b"\r\n" for field in fields) + b"\r\n"


def chunks(size: bytes, rest: bytes = b"\r\n" + BODY + b"\r\n0\r\n\r\n") -> bytes:
    return head(CHUNKED[:-2]) + size + rest


N = b"%d" % len(BODY)
X = b"%x" % len(BODY)
FRAMING = {
    "two lengths": (head(b"content-length: 5", b"content-length: " + N) + BODY, BROKEN),
    "the same length twice": (head(b"content-length: " + N, b"content-length: " + N) + BODY, BROKEN),
    "a list of one length": (head(b"content-length: " + N + b", " + N) + BODY, BROKEN),
    "a length and chunks": (head(b"content-length: " + N, CHUNKED[:-2]) + CHUNKS, BROKEN),
    "chunks and a length": (head(CHUNKED[:-2], b"content-length: " + N) + CHUNKS, BROKEN),
    "a signed length": (head(b"content-length: +" + N) + BODY, BROKEN),
    "a negative length": (head(b"content-length: -1") + BODY, BROKEN),
    "a hexadecimal length": (head(b"content-length: 0x1f") + BODY, BROKEN),
    "a length with a space in it": (head(b"content-length: 3 1") + BODY, BROKEN),
    "an empty length": (head(b"content-length:") + BODY, BROKEN),
    "a length beyond 64 bits": (head(b"content-length: 18446744073709551647") + BODY, BROKEN),
    "an unknown transfer coding": (head(b"transfer-encoding: gzip") + BODY, BROKEN),
    "chunked twice": (head(b"transfer-encoding: chunked, chunked") + CHUNKS, BROKEN),
    "chunked in two fields": (head(CHUNKED[:-2], CHUNKED[:-2]) + CHUNKS, BROKEN),
    "chunked, then another": (head(b"transfer-encoding: chunked, gzip") + CHUNKS, BROKEN),
    "identity, then chunked": (head(b"transfer-encoding: identity, chunked") + CHUNKS, BROKEN),
    "chunked in quotes": (head(b'transfer-encoding: "chunked"') + CHUNKS, BROKEN),
    "chunked with a parameter": (head(b"transfer-encoding: chunked;q=1") + CHUNKS, BROKEN),
    "chunked after a tab": (head(b"transfer-encoding:\x0bchunked") + CHUNKS, BROKEN),
    "chunked folded": (head(b"transfer-encoding:\r\n chunked") + CHUNKS, BROKEN),
    "a space before the colon": (head(b"content-length : " + N) + BODY, BROKEN),
    "a space in a name": (head(b"x y: z", LENGTH[:-2]) + BODY, BROKEN),
    "a name of nothing": (head(b": z", LENGTH[:-2]) + BODY, BROKEN),
    "no colon": (head(b"x", LENGTH[:-2]) + BODY, BROKEN),
    "a folded field": (head(b"x: y\r\n z", LENGTH[:-2]) + BODY, BROKEN),
    "a folded first field": (OK + b" x: y\r\n" + TYPE + LENGTH + b"\r\n" + BODY, BROKEN),
    "bare line feeds": (GOOD.replace(b"\r\n", b"\n"), BROKEN),
    "one bare line feed in a head": (head(b"x: y\nz: a", LENGTH[:-2]) + BODY, BROKEN),
    "a bare line feed ends the head": (OK + TYPE + LENGTH + b"\n" + BODY, BROKEN),
    "bare line feeds between chunks": (head(CHUNKED[:-2]) + CHUNKS.replace(b"\r\n", b"\n"), BROKEN),
    "bare carriage returns": (GOOD.replace(b"\r\n", b"\r"), BROKEN),
    "one bare carriage return in a field": (head(b"x: y\rz: a", LENGTH[:-2]) + BODY, BROKEN),
    "a NUL in a field": (head(b"x: \0", LENGTH[:-2]) + BODY, BROKEN),
    "a NUL in a name": (head(b"x\0: y", LENGTH[:-2]) + BODY, BROKEN),
    "a NUL in the reason, which nobody reads": (
        head(LENGTH[:-2], start=b"HTTP/1.1 200 O\0K\r\n") + BODY,
        None,
    ),
    "two types": (head(b"content-type: text/html", LENGTH[:-2]) + BODY, BROKEN),
    "no status line": (BODY, BROKEN),
    "http/0.9": (b"<html>" + BODY, BROKEN),
    "http/1.2": (GOOD.replace(b"1.1", b"1.2", 1), BROKEN),
    "http/2": (b"\0\0\x12\x04\0\0\0\0\0\0\x03\0\0\0\x64" + GOOD, BROKEN),
    "the preface of http/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", BROKEN),
    "a request": (b"GET / HTTP/1.1\r\nhost: x\r\n\r\n", BROKEN),
    "a status of two digits": (GOOD.replace(b"200", b"20", 1), BROKEN),
    "a status of four digits": (GOOD.replace(b"200", b"2000", 1), BROKEN),
    "a status of letters": (GOOD.replace(b"200", b"abc", 1), BROKEN),
    "a line before the status": (b"\r\nx" + GOOD, BROKEN),
    "TLS": (b"\x15\x03\x01\0\x02\x02\x28", BROKEN),
    "a huge field": (head(b"x: " + b"y" * 1_000_000, LENGTH[:-2]) + BODY, BROKEN),
    "a huge name": (head(b"x" * 1_000_000 + b": y", LENGTH[:-2]) + BODY, BROKEN),
    "a huge reason": (head(LENGTH[:-2], start=b"HTTP/1.1 200 " + b"x" * 1_000_000 + b"\r\n") + BODY, BROKEN),
    "a huge head": (head(*[b"x: " + b"y" * 8_000] * 125, LENGTH[:-2]) + BODY, BROKEN),
    "100,000 fields": (head(*[b"x: y"] * 100_000, LENGTH[:-2]) + BODY, BROKEN),
    "a field too long": (head(b"x: " + b"y" * (MAX_LINE + 1), LENGTH[:-2]) + BODY, BROKEN),
    "a field too many": (head(*[b"x: y"] * (MAX_FIELDS - 1), LENGTH[:-2]) + BODY, BROKEN),
    "as many interim answers as may be": (b"HTTP/1.1 100 Continue\r\n\r\n" * MAX_INTERIM + GOOD, None),
    "interim answers with large heads": (
        b"HTTP/1.1 103 E\r\n"
        + b"x: %b\r\n\r\n" % (b"y" * 8_000)
        + head(*[b"x: " + b"y" * 8_000] * 8, start=b"HTTP/1.1 103 E\r\n") * 5
        + GOOD,
        BROKEN,
    ),
    "an interim answer too many": (b"HTTP/1.1 100 Continue\r\n\r\n" * (MAX_INTERIM + 1) + GOOD, BROKEN),
    "a switch of protocols": (b"HTTP/1.1 101 S\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n" + GOOD, BROKEN),
    "an upgrade in a good answer": (head(b"upgrade: h2c", b"connection: upgrade", LENGTH[:-2]) + BODY, None),
    "a status below 100": (GOOD.replace(b"200", b"099", 1), BROKEN),
    "a chunk size beyond 64 bits": (chunks(b"1" + b"0" * 16), BROKEN),
    "a chunk size of 64 bits": (chunks(b"f" * 16), TIMEOUT),
    "a negative chunk size": (chunks(b"-1"), BROKEN),
    "a signed chunk size": (chunks(b"+" + X), BROKEN),
    "a chunk size in 0x": (chunks(b"0x" + X), BROKEN),
    "no chunk size": (chunks(b""), BROKEN),
    "a space before a chunk size": (chunks(b" " + X), BROKEN),
    "spaces after a chunk size": (chunks(X + b"  "), BROKEN),
    "a chunk longer than it says": (chunks(b"%x" % (len(BODY) - 1)), BROKEN),
    "a chunk shorter than it says": (chunks(b"%x" % (len(BODY) + 1)), BROKEN),
    "a line feed in a chunk extension": (chunks(X + b";x\ny"), BROKEN),
    "a trailer without a colon": (chunks(X, b"\r\n" + BODY + b"\r\n0\r\nx y\r\n\r\n"), BROKEN),
    "trailers without end": (chunks(X, b"\r\n" + BODY + b"\r\n0\r\n" + b"x: y\r\n" * 100_000), BROKEN),
    "a chunk extension without end": (chunks(X + b";" + b"x" * 2_000_000), BROKEN),
    "chunk extensions": (head(CHUNKED[:-2]) + (b"1;" + b"x" * 8_000 + b"\r\n \r\n") * 300, BROKEN),
    "a body too long by a byte": (head(b"content-length: %d" % (MAX_ANSWER + 1)), BROKEN),
    "chunks too long by a byte": (
        chunks(b"%x" % (MAX_ANSWER + 1), b"\r\n" + b" " * (MAX_ANSWER + 1)),
        BROKEN,
    ),
    "204 with a body": (head(LENGTH[:-2], start=b"HTTP/1.1 204 No Content\r\n") + BODY, BROKEN),
    "204 with chunks": (head(CHUNKED[:-2], start=b"HTTP/1.1 204 No Content\r\n") + CHUNKS, BROKEN),
    "204 with an answer": (b"HTTP/1.1 204 No Content\r\n\r\n" + SMUGGLED, BROKEN),
    "205": (head(b"content-length: 0", start=b"HTTP/1.1 205 Reset Content\r\n"), BROKEN),
    "206": (head(LENGTH[:-2], start=b"HTTP/1.1 206 Partial Content\r\n") + BODY, BROKEN),
    "304 with a body": (head(LENGTH[:-2], start=b"HTTP/1.1 304 Not Modified\r\n") + BODY, BROKEN),
    "status 999": (head(LENGTH[:-2], start=b"HTTP/1.1 999 X\r\n") + BODY, Reason.UPSTREAM_ERROR),
}


@pytest.mark.parametrize("is_kept", [False, True])
@pytest.mark.parametrize("name", FRAMING)
async def test_framing(stage: Stage, quiet: pytest.LogCaptureFixture, name: str, is_kept: bool) -> None:
    script, expected = FRAMING[name]
    if is_kept:
        assert isinstance(await stage.hear(), Undressed)
    stage.upstream.play(script)
    assert reason_of(await stage.hear(expected)) is expected
    assert isinstance(await stage.hear(), Undressed)
    stage.assert_nothing_left()
    assert not quiet.records


@pytest.mark.parametrize("how", [leave, reset, half_close])
@pytest.mark.parametrize("answer", [GOOD, IN_CHUNKS], ids=["length", "chunks"])
async def test_an_end_at_every_byte(
    stage: Stage, quiet: pytest.LogCaptureFixture, answer: bytes, how: Then
) -> None:
    for length in range(len(answer)):
        # The one before has not kept its connection.
        stage.upstream.play(answer[:length], how)
        assert reason_of(await stage.hear()) is RESET
        assert stage.upstream.asked == 1
    stage.upstream.play(answer, how)
    assert isinstance(await stage.hear(), Undressed)
    stage.assert_nothing_left()
    await until(lambda: stage.upstream.open == 0)
    assert isinstance(await stage.hear(), Undressed)
    assert not quiet.records


@pytest.mark.parametrize("script", [b"", GOOD[:10], GOOD[:-1], IN_CHUNKS[:-2], head() + BODY])
async def test_silence_lasts_until_the_deadline(
    stage: Stage, quiet: pytest.LogCaptureFixture, script: bytes
) -> None:
    stage.upstream.play(script, stay)
    assert reason_of(await stage.hear(TIMEOUT)) is TIMEOUT
    await until(lambda: stage.upstream.open == 0)
    assert isinstance(await stage.hear(), Undressed)
    stage.assert_nothing_left()
    assert not quiet.records


@pytest.mark.parametrize("drop", [b"HTTP/1.1 200 OK\r\nx: ", head() + b" ", chunks(b"fff", b"\r\n")])
async def test_a_drip_ends_at_the_deadline(
    stage: Stage, quiet: pytest.LogCaptureFixture, drop: bytes
) -> None:
    async def drip(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while not writer.is_closing():
            writer.write(b"1")
            await writer.drain()
            await asyncio.sleep(0.01)

    stage.upstream.play(drop, drip)
    assert reason_of(await stage.hear(TIMEOUT)) is TIMEOUT
    await until(lambda: stage.upstream.open == 0)
    stage.assert_nothing_left()
    assert not quiet.records


async def test_an_answer_before_its_question_is_none(
    stage: Stage, quiet: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    early = asyncio.Event()

    async def eager(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(SMUGGLED)
        await writer.drain()
        early.set()
        await reader.read()
        writer.close()

    create = aiohttp.TCPConnector._create_connection

    async def create_slowly(*given: Any) -> Any:
        handler = await create(*given)
        await early.wait()
        await asyncio.sleep(0.01)
        return handler

    async with await asyncio.start_server(eager, "127.0.0.1", 0) as server:
        # It is up to chance whether it is here in time.
        monkeypatch.setattr(aiohttp.TCPConnector, "_create_connection", create_slowly)
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        with pytest.raises(Unanswered) as why:
            await stage.session.ask("GET", url, FIELDS, MAX_ANSWER)
        assert why.value.reason is BROKEN
        monkeypatch.undo()
    assert isinstance(await stage.hear(), Undressed)
    stage.assert_nothing_left()
    assert not quiet.records


# -- codings ---------------------------------------------------------------------------------------------


def whole(body: bytes, *fields: bytes, kind: bytes = b"application/json") -> bytes:
    start = OK + b"content-type: " + kind + b"\r\n" if kind else OK
    lines = b"".join(field + b"\r\n" for field in fields)
    return start + lines + b"content-length: %d\r\n\r\n" % len(body) + body


def coded(coding: bytes, body: bytes) -> bytes:
    return whole(body, b"content-encoding: " + coding)


def raw_deflate(body: bytes) -> bytes:
    compressor = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return compressor.compress(body) + compressor.flush()


ZIPPED = gzip.compress(BODY)
#: 40,000 bytes that are 40 MB.
BOMB = gzip.compress(b" " * 40_000_000 + BODY)
CODINGS = {
    "gzip": (coded(b"gzip", ZIPPED), None),
    "x-gzip in capitals": (coded(b"X-GZIP", ZIPPED), None),
    "deflate": (coded(b"deflate", zlib.compress(BODY)), None),
    "identity": (coded(b"identity", BODY), None),
    "as much as may be": (coded(b"gzip", gzip.compress(BODY.ljust(MAX_ANSWER))), None),
    "a byte more": (coded(b"gzip", gzip.compress(BODY.ljust(MAX_ANSWER + 1))), BROKEN),
    "a bomb": (coded(b"gzip", BOMB), BROKEN),
    "a bomb in deflate": (coded(b"deflate", zlib.compress(b" " * 40_000_000 + BODY)), BROKEN),
    "gzip in gzip": (coded(b"gzip, gzip", gzip.compress(ZIPPED)), BROKEN),
    "gzip in gzip, in two fields": (
        whole(gzip.compress(ZIPPED), b"content-encoding: gzip", b"content-encoding: gzip"),
        BROKEN,
    ),
    "gzip that is said of its inside too": (coded(b"gzip", gzip.compress(BOMB)), BROKEN),
    "half of it": (coded(b"gzip", ZIPPED[:-9]), BROKEN),
    "its checksum is missing": (coded(b"gzip", ZIPPED[:-8]), BROKEN),
    "its checksum is another": (coded(b"gzip", ZIPPED[:-8] + b"\0" * 8), BROKEN),
    "something after its end": (coded(b"gzip", ZIPPED + b"x"), BROKEN),
    "one after the other": (coded(b"gzip", ZIPPED + ZIPPED), BROKEN),
    "no gzip": (coded(b"gzip", BODY), BROKEN),
    "deflate without its wrapper": (coded(b"deflate", raw_deflate(BODY)), BROKEN),
    "br": (coded(b"br", BODY), BROKEN),
    "zstd": (coded(b"zstd", BODY), BROKEN),
    "what nobody knows": (coded(b"\xff", BODY), BROKEN),
}

# -- documents -------------------------------------------------------------------------------------------


def xml(body: bytes) -> bytes:
    return whole(body, kind=b"application/xml")


def info(said: bytes) -> bytes:
    return whole(b'{"info": {"state": "chatting", ' + said + b"}}")


LAUGHS = b"".join(b'<!ENTITY a%d "%b">' % (number + 1, b"&a%d;" % number * 10) for number in range(9))
DOCUMENTS = {
    "no type": (whole(BODY, kind=b""), BROKEN),
    "html": (whole(b"<html/>", kind=b"text/html"), BROKEN),
    "json that is said to be text": (whole(BODY, kind=b"text/plain"), BROKEN),
    "xml for json": (xml(b"<info/>"), BROKEN),
    "nothing": (whole(b""), BROKEN),
    "NaN": (info(b'"a": NaN'), BROKEN),
    "Infinity": (info(b'"a": -Infinity'), BROKEN),
    "a huge number": (info(b'"a": ' + b"9" * 90_000), None),
    "a huge exponent": (info(b'"chatTimeout": 1e999999999'), None),
    "a key twice": (info(b'"a": 1, "a": 2'), None),
    "nested too deep": (whole(b"[" * 50_000 + b"]" * 50_000), BROKEN),
    "nested without end": (whole(b'{"a":' * 20_000), BROKEN),
    "a lone surrogate": (info(b'"a": "\\ud800"'), None),
    "a lone surrogate in UTF-8": (info(b'"a": "\xed\xa0\x80"'), BROKEN),
    "a NUL": (info(b'"a": "\0"'), BROKEN),
    "a NUL behind it": (whole(BODY + b"\0"), BROKEN),
    "UTF-16": (whole(BODY.decode().encode("utf-16")), BROKEN),
    "a byte order mark": (whole(b"\xef\xbb\xbf" + BODY), BROKEN),
    "no UTF-8": (info(b'"a": "\xff"'), BROKEN),
    "two documents": (whole(BODY + BODY), BROKEN),
}
XML_DOCUMENTS = {
    "good": (xml(b"<info><state>chatting</state></info>"), None),
    "json for xml": (whole(BODY), BROKEN),
    "nested too deep": (xml(b"<a>" * 14_000 + b"</a>" * 14_000), BROKEN),
    "a document type": (xml(b"<!DOCTYPE info><info/>"), BROKEN),
    "billion laughs": (xml(b'<!DOCTYPE a [<!ENTITY a0 "ha">' + LAUGHS + b"]><info>&a9;</info>"), BROKEN),
    "an entity of a file": (
        xml(b'<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]><info>&b;</info>'),
        BROKEN,
    ),
    "a document type elsewhere": (xml(b'<!DOCTYPE a SYSTEM "http://127.0.0.1:1/a.dtd"><info/>'), BROKEN),
    "a parameter entity": (xml(b'<!DOCTYPE a [<!ENTITY % b SYSTEM "http://127.0.0.1:1/">%b;]><a/>'), BROKEN),
    "an unknown entity": (xml(b"<info>&a;</info>"), BROKEN),
    "a NUL": (xml(b"<info>\0</info>"), BROKEN),
    "a NUL by its number": (xml(b"<info>&#0;</info>"), BROKEN),
    "UTF-16": (xml("<info/>".encode("utf-16")), BROKEN),
    "UTF-7": (xml(b"<?xml version='1.0' encoding='utf-7'?><info/>"), BROKEN),
    "a byte order mark": (xml(b"\xef\xbb\xbf<info/>"), None),
    "no UTF-8": (xml(b"<info>\xff</info>"), BROKEN),
    "an attribute twice": (xml(b"<info a='1' a='2'/>"), BROKEN),
}
BODIES = {
    **{f"coding: {name}": (JSON_TARGET, *row) for name, row in CODINGS.items()},
    **{f"json: {name}": (JSON_TARGET, *row) for name, row in DOCUMENTS.items()},
    **{f"xml: {name}": (XML_TARGET, *row) for name, row in XML_DOCUMENTS.items()},
    "of another chat": (
        JSON_TARGET,
        info(b'"link": {"@rel": "self", "@href": "https://x/api/account/123/chat/H9/info"}'),
        Reason.UPSTREAM_MISMATCH,
    ),
}


@pytest.mark.parametrize("name", BODIES)
async def test_bodies(stage: Stage, quiet: pytest.LogCaptureFixture, name: str) -> None:
    of, script, expected = BODIES[name]
    stage.upstream.play(script)
    assert reason_of(await stage.hear(of=of)) is expected
    assert isinstance(await stage.hear(), Undressed)
    stage.assert_nothing_left()
    assert not quiet.records


def test_a_bomb_is_never_larger_than_an_answer() -> None:
    answer = Answer(200, ((b"content-encoding", b"gzip"),), BOMB)
    tracemalloc.start()
    try:
        with pytest.raises(Unanswered):
            plain(answer, MAX_ANSWER)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 10 * MAX_ANSWER


# -- TLS -------------------------------------------------------------------------------------------------

HOST = "127.0.0.1"
DAY = dt.timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Shown:
    """What a server shows of itself, to somebody who trusts `authority` and asked for `HOST`."""

    name: str = HOST
    is_self_signed: bool = False
    valid: tuple[dt.timedelta, dt.timedelta] = (-DAY, DAY)
    most: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3


AUTHORITY = ec.generate_private_key(ec.SECP256R1())


def certificate(
    key: ec.EllipticCurvePrivateKey, shown: Shown, signer: ec.EllipticCurvePrivateKey, *, is_ca: bool
) -> bytes:
    today = dt.datetime.now(dt.UTC)
    named = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "ca" if is_ca else shown.name)])
    by = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "ca")]) if signer is AUTHORITY else named
    alternative: x509.GeneralName = (
        x509.IPAddress(ipaddress.ip_address(HOST)) if shown.name == HOST else x509.DNSName(shown.name)
    )
    return (
        x509.CertificateBuilder(by, named, key.public_key(), x509.random_serial_number())
        .not_valid_before(today + shown.valid[0])
        .not_valid_after(today + shown.valid[1])
        .add_extension(x509.BasicConstraints(is_ca, None), critical=True)
        .add_extension(x509.SubjectAlternativeName([alternative]), critical=False)
        .sign(signer, hashes.SHA256())
        .public_bytes(Encoding.PEM)
    )


def showing(folder: Path, shown: Shown) -> ssl.SSLContext:
    """A server's context; who vouches for it is in `folder / ca.pem`."""
    (folder / "ca.pem").write_bytes(certificate(AUTHORITY, Shown(), AUTHORITY, is_ca=True))
    key = ec.generate_private_key(ec.SECP256R1())
    signer = key if shown.is_self_signed else AUTHORITY
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (folder / "server.pem").write_bytes(private + certificate(key, shown, signer, is_ca=False))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "server.pem")
    if shown.most < ssl.TLSVersion.TLSv1_2:
        # What no library of today does without being asked to.
        context.set_ciphers("ALL:@SECLEVEL=0")
        context.minimum_version = shown.most
    context.maximum_version = shown.most
    return context


SHOWN = {
    "what it should": (Shown(), None),
    "TLS 1.2": (Shown(most=ssl.TLSVersion.TLSv1_2), None),
    "self-signed": (Shown(is_self_signed=True), Reason.UPSTREAM_UNREACHABLE),
    "expired": (Shown(valid=(-2 * DAY, -DAY)), Reason.UPSTREAM_UNREACHABLE),
    "not valid yet": (Shown(valid=(DAY, 2 * DAY)), Reason.UPSTREAM_UNREACHABLE),
    "another host": (Shown("other.example"), Reason.UPSTREAM_UNREACHABLE),
    "TLS 1.0": (Shown(most=ssl.TLSVersion.TLSv1), Reason.UPSTREAM_UNREACHABLE),
}


@contextlib.asynccontextmanager
async def encrypted(
    folder: Path, serve: Then, context: ssl.SSLContext | None, upstream: Upstream
) -> AsyncIterator[Stage]:
    """A stage whose upstream is thought to speak TLS."""
    (folder / "key").write_text(KEY)
    async with await asyncio.start_server(serve, HOST, 0, ssl=context) as listening:
        origin = f"https://{HOST}:{listening.sockets[0].getsockname()[1]}"
        session = Session(MOST, 15.0, trusted=trusted(folder / "ca.pem"))
        yield stage_of(upstream, origin, folder / "key", session)
        await session.aclose()
        await until(lambda: upstream.open == 0)


# To name the version is deprecated, too.
@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1 is deprecated:DeprecationWarning")
@pytest.mark.parametrize("name", SHOWN)
async def test_certificates(tmp_path: Path, quiet: pytest.LogCaptureFixture, name: str) -> None:
    shown, expected = SHOWN[name]
    upstream = Upstream()
    async with encrypted(tmp_path, upstream, showing(tmp_path, shown), upstream) as stage:
        for _ in range(2):
            assert reason_of(await stage.hear(expected)) is expected
        stage.assert_nothing_left()
        await until(lambda: stage.upstream.open == (expected is None))
        # Who is not trusted has not seen a byte of the request.
        assert (stage.upstream.asked == 0) is (expected is not None)
    assert not [record for record in quiet.records if record.name != "asyncio"]


ALERT = b"\x15\x03\x03\0\x02\x02\x28"
#: What is said to somebody who begins a handshake, and what is done then.
HANDSHAKES = {
    "plain http": (GOOD, leave, Reason.UPSTREAM_UNREACHABLE),
    "plain http that stays": (GOOD, stay, Reason.UPSTREAM_UNREACHABLE),
    "reset": (b"", reset, Reason.UPSTREAM_UNREACHABLE),
    "an end": (b"", leave, Reason.UPSTREAM_UNREACHABLE),
    "an alert": (ALERT, leave, Reason.UPSTREAM_UNREACHABLE),
    "nothing": (b"", stay, TIMEOUT),
}


@pytest.mark.parametrize("name", HANDSHAKES)
async def test_handshakes(tmp_path: Path, quiet: pytest.LogCaptureFixture, name: str) -> None:
    said, then, expected = HANDSHAKES[name]
    upstream = Upstream()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream.open += 1
        with contextlib.suppress(OSError, RuntimeError):
            await reader.read(1)
            writer.write(said)
            await writer.drain()
            await then(reader, writer)
        writer.close()
        upstream.open -= 1

    showing(tmp_path, Shown())
    async with encrypted(tmp_path, serve, None, upstream) as stage:
        for _ in range(2):
            assert reason_of(await stage.hear(expected)) is expected
        stage.assert_nothing_left()
    assert not quiet.records


# -- names -----------------------------------------------------------------------------------------------


async def test_a_name_that_hangs_holds_up_nobody_else(by_system: ssl.SSLContext) -> None:
    ends, hanging, lookups = threading.Event(), threading.Semaphore(0), Counter[str]()

    def lookup(host: str, port: int, *given: Any, **named: Any) -> list[tuple[Any, ...]]:
        lookups[host] += 1
        if host != "here.example":
            hanging.release()
            ends.wait()
        return socket.getaddrinfo(HOST, port, *given, **named)

    upstream = Upstream()
    async with await asyncio.start_server(upstream, HOST, 0) as server:
        port = server.sockets[0].getsockname()[1]
        session = Session(MOST, 15.0, trusted=by_system, lookup=lookup)

        async def ask(host: str) -> bytes:
            return (await session.ask("GET", f"http://{host}:{port}", FIELDS, MAX_ANSWER)).body

        asking = [asyncio.create_task(ask(f"lost{number % 8}.example")) for number in range(9)]
        await asyncio.to_thread(lambda: [hanging.acquire() for _ in range(8)])
        async with asyncio.timeout(5):
            assert await ask("here.example") == BODY
            # Neither the loop's threads nor the executor's are taken.
            assert await asyncio.gather(*(asyncio.to_thread(int, "7") for _ in range(20))) == [7] * 20
            assert await asyncio.get_running_loop().getaddrinfo("localhost", port)
        for task in asking[:8]:
            task.cancel()
        ends.set()
        # Whoever else waited for the same name is not cancelled with the first.
        assert await asking[8] == BODY
        assert lookups == {"here.example": 1} | {f"lost{number}.example": 1 for number in range(8)}
        await session.aclose()


async def test_who_hangs_on_a_name_when_all_is_closed_is_let_go(by_system: ssl.SSLContext) -> None:
    ends, began = threading.Event(), threading.Event()

    def lookup(*_: Any, **__: Any) -> list[tuple[Any, ...]]:
        began.set()
        ends.wait()
        return []

    session = Session(MOST, 15.0, trusted=by_system, lookup=lookup)
    asking = asyncio.create_task(session.ask("GET", "http://lost.example", FIELDS, MAX_ANSWER))
    await asyncio.to_thread(began.wait)
    [thread] = [thread for thread in threading.enumerate() if thread.name == "look-up"]
    await session.aclose()
    asking.cancel()
    await asyncio.wait([asking])
    ends.set()
    # If it were waited for, it would keep the process.
    assert thread.daemon
    await asyncio.to_thread(thread.join)


@pytest.mark.parametrize(
    "error",
    [socket.gaierror(-2, "no such name"), socket.gaierror(-3, "try again"), UnicodeError(), OSError(5, "x")],
)
async def test_a_name_that_cannot_be_looked_up(by_system: ssl.SSLContext, error: Exception) -> None:
    def lookup(*_: Any, **__: Any) -> list[tuple[Any, ...]]:
        raise error

    missed: list[int] = []
    session = Session(MOST, 15.0, trusted=by_system, lookup=lookup)
    for _ in range(2):
        with pytest.raises(Unanswered) as why:
            await session.ask(
                "GET", "http://lost.example", FIELDS, MAX_ANSWER, missed=lambda: missed.append(1)
            )
        assert why.value.reason is Reason.UPSTREAM_UNREACHABLE
    assert missed == [1, 1]
    await session.aclose()


SUFFIX = "*.liveperson.net"
#: What the domain service says, and whether it is gone to.
NAMED = {
    "va.convep.liveperson.net": True,
    "VA.ConVep.LivePerson.NET": True,
    "va.convep.liveperson.net:443": True,
    "va.convep.liveperson.net:8443": True,
    "liveperson.net": False,
    "evil-liveperson.net": False,
    "evilliveperson.net": False,
    "liveperson.net.evil.example": False,
    "va.liveperson.net.": False,
    "va.liveperson.net..": False,
    ".liveperson.net": False,
    "-.liveperson.net": False,
    "va.liveperson.net:": False,
    "va.liveperson.net:0": False,
    "va.liveperson.net:65536": False,
    "va.liveperson.net:-1": False,
    "va.liveperson.net:80:443": False,
    "evil.example:443.liveperson.net": False,
    "user@va.liveperson.net": False,
    "va.liveperson.net@evil.example": False,
    "evil.example#.liveperson.net": False,
    "evil.example/.liveperson.net": False,
    "evil.example?.liveperson.net": False,
    "evil.example\\.liveperson.net": False,
    "evil.example%2f.liveperson.net": False,
    "evil.example%00.liveperson.net": False,
    "evil.example\0.liveperson.net": False,
    "evil.example\r\n.liveperson.net": False,
    "va.liveperson.net\n": False,
    " va.liveperson.net": False,
    "va.liveperson.n\u0435t": False,
    "va\u3002liveperson\u3002net": False,
    "va.livepers\u00f6n.net": False,
    "va.liveperson.net\uff0fevil.example": False,
    "xn--liveperson-x.net": False,
    "10.0.0.1": False,
    "2130706433": False,
    "0x7f.1": False,
    "127.0.0.1": False,
    "[::1]": False,
    "[::ffff:127.0.0.1]": False,
    "localhost": False,
    "169.254.169.254": False,
    "": False,
}


@pytest.mark.parametrize("host", NAMED)
async def test_where_a_domain_service_may_send_the_key(tmp_path: Path, host: str) -> None:
    async def get(_: str) -> bytes:
        return json.dumps({"baseURI": host}).encode()

    (tmp_path / "key").write_text(KEY)
    account = Account("123", AppKeys((tmp_path / "key",)), None)
    discovery = Discovery("https://api.example", (SUFFIX,))
    accounts = Accounts({"123": account}, discovery, "https://chat.example", (), get)
    expected = f"https://{host}" if NAMED[host] else Failed(Reason.UPSTREAM_UNREACHABLE)
    assert await accounts.origin("123") == expected
