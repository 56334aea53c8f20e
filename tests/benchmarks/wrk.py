"""Closed-loop load by wrk: as many requests as a server can take."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.benchmarks.processes import HOST

#: Has wrk go round in a file of requests instead of repeating one.
SCRIPT = Path(__file__).with_name("requests.lua")
#: Between two requests of the file; no request has it.
END = b"\n\0\n"
_MS = {"us": 0.001, "ms": 1.0, "s": 1000.0, "m": 60_000.0}
_PERCENTILE = re.compile(r"^\s+(\d+)%\s+([\d.]+)(us|ms|s|m) *$", re.MULTILINE)
_RATE = re.compile(r"^Requests/sec:\s+([\d.]+)$", re.MULTILINE)
_REQUESTS = re.compile(r"^\s+(\d+) requests in ", re.MULTILINE)
_NOT_2XX = re.compile(r"Non-2xx or 3xx responses: (\d+)")
_SOCKET = re.compile(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)")


class Unreadable(ValueError):
    """wrk printed something else than its figures; the message is what it printed."""


@dataclass(frozen=True, slots=True)
class Closed:
    """What came of a run. `failed` are answers beyond 3xx, and errors of sockets."""

    requests: int
    per_second: float
    p50_ms: float
    p99_ms: float
    failed: int


def read(printed: str) -> Closed:
    """The figures in what `wrk --latency` prints. Raises Unreadable."""
    rate, requests = _RATE.search(printed), _REQUESTS.search(printed)
    at = {percent: float(value) * _MS[unit] for percent, value, unit in _PERCENTILE.findall(printed)}
    if rate is None or requests is None or not {"50", "99"} <= at.keys():
        raise Unreadable(f"wrk: expected its figures, got {printed.strip()!r}")
    refused, broken = _NOT_2XX.search(printed), _SOCKET.search(printed)
    failed = int(refused[1]) if refused else 0
    failed += sum(map(int, broken.groups())) if broken else 0
    return Closed(int(requests[1]), float(rate[1]), at["50"], at["99"], failed)


def saturate(
    port: int,
    seconds: float,
    connections: int,
    *,
    path: str = "/",
    fields: Mapping[str, str] | None = None,
    requests: Path | None = None,
) -> Closed:
    """Ask as fast as answers come: one request over and over, or those in a file made by `write_requests`.

    Raises Unreadable.
    """
    command = ["wrk", "--latency", "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s"]
    if requests is not None:
        command += ["-s", str(SCRIPT)]
    else:
        command += [word for name, value in (fields or {}).items() for word in ("-H", f"{name}: {value}")]
    command.append(f"http://{HOST}:{port}{path}")
    arguments = ["--", str(requests)] if requests is not None else []
    ran = subprocess.run([*command, *arguments], capture_output=True, text=True, check=False)  # noqa: S603
    return read(ran.stdout + ran.stderr)


def write_requests(path: Path, requests: Sequence[bytes]) -> Path:
    """Write the bytes of requests for `saturate`, in the order in which they will be sent."""
    path.write_bytes(END.join(requests))
    return path
