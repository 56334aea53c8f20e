"""Emulator and gateway on real sockets in one process, and a client that can send any bytes.

Every `world` ends with the same questions: was the appKey seen anywhere outside, was a token logged, did
anything crash, is anything still flying? So each test over sockets is also a test of those.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import logging
import os
import re
import shutil
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gateway.app import Gateway, running
from gateway.configuration import configure
from gateway.demo.stage import ACCOUNT, Stage, set_stage, shipped_policies
from gateway.edge.server import Running
from gateway.emulator import Emulator, EmulatorConfig, EmulatorServer, serve
from gateway.observe.logs import logger
from tests import canary

#: Recognisable, and spelled differently in every encoding that is searched for.
APP_KEY = "c4nary/5ad1+f2c9e8b70d6a4e13=~"
#: Nobody listens there: links must come from the configuration, not from where a request was sent.
PUBLIC_URL = "https://chat.example"
#: Where visitors are (RFC 5737).
VISITOR = "203.0.113.7"
#: For waiting on what happens within milliseconds; only a failure ever waits this long.
PATIENCE_S = 10.0
TOKENS_SEARCHED_FOR = 10
#: For tests in which an answer has to be past its freshness. No clock can be turned here.
FRESH_S = 0.05
#: Whoever runs the tests may have other work to do: that is not what they are about.
UNHURRIED = {"lag_ms": 5_000}

Fields = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Response:
    """What came back: lower-case header names, the body without its framing."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes

    def header(self, name: str) -> str | None:
        """The value of a field that must not be doubled."""
        values = [value for key, value in self.headers if key == name]
        assert len(values) < 2, f"{name} is there {len(values)} times"
        return values[0] if values else None

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def problem(self) -> str | None:
        """The tail of a problem document's type; None for any other answer."""
        found = re.search(rb"urn:chat-gateway:problem:([a-z-]+)", self.body)
        is_problem = (self.header("content-type") or "").startswith("application/problem+")
        return found[1].decode() if found and is_problem else None


