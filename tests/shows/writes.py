"""Who has written sees it, by whichever replica: `python -m tests.shows.writes`.

10,000 times somebody renames the visitor of a chat by one of four replicas, and reads the chat by another the
moment the write is answered. Others read the chats all the while, so that there is always something old to be
shown. Prints one JSON line, with the bounds that did not hold.

While all replicas acknowledge, nobody is shown what is old. Which writes all have acknowledged cannot be told
from outside, only how many replicas were silent, over all writes (`shared_silent_replicas_total`). Each of
these may show one old answer, for there is one read after each write. So at most as many are old, and none if
no replica was silent.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import uvloop

from gateway.demo.wire import Client, request
from tests.shared.servers import redis_server
from tests.shows.cluster import REPLICAS, Cluster, cluster, told, url_of
from tests.shows.stand import HOST, asking, info_path, percentile

PAIRS, CHATS = 10_000, 20
#: Between the reads that nobody waits for, of each chat by each replica.
READS_S = 0.1
#: Without these there would be nothing old to show.
MIN_READS = 1000
SILENT = "silent_replicas_total"


@dataclass(slots=True)
class Seen:
    """What became of the pairs. `old` showed what was before the write, `other` another chat.

    `reads` are those of who looks on, and `died` is how many of these came to an end by themselves.
    """

    pairs: int = 0
    old: int = 0
    other: int = 0
    errors: int = 0
    reads: int = 0
    died: int = 0
    write_s: list[float] = field(default_factory=list)


async def main() -> bool:
    with tempfile.TemporaryDirectory() as name, redis_server(Path(name, "redis")) as redis:
        async with cluster(Path(name, "replicas"), url_of(redis.address)) as stand:
            await stand.until_together()
            before = await _silent(stand)
            seen, began = Seen(), time.monotonic()
            await asyncio.gather(*(_pairs(stand, index, seen) for index in range(CHATS)))
            seconds, after = time.monotonic() - began, await _silent(stand)
            return told(
                {
                    "show": "writes",
                    "pairs": seen.pairs,
                    "seconds": round(seconds, 1),
                    "old": seen.old,
                    "of_another_chat": seen.other,
                    "errors": seen.errors,
                    "reads_of_others": seen.reads,
                    "others_died": seen.died,
                    "silent_before": before,
                    "silent_after": after,
                    "write_p50_ms": round(percentile(seen.write_s, 0.5) * 1000, 1),
                    "write_p99_ms": round(percentile(seen.write_s, 0.99) * 1000, 1),
                    **await stand.shared("failures"),
                },
                {
                    "pairs": seen.pairs == PAIRS,
                    "old": seen.old <= after - before,
                    "of_another_chat": not seen.other,
                    "errors": not seen.errors,
                    "reads_of_others": seen.reads >= MIN_READS,
                    "others_died": not seen.died,
                },
            )


async def _silent(stand: Cluster) -> int:
    """How many replicas did not acknowledge a write so far, of all writes."""
    return sum((await stand.shared(SILENT)).values())


async def _pairs(stand: Cluster, index: int, seen: Seen) -> None:
    """One chat: its writer, and those who look on."""
    chat = await stand.chat()
    chance = random.Random(index)
    looking = (_look_on(stand, chat, replica, chance, seen) for replica in range(REPLICAS))
    reading = [asyncio.create_task(one) for one in looking]
    clients = [Client(HOST, replica.public) for replica in stand.replicas]
    token = stand.token()
    for client in clients:
        await client.open()
    for number in range(PAIRS // CHATS):
        writer, reader = chance.sample(range(REPLICAS), 2)
        name = f"visitor-{index}-{number}"
        at = time.monotonic()
        status = (await clients[writer].ask(_renaming(chat, name, token))).status
        seen.write_s.append(time.monotonic() - at)
        answer = await clients[reader].ask(asking(info_path(chat), token))
        seen.pairs += 1
        if status != 201 or answer.status != 200:
            seen.errors += 1
            continue
        info = json.loads(answer.body)["info"]
        seen.old += info["visitorName"] != name
        seen.other += info["chatSessionKey"] != chat
    seen.died += sum(task.done() for task in reading)
    for task in reading:
        task.cancel()
    await asyncio.gather(*reading, return_exceptions=True)
    for client in clients:
        client.close()


async def _look_on(stand: Cluster, chat: str, replica: int, chance: random.Random, seen: Seen) -> None:
    """Read, until cancelled or not answered."""
    client, token = Client(HOST, stand.replicas[replica].public), stand.token()
    await client.open()
    try:
        while True:
            answer = await client.ask(asking(info_path(chat), token))
            seen.reads += 1
            seen.errors += answer.status != 200
            await asyncio.sleep(READS_S * (0.5 + chance.random()))
    finally:
        client.close()


def _renaming(chat: str, name: str, token: str) -> bytes:
    fields = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    said = json.dumps({"visitorName": name}).encode()
    return request("PUT", HOST, f"{info_path(chat)}/visitorName", fields, body=said)


if __name__ == "__main__":
    sys.exit(0 if uvloop.run(main()) else 1)
