"""Clients that are slow on purpose, and what others notice of them: `python -m tests.shows.slow`.

200 slow heads, 200 slow bodies and 200 readers that don't read, all at once; of each half stall and half
drip. The gateway's own process is asked which of their connections it still holds. Meanwhile good clients
poll what is fresh and read what is only forwarded. Rounds with and without slow clients are interleaved. Good
and slow clients are processes of their own. Prints one JSON line; latencies are medians of the rounds,
counted from when a request was due.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import statistics
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvloop

from gateway.demo.stage import ACCOUNT
from gateway.demo.wire import Broken, Client, request
from tests.shows.stand import HOST, Stand, asking, info_path, percentile, two_processes

ROUNDS = 5
QUIET_S, LOADED_S = 6.0, 13.0
EACH = 200
#: The defaults of `edge.head_ms`, `edge.body_ms` and `edge.send_ms`, and how much later is in time.
DEADLINES_S = {"heads": 5.0, "bodies": 10.0, "readers": 10.0}
GRACE_S = 1.0
MAX_RATIO, MAX_MORE_MS = 1.5, 2.0
#: Good clients: so many poll one of the chats each, and so many read what nobody keeps, so often a second.
POLLERS, POLLED_CHATS, POLLS_PER_S = 20, 4, 10
READERS, READS_PER_S = 20, 5

ARRIVE_S = 1.0
DRIP_S = 1.0
LOOK_S = 0.1
#: An answer that no socket's buffers hold, read with the smallest of buffers over the smallest of segments.
LINES, LINE_BYTES = 80, 2_000
RECEIVE_BYTES, SEGMENT_BYTES = 2_048, 536


# -- good clients ---------------------------------------------------------------------------------------


async def be_good(said: Mapping[str, Any]) -> Mapping[str, Any]:
    """Ask in time, whatever the last answer took."""
    # Who comes first waits for the upstream.
    for path in said["polled"]:
        client = Client(HOST, said["port"])
        await client.ask(asking(path, said["tokens"][0]))
        client.close()
    began = time.monotonic() + 0.2
    latencies: dict[str, list[float]] = {"polls": [], "reads": []}
    statuses: Counter[str] = Counter()

    async def ask(kind: str, question: bytes, phase: float, per_s: int) -> None:
        client = Client(HOST, said["port"])
        await client.open()
        for number in range(int(said["seconds"] * per_s)):
            due = began + (number + phase) / per_s
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            try:
                response = await client.ask(question)
            except Broken:
                statuses["broken"] += 1
                continue
            statuses[str(response.status)] += 1
            latencies[kind].append(response.received - due)
        client.close()

    polls = [
        ask("polls", asking(said["polled"][index % POLLED_CHATS], token), index / POLLERS, POLLS_PER_S)
        for index, token in enumerate(said["tokens"][:POLLERS])
    ]
    reads = [
        ask("reads", asking(said["read"], token), index / READERS, READS_PER_S)
        for index, token in enumerate(said["tokens"][POLLERS:])
    ]
    await asyncio.gather(*polls, *reads)
    p99_ms = {kind: percentile(values, 0.99) * 1000 for kind, values in latencies.items()}
    return {"p99_ms": p99_ms, "statuses": statuses}


# -- slow clients ---------------------------------------------------------------------------------------


@dataclass(slots=True)
class Slow:
    """One connection: since when its deadline runs, and when the gateway was last seen to hold it."""

    kind: str
    began: float
    held: float | None = None
    is_gone: bool = False


class Watch:
    """Which connections a process holds, by the ports of the other side; see proc(5)."""

    def __init__(self, pid: int, port: int) -> None:
        self._folder = Path(f"/proc/{pid}/fd")
        self._local = f":{port:04X}"

    def ports(self) -> set[int]:
        inodes = set(self._inodes())
        rows = (line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:])
        return {
            int(row[2].rpartition(":")[2], 16)
            for row in rows
            if row[1].endswith(self._local) and row[9] in inodes
        }

    def _inodes(self) -> Iterator[str]:
        for entry in self._folder.iterdir():
            with contextlib.suppress(OSError):
                yield str(entry.readlink()).removeprefix("socket:[").removesuffix("]")


@dataclass(slots=True)
class Crowd:
    """All slow clients, by their ports."""

    said: Mapping[str, Any]
    all: dict[int, Slow] = field(default_factory=dict)

    async def heads(self, drips: bool) -> None:
        whole = asking(self.said["polled"][0], self.said["tokens"][0])
        await self._dawdle("heads", b"", whole[:40], whole[40:-2] if drips else b"")

    async def bodies(self, drips: bool) -> None:
        fields = {
            "Authorization": f"Bearer {self.said['tokens'][0]}",
            "Content-Type": "application/json",
            "Content-Length": "2000",
        }
        head = request("POST", HOST, self.said["large"], fields)
        await self._dawdle("bodies", head, b"{", b" " * 1000 if drips else b"")

    async def readers(self, drips: bool) -> None:
        question = asking(self.said["large"], self.said["tokens"][0])
        with await self._connected(RECEIVE_BYTES) as connected:
            loop = asyncio.get_running_loop()
            await loop.sock_sendall(connected, question)
            await loop.sock_recv(connected, 1)
            mine = self._enter("readers", connected)
            while not mine.is_gone:
                await asyncio.sleep(DRIP_S)
                if drips:
                    with contextlib.suppress(OSError):
                        connected.recv(64)

    async def _dawdle(self, kind: str, before: bytes, first: bytes, rest: bytes) -> None:
        """Send this at once, and of the rest a byte now and then, as long as the gateway holds on."""
        with await self._connected() as connected:
            loop = asyncio.get_running_loop()
            await loop.sock_sendall(connected, before + first)
            mine = self._enter(kind, connected)
            while not mine.is_gone:
                await asyncio.sleep(DRIP_S)
                byte, rest = rest[:1], rest[1:]
                with contextlib.suppress(OSError):
                    await loop.sock_sendall(connected, byte)

    async def _connected(self, receive_bytes: int | None = None) -> socket.socket:
        made = socket.socket()
        made.setblocking(False)
        if receive_bytes is not None:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, SEGMENT_BYTES)
        await asyncio.get_running_loop().sock_connect(made, (HOST, self.said["port"]))
        return made

    def _enter(self, kind: str, connected: socket.socket) -> Slow:
        mine = self.all[connected.getsockname()[1]] = Slow(kind, time.monotonic())
        return mine

    async def watch(self, watch: Watch, ends_at: float) -> None:
        """See who is still held, until nobody is or the time is over."""
        while (now := time.monotonic()) < ends_at:
            held = watch.ports()
            for port, one in self.all.items():
                if port in held:
                    one.held = now
                elif one.held is not None:
                    one.is_gone = True
            await asyncio.sleep(LOOK_S)
        for one in self.all.values():
            one.is_gone = True


async def be_slow(said: Mapping[str, Any]) -> Mapping[str, Any]:
    """Come, dawdle, and see how long the gateway bears it."""
    crowd = Crowd(said)
    ends_at = time.monotonic() + said["seconds"]
    watching = asyncio.create_task(crowd.watch(Watch(said["pid"], said["port"]), ends_at))
    ways = (crowd.heads, crowd.bodies, crowd.readers)
    dawdling = []
    for index in range(EACH):
        dawdling += [asyncio.create_task(way(index % 2 == 0)) for way in ways]
        await asyncio.sleep(ARRIVE_S / EACH)
    await asyncio.gather(watching, *dawdling)
    held_s = {
        kind: [
            one.held - one.began for one in crowd.all.values() if one.kind == kind and one.held is not None
        ]
        for kind in DEADLINES_S
    }
    return {
        kind: {"came": len(values), "held_s": max(values, default=0.0)} for kind, values in held_s.items()
    }


# -- the show -------------------------------------------------------------------------------------------


def gateway_pid() -> int:
    """The child of this process that serves."""
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    [pid] = [int(pid) for pid in children if b"\0serve\0" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    return pid


async def play(role: str, said: Mapping[str, Any]) -> Any:
    """Have another process play a role; what it found."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.shows.slow", role),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    told, _ = await process.communicate(json.dumps(said).encode())
    assert process.returncode == 0, role
    return json.loads(told)


