"""Two gateways that share a real Redis, before one emulator, over sockets.

Both run in one process here; in `tests.shows.together`, `exact` and `outages` each has one of its own.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from gateway.demo.wire import Client
from gateway.emulator import Emulator, EmulatorConfig
from tests.identity_provider import CA_FILE
from tests.shared.servers import Server, needs_debian, redis_server
from tests.shows.cluster import Cluster
from tests.shows.stand import HOST
from tests.shows.together import ENDINGS, Crowd, rush
from tests.support import (
    APP_KEY,
    PATIENCE_S,
    Response,
    Wire,
    World,
    chat_path,
    message,
    policies_with,
    until,
    world,
)

pytestmark = pytest.mark.anyio

#: Whoever runs the tests may have other work to do: neither Redis nor a leader is given up on for that.
UNHURRIED = {"deadline_ms": 1000, "lease_ms": 5000}
#: Nor is an answer too old by the time that the second replica is asked.
FRESH_MS = 8000


@dataclass(frozen=True, slots=True)
class Pair:
    """Two replicas and their Redis; the emulator is the first one's."""

    one: World
    other: World
    redis: Server

    @property
    def emulator(self) -> Emulator:
        return self.one.emulator

    @property
    def both(self) -> tuple[World, World]:
        return self.one, self.other

    async def until_together(self) -> None:
        """Wait until they know each other, and miss nothing."""
        await until(lambda: all(map(is_together, self.both)))

    def keys(self, pattern: str) -> list[bytes]:
        return list(self.redis.command("KEYS", f"chat-gateway:1:{pattern}"))


def is_together(it: World) -> bool:
    return {"up": True, "whole": True, "replicas": 2}.items() <= status(it).items()


def status(it: World) -> Mapping[str, object]:
    assert it.gateway.cluster is not None
    return it.gateway.cluster.status()


