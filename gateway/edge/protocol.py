"""The wire: heads read strictly, requests to the road and replies back, and the way past it.

    data → short cut        the very bytes of a request that was answered before
         → head → parser    whole, within limits, its line by the letter; what is no request is refused
                → short cut    a poll that differs only where it does not matter
                → Cycle → road → reply

This is uvicorn's protocol on httptools, where it would read or speak for itself. What stays its own: the
order on a pipelined connection, flow control, keep-alive and the end. Trailers never become fields, and an
upgrade is refused, since what follows it would be read as another request.

The parser gets a head when it is complete, and bodies so that each ends with a piece: how the bytes were cut
on their way changes nothing.
"""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NoReturn, Protocol

from httptools import HttpParserCallbackError, HttpParserError
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from gateway.core.errors import Reason, Refusal
from gateway.core.headers import READ, Fields, Part, read
from gateway.core.replies import Reply, wire
from gateway.core.requests import Body, Poll

#: The request line with the fields, the fields, and path with query. nginx takes 8 KB a line and 32 KB
#: in all, Node.js 16 KB, h11 16 KB, Apache 100 fields.
MAX_HEAD_BYTES = 16_384
MAX_FIELDS = 100
MAX_TARGET_BYTES = 8_192
#: How many requests of a connection wait behind the one that is being answered.
MAX_PIPELINED = 16

#: The least that a timer of the loop can wait.
_TICK_S = 0.001
_EMPTY_LINE = b"\r\n\r\n"
#: Before a request line they are skipped (RFC 9112 §2.2).
_LINE_ENDS = re.compile(rb"[\r\n]+")
#: RFC 9112 §3 by the letter, and a target in origin-form (§3.2.1): only visible ASCII, and no fragment.
#: The parser would also take spaces as they come, and the versions of other protocols.
_LINE = re.compile(rb"([A-Z-]{1,20}) (/[!-\"$-~]*) HTTP/1\.([01])\r\n")
_LONG_TARGET = re.compile(rb"[A-Z-]{1,20} [^ \r\n]{%d}" % (MAX_TARGET_BYTES + 1))
_CAPITAL = re.compile(rb"[A-Z]")
#: What a Host may be, a list of two not (RFC 9112 §3.2, RFC 3986 §3.2.2).
_HOST = re.compile(rb"[A-Za-z0-9._~:%!$&'()*+;=\[\]-]*")
#: Fields that tell of a body. The parser heeds them; a request that has one is no poll.
_FRAMING = frozenset({b"content-length", b"expect", b"transfer-encoding"})
_KEPT = READ.keys() | _FRAMING
_POLLS_NEED = frozenset({b"host", b"authorization", b"accept"})
_POLLS_MAY = frozenset(name for name, row in READ.items() if row.part is not Part.ROAD)


@dataclass(frozen=True, slots=True)
class Head:
    """A request's head: raw target, and the fields of the table or why they are refused.

    `poll` is set for what the short cut may answer.
    """

    method: str
    target: bytes = field(repr=False)
    fields: Fields | Refusal = field(repr=False)
    poll: Poll | None = None
    expects_100: bool = False


class Site(Protocol):
    """Where requests are answered, whatever they are."""

    async def answer(self, head: Head, peer: str, body: Body) -> Reply: ...
    def refuse(self, reason: Reason) -> Reply: ...


class ShortCut(Protocol):
    """Replies to polls of what is fresh, ready for the wire; None where only the road can tell."""

    def recall(self, data: bytes) -> bytes | None: ...
    def answer(self, poll: Poll) -> bytes | None: ...


class Unacceptable(Exception):
    """The head is not one that is read on. Raised through the parser, which then counts as refusing."""


