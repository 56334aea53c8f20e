"""Lines of requests: what the logger would write, whole, and written down at once."""

from __future__ import annotations

import contextlib
import datetime as dt
import errno
import fcntl
import io
import json
import os
import resource
import signal
import socket
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.messages import Chat
from gateway.core.replies import How
from gateway.observe.logs import PIPE_BYTES, JsonLines, Lines, RequestLines, hashed, logger, lost_lines
from tests.observe.trips import CHAT, SHADOW, Desk, delivered

EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
#: Python's own texts, lone surrogates and all: a client's request id is anything until the edge has looked.
TEXTS = st.text(st.characters(codec=None), max_size=8)
REMARKS: list[Mapping[str, Any]] = [
    {},
    {"fetch": True},
    {"limits": ("requests", "info.requests"), "because": 'a"b'},
    {"shadows": [{"client": SHADOW.client, "outcome": SHADOW.outcome, "rule": SHADOW.rule}]},
]


@given(
    texts=st.fixed_dictionaries(
        dict.fromkeys(("request_id", "client", "method", "resource", "outcome"), TEXTS)
        | {"rule": st.none() | TEXTS}
    ),
    chat=st.none() | st.builds(Chat, st.just("123"), st.text("abc", max_size=3)),
    status=st.integers(100, 599),
    remarks=st.sampled_from(REMARKS),
    seconds=st.floats(0, 1e5),
    wall=st.floats(0, 4e9),
)
def test_a_line_is_what_the_logger_would_write(
    *,
    texts: dict[str, Any],
    chat: Chat | None,
    status: int,
    remarks: Mapping[str, Any],
    seconds: float,
    wall: float,
) -> None:
    by_hand, by_logger = io.StringIO(), io.StringIO()
    RequestLines(logger("info", by_hand)).say(
        **texts, chat=chat, status=status, remarks=remarks, seconds=seconds, wall=wall
    )
    logger("info", by_logger, lambda: wall).info(
        "request",
        request_id=texts["request_id"],
        client=texts["client"],
        rule=texts["rule"],
        method=texts["method"],
        resource=texts["resource"],
        chat=None if chat is None else hashed(chat),
        status=status,
        outcome=texts["outcome"],
        **remarks,
        duration_ms=round(seconds * 1000, 3),
    )
    assert by_hand.getvalue() == by_logger.getvalue()


@given(st.one_of(st.integers(0, 4 * 10**15), st.integers(0, 4 * 10**9).map(lambda second: second * 10**6)))
def test_a_timestamp_has_microseconds(micros: int) -> None:
    desk = Desk(wall=micros / 1e6)
    desk.observer.crashed(ValueError())
    expected = EPOCH + dt.timedelta(microseconds=micros)
    assert desk.lines()[0]["timestamp"] == f"{expected:%Y-%m-%dT%H:%M:%S.%fZ}"


def test_a_timestamp_is_rounded_as_a_whole() -> None:
    desk = Desk(wall=59.999_999_6)
    desk.observer.crashed(ValueError())
    assert desk.lines()[0]["timestamp"] == "1970-01-01T00:01:00.000000Z"


class Watched(io.StringIO):
    """What is written, write by write, up to the last flush."""

    def __init__(self, *, is_terminal: bool = False) -> None:
        super().__init__()
        self._is_terminal = is_terminal
        self._unflushed: list[str] = []
        self.out: list[str] = []

    def isatty(self) -> bool:
        return self._is_terminal

    def write(self, text: str) -> int:
        self._unflushed.append(text)
        return len(text)

    def flush(self) -> None:
        self.out += self._unflushed
        self._unflushed = []


def test_a_line_is_one_write_and_out_at_once() -> None:
    desk = Desk(log=Watched())
    assert isinstance(desk.log, Watched)
    for told in range(1, 4):
        desk.tell(delivered(How.HIT))
        desk.hit()
        desk.observer.crashed(ValueError())
        assert len(desk.log.out) == 3 * told
        assert all(line.startswith("{") and line.endswith("}\n") for line in desk.log.out)


