"""Requests to the upstreams and their answers over HTTP/1.1: aiohttp's session, and what it must not do.

No redirect is followed, no cookie kept, nothing inflated, nothing repeated, and no proxy or netrc of the
environment believed. What goes wrong is translated by one table.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import socket
import ssl
import threading
from collections.abc import Callable
from contextvars import ContextVar
from functools import partial
from typing import TYPE_CHECKING, Any

import aiohttp
import httpx2
from aiohttp import hdrs
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.client_proto import ResponseHandler
from aiohttp.http_exceptions import HttpProcessingError
from yarl import URL

from gateway.core.errors import Reason
from gateway.core.messages import Answer, Headers
from gateway.core.peers import is_loopback

if TYPE_CHECKING:
    from pathlib import Path

    from aiohttp import StreamReader
    from aiohttp.connector import Connection
    from aiohttp.http_parser import RawResponseMessage
    from aiohttp.tracing import Trace

#: What of a head is taken: bytes a line, fields, and bytes in all, with those of interim answers (1xx).
MAX_LINE = 8_190
MAX_FIELDS = 128
MAX_HEAD = 65_536
#: How many interim answers may come before the one that counts. Go's client takes five.
MAX_INTERIM = 8
#: How many names may be looked up at a time.
MAX_LOOKUPS = 32

# Heads and chunks are read by the letter: no bare line feed, no folded line, no doubled length. The library
# does so where Python is in its development mode, and has no other way to say it.
vars(importlib.import_module("aiohttp._http_parser"))["DEBUG"] = True


class Unanswered(Exception):
    """There is no answer that can be used.

    `unseen` if a kept connection closed before the whole head of one: nobody need have seen the request.
    """

    def __init__(self, reason: Reason, *, unseen: bool = False) -> None:
        super().__init__(reason.slug)
        self.reason = reason
        self.unseen = unseen


class _Closed(Exception):
    """The connection closed before the whole head of an answer."""


class _Broken(Exception):
    """What comes is no HTTP, or more than an answer may be, in the middle of a body."""


#: Whatever the library raises once it is connected, by the first class that fits.
_ENDINGS: tuple[tuple[type[Exception], Reason], ...] = (
    (_Closed, Reason.UPSTREAM_RESET),
    (aiohttp.ClientConnectorError, Reason.UPSTREAM_UNREACHABLE),
    (aiohttp.ClientConnectionError, Reason.UPSTREAM_RESET),
    (aiohttp.ClientPayloadError, Reason.UPSTREAM_RESET),  # closed before the end of the body
    (_Broken, Reason.UPSTREAM_BROKEN),
    (ValueError, Reason.UPSTREAM_UNREACHABLE),  # no host name, no port
    (aiohttp.ClientError, Reason.UPSTREAM_BROKEN),
)
_TRANSLATED = tuple(kind for kind, _ in _ENDINGS)


def _reason(error: Exception) -> Reason:
    return next(reason for kind, reason in _ENDINGS if isinstance(error, kind))


class _Progress:
    """How far a request has come, and how much may come back; of its connection the connector tells."""

    __slots__ = ("body", "is_connecting", "is_new", "max_bytes")

    def __init__(self, max_bytes: int) -> None:
        self.is_connecting = self.is_new = False
        self.body: StreamReader | None = None
        self.max_bytes = max_bytes

    def reason(self, error: Exception) -> Reason:
        # Also where a proxy answered, and did not connect.
        return Reason.UPSTREAM_UNREACHABLE if self.is_connecting else _reason(error)

    def is_unseen(self, reason: Reason) -> bool:
        return reason is Reason.UPSTREAM_RESET and not self.is_new and self.body is None


#: The request that is under way in this task: the library's own way to tell, tracing, costs a tenth more.
_PROGRESS: ContextVar[_Progress] = ContextVar("_PROGRESS")


class _Handler(ResponseHandler):
    """A connection that ends with what no answer may be, before anybody has to read it."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        # Until a request is sent, what is expected is the answer to a CONNECT.
        self.expect(0)

    def expect(self, max_bytes: int) -> None:
        """The answer to another request is next."""
        self._max_bytes = max_bytes
        self._bytes_left = MAX_HEAD
        self._interim_left = MAX_INTERIM

    def data_received(self, data: bytes) -> None:
        self._bytes_left -= len(data)
        super().data_received(data)
        if self._bytes_left < 0:
            self._break_off()

    def feed_data(self, data: tuple[RawResponseMessage, StreamReader], size: int = 0) -> None:
        message, _ = data
        if message.code < 200 and message.code != 101:
            self._interim_left -= 1
        else:
            # Twice, for it may come in chunks that are shorter than their sizes.
            self._bytes_left += 2 * self._max_bytes
        if self._interim_left < 0 or not _is_fit(message, self._max_bytes):
            self._break_off()
        else:
            super().feed_data(data, size)

    def _break_off(self) -> None:
        if self._payload is not None and not self._payload.is_eof():
            self._payload.set_exception(_Broken())
        # Nothing is read any more, nor is it told of the end of what it has read.
        self._parser = self._payload = None
        self._interim_left = -1
        if self.transport is not None:
            self.transport.close()
        if self.exception() is None:
            self.set_exception(HttpProcessingError())


