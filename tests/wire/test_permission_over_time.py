"""A token that dies while its request waits: for a fetch, in the queue for the upstream, for its own body."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from gateway.app import SystemClock
from gateway.demo.stage import ACCOUNT, ISSUER
from gateway.emulator import EmulatorConfig, Fault
from gateway.identity.development import new_key
from tests.support import APP_KEY, Wire, World, account_path, chat_path, message, until, world

pytestmark = pytest.mark.anyio

#: So long the upstream takes, and in that time a token has to die.
UPSTREAM_S = 0.6
LIFETIME_S = 3600.0


@dataclass
class Hands:
    """On the wall clock of the gateway: how far it is ahead."""

    ahead_s: float = 0.0


@pytest.fixture
def hands(monkeypatch: pytest.MonkeyPatch) -> Hands:
    moved = Hands()
    monkeypatch.setattr(SystemClock, "wall", lambda _: time.time() + moved.ahead_s)
    return moved


async def withdraw_the_key(it: World, _: Hands) -> None:
    (it.stage.config.parent / "jwks.json").write_bytes(new_key("ES256")[1])
    await it.gateway.reloading.look_again()


def revoke_by_the_file(record: Mapping[str, str]) -> Death:
    async def revoke(it: World, _: Hands) -> None:
        (it.stage.config.parent / "revoked").write_text(json.dumps(record) + "\n")
        await it.gateway.reloading.look_again()

    return revoke


def revoke_by_the_listener(record: Mapping[str, str]) -> Death:
    async def revoke(it: World, _: Hands) -> None:
        fields = {
            "authorization": f"Bearer {it.stage.admin_token}",
            "content-type": "application/json",
        }
        wire = Wire(*await asyncio.open_connection(*it.addresses.private), it.received)
        answer = await wire.ask("POST", "/revocations", fields, json.dumps(record).encode())
        await wire.close()
        assert answer.status == 201

    return revoke


async def let_it_expire(_: World, hands: Hands) -> None:
    hands.ahead_s += LIFETIME_S


Death = Callable[[World, Hands], Awaitable[None]]
#: How a token can die, and what its client is told then.
DEATHS: Mapping[str, tuple[Death, str]] = {
    "key withdrawn": (withdraw_the_key, "token-invalid"),
    "jti, by the file": (revoke_by_the_file({"jti": "7", "issuer": ISSUER}), "token-revoked"),
    "sub, by the listener": (revoke_by_the_listener({"sub": "bff", "issuer": ISSUER}), "token-revoked"),
    "client, by the listener": (revoke_by_the_listener({"client": "bff"}), "token-revoked"),
    "expired": (let_it_expire, "token-expired"),
}

NAME = json.dumps({"visitorName": "Zoe"}).encode()
#: What is asked below a chat: what is shared and kept, what is only forwarded, and what is written.
REQUESTS: Mapping[str, tuple[str, str, bytes]] = {
    "read": ("GET", "/info", b""),
    "forward": ("GET", "/info/agentTyping", b""),
    "write": ("PUT", "/info/visitorName", NAME),
}


@contextlib.asynccontextmanager
async def mortal(folder: Path, **settings: Any) -> AsyncIterator[World]:
    """A world in which tokens can die in every way."""
    (folder / "revoked").touch()
    said = {
        "revocations": {"file": "revoked", "journal": "journal"},
        "admin": {"token_file": "admin-token", "hosts": ["gateway.test"]},
        **settings,
    }
    async with world(folder, emulator=EmulatorConfig(app_key=APP_KEY), **said) as it:
        yield it


async def send(it: World, wire: Wire, name: str, chat: str) -> None:
    """Ask, with the token that is about to die."""
    method, rest, body = REQUESTS[name]
    fields = {"content-type": "application/json", **it.bearer(jti="7", lifetime_s=LIFETIME_S)}
    await wire.send(message(method, chat_path(chat, rest), fields, body))


@pytest.mark.parametrize("name", DEATHS)
async def test_in_a_fetch(tmp_path: Path, hands: Hands, name: str) -> None:
    die, problem = DEATHS[name]
    async with mortal(tmp_path) as it, it.wire() as wire, it.wire() as other:
        chat = it.chat()
        it.emulator.fail(Fault(delay_s=UPSTREAM_S))
        await send(it, wire, "read", chat)
        await until(lambda: it.upstream_requests() == 1)
        # Who shares the fetch and is not meant gets what it brings, unless everybody was.
        fields = it.bearer("internal", lifetime_s=2 * LIFETIME_S)
        await other.send(message("GET", chat_path(chat, "/info"), fields))
        await die(it, hands)
        refused = await wire.response()
        assert (refused.status, refused.problem) == (401, problem)
        assert 'error="invalid_token"' in (refused.header("www-authenticate") or "")
        expected = problem if name == "key withdrawn" else None
        assert (await other.response()).problem == expected
        assert it.upstream_requests() == 1


@pytest.mark.parametrize("name", DEATHS)
@pytest.mark.parametrize("what", ["forward", "write"])
async def test_under_way(tmp_path: Path, hands: Hands, what: str, name: str) -> None:
    """A write that was sent is done, and its writer hears of it: he would do it again after a 401."""
    die, problem = DEATHS[name]
    async with mortal(tmp_path) as it, it.wire() as wire:
        it.emulator.fail(Fault(delay_s=UPSTREAM_S))
        await send(it, wire, what, it.chat())
        await until(lambda: it.upstream_requests() == 1)
        await die(it, hands)
        told = await wire.response()
        expected = (401, problem) if what == "forward" else (201, None)
        assert (told.status, told.problem) == expected


@pytest.mark.parametrize("name", DEATHS)
@pytest.mark.parametrize("what", REQUESTS)
async def test_in_the_queue(tmp_path: Path, hands: Hands, what: str, name: str) -> None:
    die, problem = DEATHS[name]
    narrow = {"budget": {"in_flight": 1, "wait_ms": 5000, "reserve_percent": 0}}
    async with mortal(tmp_path, **narrow) as it, it.wire() as first, it.wire() as wire:
        it.emulator.fail(Fault(delay_s=UPSTREAM_S))
        await send(it, first, "read", it.chat())
        await until(lambda: it.upstream_requests() == 1)
        await send(it, wire, what, it.chat())
        await until(lambda: it.gateway.budget.state()[ACCOUNT].waiting == 1)
        await die(it, hands)
        refused = await wire.response()
        assert (refused.status, refused.problem) == (401, problem)
        # A fetch belongs to nobody and goes on; what is somebody's own is not sent.
        await it.flights_landed()
        assert it.upstream_requests() == (2 if what == "read" else 1)
        assert it.gateway.budget.state()[ACCOUNT].in_flight == 0


@pytest.mark.parametrize("name", DEATHS)
async def test_in_its_own_body(tmp_path: Path, hands: Hands, name: str) -> None:
    die, problem = DEATHS[name]
    async with mortal(tmp_path) as it, it.wire() as wire:
        fields = {"content-type": "application/json", **it.bearer(jti="7", lifetime_s=LIFETIME_S)}
        whole = message("PUT", chat_path(it.chat(), "/info/visitorName"), fields, NAME)
        await wire.send(whole[:-1])
        await it.get(account_path("/nothing"))  # answered after the head above was read
        await die(it, hands)
        await wire.send(whole[-1:])
        refused = await wire.response()
        assert (refused.status, refused.problem) == (401, problem)
        assert it.upstream_requests() == 0


@pytest.mark.parametrize("what", REQUESTS)
async def test_who_lives_gets_the_answer(tmp_path: Path, hands: Hands, what: str) -> None:
    """What happens to others, or is taken back in time, is nothing to them."""
    async with mortal(tmp_path) as it, it.wire() as wire:
        it.emulator.fail(Fault(delay_s=UPSTREAM_S))
        await send(it, wire, what, it.chat())
        await until(lambda: it.upstream_requests() == 1)
        await revoke_by_the_listener({"sub": "internal", "issuer": ISSUER})(it, hands)
        await revoke_by_the_file({"jti": "7", "issuer": "https://another.example"})(it, hands)
        await revoke_by_the_file({"client": "partner"})(it, hands)
        hands.ahead_s += LIFETIME_S / 2
        # Keys come and go, but for the one that counts.
        kept = json.loads((tmp_path / "jwks.json").read_bytes())["keys"]
        added = json.loads(new_key("ES256")[1])["keys"]
        (tmp_path / "jwks.json").write_text(json.dumps({"keys": kept + added}))
        await it.gateway.reloading.look_again()
        assert (await wire.response()).status in {200, 201}
