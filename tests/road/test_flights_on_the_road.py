"""Many requests, one fetch: how each ending reaches everyone."""

from __future__ import annotations

import asyncio

import pytest

from gateway.emulator import Fault
from tests.simulation import Simulation, header, simulate


def test_a_thousand_cold_requests_make_one_upstream_request() -> None:
    async def main() -> None:
        world = Simulation()
        chat = world.chat()
        replies = await asyncio.gather(*(world.info(chat) for _ in range(1000)))
        assert {reply.status for reply in replies} == {200}
        assert len({reply.body for reply in replies}) == 1
        assert world.emulator.counts().total(resource="info") == 1
        assert len(world.exchange.flights) == 0
        how = [header(reply, "cache-status") or "" for reply in replies]
        assert sum("collapsed" in said for said in how) == 999

    simulate(main())


@pytest.mark.parametrize(
    ("fault", "status"),
    [
        (Fault(resource="info", status=404, code=12), 404),
        (Fault(resource="info", status=500), 502),
        (Fault(resource="info", status=429, retry_after="2"), 503),
    ],
)
def test_failures_are_shared_like_answers(fault: Fault, status: int) -> None:
    async def main() -> None:
        world = Simulation()
        chat = world.chat()
        world.emulator.fail(fault)
        replies = await asyncio.gather(*(world.info(chat) for _ in range(50)))
        assert {reply.status for reply in replies} == {status}
        assert world.emulator.counts().total(resource="info") == 1

    simulate(main())
