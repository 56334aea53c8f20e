"""Requests to the vendor. The appKey is added here, last, and nowhere else.

No redirect is followed, no cookie is kept, no proxy or netrc of the environment is believed: the transport
is called directly, below the client that does such things. What goes wrong is translated by one table.
"""

from __future__ import annotations

import asyncio
import re
import zlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import httpx2

from gateway.core.answers import judged
from gateway.core.errors import Reason
from gateway.core.faults import Asked, Verdict
from gateway.core.freshness import Failed
from gateway.core.links import LinkMap
from gateway.core.messages import Answer, Representation, UpstreamRequest
from gateway.flights import Flights, landing
from gateway.upstream.accounts import Accounts, Get
from gateway.upstream.keys import AppKey, AppKeys


@dataclass(frozen=True, slots=True)
class Bounds:
    """Bounds on the way to the upstream. The deadline spans everything from connecting to the last byte."""

    deadline_s: float
    max_answer_bytes: int


class MoreThanAnAnswer(Exception):
    """Bytes that nobody asked for follow the answer, so who knows where the answer ends."""


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
    (MoreThanAnAnswer, Reason.UPSTREAM_BROKEN),
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
        self._events: set[str] = set()

    async def __call__(self, event: str, _info: object) -> None:
        self._events.add(event)

    @property
    def is_connecting(self) -> bool:
        is_sending = "http11.send_request_headers.started" in self._events
        return "connection.connect_tcp.started" in self._events and not is_sending

    def may_repeat(self, error: Exception) -> bool:
        """Whether a reused connection closed before the answer's head: nobody need have seen the request."""
        is_new = "connection.connect_tcp.started" in self._events
        has_head = "http11.receive_response_headers.complete" in self._events
        return _reason(error) is Reason.UPSTREAM_RESET and not is_new and not has_head


class HttpUpstream:
    """The port `Upstream` over HTTP/1.1.

    `ask_again` waits until the account's budget has room for a second request in the place of one.
    """

    def __init__(
        self,
        accounts: Accounts,
        transport: httpx2.AsyncBaseTransport,
        bounds: Bounds,
        ask_again: Callable[[str], Awaitable[None]],
    ) -> None:
        self._accounts = accounts
        self._transport = transport
        self._bounds = bounds
        self._ask_again = ask_again
        self._probes: Flights[Answer | Failed] = Flights()

    @property
    def links(self) -> LinkMap:
        return self._accounts.links

    async def send(self, request: UpstreamRequest, *, is_read: bool) -> Answer | Failed:
        """The upstream's answer, or how the attempt ended. Never raises for what the upstream does."""
        try:
            async with asyncio.timeout(self._bounds.deadline_s) as deadline:
                origin = await self._accounts.origin(request.account)
                if isinstance(origin, Failed):
                    return origin
                return await self._with_keys(request, origin, deadline.when(), is_read=is_read)
        except TimeoutError:
            return Failed(Reason.UPSTREAM_TIMEOUT)

    async def _with_keys(
        self, request: UpstreamRequest, origin: str, ends_at: float | None, *, is_read: bool
    ) -> Answer | Failed:
        """A read whose key is refused tries the other key, once; the one that works is remembered."""
        keys = self._accounts.keys(request.account)
        key, *others = keys.in_order()
        answer = await self._send(request, origin, key, may_repeat=is_read)
        if not is_read or not others or not _refuses_key(answer):
            return answer
        probe, is_own = self._probes.join(
            request.account, lambda: self._probe(request, origin, ends_at, keys, others[0])
        )
        probed = await landing(probe)
        if is_own:
            return probed or answer
        # Another read has tried for all that were refused meanwhile.
        preferred = keys.in_order()[0]
        if preferred == key:
            return answer
        await self._ask_again(request.account)
        return await self._send(request, origin, preferred, may_repeat=False)

    async def _probe(
        self, request: UpstreamRequest, origin: str, ends_at: float | None, keys: AppKeys, key: AppKey
    ) -> Answer | Failed:
        """A read with the other key, for all of the account whose key was refused; it ends with its own."""
        try:
            async with asyncio.timeout_at(ends_at):
                await self._ask_again(request.account)
                answer = await self._send(request, origin, key, may_repeat=True)
        except TimeoutError:
            return Failed(Reason.UPSTREAM_TIMEOUT)
        if isinstance(answer, Answer) and not _refuses_key(answer):
            keys.prefer(key)
        return answer

    async def _send(
        self, request: UpstreamRequest, origin: str, key: AppKey, *, may_repeat: bool
    ) -> Answer | Failed:
        """A request on the wire; where it may, it is repeated once, if its kept connection had closed."""
        progress = _Progress()
        try:
            return await self._exchange(request, origin, key, progress)
        except _TRANSLATED as error:
            if may_repeat and progress.may_repeat(error):
                await self._ask_again(request.account)
                return await self._send(request, origin, key, may_repeat=False)
            reason = _reason(error)
            if reason is Reason.UPSTREAM_UNREACHABLE:
                self._accounts.doubt(request.account)
            return Failed(reason)
        except asyncio.CancelledError:
            if progress.is_connecting:  # the deadline found nobody at home
                self._accounts.doubt(request.account)
            raise

    async def _exchange(
        self, request: UpstreamRequest, origin: str, key: AppKey, progress: _Progress
    ) -> Answer:
        # Said here, or the library would say it behind the key.
        length = [(b"content-length", b"%d" % len(request.body))] if request.method == "POST" else []
        sent = httpx2.Request(
            request.method,
            origin + request.target.decode(),
            headers=[*request.headers, *length, (b"authorization", key.authorization())],
            content=request.body or None,
            extensions={"trace": progress},
        )
        return key.blanked(await _carry(self._transport, sent, self._bounds.max_answer_bytes))


