"""What was once wrong: long polls that told what was old, streams that heard nothing for all the writes."""

from __future__ import annotations

import asyncio
import itertools

import pytest

from tests.push.following import Following
from tests.simulation import chat_path, header
from tests.virtual import virtual


@virtual
async def test_a_long_poll_that_ends_beside_a_slow_upstream_tells_nothing_old() -> None:
    sim = Following()
    chat = sim.chat()
    events = chat_path(chat, "/events")

    async def slow(_: object) -> None:
        await asyncio.sleep(3.0)

    first = await sim.ask("GET", events, "from=50")
    assert first.status == 200
    began = sim.clock.now()
    waiting = asyncio.create_task(sim.ask("GET", events, "from=50", prefer="wait=3"))
    await asyncio.sleep(0.5)
    sim.upstream.interfere = slow
    reply = await waiting
    # It has joined the fetch that was under way: what came of that, and nothing of before.
    assert reply.status == 200
    assert sim.clock.now() - began > 3.1
    assert int(header(reply, "age") or "-1") <= 3


@virtual
async def test_who_goes_on_writing_does_not_silence_a_stream() -> None:
    sim = Following(latency_s=lambda: 1.5)
    chat = sim.chat()
    stream = await sim.follow(chat)
    for number in range(20):
        await asyncio.sleep(1.0)
        asyncio.create_task(sim.rename(chat, f"name-{number}"))  # noqa: RUF006 - it ends with the world
    told_at = [message.at for message in stream.messages]
    assert max(later - earlier for earlier, later in itertools.pairwise(told_at)) < 10
    assert len(told_at) >= 3
    await asyncio.sleep(5)


@pytest.mark.parametrize("last", ["999999999999999999", "9" * 400, "-1", "1.5", "\u0663"])
@virtual
async def test_a_last_id_that_is_none_begins_anew(last: str) -> None:
    sim = Following()
    chat = sim.chat()
    stream = await sim.follow(chat, "/events", last_event_id=last)
    await asyncio.sleep(0.5)
    assert [message.id for message in stream.messages][:1] == ["0"]
