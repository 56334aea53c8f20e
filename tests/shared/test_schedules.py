"""Random schedules of several replicas: who has written is never shown what was before, by whichever replica.

A schedule is a list of steps, each at its time: reads and writes by any replica, and what strikes: messages
that are lost or late, a way to Redis that is cut, a replica that dies, a Redis that is emptied or away, an
upstream that is slow or fails. Names are numbered, so an answer tells how old it is. What must hold:

- nobody is shown another chat;
- a write that all living replicas have acknowledged is seen by every read after it, and any write by every
  read of its own replica;
- by the others within the TTL, however many messages were lost (see `_owed`).
"""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.errors import Reason
from gateway.core.freshness import Failed
from gateway.core.replies import Reply
from gateway.emulator import Fault, Hang, Reset
from gateway.shared.replicas import WHOLE_S
from tests.shared.together import LEASE_S, USUAL_S, Replica, Together
from tests.simulation import DEADLINE_S, cache_rule, caching, outcome
from tests.virtual import simulate

#: Short, as it is shipped, and long enough for what is old to last through an outage.
TTLS_S = (1.0, 4.0)
REPLICAS = 3
EPS_S = 1e-6

READ, WRITE = "read", "write"


def _lose(it: Replica) -> None:
    it.way.losing += 1


def _slow(it: Replica) -> None:
    it.way.delay_s = lambda: 0.3
    asyncio.get_running_loop().call_later(0.7, _quick, it)


def _quick(it: Replica) -> None:
    it.way.delay_s = lambda: USUAL_S


def _cut(it: Replica) -> None:
    it.cut()
    asyncio.get_running_loop().call_later(1.5, it.mend)


def _empty(it: Replica) -> None:
    it.way.redis.empty()


def _away(it: Replica) -> None:
    redis = it.way.redis
    redis.answers = False
    asyncio.get_running_loop().call_later(0.8, setattr, redis, "answers", True)


#: What strikes a replica, its way, or Redis.
STRIKES: dict[str, Callable[[Replica], None]] = {
    "loses a message": _lose,
    "is slow to Redis": _slow,
    "is cut off": _cut,
    "finds Redis emptied": _empty,
    "finds Redis away": _away,
}
DIES = "dies"
DOWN, DOWN_S = "upstream is down", 2.5
#: What strikes the next request upstream.
TROUBLES: dict[str, Callable[[], Fault]] = {
    "upstream is slow": lambda: Fault(delay_s=0.7),
    "upstream hangs": lambda: Fault(delivery=Hang(), applies=True),
    "upstream fails": lambda: Fault(status=500, applies=True),
    "upstream resets": lambda: Fault(delivery=Reset()),
}


@dataclass(frozen=True, slots=True)
class Step:
    """So long after the step before it, a replica does something, or something strikes it."""

    after_s: float
    replica: int
    chat: int
    action: str


STEPS = st.builds(
    Step,
    after_s=st.sampled_from([0.0, 0.0, 0.001, 0.03, 0.03, 0.1, 0.2, 0.45, 0.9, 2.0]),
    replica=st.integers(0, REPLICAS - 1),
    chat=st.sampled_from([0] * 6 + [1]),
    action=st.sampled_from(
        [READ] * 12 + [WRITE] * 6 + [*STRIKES, *TROUBLES, DIES] + ["loses a message", DOWN] * 3
    ),
)


@dataclass
class Written:
    """A write that has ended: which name it gave, by whom; whether all acknowledged it, or were told."""

    number: int
    by: Replica
    ended_at: float
    acknowledged: bool
    told: bool


@dataclass
class Story:
    """A chat, and its names in the order in which the emulator had them."""

    id: str
    unheard_s: float
    names: list[str] = field(default_factory=list)
    writes: list[Written] = field(default_factory=list)

    def owed(self, reader: Replica, asked_at: float, how: str) -> int:
        """The least number that a read may show."""
        return max(
            (each.number for each in self.writes if self._owed(each, reader, asked_at, how)), default=-1
        )

    def _owed(self, write: Written, reader: Replica, asked_at: float, how: str) -> bool:
        if write.acknowledged or write.by is reader:
            return write.ended_at <= asked_at
        # Of a write by one who was cut off nobody has heard, so that what is stale may be from before it.
        until_s = math.inf if how == "stale" and not write.told else self.unheard_s
        return write.ended_at + until_s <= asked_at


