"""(f) Hits while thousands of idle connections stand open."""

from __future__ import annotations

import contextlib
import resource
import socket
from collections.abc import Iterator

from tests.benchmarks.figures import Goal, Result
from tests.benchmarks.ground import Ground, Scale
from tests.benchmarks.processes import HOST
from tests.benchmarks.workloads.hits import (
    UPSTREAM_MS,
    Measured,
    against,
    all_answered,
    failures,
    row,
    saturate,
)

IDLE = 5_000
#: An address has few tens of thousands of ports, and others need some: these are all this machine's.
_FROM = tuple(f"127.0.0.{last}" for last in range(2, 12))


def run(ground: Ground, scale: Scale) -> Result:
    """Without and with them, in turn."""
    may_be_open, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    count = min(IDLE, may_be_open - 1_000)
    ground.upstream.tell(latency_ms=UPSTREAM_MS)
    measured: dict[int, list[Measured]] = {0: [], count: []}
    with ground.gateway() as server:
        for _ in range(scale.rounds):
            for standing, own in measured.items():
                with idle(server.port, standing):
                    own.append(saturate(server, scale, token=ground.token()))
        memory = server.rss_bytes()
    named = {f"{standing:,} idle connections": own for standing, own in measured.items()}
    notes = [f"resident in the end: {memory / 2**20:.0f} MiB", *failures(named)]
    if count < IDLE:
        notes.append(f"{count:,} connections only: no more than {may_be_open:,} files may be open")
    goals = [
        all_answered(measured[count]),
        Goal("with idle connections ÷ without", "≥", 0.9, against(measured[count], measured[0])),
    ]
    return Result("(f) Hits beside idle connections", {n: row(own) for n, own in named.items()}, goals, notes)


@contextlib.contextmanager
def idle(port: int, count: int) -> Iterator[None]:
    """Connections that say nothing, while the block runs."""
    with contextlib.ExitStack() as stack:
        for index in range(count):
            source = (_FROM[index % len(_FROM)], 0)
            stack.enter_context(socket.create_connection((HOST, port), timeout=10, source_address=source))
        yield
