"""What memory chats, grants, tokens and callers take: `python -m tests.benchmarks.memory [COUNT]`.

Prints a JSON object: bytes for each, as Python's own tracing of memory has them, and what each weighs where
memory is bounded. The gateway is the whole one, but for sockets, time and the upstream.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import sys
import tempfile
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gateway.app import Gateway
from gateway.configuration import configure
from gateway.core.links import LinkMap
from gateway.core.messages import Answer, UpstreamRequest
from gateway.demo.stage import ACCOUNT, AUDIENCE, ISSUER, set_stage
from gateway.identity.development import mint
from tests.benchmarks.ground import APP_KEY, asking, chat_id, client, write_clients
from tests.benchmarks.upstream import HOSTED_AT, info
from tests.connections import Edge

COUNT = 10_000
PUBLIC_URL = "https://chat.example"
#: What clients see: everything, or everything but that.
HIDDEN = ("agentId", "skillId", "visitorId", "engagementId")
PLENTY_BYTES = 2**33
#: What a reply says of its age is remembered when it is a hit for the second time.
TIMES = 3
_SECRET = b"a secret to measure with, of 32 bytes and more"
_EPOCH = 1_800_000_000.0
#: At this pace no budget is in the way, and no ended chat grows old.
_STEP_S = 1e-4
#: Done before anything is measured: what is made once, for however many things.
_FIRST = 16


class HandClock:
    """Time that passes a little with each request."""

    def __init__(self) -> None:
        self.at = 1000.0

    def now(self) -> float:
        return self.at

    def wall(self) -> float:
        return _EPOCH + self.at


class Answers:
    """An upstream whose chats have all ended, so that their infos stay. The `slow` ones wait for `may`."""

    links = LinkMap(PUBLIC_URL, {ACCOUNT: frozenset({HOSTED_AT.partition("//")[2]})}, ())

    def __init__(self) -> None:
        self.may = asyncio.Event()
        self.slow: frozenset[bytes] = frozenset()
        self.asked = 0

    async def send(self, request: UpstreamRequest, *, is_read: bool) -> Answer:
        assert is_read
        self.asked += 1
        chat = request.target.split(b"/")[5]
        if chat in self.slow:
            await self.may.wait()
        return Answer(200, ((b"content-type", b"application/json"),), body_of(chat))


def body_of(chat: bytes) -> bytes:
    """The info of a chat."""
    return info(ACCOUNT.encode(), chat, b"ended", _EPOCH)


@dataclass(frozen=True, slots=True)
class Polled:
    """A gateway whose clients poll infos."""

    gateway: Gateway
    clock: HandClock
    upstream: Answers
    edge: Edge

    async def ask(self, questions: Iterable[bytes]) -> None:
        """Send these one after the other; each is answered well."""
        peer = self.edge.connect()
        for question in questions:
            self.clock.at += _STEP_S
            peer.send(question)
            while not peer.received:  # noqa: ASYNC110 - nobody sets an event for it
                await asyncio.sleep(0)
            assert peer.text.startswith(b"HTTP/1.1 200"), peer.text
            peer.received.clear()
        peer.hang_up()

    async def verify(self, tokens: Iterable[bytes]) -> None:
        """Have tokens verified, and nothing else."""
        for one in tokens:
            await self.gateway._verifier.verify(b"Bearer " + one, None)

    def weight(self, kind: str) -> int:
        """What all of that kind weigh: entries, tokens, or grants."""
        return self.gateway.metrics.gauges.kept()[kind][0]


@contextlib.asynccontextmanager
async def polled(views: int = 0, **settings: Any) -> AsyncIterator[Polled]:
    """A gateway with a client that sees everything, and so many others; with room for all, unless told."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "secret").write_bytes(_SECRET)
        issuer = {"issuer": ISSUER, "audience": AUDIENCE, "algorithms": ["HS256"], "secret_file": "secret"}
        usual: Mapping[str, Any] = {
            "issuers": [issuer],
            "budget": {"per_second": 10_000, "burst": 10_000, "in_flight": 10_000, "queue": 100_000},
            "cache": {"max_bytes": PLENTY_BYTES},
            "memory": {"tokens_bytes": PLENTY_BYTES, "grants_bytes": PLENTY_BYTES},
            "log_level": "error",
        }
        stage = set_stage(
            folder,
            listen="127.0.0.1:0",
            admin_listen="127.0.0.1:0",
            public_url=PUBLIC_URL,
            upstream_url=HOSTED_AT,
            app_key=APP_KEY,
            **{**usual, **settings},
        )
        for file in (folder / "policies" / "clients").glob("*.yaml"):
            file.unlink()
        clients = {name_of(0): client(name_of(0))}
        for number, field in enumerate(HIDDEN[:views], 1):
            clients[name_of(number)] = client(name_of(number), view={"hide": [field]})
        write_clients(folder / "policies", "all", clients)
        clock, upstream = HandClock(), Answers()
        gateway = Gateway(configure(stage.config, {}), stage.config, {}, clock)
        gateway._state = replace(gateway._state, upstream=upstream)
        try:
            yield Polled(gateway, clock, upstream, Edge(gateway.web, gateway.short_cut))
        finally:
            await gateway.end()