def _refuses_key(answer: Answer | Failed) -> bool:
    """Whether a read was refused for its key."""
    if isinstance(answer, Failed):
        return False
    verdict, _ = judged(answer, Asked.READ, Representation.JSON)
    return verdict is Verdict.OUR_KEY


_TRANSLATED: tuple[type[Exception], ...] = tuple(kind for kind, _ in _ENDINGS)
_UNFETCHED: tuple[type[Exception], ...] = (*_TRANSLATED, TimeoutError)


async def _carry(transport: httpx2.AsyncBaseTransport, request: httpx2.Request, max_bytes: int) -> Answer:
    response = await transport.handle_async_request(request)
    try:
        answer = await _read(response, max_bytes)
        if await _cut_off(response) and request.method == "GET":
            raise MoreThanAnAnswer
        return answer
    finally:
        await response.aclose()


async def _cut_off(response: httpx2.Response) -> bool:
    """Close the connection if something followed the answer on it; whether something did.

    The library would keep those bytes, and they would be the answer to whatever is asked next on that
    connection: another chat's. It has no public way to ask; a test fails when this one breaks.
    """
    stream: Any = response.stream
    connection = stream._httpcore_stream._stream._connection  # noqa: SLF001
    if not connection._h11_state.trailing_data[0]:  # noqa: SLF001
        return False
    await connection.aclose()
    return True


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
        if coding == b"identity" or not body
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


def fetcher(transport: httpx2.AsyncBaseTransport, bounds: Bounds) -> Get:
    """Fetch a URL without any credentials, for the domain service: the body of a 200, else None."""

    async def get(url: str) -> bytes | None:
        request = httpx2.Request("GET", url, headers=[(b"accept", b"application/json")])
        try:
            async with asyncio.timeout(bounds.deadline_s):
                answer = await _carry(transport, request, bounds.max_answer_bytes)
        except _UNFETCHED:
            return None
        return answer.body if answer.status == 200 else None

    return get
