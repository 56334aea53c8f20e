"""What the demo shows."""

from __future__ import annotations

import dataclasses
import io

from rich.console import Console

from gateway.demo.figures import Figures
from gateway.demo.replicas import LeftOut, Together
from gateway.demo.screen import NOTHING, curl_lines, explanation, replicas_told, say, showing

FIGURES = Figures(
    client_requests=3010,
    upstream_info_requests=410,
    chats=40,
    seconds=10.0,
    latency_p99_ms=2.5,
    age_p99_ms=990.1,
    errors=0,
    clients=300,
    hits=2501,
    stale=3,
    collapsed=77,
    misses=51,
    writes=11,
    upstream_requests=421,
    upstream_info_requests_per_chat_and_second=1.03,
    share_saved=0.863,
    latency_p50_ms=0.7,
    age_p50_ms=501.2,
    responses=3050,
    response_bytes=4_600_000,
    app_key_seen=0,
    app_key_seen_in_logs=0,
    links=12_000,
    foreign_links=0,
    error_kinds={},
)


def shown(figures: Figures, *, terminal: bool) -> str:
    console = Console(file=io.StringIO(), force_terminal=terminal, width=60)
    with showing(console) as show:
        show(figures)
    text = console.file
    assert isinstance(text, io.StringIO)
    return text.getvalue()


def test_on_a_terminal_there_is_a_table() -> None:
    text = shown(FIGURES, terminal=True)
    for value in ("3,010", "2,501", "77", "51", "3", "421", "1.03", "86.3%", "0.7 / 2.5 ms", "501 / 990 ms"):
        assert value in text
    assert "300 clients poll 40 chats" in text


def test_elsewhere_there_is_a_line() -> None:
    text = shown(FIGURES, terminal=False)
    assert text.count("\n") == 1
    assert "3010 requests: 2501 hits, 77 collapsed, 51 misses, 3 stale, 11 writes; upstream 421" in text


def test_what_was_not_measured_is_no_number() -> None:
    nothing = dataclasses.replace(
        FIGURES, latency_p50_ms=None, latency_p99_ms=None, age_p50_ms=None, age_p99_ms=None
    )
    table = shown(nothing, terminal=True)
    assert f"{NOTHING} / {NOTHING} ms" in table
    assert "0.0" not in table.replace("10.0 s", "")
    assert f"p99 {NOTHING} ms, age {NOTHING} ms; 0 errors" in shown(nothing, terminal=False)
    assert f"answered within {NOTHING} ms" in explanation(nothing)


def test_the_summary_explains_the_figures() -> None:
    text = explanation(FIGURES)
    assert "410 times, 1.03 a chat and second" in text
    assert "appKey was seen 0 times in 3,050 answers" in text
    assert "Of 12,000 links in them, 12,000 named the gateway" in text
    assert text.endswith("Errors: none.")


def test_the_summary_hides_nothing() -> None:
    bad = dataclasses.replace(
        FIGURES,
        errors=3,
        app_key_seen=1,
        foreign_links=2,
        error_kinds={"appKey in an answer": 1, "link past the gateway": 2},
    )
    text = explanation(bad)
    assert "appKey was seen 1 times" in text
    assert "12,000 links in them, 11,998 named" in text
    assert text.endswith("Errors: 1 x appKey in an answer, 2 x link past the gateway.")


def test_what_replicas_showed() -> None:
    text = replicas_told(Together(40, 4, 3.0, 120, 16, 1.33, 5, 4, 48, 1, {"write that was not read": 1}))
    for words in ("40 clients polled 4 chats", "16 times, 1.33 a chat", "4 of 5 writes", "48 polls went on"):
        assert words in text
    assert text.endswith("Errors: 1 x write that was not read.")


def test_what_was_left_out_is_told_in_a_line() -> None:
    text = replicas_told(LeftOut("there is no server"))
    assert text == "Two replicas that share through Redis were left out: there is no server."


def test_lines_to_paste_are_not_wrapped() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=40)
    lines = curl_lines("http://127.0.0.1:1", "http://127.0.0.1:2", "http://127.0.0.1:1/chat/H1", "t" * 500)
    say(console, lines)
    assert isinstance(console.file, io.StringIO)
    assert console.file.getvalue() == lines + "\n"