def _is_fit(message: RawResponseMessage, max_bytes: int) -> bool:
    """Whether it is clear where the body ends, and soon enough."""
    coding = message.headers.get(hdrs.TRANSFER_ENCODING)
    if coding is not None:
        # What the library does not know it would take for a body until the connection closes.
        return coding.isascii() and coding.lower() == "chunked"
    return int(message.headers.get(hdrs.CONTENT_LENGTH, 0)) <= max_bytes


#: `socket.getaddrinfo`, or what stands for it.
Lookup = Callable[..., list[tuple[Any, ...]]]
#: Addresses of the families that this machine has.
_USABLE = socket.AI_ADDRCONFIG


class _Resolver(AbstractResolver):
    """Looks names up in threads of its own.

    A look-up can hang for half a minute. In the loop's own threads (libuv has two for this) it would hold
    up key fetches, and the look-ups of all others; in an executor's, the end of the process.
    """

    def __init__(self, lookup: Lookup) -> None:
        self._lookup = lookup
        self._threads = asyncio.Semaphore(MAX_LOOKUPS)

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        async with self._threads:
            return await self._resolve(host, port, family)

    async def _resolve(self, host: str, port: int, family: socket.AddressFamily) -> list[ResolveResult]:
        loop = asyncio.get_running_loop()
        found: asyncio.Future[list[tuple[Any, ...]]] = loop.create_future()
        threading.Thread(
            target=_look_up,
            args=(partial(self._lookup, host, port, family, socket.SOCK_STREAM, flags=_USABLE), loop, found),
            name="look-up",
            daemon=True,
        ).start()
        return [
            ResolveResult(
                hostname=host,
                host=address[0],
                port=address[1],
                family=kind,
                proto=protocol,
                flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
            )
            for kind, _, protocol, _, address in await found
        ]

    async def close(self) -> None:
        """Nothing is kept."""


def _look_up(
    lookup: Lookup, loop: asyncio.AbstractEventLoop, found: asyncio.Future[list[tuple[Any, ...]]]
) -> None:
    """What a thread does. It may outlive whoever wants to know, and the loop."""
    tell: Callable[[], None]
    try:
        tell = partial(_tell, found.set_result, found, lookup())
    except Exception as error:  # noqa: BLE001 - it is raised by who waits
        tell = partial(_tell, found.set_exception, found, error)
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(tell)


def _tell(settle: Callable[[Any], None], found: asyncio.Future[Any], outcome: object) -> None:
    if not found.done():
        settle(outcome)


class _Connector(aiohttp.TCPConnector):
    """Connections on which nothing waits, and whose end is told to who reads from them.

    It sets no bound to them: who waits here is waiting to be connected.
    """

    def __init__(self, idle_s: float, lookup: Lookup) -> None:
        super().__init__(limit=0, keepalive_timeout=idle_s, resolver=_Resolver(lookup))
        handler: type[ResponseHandler] = _Handler
        self._factory = partial(handler, loop=self._loop)
        #: The last request on each connection.
        self._asked: dict[ResponseHandler, _Progress] = {}

    async def connect(
        self,
        req: aiohttp.ClientRequest,
        traces: list[Trace],
        timeout: aiohttp.ClientTimeout,  # noqa: ASYNC109 - the library's signature
    ) -> Connection:
        progress = _PROGRESS.get()
        while True:
            progress.is_connecting = True
            connection = await super().connect(req, traces, timeout)
            handler = connection.protocol
            progress.is_new = handler not in self._asked
            # What came on an idle connection would be taken for the answer to what is asked there next.
            if handler is not None and (progress.is_new or not handler.should_close):
                break
            connection.close()
        progress.is_connecting = False
        if handler.should_close and handler.is_connected():
            connection.close()
            raise _Broken  # an answer before its question: the next one may come just as early
        if isinstance(handler, _Handler):
            handler.expect(progress.max_bytes)
        if handler.closed is not None:  # or it is lost already
            if progress.is_new:
                handler.closed.add_done_callback(partial(self._lost, handler))
            self._asked[handler] = progress
        return connection

    def _lost(self, handler: ResponseHandler, closed: asyncio.Future[None]) -> None:
        """Who reads a body is told by the library of an early end, but not of broken chunks and the like."""
        if not closed.cancelled():
            closed.exception()  # or the loop complains that nobody has asked
        body = self._asked.pop(handler).body
        if body is not None and not body.is_eof() and body.exception() is None:
            body.set_exception(_Broken())


