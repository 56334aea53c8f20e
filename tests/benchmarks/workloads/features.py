"""What each feature of the hit path costs: one at a time switched on or off, against the base.

The base is what (a) measures: an RS256 token, a policy with limits, counters, Date and request id.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from tests.benchmarks import openloop, wrk
from tests.benchmarks.figures import Figure, Result
from tests.benchmarks.ground import STRICTER, UNLIMITED, VIEWING, Ground, Scale, asking
from tests.benchmarks.processes import Server, in_turn
from tests.benchmarks.workloads.hits import UPSTREAM_MS, Measured, against, failures, row, saturate

BASE = "base: token, policy, limits, counters, date, request id"
#: How many different requests go round where something changes with each.
DIFFERENT = 10_000

SITE = "https://frontend.example"
CORS = {"cors": {"origins": [SITE]}}
BROWSER = {
    "User-Agent": "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0",
    "Accept-Language": "en-GB,en;q=0.7,de;q=0.3",
    "Accept-Encoding": "gzip, deflate, br",
    "Referer": "https://frontend.example/conversations",
    "Cookie": "session=4f9c0d6c1b; theme=dark",
    "DNT": "1",
}


@dataclass(frozen=True, slots=True)
class Variant:
    """One thing that is different: settings, or what is sent."""

    name: str
    requests: Sequence[bytes]
    settings: dict[str, Any] = field(default_factory=dict)


def variants(ground: Ground, etag: str) -> list[Variant]:
    """The base first."""
    token = ground.token()
    base = [asking(token)]
    ids = [asking(token, fields={"X-Request-ID": f"id-{index}"}) for index in range(DIFFERENT)]
    traced = [
        asking(token, fields={"traceparent": f"00-{index:032x}-{index:016x}-01"})
        for index in range(DIFFERENT)
    ]
    return [
        Variant(BASE, base),
        Variant("without limits", [asking(ground.token(subject=UNLIMITED))]),
        Variant("two limits more: a day's, in flight", [asking(ground.token(subject=STRICTER))]),
        Variant("a view that withholds fields", [asking(ground.token(subject=VIEWING))]),
        Variant("a browser's Origin, with CORS on", [asking(token, fields={"Origin": SITE})], CORS),
        Variant("not modified (304)", [asking(token, fields={"If-None-Match": etag})]),
        Variant("the client's own X-Request-ID, another each time", ids),
        Variant("traceparent, another each time", traced),
        Variant("six more fields, as a browser sends them", [asking(token, fields=BROWSER)]),
        Variant("each request logged", base, {"log_level": "info"}),
        Variant("the short cut off", base, {"short_cut": False}),
    ]


def run(ground: Ground, scale: Scale) -> Result:
    """Interleaved rounds; a server for each set of settings."""
    ground.upstream.tell(latency_ms=UPSTREAM_MS)
    with contextlib.ExitStack() as stack:
        chosen = _started(ground, stack)
        servers = {server.port: server for _, server in chosen}.values()
        measured: dict[str, list[Measured]] = {variant.name: [] for variant, _ in chosen}
        for _ in range(scale.rounds):
            for variant, server in chosen:
                file = wrk.write_requests(ground.folder / "requests", variant.requests)
                with in_turn(server, list(servers)):
                    measured[variant.name].append(saturate(server, scale, requests=file))
    base = measured[BASE]
    rows = {name: {**row(own), **_beside(own, base)} for name, own in measured.items()}
    return Result("What each feature of the hit path costs", rows, notes=failures(measured))


def _beside(own: Sequence[Measured], base: Sequence[Measured]) -> dict[str, Figure]:
    more_us = median(one.cpu_us - other.cpu_us for one, other in zip(own, base, strict=True))
    return {"more CPU µs": round(more_us, 2), "÷ base": against(own, base)}


def _started(ground: Ground, stack: contextlib.ExitStack) -> list[tuple[Variant, Server]]:
    """Those variants whose server starts; one that has no settings of its own shares the base's."""
    base = stack.enter_context(ground.gateway("base"))
    chosen = []
    for variant in variants(ground, _etag(base, asking(ground.token()))):
        name = f"gateway, {variant.name}"
        server = (
            ground.started(stack, ground.gateway(name, **variant.settings), name)
            if variant.settings
            else base
        )
        if server is not None:
            chosen.append((variant, server))
    return chosen


def _etag(server: Server, question: bytes) -> str:
    """The ETag of the chat's info: volatile fields are not in it, so it stays."""
    [raw] = openloop.raw(server.port, [question])
    found = re.search(rb"(?i)\r\netag: ([^\r]+)", raw)
    if found is None:
        raise ValueError(f"gateway: expected an ETag, got {raw[:200]!r}")
    return found[1].decode()
