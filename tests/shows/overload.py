"""Far too much is asked, of an account's budget and of the processor: `python -m tests.shows.overload`.

Open loop: each request is due at its time, whatever became of those before. A sixth of them has high
priority, half normal, a third low; all are reads that find nothing kept, for a poll of what is fresh is never
refused. Each part is quiet, then overloaded, then as quiet as before:

- `budget`: 3 times what the account's upstream gets, for 30 s;
- `processor`: 1.5 times what the gateway was measured to serve, before an upstream that has room for all.

The gateway has one core, load and emulator the other. Prints one JSON line a part, with the bounds that did
not hold. As arguments it takes the names of parts, and `quick` for short overloads.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import uvloop

from gateway.demo.children import free_ports
from gateway.demo.stage import ACCOUNT, ISSUER, set_stage
from tests.benchmarks import openloop
from tests.benchmarks.openloop import Answered, Outcome, Plan
from tests.benchmarks.processes import Server, allow_many_files, cores, pin, running
from tests.shows.stand import APP_KEY, HOST, Stand, asking, percentile

BUDGET_PER_S = 200
UPSTREAM_MS = 5
OVERLOADED_S, QUICK_S, QUIET_S = 30.0, 8.0, 8.0
#: Of the budget, or of what was measured.
QUIET, BUDGET_LOAD, PROCESSOR_LOAD = 0.25, 3.0, 1.5
CONNECTIONS = 3000
#: For measuring what can be served: as many at a time as keep the gateway busy while the upstream thinks, but
#: no more than its loop gets through before it is late.
AT_ONCE, MEASURED = 64, 8000
MAX_RECOVERY_S = 5.0
#: As little as where one partner asked for too much (`tests.shows.fairness`).
HIGH_P99_MS = 150
#: What the settings let be kept: entries, tokens and grants.
MAX_GROWTH_MIB = 256

#: Class → its share. That of high is half of the budget at the most, and so within what is its own.
CLASSES = {"high": 1 / 6, "normal": 1 / 2, "low": 1 / 3}
CLIENTS = "clients:\n" + "".join(
    f'  {name}:\n    match: {{iss: "{ISSUER}", sub: {name}}}\n'
    f'    accounts: "*"\n    allow: [chat:read]\n    priority: {name}\n'
    for name in CLASSES
)
BUDGET = {"per_second": BUDGET_PER_S}
PLENTY = {"per_second": 10_000, "burst": 10_000, "in_flight": 2000, "queue": 10_000}


@dataclass(frozen=True, slots=True)
class Load:
    """A plan, whose requests are of these classes, in three phases that end at these seconds."""

    plan: Plan
    classes: Mapping[float, str]
    ends_s: tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class Phase:
    """What was answered to what was due in one phase."""

    answers: Sequence[Answered]
    classes: Mapping[float, str]
    seconds: float

    def latencies_s(self, wanted: Callable[[Answered], bool]) -> list[float]:
        return [one.latency_s for one in self.answers if wanted(one)]

    def p99_ms(self, wanted: Callable[[Answered], bool]) -> float:
        latencies_s = self.latencies_s(wanted)
        return round(percentile(latencies_s, 0.99) * 1000, 1) if latencies_s else 0.0

    def of(self, name: str) -> Phase:
        return Phase(
            [one for one in self.answers if self.classes[one.due] == name], self.classes, self.seconds
        )

    @property
    def goodput(self) -> float:
        return len(self.latencies_s(is_good)) / self.seconds

    @property
    def statuses(self) -> Counter[str]:
        return Counter(str(one.status) for one in self.answers)


@dataclass(frozen=True, slots=True)
class Played:
    """What came of a load; the gateway's memory in MiB, and its share of a core during the overload."""

    outcome: Outcome
    phases: tuple[Phase, Phase, Phase]
    memory_mib: Mapping[str, int]
    core_share: float


def is_good(one: Answered) -> bool:
    return one.status == 200


def is_refused(one: Answered) -> bool:
    return one.status != 200


@dataclass(frozen=True, slots=True)
class Part:
    """What is asked, of so many chats, and with which budget."""

    name: str
    play: Callable[[Ground, float], Awaitable[bool]]
    budget: Mapping[str, int]
    resource: str
    chats: int


