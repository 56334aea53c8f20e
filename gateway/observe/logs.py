"""Log lines: JSON, one a request, on standard error. On a terminal they are written for eyes.

No line has a token, a key, a query or a visitor's words in it; a chat's id, which is what opens a chat, is
hashed.
"""

from __future__ import annotations

import hashlib
import logging
import sys
from typing import TextIO, cast

import structlog
from structlog.typing import FilteringBoundLogger

from gateway.core.messages import Chat


def logger(level: str, stream: TextIO = sys.stderr) -> FilteringBoundLogger:
    """A logger from that level up (debug, info, warning, error)."""
    number = logging.getLevelNamesMapping()[level.upper()]
    renderer = (
        structlog.dev.ConsoleRenderer()
        if stream.isatty()
        else structlog.processors.JSONRenderer(sort_keys=False)
    )
    wrapped = structlog.wrap_logger(
        structlog.PrintLogger(stream),
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(number),
    )
    # Bound once: the lazy proxy would do it at every line.
    return cast(FilteringBoundLogger, wrapped.bind())


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


def hashed(chat: Chat) -> str:
    """Twelve hex digits that stand for a chat in logs: the same in every replica, and no way back."""
    return hashlib.sha256(f"{chat.account}/{chat.id}".encode()).hexdigest()[:12]
