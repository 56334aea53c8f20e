"""What the live page is fed with: seconds, quantiles, how it stands, and readers who are slow."""

from __future__ import annotations

import json
import math
from bisect import bisect_left
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.errors import Reason, Refusal
from gateway.core.limits import Left, Limits, Rate, Standing
from gateway.core.messages import Chat
from gateway.core.replies import How
from gateway.observe.live import (
    MAX_BEHIND,
    MAX_CLIENTS,
    MAX_READERS,
    MAX_WATCHES,
    PAST_S,
    RECENT,
    Live,
    Reader,
    Sights,
    counted,
    quantile,
    sample,
)
from gateway.observe.logs import hashed
from gateway.observe.metrics import BUCKETS_S, Load, Metrics, Reloads, Shared
from tests.observe.trips import CHAT, FAILED, Desk, delivered, refused

pytestmark = pytest.mark.anyio

FULL = Limits(requests=Rate(2.0, 10), requests_per_day=1000, in_flight=5)
BAD_TOKEN = Refusal(Reason.TOKEN_EXPIRED)
LIMITED = Refusal(Reason.RATE_LIMITED, standing=Standing((), ("requests",)))


@dataclass(frozen=True, slots=True)
class Watching:
    """A watch, as the hub tells of it."""

    chat: Chat | None = CHAT
    account: str = "123"
    resource: str = "info"
    watchers: int = 3
    sent_at: float = 99.5
    trouble: str | None = None


@dataclass
class Room:
    """A live view of a desk's metrics, and what it looks at. Both clocks are turned by hand."""

    at: float = 100.0
    desk: Desk = field(default_factory=Desk)
    watches: Sequence[Watching] = ()
    looked: int = 0

    def __post_init__(self) -> None:
        self.live = Live(self.desk.metrics, self.desk.usage, self.desk.observer.recent, self.sights(), self)

    def now(self) -> float:
        return self.at

    def wall(self) -> float:
        return self.desk.wall

    def sights(self) -> Sights:
        return Sights(
            is_ready=lambda: True,
            replicas=lambda: 2,
            reload=lambda: {"ok": True},
            accounts=lambda: ("456", "123"),
            watches=self._watches,
            limits=self._limits,
        )

    def _watches(self) -> Sequence[Watching]:
        self.looked += 1
        return self.watches

    def _limits(self, names: Collection[str]) -> Mapping[str, tuple[Limits, Sequence[Left] | None]]:
        known = {"bff": (FULL, None), "partner": (FULL, (Left("requests", 10, 4, 5, 1),))}
        return {name: limits for name, limits in known.items() if name in names}

    async def second(self) -> None:
        self.at += 1
        self.desk.wall += 1
        await self.live.tick()

    def open(self) -> Reader:
        reader = self.live.open()
        assert reader is not None
        return reader


async def read(reader: Reader, many: int) -> list[tuple[str, Any]]:
    """So many messages: those at the beginning come together."""
    heard: list[tuple[str, Any]] = []
    async for piece in reader:
        for block in piece.decode().removesuffix("\n\n").split("\n\n"):
            event, data = block.split("\n")
            heard.append((event.removeprefix("event: "), json.loads(data.removeprefix("data: "))))
        if len(heard) >= many:
            break
    return heard


async def now_of(room: Room) -> dict[str, Any]:
    reader = room.open()
    (_, (_, now)) = await read(reader, 2)
    reader.leave()
    told: dict[str, Any] = now
    return told


def some(room: Room) -> None:
    """Two hits, a miss, a refusal, a limit and a failure."""
    room.desk.hit(seconds=0.0004, now=0.5)
    room.desk.tell(delivered(How.HIT), 0.0004)
    room.desk.tell(delivered(How.MISS, opened=True), 0.2)
    room.desk.tell(refused(BAD_TOKEN), 0.0004)
    room.desk.tell(refused(LIMITED), 0.0004)
    room.desk.tell(replace(delivered(How.HIT, "bff"), result=FAILED), 0.0004)


# -- a second --------------------------------------------------------------------------------------------


