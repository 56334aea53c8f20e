"""CRLF in X-Request-ID: what is sent back, logged or passed on ends the line it stands in.

Here an id has a shape, or is made anew.
"""

from __future__ import annotations

import re

import pytest

from tests.advisories.attack import sealed, throw
from tests.support import World, account_path

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    "said",
    [
        "a\r\n x",
        "%0d%0aset-cookie:a=b",
        "a\u560a\u560d",
        "a b",
        "<script>",
        "a;b",
        "x" * 65,
        "\u00e9",
        "${jndi:x}",
    ],
)
async def test_an_id(here: World, said: str) -> None:
    data = sealed(here, "GET", account_path("/nothing"), ("x-request-id", "SAID")).replace(
        b"SAID", said.encode()
    )
    peer = await throw(here, data)
    reply = peer.replies[0]
    assert re.fullmatch(b"[0-9a-f]{16}", reply.field(b"x-request-id") or b"")
    assert reply.field(b"set-cookie") is None
    assert said.encode() not in bytes(peer.raw)
    assert said not in here.log.getvalue()
    peer.transport.abort()
