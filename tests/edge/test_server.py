"""The two listeners: where they listen, and how they stop."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from pathlib import Path

import pytest

from gateway.app import Gateway, running
from gateway.configuration import configure
from gateway.edge.server import CannotListen, bind
from gateway.emulator import EmulatorConfig
from tests.support import APP_KEY, Wire, account_path, chat_path, message, staged, until, world
from tests.virtual import simulate

pytestmark = pytest.mark.anyio


async def test_the_private_listener_answers_probes(tmp_path: Path) -> None:
    async with world(tmp_path) as it:
        assert (await it.admin("/healthz")).body == b"alive\n"
        ready = await it.admin("/readyz")
        assert (ready.status, ready.json()) == (200, {"ready": True})
        assert (await it.admin("/metrics")).header(
            "content-type"
        ) == "text/plain; version=0.0.4; charset=utf-8"
        assert (await it.admin(account_path())).status == 404
        for path in ("/healthz", "/readyz", "/metrics"):
            assert (await it.get(path)).problem == "unknown-resource"


def configured(folder: Path, listen: str, admin_listen: str) -> Gateway:
    stage = staged(folder, listen=listen, admin_listen=admin_listen)
    return Gateway(configure(stage.config, {}), stage.config, {})


@pytest.mark.parametrize("taken_is_public", [True, False])
async def test_a_taken_address_is_named(tmp_path: Path, taken_is_public: bool) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        addresses = (address, "127.0.0.1:0") if taken_is_public else ("127.0.0.1:0", address)
        gateway = configured(tmp_path, *addresses)
        with pytest.raises(CannotListen, match=f"cannot listen on {address}: "):
            async with running(gateway):
                pass  # pragma: no cover - it never starts
    assert not gateway.ready


async def test_ipv6(tmp_path: Path) -> None:
    try:
        bind("::1", 0).close()
    except CannotListen:  # pragma: no cover - depends on the machine
        pytest.skip("no IPv6 here")
    async with running(configured(tmp_path, "[::1]:0", "127.0.0.1:0")) as addresses:
        wire = Wire(*await asyncio.open_connection(*addresses.public), [])
        assert (await wire.ask("GET", "/")).status == 401
        await wire.close()


async def test_what_is_under_way_is_answered_before_the_end(tmp_path: Path) -> None:
    config = EmulatorConfig(app_key=APP_KEY, latency_s=0.15)
    async with contextlib.AsyncExitStack() as after:
        async with world(tmp_path, emulator=config) as it:
            chat = it.chat()
            # They outlive the world, to hear what it said last.
            wires = [await after.enter_async_context(it.wire()) for _ in range(3)]
            for wire, rest in zip(wires, ("/info", "/info/agentTyping", "/events"), strict=True):
                await wire.send(message("GET", chat_path(chat, rest), it.bearer()))
            await until(lambda: it.upstream_requests() == 3)
        for wire in wires:
            assert (await wire.response()).status == 200
            assert await wire.until_closed() == b""


async def test_an_idle_connection_does_not_hold_up_the_end(tmp_path: Path) -> None:
    async with asyncio.timeout(5), contextlib.AsyncExitStack() as after:
        async with world(tmp_path) as it:
            wire = await after.enter_async_context(it.wire())
            assert (await wire.ask("GET", account_path(), it.bearer())).status == 200
        assert await wire.until_closed() == b""


@pytest.mark.parametrize(("drain_s", "status", "problem"), [(0, 503, "draining"), (10, 200, None)])
async def test_the_end_waits_for_the_upstream_as_long_as_it_is_told(
    tmp_path: Path, drain_s: int, status: int, problem: str | None
) -> None:
    config = EmulatorConfig(app_key=APP_KEY, latency_s=0.3)
    async with contextlib.AsyncExitStack() as after:
        async with world(tmp_path, emulator=config, drain_s=drain_s) as it:
            wire = await after.enter_async_context(it.wire())
            await wire.send(message("GET", chat_path(it.chat(), "/info"), it.bearer()))
            await until(lambda: it.upstream_requests() == 1)
        response = await wire.response()
        assert (response.status, response.problem) == (status, problem)


async def test_the_private_listener_sends_nobody_elsewhere(tmp_path: Path) -> None:
    async with world(tmp_path) as it:
        response = await it.admin("/metrics/")
        assert (response.status, response.header("location")) == (404, None)


def test_a_look_at_the_files_that_fails_is_not_the_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway = configured(tmp_path, "127.0.0.1:0", "127.0.0.1:0")
    looks = 0

    async def look() -> None:
        nonlocal looks
        looks += 1
        raise KeyError if looks < 4 else asyncio.CancelledError

    monkeypatch.setattr(gateway.reloading, "look_again", look)
    with pytest.raises(asyncio.CancelledError):
        simulate(gateway.keep_looking())
    assert gateway.metrics.crashes == 3
