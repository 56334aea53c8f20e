"""Commands as processes, and what is said to them."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def started(
    *arguments: str,
    environ: dict[str, str] | None = None,
    stderr: int = subprocess.PIPE,
    first: Callable[[], object] | None = None,
) -> Iterator[subprocess.Popen[str]]:
    """A command, until the block ends. `first` is what its process does before."""
    command = [sys.executable, "-m", "gateway", *arguments]
    with subprocess.Popen(  # noqa: S603 - our own command
        command,
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
        env={**os.environ, **(environ or {})},
        preexec_fn=first,  # noqa: PLW1509 - there are no threads here
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def line_of(process: subprocess.Popen[str]) -> dict[str, str]:
    assert process.stderr is not None
    said: dict[str, str] = json.loads(process.stderr.readline())
    return said


def status_of(address: str, path: str, headers: dict[str, str] | None = None) -> int:
    with contextlib.closing(http.client.HTTPConnection(address, timeout=5)) as connection:
        connection.request("GET", path, headers=headers or {})
        return connection.getresponse().status
