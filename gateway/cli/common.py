"""What the commands share."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer

#: A question was answered, and the answer is no.
NO = 3
#: Addresses to listen on that are none to call, and where to call instead.
CALLED_AT = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - nobody listens on them here

ConfigOption = Annotated[Path, typer.Option("--config", help="Path of gateway.yaml.")]


def fail(message: object) -> NoReturn:
    """End with a sentence on standard error, or without one if that takes none."""
    try:
        typer.echo(message, err=True)
    except OSError:
        # Python would try again at the exit, and end with a code of its own.
        sys.stderr = None  # as where it is closed from the start
    raise typer.Exit(1)


def content_of(path: Path) -> bytes:
    """What a file holds, or the end of the command."""
    try:
        return path.read_bytes()
    except OSError as error:
        fail(f"{path}: expected a readable file, got: {error.strerror}")


def counted(count: int, what: str) -> str:
    """A number of things, in words."""
    return f"{count} {what}" if count == 1 else f"{count} {what}s"
