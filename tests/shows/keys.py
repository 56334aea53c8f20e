"""An issuer that rotates its keys, and strangers who name keys there are not: `python -m tests.shows.keys`.

Prints one JSON line. First the keys rotate under load. From the moment a key is published most tokens are by
it, and the first of them reach the gateway before it can know the key; no good token may be refused.

Then, in turn: rounds without a flood, with a flood of random `kid`s from as many peers, so that the limit on
failed tokens hides nothing, and with the same flood from one peer. Meanwhile clients with good tokens poll,
and may not wait much longer than in the quiet rounds; and the issuer may be asked once a cooldown.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import math
import random
import secrets
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import uvloop

from gateway.demo.children import child, free_ports
from gateway.demo.stage import AUDIENCE, set_stage
from gateway.demo.wire import Client
from gateway.identity.documents import write_base64url
from tests.identity_provider import Provider, provider
from tests.shows.stand import APP_KEY, HOST, UPSTREAM_S, Stand, asking, info_path, percentile

POLLERS = 50
POLL_S = 0.1
#: The shortest cooldown that can be configured, and how long a key is the newest.
COOLDOWN_S = 1
ROTATIONS, ROTATE_S = 5, 2.5
FLOOD_PER_S, FLOOD_S = 1000, 10.0
ROUNDS = 3
#: Connections of the flood; so many can wait for a look at the keys while the others go on.
FLOODERS = 100
#: How much longer good tokens may wait beside a flood, and what share of it has to have been sent.
MAX_TIMES, MIN_SENT = 2.0, 0.95

#: A good token for the poll with this number, of the client with this one.
Tokens = Callable[[int, int], str]
#: The address of the next stranger.
Peers = Callable[[], str]


@dataclass(frozen=True, slots=True)
class Place:
    """The two processes, and in this one the issuer."""

    stand: Stand
    issuer: Provider


@contextlib.asynccontextmanager
async def place() -> AsyncIterator[Place]:
    """Emulator and gateway, each in its process, and an issuer whose keys are at a URL."""
    public, private, upstream = free_ports(3)
    async with provider() as issuer:
        with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as children:
            folder = Path(name)
            row = {"issuer": issuer.issuer, "audience": AUDIENCE, "algorithms": [issuer.algorithm]}
            stage = set_stage(
                folder,
                listen=f"{HOST}:{public}",
                admin_listen=f"{HOST}:{private}",
                public_url=f"http://{HOST}:{public}",
                upstream_url=f"http://{HOST}:{upstream}",
                app_key=APP_KEY,
                issuers=[{**row, "jwks_url": issuer.jwks_url, "cooldown_s": COOLDOWN_S}],
                trusted_proxies=[HOST],
            )
            _let_in(folder / "policies" / "clients", issuer)
            emulating = f"emulator --port {upstream} --latency-ms {UPSTREAM_S * 1000:.0f} --no-agents"
            key = ("--app-key-file", str(folder / "app-key"))
            emulator = children.enter_context(child([*emulating.split(), *key], folder / "emulator.log"))
            serving = ["serve", "--config", str(stage.config)]
            gateway = children.enter_context(child(serving, folder / "gateway.log"))
            await emulator.listening(upstream)
            await gateway.listening(public)
            yield Place(Stand(public, upstream, issuer.token), issuer)


def _let_in(clients: Path, issuer: Provider) -> None:
    """One client instead of those that are shipped, whose issuer is another."""
    for file in clients.iterdir():
        file.unlink()
    poller = {"match": {"iss": issuer.issuer}, "accounts": "*", "allow": ["chat:read"]}
    (clients / "poller.yaml").write_text(json.dumps({"clients": {"poller": poller}}))


@dataclass(frozen=True, slots=True)
class Polled:
    """What good tokens got."""

    requests: int
    refused: Counter[int]
    p99_ms: float


async def poll(at: Place, tokens: Tokens, seconds: float) -> Polled:
    """Evenly phased clients, each on a connection of its own, poll one chat for so long."""
    path = info_path(await at.stand.chat())
    refused: Counter[int] = Counter()
    requests = 0
    latencies: list[float] = []
    began = time.monotonic() + 0.5

    async def one(index: int) -> None:
        nonlocal requests
        client = Client(HOST, at.stand.gateway)
        await client.open()
        for number in range(math.ceil(seconds / POLL_S)):
            await asyncio.sleep(max(0.0, began + (number + index / POLLERS) * POLL_S - time.monotonic()))
            question = asking(path, tokens(index, number))
            asked = time.monotonic()
            response = await client.ask(question)
            requests += 1
            # In the first second they wait for the upstream, which is not what is measured.
            if number * POLL_S >= 1:
                latencies.append(response.received - asked)
            if response.status != 200:
                refused[response.status] += 1
        client.close()

    await asyncio.gather(*(one(index) for index in range(POLLERS)))
    return Polled(requests, refused, percentile(latencies, 0.99) * 1000)


# -- rotation ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Rotated:
    """What came of the rotations; `early` tokens were by a key that the gateway had not asked for yet."""

    polled: Polled
    early: int
    fetches: int

    def is_ok(self, rotations: int) -> bool:
        """Whether all good tokens were good, and each new key was found by one of them."""
        return not self.polled.refused and self.early >= rotations == self.fetches


async def rotate(at: Place, rotations: int = ROTATIONS, every_s: float = ROTATE_S) -> Rotated:
    """Rotate under load, keeping the key before; each request has a new token, a third of them by that."""
    chance, numbers = random.Random(1), itertools.count()
    early, at_publication, before = 0, -1, at.issuer.fetches

    def token(_: int, __: int) -> str:
        nonlocal early
        is_older = at_publication >= 0 and chance.random() < 1 / 3
        early += not is_older and at.issuer.fetches == at_publication
        return at.issuer.token("poller", age=int(is_older), jti=str(next(numbers)))

    async def rotate_on() -> None:
        nonlocal at_publication
        for _ in range(rotations):
            await asyncio.sleep(every_s)
            at.issuer.rotate(keep=1)
            at_publication = at.issuer.fetches

    rotating = asyncio.create_task(rotate_on())
    polled = await poll(at, token, (rotations + 1) * every_s)
    await rotating
    return Rotated(polled, early, at.issuer.fetches - before)


# -- flood ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Round:
    """Good tokens beside a flood, or beside none; what the flood got, and how often keys were fetched."""

    polled: Polled
    flood: Counter[int]
    fetches: int
    seconds: float

    @property
    def is_ok(self) -> bool:
        """But for the time it took."""
        most = int(self.seconds / COOLDOWN_S) + 1 if self.flood else 0
        return not self.polled.refused and self.fetches <= most and set(self.flood) <= {401, 429}


async def flood(at: Place, peers: Peers, seconds: float) -> Counter[int]:
    """Random kids, each at its time; what they got."""
    _, payload, signature = at.issuer.token("poller").split(".")
    path = info_path("flooded")
    statuses: Counter[int] = Counter()
    began = time.monotonic()

    async def flooder(index: int) -> None:
        client = Client(HOST, at.stand.gateway)
        for number in range(index, int(FLOOD_PER_S * seconds), FLOODERS):
            head = json.dumps({"alg": at.issuer.algorithm, "kid": secrets.token_urlsafe(12)}).encode()
            token = f"{write_base64url(head).decode()}.{payload}.{signature}"
            question = asking(path, token).removesuffix(b"\r\n")
            question += f"X-Forwarded-For: {peers()}\r\n\r\n".encode()
            await asyncio.sleep(max(0.0, began + number / FLOOD_PER_S - time.monotonic()))
            if time.monotonic() > began + seconds:
                break  # what is late by now does not count as sent
            statuses[(await client.ask(question)).status] += 1
        client.close()

    await asyncio.gather(*(flooder(index) for index in range(FLOODERS)))
    return statuses


async def one_round(at: Place, peers: Peers | None, seconds: float = FLOOD_S) -> Round:
    """Poll for so long, nine times of ten with a token that is known, beside a flood from these peers."""
    kept = [at.issuer.token("poller", jti=secrets.token_hex(8)) for _ in range(POLLERS)]

    def token(index: int, number: int) -> str:
        return at.issuer.token("poller", jti=secrets.token_hex(8)) if number % 10 == 5 else kept[index]

    before, began = at.issuer.fetches, time.monotonic()
    flooding = asyncio.create_task(flood(at, peers, seconds)) if peers else None
    polled = await poll(at, token, seconds)
    statuses = await flooding if flooding else Counter[int]()
    return Round(polled, statuses, at.issuer.fetches - before, time.monotonic() - began)


def everybody() -> Peers:
    """Each from an address of its own (RFC 2544's, for measurements)."""
    numbers = itertools.count()
    return lambda: f"198.18.{(number := next(numbers)) >> 8 & 255}.{number & 255}"


def somebody() -> Peers:
    """All from one."""
    return lambda: "198.51.100.1"


async def main() -> bool:
    kinds: dict[str, Callable[[], Peers | None]] = {
        "quiet": lambda: None,
        "many peers": everybody,
        "one peer": somebody,
    }
    async with place() as at:
        rotated = await rotate(at)
        rounds = [(kind, await one_round(at, make())) for _ in range(ROUNDS) for kind, make in kinds.items()]
    p99_ms = {kind: median(one.polled.p99_ms for name, one in rounds if name == kind) for kind in kinds}
    sent = min(one.flood.total() for _, one in rounds if one.flood)
    ok = (
        rotated.is_ok(ROTATIONS)
        and all(one.is_ok for _, one in rounds)
        and max(p99_ms.values()) <= MAX_TIMES * p99_ms["quiet"]
        and sent >= MIN_SENT * FLOOD_PER_S * FLOOD_S
    )
    shown = {
        "show": "keys",
        "ok": ok,
        "rotations": ROTATIONS,
        "rotation": {
            "requests": rotated.polled.requests,
            "refused": rotated.polled.refused,
            "early": rotated.early,
            "fetches": rotated.fetches,
            "p99_ms": round(rotated.polled.p99_ms, 3),
        },
        "p99_ms": {kind: round(value, 3) for kind, value in p99_ms.items()},
        "rounds": [
            {
                "kind": kind,
                "requests": one.polled.requests,
                "refused": one.polled.refused,
                "p99_ms": round(one.polled.p99_ms, 3),
                "flood": one.flood,
                "fetches": one.fetches,
            }
            for kind, one in rounds
        ],
    }
    print(json.dumps(shown))
    return ok


if __name__ == "__main__":
    sys.exit(not uvloop.run(main()))
