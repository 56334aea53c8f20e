"""Pause-based desync: a body that comes after the answer is taken for a request.

Here it is the body still, or the connection is closed.
"""

from __future__ import annotations

import pytest

from tests.advisories.attack import hidden, sealed, throw, unseen
from tests.support import PATIENCE_S, World, account_path

pytestmark = pytest.mark.anyio


async def test_the_answer_comes_first(here: World) -> None:
    inner = hidden(here)
    peer = await throw(
        here, sealed(here, "POST", account_path("/nothing"), ("content-length", str(len(inner))))
    )
    assert [reply.status for reply in peer.replies] == [404]
    after = sealed(here, "GET", account_path(), ("connection", "close"))
    if not peer.is_closed:
        peer.transport.write(inner + after)
        assert await peer.until_closed(PATIENCE_S)
    assert [reply.status for reply in peer.replies] in ([404], [404, 200])
    unseen(here)
