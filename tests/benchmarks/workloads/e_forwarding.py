"""(e) Forwarding what is never kept, reads and writes, beside relays that do nothing else."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace

from gateway.demo.children import free_ports
from tests.benchmarks import processes, wrk
from tests.benchmarks.figures import Figure, Goal, Result, ratio, rounded
from tests.benchmarks.ground import Ground, Scale, asking
from tests.benchmarks.processes import Server, in_turn
from tests.benchmarks.workloads.a_hot_chat import GATEWAY
from tests.benchmarks.workloads.hits import Measured, all_answered, failures, rates, row, saturate

CONNECTIONS = 32
BARE, PROXY_LIB, HTTPX = "bare aiohttp relay", "fastapi-proxy-lib", "plain httpx relay"
RELAYS = {BARE: "bare", PROXY_LIB: "proxy_lib", HTTPX: "plain_httpx"}
Runs = Mapping[str, Sequence[Measured]]


def run(ground: Ground, scale: Scale) -> Result:
    """Interleaved rounds of reads and of writes; the upstream answers at once."""
    ground.upstream.tell()
    token = ground.token()
    body = b'{"visitorName":"You"}'
    asked = {
        "reads": asking(token, below="/visitorName"),
        "writes": asking(token, method="PUT", below="/visitorName", body=body),
    }
    with contextlib.ExitStack() as stack:
        servers = _started(ground, stack)
        runs: dict[str, dict[str, list[Measured]]] = {kind: {name: [] for name in servers} for kind in asked}
        for _ in range(scale.rounds):
            for kind, question in asked.items():
                file = wrk.write_requests(ground.folder / "requests", [question])
                for name, server in servers.items():
                    with in_turn(server, list(servers.values())):
                        done = saturate(server, scale, requests=file, connections=CONNECTIONS)
                    runs[kind][name].append(done)
    return result(runs)


def result(runs: Mapping[str, Runs]) -> Result:
    """A row for each server and kind."""
    rows = {
        f"{name}, {kind}": {**row(own), **_beside(measured[GATEWAY], own)}
        for kind, measured in runs.items()
        for name, own in measured.items()
    }
    goals = [goal for kind, measured in runs.items() for goal in _goals(kind, measured)]
    notes = [line for measured in runs.values() for line in failures(measured)]
    return Result("(e) Forwarding what is never kept", rows, goals, notes)


def _beside(ours: Sequence[Measured], own: Sequence[Measured]) -> dict[str, Figure]:
    return {
        "gateway ÷ it": rounded(ratio(rates(ours), rates(own))),
        "CPU: gateway ÷ it": rounded(ratio(_cpu(ours), _cpu(own))),
    }


def _cpu(measured: Sequence[Measured]) -> list[float]:
    return [one.cpu_us for one in measured]


def _goals(kind: str, runs: Runs) -> list[Goal]:
    ours = runs[GATEWAY]
    cpu = rounded(ratio(_cpu(ours), _cpu(runs[BARE]))) if BARE in runs else None
    times = {
        name: rounded(ratio(rates(ours), rates(runs[name]))) if name in runs else None
        for name in (PROXY_LIB, HTTPX)
    }
    return [
        replace(all_answered(ours), what=f"{kind}: requests that failed"),
        Goal(f"{kind}: processor time, gateway ÷ {BARE}", "≤", 1.5, cpu),
        *(Goal(f"{kind}: requests, gateway ÷ {name}", "≥", 4.0, got) for name, got in times.items()),
    ]


def _started(ground: Ground, stack: contextlib.ExitStack) -> dict[str, Server]:
    servers = {GATEWAY: stack.enter_context(ground.gateway(GATEWAY))}
    for name, module in RELAYS.items():
        [port] = free_ports(1)
        command = [
            *(sys.executable, "-m", f"tests.benchmarks.relays.{module}"),
            *(str(port), str(ground.upstream.port)),
        ]
        relay = processes.running(name, command, ground.folder, port=port, core=ground.core)
        server = ground.started(stack, relay, name)
        if server is not None:
            servers[name] = server
    return servers