class Run:
    def __init__(self, together: Together, ttl_s: float) -> None:
        self.together = together
        #: Until when others are shown what was before a write of which they have not heard.
        self.unheard_s = max(ttl_s, WHOLE_S)
        world = together.replicas[0].world
        self.stories = [Story(world.chat(), self.unheard_s) for _ in range(2)]
        self.numbers = 0
        self.down_until = 0.0
        together.upstream.arrived = self.look
        together.upstream.interfere = self._interfere

    async def _interfere(self, _: object) -> Failed | None:
        return Failed(Reason.UPSTREAM_RESET) if self.together.clock.now() < self.down_until else None

    def look(self) -> None:
        """Take down the names that the emulator has now."""
        for story in self.stories:
            name = self.together.emulator.chat(story.id).visitor_name
            if not story.names or story.names[-1] != name:
                story.names.append(name)

    async def play(self, steps: list[Step]) -> None:
        self.look()
        tasks = []
        for step in steps:
            await asyncio.sleep(step.after_s)
            tasks.append(asyncio.create_task(self._step(step)))
        await asyncio.gather(*tasks)
        self.together.emulator.clear_faults()
        self.down_until = 0.0
        for replica in self.together.living():
            _quick(replica)
        # All is well again.
        await asyncio.sleep(DEADLINE_S + 3 * LEASE_S + self.unheard_s)
        for story in self.stories:
            for replica in self.together.living():
                reply = await self._read(story, replica)
                assert reply.status == 200
                assert name_of(reply) == story.names[-1]

    async def _step(self, step: Step) -> None:
        replica, story = self.together.replicas[step.replica], self.stories[step.chat]
        if step.action == DOWN:
            self.down_until = self.together.clock.now() + DOWN_S
        elif step.action in TROUBLES:
            self.together.emulator.fail(TROUBLES[step.action]())
        elif not replica.is_alive:
            return
        elif step.action == DIES:
            # Somebody has to be left to ask.
            if len(self.together.living()) > 1:
                await replica.die()
        elif step.action in STRIKES:
            STRIKES[step.action](replica)
        elif step.action == READ:
            await self._read(story, replica)
        else:
            await self._write(story, replica)

    async def _write(self, story: Story, replica: Replica) -> None:
        self.numbers += 1
        name = f"mark-{self.numbers}"
        silent = replica.members.counts.silent
        raised = replica.raised
        await replica.world.rename(story.id, name)
        self.look()
        told = replica.raised > raised
        if name in story.names:
            now = self.together.clock.now()
            acknowledged = told and replica.members.counts.silent == silent
            story.writes.append(Written(story.names.index(name), replica, now, acknowledged, told))

    async def _read(self, story: Story, replica: Replica) -> Reply:
        asked_at = self.together.clock.now()
        reply = await replica.world.info(story.id)
        assert reply.status in {200, 502, 503, 504}
        if reply.status == 200 and replica.is_alive:
            how = outcome(reply)
            owed = story.owed(replica, asked_at - EPS_S, how)
            assert json.loads(reply.body)["info"]["chatSessionKey"] == story.id
            assert story.names.index(name_of(reply)) >= owed, (how, name_of(reply), owed, story)
        return reply


def name_of(reply: Reply) -> str:
    name: str = json.loads(reply.body)["info"]["visitorName"]
    return name


async def play(steps: list[Step], ttl_s: float) -> None:
    together = Together(REPLICAS, policies=caching({"info": cache_rule(ttl_s, stale_s=5.0)}))
    await together.begin()
    await Run(together, ttl_s).play(steps)
    await together.end()


@settings(max_examples=2 * settings().max_examples)
@given(steps=st.lists(STEPS, min_size=5, max_size=30), ttl_s=st.sampled_from(TTLS_S))
def test_no_replica_shows_what_was_before_a_write(steps: list[Step], ttl_s: float) -> None:
    simulate(play(steps, ttl_s))
