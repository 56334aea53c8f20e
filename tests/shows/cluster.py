"""What the shows of several replicas stand on: gateways as processes of their own, before one emulator."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from shutil import copytree
from typing import Any

import yaml

from gateway.demo.children import Child, child, free_ports
from gateway.demo.stage import Stage, set_stage
from gateway.demo.wire import Broken, Client, request
from tests.shows.stand import ALL_FROM_ONE_PEER, APP_KEY, HOST, UPSTREAM_S, Stand, percentile

REPLICAS = 4
#: Alone, each replica needs as much as all of them together; and it is not to queue for it.
PLENTY = {"per_second": 10_000, "burst": 10_000, "in_flight": 2_000, "queue": 10_000}
#: Emulator, Redis and clients share the replicas' cores: whether a loop is late is not what this is about.
UNHURRIED = {"lag_ms": 5_000}
PATIENCE_S = 15.0
#: A look costs each replica some milliseconds.
LOOKS_S = 0.2

Metrics = Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Sample:
    """What became of a request that was sent `at` (monotonic seconds). Status 0 is no answer."""

    at: float
    seconds: float
    status: int
    replica: int


async def timed(client: Client, question: bytes, replica: int) -> Sample:
    """Ask, and take the time."""
    at = time.monotonic()
    try:
        status = (await client.ask(question)).status
    except Broken:
        status = 0
    return Sample(at, time.monotonic() - at, status, replica)


@dataclass(frozen=True, slots=True)
class Replica:
    """One gateway: its ports, and its process."""

    public: int
    private: int
    child: Child

    def kill(self) -> None:
        """SIGKILL."""
        self.child.kill()

    async def metrics(self) -> Metrics:
        """Each sample of `/metrics`, by its name with its labels, without the common prefix."""
        lines = (await self._private("/metrics")).decode().splitlines()
        pairs = (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
        return {name.removeprefix("chat_gateway_"): float(value) for name, value in pairs}

    async def _private(self, path: str) -> bytes:
        client = Client(HOST, self.private)
        try:
            return (await client.ask(request("GET", HOST, path))).body
        finally:
            client.close()


@dataclass(frozen=True, slots=True)
class Cluster(Stand):
    """A stand with several gateways; `gateway` is the first one's port."""

    replicas: tuple[Replica, ...]

    async def fetches(self, chat: str | None = None) -> int:
        """How often the upstream was asked for infos, of one chat or of all."""
        said = (await self.control("GET", "counts"))["requests"]
        return sum(one["count"] for one in said if one["resource"] == "info" and chat in {None, one["chat"]})

    async def until_all(self, expected: Callable[[Metrics], bool], what: str) -> float:
        """Wait until every living replica's metrics are as expected; the seconds that it took."""
        began = time.monotonic()
        while time.monotonic() < began + PATIENCE_S:
            if all(map(expected, await self._metrics())):
                return time.monotonic() - began
            await asyncio.sleep(LOOKS_S)
        raise AssertionError(f"not within {PATIENCE_S:g} s: {what}")

    async def until_together(self, replicas: int = REPLICAS) -> float:
        """Wait until so many know each other, and miss nothing."""

        def expected(said: Metrics) -> bool:
            return bool(said["shared_up"] and said["shared_whole"]) and said["shared_replicas"] == replicas

        return await self.until_all(expected, f"{replicas} replicas are together")

    async def until_alone(self) -> float:
        """Wait until all have noticed that Redis is gone."""
        return await self.until_all(lambda said: not said["shared_up"], "all are alone")

    async def _metrics(self) -> list[Metrics]:
        living = (one for one in self.replicas if one.child._process.poll() is None)
        return await asyncio.gather(*(one.metrics() for one in living))

    async def shared(self, name: str) -> dict[str, int]:
        """The sum over living replicas of the families that begin with `shared_<name>`, by their labels."""
        sums: dict[str, int] = {}
        for said in await self._metrics():
            for key, value in said.items():
                if key.startswith(f"shared_{name}"):
                    sums[key] = sums.get(key, 0) + int(value)
        return sums


