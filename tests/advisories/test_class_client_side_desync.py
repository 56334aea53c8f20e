"""Client-side desync: a server that answers before it has read the body takes it for the next request.

Here a body is a body, whatever the answer.
"""

from __future__ import annotations

import pytest

from tests.advisories.attack import hidden, sealed, throw, unseen
from tests.support import World, account_path, chat_path, message

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    ("method", "target", "status"),
    [
        ("POST", account_path("/nothing"), 404),
        ("POST", "/", 404),
        ("POST", account_path(), 405),
        ("PUT", chat_path("H1-1", "/info?x=y"), 405),
        ("POST", "/api/../x", 400),
    ],
)
async def test_an_early_answer(here: World, method: str, target: str, status: int) -> None:
    inner = hidden(here)
    data = sealed(here, method, target, ("content-length", str(len(inner))), body=inner)
    peer = await throw(here, data + message("GET", account_path(), here.bearer()), replies=2)
    assert peer.replies[0].status == status
    assert [reply.status for reply in peer.replies[1:]] in ([200], [])
    assert len(peer.replies) == 2 or peer.is_closed
    unseen(here)
    peer.transport.abort()