class Cycle(RequestResponseCycle):
    """One request and its reply, without the detour over ASGI messages."""

    def __init__(self, head: Head, peer: str, max_body_bytes: Callable[[], int], **parts: Any) -> None:
        super().__init__(scope=None, **parts)  # type: ignore[arg-type]  # nobody asks for it
        self._head = head
        self._peer = peer
        self._max_body_bytes = max_body_bytes
        self._broken: Reason | None = None

    def break_off(self, reason: Reason) -> None:
        """Nothing more comes of the body: whoever reads it hears why. The reply is the connection's last."""
        self._broken = reason
        self.keep_alive = False
        self.message_event.set()

    async def run_asgi(self, app: Any) -> None:
        """Have the request answered, and write the reply."""
        site: Site = app
        try:
            made = await site.answer(self._head, self._peer, self.whole_body)
            if self.flow.write_paused and not self.disconnected:
                await self.flow.drain()
            if not self.disconnected:
                self._write(made)
        except asyncio.CancelledError:
            # The end of the process does not wait for who does not read.
            self.transport.close()
            raise
        except Exception:
            self.logger.exception("request crashed")
            self.transport.close()

    def _write(self, made: Reply) -> None:
        if self.waiting_for_100_continue and self.more_body:
            # Nobody can say whether a body follows or the next request.
            self.keep_alive = False
        self.response_started = self.response_complete = True
        self.transport.write(wire(made.status, made.head, made.body, is_last=not self.keep_alive))
        self.message_event.set()
        # The connection may live on for long, and holds on to its newest request.
        self.body = bytearray()
        del self._head
        if not self.keep_alive:
            self.transport.close()
        self.on_response()

    async def whole_body(self) -> bytes | Refusal:
        """The body, when it is complete and not too large."""
        if self.waiting_for_100_continue and not self.transport.is_closing():
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            self.waiting_for_100_continue = False
        while self.more_body and not (self.disconnected or self._broken):
            if len(self.body) > self._max_body_bytes():
                break
            self.flow.resume_reading()
            self.message_event.clear()
            await self.message_event.wait()
        if len(self.body) > self._max_body_bytes():
            return Refusal(Reason.BODY_TOO_LARGE)
        if self.more_body:
            return Refusal(self._broken or Reason.CLIENT_GONE)
        return bytes(self.body)


