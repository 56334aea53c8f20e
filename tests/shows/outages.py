"""Redis goes away under load, and nobody notices: `python -m tests.shows.outages`.

Four replicas; 200 clients poll 10 chats once a second each, evenly phased, and four write to them every two
seconds. Each outage is between two calm stretches. Prints one JSON line an outage, with the bounds that did
not hold. As arguments it takes their names:

- `stopped`: Redis takes connections but answers nothing, for three seconds;
- `flushed`: all keys are dropped;
- `killed`: connections are refused for three seconds, then it is back with nothing in it;
- `failed-over`: the master is killed, and Sentinel makes its replica the master (Debian's, where installed).

Latencies are the clients': the p99 of reads and writes alike, and the median of reads, which shows whether
hits are still hits. Judged is the worst second from just before Redis goes to one second after it is back;
seconds begin every quarter of a second. So is how often infos are fetched while Redis is away: writes are not
counted, but what is fetched because of them is.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import shutil
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import cycle, repeat
from pathlib import Path

import uvloop

from gateway.demo.wire import Client, request
from tests.shared.servers import MASTER, Server, redis_server, sentinels, until
from tests.shows.cluster import (
    LOOKS_S,
    PATIENCE_S,
    REPLICAS,
    Cluster,
    Sample,
    cluster,
    median_ms,
    p99_ms,
    statuses,
    timed,
    told,
    url_of,
)
from tests.shows.stand import HOST, asking, info_path

READERS, READS_S, CHATS = 200, 1.0, 10
WRITERS, WRITES_S = 4, 2.0
CALM_S, AWAY_S = 6.0, 3.0
#: When the clients begin, and when Redis is back.
SETTLE_S = 1.0
WINDOW_S, STEP_S = 1.0, 0.25
FAILED_OVER = "failed-over"
MAX_ADDED_MS, MAX_ADDED_MEDIAN_MS, MAX_BACK_S = 50.0, 10.0, 5.0
#: Of a calm stretch as long: when all are together again, and while each is alone.
MAX_UPSTREAM, MAX_ALONE = 1.2, 4.0


# -- load ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Window:
    """What was asked in a stretch of time."""

    reads: tuple[Sample, ...]
    writes: tuple[Sample, ...]

    @property
    def all(self) -> tuple[Sample, ...]:
        return self.reads + self.writes

    def figures(self) -> dict[str, float]:
        return {
            "p99_ms": p99_ms(self.all),
            "reads_p99_ms": p99_ms(self.reads),
            "reads_median_ms": median_ms(self.reads),
            "writes_p99_ms": p99_ms(self.writes),
        }


def worst(windows: Sequence[Window]) -> dict[str, float]:
    """Each figure from the window in which it was highest."""
    figures = [one.figures() for one in windows]
    return {name: max(one[name] for one in figures) for name in figures[0]}


@dataclass(slots=True)
class Load:
    """What the clients saw."""

    over: bool = False
    reads: list[Sample] = field(default_factory=list)
    writes: list[Sample] = field(default_factory=list)

    def during(self, begins: float, ends: float) -> Window:
        return Window(
            tuple(one for one in self.reads if begins <= one.at < ends),
            tuple(one for one in self.writes if begins <= one.at < ends),
        )

    def seconds(self, begins: float, ends: float) -> list[Window]:
        """The windows between these two: one each step, and the last that there is room for."""
        last = ends - WINDOW_S
        starts = (begins + number * STEP_S for number in range(math.ceil((last - begins) / STEP_S)))
        return [self.during(start, start + WINDOW_S) for start in (*starts, last)]


@dataclass(frozen=True, slots=True)
class Asker:
    """A client of one replica, which has a question every so often."""

    replica: int
    questions: Iterator[bytes]
    every_s: float
    phase: float

    async def ask(self, stand: Cluster, load: Load, samples: list[Sample]) -> None:
        """On time, or as soon as it has its answer, until the load is over."""
        client = Client(HOST, stand.replicas[self.replica].public)
        await client.open()
        due = time.monotonic() + self.phase * self.every_s
        while not load.over:
            await asyncio.sleep(due - time.monotonic())
            due = max(due + self.every_s, time.monotonic())
            samples.append(await timed(client, next(self.questions), self.replica))
        client.close()


def reader(stand: Cluster, chats: Sequence[str], index: int) -> Asker:
    questions = repeat(asking(info_path(chats[index % CHATS]), stand.token()))
    return Asker(index // CHATS % REPLICAS, questions, READS_S, index / READERS)


def writer(stand: Cluster, chats: Sequence[str], index: int) -> Asker:
    """Each writes to each chat in its turn."""
    name = json.dumps({"visitorName": "Zoe"}).encode()
    fields = {"Authorization": f"Bearer {stand.token()}"}
    first = index * CHATS // WRITERS
    questions = cycle(
        [
            request("PUT", HOST, f"{info_path(chat)}/visitorName", fields, name)
            for chat in (*chats[first:], *chats[:first])
        ]
    )
    return Asker(index % REPLICAS, questions, WRITES_S, index / WRITERS)


@contextlib.asynccontextmanager
async def loaded(stand: Cluster) -> AsyncIterator[Load]:
    """All clients at work, while the block runs."""
    chats = (await stand.control("POST", "chats", {"count": CHATS, "accept": True}))["ids"]
    load = Load()
    reading = (reader(stand, chats, index).ask(stand, load, load.reads) for index in range(READERS))
    writing = (writer(stand, chats, index).ask(stand, load, load.writes) for index in range(WRITERS))
    clients = asyncio.gather(*reading, *writing)
    try:
        yield load
    finally:
        load.over = True
        await clients


# -- outages ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Outage:
    """How it begins and ends, in a thread: servers are waited for."""

    begin: Callable[[], object]
    end: Callable[[], object]
    away_s: float = AWAY_S
    #: Whether replicas are alone meanwhile. If not, they find that messages are missing.
    is_felt: bool = True


def nothing() -> None:
    """It is over when it has begun."""


def of_one(redis: Server) -> dict[str, Outage]:
    return {
        "stopped": Outage(redis.stop, redis.cont),
        "flushed": Outage(redis.flush, nothing, 0.0, is_felt=False),
        "killed": Outage(redis.kill, redis.start),
    }


async def noticed(stand: Cluster, outage: Outage, missed: Mapping[str, int]) -> float:
    """Wait until each replica knows; the seconds that it took."""
    if outage.is_felt:
        return await stand.until_alone()
    began, expected = time.monotonic(), sum(missed.values()) + REPLICAS
    async with asyncio.timeout(PATIENCE_S):
        while sum((await stand.shared("missed")).values()) < expected:  # noqa: ASYNC110 - other processes
            await asyncio.sleep(LOOKS_S)
    return time.monotonic() - began


async def calm(stand: Cluster, load: Load) -> tuple[Window, int]:
    """A stretch in which nothing happens, and how often infos were fetched in it."""
    fetched, begins = await stand.fetches(), time.monotonic()
    await asyncio.sleep(CALM_S)
    return load.during(begins, time.monotonic()), await stand.fetches() - fetched


async def play(name: str, stand: Cluster, outage: Outage) -> bool:
    await stand.until_together()
    async with loaded(stand) as load:
        await asyncio.sleep(SETTLE_S)
        before, fetches_before = await calm(stand, load)
        missed, fetches = await stand.shared("missed"), await stand.fetches()
        gone = time.monotonic()
        noticing = asyncio.create_task(noticed(stand, outage, missed))
        await asyncio.to_thread(outage.begin)
        await asyncio.sleep(outage.away_s)
        await asyncio.to_thread(outage.end)
        fetches_away, back = await stand.fetches() - fetches, time.monotonic()
        noticed_s = await noticing
        await stand.until_together()
        back_s = time.monotonic() - back
        await asyncio.sleep(back + SETTLE_S - time.monotonic())
        after, fetches_after = await calm(stand, load)
    # Those that were under way when it went are judged, too.
    windows, usual = load.seconds(gone - STEP_S, back + SETTLE_S), before.figures()
    over = worst(windows)
    everything = load.during(0, math.inf).all
    usual_fetches = fetches_before / CALM_S * (back - gone)
    bounds = {
        "no errors": {one.status for one in everything} == {200, 201},
        "hardly slower": over["p99_ms"] <= usual["p99_ms"] + MAX_ADDED_MS,
        "hits stay hits": over["reads_median_ms"] <= usual["reads_median_ms"] + MAX_ADDED_MEDIAN_MS,
        "back by itself": back_s <= MAX_BACK_S,
        "together again": fetches_after <= MAX_UPSTREAM * fetches_before,
    }
    if outage.is_felt:
        bounds["alone"] = fetches_away <= MAX_ALONE * usual_fetches
    figures = {
        "show": "outages",
        "outage": name,
        "away_s": round(back - gone, 2),
        "noticed_after_s": round(noticed_s, 2),
        "back_after_s": round(back_s, 2),
        "statuses": statuses(everything),
        "before": usual,
        "worst_second_before": worst(load.seconds(gone - CALM_S, gone)),
        "over": load.during(gone - STEP_S, back + SETTLE_S).figures(),
        "worst_second": over,
        "p99_ms_by_second": [one.figures()["p99_ms"] for one in windows],
        "after": after.figures(),
        "fetches_before": fetches_before,
        "fetches_away": fetches_away,
        "fetches_as_usual": round(usual_fetches),
        "fetches_after": fetches_after,
        **await stand.shared("flights"),
    }
    return told(figures, bounds)


async def on_one(folder: Path, asked: Callable[[str], bool]) -> list[bool]:
    """The outages of a Redis that stands alone."""
    with redis_server(folder / "redis") as redis:
        async with cluster(folder / "one", url_of(redis.address)) as stand:
            outages = of_one(redis).items()
            return [await play(name, stand, outage) for name, outage in outages if asked(name)]


async def failed_over(folder: Path) -> bool:
    if shutil.which("redis-sentinel") is None:
        return told({"show": "outages", "outage": FAILED_OVER, "skipped": "no redis-sentinel here"}, {})
    with sentinels(folder / "redis") as watched:
        [(host, port)] = watched.addresses
        outage = Outage(
            watched.master.kill, lambda: until(lambda: watched.master_port() == watched.replica.port), 0.0
        )
        async with cluster(folder / "sentinel", f"redis+sentinel://{host}:{port}/{MASTER}/0") as stand:
            return await play(FAILED_OVER, stand, outage)


async def main(names: set[str]) -> bool:
    def asked(name: str) -> bool:
        return not names or name in names

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        held = await on_one(folder, asked) if names != {FAILED_OVER} else []
        if asked(FAILED_OVER):
            held.append(await failed_over(folder))
    return all(held)


if __name__ == "__main__":
    sys.exit(not uvloop.run(main(set(sys.argv[1:]))))
