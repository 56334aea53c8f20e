"""Through a move of the gateway or of an upstream: what was fetched before is not served after it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from gateway.configuration import configure
from gateway.demo.stage import ACCOUNT
from gateway.emulator import Emulator, EmulatorConfig, EmulatorServer, Fault, serve
from tests.reloading import (
    changeable,
    edit,
    move_away,
    of,
    say,
)
from tests.support import (
    APP_KEY,
    PUBLIC_URL,
    Response,
    World,
    account_path,
    chat_path,
    links_of,
    message,
    until,
)

pytestmark = pytest.mark.anyio

MOVED_URL = "https://moved.example/here"
#: Of the upstream: long enough for a reload.
LATENCY_S = 0.3


@contextlib.asynccontextmanager
async def another_upstream(config: EmulatorConfig) -> AsyncIterator[EmulatorServer]:
    """A second emulator, which has the same chats under the same ids."""
    server = await serve(Emulator(config, now=time.time))
    try:
        yield server
    finally:
        await server.close()


@dataclass(frozen=True, slots=True)
class Move:
    """A world with two upstreams, and a chat that both have; its visitor has another name at each."""

    it: World
    other: EmulatorServer
    chat: str

    @property
    def info(self) -> str:
        return chat_path(self.chat, "/info")

    async def to_another_address(self) -> None:
        say(self.it, public_url=MOVED_URL)
        await self.it.gateway.reloading.look_again()

    async def to_the_other_upstream(self) -> None:
        say(self.it, accounts={ACCOUNT: {"upstream": self.other.url, "app_key_file": "app-key"}})
        await self.it.gateway.reloading.look_again()

    async def to_other_resources(self) -> None:
        edit(of(self.it, "policies/resources.yaml"), "surveyApiId: token", "surveyApiId: text")
        await self.it.gateway.reloading.look_again()


@contextlib.asynccontextmanager
async def about_to_move(folder: Path, latency_s: float = 0.0, **options: Any) -> AsyncIterator[Move]:
    config = EmulatorConfig(app_key=APP_KEY, latency_s=latency_s, record=100)
    theirs = replace(config)
    async with another_upstream(theirs) as other, changeable(folder, emulator=config, **options) as it:
        chats = set()
        for emulator, name in ((it.emulator, "Old"), (other.emulator, "New")):
            chat = emulator.start_chat(ACCOUNT)
            emulator.accept(chat)
            emulator._find(chat).visitor_name = name
            chats.add(chat)
        [chat] = chats
        yield Move(it, other, chat)


def seen(response: Response) -> tuple[str, set[str]]:
    """The visitor's name, and where the links lead."""
    document = response.json()
    leads = {href.partition("/api/")[0] for _, href in links_of(document)}
    return document["info"]["visitorName"], leads


Moving = Callable[[Move], Awaitable[None]]

#: What moves → how, and what is seen of an info then; and whether the other upstream is asked.
MOVES: Mapping[str, tuple[Moving, tuple[str, set[str]], bool]] = {
    "public_url": (Move.to_another_address, ("Old", {MOVED_URL}), False),
    "accounts.<id>.upstream": (Move.to_the_other_upstream, ("New", {PUBLIC_URL}), True),
    "resources": (Move.to_other_resources, ("Old", {PUBLIC_URL}), False),
}


@pytest.mark.parametrize("what", MOVES)
async def test_a_hit_from_before_a_move_is_not_served(tmp_path: Path, what: str) -> None:
    move, after, elsewhere = MOVES[what]
    async with about_to_move(tmp_path) as moving:
        it = moving.it
        for _ in range(2):
            assert seen(await it.get(moving.info)) == ("Old", {PUBLIC_URL})
        assert it.upstream_requests() == 1
        await move(moving)
        first = await it.get(moving.info)
        assert seen(first) == after
        assert "fwd=miss" in (first.header("cache-status") or "")
        # And from now on there are hits again.
        assert "hit" in ((await it.get(moving.info)).header("cache-status") or "")
        asked = (it.upstream_requests(), moving.other.emulator.counts().total())
        assert asked == ((1, 1) if elsewhere else (2, 0))


@pytest.mark.parametrize("rest", ["/info", "/events", "/info/agentTyping"])
@pytest.mark.parametrize("what", MOVES)
async def test_who_waits_through_a_move_gets_what_is_there_now(tmp_path: Path, what: str, rest: str) -> None:
    move, after, elsewhere = MOVES[what]
    async with about_to_move(tmp_path, LATENCY_S) as moving, contextlib.AsyncExitStack() as stack:
        it = moving.it
        wires = [await stack.enter_async_context(it.wire()) for _ in range(8)]
        for wire in wires:
            await wire.send(message("GET", chat_path(moving.chat, rest), it.bearer()))
        shared = rest != "/info/agentTyping"
        await until(lambda: it.upstream_requests() == (1 if shared else 8))
        await move(moving)
        responses = [await wire.response() for wire in wires]
        assert {response.status for response in responses} == {200}
        if rest == "/info":
            assert all(seen(response) == after for response in responses)
        for response in responses:
            leads = {href.partition("/api/")[0] for _, href in links_of(response.json())}
            assert leads <= after[1]
        # Together, as before.
        again = 1 if shared else 8
        asked = (it.upstream_requests(), moving.other.emulator.counts().total())
        assert asked == ((again, again) if elsewhere else (2 * again, 0))
        if rest == "/info":
            assert "hit" in ((await it.get(moving.info)).header("cache-status") or "")


