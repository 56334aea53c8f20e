"""A record that one replica has noted is in force at all, also when Redis is lost, emptied or late."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.identity.revocations import Revocations
from gateway.shared.revocations import LINES_AT_ONCE, SharedRevocations, Told

NOW = 1_795_343_225.0
PAGE = 3


@dataclass
class Shelf:
    """What the commands do, without Redis: the latest line of each place, in the order of versions."""

    is_there: bool = True
    version: int = 1_000_000
    lines: dict[str, tuple[int, bytes]] = field(default_factory=dict)
    commands: int = 0

    async def revoke(self, lines: Told) -> int | None:
        self.commands += 1
        await asyncio.sleep(0)
        if not self.is_there:
            return None
        assert 0 < len(lines) <= LINES_AT_ONCE
        self.version += 1
        self.lines |= {place: (self.version, line) for place, (line, _) in lines.items()}
        return self.version

    async def revocations(self, since: int) -> tuple[int, Sequence[bytes]] | None:
        self.commands += 1
        await asyncio.sleep(0)
        if not self.is_there:
            return None
        later = sorted(found for found in self.lines.values() if found[0] > since)
        page = [found for found in later if found[0] <= later[min(PAGE, len(later)) - 1][0]]
        newest = page[-1][0] if len(page) < len(later) else self.version
        return newest, [line for _, line in page]

    def empty(self) -> None:
        """The version begins at Redis's time."""
        self.version, self.lines = self.version + 1_000_000, {}


class Replica:
    """One replica's records, and how it shares them."""

    def __init__(self, shelf: Shelf, journal: Path | None = None, wall: float = NOW) -> None:
        self.wall = wall
        self.revocations = Revocations(None, journal, lambda: self.wall)
        self.shared = SharedRevocations(shelf, self.revocations)
        self.revocations.tell = self.shared.publish
        self.shelf = shelf

    async def record(self, said: Mapping[str, object]) -> bool | None:
        return await self.revocations.record(said)

    async def mark(self) -> None:
        """What a beat brings, if somebody answers."""
        if self.shelf.is_there:
            await self.shared.learn(self.shelf.version)

    def has(self, *names: str) -> list[bool]:
        return [self.revocations.is_client_revoked(name) for name in names]


@pytest.fixture
def shelf() -> Shelf:
    return Shelf()


@pytest.mark.anyio
async def test_a_record_reaches_those_that_are_there_and_those_that_come_later(
    shelf: Shelf, tmp_path: Path
) -> None:
    one, other = Replica(shelf, tmp_path / "one"), Replica(shelf)
    await other.mark()
    assert await one.record({"client": "bff"})
    await other.shared.learn(shelf.version)
    late = Replica(shelf)
    await late.mark()
    assert (other.has("bff"), late.has("bff")) == ([True], [True])
    assert await one.record({"client": "bff", "withdrawn": True})
    for replica in (other, late):
        await replica.mark()
        assert replica.has("bff") == [False]


@pytest.mark.anyio
async def test_what_could_not_be_told_is_told_when_redis_is_back(shelf: Shelf, tmp_path: Path) -> None:
    one, other = Replica(shelf, tmp_path / "one"), Replica(shelf)
    for replica in (one, other):
        await replica.mark()
    shelf.is_there = False
    assert not await one.record({"client": "bff"})
    assert one.has("bff") == [True]
    shelf.is_there = True
    await one.mark()
    await other.mark()
    assert other.has("bff") == [True]


@pytest.mark.anyio
async def test_what_redis_has_lost_is_put_back(shelf: Shelf, tmp_path: Path) -> None:
    one, other = Replica(shelf, tmp_path / "one"), Replica(shelf)
    await one.record({"client": "a"})
    await one.record({"client": "b"})
    await one.record({"client": "b", "withdrawn": True})
    await other.mark()
    shelf.empty()
    other.shared.forget()
    await other.mark()
    late = Replica(shelf, tmp_path / "late")
    await late.mark()
    assert late.has("a", "b") == [True, False]
    # The withdrawal is there again, for who still has what it takes back.
    assert len(shelf.lines) == 2


