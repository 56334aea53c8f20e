"""(a) One hot chat, one token: hits at saturation, beside every peer."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence

from tests.benchmarks.figures import Goal, Result
from tests.benchmarks.ground import Ground, Scale
from tests.benchmarks.peer import HAPROXY, LIMIT, NGINX, NGINX_HS256, NGINX_RS256, PEERS
from tests.benchmarks.processes import Server, in_turn
from tests.benchmarks.workloads.hits import (
    UPSTREAM_MS,
    Measured,
    against,
    all_answered,
    body_of,
    failures,
    row,
    saturate,
)

GATEWAY = "gateway"
LOGGING = "gateway, each request logged"
BOUNDS = {
    NGINX.name: 1.0,
    NGINX_RS256.name: 2.75,
    NGINX_HS256.name: 2.75,
    HAPROXY.name: 2.75,
    LIMIT.name: 0.55,
}


def run(ground: Ground, scale: Scale) -> Result:
    """Interleaved rounds: each server has the core for itself in turn."""
    ground.upstream.tell(latency_ms=UPSTREAM_MS)
    with contextlib.ExitStack() as stack:
        servers = _started(ground, stack)
        measured: dict[str, list[Measured]] = {name: [] for name in servers}
        for _ in range(scale.rounds):
            for name, (server, token) in servers.items():
                with in_turn(server, [one for one, _ in servers.values()]):
                    measured[name].append(saturate(server, scale, token=token))
    return result(measured)


def result(measured: Mapping[str, Sequence[Measured]]) -> Result:
    """The table and what it has to show. Each server has its rounds in the same order."""
    ours = measured[GATEWAY]
    rows = {name: {**row(own), "gateway ÷ it": against(ours, own)} for name, own in measured.items()}
    goals = [all_answered(ours)]
    goals += [
        Goal(f"gateway ÷ {name}", "≥", bound, against(ours, measured.get(name)))
        for name, bound in BOUNDS.items()
    ]
    return Result("(a) One hot chat, one token: hits on one core", rows, goals, failures(measured))


def _started(ground: Ground, stack: contextlib.ExitStack) -> dict[str, tuple[Server, str]]:
    """Each server that starts, with a token that it takes. The gateway itself has to start."""
    token = ground.token()
    gateway = stack.enter_context(ground.gateway(GATEWAY))
    servers = {GATEWAY: (gateway, token)}
    logging = ground.started(stack, ground.gateway(LOGGING, log_level="info"), LOGGING)
    if logging is not None:
        servers[LOGGING] = (logging, token)
    body = body_of(gateway, token)
    for peer in PEERS:
        server = ground.started(stack, ground.peer(peer, body), peer.name)
        if server is not None:
            servers[peer.name] = (server, ground.token_for(peer))
    return servers
