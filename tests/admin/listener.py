"""The private listener's application with handles that remember, without a socket and on one."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from starlette.types import Message

from gateway.admin.web import Access, Handles, Outcome, Said, admin
from gateway.edge.server import bind

TOKEN = "the-operators-own-token"
Fields = Iterable[tuple[str, str]]
#: What a command sends.
GOOD: Mapping[str, str] = {
    "host": "127.0.0.1:8081",
    "authorization": f"Bearer {TOKEN}",
    "content-type": "application/json",
}


async def exposition() -> bytes:
    return b"families 1.0\n"


@dataclass(frozen=True, slots=True)
class Response:
    """What came back."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Reading:
    """Who is told all of `pieces`, as they come."""

    pieces: AsyncIterable[bytes]
    left: int = 0

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for piece in self.pieces:
            yield piece

    def leave(self) -> None:
        self.left += 1


async def once() -> AsyncIterator[bytes]:
    yield b"event: now\ndata: {}\n\n"


@dataclass
class Listener:
    """The application, what it may, and what it was told."""

    token: bytes | None = TOKEN.encode()
    open_metrics: bool = True
    hosts: frozenset[str] = frozenset({"gateway.internal"})
    ready: bool = True
    outcome: Outcome = (200, {"done": True})
    reader: Reading | None = field(default_factory=lambda: Reading(once()))
    told: list[object] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.app = admin(
            Handles(
                access=lambda: Access(self.token, self.open_metrics, self.hosts),
                is_ready=lambda: self.ready,
                status=lambda: {"policies": 3, "ready": "said below"},
                exposition=exposition,
                usage=lambda: [{"client": "bff"}],
                revocations=lambda: [{"jti": "x"}],
                revoke=self._told,
                reload=self._reloaded,
                explain=self._told,
                live=lambda: self.reader,
                purge=self._told,
            )
        )

    async def _told(self, said: Said) -> Outcome:
        self.told.append(said)
        return self.outcome

    async def _reloaded(self) -> Outcome:
        self.told.append("reload")
        return self.outcome

    async def ask(
        self, method: str, target: str, fields: Fields | Mapping[str, str] = GOOD, *chunks: bytes
    ) -> Response:
        """One request, in memory; a body of several chunks, or `{}`."""
        path, _, query = target.partition("?")
        pairs = fields.items() if isinstance(fields, Mapping) else fields
        sent: list[Message] = []
        bodies = iter(chunks or (b"{}",))
        left = len(chunks or (b"{}",))

        async def receive() -> Message:
            nonlocal left
            if not left:
                # It stays, and says no more.
                await asyncio.get_running_loop().create_future()
            left -= 1
            return {"type": "http.request", "body": next(bodies), "more_body": left > 0}

        async def send(message: Message) -> None:
            sent.append(message)

        scope = {
            "type": "http",
            "method": method,
            "path": path,
            "raw_path": path.encode(),
            "query_string": query.encode(),
            "headers": [(name.encode("latin-1"), value.encode("latin-1")) for name, value in pairs],
        }
        await self.app(scope, receive, send)
        headers = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
        return Response(sent[0]["status"], headers, b"".join(part.get("body", b"") for part in sent[1:]))

    @contextlib.asynccontextmanager
    async def on_a_socket(self, **said: Any) -> AsyncIterator[tuple[str, int]]:
        """Its address, while the block runs. `said` is for uvicorn."""
        bound = bind("127.0.0.1", 0)
        said = {"http": "httptools", "ws": "none", "lifespan": "off", "log_config": None, **said}
        server = uvicorn.Server(uvicorn.Config(self.app, **said))
        # Else it would take the process's signals.
        serving = asyncio.create_task(server._serve([bound]))
        try:
            while not server.started:  # noqa: ASYNC110 - uvicorn tells of its start by an attribute only
                await asyncio.sleep(0.002)
            yield bound.getsockname()[:2]
        finally:
            server.should_exit = True
            await serving
