"""What the system gives a process and tells it: signals and open files."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import signal
import sys
from types import FrameType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gateway.config.settings import Settings

_ENDING = (signal.SIGTERM, signal.SIGINT)
#: Files, the journal, the log, the event loop's own, fetches of keys, and calls of the private listener.
RESERVE = 64


# -- signals -----------------------------------------------------------------------------------------------


def end_at_signals() -> None:
    """Have SIGTERM and SIGINT end the process at once, whatever it does, without a word."""
    for number in _ENDING:
        # The loop would call a handler of its own only when it gets to it.
        signal.signal(number, _end)


def _end(number: int, _: FrameType | None) -> None:
    signal.signal(number, signal.SIG_DFL)
    signal.raise_signal(number)
    # The first process of a container is not ended by that.
    os._exit(128 + number)


def signalled() -> asyncio.Future[signal.Signals]:
    """The next SIGTERM or SIGINT, in a running loop; a second one ends the process at once."""
    loop = asyncio.get_running_loop()
    heard: asyncio.Future[signal.Signals] = loop.create_future()

    def hear(number: int, _: FrameType | None) -> None:
        end_at_signals()
        loop.call_soon_threadsafe(heard.set_result, signal.Signals(number))

    for number in _ENDING:
        signal.signal(number, hear)
    return heard


# -- open files --------------------------------------------------------------------------------------------


def fill_standard_streams() -> None:
    """Have something open where standard input, output or error are closed.

    Else a socket would come to be there, hear what was meant for those, and have the event loop abort the
    process when it closes it.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)


def allow_open_files() -> int:
    """Raise the limit of open files as far as this process may; what it is then."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    # Some systems promise more than they give.
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        soft = hard
    return sys.maxsize if soft == resource.RLIM_INFINITY else soft


def too_few_open_files(settings: Settings, limit: int) -> tuple[str, ...]:
    """What is to be warned of: not all connections that the settings allow can be open at once."""
    needed = settings.edge.max_connections + settings.upstream.max_connections + RESERVE
    if limit >= needed:
        return ()
    return (f"edge.max_connections: expected a limit of open files of at least {needed}, got {limit}",)
