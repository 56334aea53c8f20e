"""`healthcheck`: what asks it, asks every few seconds, so it reads and imports little."""

# ruff: noqa: PLC0415 - imports inside commands, see gateway.cli

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Annotated, NoReturn
from urllib.parse import urlsplit

import typer

from gateway.cli.common import CALLED_AT, fail

DEADLINE_S = 2.0
#: Where the private listener is unless gateway.yaml says otherwise.
PRIVATE = "127.0.0.1:8081"


def healthcheck(
    config: Annotated[Path, typer.Option("--config", help="Path of gateway.yaml.")] = Path("gateway.yaml"),
    live: Annotated[bool, typer.Option("--live", help="Ask whether it lives, be it ready or not.")] = False,
) -> None:
    """Ask the gateway that runs here whether it takes requests. For containers; needs no token."""
    from gateway.admin.client import CallFailed, call

    address, certificate_file = _private_listener(config)
    where = "the private listener at {}:{}".format(*address)
    late = CallFailed(f"{where} did not answer within {DEADLINE_S:g} s")
    try:
        with _ending_after(DEADLINE_S, late):
            status, said = call(address, None, "GET", "/readyz", certificate_file=certificate_file)
    except CallFailed as error:
        fail(error)
    # Whoever answers this lives: /healthz would say no more.
    if not isinstance(said, dict) or "ready" not in said:
        fail(f"{where} answered {status}, but not whether it is ready")
    if not live and status != 200:
        fail("not ready")
    typer.echo("alive" if live else "ready")


def _private_listener(config: Path) -> tuple[tuple[str, int], Path | None]:
    """Where to call, and the certificate that is shown there if it speaks TLS.

    The rest is not looked at: a mistake in a file that was changed does not make sick what runs.
    """
    from gateway.config.documents import read_file
    from gateway.config.environment import overlay

    document, mistakes = read_file(config, config.name)
    if document.data is None and mistakes:
        fail("\n".join(map(str, mistakes)))
    data = overlay(document, os.environ)[0].data
    settings = data if isinstance(data, dict) else {}
    tls = settings.get("admin_tls")
    certificate_file = tls.get("certificate_file") if isinstance(tls, dict) else None
    address = _to_call(settings.get("admin_listen", PRIVATE))
    return address, None if certificate_file is None else config.parent / str(certificate_file)


def _to_call(listens: object) -> tuple[str, int]:
    try:
        at = urlsplit(f"//{listens}")
        host, port = at.hostname, at.port
    except ValueError:
        host, port = None, None
    if not host or not port:
        fail(f"admin_listen: expected host:port, with the port that is listened on, got {listens!r}")
    return CALLED_AT.get(host, host), port


@contextlib.contextmanager
def _ending_after(seconds: float, late: Exception) -> Iterator[None]:
    """Raise `late` out of the block then, whatever it waits for: a name, a handshake, byte after byte."""

    def ring(_: int, __: FrameType | None) -> NoReturn:
        raise late

    signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
