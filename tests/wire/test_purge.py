"""What an operator purges is asked for again, and what was on its way is kept by nobody."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from gateway.demo.stage import ACCOUNT
from gateway.emulator import EmulatorConfig
from tests.support import APP_KEY, Response, Wire, World, chat_path, message, policies_with, until, world

pytestmark = pytest.mark.anyio


async def purge(it: World, said: Mapping[str, object], token: str | None = None) -> Response:
    wire = Wire(*await asyncio.open_connection(*it.addresses.private), it.received)
    fields = {
        "authorization": f"Bearer {token or it.stage.admin_token}",
        "content-type": "application/json",
    }
    try:
        asked = message("POST", "/purge", fields, json.dumps(said).encode())
        # By a name that the private listener goes by.
        await wire.send(asked.replace(b"gateway.test", b"localhost"))
        return await wire.response("POST")
    finally:
        await wire.close()


def is_hit(answer: Response) -> bool:
    return "; hit" in (answer.header("cache-status") or "")


@pytest.mark.parametrize(
    ("said", "others_too"),
    [({"account": ACCOUNT, "chat": "this"}, False), ({"account": ACCOUNT}, True), ({"all": True}, True)],
    ids=["chat", "account", "all"],
)
@pytest.mark.parametrize("short_cut", [True, False])
async def test_what_was_kept_is_asked_for_again(
    tmp_path: Path, said: dict[str, object], *, others_too: bool, short_cut: bool
) -> None:
    # Nothing grows old meanwhile, however slow the machine is.
    policies = policies_with(tmp_path / "slow", "chatting: 1000", "chatting: 8000")
    async with world(tmp_path, short_cut=short_cut, policies=policies) as it:
        this, other = it.chat(), it.chat()
        async with it.wire() as wire:

            async def ask(chat: str) -> bool:
                return is_hit(await wire.ask("GET", chat_path(chat, "/info"), it.bearer()))

            for chat in (this, other):
                await ask(chat)
                assert await ask(chat)
            answer = await purge(it, said | ({"chat": this} if "chat" in said else {}))
            assert (answer.status, answer.json()) == (200, {"purged": 1 + others_too, "shared": None})
            assert not await ask(this)
            assert await ask(other) != others_too
            assert await ask(this)
        (line,) = [line for line in it.lines() if line["event"] == "purged"]
        assert (line["level"], line["entries"]) == ("warning", 1 + others_too)
        assert this not in it.log.getvalue()


async def test_what_is_on_its_way_is_not_kept(tmp_path: Path) -> None:
    async with world(tmp_path, emulator=EmulatorConfig(app_key=APP_KEY, latency_s=0.3)) as it:
        path = chat_path(it.chat(), "/info")
        waiting = asyncio.create_task(it.get(path))
        await until(lambda: it.upstream_requests() == 1)
        assert (await purge(it, {"account": ACCOUNT})).json()["purged"] == 0
        assert (await waiting).status == 200
        assert not is_hit(await it.get(path))


@pytest.mark.parametrize(
    ("said", "fault"),
    [
        ({}, "account: expected a text, got nothing"),
        ({"account": "elsewhere"}, "account: expected one of the settings, got another"),
        ({"account": ACCOUNT, "chat": "../../"}, "chat: expected the id of a chat, got something else"),
        ({"account": ACCOUNT, "chat": 7}, "chat: expected a text, got a number"),
        ({"chat": "H1-2K3"}, "account: expected a text, got nothing"),
        ({"all": False}, "all: expected true, and nothing beside it, got something else"),
        ({"all": True, "account": ACCOUNT}, "all: expected true, and nothing beside it, got something else"),
        ({"everything": True}, "expected only account, all, chat, got 'everything'"),
    ],
)
async def test_what_is_not_clear_purges_nothing(here: World, said: dict[str, object], fault: str) -> None:
    path = chat_path(here.chat(), "/info")
    await here.get(path)
    answer = await purge(here, said)
    assert (answer.status, answer.json()) == (400, {"faults": [fault]})
    assert is_hit(await here.get(path))


async def test_who_has_no_token_purges_nothing(here: World) -> None:
    path = chat_path(here.chat(), "/info")
    await here.get(path)
    assert (await purge(here, {"all": True}, token="not-the-token")).status == 401
    assert is_hit(await here.get(path))
