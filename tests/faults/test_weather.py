"""Many clients at once, while one fault follows another on both sides: by seed, so that it comes again."""

from __future__ import annotations

import asyncio
import itertools
import json
import random
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from tests.faults.ground import INFO, KINDS, LINE, SLACK_S, Ground, ground
from tests.faults.proxy import NONE, End, Fault, Way
from tests.faults.upstream_faults import CASES

pytestmark = pytest.mark.anyio

SEEDS = range(1, 5)
SECONDS, CHANGE_S, PAUSE_S = 2.0, 0.1, 0.02
CLIENTS, CHATS = 12, 4
#: After a write nothing older stands in, so there are few.
WRITES = 0.05
READS = [kind for kind in KINDS.values() if kind.is_read]
#: What a client may see of the weather; anything else is a mistake.
TOLD = {
    *("upstream-timeout", "upstream-reset", "upstream-down"),
    *("answered", "stale", "cut off"),
}
WAYS_UP = [case.fault for name, case in CASES.items() if name not in {"refused", "black hole"}]
ON_THE_WAY_HOME = [
    NONE,
    Fault(down=Way(piece_bytes=50, every_s=0.001)),
    Fault(down=Way(passes=100, end=End.RESET), times=2),
    Fault(up=Way(passes=50, end=End.CLOSE), times=2),
]


@pytest.fixture(scope="module")
async def there(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Ground]:
    async with ground(tmp_path_factory.mktemp("world"), short=True) as it:
        yield it


class Weather:
    """The clients of one seed, and what became of them."""

    def __init__(self, there: Ground, seed: int) -> None:
        self.there = there
        self.chance = random.Random(seed)
        self.chats = [there.chat() for _ in range(CHATS)]
        self.told: Counter[str] = Counter()
        self.said: list[str] = []
        self.accepted: set[str] = set()
        self._numbers = itertools.count()
        self._ends_at = asyncio.get_running_loop().time() + SECONDS

    def goes_on(self) -> bool:
        return asyncio.get_running_loop().time() < self._ends_at

    async def change(self) -> None:
        while self.goes_on():
            # Some connections at a time: were it all, the upstream would soon be left alone.
            struck = self.chance.randint(0, 3)
            await self.there.back.inject(replace(self.chance.choice(WAYS_UP), times=struck))
            await self.there.front.inject(self.chance.choice(ON_THE_WAY_HOME))
            await asyncio.sleep(CHANGE_S)

    async def client(self) -> None:
        while self.goes_on():
            await asyncio.sleep(self.chance.uniform(0, PAUSE_S))
            chat = self.chance.choice(self.chats)
            port = self.chance.choice([None, self.there.front.port])
            try:
                await (self.read if self.chance.random() > WRITES else self.write)(chat, port)
            except (EOFError, ConnectionError):
                self.told["cut off"] += 1

    async def read(self, chat: str, port: int | None) -> None:
        kind, since = self.chance.choice(READS), len(self.there.ledger.asked)
        response = await self.there.ask(kind, chat, port)
        told = "stale" if "; ttl=-" in (response.header("cache-status") or "") else "answered"
        self.told[response.problem or told] += 1
        if response.problem is None:
            # Of answers that are shared the first to ask may have been an earlier one.
            self.there.check(kind, chat, response, since=0 if kind.shared else since)

    async def write(self, chat: str, port: int | None) -> None:
        text = f"line {next(self._numbers)}"
        self.said.append(text)
        body = json.dumps({"event": {"@type": "line", "text": text}}).encode()
        response = await self.there.ask(replace(LINE, body=body), chat, port)
        self.told[response.problem or "answered"] += 1
        if response.status == 201:
            self.accepted.add(text)

    async def is_healed(self, chat: str) -> bool:
        return (await self.there.ask(INFO, chat)).status == 200

    def is_sent(self, text: str) -> int:
        quoted = json.dumps(text).encode()
        return sum(quoted in one.question for one in self.there.ledger.asked)


@pytest.mark.parametrize("seed", SEEDS)
async def test_whatever_the_weather(there: Ground, seed: int) -> None:
    await there.start_over()
    weather = Weather(there, seed)
    await asyncio.gather(weather.change(), *(weather.client() for _ in range(CLIENTS)))
    assert weather.told.keys() <= TOLD
    assert weather.told["answered"]
    await there.back.inject(NONE)
    await there.front.inject(NONE)
    await there.back.close_idle()
    applied = Counter(line for chat in weather.chats for line in there.it.emulator.chat(chat).lines)
    for text in weather.said:
        assert weather.is_sent(text) <= 1
        assert applied[text] <= 1
        assert applied[text] == 1 or text not in weather.accepted
    # No pause and no step is longer.
    async with asyncio.timeout(5 + SLACK_S):
        for chat in weather.chats:
            while not await weather.is_healed(chat):
                pass
    # What was refreshed beside a request has left a connection of its own, and a good one.
    await there.it.flights_landed()
    await there.back.close_idle()
    await there.is_answered()
    await there.is_at_rest()