class Ground:
    """Emulator and gateway, the questions of each class, and a process that asks."""

    def __init__(
        self, stand: Stand, chats: Sequence[str], resource: str, gateway: Server, asker: ProcessPoolExecutor
    ) -> None:
        self._stand = stand
        self._resource = resource
        self._gateway = gateway
        self._asker = asker
        self._chats = chats
        self._tokens = {name: stand.token(name) for name in CLASSES}

    def question(self, name: str, index: int) -> bytes:
        chat = self._chats[index % len(self._chats)]
        return asking(f"/api/account/{ACCOUNT}/chat/{chat}/{self._resource}", self._tokens[name])

    async def ask(self, plan: Plan) -> Outcome:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._asker, openloop.run, self._stand.gateway, plan)

    def load(self, quiet_per_s: float, overloaded_per_s: float, overloaded_s: float) -> Load:
        """Evenly spaced; who asks is drawn, so that no class comes in step with another."""
        draw = random.Random(5)
        due: list[float] = []
        ends: list[float] = []
        at = 0.0
        for per_s, seconds in (
            (quiet_per_s, QUIET_S),
            (overloaded_per_s, overloaded_s),
            (quiet_per_s, QUIET_S),
        ):
            due += [at + index / per_s for index in range(int(per_s * seconds))]
            at += seconds
            ends.append(at)
        classes = dict(zip(due, draw.choices([*CLASSES], [*CLASSES.values()], k=len(due)), strict=True))
        requests = [self.question(classes[one], index) for index, one in enumerate(due)]
        return Load(Plan(due, requests, CONNECTIONS, 10.0), classes, (ends[0], ends[1], ends[2]))

    async def capacity(self) -> float:
        """How many a second are served when some always wait."""
        requests = [self.question("high", index) for index in range(MEASURED)]
        outcome = await self.ask(Plan([0.0] * MEASURED, requests, AT_ONCE, 60.0))
        assert all(map(is_good, outcome.answers)), Counter(one.status for one in outcome.answers)
        return MEASURED / max(one.received for one in outcome.answers)

    async def played(self, load: Load) -> Played:
        """The load, and what it took."""
        memory = [self._gateway.rss_bytes()]
        cpu_s: list[tuple[float, float]] = []
        asking = asyncio.ensure_future(self.ask(load.plan))
        while not asking.done():
            await asyncio.wait((asking,), timeout=0.1)
            memory.append(self._gateway.rss_bytes())
            cpu_s.append((time.monotonic(), self._gateway.cpu_s()))
        outcome = asking.result()
        phases = []
        began = 0.0
        for end in load.ends_s:
            answers = [one for one in outcome.answers if began <= one.due < end]
            phases.append(Phase(answers, load.classes, end - began))
            began = end
        began, ended = (outcome.started + end for end in load.ends_s[:2])
        during = [cpu for at, cpu in cpu_s if began <= at < ended]
        before, *_, after = memory
        return Played(
            outcome,
            (phases[0], phases[1], phases[2]),
            {"before": before >> 20, "peak": max(memory) >> 20, "after": after >> 20},
            (during[-1] - during[0]) / (ended - began),
        )


@contextlib.asynccontextmanager
async def standing(part: Part) -> AsyncIterator[Ground]:
    """All of it, each process on its core."""
    gateway_core, load_core = cores()
    public, private, upstream = free_ports(3)
    context = get_context("spawn")
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        stage = set_stage(
            folder,
            listen=f"{HOST}:{public}",
            admin_listen=f"{HOST}:{private}",
            public_url=f"http://{HOST}:{public}",
            upstream_url=f"http://{HOST}:{upstream}",
            app_key=APP_KEY,
            budget=part.budget,
            edge={"max_connections_per_peer": 10_000},
        )
        with stage.config.open("a") as config:
            config.write("upstream: {max_connections: 2000}\n")
        (folder / "policies" / "clients" / "classes.yaml").write_text(CLIENTS)
        emulating = f"emulator --port {upstream} --latency-ms {UPSTREAM_MS} --no-agents --app-key-file"
        commands = {
            "emulator": ([*emulating.split(), str(folder / "app-key")], upstream, load_core),
            "gateway": (["serve", "--config", str(stage.config)], public, gateway_core),
        }
        servers = {
            name: stack.enter_context(
                running(name, [sys.executable, "-m", "gateway", *command], folder, port=port, core=core)
            )
            for name, (command, port, core) in commands.items()
        }
        asker = stack.enter_context(ProcessPoolExecutor(1, context, initializer=pin, initargs=(load_core,)))
        stand = Stand(public, upstream, stage.token)
        made = await stand.control("POST", "chats", {"count": part.chats, "accept": True})
        yield Ground(stand, made["ids"], part.resource, servers["gateway"], asker)


