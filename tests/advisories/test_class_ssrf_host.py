"""SSRF by Host or the like: the upstream is who the client names.

Here it is the configuration's.
"""

from __future__ import annotations

import asyncio

import pytest

from tests.advisories.attack import sealed, throw
from tests.support import World, account_path

pytestmark = pytest.mark.anyio


async def test_nobody_else_is_asked(here: World) -> None:
    visitors: list[object] = []

    async def welcome(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        visitors.append(writer)
        writer.close()

    server = await asyncio.start_server(welcome, "127.0.0.1", 0)
    there = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    names = [
        "x-forwarded-host",
        "x-host",
        "x-original-host",
        "forwarded",
        "x-upstream",
        "x-forwarded-server",
        "destination",
        "proxy",
        "referer",
        "origin",
    ]
    fields = [(name, f"host={there}" if name == "forwarded" else there) for name in names]
    peer = await throw(
        here, sealed(here, "GET", account_path(), *fields).replace(b"gateway.test", there.encode(), 1)
    )
    assert [reply.status for reply in peer.replies] == [200]
    assert here.upstream_requests() == 1
    assert visitors == []
    peer.transport.abort()
    server.close()
    await server.wait_closed()
