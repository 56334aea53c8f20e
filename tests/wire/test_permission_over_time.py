"""A token that dies while its request waits: for a fetch, or for the request's own body."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gateway.emulator import EmulatorConfig
from gateway.identity.development import new_key
from tests.support import APP_KEY, World, account_path, chat_path, message, until, world

pytestmark = pytest.mark.anyio


async def withdraw_the_key(it: World) -> None:
    _, other = new_key("ES256")
    (it.stage.config.parent / "jwks.json").write_bytes(other)
    await it.gateway.read_keys_again()


async def test_a_write_whose_key_went_while_its_body_came_is_not_sent(tmp_path: Path) -> None:
    async with world(tmp_path) as it, it.wire() as wire:
        body = json.dumps({"visitorName": "Zoe"}).encode()
        fields = {"content-type": "application/json", **it.bearer()}
        whole = message("PUT", chat_path(it.chat(), "/info/visitorName"), fields, body)
        await wire.send(whole[:-1])
        await it.get(account_path("/nothing"))  # answered after the head above was read
        await withdraw_the_key(it)
        await wire.send(whole[-1:])
        assert (await wire.response()).problem == "token-invalid"
        assert it.upstream_requests() == 0


async def test_a_reader_whose_key_went_while_it_waited_gets_no_answer(tmp_path: Path) -> None:
    config = EmulatorConfig(app_key=APP_KEY, latency_s=0.2)
    async with world(tmp_path, emulator=config) as it, it.wire() as wire:
        await wire.send(message("GET", chat_path(it.chat(), "/info"), it.bearer()))
        await until(lambda: it.upstream_requests() == 1)
        await withdraw_the_key(it)
        assert (await wire.response()).problem == "token-invalid"
