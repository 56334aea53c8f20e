"""What workloads with closed-loop load share: a warm-up, a measurement, and the processor time it took."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from tests.benchmarks import openloop, wrk
from tests.benchmarks.figures import Figure, Goal, ratio, rounded
from tests.benchmarks.ground import CHAT, JSON, Scale, asking, info_path
from tests.benchmarks.processes import Server

CONNECTIONS = 100
#: Short, since it is not what is measured: once a second a hit becomes a fetch.
UPSTREAM_MS = 5


@dataclass(frozen=True, slots=True)
class Measured:
    """A run of wrk, and the server's processor time for each request.

    On a quiet machine that is the core divided by the rate; on one with other work it still tells the truth.
    """

    run: wrk.Closed
    cpu_us: float


def saturate(
    server: Server,
    scale: Scale,
    *,
    token: str = "",
    requests: Path | None = None,
    connections: int = CONNECTIONS,
) -> Measured:
    """Warm up and measure: polls of the one chat with a token, or the requests of a file."""
    fields = {"Authorization": f"Bearer {token}", "Accept": JSON}

    def ask(seconds: float) -> wrk.Closed:
        return wrk.saturate(
            server.port, seconds, connections, path=info_path(), fields=fields, requests=requests
        )

    ask(scale.warm_s)
    before = server.cpu_s()
    run = ask(scale.seconds)
    return Measured(run, (server.cpu_s() - before) / max(1, run.requests) * 1e6)


def rates(measured: Sequence[Measured]) -> list[float]:
    """Requests a second of each round."""
    return [one.run.per_second for one in measured]


def row(measured: Sequence[Measured]) -> dict[str, Figure]:
    """The figures of one server, over all rounds."""
    own = rates(measured)
    return {
        "requests/s": round(median(own)),
        "least": round(min(own)),
        "most": round(max(own)),
        "CPU µs/request": rounded(median(one.cpu_us for one in measured)),
        "p99 ms": rounded(median(one.run.p99_ms for one in measured)),
    }


def against(ours: Sequence[Measured], theirs: Sequence[Measured] | None) -> float | None:
    """How many requests the one answers for each of the other; None where the other did not run."""
    return rounded(ratio(rates(ours), rates(theirs))) if theirs else None


def all_answered(ours: Sequence[Measured]) -> Goal:
    """That nothing failed: refusals are quick, and would pass for speed."""
    return Goal("requests that failed", "≤", 0, sum(one.run.failed for one in ours))


def failures(measured: Mapping[str, Sequence[Measured]]) -> list[str]:
    """A line for each server that did not answer all as it should."""
    failed = {name: sum(one.run.failed for one in ran) for name, ran in measured.items()}
    return [f"{name}: {count:,} requests failed" for name, count in failed.items() if count]


def body_of(server: Server, token: str, chat: str = CHAT) -> bytes:
    """The body of an info as this server gives it. Raises ValueError where it gives none."""
    [raw] = openloop.raw(server.port, [asking(token, chat)])
    head, _, body = raw.partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 200"):
        raise ValueError(f"{server.name}: expected 200, got {raw[:200]!r}")
    return body