async def set_up(stand: Stand) -> dict[str, Any]:
    """What both roles have to know."""
    chats = [await stand.chat() for _ in range(POLLED_CHATS + 2)]
    for number in range(LINES):
        await stand.control("POST", f"chats/{chats[-1]}/line", {"text": f"{number} ".ljust(LINE_BYTES, "x")})
    return {
        "port": stand.gateway,
        "pid": gateway_pid(),
        "tokens": [stand.token() for _ in range(POLLERS + READERS)],
        "polled": [info_path(chat) for chat in chats[:POLLED_CHATS]],
        "read": f"{info_path(chats[-2])}/agentTyping",
        "large": f"/api/account/{ACCOUNT}/chat/{chats[-1]}/events",
    }


@dataclass(slots=True)
class Found:
    """What the rounds brought."""

    p99_ms: dict[str, list[float]] = field(default_factory=dict)
    statuses: Counter[str] = field(default_factory=Counter)
    slow: list[Any] = field(default_factory=list)

    def add(self, name: str, good: Mapping[str, Any]) -> None:
        for kind, p99_ms in good["p99_ms"].items():
            self.p99_ms.setdefault(f"{name} {kind}", []).append(p99_ms)
        self.statuses.update(good["statuses"])

    def median(self, name: str) -> float:
        return statistics.median(self.p99_ms[name])

    def is_undisturbed(self, kind: str) -> bool:
        quiet, loaded = self.median(f"quiet {kind}"), self.median(f"loaded {kind}")
        return loaded <= max(MAX_RATIO * quiet, quiet + MAX_MORE_MS)

    def held_s(self, kind: str) -> float:
        return float(max(round_[kind]["held_s"] for round_ in self.slow))

    def are_gone(self, kind: str) -> bool:
        came = all(round_[kind]["came"] == EACH for round_ in self.slow)
        return came and self.held_s(kind) <= DEADLINES_S[kind] + GRACE_S


