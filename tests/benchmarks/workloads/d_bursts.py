"""(d) A hundred clients ask for one cold chat at once, and the upstream answers in every way there is."""

from __future__ import annotations

from dataclasses import dataclass

from tests.benchmarks import openloop
from tests.benchmarks.figures import Figure, Goal, Result, rounded
from tests.benchmarks.ground import Ground, Scale, asking, chat_id
from tests.benchmarks.peer import CACHES
from tests.benchmarks.processes import DidNotStart, Server
from tests.benchmarks.workloads.a_hot_chat import GATEWAY

CLIENTS = 100
UPSTREAM_MS = 120
#: What all servers are told to wait for an answer at most.
DEADLINE_S = 5.0
#: A 429 comes last, since it may pause the whole account.
ENDINGS = ("200", "no-store", "404", "500", "hang", "429")
MAX_BEHIND_MS = 20.0


@dataclass(frozen=True, slots=True)
class Burst:
    """What came of one: `behind_ms` is how long after the upstream's first answer the last client had his.

    Where the upstream hangs, it counts from the deadline.
    """

    upstream: int
    behind_ms: float | None
    unanswered: int

    def __str__(self) -> str:
        behind = "nobody" if self.behind_ms is None else f"{self.behind_ms:,.0f} ms"
        left = f", {self.unanswered} never" if self.unanswered else ""
        return f"{self.upstream}; {behind}{left}"


def rush(ground: Ground, server: Server, token: str | None, ending: str, chat: str) -> Burst:
    """All ask in one breath; `token` is for peers that take no other."""
    questions = [asking(token or ground.token(index), chat) for index in range(CLIENTS)]
    ground.upstream.tell(latency_ms=UPSTREAM_MS, ending=ending)
    outcome = openloop.run(
        server.port, openloop.Plan([0.0] * CLIENTS, questions, CLIENTS, patience_s=2.5 * DEADLINE_S)
    )
    answered = ground.upstream.answered_at() or outcome.started + DEADLINE_S
    last = max((one.received for one in outcome.answers), default=None)
    behind_ms = None if last is None else (outcome.started + last - answered) * 1000
    return Burst(ground.upstream.count(), behind_ms, outcome.unanswered)


def bursts(ground: Ground, server: Server, token: str | None) -> dict[str, Burst]:
    """One burst for each ending, each for a chat that nobody has asked for."""
    return {
        ending: rush(ground, server, token, ending, chat_id(number)) for number, ending in enumerate(ENDINGS)
    }


def run(ground: Ground, scale: Scale) -> Result:
    """Once each: it is the same every time, but for the milliseconds; of those the worst round counts."""
    rows: dict[str, dict[str, Figure]] = {}
    ours = []
    for _ in range(1 if scale.quick else scale.rounds):
        with ground.gateway(GATEWAY) as server:
            ours.append(bursts(ground, server, None))
    rows[GATEWAY] = {ending: str(worst([one[ending] for one in ours])) for ending in ENDINGS}
    for peer in CACHES:
        token = ground.token_for(peer) if peer.token == "HS256" else None
        try:
            with ground.peer(peer) as server:
                rows[peer.name] = {name: str(one) for name, one in bursts(ground, server, token).items()}
        except DidNotStart as error:
            ground.not_run[peer.name] = str(error)
    all_of_ours = [burst for one in ours for burst in one.values()]
    goals = [
        Goal("upstream requests, whatever the ending", "≤", 1, max(one.upstream for one in all_of_ours)),
        Goal("clients without an answer", "≤", 0, sum(one.unanswered for one in all_of_ours)),
        Goal(
            "slowest client behind the upstream's answer, in ms",
            "≤",
            MAX_BEHIND_MS,
            rounded(max(one.behind_ms or 0.0 for one in all_of_ours)),
        ),
    ]
    notes = ["In each cell: requests upstream; how long after its first answer the last client had his."]
    return Result(f"(d) Cold bursts of {CLIENTS}", rows, goals, notes)


def worst(rounds: list[Burst]) -> Burst:
    """The burst with the most requests upstream, and of those the slowest."""
    return max(rounds, key=lambda one: (one.unanswered, one.upstream, one.behind_ms or 0.0))
