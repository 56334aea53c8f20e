"""A client may hang up at every await of the road; nothing is left of it, and the next one is answered."""

from __future__ import annotations

import asyncio
import random

import pytest

from gateway.core.replies import Reply
from gateway.emulator import Fault
from tests.simulation import Simulation, chat_path, name_of
from tests.virtual import simulate

#: More than the road takes, flight included, where the upstream takes no time.
STEPS = 30

REQUESTS = {
    "cold read": ("GET", "/info", b""),
    "forwarded read": ("GET", "/info/agentTyping", b""),
    "write": ("PUT", "/info/visitorName", b'{"visitorName": "Natalie"}'),
}


async def cancelled_at(steps: int, kind: str) -> bool:
    """Cancel a request after so many steps of the loop; whether it was still on its way."""
    world = Simulation(latency_s=lambda: 0.0)
    chat = world.chat()
    method, rest, body = REQUESTS[kind]
    ask = world.ask(method, chat_path(chat, rest), body=body, content_type="application/json")
    request = asyncio.create_task(ask)
    for _ in range(steps):
        await asyncio.sleep(0)
    was_on_its_way = request.cancel()
    await asyncio.gather(request, return_exceptions=True)
    fresh = await world.info(chat)
    assert fresh.status == 200
    await world.settle()
    if method == "PUT" and world.asked("visitor-name"):
        assert name_of(await world.info(chat)) == "Natalie"
    assert world.metrics.crashes == 0
    return was_on_its_way


@pytest.mark.parametrize("kind", REQUESTS)
def test_a_client_may_hang_up_at_every_step(kind: str) -> None:
    on_their_way = [simulate(cancelled_at(steps, kind)) for steps in range(STEPS)]
    assert on_their_way[0]
    assert not on_their_way[-1], "the request was followed to its end"
    assert on_their_way == sorted(on_their_way, reverse=True)


@pytest.mark.parametrize("seed", range(5))
def test_a_crowd_that_hangs_up_at_random_leaves_nothing(seed: int) -> None:
    """Five seconds of clients that leave whenever they like, then a hundred requests."""
    dice = random.Random(seed)

    async def hasty(world: Simulation, chat: str) -> None:
        kind = dice.choice(list(REQUESTS))
        method, rest, body = REQUESTS[kind]
        await asyncio.sleep(dice.uniform(0, 5))
        try:
            async with asyncio.timeout(dice.choice([0.0, 0.001, 0.05, 0.1, 0.119, 0.2])):
                await world.ask(method, chat_path(chat, rest), body=body, content_type="application/json")
        except TimeoutError:
            pass

    async def main() -> None:
        world = Simulation(latency_s=lambda: dice.uniform(0.01, 0.3))
        chats = [world.chat() for _ in range(5)]
        world.emulator.fail(*(Fault(status=500, times=1) for _ in range(5)))
        await asyncio.gather(*(hasty(world, dice.choice(chats)) for _ in range(500)))
        await asyncio.sleep(5)
        replies: list[Reply] = await asyncio.gather(*(world.info(dice.choice(chats)) for _ in range(100)))
        assert {reply.status for reply in replies} == {200}
        await world.settle()

    simulate(main())
