"""The clients: each polls one chat once a second, and some write now and then."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from urllib.parse import urlsplit

from gateway.demo.evidence import Evidence
from gateway.demo.figures import Tally, outcome
from gateway.demo.wire import Broken, Client, Response, request

EVERY_S = 1.0
#: The first second fills caches and connection pools; latency and age leave it out.
WARM_UP_S = 1.0
#: A client that may write does so at one poll in so many.
WRITE_EVERY = 150
START_BODY = json.dumps({"request": {"skill": "Sales", "interactionTimeout": 3600}}).encode()

#: Where the visitors are: the gateway writes it into the requests that start chats (RFC 5737: an example).
VISITOR = "203.0.113.7"

_LAST_UPDATE = re.compile(rb'"lastUpdate":"([^"]+)"')
_CHATTING = b'"state":"chatting"'


@dataclass(frozen=True, slots=True)
class Poller:
    """One client: its name in the policies, its token, its chat, and when in each second it polls."""

    number: int
    name: str
    token: str
    chat_url: str
    phase_s: float

    def request(self, method: str, below: str, body: dict[str, object] | None = None) -> bytes:
        """A request to something below the chat."""
        url = urlsplit(self.chat_url + below)
        headers = {"Authorization": f"Bearer {self.token}", "Accept": "application/json"}
        return request(method, url.netloc, url.path, headers, json.dumps(body).encode() if body else b"")

    def write(self, chatting: bool) -> bytes:
        """One of three writes; two of them need an agent in the chat."""
        line: dict[str, object] = {"event": {"@type": "line", "text": f"Line of {self.number}"}}
        writes = (
            ("PUT", "/info/visitorName", {"visitorName": f"Visitor {self.number}"}),
            ("PUT", "/info/visitorTyping", {"visitorTyping": "typing"}),
            ("POST", "/events", line),
        )
        return self.request(*writes[self.number % 3 if chatting else 0])


async def start_chats(public_url: str, account: str, token: str, count: int, evidence: Evidence) -> list[str]:
    """Start chats through the gateway, as the frontend's backend would. Returns their addresses.

    Raises Broken.
    """
    url = urlsplit(public_url)
    headers = {"Authorization": f"Bearer {token}", "X-Forwarded-For": VISITOR}
    start = request("POST", url.netloc, f"/api/account/{account}/chat/request", headers, START_BODY)

    async def one() -> str:
        with _hanging_up(Client(url.hostname or "", url.port or 80)) as client:
            response = await client.ask(start)
        evidence.take(response)
        if response.status != 201:
            raise Broken(f"a chat could not be started: status {response.status}")
        return response.header("location")

    return await asyncio.gather(*(one() for _ in range(count)))


@contextlib.contextmanager
def _hanging_up(client: Client) -> Iterator[Client]:
    try:
        yield client
    finally:
        client.close()


class Drive:
    """Lets pollers poll. `now` is monotonic, `wall` is epoch seconds, as the emulator stamps its answers."""

    def __init__(
        self, tally: Tally, evidence: Evidence, now: Callable[[], float], wall: Callable[[], float]
    ) -> None:
        self._tally = tally
        self._evidence = evidence
        self._now = now
        self._wall = wall
        self._begin = now()
        self._end: float | None = None

    @property
    def seconds(self) -> float:
        """For how long they have been polling."""
        return (self._end or self._now()) - self._begin

    async def run(self, pollers: Sequence[Poller], seconds: float) -> None:
        """All of them, each once a second."""
        with contextlib.ExitStack() as stack:
            clients = [stack.enter_context(_hanging_up(_client_of(poller, self._now))) for poller in pollers]
            await asyncio.gather(*(client.open() for client in clients))
            self._begin = self._now()
            async with asyncio.TaskGroup() as group:
                for poller, client in zip(pollers, clients, strict=True):
                    group.create_task(self._poll(poller, client, seconds))
            self._end = self._now()

    async def _poll(self, poller: Poller, client: Client, seconds: float) -> None:
        info = poller.request("GET", "/info")
        at_s, tick = poller.phase_s, poller.number
        while at_s < seconds:
            await asyncio.sleep(at_s - self.seconds)
            chatting = await self._read(client, info)
            if poller.name == "bff" and tick % WRITE_EVERY == 0:
                self._tally.writes += 1
                await self._ask(client, poller.write(chatting))
            # A client that was held up polls next when its phase comes round again.
            ticks = max(1, math.ceil((self.seconds - at_s) / EVERY_S))
            at_s, tick = at_s + ticks * EVERY_S, tick + ticks

    async def _read(self, client: Client, info: bytes) -> bool:
        """One poll. Returns whether there is an agent in the chat."""
        sent = self._now()
        response = await self._ask(client, info)
        self._tally.polls[outcome(response.header("cache-status") if response else "")] += 1
        if response is None:
            return False
        stamp = _LAST_UPDATE.search(response.body)
        if stamp is None:
            self._tally.errors["info without lastUpdate"] += 1
        elif sent - self._begin >= WARM_UP_S:
            asked = datetime.fromisoformat(stamp[1].decode()).timestamp()
            received = self._wall() - (self._now() - response.received)
            self._tally.latency.add(response.received - sent)
            self._tally.age.add(received - asked)
        return _CHATTING in response.body

    async def _ask(self, client: Client, said: bytes) -> Response | None:
        """The answer, if it is a good one; everything else is counted as an error."""
        try:
            response = await client.ask(said)
        except Broken as error:
            self._tally.errors[str(error)] += 1
            return None
        self._evidence.take(response)
        if response.status // 100 != 2:
            self._tally.errors[f"status {response.status}"] += 1
            return None
        return response


def _client_of(poller: Poller, now: Callable[[], float]) -> Client:
    url = urlsplit(poller.chat_url)
    return Client(url.hostname or "", url.port or 80, now)