def recovered_after_s(quiet: Phase, after: Phase, ended_s: float) -> float | None:
    """From when on nobody is refused and the p99 is what it was; None if it never is."""
    bound_s = quiet.p99_ms(is_good) / 1000 * 1.5 + 0.010
    for half in range(int(QUIET_S * 2) - 2):
        rest = [one for one in after.answers if one.due >= ended_s + half / 2]
        if all(map(is_good, rest)) and percentile([one.latency_s for one in rest], 0.99) <= bound_s:
            return half / 2
    return None


def shown(
    name: str, load: Load, played: Played, wanted_per_s: float
) -> tuple[dict[str, Any], dict[str, bool]]:
    """All figures, and the bounds that both parts have in common."""
    outcome, (quiet, overloaded, after), mib = played.outcome, played.phases, played.memory_mib
    recovery_s = recovered_after_s(quiet, after, load.ends_s[1])
    high = overloaded.of("high")
    figures = {
        "show": "overload",
        "part": name,
        "core_share": round(played.core_share, 2),
        "asked_per_s": round(len(overloaded.answers) / overloaded.seconds),
        "goodput_per_s": round(overloaded.goodput, 1),
        "goodput_wanted_per_s": round(wanted_per_s, 1),
        "classes": {one: dict(overloaded.of(one).statuses) for one in CLASSES},
        "served_p99_ms": {one: overloaded.of(one).p99_ms(is_good) for one in CLASSES},
        "refused_p99_ms": overloaded.p99_ms(is_refused),
        "quiet_p99_ms": quiet.p99_ms(is_good),
        "high_lost": len(high.latencies_s(is_refused)),
        "unanswered": outcome.unanswered,
        "recovered_after_s": recovery_s,
        "memory_mib": mib,
        "load_late_p99_ms": round(openloop.late_s(outcome.answers) * 1000, 1),
    }
    bounds = {
        "goodput": overloaded.goodput >= wanted_per_s,
        "all answered": outcome.unanswered == 0,
        "memory": mib["peak"] - mib["before"] <= MAX_GROWTH_MIB,
        "recovered": recovery_s is not None and recovery_s <= MAX_RECOVERY_S,
        "no crash": all(one.status in {200, 503} for one in outcome.answers),
    }
    return figures, bounds


def told(figures: dict[str, Any], bounds: dict[str, bool]) -> bool:
    broken = [name for name, held in bounds.items() if not held]
    print(json.dumps(figures | {"ok": not broken, "broken": broken}), flush=True)
    return not broken


async def of_budget(ground: Ground, seconds: float) -> bool:
    load = ground.load(QUIET * BUDGET_PER_S, BUDGET_LOAD * BUDGET_PER_S, seconds)
    played = await ground.played(load)
    figures, bounds = shown("budget", load, played, 0.9 * BUDGET_PER_S)
    bounds["refusals are quick"] = figures["refused_p99_ms"] < 20
    bounds["the frontend's class loses nothing"] = figures["high_lost"] == 0
    bounds["and hardly waits"] = figures["served_p99_ms"]["high"] <= HIGH_P99_MS
    return told(figures, bounds)


async def of_processor(ground: Ground, seconds: float) -> bool:
    capacity = await ground.capacity()
    load = ground.load(QUIET * capacity, PROCESSOR_LOAD * capacity, seconds)
    played = await ground.played(load)
    figures, bounds = shown("processor", load, played, 0.6 * capacity)
    return told(figures | {"capacity_per_s": round(capacity)}, bounds)


PARTS = (
    # As many chats as requests: for polls of one chat stale answers would stand in.
    Part("budget", of_budget, BUDGET, "info", 25_000),
    Part("processor", of_processor, PLENTY, "info/agentTyping", 200),
)


async def main(asked: set[str]) -> bool:
    allow_many_files()
    seconds = QUICK_S if "quick" in asked else OVERLOADED_S
    held = []
    for part in PARTS:
        if part.name in asked or not asked - {"quick"}:
            async with standing(part) as ground:
                held.append(await part.play(ground, seconds))
    return all(held)


if __name__ == "__main__":
    sys.exit(not uvloop.run(main(set(sys.argv[1:]))))
