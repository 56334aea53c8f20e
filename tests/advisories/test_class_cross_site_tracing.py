"""Cross-site tracing: TRACE sends back the head, credentials and all.

Here it is no request.
"""

from __future__ import annotations

import pytest

from tests.advisories.attack import sealed, throw, untouched
from tests.support import World, account_path

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("method", ["TRACE", "TRACK", "trace", "DEBUG"])
async def test_a_trace(here: World, method: str) -> None:
    data = sealed(
        here, method, account_path(), ("cookie", "c4nary=1"), ("max-forwards", "0"), ("connection", "close")
    )
    peer = await throw(here, data)
    assert 400 <= peer.replies[0].status < 500
    assert b"c4nary" not in bytes(peer.raw)
    assert b"eyJ" not in bytes(peer.raw)
    untouched(here)
    peer.transport.abort()