@pytest.mark.anyio
@pytest.mark.parametrize("version", [0, 1_000_001, 2_000_000])
async def test_what_each_has_is_put_back_whatever_the_version_is_then(
    shelf: Shelf, tmp_path: Path, version: int
) -> None:
    one, other = Replica(shelf, tmp_path / "one"), Replica(shelf, tmp_path / "other")
    await one.record({"client": "a"})
    await one.mark()
    shelf.empty()
    shelf.version = version
    await other.record({"client": "b"})
    one.shared.forget()
    for replica in (one, other):
        await replica.mark()
    assert one.has("a", "b") == other.has("a", "b") == [True, True]


@pytest.mark.anyio
async def test_a_replica_that_was_away_brings_back_nothing_that_is_over(shelf: Shelf, tmp_path: Path) -> None:
    one, away = Replica(shelf, tmp_path / "one"), Replica(shelf, tmp_path / "away")
    await one.record({"client": "a"})
    await away.mark()
    await one.record({"client": "a", "withdrawn": True})
    back = Replica(shelf, tmp_path / "away")
    assert back.has("a") == [True]
    await back.mark()
    await one.mark()
    assert (back.has("a"), one.has("a")) == ([False], [False])


@pytest.mark.anyio
async def test_a_version_that_has_gone_back_has_all_compared(shelf: Shelf, tmp_path: Path) -> None:
    one, other = Replica(shelf, tmp_path / "one"), Replica(shelf)
    await one.record({"client": "a"})
    await one.mark()
    shelf.version, shelf.lines = 7, {}
    await one.mark()
    await other.mark()
    assert other.has("a") == [True]


@pytest.mark.anyio
async def test_what_is_known_better_takes_the_place_of_what_came_later(shelf: Shelf, tmp_path: Path) -> None:
    one, behind = Replica(shelf, tmp_path / "one"), Replica(shelf, tmp_path / "behind", NOW - 60)
    await one.record({"client": "a"})
    for replica in (one, behind):
        await replica.mark()
    one.wall += 5
    await one.record({"client": "a", "withdrawn": True})
    await behind.record({"client": "a"})
    late = Replica(shelf)
    for replica in (one, behind, late):
        await replica.mark()
        assert replica.has("a") == [False]


@pytest.mark.anyio
async def test_older_news_are_no_reason_to_begin_anew(shelf: Shelf, tmp_path: Path) -> None:
    one = Replica(shelf, tmp_path / "one")
    for name in "abc":
        await one.record({"client": name})
    await one.mark()
    before = shelf.commands
    await one.shared.learn(shelf.version - 1)
    assert shelf.commands == before + 1
    await one.mark()
    assert shelf.commands == before + 1


@pytest.mark.anyio
async def test_many_are_told_in_portions(shelf: Shelf) -> None:
    one, other, before = Replica(shelf), Replica(shelf), shelf.version
    told = [b'1 {"client": "c%d"}' % number for number in range(2 * LINES_AT_ONCE + 1)]
    await one.revocations.merge(told)
    await one.mark()
    await other.mark()
    assert other.revocations.count() == len(told)
    assert shelf.version == before + 3


@pytest.mark.anyio
async def test_foreign_lines_hold_nothing_back(shelf: Shelf, tmp_path: Path) -> None:
    one, other = Replica(shelf, tmp_path / "one"), Replica(shelf)
    await shelf.revoke({"nowhere": (b"nonsense", math.inf)})
    await one.record({"client": "bff"})
    await other.mark()
    assert (other.has("bff"), other.revocations.foreign) == ([True], 1)


@pytest.mark.anyio
async def test_one_at_a_time(shelf: Shelf, tmp_path: Path) -> None:
    one, other = Replica(shelf, tmp_path / "one"), Replica(shelf)
    await one.record({"client": "bff"})
    await asyncio.gather(*(other.mark() for _ in range(5)))
    assert other.has("bff") == [True]
    # Its own record, and what one look takes: a page, and that nothing follows.
    assert shelf.commands <= 3


