"""Scripts are run in Redis and messages are heard, whatever happens on the way."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import io
import json
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.observe.logs import logger
from gateway.shared import link as links
from gateway.shared import subscription
from gateway.shared.connections import Place
from gateway.shared.link import Link
from gateway.shared.scripts import Script
from tests.faults.proxy import NONE, Door, End, Fault, Proxy, Way, proxy
from tests.identity_provider import CA_FILE, certified
from tests.shared.servers import (
    MASTER,
    VERSIONS,
    Server,
    Version,
    needs_debian,
    redis_server,
    sentinels,
)
from tests.support import until

pytestmark = pytest.mark.anyio

PASSWORD = "c4nary-of-redis"
DEADLINE_S = 0.1
#: For tests that are not about time: whoever runs them may have other work to do.
UNHURRIED_S = 1.0
#: What a test may take that says that something does not wait.
SOON_S = 0.5


def script(text: str) -> Script:
    return Script("test", text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())


ECHO = script("return ARGV[1]")
WRITE = script("redis.call('SET', KEYS[1], ARGV[1]) return 1")
BROKEN = script("return nothing.at_all")


class Linked:
    """A link, with what it told."""

    def __init__(self, place: Place, deadline_s: float) -> None:
        self.heard: list[bytes] = []
        self.broken_by = b""
        self.changes: list[tuple[bool, bool]] = []
        self.log = io.StringIO()
        self.link = Link(
            place,
            deadline_s=deadline_s,
            now=time.monotonic,
            jitter=random.Random(1).random,
            channels=("all", "to:me"),
            heard=self._hear,
            changed=lambda: self.changes.append((self.link.up, self.link.subscribed)),
            log=logger("debug", self.log),
        )
        self.link.probe = self.write

    def _hear(self, payload: bytes) -> None:
        if payload == self.broken_by:
            raise ValueError(payload)
        self.heard.append(payload)

    async def echo(self, value: str) -> object:
        return await self.link.run(ECHO, (), (value,))

    async def write(self) -> object:
        return await self.link.run(WRITE, ("key",), (1,))

    async def lost(self) -> None:
        """Ask until the breaker is open."""
        async with asyncio.timeout(5.0):
            while self.link.up:
                await self.write()

    async def back(self) -> None:
        await until(lambda: self.link.up and self.link.subscribed)

    def lines(self, *fields: str) -> list[tuple[Any, ...]]:
        lines = [json.loads(line) for line in self.log.getvalue().splitlines()]
        return [tuple(line.get(name) for name in fields) for line in lines]


@contextlib.asynccontextmanager
async def linked(
    address: tuple[str, int], *, deadline_s: float = UNHURRIED_S, **place: Any
) -> AsyncIterator[Linked]:
    it = Linked(Place((address,), **place), deadline_s)
    await it.link.begin()
    try:
        yield it
    finally:
        await it.link.close()
    assert PASSWORD not in it.log.getvalue()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with redis_server(tmp_path_factory.mktemp("redis")) as it:
        yield it


@contextlib.asynccontextmanager
async def faulty(server: Server) -> AsyncIterator[Proxy]:
    async with proxy(server.address) as it:
        yield it


def at(between: Proxy) -> tuple[str, int]:
    return "127.0.0.1", between.port


# -- commands ------------------------------------------------------------------------------------------------


async def test_a_script_is_sent_once_and_known_from_then_on(server: Server) -> None:
    server.command("SCRIPT", "FLUSH")
    server.command("CONFIG", "RESETSTAT")
    async with linked(server.address) as it:
        assert [await it.echo(value) for value in "abc"] == [b"a", b"b", b"c"]
        assert it.link.health().failures == {"timeout": 0, "refused": 0, "sick": 0, "error": 0}
    stats = server.command("INFO", "commandstats").decode()
    assert "cmdstat_eval:calls=1," in stats
    assert "cmdstat_evalsha:calls=3," in stats


@pytest.mark.parametrize("text", ["", "a" * 100_000, "\r\n$3\r\nfoo\r\n", "ä\x00"])
async def test_words_arrive_as_they_are(server: Server, text: str) -> None:
    async with linked(server.address) as it:
        assert await it.echo(text) == text.encode()


async def test_replies_reach_who_asked_although_others_leave(server: Server) -> None:
    """A hundred at once, half of whom leave at any moment, through a network that takes its time."""
    chance = random.Random(2)

    async def ask(it: Linked, value: str) -> None:
        task = asyncio.create_task(it.echo(value))
        if chance.random() < 0.5:
            await asyncio.sleep(chance.random() * 0.01)
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            assert await task == value.encode()

    async with faulty(server) as between:
        await between.inject(Fault(down=Way(jitter_s=0.005, piece_bytes=7)))
        async with linked(at(between)) as it:
            for turn in range(5):
                await asyncio.gather(*(ask(it, f"{turn}-{number}") for number in range(100)))
            assert await it.echo("last") == b"last"
            assert it.link.health().failures["refused"] == 0
            assert len(server.clients()) == 2
    await until(lambda: server.clients() == [])


async def test_a_late_reply_is_nobodys(server: Server) -> None:
    async with faulty(server) as between, linked(at(between), deadline_s=0.1) as it:
        assert await it.echo("first") == b"first"
        await between.inject(Fault(down=Way(latency_s=0.15)))
        assert await it.echo("late") is None
        await between.inject(NONE)
        assert await it.echo("next") == b"next"
        assert it.link.health().failures["timeout"] == 1
        assert between.connected == 2


async def test_what_was_given_up_on_before_there_was_a_connection_is_not_sent(tmp_path: Path) -> None:
    with redis_server(tmp_path, password=PASSWORD) as server:
        server.command("SCRIPT", "LOAD", WRITE.text)
        async with faulty(server) as between:
            await between.inject(Fault(down=Way(latency_s=0.1)))
            async with linked(at(between), deadline_s=0.03, password=PASSWORD) as it:
                it.link.probe = lambda: it.echo("probe")
                assert await it.write() is None
                await between.inject(NONE)
                await it.back()
                assert server.command("GET", "key") is None


async def test_an_own_delay_is_not_taken_for_a_late_reply(server: Server) -> None:
    async with linked(server.address, deadline_s=0.2) as it:
        server.stop()
        asking = asyncio.create_task(it.echo("a"))
        await asyncio.sleep(0.01)
        server.cont()
        time.sleep(0.3)  # noqa: ASYNC251 - nothing else is meant
        assert await asking == b"a"


async def test_closing_answers_who_waits_and_leaves_no_connection(tmp_path: Path) -> None:
    with redis_server(tmp_path) as server:
        async with linked(server.address) as it:
            server.stop()
            asking = asyncio.create_task(it.echo("a"))
            await asyncio.sleep(0.01)
            await it.link.close()
            assert await asking is None
            assert await it.echo("b") is None
            server.cont()
        await until(lambda: server.clients() == [])


# -- errors of the key's or the caller's own -----------------------------------------------------------------


@pytest.mark.parametrize("version", VERSIONS)
async def test_errors_of_ones_own_open_nothing(tmp_path: Path, version: Version) -> None:
    with redis_server(tmp_path, version=version) as server:
        server.command("SET", "text", "a")
        server.command("ACL", "SETUSER", "me", "on", f">{PASSWORD}", "~key", "~text", "&*", "+@all", "-rpush")
        own = (
            (BROKEN, "key", "other"),
            (WRITE, "elsewhere", "forbidden"),
            (script("return redis.call('RPUSH', KEYS[1], 1)"), "key", "forbidden"),
            (script("return redis.call('LPUSH', KEYS[1], 1)"), "text", "wrong-type"),
        )
        async with linked(server.address, username="me", password=PASSWORD) as it:
            for _ in range(3):
                for one, key, word in own:
                    assert await it.link.run(one, (key,), ("a",)) is None
                    assert it.link.health().last_error == word
            assert it.link.health().failures == {"timeout": 0, "refused": 0, "sick": 0, "error": 12}
            assert it.link.up
            assert await it.write() == 1


# -- the breaker ---------------------------------------------------------------------------------------------

Trouble = Callable[[Server, Proxy], Awaitable[None]]


def network(fault: Fault) -> Trouble:
    async def happen(_: Server, between: Proxy) -> None:
        await between.inject(fault)

    return happen


async def stopped(server: Server, _: Proxy) -> None:
    server.stop()


async def killed(server: Server, _: Proxy) -> None:
    server.kill()


async def black_hole(_: Server, between: Proxy) -> None:
    """What was connected goes silent, and new connections get nowhere."""
    await between.inject(
        Fault(Way(passes=0, end=End.SILENCE), Way(passes=0, end=End.SILENCE), Door.BLACK_HOLE)
    )


async def well(server: Server, between: Proxy) -> None:
    """All is as it was, but for what was in a server that was killed."""
    await between.inject(NONE)
    server.cont()
    server.revive()


#: What happens, and the words for it that a log may show.
TROUBLES: dict[str, tuple[Trouble, set[str]]] = {
    "stopped": (stopped, {"timeout"}),
    "killed": (killed, {"reset"}),
    "black hole": (black_hole, {"timeout"}),
    "slow": (network(Fault(down=Way(latency_s=0.3))), {"timeout"}),
    "drip": (network(Fault(down=Way(piece_bytes=1, every_s=0.1))), {"timeout"}),
    "silent": (network(Fault(down=Way(passes=0, end=End.SILENCE))), {"timeout"}),
    "half a reply": (network(Fault(down=Way(passes=1, end=End.SILENCE))), {"timeout"}),
    "reset": (network(Fault(up=Way(passes=1), at_once=End.RESET)), {"reset"}),
    "closed": (network(Fault(down=Way(passes=0, end=End.CLOSE))), {"reset"}),
}


@pytest.mark.parametrize("name", TROUBLES)
async def test_redis_is_lost_and_comes_back_by_itself(tmp_path: Path, name: str) -> None:
    happen, words = TROUBLES[name]
    with redis_server(tmp_path) as server:
        async with faulty(server) as between, linked(at(between), deadline_s=DEADLINE_S) as it:
            await it.back()
            await happen(server, between)
            await it.lost()
            began = time.monotonic()
            assert [await it.write() for _ in range(100)] == [None] * 100
            assert time.monotonic() - began < SOON_S
            await well(server, between)
            await it.back()
            assert await it.echo("again") == b"again"
            health = it.link.health()
            lost = [error for event, error in it.lines("event", "error") if event == "redis lost"]
            assert set(lost) <= words
            assert it.lines("event").count(("redis back",)) == len(lost) == health.opened
            assert health.last_error is not None


async def test_who_waits_hears_it_when_the_breaker_opens(tmp_path: Path) -> None:
    with redis_server(tmp_path) as server:
        async with linked(server.address, deadline_s=0.3) as it:
            server.stop()
            first = [asyncio.create_task(it.write()) for _ in range(3)]
            await asyncio.sleep(0.2)
            began = time.monotonic()
            assert await it.write() is None
            assert time.monotonic() - began < 0.25
            assert [await asking for asking in first] == [None] * 3
            assert it.link.health().failures["timeout"] == 4


async def test_one_connection_that_ends_is_one_failure(server: Server) -> None:
    async with faulty(server) as between, linked(at(between)) as it:
        assert await it.write() == 1
        await between.inject(Fault(down=Way(passes=0), times=1))
        assert await asyncio.gather(*(it.write() for _ in range(10))) == [None] * 10
        assert await it.write() == 1
        assert it.link.health().failures["refused"] == 10
        assert it.link.health().opened == 0


async def test_while_it_is_lost_only_the_probe_is_sent(tmp_path: Path) -> None:
    with redis_server(tmp_path) as server:
        async with linked(server.address, deadline_s=DEADLINE_S) as it:
            it.link.probe = lambda: it.echo("probe")
            server.stop()
            await it.lost()
            server.cont()
            server.command("CONFIG", "RESETSTAT")
            assert await it.write() is None
            await it.back()
            assert "cmdstat_set:" not in server.command("INFO", "commandstats").decode()


def too_full(server: Server) -> None:
    server.configure("maxmemory", 1)


def no_longer_full(server: Server) -> None:
    server.configure("maxmemory", 0)


def without_replicas(server: Server) -> None:
    server.configure("min-replicas-to-write", 1)


def with_none_needed(server: Server) -> None:
    server.configure("min-replicas-to-write", 0)


def demoted(server: Server) -> None:
    server.command("REPLICAOF", "127.0.0.1", 1)
    server.configure("replica-serve-stale-data", "yes")


def promoted(server: Server) -> None:
    server.command("REPLICAOF", "NO", "ONE")


def stale(server: Server) -> None:
    server.configure("replica-serve-stale-data", "no")
    server.command("REPLICAOF", "127.0.0.1", 1)


SICK = {
    "out-of-memory": (too_full, no_longer_full),
    "no-replicas": (without_replicas, with_none_needed),
    "read-only": (demoted, promoted),
    "master-down": (stale, promoted),
}


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("word", SICK)
async def test_a_server_that_calls_itself_sick_is_believed_at_once(
    tmp_path: Path, version: Version, word: str
) -> None:
    fall_ill, recover = SICK[word]
    with redis_server(tmp_path, version=version) as server:
        async with linked(server.address) as it:
            assert await it.write() == 1
            fall_ill(server)
            assert await it.write() is None
            assert not it.link.up
            assert ("redis lost", word) in it.lines("event", "error")
            assert it.link.health().failures["sick"] == 1
            recover(server)
            await it.back()
            assert await it.write() == 1


async def test_what_is_not_there_at_first_may_come_later(tmp_path: Path) -> None:
    with redis_server(tmp_path) as server:
        server.kill()
        async with linked(server.address, deadline_s=DEADLINE_S) as it:
            assert not it.link.up
            assert it.lines("event", "error", "where") == [
                ("redis lost", "refused", f"127.0.0.1:{server.port}")
            ]
            server.start()
            await it.back()
            assert await it.write() == 1
            assert it.changes == [(False, False), *it.changes[1:-1], (True, True)]


# -- who is there --------------------------------------------------------------------------------------------


async def test_a_password_that_is_wrong(tmp_path: Path) -> None:
    with redis_server(tmp_path, password="another") as server:
        async with linked(server.address, password=PASSWORD) as it:
            assert not it.link.up
            assert it.link.health().last_error == "authentication"
            assert PASSWORD not in repr(it.link._place)


@needs_debian
async def test_tls_with_whom_one_trusts(tmp_path: Path) -> None:
    with redis_server(tmp_path / "redis", version="debian", tls=tmp_path, password=PASSWORD) as server:
        certified(tmp_path / "other")
        for folder, words in ((tmp_path, None), (tmp_path / "other", "tls")):
            ca_file = str(folder / CA_FILE)
            async with linked(server.address, tls=True, ca_file=ca_file, password=PASSWORD, database=3) as it:
                assert await it.write() == (1 if words is None else None)
                assert it.link.health().last_error == words
        async with linked(server.address, password=PASSWORD) as it:
            assert await it.write() is None
        assert server.command("INFO", "keyspace").count(b"db3:keys=1") == 1


@needs_debian
async def test_tls_with_a_certificate_of_ones_own(tmp_path: Path) -> None:
    with redis_server(tmp_path / "redis", version="debian", tls=tmp_path, knows_clients=True) as server:
        ca_file, both = str(tmp_path / CA_FILE), str(tmp_path / "server.pem")
        own: dict[str, Any] = {"certificate_file": both, "key_file": both}
        for shown, answer in ((own, 1), ({}, None)):
            async with linked(server.address, tls=True, ca_file=ca_file, **shown) as it:
                assert await it.write() == answer


@pytest.mark.parametrize(
    ("said", "word"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "protocol"),
        (b"+OK\r\n+OK\r\n+OK\r\n", "protocol"),
        (b"", "reset"),
    ],
)
async def test_somebody_else_is_there(said: bytes, word: str) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(said)
        writer.close()

    async with (
        await asyncio.start_server(answer, "127.0.0.1", 0) as listening,
        linked(listening.sockets[0].getsockname(), deadline_s=DEADLINE_S) as it,
    ):
        assert await it.echo("a") in {None, b"OK"}
        await until(lambda: it.link.health().last_error == word)


# -- Sentinel ------------------------------------------------------------------------------------------------


@needs_debian
async def test_after_a_failover_the_new_master_is_asked(tmp_path: Path) -> None:
    watcher: dict[str, Any] = {"sentinel_username": "watcher", "sentinel_password": "another"}
    with sentinels(tmp_path, password=PASSWORD, **watcher) as them:
        nobody = ("127.0.0.1", 1)
        place = Place((nobody, *them.addresses), sentinel=MASTER, password=PASSWORD, **watcher)
        it = Linked(place, DEADLINE_S)
        await it.link.begin()
        try:
            await it.back()
            them.master.kill()
            await it.lost()
            await it.back()
            assert await it.write() == 1
            assert them.replica.command("GET", "key") == b"1"
        finally:
            await it.link.close()


@needs_debian
@pytest.mark.parametrize("is_demoted", [False, True])
async def test_an_operators_failover_is_noticed_before_the_old_master_is_demoted_or_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, is_demoted: bool
) -> None:
    monkeypatch.setattr(links, "WATCH_S", 60.0 if is_demoted else 0.1)
    with sentinels(tmp_path) as them:
        it = Linked(Place(them.addresses, sentinel=MASTER), UNHURRIED_S)
        await it.link.begin()
        try:
            assert await it.write() == 1
            them.fail_over()
            if is_demoted:
                them.demote()
                assert await it.write() is None
                assert not it.link.up
            await until(lambda: it.link._subscription.address == them.replica.address)
            await it.back()
            assert await it.echo("a") == b"a"
            assert it.link._pipe is not None
            assert it.link._pipe.address == them.replica.address
        finally:
            await it.link.close()


# -- messages ------------------------------------------------------------------------------------------------


async def test_messages_are_heard_in_order_and_again_after_the_connection_was_lost(server: Server) -> None:
    async with faulty(server) as between, linked(at(between)) as it:
        await it.back()
        for number in range(100):
            server.command("PUBLISH", "to:me" if number % 2 else "all", number)
        server.command("PUBLISH", "to:you", "no")
        await until(lambda: len(it.heard) == 100)
        assert it.heard == [b"%d" % number for number in range(100)]
        server.command("CLIENT", "KILL", "TYPE", "pubsub")
        await until(lambda: ("redis messages lost", "reset") in it.lines("event", "error"))
        await it.back()
        server.command("PUBLISH", "all", "again")
        await until(lambda: it.heard[-1] == b"again")
        assert it.link.up
        assert it.changes == [(True, True), (True, False), (True, True)]


async def test_a_black_hole_is_noticed_where_nothing_is_heard(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subscription, "QUIET_S", 0.05)
    async with faulty(server) as between, linked(at(between)) as it:
        await it.back()
        await asyncio.sleep(0.3)
        assert it.changes == [(True, True)], "it answers when it is asked"
        await between.inject(Fault(down=Way(passes=0, end=End.SILENCE)))
        await until(lambda: not it.link.subscribed)
        await between.inject(NONE)
        await it.back()


async def test_a_mistake_with_a_message_ends_nothing(server: Server) -> None:
    async with linked(server.address) as it:
        await it.back()
        told: list[str] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, said: told.append(repr(said["exception"])))
        it.broken_by = b"x"
        for payload in ("x", "y"):
            server.command("PUBLISH", "all", payload)
        await until(lambda: it.heard == [b"y"])
        assert told == ["ValueError(b'x')"]
