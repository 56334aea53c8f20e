"""Three gateways as processes of their own, a real Redis, and a fault proxy between: nobody is ever refused.

How quick they are is a matter of `make replicas`; here it counts that every answer comes and is right, and
that they find together again by themselves.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from gateway.demo.wire import Client, request
from tests.faults.proxy import NONE, Door, End, Fault, Proxy, Way, proxy
from tests.shared.servers import MASTER, Server, needs_debian, redis_server, sentinels, until
from tests.shows.cluster import Cluster, cluster, url_of
from tests.shows.stand import HOST, asking, info_path

pytestmark = pytest.mark.anyio

REPLICAS, POLL_S = 3, 0.1


@dataclass(slots=True)
class Polls:
    """What clients got who poll a chat by each replica all the while."""

    statuses: set[int]
    over: bool = False


async def poll(stand: Cluster, chat: str, replica: int, polls: Polls) -> None:
    client, question = Client(HOST, stand.replicas[replica].public), asking(info_path(chat), stand.token())
    while not polls.over:
        polls.statuses.add((await client.ask(question)).status)
        await asyncio.sleep(POLL_S)
    client.close()


@contextlib.asynccontextmanager
async def polled(stand: Cluster) -> AsyncIterator[None]:
    """While the block runs, each replica is polled; in the end, all polls were answered 200."""
    polls, chat = Polls(set()), await stand.chat()
    clients = [asyncio.create_task(poll(stand, chat, replica, polls)) for replica in range(REPLICAS)]
    try:
        yield
    finally:
        polls.over = True
        await asyncio.gather(*clients)
    assert polls.statuses == {200}


async def write_and_read(stand: Cluster) -> None:
    """A write by the first replica is seen by all."""
    chat, token = await stand.chat(), stand.token()
    clients = [Client(HOST, replica.public) for replica in stand.replicas]
    said = json.dumps({"visitorName": "Zoe"}).encode()
    path, fields = info_path(chat), {"Authorization": f"Bearer {token}"}
    for client in clients:
        assert (await client.ask(asking(path, token))).status == 200
    silent = await stand.shared("silent")
    written = await clients[0].ask(request("PUT", HOST, f"{path}/visitorName", fields, said))
    assert written.status == 201
    seen = [json.loads((await client.ask(asking(path, token))).body) for client in clients]
    for client in clients:
        client.close()
    if await stand.shared("silent") == silent:
        assert [info["info"]["visitorName"] for info in seen] == ["Zoe"] * REPLICAS


Strike = Callable[[Server, Proxy], Awaitable[object]]


def told(redis: Callable[[Server], object]) -> Strike:
    """Something that is done to the server, and waited for."""
    return lambda server, _: asyncio.to_thread(redis, server)


def injected(fault: Fault) -> Strike:
    return lambda _, way: way.inject(fault)


async def cut(_: Server, way: Proxy) -> None:
    """All connections are reset, and nobody listens any more."""
    await way.inject(Fault(Way(passes=0), Way(passes=0), Door.SHUT))


#: What strikes, and what mends it.
OUTAGES: dict[str, tuple[Strike, Strike]] = {
    "stopped": (told(Server.stop), told(Server.cont)),
    "killed": (told(Server.kill), told(Server.start)),
    "cut off": (cut, injected(NONE)),
    "silent": (injected(Fault(down=Way(passes=0, end=End.SILENCE))), injected(NONE)),
    "slow": (injected(Fault(down=Way(latency_s=0.2))), injected(NONE)),
}


@contextlib.asynccontextmanager
async def together(folder: Path) -> AsyncIterator[tuple[Cluster, Server, Proxy]]:
    with redis_server(folder / "redis") as redis:
        async with proxy(redis.address) as way:
            url = url_of((HOST, way.port))
            async with cluster(folder / "replicas", url, count=REPLICAS) as stand:
                await stand.until_together(REPLICAS)
                yield stand, redis, way


async def test_redis_comes_and_goes_and_nobody_notices(tmp_path: Path) -> None:
    async with together(tmp_path) as (stand, redis, way):
        for begin, end in OUTAGES.values():
            async with polled(stand):
                await begin(redis, way)
                await stand.until_alone()
                await end(redis, way)
                await stand.until_together(REPLICAS)
            await write_and_read(stand)
        async with polled(stand):
            missed = sum((await stand.shared("missed")).values())
            await asyncio.to_thread(redis.flush)
            await stand.until_all(lambda said: bool(said["shared_whole"]), "whole again")
        assert sum((await stand.shared("missed")).values()) >= missed


async def test_a_replica_that_is_killed_while_it_leads_is_taken_over_by_one(tmp_path: Path) -> None:
    async with together(tmp_path) as (stand, _, _):
        chat = await stand.chat()
        await stand.control("POST", "faults", {"resource": "info", "delay_s": 1.0})
        question = asking(info_path(chat), stand.token())
        leader, *others = [Client(HOST, replica.public) for replica in stand.replicas]
        leading = asyncio.create_task(leader.ask(question))
        while not await stand.fetches(chat):  # noqa: ASYNC110 - another process
            await asyncio.sleep(0.01)
        following = [asyncio.create_task(other.ask(question)) for other in others]
        await asyncio.sleep(0.1)
        stand.replicas[0].kill()
        assert {response.status for response in await asyncio.gather(*following)} == {200}
        await asyncio.gather(leading, return_exceptions=True)
        assert await stand.fetches(chat) == 2
        for client in (leader, *others):
            client.close()


@needs_debian
async def test_a_master_that_is_killed_is_followed_by_its_replica(tmp_path: Path) -> None:
    password = tmp_path / "password"
    password.write_text("between-us\n")
    said = {"sentinel_username": "gateway", "sentinel_password_file": str(password)}
    name = said["sentinel_username"]
    watching = sentinels(tmp_path / "redis", sentinel_username=name, sentinel_password="between-us")
    with watching as watched:
        [(host, port)] = watched.addresses
        url = f"redis+sentinel://{host}:{port}/{MASTER}/0"
        async with cluster(tmp_path / "replicas", url, count=REPLICAS, redis=said) as stand:
            await stand.until_together(REPLICAS)
            async with polled(stand):
                await asyncio.to_thread(watched.master.kill)
                await stand.until_alone()
                await asyncio.to_thread(until, lambda: watched.master_port() == watched.replica.port)
                await stand.until_together(REPLICAS)
            await write_and_read(stand)