@pytest.mark.parametrize("level", ["info", "warning"])
def test_on_a_terminal_lines_are_for_eyes(level: str) -> None:
    desk = Desk(level=level, log=Watched(is_terminal=True))
    assert isinstance(desk.log, Watched)
    desk.tell(delivered(How.HIT))
    desk.hit(status=304)
    lines = "".join(desk.log.out).splitlines()
    assert len(lines) == (2 if level == "info" else 0)
    for line, status in zip(lines, (200, 304), strict=False):
        assert "{" not in line
        for said in ("2026-11-22T10:27:03", "info", "request", hashed(CHAT), str(status)):
            assert said in line


# -- lines that cannot be written --------------------------------------------------------------------------


@contextlib.contextmanager
def piped() -> Iterator[tuple[int, TextIO]]:
    """A pipe: its end to read from, and a stream into it that blocks, as standard error does."""
    reader, writer = os.pipe()
    with os.fdopen(writer, "w", encoding="utf-8") as stream:
        yield reader, stream
        with contextlib.suppress(OSError):
            os.close(reader)


def fill(writer: int) -> int:
    """Write until no more fits in, and say how much that was."""
    os.set_blocking(writer, False)
    written = 0
    with contextlib.suppress(BlockingIOError):
        while True:
            written += os.write(writer, b"x" * 512)
    os.set_blocking(writer, True)
    return written


def read(reader: int, size: int = PIPE_BYTES) -> list[str]:
    return os.read(reader, size).decode().splitlines()


