"""Vary confusion: one entry for two representations gives one client the other's.

Here the representation is in the key.
"""

from __future__ import annotations

import pytest

from tests.support import World, chat_path

pytestmark = pytest.mark.anyio


async def test_each_gets_what_he_accepts(here: World) -> None:
    target = chat_path(here.chat(), "/info")
    for _ in range(2):
        for accept, start in (
            ("application/json", b"{"),
            ("application/xml", b"<"),
            ("*/*", b"{"),
            ("text/xml;q=1, */*;q=0.1", b"<"),
        ):
            reply = await here.get(target, accept=accept)
            assert reply.body.lstrip().startswith(start), accept
    assert here.upstream_requests() == 2
