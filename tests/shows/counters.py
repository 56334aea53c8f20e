"""A hundred thousand requests of every kind, each counted at both ends: `python -m tests.shows.counters`.

In one process, with real sockets between clients, gateway and emulator: hits, waiters, misses, stale answers,
writes, refusals and failures, streams and long polls, while the configuration is read again and again. What
the metrics, the usage and the log lines say must be what the clients read and what the emulator was asked,
exactly. Prints one JSON line.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path

import uvloop

from tests.counting import by
from tests.watching import go_through, stage

REQUESTS = 100_000


async def main() -> bool:
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        async with stage(Path(folder)) as here:
            try:
                book = await go_through(here, REQUESTS)
            except AssertionError as difference:
                print(json.dumps({"show": "counters", "ok": False, "differs": str(difference)}))
                return False
            upstream_requests = here.upstream_requests()
    sums = {
        "requests": book.requests.total(),
        "statuses": by(book.requests, 2),
        "outcomes": by(book.requests, 3),
        "body_bytes": book.body_bytes.total(),
        "upstream_requests": upstream_requests,
        "limited": by(book.limited, 1),
        "streams": book.opened.total(),
        "streams_ended": by(book.closed, 2),
        "messages": by(book.messages, 1),
        "reloads": book.reloads,
    }
    seconds = round(time.monotonic() - began, 1)
    print(json.dumps({"show": "counters", "ok": True, "differences": 0, **sums, "seconds": seconds}))
    return True


if __name__ == "__main__":
    sys.exit(not uvloop.run(main()))
