"""Many clients at once: what can be counted of the shows, without a look at the clock."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from gateway.emulator import EmulatorConfig
from tests.shows.cancel import environ, hold_nothing, storm
from tests.shows.cold import VARIANTS, rush
from tests.shows.stand import Stand
from tests.support import APP_KEY, World, chat_path, until, world

pytestmark = pytest.mark.anyio

CLIENTS = 200


def stand_of(it: World) -> Stand:
    numbers = iter(range(10**9))
    return Stand(it.addresses.public[1], it.server.port, lambda: it.token(jti=str(next(numbers))))


@pytest.mark.parametrize("name", VARIANTS)
async def test_a_cold_chat_costs_one_request(tmp_path: Path, name: str) -> None:
    config = EmulatorConfig(app_key=APP_KEY, latency_s=0.12)
    deadline = {"UPSTREAM__DEADLINE_MS": "800"}
    async with world(tmp_path, emulator=config, environ=deadline) as it:
        outcome = await rush(stand_of(it), VARIANTS[name], CLIENTS)
        assert outcome.is_as(VARIANTS[name], CLIENTS), outcome


async def test_all_hang_up_and_the_flight_lands(tmp_path: Path) -> None:
    async with world(tmp_path, emulator=EmulatorConfig(app_key=APP_KEY, latency_s=0.1)) as it:
        target = chat_path(it.chat(), "/info")
        for _ in range(20):
            async with it.wire() as wire:
                asking = asyncio.create_task(wire.ask("GET", target, it.bearer()))
                await asyncio.sleep(0)
                asking.cancel()
                wire.hang_up()
        await until(lambda: it.upstream_requests() == 1)
        await it.flights_landed()
        kept = await it.get(target)
        assert "hit" in (kept.header("cache-status") or "")
        assert it.upstream_requests() == 1


async def test_a_write_whose_writer_hung_up_is_finished(tmp_path: Path) -> None:
    async with world(tmp_path, emulator=EmulatorConfig(app_key=APP_KEY, latency_s=0.1)) as it:
        chat = it.chat()
        target = chat_path(chat, "/info")
        await it.get(target)
        body = b'{"visitorName": "Zoe"}'
        async with it.wire() as wire:
            fields = {**it.bearer(), "content-type": "application/json"}
            asking = asyncio.create_task(wire.ask("PUT", target + "/visitorName", fields, body))
            await until(lambda: it.emulator.counts().total(method="PUT") == 1)
            asking.cancel()
            wire.hang_up()
        await it.flights_landed()
        assert it.emulator.chat(chat).visitor_name == "Zoe"
        assert b"Zoe" in (await it.get(target)).body


async def test_clients_that_cancel_at_random_leave_nothing(tmp_path: Path) -> None:
    async with world(tmp_path, emulator=EmulatorConfig(app_key=APP_KEY), environ=environ()) as it:
        before = asyncio.all_tasks()
        counts = await storm(it, callers=40, seconds=1.0)
        assert counts["left"]
        assert counts["504"]
        assert await hold_nothing(it, before) == []
