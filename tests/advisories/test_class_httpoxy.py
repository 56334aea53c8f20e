"""httpoxy (CVE-2016-5385 and kin): a Proxy field becomes HTTP_PROXY, and requests go by an attacker.

Here neither the field nor the variable is read.
"""

from __future__ import annotations

import asyncio

import pytest

from tests.support import World, account_path

pytestmark = pytest.mark.anyio


async def test_no_proxy_is_taken(here: World, monkeypatch: pytest.MonkeyPatch) -> None:
    visitors: list[object] = []

    async def welcome(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        visitors.append(writer)
        writer.close()

    server = await asyncio.start_server(welcome, "127.0.0.1", 0)
    proxy = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    monkeypatch.setenv("HTTP_PROXY", proxy)
    monkeypatch.setenv("http_proxy", proxy)
    monkeypatch.setenv("ALL_PROXY", proxy)
    assert (await here.get(account_path(), proxy=proxy)).status == 200
    assert here.upstream_requests() == 1
    assert visitors == []
    server.close()
    await server.wait_closed()
