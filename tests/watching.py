"""All that is counted, gone through: requests of every kind, streams, long polls and reloads at once."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import re
import time
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

from gateway.core.replies import How
from gateway.demo.stage import ACCOUNT, ISSUER
from gateway.emulator import EmulatorConfig, Fault
from tests.counting import (
    FRESH_S,
    MORE_CLIENTS,
    TOGETHER,
    Ask,
    Book,
    Callers,
    compare,
    counted,
    garble,
    send,
    told,
)
from tests.reloading import changeable, edit, reload, say
from tests.support import APP_KEY, PATIENCE_S, Wire, World, chat_path, policies_with, until

#: After so many requests resources are changed.
PART = 10_000
#: From where the others come, so many bad tokens do that a new one is not looked at.
ELSEWHERE = "127.0.0.2"
_STREAM = {"accept": "text/event-stream"}
_TYPE = re.compile(rb"urn:chat-gateway:problem:([a-z-]+)")
_ID = re.compile(rb"^id: (.*)$", re.MULTILINE)


class Reader:
    """A client that reads a stream to its end, and counts what is on it."""

    def __init__(self, here: World, book: Book, ask: Ask) -> None:
        self.kinds: list[str] = []
        self.last_id = ""
        self._here = here
        self._book = book
        self._ask = ask
        #: Why it ended, by what it was told; who leaves is told nothing.
        self._why = "lost"
        self._reading = asyncio.create_task(self._read())

    async def begun(self) -> None:
        """It has a message, or there is no stream."""
        await until(lambda: bool(self.kinds) or self._reading.done())

    async def leave(self) -> None:
        """Say that nobody is there any more, and count what is still on its way."""
        self._writer.write_eof()
        await self.over()

    async def over(self) -> None:
        """It has ended, and all of it is counted."""
        async with asyncio.timeout(PATIENCE_S):
            await self._reading

    async def _read(self) -> None:
        reader, self._writer = await asyncio.open_connection(
            *self._here.addresses.public, local_addr=(ELSEWHERE, 0)
        )
        wire = Wire(reader, self._writer, self._here.received)
        try:
            await wire.send(self._ask.raw)
            response = await wire.response()
            self._book.enter(self._ask, response)
            if (response.status, told(response)) == (200, How.STREAM.value):
                await self._follow(reader)
        finally:
            await wire.close()

    async def _follow(self, reader: asyncio.StreamReader) -> None:
        whose = self._ask.client, self._ask.resource
        self._book.opened[whose] += 1
        text = b""
        while size := int(await reader.readline(), 16):
            text += (await reader.readexactly(size + 2))[:-2]
            self._book.body_bytes[self._ask.client] += size
            *messages, text = text.split(b"\n\n")
            for said in messages:
                self._hear(said)
        assert not text
        self._book.closed[*whose, self._why] += 1

    def _hear(self, said: bytes) -> None:
        is_heartbeat = said == b":"
        kind = "heartbeat" if is_heartbeat else said.partition(b"event: ")[2].partition(b"\n")[0].decode()
        self._book.messages[self._ask.resource, kind] += 1
        self.kinds.append(kind)
        if found := _ID.search(said):
            self.last_id = found[1].decode()
        if kind == "closed" and (problem := _TYPE.search(said)):
            self._why = problem[1].decode()
        elif kind == "ended":
            self._why = json.loads(said.partition(b"data: ")[2])["reason"]


class Followed:
    """A chat that is followed by one client: its info and its events."""

    def __init__(self, house: House, client: str, **claims: object) -> None:
        self.client = client
        self.chat = house.callers.to_watch(client)
        self.token = house.callers.here.token(client, **claims)
        self._house = house
        self.readers = [self.follow("info"), self.follow("events")]

    def follow(self, resource: str, **fields: str) -> Reader:
        """One stream more."""
        ask = self.ask(resource, _STREAM | {name.replace("_", "-"): value for name, value in fields.items()})
        return Reader(self._house.callers.here, self._house.book, ask)

    def ask(self, resource: str, fields: Mapping[str, str], method: str = "GET", query: str = "") -> Ask:
        path = chat_path(self.chat, f"/{resource}?{query}")
        callers = self._house.callers
        return callers.ask(self.client, resource, path, method, fields=fields, token=self.token)

    async def begun(self) -> None:
        for reader in self.readers:
            await reader.begun()

    async def over(self) -> None:
        for reader in self.readers:
            await reader.over()

    async def poll(self) -> None:
        """What else is asked about it: polls of every kind, of which those that can wait do so."""
        kinds = [
            self._poll(resource, accept)
            for resource in ("info", "events", "events?from=1000")
            for accept in ("application/json", "application/xml")
        ]
        await asyncio.gather(*kinds)

    async def _poll(self, asked: str, accept: str) -> None:
        resource, _, query = asked.partition("?")
        async with self._house.callers.here.wire() as wire:
            await self._entered(wire, self.ask(resource, _STREAM, "HEAD", query))
            tag = await self._entered(wire, self.ask(resource, {"accept": accept}, query=query))
            fields = {"accept": accept, "if-none-match": tag, "prefer": "wait=1"}
            await self._entered(wire, self.ask(resource, fields, query=query))

    async def _entered(self, wire: Wire, ask: Ask) -> str:
        await wire.send(ask.raw)
        response = await wire.response(ask.method)
        self._house.book.enter(ask, response)
        return response.header("etag") or "*"


class House:
    """Those who watch, and what happens to them."""

    def __init__(self, callers: Callers, book: Book) -> None:
        self.callers = callers
        self.book = book
        self._rounds = 0

    async def round(self) -> None:
        """Streams that are opened, told of changes and troubles, and ended in every way but the last one."""
        here = self.callers.here
        soon = int(time.time() + 2.5)
        self._rounds += 1
        jti = f"revoked-{self._rounds}"
        ending, going = Followed(self, "bff"), Followed(self, "internal")
        expiring, revoked = Followed(self, "partner", exp=soon), Followed(self, "internal", jti=jti)
        staying, leaving = Followed(self, "bff"), Followed(self, "watcher")
        all_of_them = (ending, going, expiring, revoked, staying, leaving)
        await asyncio.gather(*(followed.begun() for followed in all_of_them))
        # One has room for one stream more, and asks for two.
        more = [leaving.follow("info") for _ in range(2)]
        here.emulator.fail(Fault(resource="info", chat=staying.chat, status=503))
        for followed in all_of_them:
            here.emulator.agent_line(followed.chat, "a line")
            here.emulator.agent_typing(followed.chat)
        # Before anybody else asks about it, who would be the one to be failed.
        await until(lambda: "problem" in staying.readers[0].kinds)
        polling = asyncio.gather(staying.poll(), leaving.poll())
        here.emulator.end(ending.chat)
        here.emulator.fail(Fault(chat=going.chat, status=404, code=12, times=None))
        await self.revoke(issuer=ISSUER, jti=jti)
        await asyncio.gather(*(followed.over() for followed in (ending, going, expiring, revoked)))
        again = ending.follow("info", last_event_id=ending.readers[0].last_id)
        await polling
        await asyncio.gather(*(reader.leave() for reader in leaving.readers))
        await self.reload()
        await asyncio.gather(staying.over(), again.over(), *(reader.over() for reader in more))

    async def revoke(self, **whom: str) -> None:
        """A token, or all of a client's."""
        here = self.callers.here
        fields = {"authorization": f"Bearer {here.stage.admin_token}", "content-type": "application/json"}
        body = json.dumps({"note": "a test", **whom}).encode()
        wire = Wire(*await asyncio.open_connection(*here.addresses.private), here.received)
        try:
            assert (await wire.ask("POST", "/revocations", fields, body)).status == 201
        finally:
            await wire.close()

    async def reload(self) -> None:
        """Policies and settings, each changed while all others go on asking."""
        self._turn("clients/bff.yaml", "priority: high", "priority: normal")
        await self._reloaded()
        say(self.callers.here, push={"heartbeat_ms": 500 + self._rounds % 2})
        await self._reloaded()

    async def move(self) -> None:
        """Resources are changed, under a stream.

        Whoever waited for an answer then would have it asked for once more, and nobody at the other end could
        tell whose doing that was.
        """
        followed = Followed(self, "internal")
        await followed.begun()
        self._turn("resources.yaml", "waiting: 1000", "waiting: 900")
        await self._reloaded()
        await followed.over()

    def _turn(self, file: str, one: str, other: str) -> None:
        """Write `other` for `one`, or the other way round."""
        path = self.callers.here.stage.config.parent / "counted" / file
        edit(path, *((one, other) if one in path.read_text() else (other, one)))

    async def _reloaded(self) -> None:
        assert (await reload(self.callers.here)).json()["changed"]
        self.book.reloads += 1

    async def close(self) -> None:
        """A client is shut out, and then nobody has streams any more: all are sent elsewhere."""
        guest, last = Followed(self, "guest"), Followed(self, "bff")
        await asyncio.gather(guest.begun(), last.begun())
        await self.revoke(client="guest")
        await guest.over()
        await guest.follow("info").over()
        await self.callers.here.gateway.hub.drain()
        await last.over()
        await last.follow("info").over()


