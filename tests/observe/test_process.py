"""What a whole process says of itself: looked up in all its rooms, and told once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest

from gateway.core.freshness import GONE, Contact
from gateway.core.messages import Chat
from gateway.core.shares import Shares
from gateway.core.views import FULL
from gateway.demo.stage import ACCOUNT
from gateway.overload import GREATEST_S, LOOKS, TICK_S, Bounds, Overload
from tests.observe.log_schema import mistakes_of
from tests.observe.trips import OF_CHAT, armed
from tests.simulation import Simulation
from tests.support import World, chat_path, message, policies_with, world
from tests.virtual import virtual

PREFIX = "chat_gateway_"


async def exposed(it: World) -> dict[str, float]:
    text = (await it.admin("/metrics")).body.decode()
    samples = (line.rpartition(" ") for line in text.splitlines() if line.startswith(PREFIX))
    return {name.removeprefix(PREFIX): float(value) for name, _, value in samples}


async def poll(it: World, chats: Iterable[str], times: int) -> list[int]:
    """Polls with one token, so many for each chat; the lengths of their bodies."""
    fields = {**it.bearer(), "accept": "application/json"}
    lengths = []
    async with it.wire() as wire:
        for chat in chats:
            for _ in range(times):
                await wire.send(message("GET", chat_path(chat, "/info"), fields))
                lengths.append(len((await wire.response()).body))
    return lengths


@pytest.mark.anyio
@pytest.mark.parametrize("short_cut", [True, False])
async def test_what_is_kept_is_counted_by_kind(tmp_path: Path, *, short_cut: bool) -> None:
    # Nothing grows old meanwhile, however slow the machine is.
    policies = policies_with(tmp_path / "slow", "chatting: 1000", "chatting: 8000")
    async with world(tmp_path, short_cut=short_cut, policies=policies) as it:
        chats = [it.chat() for _ in range(3)]
        lengths = await poll(it, chats, 3)
        it.gateway.overload._seen(7.5, time.monotonic())
        said = await exposed(it)
        kept = {name: value for name, value in said.items() if name.startswith("kept{")}
        grants = {'kept{kind="grants"}': 3, 'kept{kind="callers"}': 1} if short_cut else {}
        assert kept == {
            'kept{kind="entries"}': 3,
            'kept{kind="contacts"}': 3,
            'kept{kind="slots"}': 3 if short_cut else 0,
            'kept{kind="tokens"}': 1,
            **grants,
        }
        assert all(said[name.replace("kept", "evictions_total")] == 0 for name in kept if "slots" not in name)
        assert said['response_body_bytes_total{client="bff"}'] == sum(lengths)
        assert said['answer_age_seconds_count{resource="info"}'] == len(lengths)
        assert said["keepalive_slack_seconds_count"] == len(lengths) - len(chats)
        assert said['keepalive_slack_seconds_bucket{le="30.0"}'] == 0
        assert said['upstream_duration_seconds_count{resource="info"}'] == len(chats)
        assert (said["waiters"], said["watches"]) == (0, 0)
        assert said["event_loop_lag_max_seconds"] == 7.5


@pytest.mark.anyio
@pytest.mark.parametrize("short_cut", [True, False])
async def test_the_setting_leaves_lines_of_hits_out(tmp_path: Path, *, short_cut: bool) -> None:
    async with world(tmp_path, short_cut=short_cut, log_one_hit_in=4) as it:
        await poll(it, [it.chat()], 10)
        lines = [line for line in it.lines() if line["event"] == "request"]
        hits = sum(
            count for (_, _, _, outcome), count in it.gateway.metrics.requests.items() if outcome == "hit"
        )
        # The first of each four.
        assert [line["one_in"] for line in lines if line["outcome"] == "hit"] == [4] * -(-hits // 4)
        assert [mistake for line in lines for mistake in mistakes_of(line)] == []
        assert all("one_in" not in line for line in lines if line["outcome"] != "hit")


@virtual
async def test_who_waits_for_a_flight_is_counted_while_he_does() -> None:
    it = Simulation(latency_s=lambda: 0.25)
    chat = it.chat()
    polls = [asyncio.create_task(it.info(chat)) for _ in range(3)]
    await asyncio.sleep(0.1)
    assert it.exchange.waiting == 3
    polls[0].cancel()
    await asyncio.sleep(0)
    assert it.exchange.waiting == 2
    await asyncio.sleep(0.2)
    assert (it.exchange.waiting, it.asked("info")) == (0, 1)


@virtual
async def test_what_had_to_make_room_is_counted() -> None:
    it = Simulation(store_bytes=20_000)
    chats = [it.chat() for _ in range(20)]
    for chat in chats:
        await it.info(chat)
        place = it.store.place(list(it.store._entries.held)[-1], FULL)
        assert place is not None
        it.store.arm(place, armed(replace(OF_CHAT, chat=Chat(ACCOUNT, chat))))
    counts, evictions = it.store.counts(), it.store.evictions()
    assert 0 < counts["entries"] == counts["slots"] < 20
    assert counts["entries"] + evictions["entries"] == 20
    assert (counts["contacts"], evictions["contacts"]) == (20, 0)
    it.store.touch(Chat(ACCOUNT, chats[0]), Contact(0.0))
    assert it.store.counts()["contacts"] == 20, "the same again is no more"


def test_only_what_others_push_out_is_evicted() -> None:
    table: Shares[str, int] = Shares(2)
    for key in ("a", "a", "b", "c"):
        table.put("owner", key, 1, 1)
    table.pop("c")
    table.prune("owner", lambda _: True)
    assert (table.evictions, len(table)) == (1, 0)


@pytest.mark.parametrize(
    ("state", "dies_at"),
    [(None, 150.0), ("waiting", 150.0), ("chatting", 150.0), ("ended", None), (GONE, None)],
)
def test_only_what_lives_dies(state: str | None, dies_at: float | None) -> None:
    assert Contact(100.0, 50.0, state).dies_at == dies_at


@virtual
async def test_a_single_stall_is_told_for_half_a_minute_at_least() -> None:
    loop, stalled_s = asyncio.get_running_loop(), 0.0

    def now() -> float:
        return loop.time() + stalled_s

    overload = Overload(Bounds, now, lambda: 0.0)
    watch = asyncio.create_task(overload.watch(now, lambda _: None))
    await asyncio.sleep(1.0)
    stalled_s = TICK_S + 0.7
    assert overload.lag_max_s == pytest.approx(0.7, abs=TICK_S), "also before it was looked"
    await asyncio.sleep(TICK_S * (LOOKS + 1))
    assert overload.lag_s == pytest.approx(0.0, abs=1e-3)
    assert overload.lag_max_s == pytest.approx(0.7, abs=TICK_S)
    await asyncio.sleep(GREATEST_S)
    assert overload.lag_max_s == pytest.approx(0.7, abs=TICK_S)
    await asyncio.sleep(GREATEST_S)
    assert overload.lag_max_s == pytest.approx(0.0, abs=1e-3)
    watch.cancel()
