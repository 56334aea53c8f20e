"""Hop-by-hop abuse: Connection names Authorization, and a proxy drops it behind its own check.

Here Connection drops nothing.
"""

from __future__ import annotations

import pytest

from tests.advisories.attack import untouched
from tests.support import World, chat_path

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    "named",
    ["authorization", "close, Authorization", "host, accept, authorization", "authorization, authorization"],
)
async def test_named_fields_are_read(here: World, named: str) -> None:
    target = chat_path(here.chat(), "/info/agentTyping")
    assert (await here.get(target, connection=named)).status == 200
    (sent,) = here.emulator.recorded
    assert sent.count(b"LivePerson appKey=") == 1


async def test_nobody_is_nobody(here: World) -> None:
    assert (
        await here.ask("GET", chat_path("H1-1", "/info"), {"connection": "authorization"}, subject=None)
    ).status == 401
    untouched(here)
