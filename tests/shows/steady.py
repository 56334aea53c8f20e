"""Evenly phased clients each poll one chat once a second: `python -m tests.shows.steady`.

Prints one JSON line. The first second is left out of everything. The age of an answer is measured at its
client: its own clock less the `lastUpdate` that the emulator wrote when it got the request.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
import time
from datetime import datetime

import uvloop

from gateway.demo.wire import Client
from tests.shows.stand import HOST, Stand, asking, info_path, percentile, two_processes

CLIENTS = 100
SECONDS = 12
MAX_UPSTREAM, MAX_LATENCY_MS, MAX_AGE_S = 16, 5.0, 1.0

_LAST_UPDATE = re.compile(rb'"lastUpdate":"([^"]+)"')


async def poll(
    stand: Stand, path: str, phase: float, began: float, samples: list[tuple[float, float]]
) -> None:
    """One client; adds (latency, age) in seconds of each answer after the first second."""
    client = Client(HOST, stand.gateway)
    await client.open()
    question = asking(path, stand.token())
    for second in range(SECONDS):
        await asyncio.sleep(began + second + phase - time.monotonic())
        asked = time.monotonic()
        response = await client.ask(question)
        wall = time.time()
        found = _LAST_UPDATE.search(response.body)
        assert response.status == 200, response
        assert found, response.body
        if second:
            sent = datetime.fromisoformat(found[1].decode()).timestamp()
            samples.append((response.received - asked, wall - sent))
    client.close()


async def main() -> bool:
    samples: list[tuple[float, float]] = []
    async with two_processes() as stand:
        path = info_path(await stand.chat())
        # Time enough for all to connect.
        began = time.monotonic() + 0.5
        polls = [poll(stand, path, index / CLIENTS, began, samples) for index in range(CLIENTS)]
        polling = asyncio.gather(*polls)
        await asyncio.sleep(began + 1 - time.monotonic())
        before = await stand.upstream_requests()
        await polling
        upstream = await stand.upstream_requests() - before
    latencies, ages = zip(*samples, strict=True)
    latency_ms, age_s = percentile(latencies, 0.99) * 1000, percentile(ages, 0.99)
    ok = upstream <= MAX_UPSTREAM and latency_ms < MAX_LATENCY_MS and age_s <= MAX_AGE_S
    shown = {
        "show": "steady",
        "clients": CLIENTS,
        "seconds": SECONDS,
        "ok": ok,
        "requests": len(samples),
        "upstream_requests": upstream,
        "latency_p50_ms": round(percentile(latencies, 0.5) * 1000, 3),
        "latency_p99_ms": round(latency_ms, 3),
        "latency_max_ms": round(max(latencies) * 1000, 3),
        "age_p50_s": round(percentile(ages, 0.5), 3),
        "age_p99_s": round(age_s, 3),
        "age_max_s": round(max(ages), 3),
    }
    print(json.dumps(shown))
    return ok


if __name__ == "__main__":
    sys.exit(not uvloop.run(main()))
