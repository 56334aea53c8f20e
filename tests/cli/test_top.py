"""`top`, by a script and at a terminal, which here is one end of a pty."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pty
import re
import select
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from rich.console import Console

from gateway.cli import figures
from tests.cli.test_operating_commands import Site, run, running, set_up

#: A process that hangs is no reason to wait for ever.
PATIENCE_S = 20.0


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Its upstream is not there."""
    with running(tmp_path_factory.mktemp("top") / "gateway") as it:
        yield it


class Terminal:
    """What a command shows, and what is typed."""

    def __init__(self, site: Site) -> None:
        self.ours, self.theirs = pty.openpty()
        self.before = termios.tcgetattr(self.theirs)
        self.shown = ""
        environ = {**os.environ, "CHAT_GATEWAY_ADMIN_LISTEN": site.private, "TERM": "xterm", "COLUMNS": "150"}
        self.process = subprocess.Popen(  # noqa: S603 - our own command
            [sys.executable, "-m", "gateway", "top", "--config", str(site.stage.config)],
            stdin=self.theirs,
            stdout=self.theirs,
            stderr=self.theirs,
            env={**environ, "LINES": "40"},
            start_new_session=True,
            # Ctrl-C is for whom the terminal belongs to.
            preexec_fn=lambda: os.close(os.open(os.ttyname(0), os.O_RDWR)),  # noqa: PLW1509
        )

    def until(self, pattern: str, since: int = 0) -> None:
        ends_at = time.monotonic() + PATIENCE_S
        while not re.search(pattern, self.shown[since:], re.DOTALL):
            assert time.monotonic() < ends_at, self.shown
            self._look(0.1)

    def _look(self, patience_s: float) -> bool:
        """Whether there was more to see."""
        more = bool(select.select([self.ours], [], [], patience_s)[0])
        if more:
            self.shown += os.read(self.ours, 65_536).decode(errors="replace")
        return more

    def type(self, keys: str) -> int:
        """The exit code that it leads to."""
        os.write(self.ours, keys.encode())
        return self.end()

    def end(self) -> int:
        """The exit code, in the end."""
        ends_at = time.monotonic() + PATIENCE_S
        while self.process.poll() is None:
            assert time.monotonic() < ends_at, self.shown
            # It may wait until what it wrote is taken.
            self._look(0.1)
        # What a terminal is written arrives a little later, whoever has ended.
        while self._look(0.1):
            pass
        return self.process.returncode


@contextlib.contextmanager
def terminal(site: Site) -> Iterator[Terminal]:
    it = Terminal(site)
    try:
        yield it
    finally:
        it.process.kill()
        it.process.wait()
        os.close(it.ours)
        os.close(it.theirs)


@pytest.mark.parametrize(("keys", "code"), [("q", 0), ("Q", 0), ("x\x03", 130)])
def test_it_shows_seconds_until_it_is_told_to_end(site: Site, keys: str, code: int) -> None:
    with terminal(site) as it:
        it.until(r"chat-gateway \S+  ready")
        # What comes in is seen within the next seconds.
        since = len(it.shown)
        assert site.get("/api/account/123/chat/H1-2K3/info", "no token") == 401
        it.until(r"token-malformed|token-invalid|unauthorized|401", since)
        assert it.type(keys) == code
        # The screen of before, the cursor, and keys that are shown again.
        assert "\x1b[?1049l" in it.shown
        assert "\x1b[?25h" in it.shown
        assert termios.tcgetattr(it.theirs) == it.before
        assert "Traceback" not in it.shown


def test_it_ends_with_the_gateway_and_says_so(tmp_path: Path) -> None:
    with running(tmp_path / "gateway") as site, terminal(site) as it:
        it.until(r"chat-gateway \S+  ready")
        site.process.terminate()
        assert it.end() == 1
        # What was written after the process has looked away is still there.
        it.until(r"\x1b\[\?1049l.*the private listener at \S+ says no more: the gateway has ended")
        assert site.process.wait(PATIENCE_S) == 0


