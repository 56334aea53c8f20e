"""An upstream that is down, and what is asked of it, of its clients and of its chats meanwhile."""

from __future__ import annotations

import asyncio
from collections import Counter
from itertools import pairwise

import pytest

from gateway.core.errors import Reason
from gateway.core.freshness import Failed
from gateway.core.messages import UpstreamRequest
from gateway.core.replies import Reply
from gateway.demo.stage import ACCOUNT
from gateway.emulator import Drop, Fault, Hang, Reset
from gateway.upstream.protection import LAST_OPEN_S, LAST_STEP_S, TRIP
from tests.simulation import Simulation, cache_rule, caching, chat_path, header, outcome
from tests.support import account_path
from tests.virtual import virtual

LATENCY_S = 0.120
#: Ways to be down, and how soon each is noticed.
DOWN = {
    "500": Fault(status=500, times=None),
    "drops": Fault(delivery=Drop(), times=None),
    "resets": Fault(delivery=Reset(), times=None),
    "hangs": Fault(delivery=Hang(), times=None),
}


async def everyone(world: Simulation, chats: list[str]) -> list[Reply]:
    return list(await asyncio.gather(*(world.info(chat) for chat in chats)))


async def poll_until(world: Simulation, chats: list[str], until: float) -> None:
    """All poll twice a second, and none waits for an answer before he polls again."""
    async with asyncio.TaskGroup() as polls:
        while world.clock.now() < until:
            for chat in chats:
                polls.create_task(world.info(chat))
            await asyncio.sleep(0.5)


@pytest.mark.parametrize("how", DOWN)
@virtual
async def test_of_many_chats_one_request_a_step_goes_upstream(how: str) -> None:
    world = Simulation(log_level="error")
    chats = [world.chat() for _ in range(50)]
    world.emulator.fail(DOWN[how])
    await poll_until(world, chats, 60.0)
    times = [sent.at for sent in world.upstream.sent]
    # All that was sent before the first failures were known.
    first = [at for at in times if at <= times[0] + 5.0 + LATENCY_S] if how == "hangs" else times[:50]
    probes = [at for at in times if at not in first]
    steps = [later - earlier for earlier, later in pairwise(probes)]
    assert max(steps) <= LAST_OPEN_S + 0.5, "no longer than a step and a poll"
    assert min(steps) >= 1.0 - 1e-6
    assert len(probes) in range(24, 32)


@pytest.mark.parametrize("how", DOWN)
@virtual
async def test_once_it_answers_all_are_served_within_a_step(how: str) -> None:
    world = Simulation(log_level="error")
    chats = [world.chat() for _ in range(50)]
    world.emulator.fail(DOWN[how])
    await poll_until(world, chats, 20.0)
    world.emulator.clear_faults()
    healed_at = world.clock.now()
    while Counter(reply.status for reply in await everyone(world, chats)) != {200: 50}:
        await asyncio.sleep(0.1)
        # A probe's step, and the last of one that failed just before.
        assert world.clock.now() <= healed_at + 2 * LAST_OPEN_S
    await world.settle()


async def ask(world: Simulation, kind: str, chat: str) -> Reply:
    """A read that is shared, one that is not, or a write."""
    if kind == "write":
        return await world.rename(chat, "Zoe")
    return await world.ask(
        "GET", chat_path(chat, "/info") if kind == "shared" else account_path("/chat/preSurvey")
    )


async def break_down(world: Simulation) -> None:
    """Let requests of so many chats fail that the breaker opens."""
    world.emulator.fail(Fault(status=500, times=None))
    for reply in await everyone(world, [world.chat() for _ in range(TRIP)]):
        assert reply.status == 502


@pytest.mark.parametrize("kind", ["shared", "forwarded", "write"])
@virtual
async def test_while_it_is_open_nothing_is_sent(kind: str) -> None:
    world = Simulation()
    chat = world.chat()
    await break_down(world)
    before = len(world.upstream.sent)
    for _ in range(3):
        refused = await ask(world, kind, chat)
        assert (refused.status, header(refused, "retry-after")) == (503, "1")
        assert b"upstream-down" in refused.body
    assert len(world.upstream.sent) == before
    world.emulator.clear_faults()
    await asyncio.sleep(0.5)
    assert (await ask(world, kind, chat)).status in {200, 201}
    assert len(world.upstream.sent) == before + 1
    await world.settle()


@pytest.mark.parametrize("kind", ["shared", "forwarded", "write"])
@virtual
async def test_of_those_who_come_at_once_after_a_step_one_is_the_probe(kind: str) -> None:
    world = Simulation()
    chats = [world.chat() for _ in range(20)]
    await break_down(world)
    await asyncio.sleep(0.5)
    before = len(world.upstream.sent)
    replies = await asyncio.gather(*(ask(world, kind, chat) for chat in chats))
    assert Counter(reply.status for reply in replies) == {502: 1, 503: 19}
    assert len(world.upstream.sent) == before + 1
    await world.settle()


@virtual
async def test_a_probe_whose_client_leaves_is_carried_through_and_closes_it() -> None:
    world = Simulation()
    chat = world.chat()
    await break_down(world)
    world.emulator.clear_faults()
    await asyncio.sleep(0.5)
    probing = asyncio.create_task(world.info(chat))
    await asyncio.sleep(0.01)
    probing.cancel()
    await asyncio.sleep(LATENCY_S)
    assert (await world.info(world.chat())).status == 200
    await world.settle()


