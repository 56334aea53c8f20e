"""Slowloris: heads and bodies that never end hold every connection.

Here each has its deadline, and good clients go on.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.advisories.attack import sealed
from tests.hostile.recorder import connect
from tests.support import PATIENCE_S, World, account_path, chat_path, world

pytestmark = pytest.mark.anyio


BOUNDS = {"head_ms": 150, "body_ms": 150, "idle_ms": 150}


def beginnings(it: World) -> dict[str, bytes]:
    body = sealed(
        it,
        "PUT",
        chat_path("H1-1", "/customVariables"),
        ("content-length", "99"),
        ("content-type", "application/json"),
    )
    return {"head": sealed(it, "GET", account_path())[:-2], "line": b"GET /api", "body": body, "nothing": b""}


async def test_each_ends(tmp_path: Path) -> None:
    async with world(tmp_path, edge=BOUNDS) as it:
        for name, said in beginnings(it).items():
            slow = [await connect(it.addresses.public) for _ in range(20)]
            for peer in slow:
                peer.transport.write(said)
            assert (await it.get(account_path())).status == 200
            for peer in slow:
                assert await peer.until_closed(PATIENCE_S), name
                assert [reply.status for reply in peer.replies] == ([] if name == "nothing" else [408]), name
