"""Requests to the upstreams and their answers over HTTP/1.1: aiohttp's session, and what it must not do.

No redirect is followed, no cookie kept, nothing inflated, nothing repeated, and no proxy or netrc of the
environment believed. What goes wrong is translated by one table.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextvars import ContextVar
from functools import partial
from typing import TYPE_CHECKING

import aiohttp
import httpx2
from yarl import URL

from gateway.core.errors import Reason
from gateway.core.messages import Answer, Headers

if TYPE_CHECKING:
    import ssl

    from aiohttp.client_proto import ResponseHandler
    from aiohttp.connector import Connection
    from aiohttp.tracing import Trace


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
    """What comes is no HTTP, in the middle of a body."""


#: Whatever the library raises, by the first class that fits.
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
    """How far a request has come; of its connection the connector tells."""

    __slots__ = ("body", "is_connecting", "is_new")

    def __init__(self) -> None:
        self.is_connecting = self.is_new = False
        self.body: aiohttp.StreamReader | None = None

    def is_unseen(self, reason: Reason) -> bool:
        return reason is Reason.UPSTREAM_RESET and not self.is_new and self.body is None


#: The request that is under way in this task: the library's own way to tell, tracing, costs a tenth more.
_PROGRESS: ContextVar[_Progress] = ContextVar("_PROGRESS")


class _Connector(aiohttp.TCPConnector):
    """Connections on which nothing waits, and whose end is told to who reads from them.

    It sets no bound to them: who waits here is waiting to be connected.
    """

    def __init__(self, idle_s: float, trusted: ssl.SSLContext) -> None:
        super().__init__(limit=0, keepalive_timeout=idle_s, ssl=trusted, resolver=aiohttp.ThreadedResolver())
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
            progress.is_connecting = False
            handler = connection.protocol
            progress.is_new = handler not in self._asked
            # What came on an idle connection would be taken for the answer to what is asked there next.
            if handler is not None and (progress.is_new or not handler.should_close):
                break
            connection.close()
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
    """Requests to all upstreams, at most `most` at a time; no connection is idle for longer than `idle_s`."""

    def __init__(self, most: int, idle_s: float) -> None:
        # Not the library's own bound: there, who is woken and cancelled at once takes his turn with him.
        self._places = asyncio.Semaphore(most)
        self._idle_s = idle_s
        # The system's certificates, whatever the environment names. To read them takes a while.
        self._trusted = httpx2.create_ssl_context(trust_env=False)
        self._trusted.set_alpn_protocols(["http/1.1"])
        self._session: aiohttp.ClientSession | None = None
        self._is_closed = False

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
        progress = _Progress()
        _PROGRESS.set(progress)
        try:
            async with self._places:
                response = await self._opened().request(
                    method,
                    URL(url, encoded=True),
                    headers=[(name.decode(), value.decode()) for name, value in headers],
                    # Nothing would be added to a read, and to look for that costs it a tenth more.
                    skip_auto_headers=None if method == "GET" else ("content-type",),
                    data=body or None,
                    allow_redirects=False,
                )
                progress.body = response.content
                try:
                    return await _read(response, max_bytes)
                finally:
                    # Who has read to the end has left the connection to others by now.
                    response.close()
        except _TRANSLATED as error:
            reason = _reason(error)
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
                connector=_Connector(self._idle_s, self._trusted),
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                timeout=aiohttp.ClientTimeout(),
                middlewares=(_never_again,),
            )
        return self._session

    async def aclose(self) -> None:
        """Close all connections, for good."""
        self._is_closed = True
        if self._session is not None:
            await self._session.close()


async def _read(response: aiohttp.ClientResponse, max_bytes: int) -> Answer:
    if response.status < 200:
        raise Unanswered(Reason.UPSTREAM_BROKEN)  # a switch to a protocol that nobody asked for
    head = tuple([(name.lower(), value) for name, value in response.raw_headers])
    for name, value in head:
        if name == b"transfer-encoding" and value.lower() != b"chunked":
            # The library would take what it does not know for the body.
            raise Unanswered(Reason.UPSTREAM_BROKEN)
    body = bytearray()
    while part := await response.content.readany():
        body += part
        if len(body) > max_bytes:
            raise Unanswered(Reason.UPSTREAM_BROKEN)
    return Answer(response.status, head, bytes(body))
