"""Hundreds of clients while everything is changed under them: `python -m tests.shows.reload`.

The gateway is a process of its own; the vendor is emulated beside the clients, where its keys can be
changed. Quiet rounds and restless ones take turns. In a restless one something happens several times a
second, by POST /reload, by SIGHUP and by the poll: the policies change, a policy file has a mistake, a key
file gets a key or is cut short, and the appKey is rotated as operators should do it: the vendor takes both
keys, the new one goes first, and a little later the vendor drops the old one. No request may fail.

Last come switches without any notice: the vendor drops the first key while the gateway knows the next one.
Reads try both, so none may fail. A write whose key is refused is never sent again, so until a read has found
out writes are answered 502 `key-refused`; they are counted apart, and are no failure of the show.

Prints one JSON line.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from typing import Any

import uvloop

from gateway.demo.children import Child, child, free_ports
from gateway.demo.stage import ACCOUNT, Stage, set_stage
from gateway.demo.wire import Broken, Client, request
from gateway.emulator import Emulator, EmulatorConfig, serve
from gateway.identity.development import new_key
from tests.shows.stand import HOST, UPSTREAM_S, asking, percentile

POLLERS, WRITERS, FORWARDERS, CHATS = 300, 30, 30, 40
EVERY_S = 1.0
ROUNDS, ROUND_S = 4, 5.0
#: Between two changes. The poll, too, looks once a second.
PAUSE_S = 0.1
#: How long the vendor takes both keys after all that was asked before has been answered: fetches that nobody
#: waits for have to arrive, too.
BOTH_S = 0.5
SUDDEN_S = 10.0
#: No read can stand a second switch between its two tries; and some clients ask only once a second.
SWITCH_EVERY_S = 1.5
FIRST = "f1r57000000000000000000000000001"


@dataclass
class Round:
    """What the clients saw of one."""

    latencies_s: list[float] = field(default_factory=list)
    #: Of those that asked the vendor nothing.
    hits_s: list[float] = field(default_factory=list)
    answered: Counter[tuple[str, int]] = field(default_factory=Counter)
    #: By what came instead of an answer, or of a good one.
    failed: Counter[str] = field(default_factory=Counter)
    changes: Counter[str] = field(default_factory=Counter)


@dataclass
class Scene:
    """The gateway's process, its files, the vendor, and what is measured now."""

    folder: Path
    stage: Stage
    emulator: Emulator
    gateway: Child
    public: int
    private: int
    round: Round = field(default_factory=Round)
    over: bool = False
    #: How many keys the vendor has made.
    keys: int = 0
    #: Since when each client waits that does.
    asked: dict[int, float] = field(default_factory=dict)

    async def all_answered(self) -> None:
        """Wait for all that is asked now."""
        now = time.monotonic()
        while any(asked <= now for asked in self.asked.values()):  # noqa: ASYNC110 - hundreds would tell
            await asyncio.sleep(0.01)
        await asyncio.sleep(BOTH_S)

    async def operator(self, method: str, path: str) -> tuple[int, Any]:
        """One call of the private listener."""
        client = Client(HOST, self.private)
        fields = {"Authorization": f"Bearer {self.stage.admin_token}"}
        body = b"{}" if method == "POST" else b""
        try:
            response = await client.ask(request(method, HOST, path, fields, body))
        finally:
            client.close()
        return response.status, json.loads(response.body)

    async def reload(self, expected: int = 200) -> None:
        """POST /reload; what it says is as important as that nobody notices."""
        status, said = await self.operator("POST", "/reload")
        self.round.changes["reloads" if status == 200 else "mistakes"] += 1
        if status != expected:
            self.round.failed[f"reload: {status} {said}"] += 1

    def hang_up(self) -> None:
        """SIGHUP."""
        self.gateway._process.send_signal(signal.SIGHUP)
        self.round.changes["hangups"] += 1

    @contextlib.contextmanager
    def changed(self, file: str, old: str, new: str) -> Any:
        """A file with something else in it, while the block runs."""
        path = self.folder / file
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))
        try:
            yield
        finally:
            path.write_text(text)


# -- what happens in a restless round ------------------------------------------------------------------


