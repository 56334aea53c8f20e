"""Who may ask after a reload, and who may no more, whatever he was about to do."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from gateway.demo.stage import ACCOUNT, AUDIENCE, ISSUER
from gateway.emulator import Emulator, EmulatorConfig, Fault, serve
from gateway.identity.development import new_key
from tests.reloading import (
    BFF,
    add_account,
    as_signed_by,
    change_keys,
    change_resources,
    changeable,
    edit,
    move_away,
    of,
    say,
)
from tests.support import (
    APP_KEY,
    PUBLIC_URL,
    World,
    account_path,
    chat_path,
    links_of,
    message,
    until,
)

pytestmark = pytest.mark.anyio

#: Of the upstream: long enough for a reload.
LATENCY_S = 0.3
MOVED_URL = "https://moved.example/here"


def forget(client: str) -> Callable[[World], None]:
    def change(it: World) -> None:
        file = of(it, f"policies/clients/{client}.yaml")
        edit(file, f"sub: {client}", "sub: nobody")

    return change


def take_away(it: World) -> None:
    edit(of(it, BFF), "chat:read, chat:start, chat:write", "chat:start")


#: What changes while somebody may ask → what he is told then.
TAKEN: Mapping[str, tuple[Callable[[World], None], str]] = {
    "the client": (forget("bff"), "no-client"),
    "the action": (take_away, "action-denied"),
    "the account": (move_away, "unknown-resource"),
    "the key": (change_keys, "token-invalid"),
}


@pytest.mark.parametrize("what", TAKEN)
async def test_who_may_no_more_is_refused_on_the_next_request(tmp_path: Path, what: str) -> None:
    take, problem = TAKEN[what]
    async with changeable(tmp_path) as it, it.wire() as wire:
        asked, chat = it.bearer(), it.chat()
        for rest in ("/info", "/events"):
            assert (await wire.ask("GET", chat_path(chat, rest), asked)).status == 200
        take(it)
        await it.gateway.reloading.look_again()
        for rest in ("/info", "/events"):
            assert (await wire.ask("GET", chat_path(chat, rest), asked)).problem == problem
        assert it.upstream_requests() == 2


@pytest.mark.parametrize("rest", ["/info", "/events", "/info/agentTyping"])
@pytest.mark.parametrize("what", TAKEN)
async def test_who_may_no_more_gets_no_answer_that_he_waits_for(tmp_path: Path, what: str, rest: str) -> None:
    take, problem = TAKEN[what]
    async with changeable(tmp_path, emulator=EmulatorConfig(app_key=APP_KEY, latency_s=LATENCY_S)) as it:
        chat = it.chat()
        async with it.wire() as wire, it.wire() as other:
            for one in (wire, other):
                await one.send(message("GET", chat_path(chat, rest), it.bearer()))
            await until(lambda: it.upstream_requests() > 0)
            take(it)
            await it.gateway.reloading.look_again()
            for one in (wire, other):
                assert (await one.response()).problem == problem


@pytest.mark.parametrize("what", TAKEN)
async def test_who_may_no_more_sends_no_write_that_is_still_coming(tmp_path: Path, what: str) -> None:
    take, problem = TAKEN[what]
    async with changeable(tmp_path) as it, it.wire() as wire:
        body = json.dumps({"visitorName": "Zoe"}).encode()
        fields = {"content-type": "application/json", **it.bearer()}
        sent = message("PUT", chat_path(it.chat(), "/info/visitorName"), fields, body)
        await wire.send(sent[:-1])
        await it.get(account_path("/nothing"))  # answered after the head above was read
        take(it)
        await it.gateway.reloading.look_again()
        await wire.send(sent[-1:])
        assert (await wire.response()).problem == problem
        assert it.upstream_requests() == 0


async def test_a_view_that_got_narrower_shows_less_of_what_is_kept(tmp_path: Path) -> None:
    async with changeable(tmp_path) as it:
        target = chat_path(it.chat(), "/info")
        assert "visitorName" in (await it.get(target)).json()["info"]
        edit(of(it, BFF), "priority: high", "priority: high\n    view: {hide: [visitorName]}")
        await it.gateway.reloading.look_again()
        second = await it.get(target)
        assert "hit" in (second.header("cache-status") or "")
        assert "visitorName" not in second.json()["info"]


async def test_new_accounts_and_issuers_are_there_at_once(tmp_path: Path) -> None:
    config = EmulatorConfig(app_key=APP_KEY, accounts=(ACCOUNT, "456"))
    async with changeable(tmp_path, emulator=config) as it:
        private, jwks = new_key("ES256")
        of(it, "other.json").write_bytes(jwks)
        theirs = "https://other.example"
        assert (await it.get("/api/account/456")).problem == "unknown-resource"
        assert (await as_signed_by(it, private, iss=theirs)).problem == "token-invalid"
        rows = [
            {"issuer": name, "audience": AUDIENCE, "algorithms": ["ES256"], "jwks": file}
            for name, file in ((ISSUER, "jwks.json"), (theirs, "other.json"))
        ]
        say(it, accounts=add_account(it), issuers=rows)
        edit(of(it, "policies/clients/internal.yaml"), ISSUER, theirs)
        await it.gateway.reloading.look_again()
        base = await it.get("/api/account/456")
        assert base.status == 200
        # Its links lead here, and work.
        for _, href in links_of(base.json()):
            assert href.startswith(f"{PUBLIC_URL}/api/account/456")
        assert (await as_signed_by(it, private, iss=theirs, sub="internal")).status == 200
        assert (await it.get(account_path())).status == 200


async def test_an_account_that_is_discovered_is_not_forgotten(tmp_path: Path) -> None:
    """A change of resources must not depend on the domain service, which may just be down."""
    emulated = Emulator(EmulatorConfig(app_key=APP_KEY), now=time.time)
    service = await serve(emulated)
    async with contextlib.AsyncExitStack() as stack:
        it = await stack.enter_async_context(
            changeable(
                tmp_path,
                accounts={ACCOUNT: {"discover": True, "app_key_file": "app-key"}},
                discovery={"url": service.url, "allowed_domains": ["127.0.0.1"]},
                link_hosts=[],
            )
        )
        said = {"service": "conversationVep", "account": ACCOUNT, "baseURI": f"127.0.0.1:{it.server.port}"}
        emulated.fail(Fault(resource="discovery", times=None, body=json.dumps(said).encode()))
        assert (await it.get(account_path())).status == 200
        await service.close()
        change_resources(it)
        say(it, public_url=MOVED_URL)
        await it.gateway.reloading.look_again()
        assert (await it.get(account_path())).status == 200
        # Another service, or other domains, decide for themselves.
        say(it, discovery={"url": service.url, "allowed_domains": ["*.example.net"]})
        await it.gateway.reloading.look_again()
        assert (await it.get(account_path())).problem == "upstream-unreachable"