def drained(reader: int) -> bytes:
    """All that is there to be read."""
    received = b""
    os.set_blocking(reader, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            received += os.read(reader, PIPE_BYTES)
    return received


@pytest.mark.parametrize("kind", [JsonLines, Lines], ids=["JSON", "for eyes"])
def test_a_pipe_that_nobody_reads_blocks_nobody(kind: type[Lines]) -> None:
    with piped() as (reader, stream):
        lines = kind(stream)
        lines.msg("first")
        filled = fill(stream.fileno())
        for index in range(3):
            lines.msg(f"lost {index}")
        assert lines.lost == 3
        assert len(os.read(reader, PIPE_BYTES)) == filled + len("first\n")
        lines.msg("next")
        assert (read(reader), lines.lost) == (["next"], 3)


def test_of_a_line_that_went_out_in_part_the_rest_comes_first() -> None:
    """Longer than what a pipe takes whole or not at all."""
    long = ["a" * 9_000, "b" * 9_000, "c" * 9_000]
    with piped() as (reader, stream):
        lines = JsonLines(stream)
        fill(stream.fileno())
        os.read(reader, 4_096)
        lines.msg(long[0])
        lines.msg(long[1])
        assert lines.lost == 1
        received = drained(reader)
        lines.msg(long[2])
        received += drained(reader)
        assert received.lstrip(b"x").decode().splitlines() == [long[0], long[2]]


def test_a_rest_may_need_many_turns() -> None:
    long = "a" * 100_000
    with piped() as (reader, stream):
        lines = JsonLines(stream)
        filled = fill(stream.fileno())
        received = os.read(reader, 4_096)
        lines.msg(long)
        while len(received) < filled + len(long) // 2:
            received += os.read(reader, 20_000)
            lines.msg("lost")
        received += drained(reader)
        lines.msg("next")
        received += drained(reader)
        written = received.decode().lstrip("x").splitlines()
        assert [len(line) for line in written if line != "lost"] == [len(long), len("next")]
        assert lines.lost > 1


def test_others_who_write_to_the_same_pipe_still_wait() -> None:
    with piped() as (reader, stream):
        logger("info", stream)
        assert os.get_blocking(stream.fileno())
        assert os.get_blocking(reader)


def test_a_pipe_is_made_wide() -> None:
    with piped() as (reader, stream):
        before = fcntl.fcntl(reader, fcntl.F_GETPIPE_SZ)
        JsonLines(stream)
        assert fcntl.fcntl(reader, fcntl.F_GETPIPE_SZ) == PIPE_BYTES > before


def test_a_pipe_whose_reader_has_gone_loses_lines() -> None:
    with piped() as (reader, stream):
        lines = JsonLines(stream)
        os.close(reader)
        lines.msg("lost")
        assert lines.lost == 1


def test_a_socket_that_nobody_reads_blocks_nobody() -> None:
    """As under systemd. It cannot be opened anew."""
    ours, theirs = socket.socketpair()
    with ours, theirs, theirs.makefile("w") as stream:
        lines = JsonLines(stream)
        while not lines.lost:
            lines.msg("x" * 1_000)
        received = drained(ours.fileno())
        lines.msg("next")
        received += drained(ours.fileno())
        assert set(received.splitlines()) == {b"x" * 1_000, b"next"}
        assert (received.endswith(b"next\n"), lines.lost) == (True, 1)


def test_a_full_disk_loses_lines() -> None:
    with Path("/dev/full").open("w") as stream:
        log = logger("info", stream)
        for told in range(1, 4):
            log.info("lost")
            RequestLines(log).say(**SAID)
            assert lost_lines(log) == 2 * told
        # Nothing of them is left to come out later.
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


SAID: Any = {
    **dict.fromkeys(("request_id", "client", "rule", "method", "resource", "outcome"), "x"),
    "chat": None,
    "status": 200,
    "seconds": 0.0,
    "wall": 0.0,
}


@pytest.mark.parametrize("room", range(1, 12))
def test_a_disk_that_was_full_for_a_while_has_whole_lines_only(room: int) -> None:
    """A limit on the size of files ends a write as a full disk does: in the middle of a line."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    with tempfile.TemporaryFile("w+") as stream:
        lines = JsonLines(stream)
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (room, before[1]))
            for text in ("one", "two", "three"):
                lines.msg(text)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
            signal.signal(signal.SIGXFSZ, ignored)
        lines.msg("four")
        stream.seek(0)
        written = stream.read()
    assert set(written.splitlines()) <= {"one", "two", "three", "four"}
    assert len(written.splitlines()) == 4 - lines.lost
    assert written.endswith("four\n")


def test_without_a_stream_all_lines_are_lost() -> None:
    log = logger("info", None)
    log.info("lost")
    RequestLines(log).say(**SAID)
    assert lost_lines(log) == 2


def test_a_stream_in_memory_that_is_closed_loses_lines() -> None:
    stream = io.StringIO()
    log = logger("info", stream)
    log.info("written")
    assert lost_lines(log) == 0
    stream.close()
    log.info("lost")
    assert lost_lines(log) == 1


class Gone(io.StringIO):
    """A terminal that was closed."""

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        raise OSError(errno.EIO, text)


def test_a_line_for_eyes_is_lost_like_any_other() -> None:
    log = logger("info", Gone())
    log.info("lost")
    RequestLines(log).say(**SAID)
    assert lost_lines(log) == 2


def test_on_a_real_terminal_lines_are_written_at_once() -> None:
    ours, theirs = os.openpty()
    with os.fdopen(theirs, "w") as stream:
        logger("info", stream).info("said", name="G\u00fcnther")
        told = os.read(ours, 4_096).decode()
    assert ("said" in told, "G\u00fcnther" in told, told.endswith("\r\n")) == (True, True, True)
    os.close(ours)


def test_what_cannot_be_spelled_is_written_all_the_same() -> None:
    with tempfile.TemporaryFile("w+", encoding="ascii") as stream:
        Lines(stream).msg("G\u00fcnther \ud800")
        stream.seek(0)
        assert stream.read() == "G\\xfcnther \\ud800\n"


def test_a_file_gets_the_lines_of_the_logger(tmp_path: Path) -> None:
    with (tmp_path / "log").open("w") as stream:
        log = logger("info", stream)
        log.info("first")
        RequestLines(log).say(**SAID)
    lines = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert [line["event"] for line in lines] == ["first", "request"]
