"""The clients of docs/examples/clients, as processes."""

from __future__ import annotations

import json
import os
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from tests.support import PATIENCE_S

CLIENTS = Path(__file__).parents[2] / "docs" / "examples" / "clients"
LANGUAGES = ("curl", "python", "typescript")


class Running:
    """A client's process, and what it has printed so far."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    def line(self) -> tuple[str, Any]:
        """The next line: a word, and a document."""
        assert self.process.stdout is not None
        word, _, document = self.process.stdout.readline().partition(" ")
        return word, json.loads(document or "null")

    def rest(self) -> str:
        out, _ = self.process.communicate(timeout=PATIENCE_S)
        return out


@contextmanager
def started(command: Sequence[str], url: str, token: str, *said: str) -> Iterator[Running]:
    with ExitStack() as stack:
        process = stack.enter_context(
            subprocess.Popen(  # noqa: S603 - our own examples
                [*command, url, *said],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                env={**os.environ, "TOKEN": token, "NO_PROXY": "*", "no_proxy": "*"},
            )
        )
        # A client that says nothing would be waited for.
        watchdog = threading.Timer(2 * PATIENCE_S, process.kill)
        stack.callback(process.kill)
        stack.callback(watchdog.cancel)
        watchdog.start()
        yield Running(process)
