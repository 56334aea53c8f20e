"""Log lines: JSON, one a request, on standard error. On a terminal they are written for eyes.

No line has a token, a key, a query or a visitor's words in it; a chat's id, which is what opens a chat, is
hashed.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import logging
import sys
import time
from collections.abc import Callable, Mapping
from functools import lru_cache
from json.encoder import encode_basestring_ascii as quoted
from typing import TextIO, cast

import structlog
from structlog.typing import EventDict, FilteringBoundLogger, Processor

from gateway.core.messages import Chat

_NO_REMARKS: Mapping[str, object] = {}


class JsonLines(structlog.WriteLogger):
    """A stream of JSON lines.

    One write and one flush a line: what was logged is out before a crash, and no line is torn. To gather
    lines would save less than half of what one costs, and lose the last ones: those that tell why.

    A line that cannot be written (a full disk, a closed pipe) is lost and counted: no request fails for it.
    """

    lost = 0

    def msg(self, message: str) -> None:
        try:
            super().msg(message)
        except (OSError, ValueError):  # ValueError: the stream is closed
            self.lost += 1

    log = debug = info = warn = warning = fatal = failure = err = error = critical = exception = msg


def logger(
    level: str, stream: TextIO = sys.stderr, wall: Callable[[], float] = time.time
) -> FilteringBoundLogger:
    """A logger from that level up (debug, info, warning, error). `wall` is epoch seconds."""
    number = logging.getLevelNamesMapping()[level.upper()]
    for_eyes = stream.isatty()
    wrapped = structlog.wrap_logger(
        structlog.PrintLogger(stream) if for_eyes else JsonLines(stream),
        processors=[
            structlog.processors.add_log_level,
            _stamper(wall),
            structlog.dev.ConsoleRenderer() if for_eyes else structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(number),
    )
    # Bound once: the lazy proxy would do it at every line.
    return cast(FilteringBoundLogger, wrapped.bind())


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
    the time. `wanted` tells whether it would write them at all.
    """

    def __init__(self, log: FilteringBoundLogger) -> None:
        self.wanted = log.is_enabled_for(logging.INFO)
        self._log = log
        # structlog lets wrappers read it.
        output = getattr(log, "_logger", None)
        self._write = output.msg if isinstance(output, JsonLines) else None

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