@contextlib.asynccontextmanager
async def pair(
    folder: Path,
    redis: Server,
    *,
    latency_s: float = 0.0,
    limits: str | None = None,
    scheme: str = "redis",
    **of_redis: Any,
) -> AsyncIterator[Pair]:
    """Two worlds, the second before the first one's emulator; `limits` are the partner's, in YAML."""
    policies = folder / "shared-policies"
    policies_with(policies, "chatting: 1000", f"chatting: {FRESH_MS}")
    if limits is not None:
        file = policies / "clients" / "partner.yaml"
        before, _, _ = file.read_text().partition("    limits:")
        file.write_text(f"{before}    limits: {limits}\n")
    settings: dict[str, Any] = {
        "redis_url": f"{scheme}://{HOST}:{redis.port}",
        "redis": UNHURRIED | of_redis,
        "policies": str(policies),
        "admin": {"token_file": "admin-token", "hosts": ["gateway.test"]},
    }
    config = EmulatorConfig(app_key=APP_KEY, latency_s=latency_s)
    for name in ("one", "other"):
        (folder / name).mkdir()
    async with (
        world(folder / "one", emulator=config, **settings) as one,
        world(folder / "other", upstream=one.server.url, **settings) as other,
    ):
        it = Pair(one, other, redis)
        await it.until_together()
        yield it


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with redis_server(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture(scope="module")
async def shared_pair(redis: Server, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Pair]:
    async with pair(tmp_path_factory.mktemp("pair"), redis) as it:
        yield it


@pytest.fixture
async def here(shared_pair: Pair) -> Pair:
    """The module's pair, with nothing counted and nothing going wrong."""
    await shared_pair.until_together()
    shared_pair.one.start_over()
    return shared_pair


async def operate(it: World, method: str, path: str, said: object = None) -> Response:
    """What the private listener says to its operator."""
    fields = {"authorization": f"Bearer {it.stage.admin_token}", "content-type": "application/json"}
    wire = Wire(*await asyncio.open_connection(*it.addresses.private), it.received)
    try:
        body = b"" if said is None else json.dumps(said).encode()
        await wire.send(message(method, path, fields, body))
        return await wire.response(method)
    finally:
        await wire.close()


async def metric(it: World, name: str) -> float:
    """The sum of a family's samples."""
    lines = (await it.admin("/metrics")).body.decode().splitlines()
    found = [line for line in lines if line.startswith(f"chat_gateway_{name}")]
    assert found, name
    return sum(float(line.rsplit(" ", 1)[1]) for line in found)


async def eventually(ask: Callable[[], Awaitable[bool]]) -> None:
    """Ask until it is so."""
    async with asyncio.timeout(PATIENCE_S):
        while not await ask():  # noqa: ASYNC110 - nobody sets an event for it
            await asyncio.sleep(0.01)


# -- answers ---------------------------------------------------------------------------------------------


async def test_what_one_has_fetched_the_other_has(here: Pair) -> None:
    target = chat_path(here.one.chat(), "/info")
    asked, served = await here.one.get(target), await here.other.get(target)
    assert (asked.status, served.status) == (200, 200)
    assert served.body == asked.body
    assert here.one.upstream_requests() == 1
    again = await here.other.get(target)
    assert "hit" in (again.header("cache-status") or "")
    assert again.header("etag") == asked.header("etag")


async def test_each_client_gets_its_own_of_what_another_replica_has_fetched(here: Pair) -> None:
    target = chat_path(here.one.chat(), "/info")
    whole = await here.one.get(target)
    etag = whole.header("etag")
    assert etag
    assert b"agentId" in whole.body
    seen = await here.other.ask("GET", target, subject="partner")
    assert seen.status == 200
    assert b"agentId" not in seen.body
    assert b"state" in seen.body
    assert seen.header("etag") != etag
    for subject, expected in (("nobody", 403), (None, 401)):
        assert (await here.other.ask("GET", target, subject=subject)).status == expected
    unchanged = await here.other.get(target, if_none_match=etag)
    assert (unchanged.status, unchanged.body) == (304, b"")
    head = await here.other.ask("HEAD", target)
    assert (head.status, head.header("content-length")) == (200, str(len(whole.body)))
    assert here.one.upstream_requests() == 1


async def test_what_a_write_has_changed_is_seen_through_the_other_at_once(here: Pair) -> None:
    target = chat_path(here.one.chat(), "/info")
    for round_ in range(10):
        writer, reader = here.both if round_ % 2 else reversed(here.both)
        await reader.get(target)
        silent = await metric(writer, "shared_silent_replicas_total")
        wrote = await writer.write("PUT", f"{target}/visitorName", {"visitorName": f"Zoe {round_}"})
        assert wrote.status == 201
        read = await reader.get(target)
        # A machine that is busy elsewhere may be too late for the 50 ms that a writer waits.
        is_told = await metric(writer, "shared_silent_replicas_total") == silent
        assert f"Zoe {round_}".encode() in read.body or not is_told


@pytest.mark.parametrize("name", ENDINGS)
async def test_a_cold_chat_costs_one_request(tmp_path: Path, redis: Server, name: str) -> None:
    fault, status_ = ENDINGS[name]
    async with pair(tmp_path, redis, latency_s=0.2) as it:
        sides = [it.both[index % 2] for index in range(100)]
        clients = tuple(Client(HOST, side.addresses.public[1]) for side in sides)
        them = Crowd(clients, tuple(side.token(jti=str(index)) for index, side in enumerate(sides)))
        stand = Cluster(it.one.addresses.public[1], it.one.server.port, it.one.token, ())
        await them.ask(await stand.chat())
        outcome = await rush(stand, them, fault)
        for client in clients:
            client.close()
        assert (outcome.upstream_requests, outcome.distinct_bodies) == (1, 1)
        assert outcome.statuses == {status_: len(sides)}


# -- what else is shared ---------------------------------------------------------------------------------


async def test_a_revocation_is_in_force_in_both(here: Pair) -> None:
    target = chat_path(here.one.chat(), "/info")

    async def is_refused() -> bool:
        refused = await here.other.ask("GET", target, subject="internal")
        return (refused.status, refused.problem) == (401, "token-revoked")

    assert not await is_refused()
    taken = await operate(here.one, "POST", "/revocations", {"client": "internal"})
    assert (taken.status, taken.json()["shared"]) == (201, True)
    await eventually(is_refused)
    withdrawn = {"client": "internal", "withdrawn": True}
    assert (await operate(here.other, "POST", "/revocations", withdrawn)).status == 201
    await eventually(lambda: _is_served(here.one, target))


async def _is_served(it: World, target: str) -> bool:
    return (await it.ask("GET", target, subject="internal")).status == 200


async def test_usage_is_that_of_both(tmp_path: Path, redis: Server) -> None:
    async with pair(tmp_path, redis, prefix="usage") as it:
        target = chat_path(it.one.chat(), "/info")
        for side, times in zip(it.both, (3, 4), strict=True):
            for _ in range(times):
                await side.get(target)

        async def is_summed(side: World) -> bool:
            said = (await operate(side, "GET", "/usage")).json()
            return [row["requests"] for row in _rows(said) if row["client"] == "bff"] == [7]

        for side in it.both:
            await eventually(lambda side=side: is_summed(side))


def _rows(said: Any) -> Any:
    return said