class Wire:
    """One client connection: any bytes out, parsed responses in."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, received: list[bytes]
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._received = received

    async def send(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    async def response(self, method: str = "GET") -> Response:
        """The next response; raises IncompleteReadError where the gateway hung up."""
        async with asyncio.timeout(PATIENCE_S):
            head = await self._reader.readuntil(b"\r\n\r\n")
            self._received.append(head)
            line, *rest = head[:-4].decode("latin-1").split("\r\n")
            headers = tuple((n.lower(), v) for n, _, v in (field.partition(": ") for field in rest))
            status = int(line.split(" ")[1])
            length = int(dict(headers).get("content-length", "0"))
            bodiless = method == "HEAD" or status in {204, 304} or status < 200
            body = b"" if bodiless else await self._reader.readexactly(length)
        self._received.append(body)
        return Response(status, headers, body)

    async def until_closed(self) -> bytes:
        """Everything until the gateway closes."""
        async with asyncio.timeout(PATIENCE_S):
            rest = await self._reader.read()
        self._received.append(rest)
        return rest

    async def ask(
        self, method: str, target: str, fields: Fields | None = None, body: bytes = b""
    ) -> Response:
        await self.send(message(method, target, fields or {}, body))
        return await self.response(method)

    def no_more(self) -> None:
        """Say that nothing more will be sent; still listen."""
        self._writer.write_eof()

    def hang_up(self) -> None:
        """Leave at once, with whatever is unread."""
        self._writer.transport.abort()

    async def close(self) -> None:
        self._writer.close()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()


def message(method: str, target: str, fields: Fields, body: bytes = b"") -> bytes:
    """A well-formed request."""
    lines = [f"{method} {target} HTTP/1.1", "host: gateway.test"]
    lines += [f"{name}: {value}" for name, value in fields.items()]
    if body or method in {"POST", "PUT"}:
        lines.append(f"content-length: {len(body)}")
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


class World:
    """A running emulator with a running gateway in front of it."""

    def __init__(
        self,
        *,
        emulator: Emulator,
        server: EmulatorServer,
        gateway: Gateway,
        stage: Stage,
        addresses: Running,
        log: io.StringIO,
    ) -> None:
        self.emulator = emulator
        self.server = server
        self.gateway = gateway
        self.stage = stage
        self.addresses = addresses
        self.log = log
        #: All that ever came back to a client, and every token that was sent.
        self.received: list[bytes] = []
        self.tokens: set[str] = set()

    def token(self, subject: str = "bff", **said: Any) -> str:
        token = self.stage.token(subject, **said)
        self.tokens.add(token)
        return token

    def bearer(self, subject: str = "bff", **said: Any) -> dict[str, str]:
        return {"authorization": f"Bearer {self.token(subject, **said)}"}

    @contextlib.asynccontextmanager
    async def wire(self) -> AsyncIterator[Wire]:
        """A connection to the clients' listener."""
        wire = Wire(*await asyncio.open_connection(*self.addresses.public), self.received)
        try:
            yield wire
        finally:
            await wire.close()

    async def ask(
        self,
        method: str,
        target: str,
        fields: Fields | None = None,
        body: bytes = b"",
        *,
        subject: str | None = "bff",
    ) -> Response:
        """One request on a connection of its own. `target` may be a link; `subject` None is nobody.

        Like any backend, whoever starts a chat says where the visitor is.
        """
        said = {} if subject is None else self.bearer(subject)
        if path_of(target).removesuffix(".json").endswith("/chat/request"):
            said = {"x-forwarded-for": VISITOR, **said}
        async with self.wire() as wire:
            return await wire.ask(method, path_of(target), {**said, **(fields or {})}, body)

    async def get(self, target: str, **fields: str) -> Response:
        """GET with these header fields, underscores for dashes."""
        return await self.ask("GET", target, {n.replace("_", "-"): v for n, v in fields.items()})

    async def write(self, method: str, target: str, said: object, **fields: str) -> Response:
        """A write with a JSON body."""
        named = {name.replace("_", "-"): value for name, value in fields.items()}
        body = json.dumps(said).encode()
        return await self.ask(method, target, {"content-type": "application/json", **named}, body)

    async def admin(self, path: str) -> Response:
        """GET from the private listener."""
        wire = Wire(*await asyncio.open_connection(*self.addresses.private), self.received)
        try:
            # By a name that the private listener goes by.
            await wire.send(message("GET", path, {}).replace(b"gateway.test", b"localhost"))
            return await wire.response("GET")
        finally:
            await wire.close()

    def chat(self) -> str:
        """A chat that an agent has accepted."""
        chat = self.emulator.start_chat(ACCOUNT)
        self.emulator.accept(chat)
        return chat

    def upstream_requests(self) -> int:
        return self.emulator.counts().total()

    def start_over(self) -> None:
        """Forget counts and faults, so that tests can share a world."""
        self.emulator.clear_faults()
        self.emulator.reset_counts()

    async def flights_landed(self) -> None:
        """Wait until no fetch is in progress."""
        await until(lambda: len(self.gateway.exchange.flights) == 0)

    def lines(self) -> list[dict[str, Any]]:
        """The log, a mapping a line."""
        return [json.loads(line) for line in self.log.getvalue().splitlines()]


@contextlib.asynccontextmanager
async def world(
    folder: Path,
    *,
    emulator: EmulatorConfig | None = None,
    upstream: str | None = None,
    environ: Fields | None = None,
    **settings: Any,
) -> AsyncIterator[World]:
    """A world whose `gateway.yaml` has these settings too; `upstream` puts something else behind it.

    `environ` holds settings as environment variables, without their common prefix.
    """
    emulated = Emulator(emulator or EmulatorConfig(app_key=APP_KEY), now=time.time)
    async with contextlib.AsyncExitStack() as stack:
        server = await serve(emulated)
        stack.push_async_callback(server.close)
        stage = staged(folder, upstream or server.url, **{"overload": UNHURRIED, **settings})
        log = stack.enter_context(_warnings_into(io.StringIO()))
        variables = {f"CHAT_GATEWAY_{name}": value for name, value in (environ or {}).items()}
        gateway = Gateway(
            configure(stage.config, variables), stage.config, variables, log=logger("debug", log)
        )
        addresses = await stack.enter_async_context(running(gateway))
        it = World(
            emulator=emulated, server=server, gateway=gateway, stage=stage, addresses=addresses, log=log
        )
        yield it
        it.received.append((await it.admin("/metrics")).body)
    _check(it)


