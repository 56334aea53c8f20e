"""An exact limit holds over four replicas: `python -m tests.shows.exact`.

A client has `limits: {shared: exact, requests: {per_second: 100, burst: 50}}`, and four closed loops at each
replica that ask for much more. Prints one JSON line a part, with the bounds that did not hold. As arguments
it takes the names of parts, and `quick` for less time:

- `whole`: Redis is there all the time;
- `per_replica`, `deny`, `allow`: it is killed after a third of the time and comes back empty after another;
  `redis.exact_limits_alone` is what the part is named for, and `docs/limits.md` says what it promises.

Seconds are the client's, from when it asked first to when it had the last answer.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import uvloop

from gateway.demo.stage import ISSUER
from gateway.demo.wire import Client
from tests.shared.servers import Server, redis_server
from tests.shows.cluster import REPLICAS, Cluster, Sample, cluster, statuses, timed, told, url_of
from tests.shows.stand import HOST, asking, info_path

PER_S, BURST = 100, 50
LOOPS = 4
SECONDS, QUICK_S = 30.0, 18.0
#: Ample for a limit ten times as high. Without it the loops would keep two cores busy with refusals.
PAUSE_S = 0.010
#: Replicas come back one by one: what the last ones still let in is on top of what Redis counts.
SPREAD_S = 0.3
#: How long after Redis went, or came, no replica does what it did before.
OVER_S, BACK_S = 1.0, 5.0
#: Of what the limit allows: a gateway that refuses everything would keep to it, too.
AT_LEAST = 0.9

CLIENT = f"""clients:
  metered:
    match: {{iss: "{ISSUER}", sub: metered}}
    accounts: "*"
    allow: [chat:read]
    limits:
      shared: exact
      requests: {{per_second: {PER_S}, burst: {BURST}}}
"""

#: Part → bursts on top of the rate, and single requests besides; None is no bound.
PROMISES: Mapping[str, tuple[int, int] | None] = {
    "whole": (1, 0),
    "per_replica": (3, REPLICAS - 1 + int(PER_S * SPREAD_S)),
    "deny": (2, 0),
    "allow": None,
}


async def loop(stand: Cluster, replica: int, path: str, until: float) -> list[Sample]:
    """One client: it asks as soon as it has its answer, and after a refusal a little later."""
    client = Client(HOST, stand.replicas[replica].public)
    await client.open()
    question = asking(path, stand.token("metered"))
    samples: list[Sample] = []
    while time.monotonic() < until:
        samples.append(await timed(client, question, replica))
        if samples[-1].status != 200:
            await asyncio.sleep(PAUSE_S)
    client.close()
    return samples


def admitted(samples: Sequence[Sample]) -> int:
    return sum(one.status == 200 for one in samples)


async def part(name: str, folder: Path, redis: Server, seconds: float) -> bool:
    """Play it, with an outage in the middle unless the part is `whole`."""
    alone: dict[str, Any] = {} if name == "whole" else {"redis": {"exact_limits_alone": name}}
    async with cluster(folder / "exact", url_of(redis.address), clients=CLIENT, **alone) as stand:
        path = info_path(await stand.chat())
        await stand.until_together()
        begins = time.monotonic()
        loops = asyncio.gather(
            *(loop(stand, index % REPLICAS, path, begins + seconds) for index in range(REPLICAS * LOOPS))
        )
        killed, came = begins + seconds / 3, begins + seconds * 2 / 3
        if name != "whole":
            await asyncio.sleep(killed - time.monotonic())
            await asyncio.to_thread(redis.kill)
            await asyncio.sleep(came - time.monotonic())
            await asyncio.to_thread(redis.start)
        samples = list(chain.from_iterable(await loops))
        failures = await stand.shared("failures")
    return told(*judged(name, samples, killed, came, failures))


def judged(
    name: str, samples: Sequence[Sample], killed: float, came: float, failures: Mapping[str, int]
) -> tuple[dict[str, object], dict[str, bool]]:
    """The figures, and which bounds held."""
    took_s = lasted(samples)
    promise = PROMISES[name]
    at_most = None if promise is None else int(PER_S * took_s + promise[0] * BURST + promise[1])
    away = [one for one in samples if killed + OVER_S <= one.at < came]
    back = [one for one in samples if one.at >= came + BACK_S]
    figures: dict[str, object] = {
        "show": "exact",
        "part": name,
        "seconds": round(took_s, 2),
        "requests": len(samples),
        "admitted": admitted(samples),
        "at_most": at_most,
        "statuses": statuses(samples),
        **failures,
    }
    bounds = {
        "all are answered": {one.status for one in samples} <= {200, 429},
        "at most what is promised": at_most is None or admitted(samples) <= at_most,
    }
    if name == "whole":
        bounds["no less than the rate"] = admitted(samples) >= AT_LEAST * PER_S * took_s
        return figures, bounds
    figures["admitted_without_redis"], figures["refused_without_redis"] = (
        admitted(away),
        len(away) - admitted(away),
    )
    if name == "deny":
        bounds["all are refused without Redis"] = admitted(away) == 0
    if name == "allow":
        bounds["nobody is refused without Redis"] = admitted(away) == len(away)
    if name == "per_replica":
        bounds["no less than the shares"] = admitted(away) >= AT_LEAST * PER_S * lasted(away)
    bounds["it counts again"] = 0 < admitted(back) <= PER_S * lasted(back) + BURST
    return figures, bounds


def lasted(samples: Sequence[Sample]) -> float:
    """From the first question to the last answer, in seconds."""
    return max(one.at + one.seconds for one in samples) - min(one.at for one in samples)


async def main(asked: set[str]) -> bool:
    seconds = QUICK_S if "quick" in asked else SECONDS
    held = []
    for name in PROMISES:
        if name in asked or not asked - {"quick"}:
            with tempfile.TemporaryDirectory() as folder, redis_server(Path(folder) / "redis") as redis:
                held.append(await part(name, Path(folder), redis, seconds))
    return all(held)


if __name__ == "__main__":
    sys.exit(not uvloop.run(main(set(sys.argv[1:]))))
