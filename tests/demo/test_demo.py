"""The whole demo, as its users run it."""

from __future__ import annotations

import contextlib
import http.client
import itertools
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from string import Template
from urllib.parse import urlsplit

import pytest

SMALL = ("--clients", "40", "--chats", "5")
FIRST_NAMES = [
    "client_requests",
    "upstream_info_requests",
    "chats",
    "seconds",
    "latency_p99_ms",
    "age_p99_ms",
    "errors",
]


@contextlib.contextmanager
def demo(temporary: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    # A setting for a gateway of one's own, and a folder that shows what is left behind.
    environ = {**os.environ, "TMPDIR": str(temporary), "CHAT_GATEWAY_LISTEN": "192.0.2.1:1"}
    command = [sys.executable, "-m", "gateway", "demo", *arguments]
    with subprocess.Popen(  # noqa: S603 - our own command
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environ
    ) as process:
        try:
            yield process
        finally:
            process.terminate()


def lines_until(process: subprocess.Popen[str], word: str) -> list[str]:
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line.rstrip("\n"))
        if word in line:
            return lines
    pytest.fail(f"{word!r} was never printed, but {lines}")


def curls(lines: list[str]) -> list[str]:
    return [line for line in lines if line.startswith("curl ")]


def listens(curl: str) -> bool:
    address = urlsplit(next(word for word in shlex.split(curl) if word.startswith("http://")))
    return accepts(str(address.hostname), int(address.port or 0))


def accepts(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), 2).close()
    except OSError:
        return False
    return True


def test_the_summary_is_one_json_object(tmp_path: Path) -> None:
    with demo(tmp_path, *SMALL, "--seconds", "3", "--once", "--json") as process:
        out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "")
    assert out.count("\n") == 1
    figures = json.loads(out)
    assert list(figures)[: len(FIRST_NAMES)] == FIRST_NAMES
    assert (figures["chats"], figures["errors"]) == (5, 0)
    # Each client polls once a second; one held up by a busy machine leaves a poll out.
    assert 40 <= figures["client_requests"] - figures["writes"] <= 120
    assert figures["writes"] >= 1
    assert 5 <= figures["upstream_info_requests"] < figures["client_requests"] / 2
    assert figures["upstream_requests"] == figures["upstream_info_requests"] + figures["writes"]
    assert figures["hits"] > 0
    assert figures["age_p99_ms"] > 0
    assert figures["links"] > figures["client_requests"]
    assert (figures["app_key_seen"], figures["app_key_seen_in_logs"], figures["foreign_links"]) == (0, 0, 0)
    replicas = figures["replicas"]
    assert (replicas["errors"], replicas["error_kinds"]) == (0, {})
    # Of two that share nothing each asks for each chat once a second, and once more to begin with.
    assert 4 <= replicas["upstream_info_requests"] < 2 * 4 * replicas["seconds"]
    assert (replicas["writes"], replicas["writes_read_at_once"]) == (4, 4)
    assert replicas["polls_without_redis"] > 0
    assert list(tmp_path.iterdir()) == []


def test_the_lines_to_paste_work_until_ctrl_c(tmp_path: Path) -> None:
    with demo(tmp_path, *SMALL, "--seconds", "2") as process:
        lines = lines_until(process, "Ctrl-C ends them")
        variables = dict(shlex.split(line)[0].split("=", 1) for line in lines if re.match("[A-Z]+='", line))
        answers = [ask(shlex.split(Template(curl).substitute(variables))) for curl in curls(lines)]
        process.send_signal(signal.SIGINT)
        assert process.wait(15) == 0
    assert [status for status, _ in answers] == [200, 200, 201, 200, 404, 200, 200, 403, 200, 200, 200, 201]
    info, xml, _, stream, unknown, counts, view, denied, explained, usage, ready, revoked = (
        body for _, body in answers
    )
    assert "visitorName" in json.loads(info)["info"]
    assert "visitorName" not in json.loads(view)["info"]
    assert json.loads(denied)["type"].endswith(":field-denied")
    assert json.loads(explained)["rule"] == "partner/allow/chat:read"
    assert {row["client"] for row in json.loads(usage)} >= {"bff", "internal", "partner"}
    assert json.loads(ready)["reload"]["ok"] is True
    assert json.loads(revoked)["revoked"] == {"client": "partner"}
    assert json.loads(info)["info"]["link"]
    assert stream.startswith("event: info\n")
    assert "Natalie" in stream
    assert xml.startswith("<?xml")
    assert json.loads(unknown)["type"].endswith(":unknown-resource")
    assert json.loads(counts)["totals"]["visitor-name"] >= 1
    assert "unknown" not in json.loads(counts)["totals"]
    assert any("0 errors" in line for line in lines)
    assert any("The appKey was seen 0 times in" in line for line in lines)
    assert any("4 of 4 writes by one were in the next read from the other" in line for line in lines)
    assert not any(listens(curl) for curl in curls(lines))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_interrupted_while_clients_poll_it_leaves_nothing(tmp_path: Path, number: int) -> None:
    with demo(tmp_path, *SMALL, "--seconds", "60") as process:
        lines = lines_until(process, " requests: ")
        assert all(listens(curl) for curl in curls(lines))
        process.send_signal(number)
        assert process.wait(15) == 130
    assert not any(listens(curl) for curl in curls(lines))
    assert list(tmp_path.iterdir()) == []


def test_interrupted_among_replicas_it_leaves_nothing(tmp_path: Path) -> None:
    with demo(tmp_path, *SMALL, "--seconds", "2") as process:
        told = lines_until(process, "redis://")[-1]
        ports = [int(port) for port in re.findall(r"//127\.0\.0\.1:(\d+)", told)]
        assert [accepts("127.0.0.1", port) for port in ports] == [True] * 3
        process.send_signal(signal.SIGINT)
        assert process.wait(15) == 130
    assert [accepts("127.0.0.1", port) for port in ports] == [False] * 3
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells children of their parent's death")
def test_killed_it_leaves_no_process(tmp_path: Path) -> None:
    with demo(tmp_path, *SMALL, "--seconds", "60") as process:
        lines = lines_until(process, "_emulator/counts")
        process.kill()
        process.wait(15)
    # Nobody waits for orphans: their end is seen from outside only, and shortly after.
    deadline = time.monotonic() + 10
    while any(listens(curl) for curl in curls(lines)):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def ask(curl: list[str]) -> tuple[int, str]:
    """What curl would do with these arguments: status and body."""
    url = urlsplit(next(word for word in curl if word.startswith("http://")))
    options = list(itertools.pairwise(curl))
    headers = dict(value.split(": ") for flag, value in options if flag == "-H")
    body = dict(options).get("-d")
    method = dict(options).get("-X", "GET" if body is None else "POST")
    target = f"{url.path}?{url.query}" if url.query else url.path
    with contextlib.closing(http.client.HTTPConnection(url.netloc, timeout=5)) as connection:
        connection.request(method, target, body, headers)
        response = connection.getresponse()
        # With -N whatever comes is shown at once, and this one never ends.
        return response.status, (response.read1() if "-N" in curl else response.read()).decode()
