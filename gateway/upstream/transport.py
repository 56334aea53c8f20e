"""Requests to the vendor. The appKey is added here, last, and nowhere else.

No redirect is followed, no cookie is kept, no proxy or netrc of the environment is believed: the transport
is called directly, below the client that does such things. What goes wrong is translated by one table.
"""

from __future__ import annotations

import asyncio
import re
import zlib
from dataclasses import dataclass

import httpx2

from gateway.core.errors import Reason
from gateway.core.freshness import Failed
from gateway.core.links import LinkMap
from gateway.core.messages import Answer, UpstreamRequest
from gateway.upstream.accounts import Accounts, Get


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds on the way to the upstream. The deadline spans everything from connecting to the last byte."""

    deadline_s: float
    max_connections: int
    max_answer_bytes: int


class AnswerTooLarge(Exception):
    """More bytes than the gateway takes, on the wire or inflated."""


#: Whatever the transport raises, by the first class that fits.
_ENDINGS: tuple[tuple[type[Exception], Reason], ...] = (
    (httpx2.ConnectError, Reason.UPSTREAM_UNREACHABLE),
    (httpx2.ConnectTimeout, Reason.UPSTREAM_UNREACHABLE),
    (httpx2.TimeoutException, Reason.UPSTREAM_TIMEOUT),
    (httpx2.NetworkError, Reason.UPSTREAM_RESET),
    (httpx2.RemoteProtocolError, Reason.UPSTREAM_BROKEN),
    (httpx2.TransportError, Reason.UPSTREAM_UNREACHABLE),
    (AnswerTooLarge, Reason.UPSTREAM_BROKEN),
    (zlib.error, Reason.UPSTREAM_BROKEN),
)


# The library has one class for "closed too early" and for "not HTTP", and tells them apart in words.
_CLOSED = re.compile("disconnected|closed")


def _reason(error: Exception) -> Reason:
    if isinstance(error, httpx2.RemoteProtocolError) and _CLOSED.search(str(error)):
        return Reason.UPSTREAM_RESET
    return next(reason for kind, reason in _ENDINGS if isinstance(error, kind))


class _Progress:
    """How far an exchange with the upstream came, told by the connection pool."""

    def __init__(self) -> None:
        self.connected = False
        self.answering = False

    async def __call__(self, event: str, _info: object) -> None:
        if event == "connection.connect_tcp.started":
            self.connected = True
        elif event == "http11.receive_response_headers.complete":
            self.answering = True

    def may_repeat(self, error: Exception) -> bool:
        """Whether a reused connection closed before the answer began: nobody need have seen the request."""
        closed = isinstance(error, httpx2.NetworkError | httpx2.RemoteProtocolError)
        return closed and not self.connected and not self.answering


class HttpUpstream:
    """The port `Upstream` over HTTP/1.1."""

    def __init__(self, accounts: Accounts, transport: httpx2.AsyncBaseTransport, limits: Limits) -> None:
        self._accounts = accounts
        self._transport = transport
        self._limits = limits

    @property
    def links(self) -> LinkMap:
        return self._accounts.links

    async def send(self, request: UpstreamRequest, *, is_read: bool) -> Answer | Failed:
        """The upstream's answer, or how the attempt ended. Never raises for what the upstream does."""
        try:
            async with asyncio.timeout(self._limits.deadline_s):
                origin = await self._accounts.origin(request.account)
                if isinstance(origin, Failed):
                    return origin
                return await self._send(request, origin, is_read=is_read)
        except TimeoutError:
            return Failed(Reason.UPSTREAM_TIMEOUT)

    async def _send(self, request: UpstreamRequest, origin: str, *, is_read: bool) -> Answer | Failed:
        progress = _Progress()
        try:
            return await self._exchange(request, origin, progress)
        except _TRANSLATED as error:
            if is_read and progress.may_repeat(error):
                return await self._once_more(request, origin)
            return self._ended(request, error)

    async def _once_more(self, request: UpstreamRequest, origin: str) -> Answer | Failed:
        try:
            return await self._exchange(request, origin, _Progress())
        except _TRANSLATED as error:
            return self._ended(request, error)

    def _ended(self, request: UpstreamRequest, error: Exception) -> Failed:
        reason = _reason(error)
        if reason is Reason.UPSTREAM_UNREACHABLE:
            self._accounts.doubt(request.account)
        return Failed(reason)

    async def _exchange(self, request: UpstreamRequest, origin: str, progress: _Progress) -> Answer:
        key = self._accounts.key(request.account)
        sent = httpx2.Request(
            request.method,
            origin + request.target.decode(),
            headers=[*request.headers, (b"authorization", key.authorization())],
            content=request.body or None,
            extensions={"trace": progress},
        )
        return await _carry(self._transport, sent, self._limits.max_answer_bytes)


_TRANSLATED: tuple[type[Exception], ...] = tuple(kind for kind, _ in _ENDINGS)
_UNFETCHED: tuple[type[Exception], ...] = (*_TRANSLATED, TimeoutError)


async def _carry(transport: httpx2.AsyncBaseTransport, request: httpx2.Request, max_bytes: int) -> Answer:
    response = await transport.handle_async_request(request)
    try:
        return await _read(response, max_bytes)
    finally:
        await response.aclose()


async def _read(response: httpx2.Response, max_bytes: int) -> Answer:
    head = tuple((name.lower(), value) for name, value in response.headers.raw)
    body = bytearray()
    async for part in response.aiter_raw():
        body += part
        if len(body) > max_bytes:
            raise AnswerTooLarge
    answer = Answer(response.status_code, head, bytes(body))
    coding = (answer.header(b"content-encoding") or b"identity").strip().lower()
    return (
        answer
        if coding == b"identity"
        else Answer(answer.status, head, _inflated(answer.body, coding, max_bytes))
    )


def _inflated(body: bytes, coding: bytes, max_bytes: int) -> bytes:
    """Identity was asked for; gzip and deflate are understood all the same, and never past the bound."""
    if coding not in {b"gzip", b"x-gzip", b"deflate"}:
        raise zlib.error("an unknown content coding")
    inflater = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)
    plain = inflater.decompress(body, max_bytes + 1)
    if len(plain) > max_bytes:
        raise AnswerTooLarge
    if not inflater.eof:
        raise zlib.error("cut short")
    return plain


def fetcher(transport: httpx2.AsyncBaseTransport, limits: Limits) -> Get:
    """Fetch a URL without any credentials, for the domain service: the body of a 200, else None."""

    async def get(url: str) -> bytes | None:
        request = httpx2.Request("GET", url, headers=[(b"accept", b"application/json")])
        try:
            async with asyncio.timeout(limits.deadline_s):
                answer = await _carry(transport, request, limits.max_answer_bytes)
        except _UNFETCHED:
            return None
        return answer.body if answer.status == 200 else None

    return get
