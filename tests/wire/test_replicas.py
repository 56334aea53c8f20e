"""Two gateways that share a real Redis, before one emulator, over sockets.

Both run in one process here; in `tests.shows.together`, `exact` and `outages` each has one of its own.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from gateway.demo.stage import ACCOUNT
from gateway.demo.wire import Client
from gateway.emulator import Emulator, EmulatorConfig, Fault, Hang
from gateway.parts import pace
from tests.identity_provider import CA_FILE
from tests.shared.servers import Server, needs_debian, redis_server
from tests.shows.cluster import Cluster
from tests.shows.stand import HOST
from tests.shows.together import ENDINGS, Crowd, rush
from tests.support import (
    APP_KEY,
    PATIENCE_S,
    PUBLIC_URL,
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
    prefix: str

    @property
    def emulator(self) -> Emulator:
        return self.one.emulator

    @property
    def both(self) -> tuple[World, World]:
        return self.one, self.other

    async def until_together(self) -> None:
        """Wait until they know each other, and miss nothing."""
        await until(lambda: all(map(is_together, self.both)))

    def chats(self) -> set[bytes]:
        """The keys of all chats of which something is kept in Redis."""
        return set(self.redis.command("KEYS", f"{self.prefix}:*:chat:*"))


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
    """Two worlds, the second before the first one's emulator; `limits` are the partner's, in YAML.

    Other pairs may be at the same Redis: each has its prefix.
    """
    policies = folder / "shared-policies"
    policies_with(policies, "chatting: 1000", f"chatting: {FRESH_MS}")
    if limits is not None:
        file = policies / "clients" / "partner.yaml"
        before, _, _ = file.read_text().partition("    limits:")
        file.write_text(f"{before}    limits: {limits}\n")
    prefix = secrets.token_hex(4)
    settings: dict[str, Any] = {
        "redis_url": f"{scheme}://{HOST}:{redis.port}",
        "redis": {**UNHURRIED, "prefix": prefix, **of_redis},
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
        it = Pair(one, other, redis, prefix)
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
    async with pair(tmp_path, redis) as it:
        target = chat_path(it.one.chat(), "/info")
        for side in (it.one, it.one, it.other, it.other, it.other):
            assert (await side.get(target)).status == 200
        for side in it.both:
            await eventually(partial(_is_used, side, "bff", 5))


async def _is_used(it: World, client: str, requests: int) -> bool:
    rows = (await operate(it, "GET", "/usage")).json()
    used: int = sum(row["requests"] for row in rows if row["client"] == client)
    return used == requests


@pytest.mark.parametrize("limit", ["requests: {per_minute: 1, burst: 5}", "requests_per_day: 5"])
async def test_an_exact_limit_is_one_for_both(tmp_path: Path, redis: Server, limit: str) -> None:
    limits = f"{{shared: exact, {limit}}}"
    async with pair(tmp_path, redis, limits=limits) as it:
        target = chat_path(it.one.chat(), "/info")
        sides = [it.both[index % 2] for index in range(8)]
        answers = [await side.ask("GET", target, subject="partner") for side in sides]
        assert [answer.status for answer in answers] == [200] * 5 + [429] * 3


async def test_a_share_of_a_limit_is_half_of_it(tmp_path: Path, redis: Server) -> None:
    limits = "{requests: {per_minute: 1, burst: 6}}"
    async with pair(tmp_path, redis, limits=limits) as it:
        target = chat_path(it.one.chat(), "/info")
        for side in it.both:
            answers = [await side.ask("GET", target, subject="partner") for _ in range(4)]
            assert [answer.status for answer in answers] == [200] * 3 + [429]


# -- without Redis, and with a strange one ---------------------------------------------------------------


async def test_without_redis_both_go_on_and_come_back(tmp_path: Path) -> None:
    with redis_server(tmp_path / "redis") as redis:
        async with pair(tmp_path, redis) as it:
            await _asked(it, times=1)
            redis.kill()
            await until(lambda: not any(status(side)["up"] for side in it.both))
            await _asked(it, times=2)
            for side in it.both:
                assert await metric(side, "shared_up") == await metric(side, "shared_whole") == 0
                told = (await operate(side, "GET", "/readyz?verbose")).json()
                assert told["ready"]
                assert not told["shared"]["up"]
                assert told["shared"]["last_error"]
            redis.start()
            await it.until_together()
            for side in it.both:
                assert await metric(side, "shared_up") == await metric(side, "shared_whole") == 1
            await _asked(it, times=1)


async def _asked(it: Pair, times: int) -> None:
    """Both are asked for a new chat: the upstream so many times."""
    target = chat_path(it.one.chat(), "/info")
    before = it.one.upstream_requests()
    for side in it.both:
        assert (await side.get(target)).status == 200
    assert it.one.upstream_requests() == before + times


async def test_a_replica_that_starts_without_redis_shares_as_soon_as_it_is_there(tmp_path: Path) -> None:
    with redis_server(tmp_path / "redis") as redis:
        redis.kill()
        starting = asyncio.create_task(_start_and_ask(tmp_path, redis))
        await asyncio.sleep(0.5)
        redis.start()
        await starting


async def _start_and_ask(folder: Path, redis: Server) -> None:
    async with pair(folder, redis) as it:
        await _asked(it, times=1)


def _cut(value: bytes) -> bytes:
    return value[:-20]


def _older(value: bytes) -> bytes:
    """Of a server that is no more."""
    head, _, payload = value.partition(b"\n")
    *times, token = head.split(b" ")
    return b" ".join([*times, b"00000000" + token[8:]]) + b"\n" + payload


FOREIGN: Mapping[str, Callable[[bytes], bytes]] = {
    "text": lambda _: b"hello",
    "nothing": lambda _: b"",
    "a head alone": lambda value: value.partition(b"\n")[0] + b"\n",
    "cut": _cut,
    "another server's": _older,
    "pickled": lambda value: value.partition(b"\n")[0] + b"\ncos\nsystem\n(S'true'\ntR.",
}


@pytest.mark.parametrize("name", FOREIGN)
async def test_what_somebody_else_wrote_there_is_not_served(here: Pair, name: str) -> None:
    key, field, target = await _kept(here)
    here.redis.command("HSET", key, field, FOREIGN[name](here.redis.command("HGET", key, field)))
    assert is_info(await here.other.get(target), target)
    assert here.one.upstream_requests() == 2


async def test_another_chats_answer_is_not_served(here: Pair) -> None:
    key, field, _ = await _kept(here)
    foreign = here.redis.command("HGET", key, field)
    key, field, target = await _kept(here)
    here.redis.command("HSET", key, field, foreign)
    assert is_info(await here.other.get(target), target)
    assert here.one.upstream_requests() == 3


async def test_a_key_of_another_kind_harms_nothing(here: Pair) -> None:
    key, _, target = await _kept(here)
    here.redis.command("SET", key, "hello")
    assert (await here.other.get(target)).status == 200
    wrote = await here.other.write("PUT", f"{target}/visitorName", {"visitorName": "Zoe"})
    assert wrote.status == 201
    assert b"Zoe" in (await here.other.get(target)).body


def is_info(answer: Response, target: str) -> bool:
    """Whether it is that chat's."""
    links = {link["href"] for link in answer.json()["info"]["link"] if link["rel"] == "self"}
    return answer.status == 200 and links == {f"{PUBLIC_URL}{target}"}


