"""The store by itself: `python -m tests.benchmarks.store_alone COUNT` fills it and prints a JSON object.

In a process of its own, so that its memory is nobody else's.
"""

from __future__ import annotations

import json
import os
import random
import sys
import time
from pathlib import Path

from gateway.core.freshness import Contact, Entry
from gateway.core.messages import Answer, Chat, Key, Representation
from gateway.stores.memory import MemoryStore
from tests.benchmarks.ground import chat_id
from tests.benchmarks.upstream import info

LOOK_UPS = 200_000


def entry(chat: str, now: float) -> Entry:
    """An info with a body of its own."""
    answer = Answer(
        200, ((b"content-type", b"application/json"),), info(b"123", chat.encode(), b"chatting", now)
    )
    return Entry(answer, (0, 0), now, now + 1e6, now + 2e6, now + 3e6)


def key(chat: str) -> Key:
    """Where it is kept."""
    return ("123", f"/api/account/123/chat/{chat}/info?v=1", Representation.JSON)


def resident_bytes() -> int:
    """The memory of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def measure(count: int) -> dict[str, float]:
    """Fill a store that has room for all, and look some of them up."""
    store = MemoryStore(2**40, time.monotonic)
    before, began = resident_bytes(), time.process_time()
    for index in range(count):
        chat = chat_id(index)
        store.put(key(chat), entry(chat, 0.0), "bench")
        store.touch(Chat("123", chat), Contact(0.0))
    filled = time.process_time()
    memory = resident_bytes() - before
    chance = random.Random(1)
    keys = [key(chat_id(chance.randrange(count))) for _ in range(LOOK_UPS)]
    asked = time.process_time()
    for one in keys:
        store.get(one)
    done = time.process_time()
    return {
        "bytes": memory / count,
        "put_us": (filled - began) / count * 1e6,
        "get_us": (done - asked) / LOOK_UPS * 1e6,
        "body_bytes": len(entry(chat_id(0), 0.0).answer.body),
    }


if __name__ == "__main__":
    print(json.dumps(measure(int(sys.argv[1]))))
