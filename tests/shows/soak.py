"""Ten minutes of everything at once, and nothing left of it: `python -m tests.shows.soak [--seconds N]`.

The gateway is a process of its own, the vendor is emulated beside the clients. Some clients poll, read and
write; others hang up at random, come with bad tokens, send what is no HTTP, are slow with heads and bodies or
do not read. Meanwhile the vendor fails in every way it can, the policies change, have mistakes and are read
again, and tokens are revoked and given back.

Every ten seconds a row: open files, tasks, fetches, requests on the road, resident memory, and what is kept.
Then all stop, and when the last connection has had time to be closed there must be no more files, tasks and
fetches than before the first request. Of memory, which is kept up to bounds that are soon reached, the second
half must be flat: the line through its samples may rise by `MAX_RISE_MB` from end to end. No reply may be a
500, and no line of the log may tell of a crash. The exit code says whether all that holds.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvloop

from gateway.demo.children import free_ports
from gateway.demo.stage import ACCOUNT, Stage, set_stage
from gateway.demo.wire import Broken, Client, request
from gateway.emulator import Drip, Drop, Emulator, EmulatorConfig, Fault, Hang, Reset, Truncate, serve
from tests.shows.stand import APP_KEY, HOST, asking, info_path

SECONDS = 600
EVERY_S = 10.0
#: Idle connections to the vendor are looked for every 15 seconds, and closed when they have been so long.
QUIET_S = 35.0
MAX_RISE_MB = 3.0
CHATS = 20
UPSTREAM_S = 0.05
#: A sane answer, whatever the vendor and the operator do; anything else is a failure of the gateway.
SANE = frozenset({200, 201, 401, 403, 404, 502, 503, 504})
SETTINGS: dict[str, Any] = {
    # All bounds are reached in the first half.
    "cache": {"max_bytes": 1_048_576},
    "memory": {"tokens_bytes": 1_048_576, "grants_bytes": 1_048_576},
    # So that slow ones come and go.
    "edge": {"head_ms": 1_000, "body_ms": 1_000, "idle_ms": 5_000, "send_ms": 1_000},
    "failed_tokens": {"per_minute": 60_000, "burst": 10_000},
    "drain_delay_s": 0,
    "log_level": "info",
}
ENVIRON = {"CHAT_GATEWAY_UPSTREAM__DEADLINE_MS": "1000"}


# -- the gateway ---------------------------------------------------------------------------------------


def serve_watched(config: str, tasks: str) -> None:
    """`chat-gateway serve`, which writes down how many tasks there are whenever it gets a SIGUSR1."""
    from gateway.cli import main  # noqa: PLC0415 - only in the process of the gateway

    def write(*_: object) -> None:
        Path(tasks).write_text(f"{len(asyncio.all_tasks())}\n")

    signal.signal(signal.SIGUSR1, write)
    sys.argv = ["chat-gateway", "serve", "--config", config]
    main()


@dataclass(frozen=True, slots=True)
class Sample:
    """How the gateway stood; `at_s` after the start."""

    at_s: float
    files: int
    tasks: int
    flights: int
    requests: int
    connections: int
    resident_mb: float
    kept_mb: float
    answered: int

    def row(self) -> str:
        return (
            f"{self.at_s:7.0f} {self.files:6} {self.tasks:6} {self.flights:8} {self.requests:9}"
            f" {self.connections:12} {self.resident_mb:12.1f} {self.kept_mb:8.2f} {self.answered:10}"
        )


HEADER = "      s  files  tasks  fetches  on road  connections  resident MB  kept MB   requests"


@dataclass
class Scene:
    """The gateway's process, its files, the vendor, and what the clients saw."""

    folder: Path
    stage: Stage
    emulator: Emulator
    process: subprocess.Popen[bytes]
    public: int
    private: int
    chats: list[str]
    chance: random.Random
    began: float = field(default_factory=time.monotonic)
    over: bool = False
    answered: Counter[str] = field(default_factory=Counter)
    numbers: Iterator[int] = field(default_factory=lambda: iter(range(10**9)))

    async def operator(self, method: str, path: str, said: object = None) -> bytes:
        """One call of the private listener."""
        client = Client(HOST, self.private)
        fields = {"Authorization": f"Bearer {self.stage.admin_token}"}
        body = b"" if said is None else json.dumps(said).encode()
        try:
            return (await client.ask(request(method, HOST, path, fields, body))).body
        finally:
            client.close()

    async def sample(self) -> Sample:
        text = (await self.operator("GET", "/metrics")).decode()
        # Those of the two connections that asked and will be gone are not counted.
        proc = Path(f"/proc/{self.process.pid}")
        files = len(list((proc / "fd").iterdir()))
        pages = int((proc / "statm").read_text().split()[1])
        return Sample(
            time.monotonic() - self.began,
            files,
            await self._tasks(),
            int(_sum(text, "flights")),
            int(_sum(text, "requests_in_progress")),
            int(_sum(text, "connections")),
            pages * os.sysconf("SC_PAGESIZE") / 1e6,
            _sum(text, "kept_bytes") / 1e6,
            self.answered.total(),
        )

    async def _tasks(self) -> int:
        file = self.folder / "tasks"
        file.unlink(missing_ok=True)
        self.process.send_signal(signal.SIGUSR1)
        async with asyncio.timeout(10):
            while not (file.exists() and (said := file.read_text()).endswith("\n")):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        return int(said)

    def chat(self) -> str:
        return self.chance.choice(self.chats)

    def token(self) -> str:
        """One that nobody has had so far."""
        return self.stage.token(jti=str(next(self.numbers)))