@virtual
async def test_stale_answers_stand_in_while_it_is_open() -> None:
    world = Simulation(policies=caching({"info": cache_rule(1.0, 5.0)}))
    chat = world.chat()
    await world.info(chat)
    await asyncio.sleep(1.0)
    await break_down(world)
    before = len(world.upstream.sent)
    reply = await world.info(chat)
    assert (reply.status, outcome(reply)) == (200, "stale")
    assert "upstream-down" in (header(reply, "cache-status") or "")
    assert len(world.upstream.sent) == before
    await world.settle()


@pytest.mark.parametrize(
    "life",
    [
        Fault(status=404, code=12),
        Fault(status=409),
        Fault(status=429),
        Fault(status=401, code=10),
        Fault(status=302, redirect="/"),
    ],
    ids=["gone", "the caller's", "throttled", "our key", "redirect"],
)
@virtual
async def test_any_answer_is_a_sign_of_life(life: Fault) -> None:
    world = Simulation()
    for fault in [*([Fault(status=500)] * (TRIP - 1)), life, *([Fault(status=500)] * (TRIP - 1))]:
        world.emulator.fail(fault)
        await world.rename(world.chat(), "Zoe")
        await asyncio.sleep(1.0)
    assert len(world.upstream.sent) == 2 * TRIP - 1
    assert world.exchange.protection.hold(ACCOUNT, None, "any") is None
    assert (await world.rename(world.chat(), "Zoe")).status == 201
    await world.settle()


@virtual
async def test_where_nobody_is_there_one_chat_opens_it() -> None:
    world = Simulation()
    chat = world.chat()

    async def nobody(_: UpstreamRequest) -> Failed:
        return Failed(Reason.UPSTREAM_UNREACHABLE)

    world.upstream.interfere = nobody
    statuses = [(await world.rename(chat, "Zoe")).status for _ in range(2 * TRIP)]
    assert (len(world.upstream.sent), statuses[-1]) == (TRIP, 503)
    await world.settle()


# -- one is sick, the others are not ---------------------------------------------------------------------


async def rename_until(world: Simulation, chat: str, a_second: int, until: float) -> None:
    """Write so often, and never wait for an answer before the next."""
    async with asyncio.TaskGroup() as writes:
        while world.clock.now() < until:
            writes.create_task(world.rename(chat, "Zoe"))
            await asyncio.sleep(1 / a_second)


async def politely(world: Simulation, chat: str) -> Reply:
    """Poll until there is an answer, each time when the one before said."""
    while True:
        reply = await world.info(chat)
        if reply.status in {200, 404}:
            return reply
        await asyncio.sleep(float(header(reply, "retry-after") or 0))


def is_alive(reply: Reply) -> bool:
    return reply.status == 200 and b'"chatting"' in reply.body


@pytest.mark.parametrize("a_second", [2, 4, 50])
@pytest.mark.parametrize("poll_s", [2.0, 30.0])
@virtual
async def test_a_sick_chat_costs_the_others_nothing(poll_s: float, a_second: int) -> None:
    world = Simulation(log_level="error")
    sick, healthy = world.chat(), [world.chat() for _ in range(5)]
    world.emulator.fail(Fault(chat=sick, status=500, times=None))

    async def poll(chat: str, first_s: float) -> None:
        await asyncio.sleep(first_s)
        while world.clock.now() < 100.0:
            assert is_alive(await world.info(chat))
            await asyncio.sleep(poll_s)

    async with asyncio.TaskGroup() as all_of_it:
        all_of_it.create_task(rename_until(world, sick, a_second, 100.0))
        for nth, chat in enumerate(healthy):
            all_of_it.create_task(poll(chat, nth * poll_s / len(healthy) + 0.01))
    await world.settle()


@pytest.mark.parametrize("first_s", [0.0, 0.7, 1.3, 1.9, 2.2, 3.1, 3.9])
@pytest.mark.parametrize("a_second", [2, 4, 50])
@virtual
async def test_a_noisy_chat_that_stays_sick_does_not_keep_it_open(a_second: int, first_s: float) -> None:
    """Nobody else is there to probe for the healthy one."""
    world = Simulation(log_level="error")
    sick, healthy = world.chat(), world.chat()
    await break_down(world)
    healed_at = world.clock.now() + LAST_STEP_S
    async with asyncio.TaskGroup() as all_of_it:
        all_of_it.create_task(rename_until(world, sick, a_second, healed_at + 10.0))
        await asyncio.sleep(LAST_STEP_S)
        world.emulator.clear_faults()
        world.emulator.fail(Fault(chat=sick, status=500, times=None))
        await asyncio.sleep(first_s)
        asked_at = world.clock.now()
        assert is_alive(await politely(world, healthy))
        assert world.clock.now() <= asked_at + LAST_STEP_S
    await world.settle()


@pytest.mark.parametrize("fails_at", [2.0, 2.7, 4.8, 6.2, 28.0])
@pytest.mark.parametrize("heals_at", [31.0, 34.0, 34.5, 35.2, 36.0])
@virtual
async def test_who_polls_as_seldom_as_advised_lives_through_an_outage(
    heals_at: float, fails_at: float
) -> None:
    """Its poll after 30 s fails; others have the probes; at 40 s it would be dead."""
    world = Simulation(log_level="error")
    chat, others = world.chat(), [world.chat() for _ in range(20)]
    began = world.clock.now()
    await world.info(chat)
    async with asyncio.TaskGroup() as all_of_it:
        await asyncio.sleep(began + fails_at - world.clock.now())
        world.emulator.fail(Fault(status=500, times=None))
        all_of_it.create_task(poll_until(world, others, began + 40.0))
        asyncio.get_running_loop().call_at(began + heals_at, world.emulator.clear_faults)
        await asyncio.sleep(began + 30.0 - world.clock.now())
        assert (await world.info(chat)).status in {502, 503}
        assert is_alive(await politely(world, chat))
    await world.settle()