async def change_policies(scene: Scene) -> None:
    with scene.changed("policies/clients/partner.yaml", "deny: [exitSurvey]", "deny: [exitSurvey, events]"):
        await scene.reload()
    scene.hang_up()


async def make_a_mistake(scene: Scene) -> None:
    with scene.changed("policies/clients/bff.yaml", "allow: [", "alow: ["):
        await scene.reload(409)
        scene.hang_up()
    await scene.reload()


async def cut_a_key_file_short(scene: Scene) -> None:
    with scene.changed("jwks.json", "}", ""):
        await scene.reload(409)
    await scene.reload()


async def add_a_key(scene: Scene) -> None:
    """And let it go again; the key of the clients stays."""
    path = scene.folder / "jwks.json"
    before = path.read_text()
    [added] = json.loads(new_key("ES256")[1])["keys"]
    path.write_text(json.dumps({"keys": [*json.loads(before)["keys"], added]}))
    await scene.reload()
    path.write_text(before)
    scene.hang_up()


async def rotate(scene: Scene) -> None:
    """To a new appKey, as operators should do it."""
    [old] = scene.emulator.app_keys
    scene.keys += 1
    new = f"{FIRST[:-6]}{scene.keys:06}"
    scene.emulator.app_keys = (old, new)
    (scene.folder / "app-key").write_text(new)
    (scene.folder / "next-key").write_text(old)
    await scene.reload()
    await scene.all_answered()
    scene.emulator.app_keys = (new,)
    scene.round.changes["rotations"] += 1


CHANGES: tuple[Callable[[Scene], Awaitable[None]], ...] = (
    change_policies,
    rotate,
    make_a_mistake,
    cut_a_key_file_short,
    rotate,
    add_a_key,
)


async def rest(scene: Scene, seconds: float) -> None:
    del scene
    await asyncio.sleep(seconds)


async def be_restless(scene: Scene, seconds: float) -> None:
    end = time.monotonic() + seconds
    for change in cycle(CHANGES):
        await change(scene)
        if time.monotonic() > end:
            return
        await asyncio.sleep(PAUSE_S)


async def switch_suddenly(scene: Scene, seconds: float) -> None:
    """The vendor drops the key that goes first, again and again; both are in the gateway's files."""
    [one] = scene.emulator.app_keys
    other = FIRST
    (scene.folder / "app-key").write_text(one)
    (scene.folder / "next-key").write_text(other)
    await scene.reload()
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        one, other = other, one
        scene.emulator.app_keys = (one,)
        scene.round.changes["switches"] += 1
        await asyncio.sleep(SWITCH_EVERY_S)
        await scene.all_answered()


# -- the clients ---------------------------------------------------------------------------------------


async def ask_on(scene: Scene, number: int, question: bytes, phase: float, began: float) -> None:
    """One client, once a second until all is over."""
    client = Client(HOST, scene.public)
    method = question.split(b" ")[0].decode()
    good = {"GET": 200, "PUT": 201}[method]
    second = 0
    while not scene.over:
        await asyncio.sleep(began + phase + EVERY_S * second - time.monotonic())
        second += 1
        asked = scene.asked[number] = time.monotonic()
        now = scene.round
        try:
            response = await client.ask(question)
        except Broken as broken:
            now.failed[f"{method}: {broken}"] += 1
            continue
        finally:
            del scene.asked[number]
        now.latencies_s.append(response.received - asked)
        if "hit" in response.header("cache-status"):
            now.hits_s.append(response.received - asked)
        now.answered[method, response.status] += 1
        if response.status != good:
            now.failed[f"{method}: {response.status} {json.loads(response.body).get('type')}"] += 1
    client.close()


def questions(scene: Scene) -> list[bytes]:
    """What each client asks."""
    chats = []
    for _ in range(CHATS):
        chats.append(scene.emulator.start_chat(ACCOUNT))
        scene.emulator.accept(chats[-1])
    chat = cycle(f"/api/account/{ACCOUNT}/chat/{chat}" for chat in chats)
    name = json.dumps({"visitorName": "Zoe"}).encode()

    def writing() -> bytes:
        fields = {"Authorization": f"Bearer {scene.stage.token()}"}
        return request("PUT", HOST, f"{next(chat)}/info/visitorName", fields, name)

    return [
        *(asking(f"{next(chat)}/info", scene.stage.token()) for _ in range(POLLERS)),
        *(asking(f"{next(chat)}/info/agentTyping", scene.stage.token()) for _ in range(FORWARDERS)),
        *(writing() for _ in range(WRITERS)),
    ]