def name_of(client_number: int) -> str:
    return f"client-{client_number}"


def token(number: int, client_number: int = 0) -> bytes:
    """A token of a client, another for each number."""
    said = {"iss": ISSUER, "aud": AUDIENCE, "sub": name_of(client_number), "exp": int(_EPOCH) + 90_000}
    said |= {"iat": int(_EPOCH), "jti": f"{number:032x}", "scope": "chat.read chat.write"}
    return mint(_SECRET, "HS256", None, said).encode()


def polls(
    bearer: bytes, chats: Iterable[int], times: int = 1, fields: Mapping[str, str] | None = None
) -> Iterator[bytes]:
    """So many polls of each chat."""
    return (asking(bearer.decode(), chat_id(chat), fields=fields) for chat in chats for _ in range(times))


# -- measuring ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one thing, in bytes: what it takes, and what it weighs."""

    takes: float
    weighs: float


@contextlib.contextmanager
def tracing() -> Iterator[None]:
    """Have Python trace its memory, from the beginning: a table that grows gives back its old place."""
    tracemalloc.start()
    try:
        yield
    finally:
        tracemalloc.stop()


async def cost_of(it: Polled, kind: str, count: int, work: Awaitable[object]) -> Cost:
    """The cost of each of so many things that the work brings about, and that are still there after it."""
    gc.collect()
    before, weight = tracemalloc.get_traced_memory()[0], it.weight(kind)
    await work
    gc.collect()
    takes, weighs = tracemalloc.get_traced_memory()[0] - before, it.weight(kind) - weight
    return Cost(takes / count, weighs / count)


async def measure_chats(count: int, views: int = 0) -> dict[str, Cost]:
    """A chat that clients of all views poll, and a grant: another token's leave to poll one."""
    first, chats = range(_FIRST), range(_FIRST, _FIRST + count)
    async with polled(views) as it:
        owners = [token(0, number) for number in range(views + 1)]
        again = token(1)
        for bearer in (*owners, again):
            await it.ask(polls(bearer, first, TIMES))
        asked = (question for bearer in owners for question in polls(bearer, chats, TIMES))
        chat = await cost_of(it, "entries", count, it.ask(asked))
        grant = await cost_of(it, "grants", count, it.ask(polls(again, chats, TIMES)))
        return {"chat": replace(chat, takes=chat.takes - len(owners) * grant.takes), "grant": grant}


async def measure_tokens(count: int, fields: Mapping[str, str] | None = None) -> dict[str, Cost]:
    """A token that was verified, and the caller that polls one chat with it, and with these fields."""
    tokens = [token(number) for number in range(_FIRST + count)]
    questions = [question for one in tokens for question in polls(one, (0,), TIMES, fields)]
    first = _FIRST * TIMES
    async with polled() as it:
        await it.ask(questions[:first])
        verified = await cost_of(it, "tokens", count, it.verify(tokens[_FIRST:]))
        caller = await cost_of(it, "grants", count, it.ask(questions[first:]))
        return {"token": verified, "caller": caller}


async def measure(count: int) -> dict[str, object]:
    """All of it, and how large the bodies and headers were that are part of it."""
    with tracing():
        whole, viewed = await measure_chats(count), await measure_chats(count // 4, len(HIDDEN))
        of_tokens = await measure_tokens(count)
    costs = {"chat": whole["chat"], "chat in 5 views": viewed["chat"], "grant": whole["grant"], **of_tokens}
    _, _, header = next(polls(token(0), (0,))).partition(b"\r\n")
    return {
        "body": len(body_of(chat_id(0).encode())),
        "header": len(header),
        **{name: {"takes": round(cost.takes), "weighs": round(cost.weighs)} for name, cost in costs.items()},
    }


if __name__ == "__main__":
    count = int(sys.argv[1]) if len(sys.argv) > 1 else COUNT
    print(json.dumps(asyncio.run(measure(count)), indent=2))
