"""(c) 500 chats, 20 tokens, each pair polled once a second, open loop: upstream requests, latency, age.

Then the number of chats is raised until the p99 latency of hits no longer stays below 5 ms.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from tests.benchmarks import openloop
from tests.benchmarks.figures import Figure, Goal, Result, percentile, rounded
from tests.benchmarks.ground import Ground, Scale, asking, chat_id
from tests.benchmarks.peer import CACHES
from tests.benchmarks.processes import DidNotStart, Server
from tests.benchmarks.workloads.a_hot_chat import GATEWAY

CHATS, TOKENS = 500, 20
UPSTREAM_MS = 50
CONNECTIONS = 1_000
#: Chats begin one after the other within so many seconds, or all their answers would grow old at once; a
#: second later all are polled evenly.
RAMP_S = 5
LEFT_OUT_S = RAMP_S + 1
MAX_WARM_S = 60.0
MAX_P99_MS = 5.0
#: Beyond this lateness of its own requests the load says nothing about a server.
MAX_LATE_MS = 1.0


@dataclass(frozen=True, slots=True)
class Triple:
    """What one server did for one load. `late_ms` is the load's own part in the latency."""

    asked_per_second: float
    upstream_per_chat: float
    hits: float
    hit_p50_ms: float
    hit_p99_ms: float
    all_p99_ms: float
    age_p99_s: float
    failed: int
    late_ms: float

    @property
    def holds(self) -> bool:
        """Whether hits are answered in time, and nothing fails."""
        return self.hit_p99_ms < MAX_P99_MS and not self.failed


def plan(chats: list[list[bytes]], seconds: int, chance: random.Random) -> openloop.Plan:
    """The questions of each chat once a second, at a moment of the second that is each one's own."""
    asked = [
        (second + chance_of, question)
        for number, questions in enumerate(chats)
        for question in questions
        for chance_of in (RAMP_S * number / len(chats) + chance.random(),)
        for second in range(seconds)
        if second + chance_of < seconds
    ]
    asked.sort()
    return openloop.Plan([due for due, _ in asked], [question for _, question in asked], CONNECTIONS)


def poll(ground: Ground, server: Server, token: str | None, chats: int, seconds: int) -> Triple:
    """Measure one load; `token` is for peers that take no other."""
    ground.upstream.tell(latency_ms=UPSTREAM_MS)
    tokens = [token or ground.token(index) for index in range(TOKENS)]
    questions = [[asking(own, chat_id(chat)) for own in tokens] for chat in range(chats)]
    # Everybody once: who comes for the first time has to be verified and judged.
    first = [question for own in questions for question in own]
    openloop.run(server.port, openloop.Plan([0.0] * len(first), first, 32, patience_s=MAX_WARM_S))
    outcome = openloop.run(server.port, plan(questions, LEFT_OUT_S + seconds, random.Random(1)))
    since = outcome.started + LEFT_OUT_S
    upstream = ground.upstream.count(since, since + seconds)
    return triple(outcome, upstream / chats / seconds, len(first))


def triple(outcome: openloop.Outcome, upstream_per_chat: float, asked_per_second: float) -> Triple:
    """The figures of a run."""
    answers = outcome.after(LEFT_OUT_S)
    hits = [one.latency_s * 1000 for one in answers if one.hit]
    return Triple(
        asked_per_second,
        upstream_per_chat,
        len(hits) / max(1, len(answers)),
        percentile(hits, 0.5),
        percentile(hits, 0.99),
        percentile([one.latency_s * 1000 for one in answers], 0.99),
        percentile([one.age_s for one in answers if one.age_s is not None], 0.99),
        outcome.unanswered + sum(one.status != 200 for one in answers),
        openloop.late_s(answers) * 1000,
    )


def run(ground: Ground, scale: Scale) -> Result:
    """Each server by itself, one after the other: what is measured is no rate."""
    seconds = 3 if scale.quick else 20
    rows: dict[str, dict[str, Figure]] = {}
    with ground.gateway(GATEWAY) as server:
        ours = poll(ground, server, None, CHATS, seconds)
        rows[GATEWAY] = {**row(ours), **largest(ground, server, None, scale)}
    for peer in CACHES:
        token = ground.token_for(peer) if peer.token == "HS256" else None
        try:
            with ground.peer(peer) as server:
                theirs = poll(ground, server, token, CHATS, seconds)
                rows[peer.name] = {**row(theirs), **largest(ground, server, token, scale)}
        except DidNotStart as error:
            ground.not_run[peer.name] = str(error)
    goals = [
        Goal("requests without a good answer", "≤", 0, ours.failed),
        Goal("upstream requests per chat and second", "≤", 1.2, rounded(ours.upstream_per_chat)),
        Goal("latency of hits, p99 in ms", "≤", MAX_P99_MS, rounded(ours.hit_p99_ms)),
        Goal("age, p99 in s", "≤", 1.0, rounded(ours.age_p99_s)),
    ]
    title = f"(c) {CHATS} chats, {TOKENS} tokens, each pair once a second; TTL 1 s, upstream {UPSTREAM_MS} ms"
    return Result(title, rows, goals)


def row(one: Triple) -> dict[str, Figure]:
    """One server's line."""
    return {
        "upstream/chat/s": rounded(one.upstream_per_chat),
        "hits": f"{one.hits:.1%}",
        "hit p50 ms": rounded(one.hit_p50_ms),
        "hit p99 ms": rounded(one.hit_p99_ms),
        "all p99 ms": rounded(one.all_p99_ms),
        "age p99 s": rounded(one.age_p99_s),
        "failed": one.failed,
        "load late p99 ms": rounded(one.late_ms),
    }


def largest(ground: Ground, server: Server, token: str | None, scale: Scale) -> dict[str, Figure]:
    """The largest load that is held: doubled until it is not, then between the two, to a tenth.

    A mark says that the load itself came to its end first.
    """
    seconds, tolerance = (1, 1.0) if scale.quick else (5, 0.1)
    held, broken, late = 0, 0, False
    chats = CHATS // 2
    while not broken or broken - held > max(25, held * tolerance):
        one = poll(ground, server, token, chats, seconds)
        if one.holds:
            held = chats
        else:
            broken, late = chats, one.late_ms > MAX_LATE_MS
        chats = (held + broken) // 2 if broken else held * 2
    return {"holds requests/s": f"{'≥ ' if late else ''}{held * TOKENS:,}"}
