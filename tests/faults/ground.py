"""A gateway between two proxies, and a ledger of what crossed the one before the upstream.

The ledger is read off the wire, before anything goes wrong with it: what the gateway asked, and what the
upstream said to it. A right answer is one that the upstream gave to that very question, with its links led
home; nothing of the gateway's is asked about it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections import deque
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gateway.demo.stage import ACCOUNT
from gateway.emulator import EmulatorConfig
from tests.faults.proxy import HOST, NONE, Proxy, proxy
from tests.support import (
    PUBLIC_URL,
    Response,
    Wire,
    World,
    account_path,
    message,
    short_lived,
    until,
    world,
)

DEADLINE_S = 0.3
STALE_AFTER_S = 0.1
#: What a request may take beside its deadline, on a machine that has other things to do.
SLACK_S = 1.0
PLACES = 20
ENVIRON = {
    "UPSTREAM__DEADLINE_MS": f"{DEADLINE_S * 1000:.0f}",
    "UPSTREAM__STALE_AFTER_MS": f"{STALE_AFTER_S * 1000:.0f}",
    "UPSTREAM__MAX_CONNECTIONS": str(PLACES),
    # However busy the machine is: how that is answered is tested elsewhere.
    "OVERLOAD__LAG_MS": "5000",
}
_LINKS_UPSTREAM = EmulatorConfig().link_base.encode()
_LENGTH = re.compile(rb"(?i)\r\ncontent-length: *([0-9]+)\r\n")
_LOCATION = re.compile(rb"(?i)\r\nlocation: *([^\r]+)\r\n")
_ACCEPT = re.compile(rb"(?i)\r\naccept: *([^\r]+)\r\n")


# -- what is asked --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Kind:
    """A request; who asks a `shared` one at the same time gets the same answer, which may be `kept`."""

    path: str
    accept: str
    method: str = "GET"
    body: bytes = b""
    shared: bool = False
    kept: bool = False

    def target(self, chat: str) -> str:
        return account_path(self.path.replace("{chat}", chat))

    @property
    def is_read(self) -> bool:
        return self.method == "GET"

    def message(self, chat: str, token: str) -> bytes:
        fields = {"accept": self.accept, "authorization": f"Bearer {token}"}
        if not self.is_read:
            fields["content-type"] = self.accept
        return message(self.method, self.target(chat), fields, self.body)


JSON, XML = "application/json", "application/xml"
INFO = Kind("/chat/{chat}/info", JSON, shared=True, kept=True)
LINE = Kind(
    "/chat/{chat}/events", JSON, "POST", json.dumps({"event": {"@type": "line", "text": "once"}}).encode()
)
KINDS = {
    "info": INFO,
    "info in XML": Kind("/chat/{chat}/info", XML, shared=True, kept=True),
    "events": Kind("/chat/{chat}/events", JSON, shared=True),
    "visitorName": Kind("/chat/{chat}/info/visitorName", XML),
    "account": Kind("/chat/availability", JSON),
    "line": LINE,
    "line in XML": Kind(
        "/chat/{chat}/events", XML, "POST", b'<event type="line"><text>Zo\xc3\xab</text></event>'
    ),
}


# -- what was said --------------------------------------------------------------------------------------


@dataclass(slots=True)
class Asked:
    """A request as it went upstream, and the answer, if there was one, as the upstream wrote it."""

    path: str
    accept: str
    question: bytes
    head: bytes = b""
    body: bytes = b""


class Ledger:
    """All that was asked upstream and answered, in the order of asking."""

    def __init__(self) -> None:
        self.asked: list[Asked] = []
        self._talks: dict[int, tuple[bytearray, bytearray, deque[Asked]]] = {}

    def tap(self, number: int, up: bool, data: bytes) -> None:
        asking, answering, unanswered = self._talks.setdefault(number, (bytearray(), bytearray(), deque()))
        if up:
            asking += data
            for head, body in _messages(asking):
                path = head.split(b" ", 2)[1].partition(b"?")[0].decode()
                accept = _ACCEPT.search(head)
                self.asked.append(Asked(path, accept[1].decode() if accept else "", head + body))
                unanswered.append(self.asked[-1])
            return
        answering += data
        for head, body in _messages(answering):
            one = unanswered.popleft()
            one.head, one.body = head, body

    def of(self, kind: Kind, chat: str) -> list[Asked]:
        """What was asked of a kind about a chat."""
        return [one for one in self.asked if (one.path, one.accept) == (kind.target(chat), kind.accept)]


def _messages(received: bytearray) -> Iterator[tuple[bytes, bytes]]:
    """Take the whole messages out of what was received."""
    while (end := received.find(b"\r\n\r\n") + 4) > 3:
        head = bytes(received[:end])
        found = _LENGTH.search(head)
        whole = end + (int(found[1]) if found else 0)
        if len(received) < whole:
            return
        yield head, bytes(received[end:whole])
        del received[:whole]


def led_home(said: bytes, home: str = PUBLIC_URL) -> bytes:
    """What the upstream said, with its links as clients are to see them."""
    return said.replace(_LINKS_UPSTREAM, home.encode())


# -- the ground -----------------------------------------------------------------------------------------


@dataclass(slots=True)
class Ground:
    """`back` is between gateway and upstream, `front` between clients and gateway."""

    it: World
    back: Proxy
    front: Proxy
    ledger: Ledger
    _chats: int = 0

    def chat(self) -> str:
        """A chat with an agent, whose every document is unlike that of any other chat."""
        self._chats += 1
        chat = self.it.emulator.start_chat(ACCOUNT, visitorName=f"Visitor {self._chats}")
        self.it.emulator.accept(chat)
        return chat

    async def start_over(self) -> None:
        """Nothing goes wrong, nothing is counted, and no connection upstream is open."""
        await self.back.inject(NONE)
        await self.front.inject(NONE)
        await self.back.close_idle()
        self.it.start_over()
        self.ledger.asked.clear()

    async def ask(self, kind: Kind, chat: str, port: int | None = None) -> Response:
        """The answer, within the deadline."""
        address = self.it.addresses.public if port is None else (HOST, port)
        token = self.it.token()
        async with asyncio.timeout(DEADLINE_S + SLACK_S):
            wire = Wire(*await asyncio.open_connection(*address), self.it.received)
            try:
                await wire.send(kind.message(chat, token))
                return await wire.response(kind.method)
            finally:
                await wire.close()

    async def warm(self) -> None:
        """One connection upstream, kept and idle."""
        await self.is_answered()
        self.it.start_over()
        self.ledger.asked.clear()

    def check(self, kind: Kind, chat: str, response: Response, *, since: int = 0) -> None:
        """That a good answer is right: said by the upstream, to this, and marked as what it is.

        `since` is how much was in the ledger when it was asked for.
        """
        said = [one for one in self.ledger.of(kind, chat) if one.head]
        right = [one for one in said if led_home(one.body) == response.body]
        assert right, (response.body, [one.body for one in said])
        if not kind.is_read:
            location = _LOCATION.search(right[-1].head)
            assert response.header("location") == (led_home(location[1]).decode() if location else None)
        is_new = right[-1] in self.ledger.asked[since:]
        cache_status = response.header("cache-status") or ""
        assert is_new or (kind.kept and "; hit; ttl=" in cache_status), cache_status

    async def is_answered(self) -> None:
        """A good answer comes, if the machine is not too busy for that."""
        while (response := await self.ask(KINDS["account"], "")).problem == "upstream-timeout":
            pass
        assert response.status == 200, response

    async def is_healed(self) -> None:
        """Once nothing goes wrong any more, requests are answered, and nothing is left of those before."""
        await self.back.inject(NONE)
        await self.front.inject(NONE)
        await self.it.flights_landed()
        await self.is_answered()
        await self.is_at_rest()

    async def is_at_rest(self) -> None:
        gateway = self.it.gateway
        await self.it.flights_landed()
        assert not gateway.exchange._turns
        assert gateway.transport._places._value == PLACES
        assert all(not (state.waiting or state.in_flight) for state in gateway.budget.state().values())
        # Whoever asks one at a time needs one connection, and no other is left open by anybody.
        await until(lambda: len(self.back.links) <= 1 and not self.front.links)


@contextlib.asynccontextmanager
async def ground(
    folder: Path, *, short: bool = False, seed: int = 1, **settings: Any
) -> AsyncIterator[Ground]:
    """A world between two proxies. `short`: infos are fresh for no longer than `FRESH_S`."""
    ledger = Ledger()
    environ = ENVIRON | (short_lived(folder) if short else {})
    async with (
        proxy(tap=ledger.tap, seed=seed) as back,
        world(folder, upstream=back.url, environ=environ, **settings) as it,
        proxy(it.addresses.public, seed=seed) as front,
    ):
        back.target = HOST, it.server.port
        yield Ground(it, back, front, ledger)
