"""An account with two keys, one of which the upstream refuses; and files of keys that change."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.emulator import EmulatorConfig
from tests.support import APP_KEY, World, account_path, chat_path, leaks, message, world

pytestmark = pytest.mark.anyio

NEXT = "n3xt/99b1+27d4e6a0c583f1aa=~"


@contextlib.asynccontextmanager
async def with_two_keys(folder: Path) -> AsyncIterator[World]:
    """A world with a second key, which is not to be seen either."""
    (folder / "next-key").write_text(NEXT + "\n")
    config = EmulatorConfig(app_key=APP_KEY, record=100)
    environ = {"ACCOUNTS__123__NEXT_APP_KEY_FILE": "next-key"}
    async with world(folder, emulator=config, environ=environ) as it:
        yield it
    assert not leaks(b"".join(it.received), NEXT)
    assert not leaks(it.log.getvalue().encode(), NEXT)


def last_key(it: World) -> str:
    head = it.emulator.recorded[-1].partition(b"\r\n\r\n")[0].decode()
    return head.rpartition("appKey=")[2]


async def test_a_read_whose_key_is_refused_tries_the_other_once(tmp_path: Path) -> None:
    async with with_two_keys(tmp_path) as it:
        assert (await it.get(account_path())).status == 200
        assert (it.upstream_requests(), last_key(it)) == (1, APP_KEY)
        it.emulator.app_keys = (NEXT,)
        assert (await it.get(account_path())).status == 200
        assert (it.upstream_requests(), last_key(it)) == (3, NEXT)
        # The one that worked is the first to be tried from now on, for writes too.
        assert (await it.write("POST", account_path("/chat/request"), {"request": {}})).status == 201
        assert it.upstream_requests() == 4


async def test_many_who_wait_try_the_other_key_together(tmp_path: Path) -> None:
    async with with_two_keys(tmp_path) as it:
        it.emulator.app_keys = (NEXT,)
        target = chat_path(it.chat(), "/info")
        async with contextlib.AsyncExitStack() as stack:
            wires = [await stack.enter_async_context(it.wire()) for _ in range(20)]
            for wire in wires:
                await wire.send(message("GET", target, it.bearer()))
            assert {(await wire.response()).status for wire in wires} == {200}
        assert it.upstream_requests() == 2


async def test_a_write_whose_key_is_refused_is_not_sent_again(tmp_path: Path) -> None:
    async with with_two_keys(tmp_path) as it:
        it.emulator.app_keys = (NEXT,)
        target = chat_path(it.chat(), "/info/visitorName")
        response = await it.write("PUT", target, {"visitorName": "Zoe"})
        assert (response.status, response.problem) == (502, "key-refused")
        assert it.upstream_requests() == 1


async def test_when_both_are_refused_that_is_all(tmp_path: Path) -> None:
    async with with_two_keys(tmp_path) as it:
        it.emulator.app_keys = ("another",)
        response = await it.get(account_path())
        assert (response.status, response.problem) == (502, "key-refused")
        assert it.upstream_requests() == 2


async def test_a_file_that_changed_is_read_again(tmp_path: Path) -> None:
    async with world(tmp_path, emulator=EmulatorConfig(app_key=APP_KEY, record=9)) as it:
        it.emulator.app_keys = (NEXT,)
        assert (await it.get(account_path())).problem == "key-refused"
        (tmp_path / "app-key").write_text(NEXT + "\n")
        await it.gateway.reloading.look_again()
        assert (await it.get(account_path())).status == 200
        # One that is unfit is refused, and the last good key stays.
        for unfit in ("", "two words", f"{APP_KEY}\n{NEXT}\n", "ä"):
            (tmp_path / "app-key").write_text(unfit)
            await it.gateway.reloading.look_again()
            assert (await it.get(account_path())).status == 200
        assert sum(line["event"] == "configuration refused" for line in it.lines()) >= 1
        assert not leaks(it.log.getvalue().encode(), NEXT)


async def test_the_other_key_is_tried_however_many_wait_for_their_turn(tmp_path: Path) -> None:
    """Who floods does not keep an account with the key that is refused."""
    (tmp_path / "next-key").write_text(NEXT + "\n")
    environ = {"ACCOUNTS__123__NEXT_APP_KEY_FILE": "next-key"}
    budget = {"per_second": 100, "burst": 2, "in_flight": 4, "queue": 60, "wait_ms": 5000}
    async with world(tmp_path, environ=environ, budget=budget) as it:
        it.emulator.app_keys = (NEXT,)
        async with contextlib.AsyncExitStack() as stack:
            wires = [await stack.enter_async_context(it.wire()) for _ in range(60)]
            for wire in wires:
                await wire.send(message("GET", chat_path(it.chat(), "/info"), it.bearer()))
            assert {(await wire.response()).status for wire in wires} == {200}
        # Those who had been sent by then asked once more, and nobody after them.
        assert 61 <= it.upstream_requests() <= 60 + 2 * 4
