"""Response splitting: a line end in what an upstream or a client says starts a field, or another response.

Here heads are built of known lines.
"""

from __future__ import annotations

import pytest

from gateway.emulator import Fault
from tests.advisories.attack import sealed, throw
from tests.support import World, account_path, chat_path

pytestmark = pytest.mark.anyio


EVIL = [
    "/x%0d%0aset-cookie:a=b",
    "https://127.0.0.1/\u560a\u560dset-cookie:a=b",
    "\x0bset-cookie:a=b",
    "https://evil.example/%0d%0a%0d%0a<script>",
]


@pytest.mark.parametrize("evil", EVIL, ids=range(len(EVIL)))
async def test_from_the_upstream(here: World, evil: str) -> None:
    names = (b"location", b"set-cookie", b"x-evil", b"content-location", b"link", b"etag", b"retry-after")
    here.emulator.fail(Fault(headers=tuple((name, evil.encode()) for name in names), set_cookie="a=b"))
    peer = await throw(here, sealed(here, "GET", account_path()))
    head = bytes(peer.raw).partition(b"\r\n\r\n")[0]
    assert b"set-cookie" not in head
    assert b"evil" not in head
    assert not peer.garbage
    assert len(peer.replies) == 1
    peer.transport.abort()


@pytest.mark.parametrize("query", ["skill=a%0d%0ab", "skill=%0aset-cookie:a", "skill=%E2%80%A8", "skill=%00"])
async def test_from_a_client(here: World, query: str) -> None:
    reply = await here.get(account_path(f"/chat/availability?{query}"))
    assert (reply.status, reply.header("set-cookie")) == (400, None)
    assert here.upstream_requests() == 0
    assert (await here.get(chat_path(here.chat(), "/info"))).status == 200
