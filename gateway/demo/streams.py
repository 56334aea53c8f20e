"""A hundred clients that are told instead of asking: what they hear, and what the upstream is asked."""

from __future__ import annotations

import asyncio
import json
import re
import time
from dataclasses import dataclass
from functools import partial
from urllib.parse import urlsplit

from gateway.demo.figures import Spread
from gateway.demo.following import Follower, Message, follow, following
from gateway.demo.theatre import Theatre
from gateway.demo.wire import Broken, Client, request

#: As many as a client of the shipped policies may have.
STREAMS = 100
CHANGES, CHANGE_S = 4, 1.25
OPENED_S = 5.0
_NAME = re.compile(rb'"visitorName": *"([^"]*)"')


@dataclass(frozen=True, slots=True)
class Followed:
    """What came of it. `latency_p99_ms` is from the reply to a write to its message."""

    streams: int
    changes: int
    seconds: float
    messages: int
    upstream_info_requests: int
    latency_p99_ms: float | None
    errors: tuple[str, ...]


async def watch(house: Theatre, chat_url: str) -> Followed:
    """Let them follow one chat, whose visitor changes his name. Raises Broken."""
    url = urlsplit(chat_url)
    heard = _Heard()
    readers = await _readers(house, url.hostname or "", url.port or 80, url.path, heard)
    writer = Client(url.hostname or "", url.port or 80)
    try:
        await heard.begun()
        before, began = (await house.counts()).get("info", 0), time.monotonic()
        for number in range(1, CHANGES + 1):
            await _rename(writer, house, url.path, number)
            heard.since(number, time.monotonic())
            await asyncio.sleep(CHANGE_S)
        seconds = time.monotonic() - began
        asked = (await house.counts()).get("info", 0) - before
    finally:
        writer.close()
        for reader in readers:
            reader.transport.abort()
    expected = STREAMS * CHANGES
    wrong = (f"{heard.renamed} of {expected} messages",) if heard.renamed != expected else ()
    return Followed(
        STREAMS, CHANGES, round(seconds, 1), heard.messages, asked, heard.latency.percentile_ms(99), wrong
    )


class _Heard:
    """What all of them were told."""

    def __init__(self) -> None:
        self.messages = self.renamed = 0
        self.latency = Spread()
        self._by: dict[int, set[int]] = {}
        self._since: dict[int, float] = {}
        self._early: list[tuple[int, float]] = []
        self._all = asyncio.Event()

    def since(self, number: int, at: float) -> None:
        """That name has been written; some may know it already."""
        self._since[number] = at
        for _, when in (one for one in self._early if one[0] == number):
            self.latency.add(max(0.0, when - at))

    def hear(self, reader: int, message: Message) -> None:
        """One message of one of them."""
        self.messages += 1
        found = _NAME.search(message.data)
        name = found[1].decode() if found else ""
        number = int(name.rpartition("-")[2]) if name.startswith("Visitor-") else 0
        told = self._by.setdefault(number, set())
        if reader in told:
            return
        told.add(reader)
        if number:
            self.renamed += 1
            now = time.monotonic()
            if number in self._since:
                self.latency.add(now - self._since[number])
            else:
                self._early.append((number, now))
        if len(self._by.get(0, ())) == STREAMS:
            self._all.set()

    async def begun(self) -> None:
        """Wait until each has had its first message. Raises Broken."""
        try:
            async with asyncio.timeout(OPENED_S):
                await self._all.wait()
        except TimeoutError:
            raise Broken("a stream did not begin") from None


async def _readers(house: Theatre, host: str, port: int, path: str, heard: _Heard) -> list[Follower]:
    readers = []
    for index in range(STREAMS):
        question = following(host, f"{path}/info", house.stage.token("bff", jti=f"stream-{index}"))
        readers.append(await follow(host, port, question, partial(heard.hear, index)))
    return readers


async def _rename(writer: Client, house: Theatre, path: str, number: int) -> None:
    fields = {"Authorization": f"Bearer {house.stage.token('bff')}"}
    body = json.dumps({"visitorName": f"Visitor-{number}"}).encode()
    response = await writer.ask(request("PUT", "demo", f"{path}/info/visitorName", fields, body))
    if response.status >= 300:
        raise Broken(f"a name could not be written: {response.status}")