@contextlib.asynccontextmanager
async def cluster(
    folder: Path,
    redis_url: str | None,
    *,
    count: int = REPLICAS,
    clients: str = "",
    **settings: object,
) -> AsyncIterator[Cluster]:
    """An emulator and so many gateways, all listening; `clients` is one more file of policies."""
    upstream, *ports = free_ports(1 + 2 * count)
    said = settings | ({"redis_url": redis_url} if redis_url else {})
    stage = _staged(folder, ports, f"http://{HOST}:{upstream}", clients, said)
    emulating = f"emulator --port {upstream} --latency-ms {UPSTREAM_S * 1000:.0f} --no-agents"
    key = ("--app-key-file", str(stage.config.parent / "app-key"))
    with contextlib.ExitStack() as stack:
        emulator = stack.enter_context(child([*emulating.split(), *key], folder / "emulator.log"))
        replicas = []
        for index, (public, private) in enumerate(_pairs(ports)):
            own = folder / str(index)
            serving = child(["serve", "--config", str(own / "gateway.yaml")], own / "gateway.log")
            replicas.append(Replica(public, private, stack.enter_context(serving)))
        await emulator.listening(upstream)
        for replica in replicas:
            await replica.child.listening(replica.public)
        yield Cluster(ports[0], upstream, stage.token, tuple(replicas))


def _staged(
    folder: Path, ports: Sequence[int], upstream_url: str, clients: str, settings: Mapping[str, object]
) -> Stage:
    """A folder for each replica, which differ in their addresses and their journals."""
    first = folder / "0"
    first.mkdir(parents=True)
    usual = {"edge": ALL_FROM_ONE_PEER, "budget": PLENTY, "overload": UNHURRIED, "drain_delay_s": 0}
    said: dict[str, Any] = {**usual, **settings}
    stage = set_stage(
        first,
        listen=f"{HOST}:{ports[0]}",
        admin_listen=f"{HOST}:{ports[1]}",
        # That of all: only who has the same shares answers.
        public_url=f"http://{HOST}:{ports[0]}",
        upstream_url=upstream_url,
        app_key=APP_KEY,
        **said,
    )
    if clients:
        (first / "policies" / "clients" / "more.yaml").write_text(clients)
    written = yaml.safe_load(stage.config.read_text())
    for index, (public, private) in enumerate(_pairs(ports)):
        if index:
            copytree(first, folder / str(index))
        here = {"listen": f"{HOST}:{public}", "admin_listen": f"{HOST}:{private}"}
        (folder / str(index) / "gateway.yaml").write_text(yaml.safe_dump(written | here))
    return stage


def _pairs(ports: Sequence[int]) -> Iterator[tuple[int, int]]:
    return zip(ports[::2], ports[1::2], strict=True)


def url_of(redis: tuple[str, int]) -> str:
    """What `redis_url` says of a server."""
    host, port = redis
    return f"redis://{host}:{port}/0"


def statuses(samples: Iterable[Sample]) -> dict[str, int]:
    """How many had which status."""
    return dict(Counter(str(one.status) for one in samples))


def p99_ms(samples: Sequence[Sample]) -> float:
    """Of no samples it is infinite: nobody was answered."""
    return _ms(samples, 0.99)


def median_ms(samples: Sequence[Sample]) -> float:
    """As `p99_ms`."""
    return _ms(samples, 0.5)


def _ms(samples: Sequence[Sample], share: float) -> float:
    return round(percentile([one.seconds for one in samples], share) * 1000, 1) if samples else math.inf


def told(figures: dict[str, Any], bounds: Mapping[str, bool]) -> bool:
    """Print one JSON line, with the bounds that did not hold; whether all did."""
    broken = [name for name, held in bounds.items() if not held]
    print(json.dumps(figures | {"ok": not broken, "broken": broken}), flush=True)
    return not broken
