"""Cache-poisoned denial of service: an error that one client provokes is kept for all.

Here what the gateway refuses is never kept.
"""

from __future__ import annotations

import pytest

from tests.advisories.attack import sealed, throw
from tests.support import World, chat_path

pytestmark = pytest.mark.anyio


FIELDS = [
    ("x", "a" * 17_000),
    ("x", "\x01"),
    ("x-http-method-override", "DELETE"),
    ("expect", "x"),
    ("accept", "text/html"),
    ("host", "b"),
    ("content-length", "3"),
    ("upgrade", "h2c"),
]


@pytest.mark.parametrize("said", FIELDS, ids=lambda said: said[0] + said[1][:9])
async def test_a_refusal_is_for_one(here: World, said: tuple[str, str]) -> None:
    target = chat_path(here.chat(), "/info")
    fields = [said, ("connection", "upgrade, close")] if said[0] == "upgrade" else [said]
    peer = await throw(here, sealed(here, "GET", target, *fields))
    assert 400 <= peer.replies[0].status < 500
    peer.transport.abort()
    assert (await here.get(target)).status == 200
    assert here.upstream_requests() == 1