class Connection(HttpToolsProtocol):
    """One client connection. A subclass made by `speaking` knows what stands behind it."""

    site: Site
    short_cut: ShortCut | None
    max_body_bytes: Callable[[], int]

    #: The newest request.
    cycle: Cycle
    #: Why nothing is read any more.
    _broken: Reason | None = None
    #: Between two messages, or within a body; else `_held` is what has come of a head.
    _between = True
    _in_body = False
    _held = b""
    #: What came behind as many requests as may wait.
    _rest = b""
    #: The head that is being parsed, and how its line reads.
    _data: bytes
    _line: re.Match[bytes]
    #: The message's fields, trailers included, and their bytes.
    _count = 0
    _size = 0
    #: How much of a body of known length is to come; of another, what came and told nothing, in bytes.
    _left = 0
    _quiet = 0
    #: Whether the message was answered by the short cut, and when one last was, by the loop's time.
    _is_cut = False
    _cut_at = -math.inf

    # The parser leaves out what nobody listens to: the line is read here.
    on_message_begin = None  # type: ignore[assignment]
    on_url = None  # type: ignore[assignment]

    # -- bytes in -------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        """Answer what is known by its bytes; have the rest parsed."""
        if self._between and self.short_cut is not None and self._is_free():
            reply = self.short_cut.recall(data)
            if reply is not None:
                self._write_past(reply)
                return
        if self._broken is not None:
            return
        if self._rest:
            self._rest += data
            return
        if self._held:
            data, self._held = self._held + data, b""
        self._read(data)

    def _read(self, data: bytes) -> None:
        at, end = 0, len(data)
        try:
            while at < end:
                if len(self.pipeline) >= MAX_PIPELINED:
                    self._rest = data[at:]
                    return
                at = self._read_body(data, at) if self._in_body else self._read_head(data, at)
        except (HttpParserError, Unacceptable) as error:
            if isinstance(error, HttpParserCallbackError) and not isinstance(error.__context__, Unacceptable):
                # The parser's own error says nothing.
                self.logger.error("head crashed", exc_info=error.__context__)  # noqa: TRY400
            self.send_400_response("")

    def _read_head(self, data: bytes, at: int) -> int:
        """Have a head parsed, or hold what has come of it; returns how far that was."""
        if skipped := _LINE_ENDS.match(data, at):
            return skipped.end()
        line = _LINE.match(data, at)
        if line is None or line.end(2) - line.start(2) > MAX_TARGET_BYTES:
            self._refuse_line(data, at)
        end = data.find(_EMPTY_LINE, at, at + MAX_HEAD_BYTES) + len(_EMPTY_LINE)
        if line is None or end < len(_EMPTY_LINE):
            return self._hold(data, at)
        self._between = False
        self._count = self._size = self._left = self._quiet = 0
        self._data, self._line = data[at:end], line
        self.headers = []
        self.parser.feed_data(self._data)
        # An idle connection holds on to nothing; the match does to all that was read at once.
        del self._data, self._line
        return end

    def _refuse_line(self, data: bytes, at: int) -> None:
        """Refuse what is no request line, and what no longer can become one."""
        if _LONG_TARGET.match(data, at):
            self._refuse(Reason.TARGET_TOO_LONG)
        if not _CAPITAL.match(data, at) or data.find(b"\n", at, at + MAX_HEAD_BYTES) >= 0:
            self._refuse(Reason.MALFORMED_REQUEST)

    def _hold(self, data: bytes, at: int) -> int:
        if len(data) - at >= MAX_HEAD_BYTES:
            self._refuse(Reason.HEAD_TOO_LARGE)
        self._between = False
        self._held = data[at:]
        self._unset_keepalive_if_required()
        return len(data)

    def _read_body(self, data: bytes, at: int) -> int:
        """Have a piece of a body parsed, such that no message ends within it; returns how far that was."""
        if self._left:
            end = min(at + self._left, len(data))
            self._left -= end - at
            self.parser.feed_data(data[at:end])
            return end
        # What comes in chunks ends with an empty line, which may have begun in the last segment.
        found = at if at < 3 else data.find(_EMPTY_LINE, at - 3) + 3
        end = found + 1 if found >= at else len(data)
        self._quiet += end - at
        self.parser.feed_data(data[at:end])
        if self._quiet > MAX_HEAD_BYTES:
            self._refuse(Reason.HEAD_TOO_LARGE)
        return end

    def _is_free(self) -> bool:
        """Whether nothing is being answered, and the peer reads what it gets."""
        cycle: Cycle | None = self.cycle
        return (
            (cycle is None or cycle.response_complete)
            and not self.flow.write_paused
            and not self.transport.is_closing()
        )

    def _write_past(self, reply: bytes) -> None:
        self.transport.write(reply)
        self._cut_at = self.loop.time()
        if self.timeout_keep_alive_task is None:
            self._keep_alive_for(self.timeout_keep_alive)

    # -- the parser's callbacks -----------------------------------------------------------------------

    def on_header(self, name: bytes, value: bytes) -> None:
        """A field; of those that are not in the table nothing is kept."""
        self._count += 1
        self._size += len(name) + len(value) + 3
        if self._count > MAX_FIELDS or self._size > MAX_HEAD_BYTES:
            self._refuse(Reason.HEAD_TOO_LARGE)
        name = name.lower()
        if name in _KEPT:
            self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        """Answer what the short cut can; the rest takes the road, in the order of coming."""
        head = self._head()
        # Trailers are put where nobody looks.
        self.headers = []
        if head.poll is not None and self.short_cut is not None and self._is_free():
            reply = self.short_cut.answer(head.poll)
            if reply is not None:
                self._is_cut = True
                self._write_past(reply)
                return
        self._in_body = True
        self._unset_keepalive_if_required()
        self._take_the_road(head)

    def _head(self) -> Head:
        method, target, minor = self._line.groups()
        if self.parser.should_upgrade():
            self._refuse(Reason.MALFORMED_REQUEST)
        fields = read(self.headers)
        poll, expects_100 = None, False
        if isinstance(fields, Refusal) or len(fields) < len(self.headers):
            expects_100 = self._heed_framing(minor)
        elif method == b"GET" and minor == b"1":
            poll = self._poll(fields)
        # RFC 9112 §3.2.
        if not isinstance(fields, Refusal) and not self._has_host(fields, minor):
            fields, poll = Refusal(Reason.MALFORMED_HEADER), None
        return Head(method.decode(), target, fields, poll, expects_100)

    def _heed_framing(self, minor: bytes) -> bool:
        """Refuse a body whose end is not sure (RFC 9112 §6.1); returns whether it waits for a 100."""
        expects_100 = False
        for name, value in self.headers:
            said = value.strip(b" \t").lower()
            if name == b"transfer-encoding" and (said != b"chunked" or minor == b"0"):
                self._refuse(Reason.MALFORMED_REQUEST)
            elif name == b"content-length":
                self._left = int(said)
            elif name == b"expect":
                expects_100 = said == b"100-continue" and minor == b"1"
        return expects_100

    @staticmethod
    def _has_host(fields: Fields, minor: bytes) -> bool:
        host = fields.get(b"host")
        return minor == b"0" if host is None else _HOST.fullmatch(host) is not None

    def _poll(self, fields: Fields) -> Poll | None:
        """For the short cut: no field is doubled here, and none says anything about a body."""
        if not _POLLS_NEED <= fields.keys() <= _POLLS_MAY or not self.parser.should_keep_alive():
            return None
        line = self._line[0]
        return Poll(line[:-2], fields, self._data[len(line) :])

    def _take_the_road(self, head: Head) -> None:
        parser = self.parser
        # uvicorn's annotation leaves out that there is none at first.
        before: Cycle | None = self.cycle
        self.cycle = Cycle(
            head,
            self.client[0] if self.client else "",
            self.max_body_bytes,
            transport=self.transport,
            flow=self.flow,
            logger=self.logger,
            access_logger=self.access_logger,
            access_log=False,
            default_headers=[],
            message_event=asyncio.Event(),
            expect_100_continue=head.expects_100,
            keep_alive=self._line[3] == b"1" and parser.should_keep_alive(),
            on_response=self.on_response_complete,
        )
        if before is None or before.response_complete:
            self._start_asgi_task(self.cycle, self.app)
        else:
            self.flow.pause_reading()
            self.pipeline.appendleft((self.cycle, self.app))

    def on_body(self, body: bytes) -> None:
        """A piece of the body."""
        self._quiet = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The body, if any, ends here."""
        self._between, self._in_body = True, False
        if self._is_cut:
            self._is_cut = False
            return
        super().on_message_complete()
        if not self.parser.should_keep_alive():
            # A trailer may say so too, and the parser takes nothing more.
            self.cycle.keep_alive = False
            if self.cycle.response_complete:
                self.transport.close()

    # -- what is refused ------------------------------------------------------------------------------

    def _refuse(self, reason: Reason) -> NoReturn:
        self._broken = reason
        raise Unacceptable

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no request that is read on; which, is known by now, or it is no HTTP at all.

        Nothing more is read: nobody can say where the next request would begin.
        """
        del msg
        self._broken = self._broken or Reason.MALFORMED_REQUEST
        cycle: Cycle | None = self.cycle
        if cycle is None or cycle.response_complete:
            if self._in_body:
                self.transport.close()  # it has had its answer
            else:
                self._tell(self._broken)
        elif self._in_body:
            cycle.break_off(self._broken)
        # Else whole requests before it are still to be answered.

    def _tell(self, broken: Reason) -> None:
        made = self.site.refuse(broken)
        self.transport.write(wire(made.status, made.head, made.body, is_last=True))
        self.transport.close()

    # -- replies out ----------------------------------------------------------------------------------

    def on_response_complete(self) -> None:
        """As ever; but nothing more is read before those that wait are answered, and then what is broken."""
        super().on_response_complete()
        if self.transport.is_closing():
            return
        if self._rest:
            rest, self._rest = self._rest, b""
            self._read(rest)
        if self.pipeline or self._rest:
            self.flow.pause_reading()
        elif self._broken is not None and self.cycle.response_complete:
            self._tell(self._broken)

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing is kept of it, nor by a timer."""
        super().connection_lost(exc)
        self._unset_keepalive_if_required()
        self._held = self._rest = b""

    def _keep_alive_for(self, seconds: float) -> None:
        self.timeout_keep_alive_task = self.loop.call_later(seconds, self.timeout_keep_alive_handler)

    def timeout_keep_alive_handler(self) -> None:
        """Close an idle connection; the short cut leaves the timer alone, so it may be too early."""
        left_s = self.timeout_keep_alive - (self.loop.time() - self._cut_at)
        if left_s > _TICK_S and not self.transport.is_closing():
            self._keep_alive_for(left_s)
        else:
            super().timeout_keep_alive_handler()


def speaking(site: Site, short_cut: ShortCut | None, max_body_bytes: Callable[[], int]) -> type[Connection]:
    """A protocol class for uvicorn, which makes one of it for each connection."""
    parts = {"site": site, "short_cut": short_cut, "max_body_bytes": staticmethod(max_body_bytes)}
    return type("SpeakingConnection", (Connection,), parts)
