"""Response queue poisoning: answers move up by one, and everybody gets somebody else's.

Here answers come in order, each its own.
"""

from __future__ import annotations

import pytest

from tests.advisories.attack import sealed, throw
from tests.support import World, chat_path

pytestmark = pytest.mark.anyio


async def test_answers_keep_their_places(here: World) -> None:
    chats = [here.chat() for _ in range(12)]
    targets = [chat_path(chat, "/info?bad=1" if n % 3 == 1 else "/info") for n, chat in enumerate(chats)]
    peer = await throw(here, b"".join(sealed(here, "GET", target) for target in targets), replies=12)
    assert len(peer.replies) == 12
    for n, (chat, reply) in enumerate(zip(chats, peer.replies, strict=True)):
        assert reply.status == (400 if n % 3 == 1 else 200)
        assert [other for other in chats if other.encode() in reply.body] == ([] if n % 3 == 1 else [chat])
    peer.transport.abort()
