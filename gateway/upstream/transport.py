"""Requests to the vendor. The appKey is added here, last, and nowhere else.

Which key is tried and what is asked a second time is decided here; `session` carries it over the wire.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from gateway.core.answers import judged, read_of
from gateway.core.errors import Reason
from gateway.core.faults import Verdict
from gateway.core.freshness import Failed
from gateway.core.headers import NAME
from gateway.core.links import LinkMap
from gateway.core.messages import Answer, Headers, Representation, UpstreamRequest
from gateway.flights import Flights, landing
from gateway.upstream.accounts import Accounts, Get
from gateway.upstream.keys import AppKey, AppKeys
from gateway.upstream.session import Session, Unanswered


@dataclass(frozen=True, slots=True)
class Bounds:
    """Bounds on the way to the upstream. The deadline spans everything from connecting to the last byte."""

    deadline_s: float
    max_answer_bytes: int


class HttpUpstream:
    """The port `Upstream` over HTTP/1.1.

    `ask_again` waits until the account's budget has room for a second request in the place of one.
    """

    def __init__(
        self,
        accounts: Accounts,
        session: Session,
        bounds: Bounds,
        ask_again: Callable[[str], Awaitable[None]],
    ) -> None:
        self._accounts = accounts
        self._session = session
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
        if not is_read or not others or not _refuses_key(answer, request):
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
        if isinstance(answer, Answer) and not _refuses_key(answer, request):
            keys.prefer(key)
        return answer

    async def _send(
        self, request: UpstreamRequest, origin: str, key: AppKey, *, may_repeat: bool
    ) -> Answer | Failed:
        """A request on the wire; where it may, it is repeated once, if its kept connection had closed."""
        try:
            return await self._exchange(request, origin, key)
        except Unanswered as why:
            if not (may_repeat and why.unseen):
                return Failed(why.reason)
        await self._ask_again(request.account)
        return await self._send(request, origin, key, may_repeat=False)

    async def _exchange(self, request: UpstreamRequest, origin: str, key: AppKey) -> Answer:
        # Said here, or the library would say it behind the key.
        length = ((b"content-length", b"%d" % len(request.body)),) if request.method == "POST" else ()
        answer = await self._session.ask(
            request.method,
            origin + request.target.decode(),
            (*request.headers, *length, (b"authorization", key.authorization())),
            self._bounds.max_answer_bytes,
            body=request.body,
            missed=lambda: self._accounts.doubt(request.account),
        )
        return key.blanked(plain(answer, self._bounds.max_answer_bytes))


def _refuses_key(answer: Answer | Failed, request: UpstreamRequest) -> bool:
    """Whether a read was refused for its key."""
    if isinstance(answer, Failed):
        return False
    verdict, _ = judged(answer, read_of(request.target.decode().partition("?")[2]), Representation.JSON)
    return verdict is Verdict.OUR_KEY


def plain(answer: Answer, max_bytes: int) -> Answer:
    """The answer without its content coding. Raises Unanswered.

    Identity was asked for; gzip and deflate are understood all the same, and never past the bound.
    """
    # Several, in one field or in more, are in no set.
    coding = b",".join(value for name, value in answer.headers if name == b"content-encoding").strip().lower()
    if coding in {b"", b"identity"} or not answer.body:
        return answer
    if coding not in {b"gzip", b"x-gzip", b"deflate"}:
        raise Unanswered(Reason.UPSTREAM_BROKEN)
    inflater = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)
    try:
        body = inflater.decompress(answer.body, max_bytes + 1)
    except zlib.error:
        raise Unanswered(Reason.UPSTREAM_BROKEN) from None
    if len(body) > max_bytes or not inflater.eof or inflater.unused_data:
        raise Unanswered(Reason.UPSTREAM_BROKEN)
    return Answer(answer.status, answer.headers, body)


_LOOK_UP: Headers = (
    (b"accept", b"application/json"),
    (b"accept-encoding", b"identity"),
    (b"user-agent", NAME.encode()),
)


def fetcher(session: Session, bounds: Bounds) -> Get:
    """Fetch a URL without any credentials, for the domain service: the body of a 200, else None."""

    async def get(url: str) -> bytes | None:
        try:
            async with asyncio.timeout(bounds.deadline_s):
                answer = plain(
                    await session.ask("GET", url, _LOOK_UP, bounds.max_answer_bytes), bounds.max_answer_bytes
                )
        except (Unanswered, TimeoutError):
            return None
        return answer.body if answer.status == 200 else None

    return get