@contextlib.asynccontextmanager
async def stage(folder: Path) -> AsyncIterator[World]:
    """A world in which all of it may happen."""
    policies = policies_with(folder / "counted", "chatting: 1000", f"chatting: {FRESH_S * 1000:.0f}")
    (folder / policies / "clients" / "more.yaml").write_text(MORE_CLIENTS)
    settings: dict[str, Any] = {
        "policies": policies,
        "failed_tokens": {"per_minute": 1, "burst": 30},
        "budget": {"per_second": 10_000, "burst": 10_000, "in_flight": 1_000},
        "push": {"heartbeat_ms": 500},
    }
    async with changeable(folder, emulator=EmulatorConfig(app_key=APP_KEY), **settings) as here:
        yield here


async def go_through(here: World, requests: int) -> Book:
    """A good time with so many requests, then bad ones. Raises AssertionError where two counts differ."""
    book, callers = Book(), Callers(here, random.Random(8))
    await good_time(callers, book, requests)
    await bad_times(callers, book)
    compare(book, await counted(here), callers)
    return book


async def good_time(callers: Callers, book: Book, requests: int) -> None:
    house = House(callers, book)
    for asked in range(0, requests, PART):
        mix = (callers.any() for _ in range(min(PART, requests - asked)))
        async with asyncio.TaskGroup() as group:
            asking = group.create_task(send(callers.here, mix, book))
            await house.round()
            while not asking.done():
                await house.round()
        await house.move()
    await house.close()
    await callers.here.flights_landed()