async def _never_again(
    request: aiohttp.ClientRequest, send: aiohttp.ClientHandlerType
) -> aiohttp.ClientResponse:
    """Hide from the library what it would repeat a request for: to repeat is for who counts requests."""
    try:
        return await send(request)
    except aiohttp.ClientConnectorError:
        raise
    except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError):
        raise _Closed from None


class Session:
    """Requests to all upstreams, at most `most` at a time; no connection is idle for longer than `idle_s`.

    By `proxy` (`http://host:port`) go requests for https in a tunnel (CONNECT), in which alone their fields
    are; those for plain http as they are, and the proxy sees their fields, the appKey too, but never those
    for this machine. `trusted` is the system's authorities unless it is given. `lookup` may block.
    """

    def __init__(
        self,
        most: int,
        idle_s: float,
        proxy: str | None = None,
        trusted: ssl.SSLContext | None = None,
        *,
        lookup: Lookup = socket.getaddrinfo,
    ) -> None:
        # Not the library's own bound: there, who is woken and cancelled at once takes his turn with him.
        self._places = asyncio.Semaphore(most)
        self._idle_s = idle_s
        self._proxy = proxy
        self._trusted = trusted or _by_system()
        self._lookup = lookup
        self._session: aiohttp.ClientSession | None = None
        self._is_closed = False

    def trust(self, context: ssl.SSLContext) -> None:
        """From now on this decides who is asked. What another one let pass is not used again."""
        self._trusted = context

    async def ask(
        self,
        method: str,
        url: str,
        headers: Headers,
        max_bytes: int,
        *,
        body: bytes = b"",
        missed: Callable[[], None] = lambda: None,
    ) -> Answer:
        """The answer to a request, its body at most `max_bytes` long and as it was sent. Raises Unanswered.

        `headers` have to name all that the library would add: Accept, Accept-Encoding, User-Agent, and for a
        POST its length. `missed` is called when there was nobody to connect to, also when that took so long
        that the caller is cancelled.
        """
        progress = _Progress(max_bytes)
        _PROGRESS.set(progress)
        try:
            async with self._places:
                to = URL(url, encoded=True)
                response = await self._opened().request(
                    method,
                    to,
                    headers=[(name.decode(), value.decode()) for name, value in headers],
                    # Nothing would be added to a read, and to look for that costs it a tenth more.
                    skip_auto_headers=None if method == "GET" else ("content-type",),
                    data=body or None,
                    allow_redirects=False,
                    # With each request, as it is part of what makes a kept connection fit.
                    ssl=self._trusted,
                    # What is not encrypted stays on this machine if it is meant for it.
                    proxy=None if to.scheme == "http" and is_loopback(to.host or "") else self._proxy,
                )
                progress.body = response.content
                try:
                    return await _read(response, max_bytes)
                finally:
                    # Who has read to the end has left the connection to others by now.
                    response.close()
        except _TRANSLATED as error:
            reason = progress.reason(error)
            if reason is Reason.UPSTREAM_UNREACHABLE:
                missed()
            # Not `from error`: it knows the request's fields, the key among them.
            raise Unanswered(reason, unseen=progress.is_unseen(reason)) from None
        except asyncio.CancelledError:
            if progress.is_connecting:
                missed()
            raise

    def _opened(self) -> aiohttp.ClientSession:
        """The library's session, which wants a running loop."""
        if self._is_closed:
            raise Unanswered(Reason.UPSTREAM_UNREACHABLE)
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=_Connector(self._idle_s, self._lookup),
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                timeout=aiohttp.ClientTimeout(),
                middlewares=(_never_again,),
                max_line_size=MAX_LINE,
                max_field_size=MAX_LINE,
                max_headers=MAX_FIELDS,
            )
        return self._session

    async def aclose(self) -> None:
        """Close all connections, for good."""
        self._is_closed = True
        if self._session is not None:
            await self._session.close()


def trusted(ca_file: Path | None) -> ssl.SSLContext:
    """Whom to trust: who the certificates in a PEM file vouch for, or without one, those of the system.

    Blocks for a while; raises OSError.
    """
    return _by_system() if ca_file is None else _by(ca_file)


def _by_system() -> ssl.SSLContext:
    # Whatever the environment names.
    return _http_over_tls(httpx2.create_ssl_context(trust_env=False))


def _by(ca_file: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(ca_file)
    return _http_over_tls(context)


def _http_over_tls(context: ssl.SSLContext) -> ssl.SSLContext:
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    return context


async def _read(response: aiohttp.ClientResponse, max_bytes: int) -> Answer:
    if response.status < 200:
        raise Unanswered(Reason.UPSTREAM_BROKEN)  # a switch to a protocol that nobody asked for
    head = tuple([(name.lower(), value) for name, value in response.raw_headers])
    body = bytearray()
    while part := await response.content.readany():
        body += part
        if len(body) > max_bytes:
            raise Unanswered(Reason.UPSTREAM_BROKEN)
    return Answer(response.status, head, bytes(body))
