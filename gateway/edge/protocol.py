"""The wire: heads read strictly, requests to the road and replies back, and the way past it.

    data → short cut        the very bytes of a request that was answered before
         → head → parser    whole, within limits, its line by the letter; what is no request is refused
                → short cut    a poll that differs only where it does not matter
                → Cycle → road → reply
                                 → head of a stream → Outlet → message → message → …

This is uvicorn's protocol on httptools, where it would read or speak for itself. What stays its own: the
order on a pipelined connection, flow control, keep-alive and the end. Trailers never become fields, and an
upgrade is refused, since what follows it would be read as another request.

The parser gets a head when it is complete, and bodies so that each ends with a piece: how the bytes were cut
on their way changes nothing.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn, Protocol

from httptools import HttpParserCallbackError, HttpParserError
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from gateway.core.errors import Reason, Refusal
from gateway.core.headers import Fields, read
from gateway.core.replies import Reply, wire
from gateway.core.requests import Body, Poll
from gateway.edge.connections import Connections
from gateway.edge.deadlines import TICK_S, Sending
from gateway.edge.heads import (
    CAPITAL,
    EMPTY_LINE,
    KEPT,
    LINE,
    LINE_ENDS,
    NO_LINE,
    POLLS_MAY,
    POLLS_NEED,
    Head,
    framing,
    has_host,
    long_target,
)
from gateway.edge.outlet import Outlet

#: What can be refused at the door: no body follows.
READS = frozenset({"GET", "HEAD"})
#: How many requests of a connection wait behind the one that is being answered.
MAX_PIPELINED = 16
#: How long, and for how many bytes, a client is heard out that still sends when it has had its last reply.
#: Most that send too much send less than that, all at once, and look for a reply only then.
LINGER_S = 2.0
#: Who was late has had his time.
LATE_LINGER_S = 0.5
LINGER_BYTES = 8_388_608


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a connection may bring and how long it may take; the defaults are those of the settings.

    For the head others have: nginx 8 KB a line and 32 KB in all, Node.js 16 KB, h11 16 KB, Apache 100 fields.
    """

    max_head_bytes: int = 16_384
    max_fields: int = 100
    max_target_bytes: int = 8_192
    head_s: float = 5.0
    body_s: float = 10.0
    idle_s: float = 75.0
    send_s: float = 10.0
    max_connections: int = 10_000
    max_connections_per_peer: int = 1_000


class Site(Protocol):
    """Where requests are answered, whatever they are.

    `at_the_door` has the reply to one without a body for which there is no room. `stream_send_s` is how long
    the client of a stream may take to acknowledge what was written.
    """

    async def answer(self, head: Head, peer: str, body: Body, is_there: Callable[[], bool]) -> Reply: ...
    def stream_send_s(self) -> float: ...
    def refuse(self, reason: Reason) -> Reply: ...
    def at_the_door(self, head: Head, peer: str) -> Reply | None: ...


class ShortCut(Protocol):
    """Replies to polls of what is fresh, ready for the wire; None where only the road can tell."""

    def recall(self, data: bytes) -> bytes | None: ...
    def answer(self, poll: Poll) -> bytes | None: ...


class Unacceptable(Exception):
    """The head is not one that is read on. Raised through the parser, which then counts as refusing."""


