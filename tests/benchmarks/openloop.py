"""Open-loop load: each request is due at its time, whatever became of those before it.

Latency counts from when a request was due, not from when it could be sent, so a server that stalls cannot
hide behind its own slowness (coordinated omission). One thread and epoll: an event loop of the usual kind
would take longer for a request than the servers do.
"""

from __future__ import annotations

import contextlib
import gc
import re
import select
import socket
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from tests.benchmarks.figures import percentile
from tests.benchmarks.processes import HOST

#: How long after the last request was due answers are still waited for.
PATIENCE_S = 2.0
_CHUNK = 65536
_LENGTH = re.compile(rb"(?i)\r\ncontent-length: *([0-9]+)")
_HIT = re.compile(rb"(?i)\r\ncache-status: [^\r]*; *hit")
_LAST_UPDATE = re.compile(rb'"lastUpdate":"([^"]+)"')
_WITHOUT_BODY = frozenset({b"204", b"304"})


class NotHttp(Exception):
    """An answer cannot be read; the message shows its beginning."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is asked and when: `due` in seconds from the start, ascending, and the request of each."""

    due: Sequence[float]
    requests: Sequence[bytes]
    connections: int
    patience_s: float = PATIENCE_S


@dataclass(frozen=True, slots=True)
class Answered:
    """One answer. Times are seconds from the start; `age_s` is None where the answer has no `lastUpdate`.

    `noticed` is when the load found that it was due: any later than that is the load's own fault.
    """

    due: float
    noticed: float
    received: float
    status: int
    hit: bool
    age_s: float | None

    @property
    def latency_s(self) -> float:
        return self.received - self.due


@dataclass(frozen=True, slots=True)
class Outcome:
    """All answers, in the order in which they came; `started` is on the monotonic clock."""

    started: float
    answers: Sequence[Answered]
    unanswered: int

    def after(self, seconds: float) -> Sequence[Answered]:
        """Those that were due no earlier."""
        return [one for one in self.answers if one.due >= seconds]


def late_s(answers: Sequence[Answered]) -> float:
    """How late the load itself was, for one request of a hundred: beyond a millisecond it was the brake."""
    return percentile([one.noticed - one.due for one in answers], 0.99)


@dataclass(slots=True)
class _Connection:
    socket: socket.socket
    #: The request that is under way, and when it was noticed to be due.
    index: int = -1
    noticed: float = 0.0
    received: bytes = b""


@dataclass(slots=True)
class _Run:
    """The state of one run."""

    plan: Plan
    connections: dict[int, _Connection]
    epoll: select.epoll
    started: float
    idle: list[_Connection] = field(default_factory=list)
    #: Due, but all connections are taken.
    waiting: deque[tuple[int, float]] = field(default_factory=deque)
    #: (index, noticed, received, wall, bytes): what they say is read when it is over.
    raw: list[tuple[int, float, float, float, bytes]] = field(default_factory=list)
    next: int = 0

    def go(self) -> None:
        due, count = self.plan.due, len(self.plan.due)
        end = due[-1] + self.plan.patience_s if due else 0.0
        epoll, sleep = self.epoll, select.select
        while len(self.raw) < count:
            now = time.monotonic() - self.started
            while self.next < count and due[self.next] <= now:
                self.ask(self.next, now)
                self.next += 1
            until = due[self.next] if self.next < count else end
            if until <= now:
                break
            # Waiting on the epoll itself: its own timeout has whole milliseconds only.
            sleep([epoll], [], [], until - now)
            for number, _ in epoll.poll(0, 256):
                self.read(self.connections[number])

    def ask(self, index: int, noticed: float) -> None:
        if not self.idle:
            self.waiting.append((index, noticed))
            return
        connection = self.idle.pop()
        connection.index, connection.noticed = index, noticed
        connection.socket.send(self.plan.requests[index])

    def read(self, connection: _Connection) -> None:
        try:
            data = connection.socket.recv(_CHUNK)
        except OSError:
            data = b""
        if not data:
            self.lost(connection)
            return
        connection.received += data
        if not is_whole(connection.received):
            return
        now = time.monotonic() - self.started
        self.raw.append((connection.index, connection.noticed, now, time.time(), connection.received))
        connection.received = b""
        self.idle.append(connection)
        if self.waiting:
            self.ask(*self.waiting.popleft())

    def lost(self, connection: _Connection) -> None:
        # What was under way stays unanswered; the load goes on with the rest.
        self.epoll.unregister(connection.socket.fileno())
        with contextlib.suppress(ValueError):
            self.idle.remove(connection)


def is_whole(received: bytes) -> bool:
    """Whether these bytes are a whole answer. Raises NotHttp; answers without a length are not read."""
    end = received.find(b"\r\n\r\n")
    if end < 0:
        return False
    length = _LENGTH.search(received, 0, end)
    if length is not None:
        return len(received) >= end + 4 + int(length[1])
    if received[9:12] in _WITHOUT_BODY:
        return True
    raise NotHttp(f"answer: expected a Content-Length, got {received[:200]!r}")


def read(due: float, noticed: float, received: float, wall: float, raw: bytes) -> Answered:
    """What an answer says; `wall` is when it came, in epoch seconds."""
    stamp = _LAST_UPDATE.search(raw)
    age_s = wall - datetime.fromisoformat(stamp[1].decode()).timestamp() if stamp else None
    return Answered(due, noticed, received, int(raw[9:12]), _HIT.search(raw) is not None, age_s)


def raw(port: int, questions: Sequence[bytes]) -> list[bytes]:
    """The bytes of the answers to these, one after the other. Raises NotHttp, and OSError when none comes."""
    answers = []
    with socket.create_connection((HOST, port), timeout=10) as connection:
        for question in questions:
            connection.sendall(question)
            received = b""
            while not is_whole(received):
                data = connection.recv(_CHUNK)
                if not data:
                    raise NotHttp(f"answer: expected a whole one, got {received[:200]!r}")
                received += data
            answers.append(received)
    return answers


def run(port: int, plan: Plan) -> Outcome:
    """Ask as planned. Raises NotHttp, and OSError where there are not so many connections to be had."""
    with _connected(port, plan.connections) as (connections, epoll), _no_collector():
        state = _Run(plan, connections, epoll, time.monotonic(), list(connections.values()))
        state.go()
    answers = [read(plan.due[one[0]], *one[1:]) for one in state.raw]
    return Outcome(state.started, answers, len(plan.due) - len(answers))


@contextlib.contextmanager
def _connected(port: int, count: int) -> Iterator[tuple[dict[int, _Connection], select.epoll]]:
    with contextlib.ExitStack() as stack:
        epoll = stack.enter_context(select.epoll())
        opened = [stack.enter_context(socket.create_connection((HOST, port))) for _ in range(count)]
        for one in opened:
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            epoll.register(one.fileno(), select.EPOLLIN)
        # The kernel connects at once; the server is still taking them in.
        time.sleep(0.2)
        yield {one.fileno(): _Connection(one) for one in opened}, epoll


@contextlib.contextmanager
def _no_collector() -> Iterator[None]:
    """A collection would stop the load for longer than an answer takes."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
