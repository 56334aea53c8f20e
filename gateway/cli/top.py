"""`top`: the live page's figures in a terminal."""

# ruff: noqa: PLC0415 - imports inside commands, see gateway.cli

from __future__ import annotations

import contextlib
import os
import queue
import select
import signal
import sys
import termios
import threading
import tty
from collections.abc import Callable, Generator, Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import typer

from gateway.cli.common import ConfigOption, fail
from gateway.cli.operating import PrivateListener, answered, private_listener

if TYPE_CHECKING:
    from rich.console import Console

#: How often is looked for a key, in seconds.
KEY_S = 0.1
INTERRUPTED = 130

Now = Mapping[str, Any]
_Told: TypeAlias = "queue.SimpleQueue[Now | BaseException]"


def top(
    config: ConfigOption,
    once: Annotated[bool, typer.Option("--once", help="Print how it stands, and end.")] = False,
) -> None:
    """Show what the running gateway does, second by second. q ends it."""
    from rich.console import Console

    from gateway.admin.client import CallFailed

    listener = private_listener(config)
    console = Console(markup=False, highlight=False)
    if not (once or console.is_terminal):
        fail("top: expected a terminal, got something else; --once prints how it stands")
    try:
        (_print if once else _show)(console, listener)
    except CallFailed as error:
        fail(error)
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None


def _print(console: Console, listener: PrivateListener) -> None:
    from gateway.cli.figures import figures

    with contextlib.closing(_told(listener)) as told:
        console.print(figures(next(told)))


def _show(console: Console, listener: PrivateListener) -> None:
    from rich.live import Live

    from gateway.cli.figures import figures

    told: _Told = queue.SimpleQueue()
    # It waits for the gateway, where nothing wakes it; it ends with the process.
    threading.Thread(target=_listen, args=(listener, told), daemon=True).start()
    first = figures(_taken(told))
    with _interrupts() as is_interrupted:
        with _keys(), Live(first, console=console, screen=True, auto_refresh=False) as live:
            live.refresh()
            while not (_is_quit() or is_interrupted()):
                if not told.empty():
                    live.update(figures(_taken(told)), refresh=True)
        if is_interrupted():
            raise KeyboardInterrupt


def _told(listener: PrivateListener) -> Generator[Now, None, None]:
    """How it stands, once a second. Raises CallFailed, and the end of the command."""
    from gateway.admin.client import CallFailed, following

    to = following(listener.at, listener.token, "/live", certificate_file=listener.certificate_file)
    with to as (status, answer, messages):
        if status == 404:
            fail(f"{listener.name} has no /live: is that gateway older than this command?")
        answered(status, answer, listener.name)
        yield from (said for event, said in messages if event == "now")
    raise CallFailed(f"{listener.name} says no more: the gateway has ended, or this terminal was too slow")


def _listen(listener: PrivateListener, told: _Told) -> None:
    try:
        for now in _told(listener):
            told.put(now)
    # The command ends where it is shown, not here.
    except BaseException as end:  # noqa: BLE001
        told.put(end)


def _taken(told: _Told) -> Now:
    """The next message. Raises what has ended the listening."""
    now = told.get()
    if isinstance(now, BaseException):
        raise now
    return now


@contextlib.contextmanager
def _interrupts() -> Iterator[Callable[[], bool]]:
    """Whether Ctrl-C was pressed. Amid something that is written it would leave the screen as it is."""
    pressed = threading.Event()
    before = signal.signal(signal.SIGINT, lambda *_: pressed.set())
    try:
        yield pressed.is_set
    finally:
        signal.signal(signal.SIGINT, before)


@contextlib.contextmanager
def _keys() -> Iterator[None]:
    """Keys come one by one, and are not shown; afterwards all is as before."""
    if not sys.stdin.isatty():
        yield
        return
    before = termios.tcgetattr(sys.stdin)
    try:
        tty.setcbreak(sys.stdin)
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)


def _is_quit() -> bool:
    """Whether q was pressed; a moment passes meanwhile."""
    keys = [sys.stdin] if sys.stdin.isatty() else []
    ready, _, _ = select.select(keys, [], [], KEY_S)
    # Nothing at all: the terminal is gone.
    return bool(ready) and os.read(sys.stdin.fileno(), 1) in {b"q", b"Q", b""}
