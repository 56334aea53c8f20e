"""Upstream faults, one after another, on what is kept, on what is not, and on what is stale.

`python -m tests.shows.faults` prints a table and one JSON line. Emulator and gateway are processes of their
own, with a proxy between them that spoils connections; what is wrong with answers is up to the emulator. Each
fault meets chats that were asked for a moment ago (hit), never (cold), and too long ago (stale). The proxy
keeps the ledger: a right answer is one that the upstream gave for that very chat.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import re
import resource
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import uvloop
import yaml

from gateway.demo.children import child, free_ports
from gateway.demo.stage import set_stage
from gateway.demo.wire import Broken, Client, Response, request
from tests.faults.ground import INFO, Ledger, led_home
from tests.faults.proxy import HOST, NONE, Door, End, Fault, Proxy, Way, proxy
from tests.shows.slow import gateway_pid
from tests.shows.stand import APP_KEY, UPSTREAM_S, Stand, asking, info_path

ROUNDS = 2
CHATS, CLIENTS = 5, 4
PLAY_S, POLL_S = 0.6, 0.1
DEADLINE_S, STALE_AFTER_S = 0.5, 0.1
#: The shipped rule for info, and when a kept answer is too old but not yet too stale.
FRESH_S = 1.0
#: The first two steps for which what failed is left alone, and the longest.
STEPS_S = (0.25, 0.5, 1.0)
LAST_STEP_S = 5.0
SLACK_S = 1.0
MAX_AMPLIFICATION = 1.1
MAX_MORE_BYTES = 4 * 1024 * 1024
BUDGET = {"per_second": 10_000, "burst": 10_000, "in_flight": 1_000}


@dataclass(frozen=True, slots=True)
class Sick:
    """What goes wrong on the way (`fault`) or upstream (`said`, as the emulator takes it), and what of it.

    `problems` are those a request may end with, none for what only takes longer; `excuses` tells whether they
    excuse a stale answer. A failure takes `takes_s`. `kept` leaves those connections open that were used
    before, so that a read that finds its one closed may be sent once more.
    """

    fault: Fault = NONE
    said: Mapping[str, object] = field(default_factory=dict)
    problems: tuple[str, ...] = ()
    excuses: bool = True
    takes_s: float = 0.0
    kept: bool = False


def _reset(fault: Fault, *, kept: bool = False) -> Sick:
    return Sick(fault, problems=("upstream-reset",), kept=kept)


def _timeout(fault: Fault) -> Sick:
    return Sick(fault, problems=("upstream-timeout",), takes_s=DEADLINE_S)


def _said(problem: str, *, excuses: bool = True, takes_s: float = UPSTREAM_S, **said: object) -> Sick:
    return Sick(said=said, problems=(problem,), excuses=excuses, takes_s=takes_s)


def _down(passes: int, end: End) -> Fault:
    return Fault(down=Way(passes=passes, end=end))


def _up(passes: int, end: End) -> Fault:
    return Fault(up=Way(passes=passes, end=end))


SICK = {
    "late": Sick(Fault(down=Way(latency_s=0.1))),
    "unevenly late": Sick(Fault(up=Way(jitter_s=0.05), down=Way(jitter_s=0.05))),
    "narrow": Sick(Fault(down=Way(piece_bytes=100, every_s=0.005))),
    "too late": _timeout(Fault(down=Way(latency_s=DEADLINE_S * 2))),
    "drips": _timeout(Fault(down=Way(piece_bytes=1, every_s=0.05))),
    "asks in drips": _timeout(Fault(up=Way(piece_bytes=1, every_s=0.05))),
    "refused": Sick(Fault(door=Door.SHUT), problems=("upstream-unreachable",)),
    "black hole": _timeout(Fault(door=Door.BLACK_HOLE)),
    "reset at once": _reset(Fault(at_once=End.RESET)),
    "closed at once": _reset(Fault(at_once=End.CLOSE)),
    "question swallowed": _timeout(_up(0, End.SILENCE)),
    "question cut: reset": _reset(_up(100, End.RESET)),
    "question cut: half-close": _reset(_up(100, End.HALF_CLOSE)),
    "answer swallowed": _timeout(_down(0, End.SILENCE)),
    "silence in the head": _timeout(_down(20, End.SILENCE)),
    "silence in the body": _timeout(_down(500, End.SILENCE)),
    "reset before the answer": _reset(_down(0, End.RESET)),
    "reset in the head": _reset(_down(20, End.RESET)),
    "reset in the body": _reset(_down(500, End.RESET)),
    "closed before the answer": _reset(_down(0, End.CLOSE)),
    "closed in the head": _reset(_down(20, End.CLOSE)),
    "closed in the body": _reset(_down(500, End.CLOSE)),
    "half-closed in the body": _reset(_down(500, End.HALF_CLOSE)),
    "kept, reset before the answer": _reset(_down(0, End.RESET), kept=True),
    "kept, closed in the head": _reset(_down(20, End.CLOSE), kept=True),
    "500": _said("upstream-error", status=500),
    "503": _said("upstream-error", status=503),
    "429": _said("upstream-throttled", status=429, retry_after="1", takes_s=LAST_STEP_S),
    "hangs": _said("upstream-timeout", hang=True, takes_s=DEADLINE_S),
    "less than promised": _said("upstream-reset", truncate_to=20),
    "half a document": _said("upstream-broken", excuses=False, body='{"info": {"state": "cha'),
    "no document": _said("upstream-broken", excuses=False, content_type="text/html", body="<html>"),
    "no content": _said("upstream-broken", excuses=False, status=204, body=""),
    "a redirect": _said("upstream-redirect", excuses=False, redirect="https://elsewhere.example/"),
    "said to be gzip": _said("upstream-broken", excuses=False, headers={"content-encoding": "gzip"}),
    "the key is refused": _said("key-refused", excuses=False, status=401, code=10),
}
#: What the breaker says when the failures of several chats add up.
DOWN = "upstream-down"


def expected(sick: Sick) -> int:
    """How often a chat may be asked for while it is polled: at first, and when each step is over."""
    if not sick.problems:
        return 1
    times, at = 0, 0.0
    for step_s in STEPS_S:
        if at < PLAY_S:
            times += 1
        at += sick.takes_s + step_s
    return times


@dataclass(slots=True)
class Row:
    """What came of one fault."""

    asked: int = 0
    expected: int = 0
    repeats: int = 0
    got: dict[str, Counter[str]] = field(default_factory=dict)
    longest_s: float = 0.0
    healed_s: float = 0.0
    wrong: list[str] = field(default_factory=list)

    @property
    def amplification(self) -> float:
        """What was asked, repeats over kept connections included, for each time that it might have been."""
        return self.asked / self.expected


@dataclass(frozen=True, slots=True)
class Theatre:
    stand: Stand
    back: Proxy
    ledger: Ledger
    private: int
    token: str

    @property
    def home(self) -> str:
        return f"http://{HOST}:{self.stand.gateway}"

    async def chats(self) -> list[str]:
        return list((await self.stand.control("POST", "chats", {"count": CHATS, "accept": True}))["ids"])

    async def ask(self, client: Client, chat: str) -> Response:
        return await client.ask(asking(info_path(chat), self.token))

    async def warm(self, chats: list[str]) -> None:
        clients = [Client(HOST, self.stand.gateway) for _ in chats]
        said = await asyncio.gather(*map(self.ask, clients, chats))
        assert {response.status for response in said} == {200}, said
        for client in clients:
            client.close()

    def fault_of(self, chat: str, response: Response, *, since: int) -> str | None:
        """What is wrong with a good answer, if anything."""
        said = [one for one in self.ledger.of(INFO, chat) if one.head]
        right = [one for one in said if led_home(one.body, self.home) == response.body]
        if not right:
            return "said by nobody"
        ttl = re.search(r"; hit; ttl=(-?\d+)", response.header("cache-status"))
        if right[-1] not in self.ledger.asked[since:] and ttl is None:
            return "old, and not marked as kept"
        if int(response.header("age")) > FRESH_S and (ttl is None or int(ttl[1]) >= 0):
            return "stale, and not marked as stale"
        return None


def outcome(response: Response) -> str:
    """Fresh, stale, or the problem."""
    problem = re.search(rb"urn:chat-gateway:problem:([a-z-]+)", response.body)
    if problem:
        return problem[1].decode()
    return "stale" if "; ttl=-" in response.header("cache-status") else str(response.status)


async def play(on: Theatre, sick: Sick) -> Row:
    """Have one fault meet chats of each mode."""
    modes = {mode: await on.chats() for mode in ("stale", "cold", "hit")}
    await on.warm(modes["stale"])
    await asyncio.sleep(FRESH_S)
    await on.warm(modes["hit"])
    if not sick.kept:
        await on.back.close_idle()
    row = Row(expected=expected(sick) * 2 * CHATS)
    idle = len(on.back.links)
    since, connected = len(on.ledger.asked), on.back.connected
    repeats = await metric(on, "upstream_repeats_total")
    await on.back.inject(sick.fault)
    if sick.said:
        await on.stand.control("POST", "faults", {"resource": "info", "times": None, **sick.said})
    polls = [
        poll(on, row, sick, mode, chat, since=since)
        for (mode, chats), _ in itertools.product(modes.items(), range(CLIENTS))
        for chat in chats
    ]
    await asyncio.gather(*polls)
    row.asked = len(on.ledger.asked) - since
    if sick.fault.at_once is not None:
        row.asked = on.back.connected - connected
    row.repeats = round(await metric(on, "upstream_repeats_total") - repeats)
    if row.repeats > idle:
        row.wrong.append(f"{row.repeats} repeats over {idle} kept connections")
    await on.back.inject(NONE)
    await on.stand.control("DELETE", "faults")
    row.healed_s = await healed(on, row, [chat for chats in modes.values() for chat in chats])
    return row


async def poll(on: Theatre, row: Row, sick: Sick, mode: str, chat: str, *, since: int) -> None:
    """One client; what is kept is polled only while it needs no refresh."""
    client = Client(HOST, on.stand.gateway)
    got = row.got.setdefault(mode, Counter())
    began = time.monotonic()
    for turn in range(round(PLAY_S / POLL_S / (2 if mode == "hit" else 1))):
        await asyncio.sleep(max(0.0, began + turn * POLL_S - time.monotonic()))
        asked = time.monotonic()
        try:
            response = await on.ask(client, chat)
        except Broken as broken:
            row.wrong.append(f"{mode}: {broken}")
            continue
        row.longest_s = max(row.longest_s, response.received - asked)
        told = outcome(response)
        got[told] += 1
        if told not in allowed(sick, mode):
            row.wrong.append(f"{mode}: {told}")
        if response.status == 200 and (fault := on.fault_of(chat, response, since=since)):
            row.wrong.append(f"{mode}: {fault}")
    client.close()


def allowed(sick: Sick, mode: str) -> set[str]:
    """What a request may come to."""
    if mode == "hit":
        return {"200"}
    if mode == "stale" and sick.excuses:
        return {"stale"} if sick.problems else {"stale", "200"}
    # Those who come before the first failure wait no longer than the setting says.
    soon = {"stale"} if mode == "stale" else set()
    return {*sick.problems, DOWN} | soon if sick.problems else {"200"}


async def healed(on: Theatre, row: Row, chats: list[str]) -> float:
    """How long it takes until every chat has a fresh answer again."""
    began = time.monotonic()
    client = Client(HOST, on.stand.gateway)
    for chat in chats:
        while outcome(await on.ask(client, chat)) != "200":
            await asyncio.sleep(0.02)
            if time.monotonic() - began > 3 * LAST_STEP_S:
                row.wrong.append("does not heal")
                return time.monotonic() - began
    client.close()
    return time.monotonic() - began


# -- what is left ----------------------------------------------------------------------------------------


async def metric(on: Theatre, name: str) -> float:
    """The sum of a family."""
    client = Client(HOST, on.private)
    told = (await client.ask(request("GET", "localhost", "/metrics"))).body.decode()
    client.close()
    return sum(float(value) for value in re.findall(rf"(?m)^chat_gateway_{name}(?:{{.*}})? (\S+)$", told))


async def left(on: Theatre, pid: int) -> dict[str, float]:
    """What the gateway holds when nobody asks anything and no connection upstream is kept."""
    await on.back.close_idle()
    await asyncio.sleep(DEADLINE_S)
    names = ("flights", "budget_in_flight", "budget_waiting", "crashes_total")
    return {name: await metric(on, name) for name in names} | _of_process(pid)


def _of_process(pid: int) -> dict[str, float]:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    descriptors = len(list(Path(f"/proc/{pid}/fd").iterdir()))
    return {"descriptors": descriptors, "resident_mib": round(pages * resource.getpagesize() / 2**20, 1)}


def table(rows: Mapping[str, Row]) -> str:
    """A line for each fault."""
    lines = [f"{'fault':<30} {'asked':>5} {'of':>3} {'longest':>8} {'healed':>7}  hit / cold / stale"]
    for name, row in rows.items():
        got = " / ".join(
            " ".join(f"{told} {count}" for told, count in sorted(row.got[mode].items()))
            for mode in ("hit", "cold", "stale")
        )
        wrong = "".join(f"\n    WRONG {count} times {what}" for what, count in Counter(row.wrong).items())
        times = f"{row.longest_s * 1000:>5.0f} ms {row.healed_s:>5.1f} s"
        lines.append(f"{name:<30} {row.asked:>5} {row.expected:>3} {times}  {got}{wrong}")
    return "\n".join(lines)


def is_as_promised(row: Row) -> bool:
    return (
        not row.wrong
        and row.asked - row.repeats <= MAX_AMPLIFICATION * row.expected
        and row.longest_s <= DEADLINE_S + SLACK_S
        and row.healed_s <= LAST_STEP_S + SLACK_S
    )


@contextlib.asynccontextmanager
async def theatre() -> AsyncIterator[Theatre]:
    """Emulator, proxy and gateway, with a deadline near enough for a show."""
    public, private, upstream = free_ports(3)
    ledger = Ledger()
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as children:
        folder = Path(name)
        async with proxy((HOST, upstream), ledger.tap) as back:
            stage = set_stage(
                folder,
                listen=f"{HOST}:{public}",
                admin_listen=f"{HOST}:{private}",
                public_url=f"http://{HOST}:{public}",
                upstream_url=back.url,
                app_key=APP_KEY,
                budget=BUDGET,
            )
            said = yaml.safe_load(stage.config.read_text())
            said["upstream"] = {
                "deadline_ms": round(DEADLINE_S * 1000),
                "stale_after_ms": round(STALE_AFTER_S * 1000),
            }
            stage.config.write_text(yaml.safe_dump(said))
            emulating = f"emulator --port {upstream} --latency-ms {UPSTREAM_S * 1000:.0f} --no-agents"
            key = ("--app-key-file", str(folder / "app-key"))
            emulator = children.enter_context(child([*emulating.split(), *key], folder / "emulator.log"))
            gateway = children.enter_context(
                child(["serve", "--config", str(stage.config)], folder / "gateway.log")
            )
            await emulator.listening(upstream)
            await gateway.listening(public)
            stand = Stand(public, upstream, stage.token)
            yield Theatre(stand, back, ledger, private, stage.token())
            # A crash is no answer to any fault.
            assert "Traceback" not in gateway.log.read_text()


async def main() -> bool:
    async with theatre() as on:
        pid = gateway_pid()
        rounds = []
        held = [await left(on, pid)]
        for _ in range(ROUNDS):
            rounds.append({name: await play(on, sick) for name, sick in SICK.items()})
            held.append(await left(on, pid))
            print(table(rounds[-1]), flush=True)
    rows = [row for one in rounds for row in one.values()]
    asked, might = sum(row.asked for row in rows), sum(row.expected for row in rows)
    more_bytes = (held[-1]["resident_mib"] - held[-2]["resident_mib"]) * 2**20
    before, after = ({**one, "resident_mib": 0} for one in (held[0], held[-1]))
    ok = all(map(is_as_promised, rows)) and asked <= MAX_AMPLIFICATION * might
    ok = ok and before == after and more_bytes <= MAX_MORE_BYTES
    shown = {
        "show": "faults",
        "ok": ok,
        "faults": len(SICK),
        "requests": sum(sum(got.values()) for row in rows for got in row.got.values()),
        "wrong": sum(len(row.wrong) for row in rows),
        "amplification": round(asked / might, 3),
        "worst_amplification": round(max(row.amplification for row in rows), 2),
        "repeats": sum(row.repeats for row in rows),
        "longest_ms": round(max(row.longest_s for row in rows) * 1000),
        "healed_s": round(max(row.healed_s for row in rows), 1),
        "left": held,
    }
    print(json.dumps(shown))
    return ok


if __name__ == "__main__":
    sys.exit(not uvloop.run(main()))