def _sum(text: str, family: str) -> float:
    found = re.findall(rf"^chat_gateway_{family}(?:{{[^}}]*}})? (\S+)$", text, re.MULTILINE)
    return sum(map(float, found))


# -- those who behave ----------------------------------------------------------------------------------


async def ask(scene: Scene, kind: str, client: Client, question: bytes) -> None:
    try:
        status = (await client.ask(question)).status
    except Broken as broken:
        scene.answered[f"{kind}: {broken}"] += 1
        return
    scene.answered[f"{kind}: {status}"] += 1


async def poll(scene: Scene, client: Client) -> None:
    """Ten seconds of polls with a token of one's own."""
    question = asking(info_path(scene.chat()), scene.token())
    for _ in range(50):
        await ask(scene, "poll", client, question)
        await asyncio.sleep(0.2)
        if scene.over:
            return


async def read(scene: Scene, client: Client) -> None:
    path = info_path(scene.chat()).removesuffix("/info")
    rest = scene.chance.choice(("/info/agentTyping", "/info/visitorName", "/events"))
    await ask(scene, "read", client, asking(path + rest, scene.token()))
    await asyncio.sleep(0.5)


async def write(scene: Scene, client: Client) -> None:
    fields = {"Authorization": f"Bearer {scene.token()}"}
    body = json.dumps({"visitorName": f"Zoe {next(scene.numbers)}"}).encode()
    await ask(
        scene, "write", client, request("PUT", HOST, f"{info_path(scene.chat())}/visitorName", fields, body)
    )
    await asyncio.sleep(0.5)


# -- those who do not ----------------------------------------------------------------------------------


async def leave(scene: Scene, client: Client) -> None:
    """Ask, and perhaps hang up before the answer."""
    path = info_path(scene.chat()) + scene.chance.choice(("", "/agentTyping"))
    leaving = asyncio.get_running_loop().call_later(scene.chance.uniform(0, 0.1), client.close)
    with contextlib.suppress(Broken):
        await client.ask(asking(path, scene.token()))
    leaving.cancel()


async def forge(scene: Scene, client: Client) -> None:
    """Come with a token that is none, or no longer."""
    good = scene.token()
    bad = scene.chance.choice(
        (
            good[:-8] + "AAAAAAAA",
            good.rpartition(".")[0] + ".",
            scene.stage.token(aud="somebody-else"),
            scene.stage.token("bff", -60),
            "a.b.c",
            f"{scene.chance.getrandbits(4096):x}",
        )
    )
    await ask(scene, "forge", client, asking(info_path(scene.chat()), bad))
    await asyncio.sleep(0.1)


HOSTILE = (
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    b"GET / HTTP/1.1\r\n\r\n",
    b"GET /\x00 HTTP/1.1\r\nHost: x\r\n\r\n",
    b"CONNECT x:443 HTTP/1.1\r\nHost: x\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET / H",
    b"POST /api/account/1/chat HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffff\r\n",
    b"GET / HTTP/1.1\r\nHost: x\r\n" + b"A: b\r\n" * 5_000,
    b"GET /" + b"a" * 100_000,
)


