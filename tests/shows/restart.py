"""Twenty restarts under load, behind a balancer, and nothing lost: `python -m tests.shows.restart`.

Two gateways are processes of their own, the vendor is emulated beside the clients. The balancer does what
balancers do and no more: it asks each gateway every 100 ms whether it is ready, gives new requests to those
that are, in turns, over connections that it keeps until a reply says that it is the last. It never tries
again: a request that gets no reply is lost. By turns each gateway gets a SIGTERM, ends, and is started again.

Lost is what has no answer, or another status than a good one; and the vendor must have got each write once.
Prints one JSON line.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from shutil import copytree

import uvloop
import yaml

from gateway.demo.children import Child, free_ports
from gateway.demo.stage import ACCOUNT, Stage, set_stage
from gateway.demo.wire import Broken, Client, Response, request
from gateway.emulator import Emulator, EmulatorConfig, EmulatorServer, serve
from tests.shows.stand import APP_KEY, HOST, UPSTREAM_S, asking, info_path, percentile

RESTARTS = 20
DELAY_S, DRAIN_S = 1, 10
LOOKS_S = 0.1
READERS, FORWARDERS, WRITERS, CHATS = 40, 20, 20, 10
READS_S, OTHERS_S = 0.1, 0.5
#: Under load from both before the first restart, and between two.
CALM_S = 0.5


# -- the balancer --------------------------------------------------------------------------------------


@dataclass
class Backend:
    """A gateway, as the balancer knows it."""

    folder: Path
    public: int
    private: int
    child: Child
    is_ready: bool = False
    kept: list[Client] = field(default_factory=list)

    async def look(self) -> None:
        """Ask whether it is ready."""
        prober = Client(HOST, self.private)
        try:
            self.is_ready = (await prober.ask(request("GET", HOST, "/readyz"))).status == 200
        except Broken:
            self.is_ready = False
        finally:
            prober.close()

    async def ask(self, question: bytes) -> Response:
        """Pass it on. Raises Broken."""
        client = self.kept.pop() if self.kept else Client(HOST, self.public)
        response = await client.ask(question)
        if response.header("connection") == "close":
            client.close()
        else:
            self.kept.append(client)
        return response


class Balancer:
    """Passes requests on to those that are ready, in turns."""

    def __init__(self, backends: list[Backend]) -> None:
        self.backends = backends
        self._turns = cycle(backends)

    async def watch(self) -> None:
        """Look at all, for ever."""
        while True:
            await asyncio.gather(*(backend.look() for backend in self.backends))
            await asyncio.sleep(LOOKS_S)

    async def ask(self, question: bytes) -> Response:
        """Raises Broken where nobody is ready, or who is does not answer."""
        for _ in self.backends:
            backend = next(self._turns)
            if backend.is_ready:
                return await backend.ask(question)
        raise Broken("nobody is ready")


# -- the clients ---------------------------------------------------------------------------------------


@dataclass
class Tally:
    """What the clients saw."""

    over: bool = False
    latencies_s: list[float] = field(default_factory=list)
    answered: Counter[str] = field(default_factory=Counter)
    lost: Counter[str] = field(default_factory=Counter)


async def keep_asking(
    balancer: Balancer, question: bytes, every_s: float, phase: float, tally: Tally
) -> None:
    """One client: it asks on time, or as soon as it has its answer."""
    method = question.split(b" ")[0].decode()
    good = {"GET": 200, "PUT": 201}[method]
    due = time.monotonic() + phase * every_s
    while not tally.over:
        await asyncio.sleep(due - time.monotonic())
        due = max(due + every_s, time.monotonic())
        asked = time.monotonic()
        try:
            response = await balancer.ask(question)
        except Broken as broken:
            tally.lost[f"{method}: {broken}"] += 1
            continue
        tally.latencies_s.append(response.received - asked)
        tally.answered[method] += 1
        if response.status != good:
            tally.lost[f"{method}: {response.status} {response.body[:200]!r}"] += 1


def questions(stage: Stage, emulator: Emulator) -> list[tuple[bytes, float]]:
    """What each client asks, and how often."""
    chats = [emulator.start_chat(ACCOUNT) for _ in range(CHATS)]
    for chat in chats:
        emulator.accept(chat)
    paths = cycle(map(info_path, chats))
    name = json.dumps({"visitorName": "Zoe"}).encode()

    def writing() -> bytes:
        fields = {"Authorization": f"Bearer {stage.token()}"}
        return request("PUT", HOST, f"{next(paths)}/visitorName", fields, name)

    return [
        *((asking(next(paths), stage.token()), READS_S) for _ in range(READERS)),
        *((asking(f"{next(paths)}/agentTyping", stage.token()), OTHERS_S) for _ in range(FORWARDERS)),
        *((writing(), OTHERS_S) for _ in range(WRITERS)),
    ]


# -- the scene -----------------------------------------------------------------------------------------


def start(folder: Path) -> Child:
    return Child(["serve", "--config", str(folder / "gateway.yaml")], folder / "gateway.log")


def set_up(folder: Path, server: EmulatorServer) -> tuple[Stage, list[Backend]]:
    """Two gateways that share all but their addresses and their journals."""
    ports = free_ports(4)
    first, second = folder / "first", folder / "second"
    first.mkdir()
    stage = set_stage(
        first,
        listen=f"{HOST}:{ports[0]}",
        admin_listen=f"{HOST}:{ports[1]}",
        public_url=f"http://{HOST}:{ports[0]}",
        upstream_url=server.url,
        app_key=APP_KEY,
        drain_delay_s=DELAY_S,
        drain_s=DRAIN_S,
        log_level="warning",
    )
    copytree(first, second)
    said = yaml.safe_load(stage.config.read_text())
    said |= {"listen": f"{HOST}:{ports[2]}", "admin_listen": f"{HOST}:{ports[3]}"}
    (second / "gateway.yaml").write_text(yaml.safe_dump(said))
    return stage, [
        Backend(first, ports[0], ports[1], start(first)),
        Backend(second, ports[2], ports[3], start(second)),
    ]


@contextlib.asynccontextmanager
async def behind_a_balancer(backends: list[Backend]) -> AsyncIterator[Balancer]:
    balancer = Balancer(backends)
    watching = asyncio.create_task(balancer.watch())
    try:
        for backend in backends:
            await until_ready(backend)
        yield balancer
    finally:
        watching.cancel()
        for backend in backends:
            backend.child._process.kill()
            backend.child._process.wait()


async def until_ready(backend: Backend) -> None:
    async with asyncio.timeout(15):
        while not backend.is_ready:  # noqa: ASYNC110 - a process of its own
            await asyncio.sleep(0.02)


async def restart(backend: Backend) -> tuple[int, float]:
    """End it, and start it again: its exit code, and how long it took to end."""
    process = backend.child._process
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    code = await asyncio.to_thread(process.wait)
    took_s = time.monotonic() - began
    backend.child = start(backend.folder)
    backend.is_ready = False
    await until_ready(backend)
    return code, took_s


async def main() -> bool:
    emulator = Emulator(EmulatorConfig(app_key=APP_KEY, latency_s=UPSTREAM_S), now=time.time)
    server = await serve(emulator)
    tally = Tally()
    with tempfile.TemporaryDirectory() as name:
        stage, backends = set_up(Path(name), server)
        async with behind_a_balancer(backends) as balancer:
            asked = questions(stage, emulator)
            clients = [
                asyncio.create_task(keep_asking(balancer, question, every_s, index / len(asked), tally))
                for index, (question, every_s) in enumerate(asked)
            ]
            ends = []
            for backend, _ in zip(cycle(backends), range(RESTARTS), strict=False):
                await asyncio.sleep(CALM_S)
                ends.append(await restart(backend))
            tally.over = True
            await asyncio.gather(*clients)
    await server.close()
    written = emulator.counts().total(resource="visitor-name", method="PUT")
    ok = not tally.lost and written == tally.answered["PUT"] and {code for code, _ in ends} == {0}
    print(
        json.dumps(
            {
                "show": "restart",
                "ok": ok,
                "restarts": len(ends),
                "exit_codes": sorted({code for code, _ in ends}),
                "end_s_max": round(max(took_s for _, took_s in ends), 2),
                "requests": sum(tally.answered.values()),
                "answered": tally.answered,
                "lost": tally.lost,
                "writes_at_the_vendor": written,
                "latency_p50_ms": round(percentile(tally.latencies_s, 0.5) * 1000, 3),
                "latency_p99_ms": round(percentile(tally.latencies_s, 0.99) * 1000, 3),
                "latency_max_ms": round(max(tally.latencies_s) * 1000, 3),
            }
        )
    )
    return ok


if __name__ == "__main__":
    sys.exit(not uvloop.run(main()))