@contextlib.asynccontextmanager
async def set_scene() -> AsyncIterator[Scene]:
    public, private = free_ports(2)
    emulator = Emulator(EmulatorConfig(app_key=FIRST, latency_s=UPSTREAM_S), now=time.time)
    server = await serve(emulator)
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as children:
        folder = Path(name)
        (folder / "next-key").write_text("not-known-yet")
        key_files = {"app_key_file": "app-key", "next_app_key_file": "next-key"}
        stage = set_stage(
            folder,
            listen=f"{HOST}:{public}",
            admin_listen=f"{HOST}:{private}",
            public_url=f"http://{HOST}:{public}",
            upstream_url=server.url,
            app_key=FIRST,
            accounts={ACCOUNT: {"upstream": server.url, **key_files}},
            # Room for a second try with the other key.
            budget={"per_second": 1000, "burst": 500, "in_flight": 500},
            reload_s=1,
            log_level="error",
        )
        gateway = children.enter_context(
            child(["serve", "--config", str(stage.config)], folder / "gateway.log")
        )
        await gateway.listening(public)
        try:
            yield Scene(folder, stage, emulator, gateway, public, private)
        finally:
            await server.close()


async def act(scene: Scene, what: Callable[[Scene, float], Awaitable[None]], seconds: float) -> Round:
    """One round, and what the clients saw of it."""
    scene.round = now = Round()
    await what(scene, seconds)
    await scene.all_answered()
    return now


async def play(scene: Scene) -> tuple[list[Round], list[Round], Round]:
    asked = questions(scene)
    began = time.monotonic() + 0.5
    crowd = [
        asyncio.create_task(ask_on(scene, index, question, EVERY_S * index / len(asked), began))
        for index, question in enumerate(asked)
    ]
    await act(scene, rest, 1 + EVERY_S)  # cold
    quiet, restless = [], []
    for _ in range(ROUNDS):
        quiet.append(await act(scene, rest, ROUND_S))
        restless.append(await act(scene, be_restless, ROUND_S))
    sudden = await act(scene, switch_suddenly, SUDDEN_S)
    scene.over = True
    await asyncio.gather(*crowd)
    return quiet, restless, sudden


def shown(rounds: list[Round]) -> dict[str, object]:
    latencies = [latency for one in rounds for latency in one.latencies_s]
    changes = sum((one.changes for one in rounds), Counter[str]())
    return {
        "requests": len(latencies),
        "failed": sum((one.failed for one in rounds), Counter[str]()),
        "latency_p50_ms": round(percentile(latencies, 0.5) * 1000, 3),
        "latency_p99_ms": _median_p99_ms([one.latencies_s for one in rounds]),
        "latency_max_ms": round(max(latencies) * 1000, 3),
        "hits_p99_ms": _median_p99_ms([one.hits_s for one in rounds]),
        **({"changes": changes} if changes else {}),
    }


def _median_p99_ms(rounds: list[list[float]]) -> float:
    return round(statistics.median(percentile(one, 0.99) for one in rounds) * 1000, 3)


async def main() -> bool:
    async with set_scene() as scene:
        quiet, restless, sudden = await play(scene)
        status, said = await scene.operator("GET", "/readyz?verbose")
        log = scene.gateway.log.read_text()
    refused_writes = sum(count for what, count in sudden.failed.items() if "PUT: 502" in what)
    ok = (
        not any(one.failed for one in (*quiet, *restless))
        and sudden.failed.total() == refused_writes
        and (status, said["reload"]["ok"]) == (200, True)
        and all({"reloads", "mistakes", "rotations"} <= one.changes.keys() for one in restless)
        and '"crashed"' not in log
    )
    print(
        json.dumps(
            {
                "show": "reload",
                "clients": POLLERS + WRITERS + FORWARDERS,
                "ok": ok,
                "quiet": shown(quiet),
                "restless": shown(restless),
                "sudden": {**shown([sudden]), "writes_refused": refused_writes},
            }
        )
    )
    return ok


if __name__ == "__main__":
    sys.exit(not uvloop.run(main()))