async def attack(scene: Scene, _: Client) -> None:
    """Send what is no request, whole or cut, or what is nothing at all."""
    said = scene.chance.choice((*HOSTILE, scene.chance.randbytes(2_000)))
    await raw(scene, said[: scene.chance.choice((None, scene.chance.randrange(len(said))))])


async def raw(scene: Scene, *pieces: bytes, every_s: float = 0.0, reads: bool = True) -> None:
    """A connection on which these are sent; then wait until the gateway has had enough."""
    # RuntimeError is what uvloop says where the gateway has hung up already.
    with contextlib.suppress(OSError, TimeoutError, RuntimeError):
        reader, writer = await asyncio.open_connection(HOST, scene.public)
        try:
            async with asyncio.timeout(8):
                for piece in pieces:
                    writer.write(piece)
                    await asyncio.sleep(every_s)
                if reads:
                    await reader.read()
                else:
                    await asyncio.sleep(3)
        finally:
            writer.transport.abort()
    await asyncio.sleep(0.05)


async def drip_a_head(scene: Scene, _: Client) -> None:
    question = asking(info_path(scene.chat()), scene.token())
    await raw(scene, *(question[at : at + 5] for at in range(0, 50, 5)), every_s=0.3)


async def drip_a_body(scene: Scene, _: Client) -> None:
    fields = {"Authorization": f"Bearer {scene.token()}"}
    body = json.dumps({"visitorName": "Zoe" * 20}).encode()
    question = request("PUT", HOST, f"{info_path(scene.chat())}/visitorName", fields, body)
    head = question[: -len(body)]
    await raw(scene, head, *(body[at : at + 1] for at in range(10)), every_s=0.3)


async def read_nothing(scene: Scene, _: Client) -> None:
    await raw(scene, asking(info_path(scene.chat()), scene.token()) * 16, reads=False)


# -- what happens to the gateway -----------------------------------------------------------------------


async def fail(scene: Scene, _: Client) -> None:
    """The vendor, at its worst."""
    faults = (
        Fault(status=503),
        Fault(status=500),
        Fault(status=429, retry_after="1"),
        Fault(delay_s=0.5),
        Fault(delivery=Hang()),
        Fault(delivery=Drop()),
        Fault(delivery=Reset(50)),
        Fault(delivery=Truncate(100)),
        Fault(delivery=Drip(10, 0.01)),
        Fault(gzip=True),
        Fault(content_type="text/html"),
    )
    scene.emulator.fail(scene.chance.choice(faults))
    await asyncio.sleep(scene.chance.uniform(0.1, 1.0))


async def change(scene: Scene, _: Client) -> None:
    """Change the policies, or break them for a moment."""
    path = scene.folder / "policies" / "clients" / "partner.yaml"
    text = path.read_text()
    for old, new in (("deny: [exitSurvey]", "deny: [exitSurvey, events]"), ("allow: [", "alow: [")):
        path.write_text(text.replace(old, new))
        await scene.operator("POST", "/reload", {})
        path.write_text(text)
        scene.process.send_signal(signal.SIGHUP)
        await asyncio.sleep(1.0)


async def revoke(scene: Scene, client: Client) -> None:
    """A token that is in use, and then not, and is again."""
    jti = f"revoked-{scene.chance.randrange(10)}"
    question = asking(info_path(scene.chat()), scene.stage.token("bff", jti=jti))
    await ask(scene, "revoked", client, question)
    await scene.operator("POST", "/revocations", {"jti": jti})
    await ask(scene, "revoked", client, question)
    await scene.operator("POST", "/revocations", {"jti": jti, "withdrawn": True})
    await asyncio.sleep(0.5)


ACTORS: dict[Callable[[Scene, Client], Awaitable[None]], int] = {
    poll: 40,
    read: 10,
    write: 10,
    leave: 5,
    forge: 3,
    attack: 4,
    drip_a_head: 5,
    drip_a_body: 5,
    read_nothing: 3,
    fail: 1,
    change: 1,
    revoke: 1,
}


async def act(scene: Scene, actor: Callable[[Scene, Client], Awaitable[None]]) -> None:
    """Do it until all is over, mostly on one connection."""
    client = Client(HOST, scene.public)
    while not scene.over:
        await actor(scene, client)
        if scene.chance.random() < 0.02:
            client.close()
    client.close()


