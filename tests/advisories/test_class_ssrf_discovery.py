"""SSRF by discovery: whoever answers for the directory names the host that gets the key.

Here it must be in an allowed domain.
"""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from gateway.demo.stage import ACCOUNT
from gateway.emulator import Emulator, EmulatorConfig, Fault, serve
from tests.support import APP_KEY, account_path, world

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    "named",
    [
        "evil.example",
        "127.0.0.1.evil.example",
        "localhost",
        "127.0.0.1@evil.example",
        "127.0.0.1/x",
        "127.0.0.1#",
        "\u0131",
    ],
)
async def test_another_host(tmp_path: Path, named: str) -> None:
    service = await serve(Emulator(EmulatorConfig(app_key=APP_KEY, record=10), now=time.time))
    body = f'{{"service": "conversationVep", "account": "123", "baseURI": "{named}"}}'.encode()
    service.emulator.fail(Fault(resource="discovery", times=None, body=body))
    accounts = {ACCOUNT: {"discover": True, "app_key_file": "app-key"}}
    discovery = {"url": service.url, "allowed_domains": ["127.0.0.1"]}
    async with world(tmp_path, accounts=accounts, discovery=discovery, link_hosts=[]) as it:
        reply = await it.get(account_path())
        assert (reply.status, reply.problem) == (502, "upstream-unreachable")
        assert service.emulator.counts().total(resource="discovery") >= 1
        assert it.upstream_requests() == 0
    await service.close()
