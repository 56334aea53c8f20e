"""A partner floods the gateway, the frontend goes on as ever: `python -m tests.shows.fairness`.

The upstream's budget is 50 requests a second. The frontend asks for 20 chats a second; a partner of low
priority and without limits of its own asks for 1,000, each a cold one. Rounds are interleaved: `quiet` (the
frontend alone), `loaded` (both, each with chats of its own), `joining` (the frontend asks for chats that the
partner asked for a moment before, so that it waits for flights that the partner opened). Prints one JSON
line; figures are the medians of the rounds.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import statistics
import sys
import tempfile
import time
from collections import Counter, deque
from dataclasses import dataclass, field
from pathlib import Path

import uvloop

from gateway.demo.stage import ISSUER, shipped_policies
from gateway.demo.wire import Broken, Client
from tests.shows.stand import HOST, Stand, asking, info_path, percentile, two_processes

ROUNDS, SECONDS = 3, 5
BUDGET = {
    "per_second": 50,
    "burst": 50,
    "in_flight": 100,
    "queue": 1000,
    "wait_ms": 1000,
    "reserve_percent": 20,
}
FRONTEND_PER_S, PARTNER_PER_S = 20, 1000
#: Whoever is refused has waited for a second, and a connection takes one request at a time.
PARTNER_CONNECTIONS = 1500
#: How long after the partner the frontend asks for the same chat: its flight stands in the queue.
BEHIND_S = 0.050
#: Until nobody waits any more and the burst is whole again.
REST_S = 2.5
MAX_RATIO = 2.0

PARTNER = f"""\
clients:
  flood:
    match: {{iss: "{ISSUER}", sub: flood}}
    accounts: "*"
    allow: [chat:read]
    priority: low
"""


@dataclass(slots=True)
class Round:
    """What one round brought. `late_s` is by how much the load itself was late, at the worst."""

    latencies_s: list[float] = field(default_factory=list)
    frontend: Counter[str] = field(default_factory=Counter)
    partner: Counter[str] = field(default_factory=Counter)
    upstream_requests: int = 0
    took_s: float = 0.0
    late_s: float = 0.0

    @property
    def p99_ms(self) -> float:
        return percentile(self.latencies_s, 0.99) * 1000

    @property
    def lost(self) -> int:
        return self.frontend.total() - self.frontend["200"]

    @property
    def is_within_budget(self) -> bool:
        return self.upstream_requests <= BUDGET["per_second"] * self.took_s + BUDGET["burst"]


@dataclass(frozen=True, slots=True)
class Crowd:
    """Connections of one client; the one that has been idle for longest is used next."""

    idle: deque[Client]
    token: str

    async def ask(self, chat: str) -> tuple[str, float]:
        """The status, and how long it took; "late" if the load itself has no connection left."""
        if not self.idle:
            return "late", 0.0
        client = self.idle.popleft()
        asked = time.monotonic()
        try:
            response = await client.ask(asking(info_path(chat), self.token))
        except Broken:
            return "broken", time.monotonic() - asked
        finally:
            self.idle.append(client)
        return str(response.status), response.received - asked


async def crowd(stand: Stand, subject: str, size: int) -> Crowd:
    clients = [Client(HOST, stand.gateway) for _ in range(size)]
    for client in clients:
        await client.open()
    return Crowd(deque(clients), stand.token(subject))


async def chats(stand: Stand, count: int) -> list[str]:
    made = await stand.control("POST", "chats", {"count": count, "accept": True})
    return list(made["ids"])


async def play(stand: Stand, frontend: Crowd, partner: Crowd, *, loaded: bool, joining: bool) -> Round:
    """One round."""
    own = await chats(stand, SECONDS * FRONTEND_PER_S)
    flooded = await chats(stand, SECONDS * PARTNER_PER_S) if loaded else []
    await stand.control("POST", "reset")
    seen = Round()
    began = time.monotonic() + 0.1

    async def read(index: int) -> None:
        due_s = (index + 0.5) / FRONTEND_PER_S
        behind = round((due_s - BEHIND_S) * PARTNER_PER_S)
        chat = flooded[behind] if joining and behind >= 0 else own[index]
        await until(due_s)
        status, took_s = await frontend.ask(chat)
        seen.frontend[status] += 1
        seen.latencies_s.append(took_s)

    async def flood(index: int, chat: str) -> None:
        await until(index / PARTNER_PER_S)
        status, _ = await partner.ask(chat)
        seen.partner[status] += 1

    async def until(due_s: float) -> None:
        await asyncio.sleep(began + due_s - time.monotonic())
        seen.late_s = max(seen.late_s, time.monotonic() - began - due_s)

    reads = [read(index) for index in range(SECONDS * FRONTEND_PER_S)]
    floods = [flood(index, chat) for index, chat in enumerate(flooded)]
    await asyncio.gather(*reads, *floods)
    seen.took_s = time.monotonic() - began
    seen.upstream_requests = await stand.upstream_requests()
    await asyncio.sleep(REST_S)
    return seen


KINDS = {
    "quiet": {"loaded": False, "joining": False},
    "loaded": {"loaded": True, "joining": False},
    "joining": {"loaded": True, "joining": True},
}


async def main() -> bool:
    rounds: dict[str, list[Round]] = {kind: [] for kind in KINDS}
    with tempfile.TemporaryDirectory() as folder:
        policies = Path(folder) / "policies"
        shutil.copytree(shipped_policies(), policies)
        (policies / "clients" / "flood.yaml").write_text(PARTNER)
        async with two_processes(policies=str(policies), budget=BUDGET) as stand:
            frontend = await crowd(stand, "bff", SECONDS * FRONTEND_PER_S)
            partner = await crowd(stand, "flood", PARTNER_CONNECTIONS)
            for _ in range(ROUNDS):
                for kind, how in KINDS.items():
                    rounds[kind].append(await play(stand, frontend, partner, **how))
    p99_ms = {kind: statistics.median(one.p99_ms for one in played) for kind, played in rounds.items()}
    everyone = [one for played in rounds.values() for one in played]
    lost = sum(one.lost for one in everyone)
    within_budget = all(one.is_within_budget for one in everyone)
    worst = max(p99_ms["loaded"], p99_ms["joining"])
    ok = not lost and within_budget and worst <= MAX_RATIO * p99_ms["quiet"]
    shown = {
        "show": "fairness",
        "ok": ok,
        "rounds": ROUNDS,
        "seconds": SECONDS,
        "frontend_lost": lost,
        "frontend_p99_ms": {kind: round(value, 1) for kind, value in p99_ms.items()},
        "frontend": sum((one.frontend for one in everyone), Counter[str]()),
        "partner": sum((one.partner for one in everyone), Counter[str]()),
        "upstream_requests": {
            kind: [one.upstream_requests for one in played] for kind, played in rounds.items()
        },
        "within_budget": within_budget,
        "load_late_ms": round(max(one.late_s for one in everyone) * 1000, 1),
    }
    print(json.dumps(shown))
    return ok


if __name__ == "__main__":
    sys.exit(not uvloop.run(main()))