@pytest.mark.parametrize("what", MOVES)
async def test_what_a_flight_from_before_brings_home_is_not_kept(tmp_path: Path, what: str) -> None:
    """Whoever opened it has left by then; it lands all the same."""
    move, after, _ = MOVES[what]
    async with about_to_move(tmp_path, LATENCY_S) as moving:
        it = moving.it
        async with it.wire() as wire:
            await wire.send(message("GET", moving.info, it.bearer()))
            await until(lambda: it.upstream_requests() == 1)
            wire.hang_up()
        await move(moving)
        await it.flights_landed()
        response = await it.get(moving.info)
        assert seen(response) == after


async def test_a_flight_from_before_that_lands_late_takes_nobodys_place(tmp_path: Path) -> None:
    """1. A fetch is under way. 2. The account moves. 3. Another fetch lands. 4. The first one lands."""
    async with about_to_move(tmp_path) as moving, moving.it.wire() as wire:
        it = moving.it
        it.emulator.fail(Fault(delay_s=LATENCY_S))
        await wire.send(message("GET", moving.info, it.bearer()))
        await until(lambda: it.upstream_requests() == 1)
        await moving.to_the_other_upstream()
        assert seen(await it.get(moving.info)) == ("New", {PUBLIC_URL})
        assert seen(await wire.response()) == ("New", {PUBLIC_URL})
        assert "hit" in ((await it.get(moving.info)).header("cache-status") or "")
        assert moving.other.emulator.counts().total() == 1


@pytest.mark.parametrize("what", MOVES)
async def test_a_write_through_a_move_is_sent_once_and_answered(tmp_path: Path, what: str) -> None:
    move, after, _ = MOVES[what]
    async with about_to_move(tmp_path, LATENCY_S) as moving:
        it = moving.it
        body = json.dumps({"event": {"@type": "line", "text": "once"}}).encode()
        fields = {"content-type": "application/json", **it.bearer()}
        async with it.wire() as wire:
            await wire.send(message("POST", chat_path(moving.chat, "/events"), fields, body))
            await until(lambda: it.upstream_requests() == 1)
            await move(moving)
            response = await wire.response()
        assert response.status == 201
        [public] = after[1]
        location = response.header("location") or ""
        assert location.startswith(f"{public}{chat_path(moving.chat, '/events')}/")
        assert (it.upstream_requests(), moving.other.emulator.counts().total()) == (1, 0)
        assert it.emulator.chat(moving.chat).lines == ("once",)
        # What is read now is what is there now.
        assert seen(await it.get(moving.info)) == after


async def test_the_address_of_an_upstream_that_was_left_reaches_nobody(tmp_path: Path) -> None:
    """Its answer is under way when it is left, and its host is none of `link_hosts`."""
    async with about_to_move(tmp_path, LATENCY_S, link_hosts=[]) as moving:
        it = moving.it
        for server in (it.server, moving.other):
            object.__setattr__(server.emulator.config, "link_base", server.url)
        body = json.dumps({"event": {"@type": "line", "text": "once"}}).encode()
        fields = {"content-type": "application/json", **it.bearer()}
        async with it.wire() as wire:
            await wire.send(message("POST", chat_path(moving.chat, "/events"), fields, body))
            await until(lambda: it.upstream_requests() == 1)
            await moving.to_the_other_upstream()
            response = await wire.response()
        assert response.status == 201
        assert str(it.server.port) not in str(response)
        # The line was written there, and has its address here.
        assert (response.header("location") or "").startswith(PUBLIC_URL)


async def test_a_write_that_is_still_coming_goes_where_the_account_is_now(tmp_path: Path) -> None:
    async with about_to_move(tmp_path) as moving, moving.it.wire() as wire:
        it = moving.it
        body = json.dumps({"event": {"@type": "line", "text": "once"}}).encode()
        sent = message(
            "POST",
            chat_path(moving.chat, "/events"),
            {"content-type": "application/json", **it.bearer()},
            body,
        )
        await wire.send(sent[:-1])
        await it.get(account_path("/nothing"))  # answered after the head above was read
        await moving.to_the_other_upstream()
        await wire.send(sent[-1:])
        assert (await wire.response()).status == 201
        assert moving.other.emulator.chat(moving.chat).lines == ("once",)
        assert it.emulator.chat(moving.chat).lines == ()


async def test_what_went_wrong_with_an_upstream_that_was_left_is_forgotten(tmp_path: Path) -> None:
    async with about_to_move(tmp_path) as moving:
        it = moving.it
        it.emulator.fail(Fault(status=500, times=None))
        for _ in range(2):
            assert (await it.get(moving.info)).problem == "upstream-error"
        assert it.upstream_requests() == 1
        await moving.to_the_other_upstream()
        assert seen(await it.get(moving.info)) == ("New", {PUBLIC_URL})


@pytest.mark.parametrize("method", ["PUT", "GET"])
async def test_an_account_that_goes_in_the_last_moment_is_no_crash(tmp_path: Path, method: str) -> None:
    """1. A request is judged and its flight made. 2. The account goes. 3. The flight begins."""
    async with changeable(tmp_path) as it:
        chat, flights = it.chat(), it.gateway.exchange.flights
        join, moved = flights.join, asyncio.Event()
        move_away(it)
        read = await asyncio.to_thread(configure, it.stage.config, {})
        sources = it.gateway._key_sources.prepare(read)

        def join_and_go(key: Any, fetch: Any) -> Any:
            joined = join(key, fetch)
            it.gateway._adopt(read, sources)
            moved.set()
            return joined

        flights.join = join_and_go  # type: ignore[method-assign]
        body = json.dumps({"visitorName": "Zoe"}).encode() if method == "PUT" else b""
        response = await it.ask(
            method, chat_path(chat, "/info/visitorName"), {"content-type": "application/json"}, body
        )
        assert moved.is_set()
        assert response.problem in {"unknown-resource", "upstream-unreachable"}
        assert (it.upstream_requests(), it.gateway.metrics.crashes) == (0, 0)