def staged(folder: Path, upstream_url: str = "http://127.0.0.1:1", **settings: Any) -> Stage:
    """A stage whose listeners take free ports. Nobody is at its upstream, unless one is named."""
    free = "127.0.0.1:0"
    usual = {"listen": free, "admin_listen": free, "public_url": PUBLIC_URL, "app_key": APP_KEY}
    return set_stage(folder, upstream_url=upstream_url, **{**usual, **settings})


def policies_with(folder: Path, old: str, new: str) -> str:
    """The name of `folder`, with the shipped policies in it, but `new` for each `old`."""
    shutil.copytree(shipped_policies(), folder)
    texts = {file: file.read_text() for file in folder.rglob("*.yaml")}
    assert any(old in text for text in texts.values())
    for file, text in texts.items():
        file.write_text(text.replace(old, new))
    return folder.name


def short_lived(folder: Path) -> dict[str, str]:
    """The setting with which infos of a living chat are fresh for no longer than `FRESH_S`."""
    return {
        "POLICIES": policies_with(folder / "short-lived", "chatting: 1000", f"chatting: {FRESH_S * 1000:.0f}")
    }


@contextlib.contextmanager
def _warnings_into(log: io.StringIO) -> Iterator[io.StringIO]:
    """What libraries have to say goes where the gateway's own lines go."""
    handler = logging.StreamHandler(log)
    handler.setFormatter(logging.Formatter("%(name)s: %(message)s"))
    handler.setLevel(logging.WARNING)
    logging.getLogger().addHandler(handler)
    try:
        yield log
    finally:
        logging.getLogger().removeHandler(handler)


def _check(it: World) -> None:
    log = it.log.getvalue()
    found = _leaked(it)
    # Said in words of ours: what pytest shows of an expression would leak once more.
    assert not found, found
    for crash in ("Traceback", "uvicorn.error: ASGI", '"crashed"'):
        assert crash not in log, log[log.find(crash) :][:2000]
    assert len(it.gateway.exchange.flights) == 0


def _leaked(it: World) -> list[str]:
    """What of the appKey and of tokens got out of a world, or is shown by the objects it is made of."""
    secrets = [canary.watch("the appKey", APP_KEY)]
    # The way out of one token is that of all: of a crowd some are enough.
    secrets += [canary.watch("a token", token) for token in sorted(it.tokens)[:TOKENS_SEARCHED_FOR]]
    log = it.log.getvalue()
    found = [f"{what} reached a client" for what in canary.seen(b"\n".join(it.received), secrets)]
    found += [f"{what} was logged" for what in canary.seen(log.encode(), secrets)]
    found += ["a token was logged" for token in it.tokens if token in log]
    if canary.is_new(os.environ.get("PYTEST_CURRENT_TEST", "").partition("::")[0]):
        found += canary.shown_by_objects(secrets)
    return found


async def until(condition: Callable[[], bool]) -> None:
    """Wait for what happens within milliseconds."""
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110 - nobody sets an event for it
            await asyncio.sleep(0.002)


def forms(secret: str) -> dict[str, bytes]:
    """The spellings in which a secret can hide."""
    return canary.forms(secret)


def leaks(text: bytes, secret: str = APP_KEY) -> list[str]:
    """In which forms the secret is in there."""
    return [name for name, form in forms(secret).items() if form in text]


def path_of(link: str) -> str:
    """Where a link leads on the gateway; anything else is returned as it is."""
    return link.removeprefix(PUBLIC_URL)


def with_json(link: str) -> str:
    """A link with `.json` at the end of its path, as the vendor's clients append it."""
    path, mark, query = link.partition("?")
    return f"{path}.json{mark}{query}"


def links_of(document: object) -> Iterator[tuple[str, str]]:
    """(rel, href) of each link object in a JSON document, in either dialect, one or many."""
    if isinstance(document, list):
        for member in document:
            yield from links_of(member)
    elif isinstance(document, dict):
        href, rel = (document.get(name) or document.get(f"@{name}") for name in ("href", "rel"))
        if isinstance(href, str) and isinstance(rel, str):
            yield rel, href
        for member in document.values():
            yield from links_of(member)


def account_path(rest: str = "") -> str:
    return f"/api/account/{ACCOUNT}{rest}"


def chat_path(chat: str, rest: str = "") -> str:
    return account_path(f"/chat/{chat}{rest}")
