"""wrk's figures are read as it prints them, and the open loop asks when it is due, whatever servers do."""

from __future__ import annotations

import random
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.benchmarks import openloop, wrk
from tests.benchmarks.openloop import Answered, NotHttp, Plan
from tests.benchmarks.workloads.c_many_chats import LEFT_OUT_S, RAMP_S, plan, triple

#: wrk puts a space behind a unit of one letter; here it has a name, or editors would take it away.
PRINTED = """\
Running 5s test @ http://127.0.0.1:8080/
  1 threads and 100 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     1.31ms  812.00us  12.00ms   90.00%
    Req/Sec    75.00k     1.00k   80.00k    70.00%
  Latency Distribution
     50%  812.00us
     75%    1.50ms
     90%    2.00ms
     99%    1.05s{space}
  376240 requests in 5.01s, 400.00MB read
{failures}Requests/sec:  75123.45
Transfer/sec:     79.84MB
"""


@pytest.mark.parametrize(
    ("failures", "failed"),
    [
        ("", 0),
        ("  Non-2xx or 3xx responses: 17\n", 17),
        ("  Socket errors: connect 1, read 2, write 3, timeout 4\n", 10),
        (
            "  Socket errors: connect 0, read 0, write 0, timeout 4\n  Non-2xx or 3xx responses: 3\n",
            7,
        ),
    ],
)
def test_what_wrk_prints_is_read(failures: str, failed: int) -> None:
    read = wrk.read(PRINTED.format(failures=failures, space=" "))
    assert read == wrk.Closed(376_240, 75_123.45, 0.812, 1050.0, failed)


@pytest.mark.parametrize("printed", ["", "unable to connect to 127.0.0.1:1 Connection refused"])
def test_anything_else_is_said(printed: str) -> None:
    with pytest.raises(wrk.Unreadable, match="expected its figures"):
        wrk.read(printed)


def test_requests_stand_in_the_file_as_they_are_sent(tmp_path: Path) -> None:
    requests = [b"GET / HTTP/1.1\r\n\r\n", b"PUT / HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}\n"]
    file = wrk.write_requests(tmp_path / "requests", requests)
    assert file.read_bytes().split(wrk.END) == requests


@pytest.mark.parametrize(
    ("received", "whole"),
    [
        (b"HTTP/1.1 200 OK\r\ncontent-le", False),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n1", False),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n12", True),
        (b"HTTP/1.1 304 Not Modified\r\netag: W/1\r\n\r\n", True),
    ],
)
def test_an_answer_is_whole_when_its_length_is_there(received: bytes, whole: bool) -> None:
    assert openloop.is_whole(received) is whole


def test_an_answer_without_a_length_is_refused() -> None:
    with pytest.raises(NotHttp, match="expected a Content-Length"):
        openloop.is_whole(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")


def test_what_an_answer_says() -> None:
    raw = (
        b"HTTP/1.1 200 OK\r\nCache-Status: chat-gateway; hit; ttl=0\r\n\r\n"
        b'{"info":{"lastUpdate":"1970-01-01T00:01:40.250+00:00"}}'
    )
    assert openloop.read(1.0, 1.5, 2.0, 101.0, raw) == Answered(1.0, 1.5, 2.0, 200, True, 0.75)
    miss = raw.replace(b"hit; ttl=0", b"fwd=miss; stored")
    assert not openloop.read(1.0, 1.5, 2.0, 101.0, miss).hit


class Slow(threading.Thread):
    """A server for one connection, which keeps its first request waiting so long, or until it is let go."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.keeps_s = 10.0
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self.listener.getsockname()[1]
        self.asked = 0
        self.enough = threading.Event()

    def run(self) -> None:
        connection, _ = self.listener.accept()
        with connection:
            while connection.recv(65536):
                self.asked += 1
                if self.asked == 1:
                    self.enough.wait(self.keeps_s)
                connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")


@pytest.fixture
def slow() -> Iterator[Slow]:
    server = Slow()
    server.start()
    yield server
    server.enough.set()
    server.join(10)
    server.listener.close()


def test_latency_counts_from_when_a_request_was_due(slow: Slow) -> None:
    slow.keeps_s = 0.1
    outcome = openloop.run(slow.port, Plan([0.0, 0.01], [b"GET / HTTP/1.1\r\n\r\n"] * 2, connections=1))
    first, second = outcome.answers
    # The second could only be sent after the first was answered; it was due long before.
    assert second.received >= first.received
    assert second.latency_s == second.received - 0.01
    assert second.noticed < first.received
    assert outcome.unanswered == 0


def test_what_never_comes_is_counted(slow: Slow) -> None:
    outcome = openloop.run(slow.port, Plan([0.0], [b"GET / HTTP/1.1\r\n\r\n"], 1, patience_s=0.05))
    assert (outcome.answers, outcome.unanswered) == ([], 1)


def test_each_pair_is_polled_once_a_second_at_its_moment() -> None:
    chats = [[b"%d/%d" % (chat, own) for own in range(5)] for chat in range(10)]
    planned = plan(chats, 10, random.Random(1))
    assert list(planned.due) == sorted(planned.due)
    for chat, questions in enumerate(chats):
        begins = RAMP_S * chat / len(chats)
        for question in questions:
            asked = zip(planned.due, planned.requests, strict=True)
            moments = [due for due, its in asked if its == question]
            assert begins <= moments[0] < begins + 1
            assert moments == pytest.approx([moments[0] + second for second in range(len(moments))])
            assert 9 <= moments[-1] < 10


def test_what_comes_before_the_load_is_even_is_left_out() -> None:
    early = Answered(LEFT_OUT_S - 0.5, 0.0, 99.0, 500, False, 99.0)
    hit = Answered(LEFT_OUT_S + 0.1, LEFT_OUT_S + 0.1, LEFT_OUT_S + 0.102, 200, True, 0.5)
    miss = Answered(LEFT_OUT_S + 0.2, LEFT_OUT_S + 0.2, LEFT_OUT_S + 0.25, 200, False, 0.1)
    found = triple(openloop.Outcome(0.0, [early, hit, miss], 0), 1.1, 2)
    assert (found.failed, found.hits, found.age_p99_s) == (0, 0.5, 0.5)
    assert found.hit_p99_ms == pytest.approx(2.0)
    assert found.all_p99_ms == pytest.approx(50.0)
    assert found.holds