async def bad_times(callers: Callers, book: Book) -> None:
    """The upstream fails in every way, and some say what is no request."""
    here = callers.here
    # The upstream fails while there is something to show, and on what is nobody else's.
    for round_trip in ("warm", "stale"):
        await send(here, (callers.poll(chat) for chat in callers.shared * 5), book, 4)
        if round_trip == "warm":
            here.emulator.fail(Fault(resource="info", status=503, times=None))
            await asyncio.sleep(FRESH_S)
    here.emulator.clear_faults()
    # So many failures in a row have opened the breaker, which would hide what follows.
    here.gateway._protection.succeeded(ACCOUNT, None)
    faults = (
        # Fewer in a row than open the breaker.
        Fault(resource="availability", status=500, times=4),
        Fault(resource="availability", body=b"{", times=20),
        Fault(resource="visitor-name", status=503, times=4),
        Fault(resource="agent-typing", status=404, code=12, times=20),
    )
    here.emulator.fail(*faults)
    bad = [callers.by_itself(client, callers.chat(client)) for client in TOGETHER * 100]
    await send(here, bad + [callers.rename("bff", callers.chat("bff")) for _ in range(100)], book, 8)
    # Then it asks for a pause: one request is told so, the rest is not sent.
    here.emulator.clear_faults()
    here.emulator.fail(Fault(status=429, retry_after="2"))
    throttled = [callers.by_itself("internal", callers.shared[0]) for _ in range(60)]
    await send(here, throttled[:1], book, 1)
    book.alone["internal", throttled[0].resource] += 1
    book.alone_failed["internal"] += 1
    await send(here, throttled[1:], book, 4)
    await garble(here, book, 60)
