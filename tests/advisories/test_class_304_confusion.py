"""A 304 with a body, or for somebody without leave, is an answer in the wrong place.

Here it has no bytes, and permission comes first.
"""

from __future__ import annotations

import pytest

from tests.advisories.attack import sealed, throw
from tests.support import World, account_path, chat_path

pytestmark = pytest.mark.anyio


async def test_no_body_follows(here: World) -> None:
    target = chat_path(here.chat(), "/info")
    etag = (await here.get(target)).header("etag") or ""
    data = sealed(here, "GET", target, ("if-none-match", etag)) + sealed(here, "GET", account_path())
    peer = await throw(here, data, replies=2)
    assert [reply.status for reply in peer.replies] == [304, 200]
    assert peer.replies[0].field(b"content-length") is None
    assert not peer.garbage
    peer.transport.abort()


@pytest.mark.parametrize("said", ["*", 'W/"x", *', '"' + "x" * 5_000 + '"'])
async def test_who_may_not_read_is_not_told(here: World, said: str) -> None:
    target = chat_path(here.chat(), "/info")
    etag = (await here.get(target)).header("etag") or ""
    for one in (etag, said):
        assert (await here.ask("GET", target, {"if-none-match": one}, subject=None)).status == 401
        assert (await here.ask("GET", target, {"if-none-match": one}, subject="nobody")).status == 403
