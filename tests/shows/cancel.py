"""Clients that cancel at random, then a hundred requests: `python -m tests.shows.cancel`.

In one process, so that what is left can be looked at. There are more callers than connections upstream,
and the deadline is near: so clients leave, and fetches are ended, while they wait for a connection, while
they have one, and between. Prints one JSON line.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import uvloop

from gateway.demo.wire import Broken, Client
from gateway.emulator import EmulatorConfig, Fault
from tests.shows.stand import HOST, asking
from tests.support import APP_KEY, World, chat_path, world

CALLERS = 40
SECONDS = 5.0
CONNECTIONS = 10
REQUESTS = 100
#: How long each of them may ask: longer than a breaker stays open.
PATIENCE_S = 10.0
#: The nearest deadline that can be configured, and an upstream that makes a queue of ten miss it.
DEADLINE_MS = 100
UPSTREAM_S = 0.06
#: One that is kept, one that is shared, one that is only forwarded.
PATHS = ("/info", "/events", "/info/agentTyping")


def environ() -> dict[str, str]:
    """The settings of the gateway, as `world` takes them."""
    return {
        "UPSTREAM__MAX_CONNECTIONS": str(CONNECTIONS),
        "UPSTREAM__DEADLINE_MS": str(DEADLINE_MS),
        "UPSTREAM__STALE_AFTER_MS": "50",
    }


async def storm(it: World, callers: int, seconds: float) -> Counter[str]:
    """Ask and hang up at random for so long. How many were asked, who left, and what the others got."""
    chance = random.Random(1)
    chats = [it.chat() for _ in range(8)]
    token = it.token()
    end = time.monotonic() + seconds
    counts: Counter[str] = Counter()
    it.emulator.fail(Fault(times=None, delay_s=UPSTREAM_S))

    async def caller() -> None:
        client = Client(HOST, it.addresses.public[1])
        while time.monotonic() < end:
            path = chat_path(chance.choice(chats), chance.choice(PATHS))
            leaving = asyncio.get_running_loop().call_later(chance.uniform(0, 0.2), client.close)
            try:
                counts[str((await client.ask(asking(path, token))).status)] += 1
            except Broken:
                counts["left"] += 1
            leaving.cancel()
        client.close()

    await asyncio.gather(*(caller() for _ in range(callers)))
    it.emulator.clear_faults()
    return counts


async def answered(it: World, requests: int) -> int:
    """How many of so many requests get a 200, as many at a time as there are connections.

    A machine with other things to do misses a deadline that near now and then, and after a storm the breaker
    may be open. So whoever gets something else asks again: where places were lost, he never gets one.
    """
    path = chat_path(it.chat(), "/info/agentTyping")
    crowd = [Client(HOST, it.addresses.public[1]) for _ in range(CONNECTIONS)]

    async def is_answered(client: Client) -> bool:
        end = time.monotonic() + PATIENCE_S
        while (await client.ask(asking(path, it.token()))).status != 200:
            if time.monotonic() > end:
                return False
            await asyncio.sleep(0.05)
        return True

    good = 0
    for _ in range(requests // CONNECTIONS):
        good += (await asyncio.gather(*map(is_answered, crowd), return_exceptions=True)).count(True)
    for client in crowd:
        client.close()
    return good


async def hold_nothing(it: World, before: set[asyncio.Task[Any]]) -> list[str]:
    """What is wrong after a storm: unanswered requests, flights, tasks or slots of the pool that are left."""
    wrong = []
    if (count := await answered(it, REQUESTS)) != REQUESTS:
        wrong.append(f"{count} of {REQUESTS} answered")
    await it.flights_landed()
    # Connections that were just closed have their last callbacks.
    await asyncio.sleep(0.1)
    left = asyncio.all_tasks() - before - {asyncio.current_task()}
    wrong += [f"task left: {task.get_coro()}" for task in left]
    places = it.gateway.transport._places
    if (free := places._value) != CONNECTIONS:
        wrong.append(f"{free} of {CONNECTIONS} places upstream free")
    if (kept := len(it.server.connections)) > CONNECTIONS:
        wrong.append(f"{kept} connections")
    return wrong


async def main() -> bool:
    with tempfile.TemporaryDirectory() as folder:
        config = EmulatorConfig(app_key=APP_KEY)
        async with world(Path(folder), emulator=config, environ=environ()) as it:
            before = asyncio.all_tasks()
            counts = await storm(it, CALLERS, SECONDS)
            wrong = await hold_nothing(it, before)
    shown = {"show": "cancel", "ok": not wrong, "seconds": SECONDS, "storm": counts, "then": REQUESTS}
    print(json.dumps({**shown, "left": wrong}))
    return not wrong


if __name__ == "__main__":
    sys.exit(not uvloop.run(main()))
