"""(b) One chat, a thousand tokens: what it costs that callers are many.

Both sides of the ratio go through wrk's script, so that only the tokens differ.
"""

from __future__ import annotations

from tests.benchmarks import wrk
from tests.benchmarks.figures import Goal, Result
from tests.benchmarks.ground import Ground, Scale, asking
from tests.benchmarks.workloads.hits import (
    UPSTREAM_MS,
    Measured,
    against,
    all_answered,
    failures,
    row,
    saturate,
)

TOKENS = 1_000


def run(ground: Ground, scale: Scale) -> Result:
    """One token and a thousand, in turn."""
    ground.upstream.tell(latency_ms=UPSTREAM_MS)
    measured: dict[int, list[Measured]] = {1: [], TOKENS: []}
    with ground.gateway() as server:
        for _ in range(scale.rounds):
            for count, own in measured.items():
                questions = [asking(ground.token(index)) for index in range(count)]
                file = wrk.write_requests(ground.folder / "requests", questions)
                # Each token is verified once, in the warm-up: that is no hit.
                own.append(saturate(server, scale, requests=file))
    named = {f"{count:,} token{'s'[: count > 1]}": own for count, own in measured.items()}
    goals = [
        all_answered(measured[TOKENS]),
        Goal("1,000 tokens ÷ 1", "≥", 0.8, against(measured[TOKENS], measured[1])),
    ]
    rows = {name: row(own) for name, own in named.items()}
    return Result("(b) One chat, 1,000 tokens: hits on one core", rows, goals, failures(named))
