"""Read your writes, over random schedules: whoever's write has ended is never shown what was before it.

A schedule is a list of steps, each a request of its own that starts at its time, whatever became of the
others; some are cancelled, some strike trouble. The history of a chat is what the emulator had, and from
when to when. Every answer must show one moment of that history: none from before the end of a write that
ended before the request began, and none that is older than the way the answer came allows.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import re
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.freshness import Failed
from gateway.core.messages import Chat, UpstreamRequest
from gateway.core.replies import Reply
from gateway.emulator import Fault, Hang, Reset, UnknownChatError
from gateway.stores.memory import MemoryStore
from tests.simulation import (
    DEADLINE_S,
    Simulation,
    as_json,
    cache_rule,
    caching,
    chat_path,
    header,
    nothing,
    outcome,
)
from tests.virtual import simulate

Seen = Mapping[str, object]
STALE_S = 5.0
ALLOWED = {200, 201, 400, 404, 502, 503, 504}
READS = ("info", "info.xml", "chat", "chat.xml", "events", "visitorName", "visitorTyping")
WRITES = ("rename", "typing", "not-typing", "line", "end")
OF_INFO = ("visitorName", "visitorTyping", "agentTyping", "state")
#: Nobody's write, and so seen by the end of the time that an answer is fresh.
AGENT = "the agent types or stops"
CACHED = ("info", "chat", "events", "visitorName", "visitorTyping")


class OneCounter(MemoryStore):
    """All chats share one generation, as chats do whose hashes collide."""

    _ANY = Chat("", "")

    def generation(self, chat: Chat) -> int:
        del chat
        return super().generation(self._ANY)

    def raise_generation(self, chat: Chat) -> None:
        del chat
        super().raise_generation(self._ANY)


@dataclass(frozen=True, slots=True)
class Step:
    """A request, so long after the step before it. `cancel_s` is when its client hangs up."""

    after_s: float
    chat: int
    action: str
    cancel_s: float | None = None
    trouble: str | None = None


#: What strikes the next request to the upstream of that kind.
TROUBLES: Mapping[str, Callable[[str], Fault]] = {
    "hangs, applied": lambda method: Fault(method=method, delivery=Hang(), applies=True),
    "fails, applied": lambda method: Fault(method=method, status=500, applies=True),
    "fails, not applied": lambda method: Fault(method=method, status=500, applies=False),
    "resets, applied": lambda method: Fault(method=method, delivery=Reset()),
    "is slow": lambda method: Fault(method=method, delay_s=1.0),
    "pauses": lambda method: Fault(method=method, status=429, retry_after="2"),
    "is told that the chat is gone": lambda method: Fault(method=method, status=404, code=12),
    "is told a redirect": lambda method: Fault(method=method, redirect="https://example.net/"),
}
LOST, LATE = "is lost", "arrives late"
ON_THE_WAY: Mapping[str, Callable[[], Awaitable[Failed | None]]] = {
    LOST: nothing,
    LATE: lambda: asyncio.sleep(1.0),
}

# Weighted for what can go wrong between a write and the reads around it, all within a second or so.
STEPS = st.builds(
    Step,
    after_s=st.sampled_from([0.0, 0.0, 0.03, 0.03, 0.1, 0.1, 0.2, 0.2, 0.5, 0.5, 1.0, 5.0]),
    chat=st.sampled_from([0] * 9 + [1]),
    action=st.sampled_from(["info"] * 8 + ["rename"] * 6 + [AGENT] * 3 + list(READS + WRITES)),
    cancel_s=st.sampled_from([None] * 20 + [0.0, 0.001, 0.1, 0.13]),
    trouble=st.sampled_from([None] * 16 + ["is slow", LATE] * 8 + [*TROUBLES, *ON_THE_WAY]),
)
# Half of each is one way. 12 s there is never there, 12 s back is too late.
LATENCIES = st.lists(st.sampled_from([0.12, 0.12, 0.12, 0.01, 0.4, 1.5, 12.0]), min_size=1, max_size=8)


@dataclass
class Story:
    """What one chat was at the emulator: `moments` are (from when, what)."""

    world: Simulation
    id: str
    moments: list[tuple[float, Seen]] = field(default_factory=list)
    floor: int = 0

    def look(self) -> None:
        """Take down what the emulator has now, if it is new."""
        try:
            chat = self.world.emulator.chat(self.id)
        except UnknownChatError:
            return
        now = {
            "visitorName": chat.visitor_name,
            "visitorTyping": chat.visitor_typing,
            "agentTyping": chat.agent_typing,
            "state": chat.state,
            "lines": chat.lines,
        }
        if not self.moments or self.moments[-1][1] != now:
            self.moments.append((self.world.clock.now(), now))

    def agent_acts(self) -> None:
        chat = self.world.emulator.chat(self.id)
        if chat.state == "chatting":
            self.world.emulator.agent_typing(self.id, typing=chat.agent_typing == "not-typing")
        self.look()

    def write_ended(self) -> None:
        """From now on, nobody may see less than this."""
        self.look()
        self.floor = len(self.moments) - 1

    def shows(self, seen: Seen, floor: int, since: float) -> bool:
        """Whether `seen` is of a moment from that one on, and one that was not over before `since`."""
        ends = [begin for begin, _ in self.moments[1:]] + [float("inf")]
        return any(
            all(what[name] == value for name, value in seen.items())
            for (_, what), end in list(zip(self.moments, ends, strict=True))[floor:]
            if end >= since - 1e-6
        )


class Run:
    """One schedule."""

    def __init__(self, world: Simulation, ttl_s: Mapping[str, float], latencies: Iterator[float]) -> None:
        self.world = world
        self.ttl_s = ttl_s
        self.stories = [Story(world, world.chat()) for _ in range(2)]
        self.on_the_way: list[tuple[str, str | None]] = []
        self.numbers = itertools.count()
        world.upstream.latency_s = lambda: next(latencies)
        world.upstream.interfere = self._interfere
        world.upstream.arrived = self.look

    def look(self) -> None:
        for story in self.stories:
            story.look()

    async def _interfere(self, request: UpstreamRequest) -> Failed | None:
        for waiting in self.on_the_way:
            if waiting[0] == request.method:
                self.on_the_way.remove(waiting)
                return await ON_THE_WAY[str(waiting[1])]()
        return None

    async def run(self, steps: list[Step]) -> None:
        self.look()
        tasks = []
        for step in steps:
            await asyncio.sleep(step.after_s)
            tasks.append(asyncio.create_task(self._cancelled(step)))
        await asyncio.gather(*tasks)
        self.world.emulator.clear_faults()
        self.on_the_way.clear()
        self.world.upstream.latency_s = lambda: 0.12
        await self.world.settle()
        await self._end_of_story()

    async def _end_of_story(self) -> None:
        """When all is quiet, everybody sees what is."""
        story = self.stories[0]
        story.write_ended()
        for action in READS:
            await self._read(story, action)
        await self.world.settle()
        assert self.world.metrics.crashes == 0

    async def _cancelled(self, step: Step) -> None:
        try:
            async with asyncio.timeout(step.cancel_s):
                await self._step(step)
        except TimeoutError:
            pass

    async def _step(self, step: Step) -> None:
        story = self.stories[step.chat]
        if step.action == AGENT:
            story.agent_acts()
            return
        is_read = step.action in READS
        if step.trouble in ON_THE_WAY:
            self.on_the_way.append(("GET" if is_read else "POST", step.trouble))
        elif step.trouble is not None:
            method = "GET" if is_read else "POST" if step.action in {"line", "end"} else "PUT"
            self.world.emulator.fail(TROUBLES[step.trouble](method))
        if is_read:
            await self._read(story, step.action)
        else:
            await self._write(story, step.action)

    async def _write(self, story: Story, action: str) -> None:
        mark = f"mark-{next(self.numbers)}"
        body = as_json(written(action, mark) | {"mark": mark})
        method, rest = ("POST", "/events") if action in {"line", "end"} else ("PUT", PLACES[action])
        reply = await self.world.ask(
            method, chat_path(story.id, rest), body=body, content_type="application/json"
        )
        assert reply.status in ALLOWED
        if any(sent.request.body == body for sent in self.world.upstream.sent):
            story.write_ended()

    async def _read(self, story: Story, action: str) -> None:
        name = action.removesuffix(".xml")
        floor, asked_at = story.floor, self.world.clock.now()
        accept = "application/xml" if action.endswith(".xml") else "application/json"
        reply = await self.world.ask("GET", chat_path(story.id, PLACES[name]), accept=accept)
        now = self.world.clock.now()
        assert reply.status in ALLOWED - {201, 400}
        if reply.status != 200:
            return
        assert header(reply, "content-type") == accept
        seen = observed(name, reply)
        assert seen.pop("chat", story.id) == story.id, "another chat's"
        since = {
            "hit": now - self.ttl_s.get(name, 0.0),
            "stale": now - self.ttl_s.get(name, 0.0) - STALE_S,
            "miss": asked_at,
            "collapsed": asked_at - DEADLINE_S,
            "bypass": asked_at,
        }[outcome(reply)]
        assert story.shows(seen, floor, since), (name, outcome(reply), seen, floor, since, story.moments)
        if outcome(reply) == "hit":
            assert int(header(reply, "age") or 99) <= self.ttl_s[name]


PLACES = {
    "info": "/info",
    "chat": "",
    "events": "/events",
    "visitorName": "/info/visitorName",
    "visitorTyping": "/info/visitorTyping",
    "rename": "/info/visitorName",
    "typing": "/info/visitorTyping",
    "not-typing": "/info/visitorTyping",
}


def written(action: str, mark: str) -> dict[str, Any]:
    if action == "rename":
        return {"visitorName": mark}
    if action == "line":
        return {"event": {"@type": "line", "text": mark}}
    if action == "end":
        return {"event": {"@type": "state", "state": "ended"}}
    return {"visitorTyping": action}


def observed(name: str, reply: Reply) -> dict[str, Any]:
    """What of a chat an answer shows."""
    if header(reply, "content-type") == "application/xml":
        return of_xml(name, reply.body.decode())
    said = json.loads(reply.body)
    if name in {"visitorName", "visitorTyping"}:
        return {name: said[name]}
    if name == "events":
        return {"lines": lines(said["events"])}
    if name == "chat":
        return of_info(said["chat"]["info"]) | {"lines": lines(said["chat"]["events"])}
    return of_info(said["info"])


def of_info(info: Mapping[str, Any]) -> dict[str, Any]:
    return {name: info[name] for name in OF_INFO} | {"chat": info["chatSessionKey"]}


def lines(events: Mapping[str, Any]) -> tuple[str, ...]:
    found = events.get("event", [])
    found = found if isinstance(found, list) else [found]
    return tuple(event["text"] for event in found if event.get("source") == "visitor")


def of_xml(name: str, text: str) -> dict[str, Any]:
    def value(tag: str) -> str:
        found: list[str] = re.findall(f"<{tag}>([^<]*)</{tag}>", text)
        return found[-1]

    seen = {tag: value(tag) for tag in OF_INFO}
    if name == "chat":
        return seen | {"lines": tuple(re.findall(r"<text>(mark-\d+)</text>", text))}
    return seen | {"chat": value("chatSessionKey")}


async def play(
    steps: list[Step], latencies: list[float], ttl_s: Mapping[str, float], store: type[MemoryStore]
) -> None:
    rules = {name: cache_rule(ttl, STALE_S) for name, ttl in ttl_s.items()}
    world = Simulation(policies=caching(rules), store=store)
    await Run(world, ttl_s, itertools.cycle(latencies)).run(steps)


@settings(max_examples=8 * settings().max_examples)
@given(
    steps=st.lists(STEPS, min_size=5, max_size=25),
    latencies=LATENCIES,
    ttl_s=st.sampled_from(
        [{"info": 1.0, "events": 1.0}, {"info": 8.0, "events": 1.0}, dict.fromkeys(CACHED, 3.0)]
    ),
    store=st.sampled_from([MemoryStore, OneCounter]),
)
def test_a_write_that_has_ended_is_seen_by_every_read_after_it(
    steps: list[Step], latencies: list[float], ttl_s: dict[str, float], store: type[MemoryStore]
) -> None:
    simulate(play(steps, latencies, ttl_s, store))


@pytest.mark.parametrize("write", WRITES)
@pytest.mark.parametrize("trouble", [None, *ON_THE_WAY, *TROUBLES])
def test_each_write_is_seen_however_it_ends(write: str, trouble: str | None) -> None:
    """Without luck: an older answer of everything is kept, another is in flight, a third comes meanwhile."""

    def reads(after_s: float, trouble: str | None = None) -> list[Step]:
        return [Step(after_s if read == READS[0] else 0.0, 0, read, trouble=trouble) for read in READS]

    writing = Step(0.1, 0, write, trouble=trouble)
    steps = [*reads(0.0), *reads(8.5, "is slow"), writing, *reads(0.03), *reads(5.2)]
    simulate(play(steps, [0.12], dict.fromkeys(CACHED, 8.0), MemoryStore))