async def test_a_second_has_what_came_in_it() -> None:
    room = Room()
    some(room)
    await room.second()
    some(room)
    room.desk.observer.stream_sent("bff", "info", "info", 10)
    await room.second()
    await room.second()
    ((_, past), _) = await read(room.open(), 2)
    first, second, third = past["samples"]
    counts = {"requests": 6, "upstream": 0, "saved": 2, "hits": 2, "refused": 2, "failed": 1}
    assert {name: first[name] for name in counts} == counts
    assert {name: second[name] for name in counts} == counts
    assert [one["messages"] for one in past["samples"]] == [0, 1, 0]
    assert [one["at"] for one in past["samples"]] == [1_795_343_224.0, 1_795_343_225.0, 1_795_343_226.0]
    assert 0 < first["p50_ms"] <= 0.5
    assert 100 < first["p99_ms"] <= 250
    assert 250 < first["age_p99_ms"] <= 500
    assert third["requests"] == 0
    assert (third["p50_ms"], third["p99_ms"], third["age_p99_ms"]) == (None, None, None)


async def test_who_is_held_back_is_not_slow() -> None:
    room = Room()
    room.desk.tell(delivered(How.HIT), 0.0004)
    room.desk.tell(delivered(How.WAITED), 9.0)
    await room.second()
    assert (await now_of(room))["sample"]["p99_ms"] < 1


async def test_five_minutes_are_remembered() -> None:
    room = Room()
    for _ in range(PAST_S + 5):
        await room.second()
    ((_, past), _) = await read(room.open(), 2)
    assert len(past["samples"]) == PAST_S
    assert past["samples"][-1]["at"] == room.desk.wall


@given(st.lists(st.floats(0.0, 12.0), min_size=1), st.sampled_from([0.5, 0.99]))
def test_a_quantile_lies_in_the_bucket_of_what_it_is_of(took: list[float], part: float) -> None:
    metrics = Metrics()
    for seconds in took:
        metrics.durations["info", "hit"].observe(seconds)
    told = quantile(BUCKETS_S, counted(metrics).took, part)
    assert told is not None
    exact = sorted(took)[math.ceil(len(took) * part) - 1]
    at = bisect_left(BUCKETS_S, exact)
    # Beyond the last bound there is no other.
    lower, upper = (0.0, *BUCKETS_S)[at], (*BUCKETS_S, BUCKETS_S[-1])[at]
    assert lower <= told <= upper * (1 + 1e-9)


def test_a_second_without_change_says_nothing() -> None:
    counts = counted(Metrics())
    assert sample(counts, counts)["p50_ms"] is None


# -- how it stands ---------------------------------------------------------------------------------------


async def test_totals_are_those_of_the_metrics() -> None:
    room = Room()
    some(room)
    room.desk.observer.stream_opened("bff", "info")
    await room.second()
    room.desk.hit()
    now, exposed = await now_of(room), room.desk.exposed()

    def total(name: str) -> float:
        return sum(value for key, value in exposed.items() if key.startswith(f"chat_gateway_{name}{{"))

    assert now["totals"] == {
        "requests": total("requests_total"),
        "upstream": total("upstream_requests_total"),
        "saved": total("saved_requests_total"),
        "streams_open": 1,
        "messages": 0,
    }
    assert now["totals"]["requests"] == 7
    assert now["outcomes"] == {"hit": 3, "miss": 1, "refused": 2, "failed": 1}
    clients = {one["name"]: one for one in now["clients"]}
    assert sum(one["requests"] for one in clients.values()) == 7
    assert clients["bff"]["requests"] == 5
    assert clients["bff"]["saved"] == 3
    assert clients["bff"]["streams"] == 1
    assert (clients["partner"]["limited"], clients["partner"]["refused"]) == (1, 1)
    assert clients["partner"]["limits"] == [{"name": "requests", "limit": 10, "remaining": 4}]
    # Only Redis knows what is left.
    assert clients["bff"]["limits"] == [
        {"name": "requests", "limit": 10, "remaining": None},
        {"name": "requests-per-day", "limit": 1000, "remaining": None},
        {"name": "in-flight", "limit": 5, "remaining": None},
    ]


async def test_the_busiest_come_first_and_not_all() -> None:
    room = Room()
    for number in range(MAX_CLIENTS + 10):
        for _ in range(number + 1):
            room.desk.tell(delivered(How.HIT, f"c{number}"))
    reader = room.open()
    await room.second()
    for _ in range(7):
        room.desk.tell(delivered(How.HIT, "c20"))
    await room.second()
    *_, (_, now) = await read(reader, 4)
    assert len(now["clients"]) == MAX_CLIENTS
    assert [(one["name"], one["per_second"]) for one in now["clients"][:2]] == [("c20", 7.0), ("c59", 0.0)]