async def main() -> bool:
    found = Found()
    async with two_processes() as stand:
        said = await set_up(stand)
        for _ in range(ROUNDS):
            found.add("quiet", await play("good", {**said, "seconds": QUIET_S}))
            loaded = {**said, "seconds": LOADED_S}
            good, slow = await asyncio.gather(play("good", loaded), play("slow", loaded))
            found.add("loaded", good)
            found.slow.append(slow)
    gone = {kind: found.are_gone(kind) for kind in DEADLINES_S}
    undisturbed = {kind: found.is_undisturbed(kind) for kind in ("polls", "reads")}
    ok = all(gone.values()) and all(undisturbed.values()) and set(found.statuses) == {"200"}
    shown = {
        "show": "slow",
        "ok": ok,
        "rounds": ROUNDS,
        "each": EACH,
        "gone_in_time": gone,
        "held_s": {kind: round(found.held_s(kind), 1) for kind in DEADLINES_S},
        "undisturbed": undisturbed,
        "p99_ms": {name: round(found.median(name), 2) for name in found.p99_ms},
        "good": found.statuses,
    }
    print(json.dumps(shown))
    return ok


ROLES = {"good": be_good, "slow": be_slow}

if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(json.dumps(uvloop.run(ROLES[sys.argv[1]](json.load(sys.stdin)))))
    else:
        sys.exit(not uvloop.run(main()))
