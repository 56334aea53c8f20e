"""Exact limits and tallies of several replicas through a real Redis."""

from __future__ import annotations

import asyncio
import contextlib
import io
import random
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from gateway.core.limits import DAY_S, Limits, Rate
from gateway.observe.logs import logger
from gateway.observe.usage import Usage
from gateway.shared.commands import RedisCommands
from gateway.shared.connections import Place
from gateway.shared.limits import Alone, SharedLimiter
from gateway.shared.link import Link
from gateway.shared.names import Names
from gateway.shared.tallies import Tallies
from gateway.stores.limits import MemoryLimiter
from tests.shared.servers import VERSIONS, Server, Version, redis_server
from tests.stores.limiter_contract import client
from tests.support import until

pytestmark = pytest.mark.anyio

NAMES = Names("chat-gateway")
REPLICAS, RATE, BURST = 4, 100, 8
WHO = client(Limits(Rate(RATE, BURST), in_flight=400, exact=True))


class Replica:
    """What counts in a replica. Its wall clock is set by hand."""

    def __init__(self, server: Server, name: str) -> None:
        self.link = Link(
            Place((server.address,)),
            # A busy machine is no outage.
            deadline_s=1.0,
            now=time.monotonic,
            jitter=random.Random(1).random,
            channels=(NAMES.inbox(name),),
            heard=lambda _: None,
            changed=lambda: None,
            log=logger("error", io.StringIO()),
        )
        self.wall = time.time()
        commands = RedisCommands(self.link, NAMES, name, lease_s=1.0)
        self.memory = MemoryLimiter(time.monotonic, lambda: self.wall)
        self.memory.divide(REPLICAS)
        self.limiter = SharedLimiter(self.memory, commands, Alone.PER_REPLICA)
        self.usage = Usage(lambda: self.wall)
        self.tallies = Tallies(commands, {"usage": self.usage, "limits": self.memory}, lambda: self.wall)

    async def admitted(self, times: int) -> int:
        """How many of so many get in and leave, some of them together."""
        standings = await asyncio.gather(*(self.limiter.enter(WHO, "info") for _ in range(times)))
        inside = sum(not standing.violated for standing in standings)
        for _ in range(inside):
            self.limiter.leave(WHO, "info")
        return inside


@contextlib.asynccontextmanager
async def replicas(server: Server, count: int = REPLICAS) -> AsyncIterator[list[Replica]]:
    async with AsyncExitStack() as stack:
        made = [Replica(server, f"r{number}") for number in range(count)]
        for replica in made:
            stack.push_async_callback(replica.link.close)
            await replica.link.begin()
        yield made


async def crowd(cluster: list[Replica], rounds: int) -> int:
    return sum(
        [sum(await asyncio.gather(*(replica.admitted(5) for replica in cluster))) for _ in range(rounds)]
    )


@pytest.mark.parametrize("version", VERSIONS)
async def test_replicas_keep_to_one_limit_and_without_redis_to_what_is_promised(
    tmp_path: Path, version: Version
) -> None:
    with redis_server(tmp_path, version=version) as server:
        async with replicas(server) as cluster:
            begun = time.monotonic()
            total = await crowd(cluster, 20)
            assert BURST <= total <= RATE * (time.monotonic() - begun) + BURST
            assert all(replica.link.up for replica in cluster)
            server.kill()
            total += await crowd(cluster, 20)
            server.start()
            await until(lambda: all(replica.link.up for replica in cluster))
            total += await crowd(cluster, 20)
            assert total <= RATE * (time.monotonic() - begun) + 3 * BURST


@pytest.mark.parametrize("version", VERSIONS)
async def test_counts_outlive_a_replica_and_replicas_an_emptied_redis(
    tmp_path: Path, version: Version
) -> None:
    def rows(replica: Replica) -> list[object]:
        return [row["requests"] for row in replica.usage.table()]

    with redis_server(tmp_path, version=version) as server:
        async with replicas(server, 2) as (here, there):
            for replica in (here, there):
                replica.usage.today("bff").requests += 3
                await replica.tallies.sync()
            here.wall += DAY_S
            there.wall += DAY_S
            here.usage.today("bff").requests += 1
            assert await here.tallies.sync()
            server.flush()
            for replica in (here, there) * 31:
                assert await replica.tallies.sync()
            fresh = Replica(server, "fresh")
            fresh.wall = here.wall
            assert await fresh.tallies.sync()
            assert rows(here) == rows(there) == rows(fresh) == [6, 1]
            await fresh.link.close()