class Cycle(RequestResponseCycle):
    """One request and its reply, without the detour over ASGI messages."""

    def __init__(
        self, connection: Connection, head: Head, length: int, *, keep_alive: bool, has_chunks: bool
    ) -> None:
        super().__init__(
            scope=None,  # type: ignore[arg-type]  # nobody asks for it
            transport=connection.transport,
            flow=connection.flow,
            logger=connection.logger,
            access_logger=connection.access_logger,
            access_log=False,
            default_headers=[],
            message_event=asyncio.Event(),
            expect_100_continue=head.expects_100,
            keep_alive=keep_alive,
            on_response=connection.on_response_complete,
        )
        self._connection = connection
        self._head = head
        # As it was declared; 0 where it comes in chunks, or none does.
        self._length = length
        # HTTP/1.0 has none: a body of unknown length ends with the connection (RFC 9112 §6.3).
        self._has_chunks = has_chunks
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
            made = await site.answer(self._head, self._connection.peer, self.whole_body, self._is_there)
            if made.stream is not None:
                send_s, has_chunks = site.stream_send_s, self._has_chunks
                await self._follow(made, Outlet(made.stream, self.transport, send_s, has_chunks=has_chunks))
                return
            if self.flow.write_paused and not self._has_nobody:
                await self.flow.drain()
            if not self._has_nobody:
                self._write(made)
        except asyncio.CancelledError:
            # The end of the process does not wait for who does not read.
            self._connection.close()
            raise
        except Exception:
            self.logger.exception("request crashed")
            self._connection.close()
        finally:
            if self._has_nobody:
                self._connection.forget()

    @property
    def _has_nobody(self) -> bool:
        # Of those that wait in a pipeline only the newest is told.
        return self.disconnected or self._connection.is_lost

    def _is_there(self) -> bool:
        # Most of those who say that they send no more have hung up: it only shows when they are written to.
        return not (self._has_nobody or self._connection.has_eof)

    async def _follow(self, made: Reply, outlet: Outlet) -> None:
        """Write the head of a stream, and stay until nothing comes any more or nobody is there."""
        try:
            if self.flow.write_paused and not self._has_nobody:
                await self.flow.drain()
            if self._has_nobody:
                return
            self._find_whether_last()
            head = made.head
            if self._has_chunks:
                head += b"transfer-encoding: chunked\r\n"
            self._connection.let_follow(outlet, wire(made.status, head, b"", is_last=not self.keep_alive))
            await outlet.ended.wait()
            self._connection.follow_no_more()
            if not self._has_nobody:
                self._find_whether_last()
                self._complete()
        finally:
            outlet.lose()

    def _write(self, made: Reply) -> None:
        self._find_whether_last()
        self.transport.write(wire(made.status, made.head, made.body, is_last=not self.keep_alive))
        self._complete()

    def _find_whether_last(self) -> None:
        # Who still waits for a 100 may send a body or the next request: nobody can say which.
        if (self.waiting_for_100_continue and self.more_body) or self._connection.is_last:
            self.keep_alive = False

    def _complete(self) -> None:
        self.response_started = self.response_complete = True
        self.message_event.set()
        # The connection may live on for long, and holds on to its newest request.
        self.body = bytearray()
        del self._head
        if not self.keep_alive:
            self._connection.end()
        self.on_response()

    async def whole_body(self, max_bytes: int) -> bytes | Refusal:
        """The body, when it is complete and not longer than that; none that is declared longer is read."""
        if self._length > max_bytes:
            return self._too_large()
        if self.waiting_for_100_continue and not self.transport.is_closing():
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            self.waiting_for_100_continue = False
        if self.more_body:
            self._connection.await_body()
        while self.more_body and not (self.disconnected or self._broken) and len(self.body) <= max_bytes:
            self.flow.resume_reading()
            self.message_event.clear()
            await self.message_event.wait()
        if len(self.body) > max_bytes:
            return self._too_large()
        if self.more_body:
            return Refusal(self._broken or Reason.CLIENT_GONE)
        return bytes(self.body)

    def _too_large(self) -> Refusal:
        self.keep_alive = False
        return Refusal(Reason.BODY_TOO_LARGE)


