"""What another replica is heard to purge, by whoever can write to Redis."""

from __future__ import annotations

from tests.simulation import Simulation
from tests.virtual import virtual


@virtual
async def test_a_purge_of_no_account_is_remembered_by_nobody() -> None:
    world = Simulation()
    world.exchange.purged("x" * 60_000)
    assert world.store.purges("x" * 60_000) == 0
