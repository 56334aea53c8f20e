"""Accounts that are looked up at the vendor's domain service, and the rules about plain http."""

from __future__ import annotations

import contextlib
import json
import socket
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from gateway.configuration import Misconfigured, configure
from gateway.demo.stage import ACCOUNT
from gateway.emulator import Emulator, EmulatorConfig, EmulatorServer, Fault, Hang, serve
from gateway.upstream.accounts import Account, Accounts, Discovery
from gateway.upstream.keys import AppKeys
from tests.support import APP_KEY, PUBLIC_URL, World, account_path, chat_path, links_of, staged, until, world

pytestmark = pytest.mark.anyio

#: A quarter of a second for everything, so that a domain service that hangs is a short wait.
QUICK = {"UPSTREAM__DEADLINE_MS": "250", "UPSTREAM__STALE_AFTER_MS": "100"}


@contextlib.asynccontextmanager
async def discovered(folder: Path, *allowed: str) -> AsyncIterator[tuple[World, EmulatorServer]]:
    """A world whose account is discovered, and the domain service that names its upstream."""
    service = await serve(Emulator(EmulatorConfig(app_key=APP_KEY, record=10), now=time.time))
    try:
        async with world(
            folder,
            environ=QUICK,
            accounts={ACCOUNT: {"discover": True, "app_key_file": "app-key"}},
            discovery={"url": service.url, "allowed_domains": list(allowed or ("127.0.0.1",))},
            link_hosts=[],
        ) as it:
            named(service, it.server)
            yield it, service
    finally:
        await service.close()


def named(service: EmulatorServer, server: EmulatorServer) -> None:
    """From now on the domain service names this server."""
    says(service, f"127.0.0.1:{server.port}")


def says(service: EmulatorServer, host: str) -> None:
    body = f'{{"service": "conversationVep", "account": "123", "baseURI": "{host}"}}'.encode()
    service.emulator.clear_faults()
    service.emulator.fail(Fault(resource="discovery", times=None, body=body))


def lookups(service: EmulatorServer) -> int:
    return service.emulator.counts().total(resource="discovery")


async def test_an_account_is_looked_up_once(tmp_path: Path) -> None:
    async with discovered(tmp_path) as (it, service):
        assert lookups(service) == 0
        for _ in range(3):
            assert (await it.get(account_path())).status == 200
        assert lookups(service) == 1
        [request] = service.emulator.recorded
        assert request.startswith(b"GET /api/account/123/service/conversationVep/baseURI.json?version=1.0 ")


async def test_the_domain_service_is_not_given_the_key(tmp_path: Path) -> None:
    async with discovered(tmp_path) as (it, service):
        await it.get(account_path())
        assert not service.emulator.saw(b"ppKey")
        assert not service.emulator.saw(b"uthorization")


async def test_links_of_a_discovered_upstream_are_rewritten(tmp_path: Path) -> None:
    async with discovered(tmp_path) as (it, _):
        host = f"http://127.0.0.1:{it.server.port}"
        body = f'{{"account": {{"link": {{"href": "{host}{account_path()}", "rel": "self"}}}}}}'.encode()
        it.emulator.fail(Fault(resource="base", body=body))
        response = await it.get(account_path())
        assert list(links_of(response.json())) == [("self", PUBLIC_URL + account_path())]


async def test_an_account_that_moved_is_looked_up_again(tmp_path: Path) -> None:
    async with discovered(tmp_path) as (it, service):
        assert (await it.get(account_path())).status == 200
        await it.server.close()
        moved = await serve(it.emulator)
        try:
            named(service, moved)
            response = await it.get(account_path())
            assert (response.status, response.problem) == (502, "upstream-unreachable")
            assert (await it.get(account_path())).status == 200
            assert lookups(service) == 2
        finally:
            await moved.close()


async def test_the_last_good_value_outlives_a_sick_domain_service(tmp_path: Path) -> None:
    async with discovered(tmp_path) as (it, service):
        assert (await it.get(account_path())).status == 200
        await it.server.close()
        assert (await it.get(account_path())).status == 502
        await service.close()
        back = await serve(it.emulator, port=it.server.port)
        try:
            assert (await it.get(account_path())).status == 200
        finally:
            await back.close()


async def test_a_domain_service_that_hangs_costs_one_request_and_not_the_account(tmp_path: Path) -> None:
    async with discovered(tmp_path) as (it, service):
        assert (await it.get(account_path())).status == 200
        await it.server.close()
        assert (await it.get(account_path())).status == 502
        service.emulator.clear_faults()
        service.emulator.fail(Fault(resource="discovery", times=None, delivery=Hang()))
        back = await serve(it.emulator, port=it.server.port)
        try:
            statuses = [(await it.get(account_path())).status for _ in range(3)]
            assert statuses == [504, 200, 200]
            assert lookups(service) == 2
        finally:
            await back.close()


NONSENSE = [
    Fault(status=500),
    Fault(status=302, redirect="/elsewhere"),
    Fault(body=b"not json"),
    Fault(body=b"[" * 100_000),
    Fault(body=b"{}"),
    Fault(body=b'{"baseURI": 7}'),
    Fault(body=b'{"baseURI": "https://127.0.0.1:1"}'),
    Fault(body=b'{"baseURI": "127.0.0.1:1/path"}'),
    Fault(body=b'{"baseURI": "user@127.0.0.1"}'),
    Fault(body=b'{"baseURI": "evil.example\\r\\nx: y"}'),
    Fault(body=b'{"baseURI": "evil.example"}'),
    Fault(body=b'{"baseURI": "127.0.0.1.evil.example"}'),
    Fault(delivery=Hang()),
]


