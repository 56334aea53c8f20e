"""Answers that overtake each other, and failures that come late: each test is named for what it guards."""

from __future__ import annotations

import asyncio

from gateway.core.errors import Reason
from gateway.core.freshness import Failed
from gateway.core.messages import Representation
from gateway.demo.stage import ACCOUNT
from gateway.emulator import EmulatorConfig, Fault, Hang
from gateway.upstream.protection import Protection
from tests.simulation import APP_KEY, Simulation, cache_rule, caching, chat_path, outcome
from tests.virtual import virtual


@virtual
async def test_an_info_that_was_overtaken_still_shortens_the_silence() -> None:
    """With a chatTimeout of 20 s nothing may be kept, whichever answer came first."""
    rules = caching({"info": cache_rule(8.0, 0.0)})
    world = Simulation(config=EmulatorConfig(app_key=APP_KEY, chat_timeout_s=20), policies=rules)
    chat = world.chat()
    world.emulator.fail(Fault(resource="info", delay_s=1.0))
    slow = asyncio.create_task(world.info(chat))
    await asyncio.sleep(0.3)
    await world.ask("GET", chat_path(chat, "/info/agentTyping"))
    await slow
    before = world.asked()
    for _ in range(5):
        await world.info(chat)
    assert world.asked() == before + 5


@virtual
async def test_of_two_pauses_the_longer_counts() -> None:
    world = Simulation()
    chats = [world.chat(), world.chat()]
    world.emulator.fail(Fault(resource="info", status=429, retry_after="5"))
    world.emulator.fail(Fault(resource="info", status=429, retry_after="1"))
    refused = await asyncio.gather(*(world.info(chat) for chat in chats))
    assert {reply.status for reply in refused} == {503}
    await asyncio.sleep(4.0)
    assert (await world.info(chats[0])).status == 503
    assert world.asked() == 2
    await asyncio.sleep(1.2)
    assert (await world.info(chats[0])).status == 200


def test_one_hiccup_is_one_step_however_many_flights_it_ends() -> None:
    """What was asked before the hold is no probe, so its failure doubles nothing."""
    now = [100.0]
    protection = Protection(lambda: now[0], lambda: 5.0)
    key = ("/path", "v=1", Representation.JSON)
    reset = Failed(Reason.UPSTREAM_RESET)
    assert protection.failed(ACCOUNT, key, reset, "chat") == Failed(Reason.UPSTREAM_RESET, None, 0.25)
    for _ in range(5):
        now[0] += 0.01
        protection.failed(ACCOUNT, key, reset, "chat")
    now[0] = 100.25
    assert protection.hold(ACCOUNT, key, "chat") is None
    # The probe fails: that is the second step.
    assert protection.failed(ACCOUNT, key, reset, "chat").retry_after_s == 0.5


@virtual
async def test_the_failure_of_a_read_before_a_write_holds_back_no_read_after_it() -> None:
    world = Simulation()
    chat = world.chat()
    world.emulator.fail(Fault(resource="info", delivery=Hang()))
    old = asyncio.create_task(world.info(chat))
    await asyncio.sleep(0.1)
    await world.rename(chat, "Zoe")
    await asyncio.sleep(3.5)
    assert outcome(await world.info(chat)) == "miss"
    assert (await old).status == 504
    # The entry has ended by now; under a hold its stale answer would stand in.
    assert outcome(await world.info(chat)) == "miss"


@virtual
async def test_draining_waits_for_what_starts_while_it_waits() -> None:
    world = Simulation(latency_s=lambda: 0.5)
    chat = world.chat()
    reading = asyncio.create_task(world.info(chat))
    await asyncio.sleep(0.1)
    draining = asyncio.create_task(world.exchange.flights.drain(10.0))
    await asyncio.sleep(0.3)
    writing = asyncio.create_task(world.rename(chat, "Zoe"))
    await draining
    assert (await reading).status == 200
    assert (await writing).status == 201


@virtual
async def test_a_drain_without_a_window_leaves_no_coroutine_behind() -> None:
    world = Simulation()
    reading = asyncio.create_task(world.info(world.chat()))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    await world.exchange.flights.drain(0.0)
    assert (await reading).status in {200, 503}
    await world.settle()
