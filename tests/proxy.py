"""An egress proxy on loopback (RFC 9110 §9.3.6 and RFC 9112 §3.2.2) that records all it gets to see."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from urllib.parse import urlsplit

from tests.support import until

HOST = "127.0.0.1"

#: How it fails: what it does with a connection once it has a head. Afterwards the connection is closed.
Behaviour = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Proxy:
    """`heads` are the requests it was given itself, `sent` all that clients sent it, tunnels included."""

    def __init__(self) -> None:
        self.url = ""
        self.heads: list[bytes] = []
        self.sent = bytearray()
        self.open = 0
        self.behaviour: Behaviour | None = None

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.open += 1
        try:
            # RuntimeError is what uvloop says when the other side is gone.
            with contextlib.suppress(OSError, asyncio.IncompleteReadError, RuntimeError):
                head = await reader.readuntil(b"\r\n\r\n")
                self.heads.append(head)
                self.sent += head
                await (self.behaviour or self._forward)(reader, writer)
                await writer.drain()
        finally:
            writer.close()
            self.open -= 1

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line, _, fields = self.heads[-1].partition(b"\r\n")
        method, target, version = line.split(b" ")
        if method == b"CONNECT":
            host, _, port = target.decode().rpartition(":")
            upstream = await asyncio.open_connection(host, int(port))
            writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        else:
            url = urlsplit(target.decode())
            upstream = await asyncio.open_connection(url.hostname, url.port)
            path = target[len(f"{url.scheme}://{url.netloc}") :]
            upstream[1].write(b" ".join((method, path, version)) + b"\r\n" + fields)
        try:
            await asyncio.gather(self._pump(reader, upstream[1], self.sent), self._pump(upstream[0], writer))
        finally:
            upstream[1].close()

    @staticmethod
    async def _pump(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter, seen: bytearray | None = None
    ) -> None:
        while data := await reader.read(65_536):
            if seen is not None:
                seen += data
            writer.write(data)
        writer.close()


@contextlib.asynccontextmanager
async def proxying() -> AsyncIterator[Proxy]:
    """A proxy that listens while the block runs; by its end everyone has to have left."""
    it = Proxy()
    async with await asyncio.start_server(it, HOST, 0) as server:
        it.url = f"http://{HOST}:{server.sockets[0].getsockname()[1]}"
        yield it
        await until(lambda: it.open == 0)


def says(answer: bytes) -> Behaviour:
    """Whatever is asked, this is the answer, and no more."""

    async def say(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(answer)

    return say


async def hangs(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
    """No answer; it ends when whoever asked gives up."""
    await reader.read()


async def tunnels_nowhere(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A tunnel whose other end says nothing."""
    writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
    await reader.read()


#: Words of the proxy that nobody else may hear.
WORDS = b"go-away-from-egress"
_PAGE = b"content-length: 19\r\nx-words: " + WORDS + b"\r\n\r\n" + WORDS
#: How a proxy can fail a request for https, by name; each leads to no tunnel.
FAILURES: dict[str, Behaviour] = {
    "forbidden": says(b"HTTP/1.1 403 " + WORDS + b"\r\n" + _PAGE),
    "wants credentials": says(
        b"HTTP/1.1 407 " + WORDS + b'\r\nproxy-authenticate: Basic realm="x"\r\n' + _PAGE
    ),
    "bad gateway": says(b"HTTP/1.1 502 " + WORDS + b"\r\n" + _PAGE),
    "redirect": says(b"HTTP/1.1 302 " + WORDS + b"\r\nlocation: http://127.0.0.1:1/\r\n" + _PAGE),
    "no reason": says(b"HTTP/1.1 599\r\n\r\n"),
    "garbage": says(b"\x16\x03\x01" + WORDS + b"\r\n\r\n"),
    "half an answer": says(b"HTTP/1.1 200 " + WORDS),
    "a huge answer": says(b"HTTP/1.1 200 OK\r\nx: " + WORDS * 100_000 + b"\r\n\r\n"),
    "interim answers": says(b"HTTP/1.1 100 Continue\r\n\r\n" * 1_000),
    "hangs up": says(b""),
    "a tunnel that closes": says(b"HTTP/1.1 200 OK\r\n\r\n"),
    "a tunnel to garbage": says(b"HTTP/1.1 200 OK\r\n\r\n" + WORDS),
}
