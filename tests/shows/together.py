"""Four replicas ask as much as one: `python -m tests.shows.together`.

Prints one JSON line a part, with the bounds that did not hold. As arguments it takes the names of parts:

- `polls`: each replica has 100 clients, evenly phased, that poll one chat once a second: one replica on its
  own, then four that share a Redis; these with Redis killed, and with one of them killed while it leads a
  flight that others wait for. The first second is left out of all counts of requests;
- `cold`: 400 clients, each with its token, ask for one cold chat at once. They are connected, and have
  asked for another chat before.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import uvloop

from gateway.demo.wire import Client, Response
from tests.shared.servers import Server, redis_server
from tests.shows.cluster import REPLICAS, Cluster, Sample, cluster, p99_ms, statuses, timed, told, url_of
from tests.shows.stand import HOST, UPSTREAM_S, asking, info_path

POLLERS, SECONDS, QUICK_S = 100, 12, 5
MAX_TOGETHER, MAX_ALONE = 1.2, 4.0
#: What the settings say.
LEASE_S = 1.0
#: For who waits: whether the lease is over is looked at by a process that shares two cores with all others.
MARGIN_S = 0.25
#: Of the emulator's time: the leader has asked, and is not answered yet.
FOLLOW_S, KILL_S = 0.3 * UPSTREAM_S, 0.6 * UPSTREAM_S
FOLLOWERS = 60
CROWD, ROUNDS = 400, 5
SETTLE_S = 0.5
PAUSE_S = 1

#: Faults of the upstream, and what everybody then gets. A 429 comes last: it pauses the whole account.
ENDINGS: Mapping[str, tuple[Mapping[str, object], int]] = {
    "200": ({}, 200),
    "404": ({"status": 404, "code": 12}, 404),
    "500": ({"status": 500}, 502),
    "429": ({"status": 429, "retry_after": str(PAUSE_S)}, 503),
}


# -- polls -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Polled:
    """What the clients saw, and how often the upstream was asked after the first second."""

    samples: tuple[Sample, ...]
    fetches: int

    def figures(self) -> dict[str, Any]:
        return {
            "upstream_requests": self.fetches,
            "statuses": statuses(self.samples),
            "latency_p99_ms": p99_ms(self.samples),
            "latency_max_ms": round(max(one.seconds for one in self.samples) * 1000, 1),
        }


async def poll(stand: Cluster, path: str, index: int, begins: float, seconds: int) -> list[Sample]:
    """One client, until its connection is lost."""
    count = len(stand.replicas)
    replica, phase = index % count, index / (POLLERS * count)
    client = Client(HOST, stand.replicas[replica].public)
    await client.open()
    question = asking(path, stand.token())
    samples: list[Sample] = []
    for second in range(seconds):
        await asyncio.sleep(begins + second + phase - time.monotonic())
        samples.append(await timed(client, question, replica))
        if samples[-1].status == 0:
            break
    client.close()
    return samples


async def polled(stand: Cluster, seconds: int, during: Callable[[], Awaitable[None]] | None = None) -> Polled:
    """All clients of all replicas on one new chat; `during` is awaited in the middle of it."""
    chat = await stand.chat()
    # Time enough for all to connect.
    begins = time.monotonic() + 1.0
    clients = range(POLLERS * len(stand.replicas))
    polling = asyncio.gather(*(poll(stand, info_path(chat), index, begins, seconds) for index in clients))
    await asyncio.sleep(begins + 1 - time.monotonic())
    before = await stand.fetches(chat)
    if during is not None:
        await asyncio.sleep(begins + seconds / 2 - time.monotonic())
        await during()
    samples = tuple(chain.from_iterable(await polling))
    return Polled(samples, await stand.fetches(chat) - before)


@dataclass(slots=True)
class Death:
    """The last replica leads a flight for a chat of its own, others follow, and it is killed."""

    stand: Cluster
    followers: tuple[Sample, ...] = ()
    fetches: int = 0

    async def __call__(self) -> None:
        stand, victim = self.stand, len(self.stand.replicas) - 1
        chat = await stand.chat()
        clients = [Client(HOST, stand.replicas[index % victim].public) for index in range(FOLLOWERS)]
        leader = Client(HOST, stand.replicas[victim].public)
        await asyncio.gather(*(client.open() for client in (leader, *clients)))
        questions = [asking(info_path(chat), stand.token()) for _ in range(FOLLOWERS + 1)]
        leading = asyncio.create_task(timed(leader, questions[-1], victim))
        await asyncio.sleep(FOLLOW_S)
        following = asyncio.gather(
            *(
                timed(client, question, index % victim)
                for index, (client, question) in enumerate(zip(clients, questions, strict=False))
            )
        )
        await asyncio.sleep(KILL_S - FOLLOW_S)
        stand.replicas[victim].kill()
        assert (await leading).status == 0
        self.followers = tuple(await following)
        self.fetches = await stand.fetches(chat)
        for client in clients:
            client.close()


async def polls(folder: Path, redis: Server, seconds: int) -> bool:
    async with cluster(folder / "one", None, count=1) as alone:
        one = await polled(alone, seconds)
    async with cluster(folder / "four", url_of(redis.address)) as stand:
        await stand.until_together()
        together = await polled(stand, seconds)
        redis.kill()
        noticed_s = await stand.until_alone()
        without = await polled(stand, seconds)
        redis.start()
        back_s = await stand.until_together()
        death = Death(stand)
        killed = await polled(stand, seconds, death)
        forgotten_s = await stand.until_together(REPLICAS - 1)
        flights, failures = await stand.shared("flights"), await stand.shared("failures")
    victim = REPLICAS - 1
    left = [sample for sample in (*killed.samples, *death.followers) if sample.replica != victim]
    longest_s = max(sample.seconds for sample in left)
    everybody = (*one.samples, *together.samples, *without.samples, *left)
    bounds = {
        "together": together.fetches <= MAX_TOGETHER * one.fetches,
        "without Redis": without.fetches <= MAX_ALONE * one.fetches,
        "one killed": killed.fetches <= MAX_TOGETHER * one.fetches,
        "all are answered": {sample.status for sample in everybody} == {200},
        "nobody hangs": longest_s <= LEASE_S + UPSTREAM_S + MARGIN_S,
        # The dead leader's, and that of the one who took over.
        "one takes over": death.fetches == 2,
    }
    figures = {
        "show": "together",
        "part": "polls",
        "seconds": seconds,
        "one": one.figures(),
        "together": together.figures(),
        "without_redis": without.figures(),
        "one_killed": killed.figures()
        | {
            "longest_wait_of_others_ms": round(longest_s * 1000, 1),
            "longest_wait_of_followers_ms": round(max(one.seconds for one in death.followers) * 1000, 1),
            "upstream_requests_of_the_dead_leaders_chat": death.fetches,
        },
        "noticed_after_s": round(noticed_s, 2),
        "back_after_s": round(back_s, 2),
        "dead_forgotten_after_s": round(forgotten_s, 2),
        **flights,
        **failures,
    }
    return told(figures, bounds)


# -- cold ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Rush:
    """What came of one: how often the upstream was asked, what was answered, and when the last one had it."""

    upstream_requests: int
    statuses: Mapping[int, int]
    distinct_bodies: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Crowd:
    """Clients of all replicas, each with its token."""

    clients: tuple[Client, ...]
    tokens: tuple[str, ...]

    async def ask(self, chat: str) -> list[Response]:
        """All ask for the chat in one breath."""
        questions = [asking(info_path(chat), token) for token in self.tokens]
        asked = zip(self.clients, questions, strict=True)
        return await asyncio.gather(*(client.ask(question) for client, question in asked))


async def crowd(stand: Cluster, known: str) -> Crowd:
    """All are connected, and all tokens are known: they have asked for another chat."""
    ports = [replica.public for replica in stand.replicas]
    clients = tuple(Client(HOST, ports[index % len(ports)]) for index in range(CROWD))
    it = Crowd(clients, tuple(stand.token() for _ in clients))
    await it.ask(known)
    return it


async def rush(stand: Cluster, them: Crowd, fault: Mapping[str, object]) -> Rush:
    """They ask for a chat that nobody has asked for."""
    chat = await stand.chat()
    if fault:
        await stand.control("POST", "faults", {"chat": chat, "times": None, "applies": True, **fault})
    await asyncio.sleep(SETTLE_S)
    began = time.monotonic()
    answers = await them.ask(chat)
    return Rush(
        await stand.fetches(chat),
        Counter(answer.status for answer in answers),
        len({answer.body for answer in answers}),
        max(answer.received for answer in answers) - began,
    )


async def cold(folder: Path, redis: Server, _: int) -> bool:
    rushes: dict[str, list[Rush]] = {}
    async with cluster(folder / "cold", url_of(redis.address)) as stand:
        await stand.until_together()
        them = await crowd(stand, await stand.chat())
        for name, (fault, _status) in ENDINGS.items():
            for _ in range(ROUNDS):
                rushes.setdefault(name, []).append(await rush(stand, them, fault))
                if name == "429":
                    await asyncio.sleep(PAUSE_S)
        flights, failures = await stand.shared("flights"), await stand.shared("failures")
    bounds = {
        name: all(
            one.upstream_requests == one.distinct_bodies == 1 and one.statuses == {ENDINGS[name][1]: CROWD}
            for one in rounds
        )
        for name, rounds in rushes.items()
    }
    figures = {
        name: {
            "upstream_requests": [one.upstream_requests for one in rounds],
            "statuses": [dict(one.statuses) for one in rounds],
            "distinct_bodies": [one.distinct_bodies for one in rounds],
            "last_answer_after_ms": round(statistics.median(one.seconds for one in rounds) * 1000, 1),
        }
        for name, rounds in rushes.items()
    }
    return told(
        {"show": "together", "part": "cold", "clients": CROWD, **figures, **flights, **failures}, bounds
    )


# -- all -------------------------------------------------------------------------------------------------


PARTS = {"polls": polls, "cold": cold}


async def main(asked: set[str]) -> bool:
    seconds = QUICK_S if "quick" in asked else SECONDS
    held = []
    for name, part in PARTS.items():
        if name in asked or not asked - {"quick"}:
            with tempfile.TemporaryDirectory() as folder, redis_server(Path(folder) / "redis") as redis:
                held.append(await part(Path(folder), redis, seconds))
    return all(held)


if __name__ == "__main__":
    sys.exit(not uvloop.run(main(set(sys.argv[1:]))))
