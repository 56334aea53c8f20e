"""Revocations through a real Redis; and a user of Redis with the rights that docs/configuration.md names."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import math
import random
import re
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from gateway.core.limits import Rate
from gateway.identity.revocations import Revocations
from gateway.observe.logs import logger
from gateway.shared.commands import RedisCommands
from gateway.shared.connections import Place
from gateway.shared.link import Link
from gateway.shared.names import Names
from gateway.shared.names import Place as PlaceOfEntry
from gateway.shared.revocations import SharedRevocations
from tests.shared.servers import VERSIONS, Server, Version, redis_server
from tests.support import until

pytestmark = pytest.mark.anyio

PAGE = (Path(__file__).parents[2] / "docs" / "configuration.md").read_text()
NAMES = Names("chat-gateway")
DEADLINE_S = 1.0


class Replica:
    """A replica that does nothing but share its revocations."""

    def __init__(self, place: Place, name: str, journal: Path | None = None) -> None:
        self.link = Link(
            place,
            deadline_s=DEADLINE_S,
            now=time.monotonic,
            jitter=random.Random(1).random,
            channels=(NAMES.all, NAMES.inbox(name)),
            heard=self._hear,
            changed=lambda: None,
            log=logger("debug", io.StringIO()),
        )
        self.commands = RedisCommands(self.link, NAMES, name, lease_s=1.0)
        self.revocations = Revocations(None, journal, time.time)
        self.shared = SharedRevocations(self.commands, self.revocations)
        self.revocations.tell = self.shared.publish
        self._learning: set[asyncio.Task[None]] = set()

    def _hear(self, payload: bytes) -> None:
        said = json.loads(payload)
        if said.get("do") == "revoked":
            self._learning.add(asyncio.create_task(self.shared.learn(said["version"])))

    async def mark(self) -> None:
        beat = await self.commands.beat(1)
        assert beat is not None
        await self.shared.learn(beat.revocations)

    def has(self, name: str) -> bool:
        return self.revocations.is_client_revoked(name)


@contextlib.asynccontextmanager
async def replica(server: Server, name: str, journal: Path | None = None) -> AsyncIterator[Replica]:
    made = Replica(Place((server.address,)), name, journal)
    await made.link.begin()
    try:
        await until(lambda: made.link.subscribed)
        yield made
    finally:
        await made.link.close()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    folder = tmp_path / "redis"
    folder.mkdir()
    with redis_server(folder) as running:
        yield running


async def test_a_message_brings_a_record_to_another(server: Server, tmp_path: Path) -> None:
    async with replica(server, "one", tmp_path / "one") as one, replica(server, "other") as other:
        for each in (one, other):
            await each.mark()
        assert await one.revocations.record({"client": "bff"})
        await until(lambda: other.has("bff"))
        assert await one.revocations.record({"client": "bff", "withdrawn": True})
        await until(lambda: not other.has("bff"))


async def test_an_emptied_redis_gets_all_back(server: Server, tmp_path: Path) -> None:
    async with replica(server, "one", tmp_path / "one") as one, replica(server, "late") as late:
        await one.revocations.record({"client": "bff"})
        await one.mark()
        server.flush()
        one.shared.forget()
        await one.mark()
        await late.mark()
        assert late.has("bff")


async def test_many_are_learned_page_by_page(server: Server) -> None:
    async with replica(server, "one") as one, replica(server, "late") as late:
        await one.revocations.merge([b'1 {"client": "c%d"}' % number for number in range(1200)])
        await one.mark()
        await late.mark()
        # A message may have had it begin already.
        await until(lambda: late.revocations.count() == 1200)


async def test_what_is_over_leaves_redis(server: Server) -> None:
    async with replica(server, "one") as one:
        past, to_come = time.time() - 1, time.time() + 60
        await one.commands.revoke({"a": (b"1", past), "b": (b"2", to_come), "c": (b"3", math.inf)})
        found = await one.commands.revocations(0)
        assert found is not None
        assert found.lines == [b"2", b"3"]


@pytest.mark.parametrize("version", VERSIONS)
async def test_the_rights_that_are_documented_suffice(tmp_path: Path, version: Version) -> None:
    with redis_server(tmp_path, version=version) as server:
        await _use_rights(server)


async def _use_rights(server: Server) -> None:
    [rights] = re.findall(r"`(~chat-gateway:\* [^`]+)`", PAGE)
    server.command("ACL", "SETUSER", "gateway", "reset", "on", ">word", *rights.split())
    made = Replica(Place((server.address,), username="gateway", password="word", database=1), "one")
    await made.link.begin()
    commands, place = made.commands, PlaceOfEntry("chat", "0123456789abcdef")
    try:
        await until(lambda: made.link.subscribed)
        assert await commands.beat(1)
        lead = await commands.look(place, "t", cold=True)
        assert lead is not None
        assert await commands.renew(place, lead.token)  # type: ignore[union-attr]  # nobody else leads
        assert await commands.land(place, lead.token, b"1 2 3 t\n", b"{}")  # type: ignore[union-attr]
        assert await commands.raised("account", "chat")
        assert await commands.charge("bff", [("requests", Rate(1.0, 1)), ("requests-per-day", 5)])
        assert await commands.tally(1, 1, 60, {"a": 1})
        assert await commands.revoke({"a": (b"1", math.inf)})
        assert await commands.revocations(0)
        assert await commands.tell("one", b'{"do": "nothing"}')
        assert await commands.bye()
        assert made.link.health().failures == dict.fromkeys(made.link.health().failures, 0)
        # Whether a token is of this server needs INFO.
        assert re.match(r"[0-9a-f]{8}\.", lead.token)  # type: ignore[union-attr]
    finally:
        await made.link.close()
