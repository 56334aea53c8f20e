"""A thousand requests for one cold chat, one fetch: whatever it brings, and whoever leaves."""

from __future__ import annotations

import asyncio
import random

import pytest

from gateway.core.replies import Reply
from gateway.emulator import Fault, Hang, Reset
from tests.simulation import DEADLINE_S, Simulation, header
from tests.virtual import virtual

CROWD = 1000


@pytest.mark.parametrize(
    ("fault", "status", "takes_s"),
    [
        (Fault(resource="info"), 200, 0.12),
        (Fault(resource="info", headers=((b"cache-control", b"no-store"),)), 200, 0.12),
        (Fault(resource="info", status=404, code=12), 404, 0.12),
        (Fault(resource="info", status=500), 502, 0.12),
        (Fault(resource="info", status=429, retry_after="2"), 503, 0.12),
        (Fault(resource="info", delivery=Hang()), 504, DEADLINE_S),
        (Fault(resource="info", delivery=Reset()), 502, 0.12),
        (Fault(resource="info", body=b'{"info":'), 502, 0.12),
    ],
    ids=["200", "no-store", "404", "500", "429", "hang", "reset", "broken"],
)
@virtual
async def test_everyone_gets_the_one_outcome_at_once(fault: Fault, status: int, takes_s: float) -> None:
    world = Simulation(log_level="error")
    chat = world.chat()
    world.emulator.fail(fault)
    replies = await asyncio.gather(*(world.info(chat) for _ in range(CROWD)))
    assert world.clock.now() == pytest.approx(takes_s)
    assert {reply.status for reply in replies} == {status}
    assert world.asked() == 1
    if status < 500:
        assert len({reply.body for reply in replies}) == 1
        how = [header(reply, "cache-status") or "" for reply in replies]
        assert sum("collapsed" in said for said in how) == CROWD - 1
    await world.settle()


@pytest.mark.parametrize("leaving", [1, 900])
@virtual
async def test_it_stays_one_when_the_first_or_most_hang_up(leaving: int) -> None:
    dice = random.Random(leaving)
    world = Simulation(log_level="error")
    chat = world.chat()
    tasks = [asyncio.create_task(world.info(chat)) for _ in range(CROWD)]
    await asyncio.sleep(0.05)
    for task in tasks[:1] if leaving == 1 else dice.sample(tasks, leaving):
        task.cancel()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    replies = [outcome for outcome in outcomes if isinstance(outcome, Reply)]
    assert [reply.status for reply in replies] == [200] * (CROWD - leaving)
    assert world.asked() == 1
    await world.settle()
