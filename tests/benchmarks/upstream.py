"""A chat service that is no brake: `python -m tests.benchmarks.upstream PORT`.

It answers every info with a document of the emulator's shape, after a set latency, and can be told how its
answers end. `lastUpdate` is when the request came, so an answer's age can be told wherever it arrives.
Handles: `/_bench/set?latency_ms=&ending=&state=` (which also starts counting anew) and
`/_bench/count?since=&until=` (seconds of the monotonic clock, which all processes share).
"""

from __future__ import annotations

import asyncio
import http.client
import json
import re
import sys
import time
from array import array
from bisect import bisect_left
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, cast
from urllib.parse import parse_qsl, urlencode

import uvloop

from tests.benchmarks.processes import HOST

HOSTED_AT = "https://va-e.convep.liveperson.net"
#: Without a status of its own an answer is the usual one; `hang` is none at all.
ENDINGS = ("200", "no-store", "404", "500", "429", "hang")
_LENGTH = re.compile(rb"(?i)\r\ncontent-length: *([0-9]+)")
_INFO = re.compile(rb"/api/account/([0-9A-Za-z]+)/chat/([^/?]+)/info(?:\.json)?(?:\?.*)?")


def _info_template() -> bytes:
    self = HOSTED_AT + "/api/account/%(account)s/chat/%(chat)s/info"
    names = {"self": "", **{name: "/" + name for name in ("visitorName", "visitorTyping", "agentTyping")}}
    info = {
        "link": [{"href": self + path, "rel": name} for name, path in names.items()],
        "state": "%(state)s",
        "chatSessionKey": "%(chat)s",
        "skillName": "Sales",
        "skillId": 25975313,
        "agentName": "Natalie",
        "agentId": 25025413,
        "startTime": "2026-01-01T10:00:00.000+00:00",
        "duration": 60,
        "lastUpdate": "%(now)s",
        "chatTimeout": 40,
        "visitorId": 1214701440734023,
        "agentTyping": "not-typing",
        "visitorTyping": "not-typing",
        "visitorName": "You",
        "rtSessionId": 4294967525,
        "sharkVisitorId": "rloXnVgEQ-iQuoOytvKNqA",
        "sharkSessionId": "rN82d4rATN6EuiA4cJwaPg",
        "sharkContextId": "3",
        "engagementId": "27469613",
        "campaignId": "26948813",
        "language": "en-US",
    }
    return json.dumps({"info": info}, separators=(",", ":")).encode()


_TEMPLATE = _info_template()


def info(account: bytes, chat: bytes, state: bytes, wall: float) -> bytes:
    """The info of a chat; `wall` is epoch seconds."""
    now = datetime.fromtimestamp(wall, UTC).isoformat(timespec="microseconds").encode()
    return _TEMPLATE % {b"account": account, b"chat": chat, b"state": state, b"now": now}


def answer(status: str, body: bytes, fields: bytes = b"content-type: application/json\r\n") -> bytes:
    """A whole answer; `status` with its phrase."""
    return b"HTTP/1.1 %s\r\n%scontent-length: %d\r\n\r\n%s" % (status.encode(), fields, len(body), body)


def _failed(status: str, code: int, extra: bytes = b"") -> bytes:
    said = {"time": "2026-01-01T10:00:00.000+00:00", "message": "As asked for", "internalCode": code}
    return answer(status, json.dumps({"error": said}).encode(), b"content-type: application/json\r\n" + extra)


_FAILED = {
    "404": _failed("404 Not Found", 12),
    "500": _failed("500 Internal Server Error", 1),
    "429": _failed("429 Too Many Requests", 1, b"retry-after: 1\r\n"),
}
_NO_STORE = b"content-type: application/json\r\ncache-control: no-store\r\n"
_READ = answer("200 OK", b'{"visitorName":"You"}')
_WRITTEN = answer("201 Created", b"", b"")


class Service:
    """What it was told, and what came."""

    def __init__(self) -> None:
        self.arrivals = array("d")
        self.tell({})

    def tell(self, said: Mapping[str, str]) -> None:
        """What is not said has its default."""
        self.latency_s = float(said.get("latency_ms", "0")) / 1000
        self.ending = said.get("ending", "200")
        self.state = said.get("state", "chatting").encode()
        self.answered_at = 0.0
        del self.arrivals[:]

    def count(self, since: float, until: float) -> int:
        """How many requests came in between."""
        return bisect_left(self.arrivals, until) - bisect_left(self.arrivals, since)

    def control(self, target: str) -> bytes:
        """Carry out one of the handles."""
        path, _, query = target.partition("?")
        said = dict(parse_qsl(query))
        if path.endswith("/set"):
            self.tell(said)
        since, until = float(said.get("since", "0")), float(said.get("until", "inf"))
        shown = {"requests": self.count(since, until), "answered_at": self.answered_at}
        return answer("200 OK", json.dumps(shown).encode())

    def respond(self, method: bytes, target: bytes) -> bytes | None:
        """The answer to a request for the chat service; None where it hangs."""
        self.arrivals.append(time.monotonic())
        found = _INFO.fullmatch(target) if method == b"GET" else None
        if found is None:
            return _READ if method == b"GET" else _WRITTEN
        if self.ending == "hang":
            return None
        if self.ending in _FAILED:
            return _FAILED[self.ending]
        body = info(found[1], found[2], self.state, time.time())
        return answer("200 OK", body, _NO_STORE) if self.ending == "no-store" else answer("200 OK", body)


class Connection(asyncio.Protocol):
    """One connection. Nobody here sends a request before the last one was answered."""

    def __init__(self, service: Service, later: Callable[..., object]) -> None:
        self._service = service
        self._later = later
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, end, body = self._received.partition(b"\r\n\r\n")
        if not end:
            return
        length = _LENGTH.search(head)
        if length is not None and len(body) < int(length[1]):
            return
        self._received = b""
        method, target, _ = head.split(b" ", 2)
        self._take(method, target)

    def _take(self, method: bytes, target: bytes) -> None:
        service = self._service
        if target.startswith(b"/_bench/"):
            self._transport.write(service.control(target.decode()))
            return
        said = service.respond(method, target)
        if said is None:
            return
        if service.latency_s:
            self._later(service.latency_s, self._answer, said)
        else:
            self._answer(said)

    def _answer(self, said: bytes) -> None:
        self._service.answered_at = self._service.answered_at or time.monotonic()
        self._transport.write(said)


async def serve(port: int) -> None:
    """Serve until the process is ended."""
    loop = asyncio.get_running_loop()
    service = Service()
    server = await loop.create_server(lambda: Connection(service, loop.call_later), HOST, port, backlog=4096)
    await server.serve_forever()


@dataclass(frozen=True, slots=True)
class Upstream:
    """The handles of a running one."""

    port: int

    def tell(self, **said: object) -> None:
        """Start counting anew; what is not said has its default."""
        self._control("set?" + urlencode(said))

    def count(self, since: float = 0.0, until: float = float("inf")) -> int:
        """How many requests came in between, by the monotonic clock."""
        return int(self._control(f"count?since={since}&until={until}")["requests"])

    def answered_at(self) -> float | None:
        """When it first answered since it was told something, by the monotonic clock."""
        return float(self._control("count")["answered_at"]) or None

    def _control(self, handle: str) -> dict[str, Any]:
        connection = http.client.HTTPConnection(HOST, self.port, timeout=10)
        try:
            connection.request("GET", f"/_bench/{handle}")
            shown: dict[str, Any] = json.loads(connection.getresponse().read())
        finally:
            connection.close()
        return shown


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1])))
