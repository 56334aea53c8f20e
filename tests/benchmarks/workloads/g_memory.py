"""(g) Memory and latency over many chats: by sockets, at eviction, the store alone, and over a long time."""

from __future__ import annotations

import json
import random
import subprocess
import sys

from tests.benchmarks import openloop, wrk
from tests.benchmarks.figures import Figure, Goal, Result, percentile, rounded
from tests.benchmarks.ground import Ground, Scale, asking, chat_id, info_path
from tests.benchmarks.processes import Server, own_environ
from tests.benchmarks.workloads.hits import CONNECTIONS, body_of

#: With these, the fewest requests are in each other's way.
FEW = 64
SAMPLES_PER_S = 200
CACHE_BYTES = 2**33
#: Small enough for a quick run to fill it several times over.
SMALL_CACHE_BYTES = 2**23
LONG_REQUESTS = 10_000_000
MAX_CHAT_BYTES, MAX_GRANT_BYTES = 4_096, 512


def run(ground: Ground, scale: Scale) -> Result:
    """Each part stands for itself."""
    rows: dict[str, dict[str, Figure]] = {}
    figures: dict[str, Figure] = {}
    for count in (1_000, 10_000) if scale.quick else (1_000, 10_000, 100_000):
        rows[f"{count:,} chats by sockets"] = figures = over_chats(ground, count)
    goals = [
        Goal("bytes a chat beyond one body", "≤", MAX_CHAT_BYTES, _number(figures["bytes/chat"])),
        Goal("bytes a grant", "≤", MAX_GRANT_BYTES, _number(figures["bytes/grant"])),
    ]
    evicting = at_eviction(ground, 3 if scale.quick else 20)
    rows |= evicting
    quiet, busy = (_number(row["hit p99 ms"]) for row in evicting.values())
    goals.append(Goal("p99 of hits, at eviction ÷ with room", "≤", 2.0, rounded(busy / quiet)))
    for count in (1_000, 100_000) if scale.quick else (1_000, 10_000, 100_000, 1_000_000):
        rows[f"{count:,} chats, store alone"] = alone(count)
    grown = None
    if scale.long:
        long = over_time(ground)
        rows |= long
        first, *_, last = (_number(row["resident MiB"]) for row in long.values())
        grown = rounded(last / first)
    goals.append(Goal("resident memory, after 10⁷ requests ÷ after 10⁶", "≤", 1.05, grown))
    notes = [
        "By sockets, all chats have ended, so that their infos stay.",
        "A chat's bytes are without one body; a grant is another token's leave to poll one chat.",
    ]
    return Result("(g) Memory and latency over many chats", rows, goals, notes)


def over_chats(ground: Ground, count: int) -> dict[str, Figure]:
    """Have so many chats kept, then asked for by another token, then polled at leisure."""
    ground.upstream.tell(state="ended")
    with ground.gateway(cache={"max_bytes": CACHE_BYTES}) as server:
        first, second = ground.token(0), ground.token(1)
        # What is made once, for whatever number of chats.
        body = body_of(server, first)
        body_of(server, second)
        empty = server.rss_bytes()
        _ask_all(server, first, count)
        kept = server.rss_bytes()
        found = _ask_all(server, second, count)
        granted = server.rss_bytes()
        latency_ms = _at_leisure(server, [asking(second, chat_id(chat)) for chat in range(count)], seconds=2)
    grant = (granted - kept) / count
    return {
        "found": f"{found / count:.1%}",
        "bytes/chat": round((kept - empty) / count - len(body) - grant),
        "bytes/grant": round(grant),
        "resident MiB": round(granted / 2**20),
        "hit p50 ms": rounded(percentile(latency_ms, 0.5)),
        "hit p99 ms": rounded(percentile(latency_ms, 0.99)),
    }


def at_eviction(ground: Ground, seconds: int) -> dict[str, dict[str, Figure]]:
    """Hits of one chat while as many others come for the first time: with room for them, and without."""
    ground.upstream.tell(state="ended")
    rows: dict[str, dict[str, Figure]] = {}
    for name, room in (("with room", CACHE_BYTES), ("at eviction", SMALL_CACHE_BYTES)):
        with ground.gateway(cache={"max_bytes": room}) as server:
            body_of(server, ground.token())
            # Enough to fill the small one before anything is measured.
            _ask_all(server, ground.token(), 5_000)
            hot = asking(ground.token())
            new = [
                asking(ground.token(), chat_id(10_000 + index)) for index in range(SAMPLES_PER_S * seconds)
            ]
            # A new chat after each hit.
            mixed = [question for one in new for question in (hot, one)]
            latency_ms = _at_leisure(server, mixed, seconds, per_second=2 * SAMPLES_PER_S)
            resident = server.rss_bytes()
        rows[f"hits beside new chats, {name}"] = {
            "resident MiB": round(resident / 2**20),
            "hit p50 ms": rounded(percentile(latency_ms, 0.5)),
            "hit p99 ms": rounded(percentile(latency_ms, 0.99)),
        }
    return rows


def alone(count: int) -> dict[str, Figure]:
    """The store in a process of its own; see `tests.benchmarks.store_alone`."""
    command = [sys.executable, "-m", "tests.benchmarks.store_alone", str(count)]
    ran = subprocess.run(command, check=True, capture_output=True, env=own_environ())  # noqa: S603 - our own
    said = json.loads(ran.stdout)
    return {
        "bytes/chat": round(said["bytes"] - said["body_bytes"]),
        "put µs": rounded(said["put_us"]),
        "get µs": rounded(said["get_us"]),
    }


def over_time(ground: Ground) -> dict[str, dict[str, Figure]]:
    """Resident memory after each million of hits of a living chat."""
    ground.upstream.tell()
    rows: dict[str, dict[str, Figure]] = {}
    fields = {"Authorization": f"Bearer {ground.token()}", "Accept": "application/json"}
    with ground.gateway() as server:
        asked = 0
        while asked < LONG_REQUESTS:
            done = wrk.saturate(server.port, 10, CONNECTIONS, path=info_path(), fields=fields)
            before, asked = asked // 1_000_000, asked + done.requests
            if asked // 1_000_000 > before:
                rows[f"after {asked:,} requests"] = {"resident MiB": rounded(server.rss_bytes() / 2**20, 4)}
    return rows


def _ask_all(server: Server, token: str, count: int) -> int:
    """Each chat once, as fast as a few connections can; returns how many were kept already."""
    questions = [asking(token, chat_id(chat)) for chat in range(count)]
    plan = openloop.Plan([0.0] * count, questions, FEW, patience_s=count / 100 + 10)
    return sum(one.hit for one in openloop.run(server.port, plan).answers)


def _at_leisure(
    server: Server, questions: list[bytes], seconds: int, per_second: int = SAMPLES_PER_S
) -> list[float]:
    """Latencies in ms of hits, at a rate at which nobody waits for another."""
    count = seconds * per_second
    chosen = questions if len(questions) == count else random.Random(1).choices(questions, k=count)
    due = [index / per_second for index in range(count)]
    outcome = openloop.run(server.port, openloop.Plan(due, chosen, FEW))
    return [one.latency_s * 1000 for one in outcome.answers if one.hit]


def _number(figure: Figure) -> float:
    return float(figure) if figure is not None else float("nan")
