"""Streams instead of polls, by real processes: `python -m tests.shows.streams`, or some of them by name.

    crowd     1,000 streams of one chat whose info changes twice a second, TTL 1 s: what the upstream is
              asked, and how long after a poll each reader has what it brought
    restart   200 streams of info and events each, the gateway ends and another begins on its address, three
              times: every line once and in order, and the newest info
    expiry    200 tokens that expire within the next seconds: how long their streams outlive them
    life      a chat that nobody but streams asks for: alive while one watches, asked for by nobody after,
              dead on time
    silence   the only reader's network goes away without a word: how long it counts as one. It takes root and
              a network namespace, in which the reader is

The vendor is emulated beside the clients, the gateway is a process of its own. Prints a JSON line for each.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import uvloop

from gateway.demo.children import Child, free_ports
from gateway.demo.following import Message, following
from gateway.demo.stage import ACCOUNT, Stage, set_stage
from gateway.emulator import Emulator, EmulatorConfig, EmulatorRequest, EmulatorServer, serve
from tests.shows.following import Reader
from tests.shows.stand import ALL_FROM_ONE_PEER, APP_KEY, HOST, info_path, percentile

LATENCY_S = 0.05
READERS, SECONDS, CHANGE_S = 1_000, 30.0, 0.5
MAX_UPSTREAM_A_SECOND, MAX_DELAY_MS = 1.2, 100.0
RESTARTS, FEW, LINE_S = 3, 200, 0.1
MAX_OUTLIVED_S = 1.0
CHAT_TIMEOUT_S = 40.0
#: How long after the last poll of a chat it may still be alive: a look of ours, and the last poll's own time.
MAX_LATE_S = 2.0
#: `push.heartbeat_ms`, and twice `push.send_ms`.
MAX_SILENCE_S = 15.0

_NAME = re.compile(rb'"visitorName": *"([^"]+)"')
_ASKED = re.compile(rb'"lastUpdate": *"([^"]+)"')


@dataclass
class Scene:
    """A gateway that can be started again, and its vendor."""

    folder: Path
    stage: Stage
    emulator: Emulator
    port: int
    gateway: Child

    def chat(self, **fields: float) -> str:
        chat = self.emulator.start_chat(ACCOUNT, **fields)
        self.emulator.accept(chat)
        return chat

    def rename(self, chat: str, name: str) -> None:
        """As the visitor does it somewhere else."""
        fields = (
            (b"authorization", b"LivePerson appKey=" + APP_KEY.encode()),
            (b"content-type", b"application/json"),
        )
        target = f"{info_path(chat)}/visitorName?v=1&NC=true".encode()
        override = (b"x-http-method-override", b"PUT")
        body = json.dumps({"visitorName": name}).encode()
        answer = self.emulator.handle(EmulatorRequest("POST", target, (*fields, override), body))
        assert answer.status == 201, answer

    def polls(self, chat: str, resource: str = "info") -> int:
        return self.emulator.counts().total(resource=resource, chat=chat, method="GET")

    def readers(self, path: str, count: int, **token: float) -> list[Reader]:
        made = (self.stage.token(jti=str(index), **token) for index in range(count))  # type: ignore[arg-type]
        return [Reader(self.port, path, token) for token in made]

    async def restart(self) -> None:
        self.gateway._process.send_signal(signal.SIGTERM)
        await asyncio.to_thread(self.gateway._process.wait)
        self.gateway = start(self.folder)
        await self.gateway.listening(self.port)


def start(folder: Path) -> Child:
    return Child(["serve", "--config", str(folder / "gateway.yaml")], folder / "gateway.log")


@contextlib.asynccontextmanager
async def scene(host: str = HOST) -> AsyncIterator[Scene]:
    emulator = Emulator(
        EmulatorConfig(app_key=APP_KEY, accounts=(ACCOUNT,), latency_s=LATENCY_S), now=time.time
    )
    server: EmulatorServer = await serve(emulator)
    public, private = free_ports(2)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        stage = set_stage(
            folder,
            listen=f"{host}:{public}",
            admin_listen=f"{HOST}:{private}",
            public_url=f"http://{HOST}:{public}",
            upstream_url=server.url,
            app_key=APP_KEY,
            edge=ALL_FROM_ONE_PEER,
            drain_delay_s=0,
        )
        client = folder / "policies" / "clients" / "bff.yaml"
        client.write_text(
            client.read_text().replace(
                "    priority: high\n", "    priority: high\n    limits: {streams: 5000}\n"
            )
        )
        stood = Scene(folder, stage, emulator, public, start(folder))
        try:
            await stood.gateway.listening(private)
            yield stood
        finally:
            stood.gateway.stop()
            await server.close()


@contextlib.asynccontextmanager
async def reading(readers: list[Reader]) -> AsyncIterator[None]:
    """All of them follow, each beginning with one message."""
    tasks = [asyncio.create_task(reader.run()) for reader in readers]
    try:
        async with asyncio.timeout(30):
            while not all(reader.messages for reader in readers):  # noqa: ASYNC110 - their own tasks
                await asyncio.sleep(0.05)
        yield
    finally:
        for reader in readers:
            reader.leave()
        await asyncio.gather(*tasks)


def asked_at(message: Message) -> float:
    """When the emulator got the request that brought this."""
    found = _ASKED.search(message.data)
    assert found, message.data
    return datetime.fromisoformat(found[1].decode()).timestamp()


def name_of(message: Message) -> str:
    found = _NAME.search(message.data)
    assert found, message.data
    return found[1].decode()


def told(show: str, *, ok: bool, **figures: object) -> bool:
    print(json.dumps({"show": f"streams {show}", "ok": ok, **figures}), flush=True)
    return ok


async def crowd() -> bool:
    async with scene() as stood:
        chat = stood.chat()
        readers = stood.readers(info_path(chat), READERS)
        async with reading(readers):
            names = (f"visitor-{number}" for number in itertools.count())
            polls, began = stood.polls(chat), time.time()
            while time.time() < began + SECONDS:
                stood.rename(chat, next(names))
                await asyncio.sleep(CHANGE_S)
            polls, took_s = stood.polls(chat) - polls, time.time() - began
            # What was asked for last has come to all.
            await asyncio.sleep(0.5)
        sequences = {tuple(name_of(one) for one in reader.messages if one.at > began) for reader in readers}
        delays_ms = [
            (one.at - asked_at(one) - LATENCY_S) * 1000
            for reader in readers
            for one in reader.messages
            if one.at > began
        ]
        upstream = polls / took_s
        p99_ms = percentile(delays_ms, 0.99)
        return told(
            "crowd",
            ok=upstream <= MAX_UPSTREAM_A_SECOND and p99_ms <= MAX_DELAY_MS and len(sequences) == 1,
            readers=READERS,
            seconds=round(took_s, 1),
            upstream_requests=polls,
            upstream_a_second=round(upstream, 3),
            messages=len(delays_ms),
            changes_told=[len(sequence) for sequence in sequences],
            delay_p50_ms=round(percentile(delays_ms, 0.5), 1),
            delay_p99_ms=round(p99_ms, 1),
            delay_max_ms=round(max(delays_ms), 1),
        )


async def restart() -> bool:
    async with scene() as stood:
        chat = stood.chat()
        infos = stood.readers(info_path(chat), FEW)
        events = stood.readers(info_path(chat).replace("/info", "/events"), FEW)
        lines, over = 0, False

        async def talk() -> None:
            nonlocal lines
            while not over:
                stood.emulator.agent_line(chat, f"line {lines}")
                stood.rename(chat, f"visitor-{lines}")
                lines += 1
                await asyncio.sleep(LINE_S)

        async with reading([*infos, *events]):
            talking = asyncio.create_task(talk())
            for _ in range(RESTARTS):
                await asyncio.sleep(2)
                await stood.restart()
            await asyncio.sleep(5)
            over = True
            await talking
            await asyncio.sleep(3)
        expected = [f"line {number}" for number in range(lines)]
        heard = Counter(tuple(lines_of(reader)) for reader in events)
        newest = Counter(
            name_of([one for one in reader.messages if one.kind == "info"][-1]) for reader in infos
        )
        return told(
            "restart",
            ok=heard == {tuple(expected): FEW} and newest == {f"visitor-{lines - 1}": FEW},
            restarts=RESTARTS,
            readers=2 * FEW,
            lines=lines,
            readers_with_each_line_once_in_order=heard[tuple(expected)],
            readers_with_the_newest_info=newest[f"visitor-{lines - 1}"],
            streams_opened=sum(len(reader.statuses) for reader in (*infos, *events)),
            closed=Counter(
                json.loads(one.data).get("type", "").rpartition(":")[2]
                for reader in (*infos, *events)
                for one in reader.messages
                if one.kind == "closed"
            ),
        )


def lines_of(reader: Reader) -> list[str]:
    events = (json.loads(one.data) for one in reader.messages if one.kind == "event")
    return [event["text"] for event in events if str(event.get("text", "")).startswith("line ")]


async def expiry() -> bool:
    async with scene() as stood:
        chat = stood.chat()
        lifetimes = [3 + index % 4 for index in range(FEW)]
        outlived_s: list[float] = []
        readers = [
            reader
            for lifetime in lifetimes
            for reader in stood.readers(info_path(chat), 1, lifetime_s=lifetime)
        ]
        # Whole seconds, as tokens have them.
        ends = [int(time.time() + lifetime) for lifetime in lifetimes]

        async def watch(reader: Reader, end: float) -> None:
            assert reader.follower is not None
            await reader.follower.ended
            outlived_s.append(time.time() - end)

        async with reading(readers):
            number = itertools.count()
            watching = asyncio.gather(*(watch(*pair) for pair in zip(readers, ends, strict=True)))
            while not watching.done():
                stood.rename(chat, f"visitor-{next(number)}")
                await asyncio.sleep(0.1)
            last = [max(one.at for one in reader.messages if one.kind == "info") for reader in readers]
            reasons = Counter(
                json.loads(one.data)["type"].rpartition(":")[2]
                for reader in readers
                for one in reader.messages
                if one.kind == "closed"
            )
        told_late_s = max(at - end for at, end in zip(last, ends, strict=True))
        return told(
            "expiry",
            ok=max(outlived_s) <= MAX_OUTLIVED_S and told_late_s <= 0.05,
            readers=len(readers),
            outlived_s_p50=round(percentile(outlived_s, 0.5), 3),
            outlived_s_max=round(max(outlived_s), 3),
            newest_info_after_expiry_s=round(told_late_s, 3),
            reasons=reasons,
        )


async def life() -> bool:
    async with scene() as stood:
        chat = stood.chat(interactionTimeout=int(CHAT_TIMEOUT_S))
        async with reading(stood.readers(info_path(chat), 3)):
            await asyncio.sleep(CHAT_TIMEOUT_S * 1.5)
            alive = stood.emulator.chat(chat).state
            rate = stood.polls(chat) / (CHAT_TIMEOUT_S * 1.5)
        left_at = time.time()
        before = stood.polls(chat)
        latest = left_at + CHAT_TIMEOUT_S + 15
        while not stood.emulator.chat_states()["ended"] and time.time() < latest:  # noqa: ASYNC110 - a clock
            await asyncio.sleep(0.1)
        died_s = time.time() - left_at
        asked = stood.polls(chat) - before
        ok = alive == "chatting" and asked <= 1 and died_s <= CHAT_TIMEOUT_S + MAX_LATE_S
        return told(
            "life",
            ok=ok,
            streamed_s=CHAT_TIMEOUT_S * 1.5,
            state_then=alive,
            polls_a_second=round(rate, 3),
            asked_after_the_last_left=asked,
            died_s_after_the_last_left=round(died_s, 1),
        )


#: The reader's world, and the addresses of the two ends of the only way out of it.
ELSEWHERE, HERE_END, THERE_END = "chat-gateway-show", "169.254.203.1", "169.254.203.2"
READER = """
import socket, sys
with socket.create_connection((sys.argv[1], int(sys.argv[2]))) as connection:
    connection.sendall(bytes.fromhex(sys.argv[3]))
    while data := connection.recv(65536):
        print(len(data), flush=True)