@pytest.mark.anyio
async def test_who_waits_for_news_that_another_is_reading_has_them_then(shelf: Shelf, tmp_path: Path) -> None:
    one, other = Replica(shelf, tmp_path / "one"), Replica(shelf)
    await one.record({"client": "bff"})
    reading = asyncio.create_task(other.mark())
    await asyncio.sleep(0)
    await other.mark()
    assert other.has("bff") == [True]
    await reading


@pytest.mark.anyio
async def test_a_look_that_is_given_up_is_begun_anew(shelf: Shelf, tmp_path: Path) -> None:
    one, other = Replica(shelf, tmp_path / "one"), Replica(shelf)
    await one.record({"client": "bff"})
    reading = asyncio.create_task(other.mark())
    await asyncio.sleep(0)
    reading.cancel()
    await asyncio.gather(reading, return_exceptions=True)
    assert other.has("bff") == [False]
    await other.mark()
    assert other.has("bff") == [True]


Step = tuple[str, int, str, int | None]
STEPS = st.tuples(
    st.sampled_from(["revoke", "revoke", "withdraw", "mark", "mark", "cut", "empty", "restart"]),
    st.integers(0, 2),
    st.sampled_from("ab"),
    st.sampled_from([None, 20, 600]),
)


class Replicas:
    """Three of them, and what operators do to them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.shelf = Shelf()
        self.all = [self.start(index, NOW) for index in range(3)]
        self.until: dict[str, float] = {}
        self.withdrawn: set[str] = set()

    def start(self, index: int, wall: float) -> Replica:
        return Replica(self.shelf, self.folder / str(index), wall)

    async def take(self, step: Step, passed_s: float) -> None:
        action, index, name, life_s = step
        for number, replica in enumerate(self.all):
            # Their clocks differ by a second.
            replica.wall = NOW + passed_s + number
        match action:
            case "revoke":
                await self.revoke(self.all[index], name, life_s)
            case "withdraw" if self.all[index].has(name) == [True]:
                await self.all[index].record({"client": name, "withdrawn": True})
                self.withdrawn.add(name)
            case "mark":
                await self.all[index].mark()
            case "cut":
                self.shelf.is_there = not self.shelf.is_there
            case "empty":
                self.shelf.empty()
                for replica in self.all:
                    replica.shared.forget()
            case "restart":
                self.all[index] = self.start(index, self.all[index].wall)

    async def revoke(self, replica: Replica, name: str, life_s: int | None) -> None:
        until = math.inf if life_s is None else int(NOW) + life_s + 30
        said = {"client": name} if life_s is None else {"client": name, "until": until}
        await replica.record(said)
        self.until[name] = max(self.until.get(name, 0), until)

    async def settle(self) -> None:
        self.shelf.is_there = True
        for _ in range(4):
            for replica in self.all:
                replica.wall = NOW + 55
                await replica.mark()


@settings(max_examples=60)
@given(st.lists(STEPS, max_size=24))
def test_all_end_alike(tmp_path_factory: pytest.TempPathFactory, steps: list[Step]) -> None:
    asyncio.run(_end_alike(Replicas(tmp_path_factory.mktemp("replicas")), steps))


async def _end_alike(replicas: Replicas, steps: list[Step]) -> None:
    for passed_s, step in enumerate(steps):
        await replicas.take(step, passed_s)
    await replicas.settle()
    one, *others = [sorted(map(str, replica.revocations.entries())) for replica in replicas.all]
    assert others == [one, one]
    # What nobody took back holds everywhere.
    for name in replicas.until.keys() - replicas.withdrawn:
        holds = replicas.until[name] > NOW + 55
        assert all(replica.has(name) == [holds] for replica in replicas.all)
    before = replicas.shelf.version
    await replicas.settle()
    assert replicas.shelf.version == before