async def test_a_domain_service_that_talks_nonsense_is_not_believed(tmp_path: Path) -> None:
    async with discovered(tmp_path) as (it, service):
        service.emulator.clear_faults()
        for fault in NONSENSE:
            # They are no row of failures, for which there is the breaker.
            it.gateway._protection.succeeded(ACCOUNT, None)
            service.emulator.fail(fault)
            response = await it.get(account_path())
            assert response.problem in {"upstream-unreachable", "upstream-timeout"}, fault
            assert it.upstream_requests() == 0, fault
        # It is asked again for each, and believed when it talks sense.
        assert lookups(service) == len(NONSENSE)
        # The last one hangs for as long as the request that asked for it, give or take a moment.
        await until(lambda: len(it.gateway._accounts._lookups) == 0)
        named(service, it.server)
        assert (await it.get(account_path())).status == 200


async def test_an_account_does_not_move_out_of_the_allowed_domains(tmp_path: Path) -> None:
    async with discovered(tmp_path) as (it, service):
        assert (await it.get(account_path())).status == 200
        await it.server.close()
        assert (await it.get(account_path())).status == 502
        says(service, "evil.example")
        assert (await it.get(account_path())).problem == "upstream-unreachable"
        back = await serve(it.emulator, port=it.server.port)
        try:
            # The address of before is still believed.
            assert (await it.get(account_path())).status == 200
        finally:
            await back.close()


@pytest.mark.parametrize(
    ("account", "is_taken"),
    [
        ({"upstream": "http://127.0.0.1:1"}, True),
        ({"upstream": "http://localhost:1"}, True),
        ({"upstream": "http://[::1]:1"}, True),
        ({"upstream": "https://upstream.example"}, True),
        ({"upstream": "http://upstream.example", "allow_plain_http": True}, True),
        ({"upstream": "http://upstream.example"}, False),
        ({"upstream": "http://127.0.0.1.evil.example"}, False),
        ({"upstream": "http://10.0.0.1"}, False),
        ({"upstream": "http://0.0.0.0"}, False),
    ],
)
def test_plain_http_needs_leave(tmp_path: Path, account: dict[str, object], is_taken: bool) -> None:
    stage = staged(tmp_path, accounts={ACCOUNT: {**account, "app_key_file": "app-key"}})
    with contextlib.nullcontext() if is_taken else pytest.raises(Misconfigured) as refused:
        configure(stage.config, {})
    if not is_taken:
        assert "upstream" in str(refused)


async def test_a_chat_lives_on_through_a_move(tmp_path: Path) -> None:
    async with discovered(tmp_path) as (it, service):
        chat = it.chat()
        first = await it.get(chat_path(chat, "/info"))
        assert first.status == 200
        await it.server.close()
        moved = await serve(it.emulator)
        try:
            named(service, moved)
            assert (await it.get(chat_path(chat, "/info/agentTyping"))).status == 502
            assert (await it.get(chat_path(chat, "/info"))).body == first.body
            assert (await it.get(chat_path(chat, "/info/agentTyping"))).status == 200
        finally:
            await moved.close()


@contextlib.contextmanager
def black_hole() -> Iterator[int]:
    """A port that takes no connection and refuses none: its queue is full and nobody empties it."""
    with socket.socket() as hole, contextlib.ExitStack() as waiting:
        hole.bind(("127.0.0.1", 0))
        hole.listen(0)
        for _ in range(3):
            client = waiting.enter_context(socket.socket())
            client.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                client.connect(hole.getsockname())
        yield hole.getsockname()[1]


async def test_an_account_whose_old_host_swallows_connections_is_looked_up_again(tmp_path: Path) -> None:
    async with discovered(tmp_path) as (it, service):
        with black_hole() as port:
            says(service, f"127.0.0.1:{port}")
            assert (await it.get(account_path())).problem == "upstream-timeout"
            named(service, it.server)
            assert (await it.get(account_path())).status == 200
            assert lookups(service) == 2


@pytest.mark.parametrize(
    ("service", "host", "origin"),
    [
        ("http://127.0.0.1:9100", "127.0.0.1:9101", "http://127.0.0.1:9101"),
        ("http://127.0.0.1:9100", "va.example.net", "https://va.example.net"),
        ("http://127.0.0.1:9100", "127.0.0.1.example.net", "https://127.0.0.1.example.net"),
        ("https://api.example.net", "127.0.0.1:9101", "https://127.0.0.1:9101"),
    ],
)
async def test_plain_http_stays_on_the_machine(tmp_path: Path, service: str, host: str, origin: str) -> None:
    async def get(_url: str) -> bytes:
        return json.dumps({"baseURI": host}).encode()

    (tmp_path / "key").write_text(APP_KEY)
    account = Account(ACCOUNT, AppKeys((tmp_path / "key",)), None)
    allowed = Discovery(service, ("127.0.0.1", "*.example.net"))
    accounts = Accounts({ACCOUNT: account}, allowed, PUBLIC_URL, (), get)
    assert await accounts.origin(ACCOUNT) == origin