# -- the show ------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def set_scene() -> AsyncIterator[Scene]:
    public, private = free_ports(2)
    emulator = Emulator(
        EmulatorConfig(app_key=APP_KEY, latency_s=UPSTREAM_S, chat_timeout_s=86_400), now=time.time
    )
    server = await serve(emulator)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        stage = set_stage(
            folder,
            listen=f"{HOST}:{public}",
            admin_listen=f"{HOST}:{private}",
            public_url=f"http://{HOST}:{public}",
            upstream_url=server.url,
            app_key=APP_KEY,
            **SETTINGS,
        )
        command = [sys.executable, "-m", __spec__.name, "--serve", str(stage.config), str(folder / "tasks")]
        with (
            (folder / "log").open("wb") as log,
            subprocess.Popen(command, stderr=log, env=os.environ | ENVIRON) as process,  # noqa: S603, ASYNC220 - ours
        ):
            try:
                chats = [emulator.start_chat(ACCOUNT) for _ in range(CHATS)]
                for chat in chats:
                    emulator.accept(chat)
                scene = Scene(folder, stage, emulator, process, public, private, chats, random.Random(1))
                await ready(scene)
                yield scene
            finally:
                process.kill()
        await server.close()


async def ready(scene: Scene) -> None:
    async with asyncio.timeout(15):
        while True:
            with contextlib.suppress(Broken):
                if b"true" in await scene.operator("GET", "/readyz"):
                    return
            await asyncio.sleep(0.05)


async def play(scene: Scene, seconds: float) -> list[Sample]:
    """The samples: before, during, and when all has been quiet for a while."""
    samples = [await scene.sample()]
    scene.began = time.monotonic()
    actors = [asyncio.create_task(act(scene, actor)) for actor, many in ACTORS.items() for _ in range(many)]
    print(HEADER, samples[0].row(), sep="\n", flush=True)
    while (left_s := scene.began + seconds - time.monotonic()) > 0:
        await asyncio.sleep(min(EVERY_S, left_s))
        samples.append(await scene.sample())
        print(samples[-1].row(), flush=True)
    scene.over = True
    await asyncio.gather(*actors)
    scene.emulator.clear_faults()
    await asyncio.sleep(QUIET_S)
    samples.append(await scene.sample())
    print(samples[-1].row(), flush=True)
    return samples


def rise_mb(samples: list[Sample]) -> float:
    """By how much the straight line through the samples' memory rises, from the first to the last."""
    if len(samples) < 2:
        return 0.0
    times = [sample.at_s for sample in samples]
    slope, _ = statistics.linear_regression(times, [sample.resident_mb for sample in samples])
    return slope * (times[-1] - times[0])


def faults_of(scene: Scene, samples: list[Sample], exit_code: int) -> list[str]:
    """What does not hold."""
    before, *during, after = samples
    log = (scene.folder / "log").read_text(errors="replace")
    rise = rise_mb(during[len(during) // 2 :])
    wrong = [
        f"{name}: {then} before, {now} after"
        for name in ("files", "tasks", "flights", "requests", "connections")
        if (now := getattr(after, name)) > (then := getattr(before, name))
    ]
    wrong += [f"{many} times {what}" for what, many in scene.answered.items() if not _is_sane(what)]
    wrong += [word for word in ("Traceback", '"crashed"', '"event": "server"') if word in log]
    if rise > MAX_RISE_MB:
        wrong.append(f"memory rose by {rise:.1f} MB in the second half, more than {MAX_RISE_MB}")
    if exit_code:
        wrong.append(f"exit code {exit_code}")
    print(f"\nmemory rose by {rise:.2f} MB in the second half; at most {MAX_RISE_MB} are allowed")
    return wrong


def _is_sane(what: str) -> bool:
    said = what.partition(": ")[2]
    return said.isdigit() and int(said) in SANE


async def main(seconds: float) -> bool:
    async with set_scene() as scene:
        samples = await play(scene, seconds)
        scene.process.send_signal(signal.SIGTERM)
        exit_code = await asyncio.to_thread(scene.process.wait)
        wrong = faults_of(scene, samples, exit_code)
    print("\n".join(f"{many:9} {what}" for what, many in sorted(scene.answered.items())))
    print("\n".join(wrong) if wrong else "\nok: nothing is left of it")
    return not wrong


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Everything at once, for a while.")
    parser.add_argument("--seconds", type=float, default=SECONDS)
    parser.add_argument("--serve", nargs=2, help=argparse.SUPPRESS)
    said = parser.parse_args()
    if said.serve:
        serve_watched(*said.serve)
    else:
        sys.exit(not uvloop.run(main(said.seconds)))
