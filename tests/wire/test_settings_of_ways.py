"""The ways in and out: TLS, the upstream and whoever vouches for it, accounts that are looked up."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import shutil
import ssl
from pathlib import Path
from typing import Any

import pytest

from gateway.app import Gateway, running
from gateway.configuration import configure
from gateway.demo.stage import ACCOUNT
from gateway.emulator import Emulator, EmulatorConfig, Fault, serve
from gateway.observe.logs import logger
from tests.identity_provider import CA_FILE, certified, provider, response, says
from tests.proxy import proxying
from tests.proxy import says as always
from tests.reloading import SELDOM_S, WHEN, changeable, say
from tests.support import (
    APP_KEY,
    Wire,
    account_path,
    staged,
)

pytestmark = pytest.mark.anyio

# -- the way to the upstream ---------------------------------------------------------------------------


@WHEN
async def test_who_vouches_for_the_upstream(tmp_path: Path, when: str) -> None:
    async with provider(tmp_path / "tls") as theirs:
        theirs.behaviour = says(response(200, b"{}", "content-type: application/json"))
        ca_file = f"tls/{CA_FILE}"
        environ = {"UPSTREAM__CA_FILE": ca_file} if when == "from the start" else {}
        async with changeable(tmp_path, upstream=theirs.issuer, environ=environ) as it:
            if when == "while it runs":
                assert (await it.get(account_path())).problem == "upstream-unreachable"
                say(it, upstream={"ca_file": ca_file})
                await it.gateway.reloading.look_again()
            assert (await it.get(account_path())).status == 200


@pytest.mark.parametrize("when", ["never", "from the start", "while it runs"])
async def test_the_way_to_the_upstream(tmp_path: Path, when: str) -> None:
    """What is plain and elsewhere: the proxy has to answer for it, as nobody is there."""
    elsewhere = {
        ACCOUNT: {"upstream": "http://upstream.invalid", "allow_plain_http": True, "app_key_file": "app-key"}
    }
    async with proxying() as proxy:
        proxy.behaviour = always(b"HTTP/1.1 500 No\r\ncontent-length: 0\r\n\r\n")
        environ = {"UPSTREAM__PROXY": proxy.url} if when == "from the start" else {}
        async with changeable(tmp_path, environ=environ, accounts=elsewhere) as it:
            if when == "while it runs":
                say(it, upstream={"proxy": proxy.url})
                await it.gateway.reloading.look_again()
            problem = (await it.get(account_path())).problem
            by_proxy = when == "from the start"
            assert (problem, len(proxy.heads)) == (
                ("upstream-error", 1) if by_proxy else ("upstream-unreachable", 0)
            )


# -- TLS -----------------------------------------------------------------------------------------------


async def status_at(address: tuple[str, int], ca_file: Path | None = None) -> int:
    """What a client is answered who trusts this authority, or who speaks no TLS."""
    context = None if ca_file is None else ssl.create_default_context(cafile=ca_file)
    wire = Wire(*await asyncio.open_connection(*address, ssl=context), [])
    try:
        return (await wire.ask("GET", account_path())).status
    finally:
        await wire.close()


@pytest.mark.parametrize(("section", "status"), [("tls", 401), ("admin_tls", 404)])
async def test_tls(tmp_path: Path, section: str, status: int) -> None:
    """One listener speaks it and nothing else; its certificate may change while it runs."""
    ca_file = tmp_path / "tls" / CA_FILE
    certified(ca_file.parent)
    said: dict[str, Any] = {section: {"certificate_file": "tls/server.pem", "key_file": "tls/server.pem"}}
    stage = staged(tmp_path, reload_s=SELDOM_S, **said)
    log = logger("info", io.StringIO())
    gateway = Gateway(configure(stage.config, {}), stage.config, {}, log=log)
    async with running(gateway) as addresses:
        with_tls, without = addresses.public, addresses.private
        if section == "admin_tls":
            with_tls, without = without, with_tls
        assert await status_at(with_tls, ca_file) == status
        with pytest.raises((OSError, asyncio.IncompleteReadError)):
            await status_at(with_tls)
        assert await status_at(without) == {401: 404, 404: 401}[status]
        before = tmp_path / "before.pem"
        shutil.copy(ca_file, before)
        await gateway.reloading.look_again()
        certified(ca_file.parent)
        await gateway.reloading.look_again()
        assert await status_at(with_tls, ca_file) == status
        with pytest.raises(ssl.SSLCertVerificationError):
            await status_at(with_tls, before)


# -- accounts that are looked up -----------------------------------------------------------------------


async def test_discover(tmp_path: Path) -> None:
    """`discover`, `discovery.url` and `discovery.allowed_domains`, each changed while it runs."""
    async with contextlib.AsyncExitStack() as stack:
        it = await stack.enter_async_context(changeable(tmp_path))
        services = []
        for _ in range(2):
            service = await serve(Emulator(EmulatorConfig(app_key=APP_KEY), now=it.stage.wall))
            stack.push_async_callback(service.close)
            host = f"127.0.0.1:{it.server.port}"
            body = json.dumps({"service": "conversationVep", "account": ACCOUNT, "baseURI": host}).encode()
            service.emulator.fail(Fault(resource="discovery", times=None, body=body))
            services.append(service)
        first, second = services
        steps = (
            (first, "127.0.0.1", None, (1, 0)),
            (second, "127.0.0.1", None, (1, 1)),
            (second, "*.example.net", "upstream-unreachable", (1, 2)),
        )
        for service, domain, problem, lookups in steps:
            say(
                it,
                accounts={ACCOUNT: {"discover": True, "app_key_file": "app-key"}},
                discovery={"url": service.url, "allowed_domains": [domain]},
            )
            await it.gateway.reloading.look_again()
            assert (await it.get(account_path())).problem == problem
            assert tuple(one.emulator.counts().total(resource="discovery") for one in services) == lookups
