"""Host header attacks: links, routing or the cache go by a name that the client makes up.

Here Host is checked and used for nothing.
"""

from __future__ import annotations

import pytest

from tests.advisories.attack import refused_and_closed, sealed, throw
from tests.support import PUBLIC_URL, World, account_path

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1:8081", "localhost", "x" * 250, "[::1]:1", "gateway.test:99999"]
)
async def test_another_name(here: World, host: str) -> None:
    plain = (await here.get(account_path())).body
    peer = await throw(here, sealed(here, "GET", account_path()).replace(b"gateway.test", host.encode(), 1))
    assert [reply.body for reply in peer.replies] == [plain]
    assert PUBLIC_URL.encode() in plain
    peer.transport.abort()


@pytest.mark.parametrize(
    "hosts",
    [b"", b"host: a\r\nhost: b\r\n", b"host: a, b\r\n", b"host: a/b\r\n", b"host: u@a\r\n", b"host : a\r\n"],
)
async def test_no_name(here: World, hosts: bytes) -> None:
    data = sealed(here, "GET", account_path(), ("connection", "close"))
    await refused_and_closed(here, data.replace(b"host: gateway.test\r\n", hosts, 1))