"""


@contextlib.contextmanager
def elsewhere() -> Iterator[None]:
    """Another network, as far as the system is concerned, with one way here."""
    run("ip", "netns", "add", ELSEWHERE)
    try:
        run(
            "ip", "link", "add", "show-here", "type", "veth", "peer", "name", "show-there", "netns", ELSEWHERE
        )
        run("ip", "address", "add", f"{HERE_END}/30", "dev", "show-here")
        run("ip", "link", "set", "show-here", "up")
        run("ip", "-n", ELSEWHERE, "address", "add", f"{THERE_END}/30", "dev", "show-there")
        run("ip", "-n", ELSEWHERE, "link", "set", "show-there", "up")
        yield
    finally:
        run("ip", "netns", "del", ELSEWHERE)


def run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)  # noqa: S603 - our own words


async def silence() -> bool:
    with elsewhere():
        async with scene(HERE_END) as stood:
            chat = stood.chat(interactionTimeout=int(CHAT_TIMEOUT_S))
            question = following(HERE_END, info_path(chat), stood.stage.token())
            command = ["ip", "netns", "exec", ELSEWHERE, sys.executable, "-c", READER]
            reader = await asyncio.create_subprocess_exec(
                *command, HERE_END, str(stood.port), question.hex(), stdout=asyncio.subprocess.PIPE
            )
            assert reader.stdout is not None
            await reader.stdout.readline()
            await asyncio.sleep(10)
            assert stood.polls(chat) >= 9
            run("ip", "link", "set", "show-here", "down")
            silent_at = polled_at = time.time()
            polls = stood.polls(chat)
            while not stood.emulator.chat_states()["ended"] and time.time() < silent_at + CHAT_TIMEOUT_S + 30:
                await asyncio.sleep(0.05)
                if stood.polls(chat) != polls:
                    polls, polled_at = stood.polls(chat), time.time()
            died_s = time.time() - silent_at
            reader.kill()
            await reader.wait()
    counted_s = polled_at - silent_at
    return told(
        "silence",
        ok=counted_s <= MAX_SILENCE_S and died_s <= counted_s + CHAT_TIMEOUT_S + MAX_LATE_S,
        last_poll_s_after_the_silence=round(counted_s, 1),
        died_s_after_the_silence=round(died_s, 1),
    )


SHOWS = {"crowd": crowd, "restart": restart, "expiry": expiry, "life": life, "silence": silence}


async def main(names: list[str]) -> bool:
    return all([await SHOWS[name]() for name in names or SHOWS])


if __name__ == "__main__":
    sys.exit(not uvloop.run(main(sys.argv[1:])))
