"""The road on virtual time: a whole hour passes in a second, and every run of a seed is the same.

`VirtualLoop` never waits: when nothing is ready it moves its clock to the next timer. `Simulation` wires a
real exchange to the emulator without sockets; only the transport is replaced, by one that takes time.
"""

from __future__ import annotations

import asyncio
import io
import json
import selectors
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

from gateway.config.policies import load_policies
from gateway.core.access import Claims
from gateway.core.errors import Reason, Refusal
from gateway.core.freshness import Failed
from gateway.core.links import LinkMap
from gateway.core.messages import Answer, Representation, UpstreamRequest
from gateway.core.policy import Policies
from gateway.core.replies import Reply
from gateway.core.requests import Request
from gateway.demo.stage import ACCOUNT, ISSUER, shipped_policies
from gateway.emulator import Emulator, EmulatorConfig, EmulatorRequest, Whole
from gateway.exchange import Exchange, Rules
from gateway.observe.logs import logger
from gateway.observe.metrics import Metrics
from gateway.observe.observer import Observer
from gateway.stores.memory import MemoryStore
from gateway.upstream.protection import Protection

T = TypeVar("T")

#: Epoch seconds at which virtual time starts.
EPOCH = 1_800_000_000.0
APP_KEY = "0123456789abcdef0123456789abcdef"
UPSTREAM_HOST = "va-e.convep.liveperson.net"
PUBLIC_URL = "https://chat.example"
DEADLINE_S = 5.0


class _NoWait(selectors.DefaultSelector):  # type: ignore[valid-type,misc]
    """A selector that, instead of waiting, lets the clock jump."""

    now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise RuntimeError("deadlock: nothing is ready and no timer is set")
        self.now += timeout
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose time is its own."""

    def __init__(self) -> None:
        self._virtual = _NoWait()
        super().__init__(self._virtual)

    def time(self) -> float:
        return self._virtual.now


def simulate(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end on virtual time."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main)


class VirtualClock:
    """The loop's time, as the gateway's clock."""

    def now(self) -> float:
        return asyncio.get_running_loop().time()

    def wall(self) -> float:
        return EPOCH + self.now()


class TokensAsNames:
    """A verifier for simulations: the token is the subject, good until `expires_at`."""

    def __init__(self, clock: VirtualClock) -> None:
        self._clock = clock
        self.expires_at: dict[str, float] = {}

    async def verify(self, authorization: bytes | None) -> Claims | Refusal:
        if authorization is None:
            return Refusal(Reason.TOKEN_MISSING)
        subject = authorization.decode().removeprefix("Bearer ")
        expires_at = self.expires_at.get(subject, EPOCH * 2)
        if self._clock.wall() >= expires_at:
            return Refusal(Reason.TOKEN_EXPIRED)
        return Claims({"iss": ISSUER, "sub": subject}, expires_at)


class EmulatedUpstream:
    """The port `Upstream`, straight into the emulator. `latency_s` is drawn for each request."""

    def __init__(self, emulator: Emulator, latency_s: Callable[[], float]) -> None:
        self.emulator = emulator
        self.latency_s = latency_s
        self.links = LinkMap(PUBLIC_URL, {ACCOUNT: frozenset({UPSTREAM_HOST})}, ("*.liveperson.net",))
        self.requests: list[UpstreamRequest] = []
        #: Called with each request before it is sent; what it returns is the outcome instead.
        self.interfere: Callable[[UpstreamRequest], Awaitable[Answer | Failed | None]] | None = None

    async def send(self, request: UpstreamRequest, *, is_read: bool) -> Answer | Failed:
        del is_read
        try:
            async with asyncio.timeout(DEADLINE_S):
                return await self._send(request)
        except TimeoutError:
            return Failed(Reason.UPSTREAM_TIMEOUT)

    async def _send(self, request: UpstreamRequest) -> Answer | Failed:
        self.requests.append(request)
        there_s = self.latency_s() / 2
        back_s = self.latency_s() / 2
        await asyncio.sleep(there_s)
        headers = (*request.headers, (b"authorization", f"LivePerson appKey={APP_KEY}".encode()))
        response = self.emulator.handle(EmulatorRequest(request.method, request.target, headers, request.body))
        await asyncio.sleep(back_s + response.delay_s)
        if not isinstance(response.delivery, Whole):
            # Hang, drop, reset, drip, truncate: on this road they all end as one of these two.
            if type(response.delivery).__name__ == "Hang":
                await asyncio.sleep(DEADLINE_S * 2)
            return Failed(Reason.UPSTREAM_RESET)
        return Answer(response.status, response.headers, response.body)


class Simulation:
    """Exchange and emulator on one virtual clock. Make it inside `simulate`."""

    def __init__(
        self,
        *,
        config: EmulatorConfig | None = None,
        policies: Policies | None = None,
        latency_s: Callable[[], float] = lambda: 0.120,
        stale_after_s: float = 0.250,
    ) -> None:
        self.clock = VirtualClock()
        self.emulator = Emulator(
            config or EmulatorConfig(app_key=APP_KEY, accounts=(ACCOUNT,)), now=self.clock.wall
        )
        self.upstream = EmulatedUpstream(self.emulator, latency_s)
        self.verifier = TokensAsNames(self.clock)
        self.store = MemoryStore(64 * 1024 * 1024, self.clock.now)
        self.metrics = Metrics()
        self.log = io.StringIO()
        self.rules = Rules(policies or shipped(), frozenset({ACCOUNT}), Representation.JSON, stale_after_s)
        self.exchange = Exchange(
            rules=lambda: self.rules,
            clock=self.clock,
            verifier=self.verifier,
            store=self.store,
            upstream=self.upstream,
            protection=Protection(self.clock.now, 5.0),
            observer=Observer(self.metrics, logger("info", self.log)),
        )

    async def ask(
        self, method: str, path: str, query: str = "", *, subject: str = "bff", body: bytes = b"", **fields: str
    ) -> Reply:
        """One request; `fields` are header fields, with underscores for dashes."""
        named = {name.replace("_", "-").encode(): value.encode() for name, value in fields.items()}

        async def read() -> bytes:
            return body

        named.setdefault(b"authorization", f"Bearer {subject}".encode())
        return await self.exchange.answer(
            Request("test", method, path.encode(), query.encode(), named, read)
        )

    async def info(self, chat: str, **fields: str) -> Reply:
        return await self.ask("GET", chat_path(chat, "/info"), **fields)

    async def rename(self, chat: str, name: str) -> Reply:
        """The write that most tests use."""
        body = json.dumps({"visitorName": name}).encode()
        path = chat_path(chat, "/info/visitorName")
        return await self.ask("PUT", path, body=body, content_type="application/json")

    def chat(self) -> str:
        """A chat that an agent has accepted."""
        chat = self.emulator.start_chat(ACCOUNT)
        self.emulator.accept(chat)
        return chat


def chat_path(chat: str, rest: str = "") -> str:
    return f"/api/account/{ACCOUNT}/chat/{chat}{rest}"


def shipped(folder: Path | None = None) -> Policies:
    """The policies that come with the package."""
    policies, mistakes = load_policies(
        folder or shipped_policies(), frozenset({ACCOUNT}), frozenset({ISSUER}), 1
    )
    assert policies is not None, mistakes
    return policies


def header(reply: Reply, name: str) -> str | None:
    return next((value.decode() for key, value in reply.headers if key == name.encode()), None)
