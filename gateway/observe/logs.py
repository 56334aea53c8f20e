"""Log lines: JSON, one a request, on standard error. On a terminal they are written for eyes.

No line has a token, a key, a query or a visitor's words in it; a chat's id, which is what opens a chat, is
hashed.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import fcntl
import hashlib
import json
import logging
import os
import stat
import sys
import time
from collections.abc import Callable, Mapping
from functools import lru_cache
from json.encoder import encode_basestring_ascii as quoted
from typing import TextIO, cast

import structlog
from structlog.typing import EventDict, FilteringBoundLogger, Processor

from gateway.core.messages import Chat

#: As much as Linux allows anybody; four thousand lines of requests.
PIPE_BYTES = 1_048_576
_NO_REMARKS: Mapping[str, object] = {}


class Lines:
    """Lines on a stream: each whole and at once, or not at all.

    One write a line, so that what was logged is out before a crash. To gather lines would save less than half
    of what one costs, and lose the last ones: those that tell why.

    A line that cannot be written (a full disk, a pipe that is full or closed, no stream at all) is lost and
    counted: no request fails or waits for it. Of what was written in part the rest comes first, once it can.
    """

    lost = 0

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream
        self._descriptor = _own_descriptor(stream)
        self._encoding = getattr(stream, "encoding", None) or "utf-8"
        self._rest = b""

    def msg(self, message: str) -> None:
        try:
            if self._descriptor is None:
                self._to_stream(message)
                return
            # Past the stream's own buffer, which would keep half a line and glue it to a later one.
            rest = self._rest
            data = rest + message.encode(self._encoding, "backslashreplace") + b"\n"
            written = os.write(self._descriptor, data)
        except (OSError, ValueError):  # ValueError: the stream is closed
            self.lost += 1
            return
        if written < len(rest):
            self._rest = rest[written:]
            self.lost += 1
        else:
            self._rest = data[written:]

    def _to_stream(self, message: str) -> None:
        if self._stream is None:
            raise ValueError("no stream")
        self._stream.write(message + "\n")
        self._stream.flush()

    log = debug = info = warn = warning = fatal = failure = err = error = critical = exception = msg


class JsonLines(Lines):
    """Lines of JSON."""


def _own_descriptor(stream: TextIO | None) -> int | None:
    """Where to write what the stream takes, without ever waiting for who reads it; None for one in memory.

    A file is the stream's own descriptor. Anything else is opened anew: not to wait is a property of what was
    opened, and other processes may share that. What cannot be opened anew is made not to wait all the same,
    but for a terminal, whose shell would trip over it.
    """
    try:
        shared = stream.fileno() if stream is not None else None
    except (OSError, ValueError):
        shared = None
    if shared is None or stat.S_ISREG(os.fstat(shared).st_mode):
        return shared
    try:
        own = os.open(f"/dev/fd/{shared}", os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError:
        if not os.isatty(shared):
            os.set_blocking(shared, False)
        return shared
    _widen(own)
    return own


def _widen(pipe: int) -> None:
    """Let a pipe take what is logged while its reader is busy elsewhere, as far as the system lets it."""
    with contextlib.suppress(OSError, AttributeError):  # no pipe, no such right, or no Linux
        fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, PIPE_BYTES)


def logger(
    level: str, stream: TextIO | None = sys.stderr, wall: Callable[[], float] = time.time
) -> FilteringBoundLogger:
    """A logger from that level up (debug, info, warning, error). `wall` is epoch seconds.

    Without a stream, which is how Python says that standard error is closed, all lines are lost.
    """
    number = logging.getLevelNamesMapping()[level.upper()]
    for_eyes = stream is not None and stream.isatty()
    wrapped = structlog.wrap_logger(
        Lines(stream) if for_eyes else JsonLines(stream),
        processors=[
            structlog.processors.add_log_level,
            _stamper(wall),
            structlog.dev.ConsoleRenderer() if for_eyes else structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(number),
    )
    # Bound once: the lazy proxy would do it at every line.
    return cast(FilteringBoundLogger, wrapped.bind())


def lost_lines(log: FilteringBoundLogger) -> int:
    """How many lines of this logger could not be written."""
    output = _output(log)
    return output.lost if isinstance(output, Lines) else 0


def _output(log: FilteringBoundLogger) -> object:
    # structlog lets wrappers read it.
    return getattr(log, "_logger", None)


def _stamper(wall: Callable[[], float]) -> Processor:
    def stamp(_: object, __: str, event: EventDict) -> EventDict:
        event["timestamp"] = _timestamp(wall())
        return event

    return stamp


def _timestamp(wall: float) -> str:
    second, micros = divmod(round(wall * 1e6), 1_000_000)
    return f"{_second(second)}.{micros:06}Z"


# Most lines fall into the second of the line before, and a date costs twice the rest of a timestamp.
@lru_cache(maxsize=4)
def _second(second: int) -> str:
    return dt.datetime.fromtimestamp(second, dt.UTC).isoformat()[:19]


class RequestLines:
    """The lines of requests, which are nearly all lines there are.

    As JSON they are what the logger would write, byte for byte, without its chain of processors: in half
    the time. `wanted` tells whether it would write them at all, `hits_wanted` whether it would those of hits,
    of which one in `one_hit_in` is written; with 0 none.
    """

    def __init__(self, log: FilteringBoundLogger, one_hit_in: int = 1) -> None:
        self.wanted = log.is_enabled_for(logging.INFO)
        self.hits_wanted = self.wanted and one_hit_in > 0
        #: What the line of a hit says of those that have none.
        self.of_hits: dict[str, object] = {"one_in": one_hit_in} if one_hit_in > 1 else {}
        self._one_hit_in = one_hit_in
        self._skipping = 0
        self._log = log
        output = _output(log)
        self._write = output.msg if isinstance(output, JsonLines) else None

    def takes_hit(self) -> bool:
        """Count a hit; whether it is one of those that have a line."""
        if not self.hits_wanted:
            return False
        if self._skipping:
            self._skipping -= 1
            return False
        self._skipping = self._one_hit_in - 1
        return True

    def say(
        self,
        *,
        request_id: str,
        client: str,
        rule: str | None,
        method: str,
        resource: str,
        chat: Chat | None,
        status: int,
        outcome: str,
        seconds: float,
        wall: float,
        remarks: Mapping[str, object] = _NO_REMARKS,
    ) -> None:
        """Write one; `remarks` are the fields that only some have. On a terminal the logger's clock tells."""
        chat_digits = None if chat is None else hashed(chat)
        duration_ms = round(seconds * 1000, 3)
        if self._write is None:
            self._log.info(
                "request",
                request_id=request_id,
                client=client,
                rule=rule,
                method=method,
                resource=resource,
                chat=chat_digits,
                status=status,
                outcome=outcome,
                **remarks,
                duration_ms=duration_ms,
            )
            return
        self._write(
            f'{{"request_id": {quoted(request_id)}, "client": {quoted(client)}, '
            f'"rule": {_or_null(rule)}, "method": {quoted(method)}, "resource": {quoted(resource)}, '
            f'"chat": {_or_null(chat_digits)}, "status": {status}, "outcome": {quoted(outcome)}, '
            f'{_listed(remarks)}"duration_ms": {duration_ms}, '
            f'"event": "request", "level": "info", "timestamp": "{_timestamp(wall)}"}}'
        )


def _or_null(text: str | None) -> str:
    return "null" if text is None else quoted(text)


def _listed(remarks: Mapping[str, object]) -> str:
    return f"{json.dumps(remarks)[1:-1]}, " if remarks else ""


class _Adopted(logging.Handler):
    """A library's errors, as lines of ours: without its arguments' values, for they may be a client's.

    Its warnings go nowhere: a client can have one whenever it likes, and is counted otherwise.
    """

    def __init__(self, log: FilteringBoundLogger) -> None:
        super().__init__(logging.ERROR)
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[0] if record.exc_info else None
        self._log.error("server", said=record.msg, error=None if error is None else error.__name__)


def adopt(name: str, log: FilteringBoundLogger) -> None:
    """Have what the library logger `name` says written by `log`, and by nobody else."""
    library = logging.getLogger(name)
    library.handlers = [_Adopted(log)]
    library.propagate = False


@lru_cache(maxsize=16_384)
def hashed(chat: Chat) -> str:
    """Twelve hex digits that stand for a chat in logs: the same in every replica, and no way back."""
    return hashlib.sha256(f"{chat.account}/{chat.id}".encode()).hexdigest()[:12]