async def _kept(it: Pair) -> tuple[bytes, bytes, str]:
    """A new chat's info, fetched by the first replica: its key and field in Redis, and its path."""
    before = it.chats()
    target = chat_path(it.one.chat(), "/info")
    assert (await it.one.get(target)).status == 200
    [key] = it.chats() - before
    [field] = [name for name in it.redis.command("HKEYS", key) if not name.startswith(b"lease:")]
    return key, field, target


# -- secrets ---------------------------------------------------------------------------------------------


def everything(redis: Server) -> bytes:
    """All that is stored, keys and values."""
    readers = {b"hash": ("HGETALL",), b"zset": ("ZRANGE", 0, -1), b"string": ("GET",)}
    found = []
    for key in redis.command("KEYS", "*"):
        command, *rest = readers[redis.command("TYPE", key)]
        said = redis.command(command, key, *rest)
        found += [key, *([said] if isinstance(said, bytes) else said)]
    return b"\n".join(found)


@pytest.mark.parametrize("is_sealed", [True, False])
async def test_with_a_key_nothing_of_a_chat_is_to_be_read_in_redis(tmp_path: Path, is_sealed: bool) -> None:
    (tmp_path / "key").write_text(base64.b64encode(os.urandom(32)).decode() + "\n")
    of_redis: dict[str, Any] = {"encryption_key_file": str(tmp_path / "key")} if is_sealed else {}
    with redis_server(tmp_path / "redis") as redis:
        async with pair(tmp_path, redis, **of_redis) as it:
            target = chat_path(it.one.chat(), "/info")
            await it.one.write("PUT", f"{target}/visitorName", {"visitorName": "Persephone"})
            served = [await side.get(target) for side in it.both]
            assert all(b"Persephone" in answer.body for answer in served)
            assert it.emulator.counts().total(resource="info") == 1
            stored = everything(redis)
            assert (b"Persephone" in stored) == (not is_sealed)
            assert (target.encode() in stored) == (not is_sealed)
            assert not any(target.split("/")[-2].encode() in key for key in it.chats())