def test_a_script_gets_it_once(site: Site) -> None:
    assert site.get("/api/account/123/chat/H1-2K3/info", "no token") == 401
    result = site.run("top", "--once")
    assert result.exit_code == 0, result.stderr
    assert "\x1b" not in result.stdout
    assert re.search(r"in all: +[1-9][0-9]* requests, 0 upstream", result.stdout)
    assert re.search(r"^123 +closed", result.stdout, re.MULTILINE)


def test_without_a_terminal_it_says_what_to_do(site: Site) -> None:
    result = site.run("top")
    assert result.exit_code == 1
    assert result.stderr == "top: expected a terminal, got something else; --once prints how it stands\n"


def test_a_wrong_token_is_refused(site: Site, tmp_path: Path) -> None:
    config = set_up(tmp_path / "other").config
    (config.parent / "admin-token").write_text("another-admins-token\n")
    result = run("top", "--once", "--config", config, environ={"CHAT_GATEWAY_ADMIN_LISTEN": site.private})
    assert result.exit_code == 1
    assert result.stderr.startswith(f"the private listener at {site.private} answered 401: ")


def test_where_nobody_listens_it_says_so(tmp_path: Path) -> None:
    config = set_up(tmp_path / "none").config
    result = run("top", "--once", "--config", config, environ={"CHAT_GATEWAY_ADMIN_LISTEN": "127.0.0.1:9"})
    assert result.exit_code == 1
    assert result.stderr == "cannot reach the private listener at 127.0.0.1:9: connection refused\n"


class Another(BaseHTTPRequestHandler):
    """Some listener that has no such page, or that says nothing after its head."""

    status, body, media_type = (
        404,
        json.dumps({"error": "There is no such call."}).encode(),
        "application/json",
    )

    def do_GET(self) -> None:
        self.send_response(self.status)
        self.send_header("content-type", self.media_type)
        self.send_header("content-length", str(len(self.body)))
        self.end_headers()
        self.wfile.write(self.body)

    def log_message(self, *_: object) -> None:
        pass


class Silent(Another):
    status, body, media_type = 200, b": nothing\n\n", "text/event-stream"


class Garbled(Another):
    status, body, media_type = 200, b"event: now\ndata: {\n\n", "text/event-stream"


@pytest.mark.parametrize(
    ("other", "says"),
    [
        (Another, "has no /live: is that gateway older than this command?"),
        (Silent, "says no more: the gateway has ended, or this terminal was too slow"),
        (Garbled, "got something else: is it admin_listen?"),
    ],
)
def test_who_is_no_gateway_of_today_is_told_apart(tmp_path: Path, other: type[Another], says: str) -> None:
    config = set_up(tmp_path / "older").config
    with HTTPServer(("127.0.0.1", 0), other) as server:
        answering = threading.Thread(target=server.handle_request)
        answering.start()
        listen = f"127.0.0.1:{server.server_address[1]}"
        result = run("top", "--once", "--config", config, environ={"CHAT_GATEWAY_ADMIN_LISTEN": listen})
        answering.join()
    assert result.exit_code == 1
    assert result.stderr.endswith(says + "\n")
    assert result.stderr.count("\n") == 1


def test_eighty_columns_cut_nothing_of_clients_and_refusals() -> None:
    limits = [{"name": name, "remaining": 1999, "limit": 2000} for name in ("requests", "in-flight")]
    client = {"name": "internal", "requests": 123456, "per_second": 4.5, "saved": 2, "streams": 0}
    refused = {"at": 0, "client": "internal", "status": 429, "reason": "rate-limited", "resource": "info"}
    out = io.StringIO()
    console = Console(width=80, file=out)
    console.print(figures._clients([{**client, "limited": 1, "refused": 0, "limits": limits}]))
    console.print(figures._refusals([{**refused, "rule": "internal/limits/streams"}]))
    shown = out.getvalue()
    assert "\u2026" not in shown
    words = {"requests", "a second", "streams", "limits left", "123456", "rate-limited", "info"}
    assert all(word in shown for word in words)