class Connection(HttpToolsProtocol):
    """One client connection. A subclass made by `speaking` knows what stands behind it."""

    site: Site
    short_cut: ShortCut | None
    bounds: Bounds
    connections_open: Connections
    #: Whether another gateway will have the next request: replies are the last of their connections.
    is_leaving = False
    #: Of the bounds, what each head is held against.
    _most_bytes: int
    _most_fields: int
    _most_of_target: int
    _long_target: re.Pattern[bytes]

    #: The address at the other end, if it has one.
    peer = ""
    #: How to count it no more.
    _leave: Callable[[], None] | None = None
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
    #: Whether the message was answered past the road, and when anything last was, by the loop's time.
    _is_cut = False
    _answered_at = 0.0
    #: For a head, for a body, or for the rest of what is not read any more.
    _deadline: asyncio.TimerHandle | None = None
    _sending: Sending | None = None
    #: Where the messages of a stream go, while there is one.
    _outlet: Outlet | None = None
    #: The client says that it sends no more; all is answered, and how much came since.
    has_eof = False
    _is_ending = False
    _discarded = 0
    #: Whether nobody is there any more.
    is_lost = False

    # The parser leaves out what nobody listens to: the line is read here.
    on_message_begin = None  # type: ignore[assignment]
    on_url = None  # type: ignore[assignment]

    # -- coming and going -----------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Have it wait for a request, if there is room for one more."""
        super().connection_made(transport)
        self.peer = self.client[0] if self.client else ""
        # It looks up that often, and finds out by itself how long nothing was asked.
        self.timeout_keep_alive = min(self.bounds.idle_s, self.bounds.send_s)  # type: ignore[assignment]
        self._answered_at = self.loop.time()
        self._leave = self.connections_open.enter(self.peer)
        if self._leave is None:
            self._find_no_room()
        else:
            self._keep_alive_for(self.timeout_keep_alive)

    def _find_no_room(self) -> None:
        self._broken = Reason.TOO_MANY_CONNECTIONS
        self._leave = self.connections_open.tell()
        if self._leave is None:
            self.transport.abort()
        else:
            self._tell(self._broken)

    def eof_received(self) -> bool:  # type: ignore[override]  # as asyncio has it
        """Who has sent all it wants to is still told what it asked for; TLS knows no such thing.

        A stream ends: most who do so are gone, and it would go on costing upstream requests.
        """
        if self.scheme == "https":
            return False
        self.has_eof = True
        self._held = b""
        self._no_deadline()
        cycle: Cycle | None = self.cycle
        if self._outlet is not None:
            self._outlet.leave()
        elif self._is_ending or cycle is None or cycle.response_complete:
            self.close()
        elif self._in_body:
            self._broken = Reason.CLIENT_GONE
            cycle.break_off(Reason.CLIENT_GONE)
        return True

    @property
    def is_last(self) -> bool:
        """Whether this reply is the last: nothing waits behind it, and nothing more is waited for."""
        is_awaited = self.pipeline or self._rest or self._broken is not None
        return (self.is_leaving or self.has_eof) and not is_awaited

    def end(self) -> None:
        """Close, but such that what was written arrives: what came and nobody read would have it thrown away.

        So who may still be sending is told that nothing more comes, and is heard out (RFC 9112 §9.6).
        """
        is_heard_out = self._broken is not None or self.is_leaving or not self._between or self.pipeline
        if self.has_eof or not is_heard_out or not self.transport.can_write_eof():
            self.close()
        elif not self.transport.is_closing():
            self._hear_out()

    def _hear_out(self) -> None:
        self._is_ending, self._between = True, False
        # Nothing is read any more, whatever was the last reply.
        self._broken = self._broken or Reason.CLIENT_GONE
        self._held = self._rest = b""
        self.pipeline.clear()
        self._unset_keepalive_if_required()
        self._within(LATE_LINGER_S if self._broken is Reason.REQUEST_TIMEOUT else LINGER_S)
        self.transport.write_eof()
        self.flow.resume_reading()

    def close(self) -> None:
        """Close when what was written has been taken, or is not."""
        if self.transport.is_closing():
            return
        if self.transport.get_write_buffer_size():
            self._watch_sending()
        self.transport.close()

    def shutdown(self) -> None:
        """As ever; but nobody is waited for who does not read."""
        cycle: Cycle | None = self.cycle
        if self._is_ending or cycle is None or cycle.response_complete:
            self.close()
        else:
            cycle.keep_alive = False

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing is kept of it, nor by a timer."""
        super().connection_lost(exc)
        self._unset_keepalive_if_required()
        self._no_deadline()
        if self._sending is not None:
            self._sending.stop()
        if self._outlet is not None:
            self._outlet.lose()
            self._outlet = None
        if self._leave is not None:
            self._leave()
            self._leave = None
        self._held = self._rest = b""
        self.is_lost = True
        cycle: Cycle | None = self.cycle
        if self.pipeline or cycle is None or cycle.response_complete:
            self.forget()
        self.pipeline.clear()

    def forget(self) -> None:
        """Let go of the newest request, or only the collector would ever find the two."""
        self.cycle = None  # type: ignore[assignment]  # as it was at first

    # -- bytes in -------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        """Answer what is known by its bytes; have the rest parsed."""
        if self._between and self.short_cut is not None and self._is_free():
            reply = self.short_cut.recall(data)
            if reply is not None:
                self._write_past(reply)
                return
        if self._broken is not None:
            self._discard(data)
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
            # Which it is, is known by now, or it is no HTTP at all.
            self._give_up(self._broken or Reason.MALFORMED_REQUEST)
        else:
            if not self._between and self._deadline is None:
                self._within(self._time_to_read)

    def _discard(self, data: bytes) -> None:
        self._discarded += len(data)
        if self._is_ending and self._discarded > LINGER_BYTES:
            self.close()

    def _read_head(self, data: bytes, at: int) -> int:
        """Have a head parsed, or hold what has come of it; returns how far that was."""
        if skipped := LINE_ENDS.match(data, at):
            return skipped.end()
        line = LINE.match(data, at)
        if line is None or line.end(2) - line.start(2) > self._most_of_target:
            self._refuse_line(data, at)
        end = data.find(EMPTY_LINE, at, at + self._most_bytes) + len(EMPTY_LINE)
        if line is None or end < len(EMPTY_LINE):
            return self._hold(data, at)
        if not self._between:
            self._no_deadline()
        self._between = False
        self._count = self._size = self._left = self._quiet = 0
        self._data, self._line = data[at:end], line
        self.headers = []
        self.parser.feed_data(self._data)
        # An idle connection holds on to nothing; the match does to all that was read at once. To delete them
        # would have the connection's dict built anew for every few requests.
        self._data, self._line = b"", NO_LINE
        return end

    def _refuse_line(self, data: bytes, at: int) -> None:
        """Refuse what is no request line, and what no longer can become one."""
        if self._long_target.match(data, at):
            self._refuse(Reason.TARGET_TOO_LONG)
        if not CAPITAL.match(data, at) or data.find(b"\n", at, at + self._most_bytes) >= 0:
            self._refuse(Reason.MALFORMED_REQUEST)

    def _hold(self, data: bytes, at: int) -> int:
        if len(data) - at >= self._most_bytes:
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
        found = at if at < 3 else data.find(EMPTY_LINE, at - 3) + 3
        end = found + 1 if found >= at else len(data)
        self._quiet += end - at
        self.parser.feed_data(data[at:end])
        if self._quiet > self._most_bytes:
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
        self._answered_at = self.loop.time()
        if self.timeout_keep_alive_task is None:
            self._keep_alive_for(self.timeout_keep_alive)

    # -- the parser's callbacks -----------------------------------------------------------------------

    def on_header(self, name: bytes, value: bytes) -> None:
        """A field; of those that are not in the table nothing is kept."""
        self._count += 1
        self._size += len(name) + len(value) + 3
        if self._count > self._most_fields or self._size > self._most_bytes:
            self._refuse(Reason.HEAD_TOO_LARGE)
        name = name.lower()
        if name in KEPT:
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
        if self._refuses_at_the_door(head):
            return
        self._in_body = True
        self._unset_keepalive_if_required()
        self._take_the_road(head)

    def _refuses_at_the_door(self, head: Head) -> bool:
        """Refuse what there is no room for, before anything is made for it."""
        if head.method not in READS or self.is_leaving or not self._stays or not self._is_free():
            return False
        made = self.site.at_the_door(head, self.peer)
        if made is None:
            return False
        self._is_cut = True
        self._write_past(wire(made.status, made.head, made.body, is_last=False))
        return True

    @property
    def _stays(self) -> bool:
        """Whether the client will have more to ask."""
        return self._line[3] == b"1" and self.parser.should_keep_alive()

    def _head(self) -> Head:
        method, target, minor = self._line.groups()
        if self.parser.should_upgrade():
            self._refuse(Reason.MALFORMED_REQUEST)
        fields = read(self.headers)
        poll, expects_100 = None, False
        if isinstance(fields, Refusal) or len(fields) < len(self.headers):
            framed = framing(method, minor, self.headers)
            if isinstance(framed, Reason):
                self._refuse(framed)
            self._left, expects_100 = framed
        elif method == b"GET" and minor == b"1":
            poll = self._poll(fields)
        # RFC 9112 §3.2.
        if not isinstance(fields, Refusal) and not has_host(fields, minor):
            fields, poll = Refusal(Reason.MALFORMED_HEADER), None
        return Head(method.decode(), target, fields, poll, expects_100)

    def _poll(self, fields: Fields) -> Poll | None:
        """For the short cut: no field is doubled here, and none says anything about a body."""
        if not POLLS_NEED <= fields.keys() <= POLLS_MAY or not self.parser.should_keep_alive():
            return None
        line = self._line[0]
        return Poll(line[:-2], fields, self._data[len(line) :])

    def _take_the_road(self, head: Head) -> None:
        # uvicorn's annotation leaves out that there is none at first.
        before: Cycle | None = self.cycle
        self.cycle = Cycle(self, head, self._left, keep_alive=self._stays, has_chunks=self._line[3] == b"1")
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
        self._no_deadline()
        super().on_message_complete()
        if not self.parser.should_keep_alive():
            # A trailer may say so too, and the parser takes nothing more.
            self.cycle.keep_alive = False
        if self.cycle.response_complete:
            # It was answered before its end.
            self._answered_at = self.loop.time()
            if not self.cycle.keep_alive:
                self.close()

    # -- what is refused ------------------------------------------------------------------------------

    def _refuse(self, reason: Reason) -> NoReturn:
        self._broken = reason
        raise Unacceptable

    def _give_up(self, reason: Reason) -> None:
        """Read nothing more, and say why: nobody can say where the next request would begin."""
        self._broken = reason
        cycle: Cycle | None = self.cycle
        if cycle is None or cycle.response_complete:
            if self._in_body:
                self.end()  # it has had its answer
            else:
                self._tell(reason)
        elif self._in_body:
            cycle.break_off(reason)
        # Else whole requests before it are still to be answered.

    def _tell(self, broken: Reason) -> None:
        made = self.site.refuse(broken)
        self.transport.write(wire(made.status, made.head, made.body, is_last=True))
        self.end()

    # -- replies out ----------------------------------------------------------------------------------

    def on_response_complete(self) -> None:
        """As ever; but nothing more is read before those that wait are answered, and then what is broken."""
        if self._is_ending or self.transport.is_closing():
            return
        was_paused = self.flow.read_paused
        self._answered_at = self.loop.time()
        super().on_response_complete()
        if self._rest:
            rest, self._rest = self._rest, b""
            self._read(rest)
        if self.pipeline or self._rest:
            self.flow.pause_reading()
        elif self._broken is not None and self.cycle.response_complete:
            self._tell(self._broken)
        if was_paused and self._held:
            # Until now nobody would have read it.
            self._within(self.bounds.head_s)

    def let_follow(self, outlet: Outlet, head: bytes) -> None:
        """Begin a stream; how long its client takes is the outlet's to see until it ends."""
        self._outlet = outlet
        if self._sending is not None:
            self._sending.stop()
        outlet.open(head, is_wanted=not self.has_eof)

    def follow_no_more(self) -> None:
        """The stream is over; what is left of it is watched like any reply."""
        self._outlet = None
        if self.flow.write_paused and not self.is_lost:
            self._watch_sending()

    # -- what does not come in time -------------------------------------------------------------------

    def await_body(self) -> None:
        """From now on the rest of the body is waited for."""
        self._within(self.bounds.body_s)

    @property
    def _time_to_read(self) -> float:
        return self.bounds.body_s if self._in_body else self.bounds.head_s

    def _within(self, seconds: float) -> None:
        self._no_deadline()
        self._deadline = self.loop.call_later(seconds, self._at_deadline)

    def _no_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _at_deadline(self) -> None:
        self._deadline = None
        if self._is_ending:
            self.close()
        elif self.flow.read_paused or (self._in_body and self.cycle.waiting_for_100_continue):
            # It is not the client who holds it up.
            self._within(self._time_to_read)
        else:
            self._give_up(Reason.REQUEST_TIMEOUT)

    def _keep_alive_for(self, seconds: float) -> None:
        self.timeout_keep_alive_task = self.loop.call_later(seconds, self.timeout_keep_alive_handler)

    def timeout_keep_alive_handler(self) -> None:
        """Close an idle connection; replies leave the timer alone, so it may be too early."""
        left_s = self.bounds.idle_s - (self.loop.time() - self._answered_at)
        if left_s <= TICK_S and self._between:
            self._unset_keepalive_if_required()
            self.close()
            return
        if self.transport.get_write_buffer_size() and not (self._sending and self._sending.is_watched):
            self._watch_sending()
        # Within a body that was answered already there is a deadline.
        self._keep_alive_for(
            min(left_s, self.timeout_keep_alive) if self._between else self.timeout_keep_alive
        )

    def pause_writing(self) -> None:
        """As ever; but not for ever."""
        super().pause_writing()
        if self._outlet is None:
            self._watch_sending()

    def _watch_sending(self) -> None:
        if self._sending is None:
            self._sending = Sending(self.transport, self.loop, self.bounds.send_s, lambda: self._answered_at)
        self._sending.watch()


def speaking(
    site: Site, short_cut: ShortCut | None, bounds: Bounds, is_trusted: Callable[[str], bool]
) -> type[Connection]:
    """A protocol class for uvicorn, which makes one of it for each connection.

    `is_trusted` names proxies, behind whose address anybody may be.
    """
    said = {
        "site": site,
        "short_cut": short_cut,
        "bounds": bounds,
        "connections_open": Connections(bounds.max_connections, bounds.max_connections_per_peer, is_trusted),
        "_most_bytes": bounds.max_head_bytes,
        "_most_fields": bounds.max_fields,
        "_most_of_target": bounds.max_target_bytes,
        "_long_target": long_target(bounds.max_target_bytes),
    }
    return type("SpeakingConnection", (Connection,), said)
