"""An answer to HEAD with a body is the next answer to whoever asks next.

Here HEAD has the length and no bytes, fetched, cached or refused.
"""

from __future__ import annotations

import pytest

from tests.advisories.attack import sealed
from tests.hostile.recorder import Peer, connect
from tests.support import PATIENCE_S, World, account_path, chat_path

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("rest", ["/info", "/info?unknown=1", "/nothing", "/info/agentTyping"])
async def test_what_follows_a_head(here: World, rest: str) -> None:
    target = chat_path(here.chat(), rest)
    data = sealed(here, "HEAD", target) * 2 + sealed(here, "GET", account_path())
    sent = await _three(here, data)
    first, second, last = sent.replies
    assert first.body == second.body == b""
    assert int(first.field(b"content-length") or 0) > 0
    assert last.status == 200
    assert b'"link"' in last.body
    assert not sent.garbage


async def _three(here: World, data: bytes) -> Peer:
    peer = await connect(here.addresses.public)
    peer.asked = ["HEAD", "HEAD", "GET"]
    peer.transport.write(data)
    assert await peer.until(3, PATIENCE_S)
    return peer
