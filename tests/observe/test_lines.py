"""Lines of requests: what the logger would write, whole, and written down at once."""

from __future__ import annotations

import datetime as dt
import io
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.messages import Chat
from gateway.core.replies import How
from gateway.observe.logs import RequestLines, hashed, logger
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
        desk.observer.hits("bff", "bff/allow/chat:read", "info").hit(CHAT, "x", 200, 0, 0.1, desk.wall)
        desk.observer.crashed(ValueError())
        assert len(desk.log.out) == 3 * told
        assert all(line.startswith("{") and line.endswith("}\n") for line in desk.log.out)


@pytest.mark.parametrize("level", ["info", "warning"])
def test_on_a_terminal_lines_are_for_eyes(level: str) -> None:
    desk = Desk(level=level, log=Watched(is_terminal=True))
    assert isinstance(desk.log, Watched)
    desk.tell(delivered(How.HIT))
    desk.observer.hits("bff", "bff/allow/chat:read", "info").hit(CHAT, "x", 304, 0, 0.1, desk.wall)
    lines = "".join(desk.log.out).splitlines()
    assert len(lines) == (2 if level == "info" else 0)
    for line, status in zip(lines, (200, 304), strict=False):
        assert "{" not in line
        for said in ("2026-11-22T10:27:03", "info", "request", hashed(CHAT), str(status)):
            assert said in line
