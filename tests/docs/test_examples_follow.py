"""What the example clients make of a stream that breaks off, is closed, refused, or at its end."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tests.docs.clients import started

HEAD = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"
RETRY = "retry: 1\n\n"
EVENT = 'event: event\nid: {0}\ndata: {{"@id": "{0}"}}\n\n'
ENDED = 'event: ended\ndata: {"reason": "ended"}\n\n'
NOTHING = "HTTP/1.1 204 No Content\r\n\r\n"
BUSY = "HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\ncontent-length: 2\r\n\r\n{}"
DENIED = "HTTP/1.1 403 Forbidden\r\ncontent-length: 2\r\n\r\n{}"
PROBLEM = 'event: problem\ndata: {"status": 502}\n\n'
KINDS = {"event", "problem", "closed", "ended"}
CLOSED = 'event: closed\ndata: {"status": 503}\n\n'


@contextmanager
def scripted(*answers: str) -> Iterator[tuple[str, list[str]]]:
    """A server that gives these answers, one a connection, and which Last-Event-IDs it was sent."""
    told: list[str] = []
    left = list(answers)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            told.append(self.headers.get("Last-Event-ID", ""))
            self.wfile.write((left.pop(0) if left else DENIED).encode())
            self.close_connection = True

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - as the library calls it
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", told
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@dataclass(frozen=True)
class Case:
    """A server's answers; the Last-Event-IDs it is sent, what is told, and how it ends."""

    answers: tuple[str, ...]
    ids: list[str]
    kinds: list[str]
    is_good: bool = True


CASES = {
    "the end": Case((HEAD + EVENT.format(0) + ENDED,), [""], ["event", "ended"]),
    "nothing more": Case((NOTHING,), [""], []),
    "broken off": Case(
        (HEAD + RETRY + EVENT.format(0), HEAD + EVENT.format(1) + ENDED),
        ["", "0"],
        ["event", "event", "ended"],
    ),
    "within a message": Case(
        (HEAD + RETRY + EVENT.format(0) + "id: 1\ndata: {", HEAD + EVENT.format(1) + ENDED),
        ["", "0"],
        ["event", "event", "ended"],
    ),
    "trouble": Case(
        (HEAD + PROBLEM + ":\n\n" + EVENT.format(0) + ENDED,), [""], ["problem", "event", "ended"]
    ),
    "come back": Case(
        (HEAD + EVENT.format(7) + RETRY + CLOSED, HEAD + ENDED), ["", "7"], ["event", "closed", "ended"]
    ),
    "don't come back": Case((HEAD + CLOSED,), [""], ["closed"], is_good=False),
    "busy": Case((BUSY, HEAD + ENDED), ["", ""], ["ended"]),
    "denied": Case((DENIED,), [""], [], is_good=False),
}


@pytest.mark.parametrize("name", CASES)
def test_a_stream(command: Sequence[str], name: str) -> None:
    case = CASES[name]
    with scripted(*case.answers) as (url, told), started(command, url, "a-token", "follow") as client:
        words = [line.partition(" ")[0] for line in client.rest().splitlines()]
        assert [word for word in words if word in KINDS] == case.kinds
        assert (client.process.returncode == 0) is case.is_good
    assert told == case.ids
