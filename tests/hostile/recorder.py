"""An upstream that writes down every byte, and a client's end of a connection that reads by the letter."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import re
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import cast

from tests.hostile.canonical import JSON, XML, document

#: `H`, the number of the case, and which of its requests.
TAG = re.compile(r"H([0-9]+)-[a-z0-9]+")
_REQUEST = re.compile(rb"(?:GET|POST) (/[!-~]*) HTTP/1\.1\r\n((?:[A-Za-z-]+: [ -~]*\r\n)*)\r\n")
_LENGTH = re.compile(rb"content-length: ([0-9]+)\r\n")
_STATUS = re.compile(rb"HTTP/1\.1 ([1-5][0-9][0-9]) [A-Za-z '-]*\r\n((?:[a-z0-9-]+: [ -~]*\r\n)*)\r\n")
_NO_BODY = {204, 304}


class Recorder:
    """What came, by the case it belongs to; and whatever is no request that the gateway could have meant."""

    def __init__(self) -> None:
        self.seen: dict[int, dict[str, list[bytes]]] = {}
        self.strange: list[bytes] = []
        self.requests = 0
        self.host = b""

    def take(self, raw: bytes, target: str) -> bytes:
        """Write a request down; returns the answer to it."""
        self.requests += 1
        tags = list(TAG.finditer(target))
        if len(tags) != 1:
            self.strange.append(raw)
        tag = tags[0][0] if tags else "H0-nobody"
        self.seen.setdefault(number_of(tag), {}).setdefault(tag, []).append(raw)
        media_type = XML if b"\r\naccept: application/xml\r\n" in raw else JSON
        body = document(tag, media_type)
        return b"HTTP/1.1 200 OK\r\ncontent-type: %s\r\ncontent-length: %d\r\n\r\n%s" % (
            media_type,
            len(body),
            body,
        )

    def taken(self, tag: str) -> list[bytes]:
        """What came with this tag since it was last asked for."""
        return self.seen.get(number_of(tag), {}).pop(tag, [])

    def left(self, number: int) -> list[bytes]:
        """What came of a case and was not asked for by its tag."""
        return list(itertools.chain.from_iterable(self.seen.pop(number, {}).values()))


def number_of(tag: str) -> int:
    return int(tag[1 : tag.index("-")])


class _Upstream(asyncio.Protocol):
    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._data = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's are none of asyncio's own.
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._data += data
        while self._data:
            found = _REQUEST.match(self._data)
            if found is None:
                if b"\r\n\r\n" in self._data:
                    self._recorder.strange.append(self._data)
                    self._transport.close()
                return
            said = _LENGTH.search(found[2])
            end = found.end() + (int(said[1]) if said else 0)
            if len(self._data) < end:
                return
            raw, self._data = self._data[:end], self._data[end:]
            self._transport.write(self._recorder.take(raw, found[1].decode()))

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        if self._data:
            # Half a request is one too many as well.
            self._recorder.strange.append(self._data)


@contextlib.asynccontextmanager
async def recording() -> AsyncIterator[tuple[Recorder, str]]:
    """A running recorder, and its URL."""
    recorder = Recorder()
    server = await asyncio.get_running_loop().create_server(lambda: _Upstream(recorder), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    recorder.host = b"127.0.0.1:%d" % port
    try:
        yield recorder, f"http://127.0.0.1:{port}"
    finally:
        server.close()


@dataclass(frozen=True, slots=True)
class Reply:
    """A response, as it stood on the wire."""

    status: int
    fields: bytes
    body: bytes

    @property
    def closes(self) -> bool:
        return b"\r\nconnection: close\r\n" in b"\r\n" + self.fields

    def field(self, name: bytes) -> bytes | None:
        found = re.search(rb"(?:\A|\r\n)%s: ([^\r]*)\r\n" % name, self.fields)
        return found[1] if found else None


class Peer(asyncio.Protocol):
    """A client's connection. `asked` names the method of each request that may be answered, in order."""

    def __init__(self) -> None:
        self.replies: list[Reply] = []
        self.asked: list[str] = []
        self.raw = bytearray()
        #: Whatever came that is no response.
        self.garbage = b""
        self.is_closed = False
        #: Whether either side has said that it is to be closed.
        self.is_ending = False
        self._changed = asyncio.Event()
        self._at = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self.raw += data
        while self._at < len(self.raw) and not self.garbage:
            end = self._response()
            if not end:
                return
            self._at = end
        self._changed.set()

    def _response(self) -> int:
        """Read one response; returns where it ends, 0 if it has not come whole."""
        found = _STATUS.match(self.raw, self._at)
        if found is None:
            if self.raw.find(b"\r\n\r\n", self._at) >= 0:
                self.garbage = bytes(self.raw[self._at :])
            return 0
        status = int(found[1])
        if status < 200:
            return found.end()
        reply = Reply(status, found[2], b"")
        is_headless = len(self.replies) < len(self.asked) and self.asked[len(self.replies)] == "HEAD"
        # A line that is no request's names no method: its refusal has a body.
        is_headless = is_headless and not (
            reply.closes and bytes(self.raw[found.end() : found.end() + 1]) in {b"{", b"<"}
        )
        length = 0 if is_headless or status in _NO_BODY else int(reply.field(b"content-length") or b"0")
        self.is_ending = self.is_ending or reply.closes
        end = found.end() + length
        if len(self.raw) < end:
            return 0
        self.replies.append(Reply(status, found[2], bytes(self.raw[found.end() : end])))
        return end

    def eof_received(self) -> None:
        self._end()

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self._end()

    def _end(self) -> None:
        if self._at < len(self.raw):
            self.garbage = self.garbage or bytes(self.raw[self._at :])
        self.is_closed = True
        self._changed.set()

    async def until(self, replies: int, patience_s: float) -> bool:
        """Wait for so many responses, or the end; whether it came to that."""
        try:
            async with asyncio.timeout(patience_s):
                while len(self.replies) < replies and not self.is_closed:
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            return False
        return True

    async def until_closed(self, patience_s: float) -> bool:
        """Wait for the end, whatever comes before it; whether it came."""
        return await self.until(sys.maxsize, patience_s)

    def forget(self) -> bytes:
        """Begin anew on the same connection; returns what has come."""
        raw = bytes(self.raw)
        self.replies, self.asked, self.raw, self._at = [], [], bytearray(), 0
        return raw


async def connect(address: tuple[str, int]) -> Peer:
    _, peer = await asyncio.get_running_loop().create_connection(Peer, *address)
    return peer
