"""What a watch does with what polls bring, where it is told late, and where its watchers are not at one."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from gateway.core.judgement import Granted
from gateway.core.messages import Chat
from gateway.core.replies import Result
from gateway.demo.stage import ACCOUNT
from tests.push.following import Following, streaming
from tests.virtual import virtual


class Delayed:
    """The road's polls, and something to wait for after each."""

    def __init__(self, sim: Following, wait: Callable[[], Awaitable[None]]) -> None:
        self.count = 0
        self._sim = sim
        self._wait = wait
        sim.hub._polls = self

    async def poll(self, granted: Granted) -> Result:
        self.count += 1
        result = await self._sim.exchange.poll(granted)
        await self._wait()
        return result


@virtual
async def test_a_poll_that_a_write_overtook_is_made_again() -> None:
    sim = Following()
    chat = sim.chat()

    async def late() -> None:
        await asyncio.sleep(0.5)

    Delayed(sim, late)
    reader = await sim.follow(chat)
    sim.exchange.watchers = None  # What lands is not told.
    await asyncio.sleep(0.9)
    sim.emulator.agent_typing(chat)
    await asyncio.sleep(0.5)
    before = len(reader.messages)
    sim.hub.written(Chat(ACCOUNT, chat))
    await asyncio.sleep(0.4)
    assert len(reader.messages) == before
    await asyncio.sleep(3)
    assert len(reader.messages) == before + 1
    reader.leave()
    await sim.ended()


@virtual
async def test_what_others_ask_for_is_told_at_once() -> None:
    sim = Following()
    chat = sim.chat()

    async def never() -> None:
        await asyncio.Event().wait()

    Delayed(sim, never)
    reader = await sim.follow(chat)
    await asyncio.sleep(2)
    sim.emulator.agent_typing(chat)
    await sim.info(chat)
    assert reader.events == ["info", "info"]
    reader.leave()
    await sim.ended()


@virtual
async def test_nothing_is_asked_while_the_newest_is_fresh() -> None:
    sim = Following(streaming(ttl_s=5.0))
    chat = sim.chat()

    async def at_once() -> None:
        return None

    polls = Delayed(sim, at_once)
    reader = await sim.follow(chat)
    await asyncio.sleep(19)
    assert polls.count <= 5
    reader.leave()
    await sim.ended()


@virtual
async def test_who_begins_with_an_older_answer_loses_no_event() -> None:
    sim = Following(streaming(ttl_s=3.0))
    chat = sim.chat()
    first = await sim.follow(chat, "/events")
    await asyncio.sleep(2.5)
    readers = [first, await sim.follow(chat, "/events", "from=1")]
    sim.emulator.agent_line(chat, "hello")
    await asyncio.sleep(1.0)
    sim.hub.written(Chat(ACCOUNT, chat))
    await asyncio.sleep(0.5)
    assert first.lines[-1][1] == "hello"
    # What it begins with is kept, and of before the line.
    readers.append(await sim.follow(chat, "/events", "from=1"))
    # Who says that it has had more than there is takes nothing from the others.
    ahead = await sim.follow(chat, "/events", last_event_id="999")
    sim.emulator.agent_line(chat, "bye")
    await asyncio.sleep(4)
    for reader in readers:
        assert [text for _, text in reader.lines[-2:]] == ["hello", "bye"]
        reader.leave()
    assert ahead.lines == []
    ahead.leave()
    await sim.ended()
