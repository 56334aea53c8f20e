"""Reloads while many clients poll and write: none of them notices."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.emulator import EmulatorConfig, Fault
from gateway.identity.development import new_key
from tests.reloading import (
    MISTAKES,
    NEXT,
    PARTNER,
    Snapshot,
    changeable,
    edit,
    metric,
    of,
    reload_state,
    same,
    say,
    whole,
)
from tests.support import (
    APP_KEY,
    World,
    account_path,
    chat_path,
    until,
)

pytestmark = pytest.mark.anyio


POLLERS, WRITERS, FORWARDERS, CHATS = 16, 4, 4, 5


class Load:
    """Pollers, writers and readers of what is never kept, each on its own connection, without a pause."""

    def __init__(self, it: World) -> None:
        self.answered: Counter[tuple[str, int, str | None]] = Counter()
        self._it = it
        self._chats = [it.chat() for _ in range(CHATS)]
        self._tasks: list[asyncio.Task[None]] = []
        #: How many requests of each task have been answered.
        self._turns: list[int] = []
        self._over = False

    def start(self, *, writers: int = WRITERS) -> None:
        asked = [("GET", "/info", b"")] * POLLERS
        asked += [("GET", "/info/agentTyping", b"")] * FORWARDERS
        asked += [("PUT", "/info/visitorName", json.dumps({"visitorName": "Zoe"}).encode())] * writers
        for number, (method, rest, body) in enumerate(asked):
            target = chat_path(self._chats[number % CHATS], rest)
            self._turns.append(0)
            self._tasks.append(asyncio.create_task(self._ask(number, method, target, body)))

    async def _ask(self, number: int, method: str, target: str, body: bytes) -> None:
        fields = {**self._it.bearer(), "content-type": "application/json"}
        async with self._it.wire() as wire:
            while not self._over:
                response = await wire.ask(method, target, fields, body)
                self.answered[method, response.status, response.problem] += 1
                self._turns[number] += 1

    async def goes_on(self, requests: int = 2) -> None:
        """Wait until each has had so many more answers: of two, one to a question asked after this."""
        before = list(self._turns)
        await until(
            lambda: all(now >= then + requests for now, then in zip(self._turns, before, strict=True))
        )

    async def lands(self) -> None:
        """Wait for all that was asked until now: by clients, and by flights on nobody's account."""
        flights = set(self._it.gateway.exchange.flights._by_key.values())
        if flights:
            await asyncio.wait(flights)
        await self.goes_on()

    async def stop(self) -> None:
        self._over = True
        await asyncio.gather(*self._tasks)


@contextlib.asynccontextmanager
async def under_load(folder: Path, *, writers: int = WRITERS) -> AsyncIterator[tuple[World, Load]]:
    (folder / "next-key").write_text("not-in-use-yet")
    environ = {"ACCOUNTS__123__NEXT_APP_KEY_FILE": "next-key"}
    plenty = {"per_second": 10_000, "burst": 10_000, "in_flight": 1000}
    config = EmulatorConfig(app_key=APP_KEY, record=200)
    async with changeable(folder, emulator=config, environ=environ, budget=plenty) as it:
        load = Load(it)
        load.start(writers=writers)
        await load.goes_on()
        try:
            yield it, load
        finally:
            await load.stop()


GOOD = {("GET", 200, None), ("PUT", 201, None)}


async def test_keys_change_under_load_and_nothing_fails(tmp_path: Path) -> None:
    """As operators do it: the vendor takes both, the new one goes first, the vendor drops the old one."""
    async with under_load(tmp_path) as (it, load):
        old = APP_KEY
        for number in range(6):
            new = f"{NEXT}{number}"
            it.emulator.app_keys = (old, new)
            of(it, "app-key").write_text(new)
            of(it, "next-key").write_text(old)
            await it.gateway.reloading.look_again()
            # Nothing is under way any more that has the old key, and nothing goes with it.
            await load.lands()
            it.emulator.recorded.clear()
            await load.goes_on()
            assert not it.emulator.saw(f"appKey={old}\r".encode())
            it.emulator.app_keys = (new,)
            await load.goes_on(3)
            old = new
    assert set(load.answered) == GOOD


async def test_readers_do_not_notice_a_key_that_is_refused_from_one_moment_to_the_next(
    tmp_path: Path,
) -> None:
    """Only readers: a write whose key is refused is not sent again."""
    async with under_load(tmp_path, writers=0) as (it, load):
        of(it, "next-key").write_text(NEXT)
        await it.gateway.reloading.look_again()
        for number in range(10):
            it.emulator.app_keys = ((NEXT, APP_KEY)[number % 2],)
            await load.lands()
    assert set(load.answered) == {("GET", 200, None)}


async def test_mistakes_under_load_fail_nothing_and_change_nothing(tmp_path: Path) -> None:
    async with under_load(tmp_path) as (it, load):
        sound, before = Snapshot.of(tmp_path), whole(it)
        refused = 0
        for make, _, words in MISTAKES.values():
            make(tmp_path)
            await it.gateway.reloading.look_again()
            refused += 1
            assert words in str((await reload_state(it))["mistakes"])
            await load.goes_on()
            assert same(whole(it), before)
            sound.put_back()
            await it.gateway.reloading.look_again()
        assert await metric(it, "reload_failures_total") == refused
        assert (await reload_state(it))["ok"]
    assert set(load.answered) == GOOD


async def test_changes_under_load_fail_nothing(tmp_path: Path) -> None:
    """Everything that can change for others: clients, keys that are added, limits, links, the upstream."""
    async with under_load(tmp_path) as (it, load):
        jwks = json.loads(of(it, "jwks.json").read_text())
        for number in range(8):
            edit(of(it, PARTNER), "priority: low", "priority: normal\n    # low")
            [added] = json.loads(new_key("ES256")[1])["keys"]
            of(it, "jwks.json").write_text(json.dumps({"keys": [*jwks["keys"], added]}))
            say(
                it,
                public_url=f"https://chat{number}.example",
                max_body_bytes=2048 + number,
                link_hosts=[f"host{number}.example"],
            )
            before = it.gateway._state.policies.version
            await it.gateway.reloading.look_again()
            assert it.gateway._state.policies.version == before + 1
            await load.goes_on()
            edit(of(it, PARTNER), "priority: normal\n    # low", "priority: low")
    assert set(load.answered) == GOOD


@pytest.mark.parametrize("message_", ["Invalid User", "Bad captcha"])
async def test_a_chat_that_is_refused_changes_nothing_about_the_key(tmp_path: Path, message_: str) -> None:
    """The vendor's 401 with code 10 says "bad key" anywhere else."""
    async with under_load(tmp_path) as (it, load):
        edit(of(it, PARTNER), "allow: [chat:read]", "allow: [chat:read, chat:start]")
        of(it, "next-key").write_text(NEXT)
        it.emulator.app_keys = (APP_KEY, NEXT)
        await it.gateway.reloading.look_again()
        in_order = whole(it)[-1]
        it.emulator.fail(Fault(resource="start-chat", status=401, code=10, message=message_, times=None))
        for number in range(20):
            body = json.dumps({"request": {}}).encode()
            fields = {"content-type": "application/json"}
            path = account_path("/chat/request")
            refused = await it.ask("POST", path, fields, body, subject="partner")
            assert (refused.status, refused.json()["error"]["message"]) == (401, message_)
            # One request each, and no second try with the other key.
            assert it.emulator.counts().total(resource="start-chat") == number + 1
        await load.goes_on()
        assert whole(it)[-1] is in_order
        assert not it.emulator.saw(NEXT.encode())
    assert set(load.answered) == GOOD
