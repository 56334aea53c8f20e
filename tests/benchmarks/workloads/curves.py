"""Cost curves: what a hit takes as chats, tokens and clients grow tenfold three times.

The chats have ended, so that their infos stay: look-ups are measured, not fetches.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tests.benchmarks import wrk
from tests.benchmarks.figures import Goal, Result, rounded
from tests.benchmarks.ground import Ground, Scale, asking, chat_id, client
from tests.benchmarks.processes import Server
from tests.benchmarks.workloads.hits import CONNECTIONS, Measured, failures, row, saturate

CACHE_BYTES = 2**30
#: How much more a hit may take after three times ten.
MAX_GROWTH = 1.25
CLIENTS = 1_000
AMONG = 100
#: Rounds before the first measurement: not all that is asked for need be a hit ever.
MAX_WARM_UPS = 20
Curve = Mapping[str, Sequence[Measured]]


def run(ground: Ground, scale: Scale) -> Result:
    """One thing grows at a time; clients are in the policies whether or not they ask."""
    ground.upstream.tell(state="ended")
    first = 1 if scale.quick else 10
    counts = [first * 10**power for power in range(4)]
    # Room for all, or the curve would show what happens without.
    room = {"max_bytes": CACHE_BYTES}
    with ground.gateway(cache=room) as server:
        chats = curve(ground, scale, server, {_named(n, "chats"): _chats(ground, n) for n in counts})
        tokens = curve(ground, scale, server, {_named(n, "tokens"): _tokens(ground, n) for n in counts})
        few = curve(ground, scale, server, {"few": _chats(ground, AMONG)})
    more = {_subject(index): client(_subject(index)) for index in range(CLIENTS)}
    with ground.gateway("gateway with many clients", more, cache=room) as server:
        steps = {_named(n, "clients"): _clients(ground, n) for n in (1, 10, 100, CLIENTS)}
        clients = curve(ground, scale, server, steps)
        name = f"one client's {AMONG} chats among {CLIENTS:,} clients"
        among = curve(ground, scale, server, {name: _chats(ground, AMONG)})
    grown = {"chats": chats, "tokens": tokens, "clients": clients}
    goals = [
        Goal(f"{kind}: processor time, last ÷ first", "≤", MAX_GROWTH, growth(own))
        for kind, own in grown.items()
    ]
    goals.append(Goal(f"{name} ÷ among few", "≤", MAX_GROWTH, growth({**few, **among})))
    everything = {**chats, **tokens, **clients, **among}
    rows = {label: row(own) for label, own in everything.items()}
    return Result("Cost curves: a hit as things grow", rows, goals, failures(everything))


def curve(ground: Ground, scale: Scale, server: Server, steps: Mapping[str, list[bytes]]) -> Curve:
    """The measurements of each step."""
    return {name: _measure(ground, scale, server, questions) for name, questions in steps.items()}


def growth(measured: Curve) -> float | None:
    """The processor time of the last step for each of the first, in the best round of each."""
    least = [min(one.cpu_us for one in own) for own in measured.values()]
    return rounded(least[-1] / least[0])


def _measure(ground: Ground, scale: Scale, server: Server, questions: list[bytes]) -> list[Measured]:
    file = wrk.write_requests(ground.folder / "requests", questions)
    # Once round: a fetch or a verification is no hit.
    asked = 0
    for _ in range(MAX_WARM_UPS):
        asked += wrk.saturate(server.port, 1, CONNECTIONS, requests=file).requests
        if asked >= len(questions):
            break
    return [saturate(server, scale, requests=file) for _ in range(scale.rounds)]


def _chats(ground: Ground, count: int) -> list[bytes]:
    return [asking(ground.token(), chat_id(chat)) for chat in range(count)]


def _tokens(ground: Ground, count: int) -> list[bytes]:
    return [asking(ground.token(index)) for index in range(count)]


def _clients(ground: Ground, count: int) -> list[bytes]:
    return [asking(ground.token(subject=_subject(index))) for index in range(count)]


def _subject(index: int) -> str:
    return f"client-{index}"


def _named(count: int, kind: str) -> str:
    return f"{count:,} {kind if count > 1 else kind.removesuffix('s')}"