async def test_a_rate_is_told_only_once_it_is_known() -> None:
    room = Room()
    room.desk.tell(delivered(How.HIT))
    await room.second()
    assert [one["per_second"] for one in (await now_of(room))["clients"]] == [None]


async def test_what_the_process_bears_is_told() -> None:
    room = Room()
    room.desk.metrics.gauges = replace(
        room.desk.metrics.gauges,
        flights=lambda: 4,
        waiters=lambda: 5,
        reloads=lambda: Reloads(policies_version=7),
        kept=lambda: {"entries": (10, 100)},
        breakers=lambda: {"123": "open"},
        load=lambda: Load(connections=8, requests=2, lag_s=0.0015),
        shared=lambda: Shared(up=True, whole=False, replicas=2),
    )
    room.at += 61
    now = await now_of(room)
    told = (
        "ready",
        "uptime_s",
        "replicas",
        "policies_version",
        "flights",
        "waiters",
        "kept",
        "load",
        "shared",
    )
    assert {name: now[name] for name in told} == {
        "ready": True,
        "uptime_s": 61,
        "replicas": 2,
        "policies_version": 7,
        "flights": 4,
        "waiters": 5,
        "kept": {"entries": [10, 100]},
        "load": {"connections": 8, "requests": 2, "lag_ms": 1.5},
        "shared": {"up": True, "whole": False, "replicas": 2},
    }
    nothing = {"waiting": 0, "in_flight": 0, "pace": 1.0}
    assert now["accounts"] == [
        {"name": "123", "breaker": "open", "budget": nothing},
        {"name": "456", "breaker": "closed", "budget": nothing},
    ]
    assert now["reload"] == {"ok": True}


async def test_watches_are_told_by_hash_and_not_all() -> None:
    room = Room(watches=[Watching(trouble="upstream-error"), *[Watching(chat=None)] * MAX_WATCHES])
    now = await now_of(room)
    assert now["watches"][0] == {
        "account": "123",
        "chat": hashed(CHAT),
        "resource": "info",
        "watchers": 3,
        "age_s": 0.5,
        "trouble": "upstream-error",
    }
    assert (len(now["watches"]), now["watches_total"]) == (MAX_WATCHES, MAX_WATCHES + 1)
    assert CHAT.id not in json.dumps(now)


async def test_the_last_refusals_and_failures_are_told_newest_first() -> None:
    room = Room()
    some(room)
    now = await now_of(room)
    assert [one["reason"] for one in now["refusals"]] == ["upstream-error", "rate-limited", "token-expired"]
    assert now["refusals"][0] == {
        "at": room.desk.wall,
        "client": "bff",
        "rule": "bff/allow/chat:read",
        "resource": "info",
        "reason": "upstream-error",
        "status": 502,
    }
    for _ in range(RECENT):
        room.desk.tell(refused(LIMITED))
    assert [one["reason"] for one in (await now_of(room))["refusals"]] == ["rate-limited"] * RECENT


# -- readers ---------------------------------------------------------------------------------------------


async def test_without_readers_nothing_is_looked_up() -> None:
    room = Room()
    await room.second()
    assert room.looked == 0
    readers = [room.open() for _ in range(3)]
    opened = room.looked
    await room.second()
    assert room.looked == opened + 1
    for reader in readers:
        reader.leave()
    await room.second()
    assert room.looked == opened + 1


async def test_there_are_only_so_many_readers() -> None:
    room = Room()
    readers = [room.open() for _ in range(MAX_READERS)]
    assert room.live.open() is None
    readers[3].leave()
    assert room.live.open() is not None


async def test_who_is_slow_is_told_no_more_and_the_others_are() -> None:
    room = Room()
    slow, quick = room.open(), room.open()
    messages: AsyncIterator[bytes] = aiter(quick)
    await anext(messages)
    for _ in range(MAX_BEHIND + 5):
        await room.second()
        await anext(messages)
    # It ends by itself, with what it was told before.
    assert len(await read(slow, 1000)) == MAX_BEHIND + 1
    assert slow.is_over


async def test_all_have_an_end() -> None:
    room = Room()
    reader = room.open()
    await room.second()
    room.live.close()
    assert [event for event, _ in await read(reader, 1000)] == ["past", "now", "now"]
    assert room.live.open() is None


async def test_whoever_comes_first_of_all_has_a_second_too() -> None:
    assert (await now_of(Room()))["sample"]["requests"] == 0
