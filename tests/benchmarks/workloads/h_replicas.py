"""(h) One of several replicas: hits with a Redis beside them, and what exact limits cost."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence

from tests.benchmarks.figures import Goal, Result
from tests.benchmarks.ground import EXACT, Ground, Scale
from tests.benchmarks.processes import Server, in_turn
from tests.benchmarks.workloads.hits import (
    UPSTREAM_MS,
    Measured,
    against,
    all_answered,
    failures,
    row,
    saturate,
)
from tests.shared.servers import redis_server

ALONE, SHARING, COUNTED = "gateway", "gateway with Redis", "gateway with Redis, exact limits"
#: Nobody would share state who paid more for it.
BOUND = 0.95


def run(ground: Ground, scale: Scale) -> Result:
    """Interleaved rounds. Redis has the load's core."""
    ground.upstream.tell(latency_ms=UPSTREAM_MS)
    with contextlib.ExitStack() as stack:
        redis = stack.enter_context(redis_server(ground.folder / "redis"))
        host, port = redis.address
        alone = stack.enter_context(ground.gateway(ALONE))
        sharing = stack.enter_context(ground.gateway(SHARING, redis_url=f"redis://{host}:{port}/0"))
        servers: dict[str, tuple[Server, str]] = {
            ALONE: (alone, ground.token()),
            SHARING: (sharing, ground.token()),
            COUNTED: (sharing, ground.token(subject=EXACT)),
        }
        measured: dict[str, list[Measured]] = {name: [] for name in servers}
        for _ in range(scale.rounds):
            for name, (server, token) in servers.items():
                with in_turn(server, [alone, sharing]):
                    measured[name].append(saturate(server, scale, token=token))
    return result(measured)


def result(measured: Mapping[str, Sequence[Measured]]) -> Result:
    """The table, and what it has to show."""
    alone = measured[ALONE]
    rows = {name: {**row(own), "÷ without Redis": against(own, alone)} for name, own in measured.items()}
    goals = [
        all_answered(measured[SHARING]),
        Goal("with Redis ÷ without", "≥", BOUND, against(measured[SHARING], alone)),
    ]
    return Result("(h) One of several replicas: hits on one core", rows, goals, failures(measured))