async def test_with_a_password(tmp_path: Path) -> None:
    (tmp_path / "password").write_text("open-sesame\n")
    with redis_server(tmp_path / "redis", password="open-sesame") as redis:
        async with pair(tmp_path, redis, password_file=str(tmp_path / "password")) as it:
            await _asked(it, times=1)
            assert not any("open-sesame" in side.log.getvalue() for side in it.both)


@needs_debian
async def test_over_tls(tmp_path: Path) -> None:
    with redis_server(tmp_path / "redis", version="debian", tls=tmp_path / "tls") as redis:
        trusted = str(tmp_path / "tls" / CA_FILE)
        async with pair(tmp_path, redis, scheme="rediss", ca_file=trusted) as it:
            await _asked(it, times=1)


@pytest.mark.parametrize(
    ("alone", "statuses"),
    [
        ("per_replica", [200] * 3 + [429] * 3),
        ("deny", [429] * 6),
        ("allow", [200] * 6),
    ],
)
async def test_exact_limits_without_redis_are_kept_as_it_is_set(
    tmp_path: Path, alone: str, statuses: list[int]
) -> None:
    limits = "{shared: exact, requests: {per_minute: 1, burst: 6}}"
    with redis_server(tmp_path / "redis") as redis:
        async with pair(tmp_path, redis, limits=limits, exact_limits_alone=alone) as it:
            target = chat_path(it.one.chat(), "/info")
            redis.kill()
            await until(lambda: not any(status(side)["up"] for side in it.both))
            answers = [await it.one.ask("GET", target, subject="partner") for _ in statuses]
            assert [answer.status for answer in answers] == statuses


# -- what the parts are wired to -------------------------------------------------------------------------


async def test_who_hears_that_messages_are_missing_forgets_what_it_has(tmp_path: Path, redis: Server) -> None:
    async with pair(tmp_path, redis) as it:
        target = chat_path(it.one.chat(), "/info")
        for side in it.both:
            await side.get(target)
        # A write of which nobody has heard: its number is there, its message is not, and the entry is gone.
        [chat] = it.chats()
        redis.command("DEL", chat)
        [writes] = redis.command("KEYS", f"{it.prefix}:*writes*")
        redis.command("INCR", writes)

        async def both_know() -> bool:
            return all([await metric(side, "shared_missed_messages_total") for side in it.both])

        await eventually(both_know)
        await it.other.get(target)
        assert it.one.upstream_requests() == 2


async def test_who_loses_redis_does_not_wait_for_another(tmp_path: Path) -> None:
    with redis_server(tmp_path / "redis") as redis:
        async with pair(tmp_path, redis) as it:
            target = chat_path(it.one.chat(), "/info")
            it.emulator.fail(Fault(delivery=Hang()))
            leading = asyncio.create_task(it.one.get(target))
            await until(lambda: it.one.upstream_requests() == 1)
            following = asyncio.create_task(it.other.get(target))

            async def follows() -> bool:
                return 'command="look"' in (await it.other.admin("/metrics")).body.decode()

            await eventually(follows)
            redis.kill()
            assert (await following).status == 200
            assert not leading.done()
            assert (await leading).status == 504


async def test_a_budget_is_divided_by_those_who_live(tmp_path: Path, redis: Server) -> None:
    async with pair(tmp_path, redis) as it:
        for side in it.both:
            gateway = side.gateway
            assert gateway.replicas == 2
            whole, own = pace(gateway.settings, ACCOUNT), gateway.budget._pace(ACCOUNT)
            assert (own.per_s, own.burst, own.in_flight) == (
                whole.per_s / 2,
                whole.burst / 2,
                whole.in_flight / 2,
            )


async def test_what_is_taken_over_is_counted_as_saved(tmp_path: Path, redis: Server) -> None:
    async with pair(tmp_path, redis) as it:
        target = chat_path(it.one.chat(), "/info")
        first, second = [await side.get(target) for side in it.both]
        assert "fwd=miss" in (first.header("cache-status") or "")
        assert "collapsed" in (second.header("cache-status") or "")
        assert await metric(it.other, "saved_requests_total") == 1
