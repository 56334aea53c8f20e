"""The upstream's budget on the road: what the vendor sees, and who gets what when there is too little."""

from __future__ import annotations

import asyncio
import json
import random
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.freshness import Failed
from gateway.core.limits import UNLIMITED
from gateway.core.links import LinkMap
from gateway.core.messages import Answer, Chat, UpstreamRequest
from gateway.core.replies import Reply
from gateway.demo.stage import ACCOUNT
from gateway.emulator import Drop, Fault, Hang
from gateway.upstream.budget import RECOVERY_S, Pace
from tests.simulation import PLENTY, EmulatedUpstream, Simulation, chat_path, header, name_of, outcome
from tests.virtual import simulate, virtual

LATENCY_S = 0.12
#: One every half second, and nothing put by but the first. Whoever waits does so for less than two turns.
SCARCE = Pace(per_s=2.0, burst=1, in_flight=10, queue=10, wait_s=0.9, reserve=0.0)
SPENDING = "/api/account/123/chat/estimatedWaitTime"


@dataclass(slots=True)
class Watched:
    """The upstream, and when each request to it began and ended."""

    upstream: EmulatedUpstream
    spans: list[tuple[float, float]] = field(default_factory=list)

    @property
    def links(self) -> LinkMap:
        return self.upstream.links

    async def send(self, request: UpstreamRequest, *, is_read: bool) -> Answer | Failed:
        now = asyncio.get_running_loop().time
        began = now()
        try:
            return await self.upstream.send(request, is_read=is_read)
        finally:
            self.spans.append((began, now()))

    def most_at_once(self) -> int:
        # Where one ends as another begins they are not at once.
        steps = sorted(step for began, ended in self.spans for step in ((began, 1), (ended, -1)))
        most = now = 0
        for _, change in steps:
            now += change
            most = max(most, now)
        return most

    def exceeded(self, pace: Pace) -> list[tuple[float, float]]:
        """The windows in which more were sent than rate and burst allow."""
        began = sorted(began for began, _ in self.spans)
        return [
            (began[first], began[last])
            for first in range(len(began))
            for last in range(first, len(began))
            if last - first + 1 > pace.per_s * (began[last] - began[first]) + pace.burst + 1e-3
        ]


def watched(pace: Pace) -> tuple[Simulation, Watched]:
    """A world with such a budget, in which no client has limits."""
    world = Simulation(pace=pace, log_level="error", latency_s=lambda: LATENCY_S)
    world.adopt(replace(client, limits=UNLIMITED) for client in world.state.policies.clients)
    watch = Watched(world.upstream)
    world.state = replace(world.state, upstream=watch)
    return world, watch


async def spend(world: Simulation) -> None:
    """Take the one that a scarce budget has at once, and have its place back."""
    assert (await world.ask("GET", SPENDING, subject="internal")).status == 200


def later(
    after_s: float, world: Simulation, chat: str, subject: str, rest: str = "/info"
) -> asyncio.Task[Reply]:
    """A read that comes so much later."""

    async def ask() -> Reply:
        await asyncio.sleep(after_s)
        return await world.ask("GET", chat_path(chat, rest), subject=subject)

    return asyncio.create_task(ask())


async def settled(world: Simulation) -> None:
    """Nothing is left of anything."""
    await world.settle()
    state = world.budget.state()[ACCOUNT]
    assert (state.waiting, state.in_flight) == (0, 0)
    assert not world.exchange._turns


def is_busy(reply: Reply) -> bool:
    is_told_when = int(header(reply, "retry-after") or 0) >= 1
    return reply.status == 503 and b"upstream-busy" in reply.body and is_told_when


# -- what the vendor sees ------------------------------------------------------------------------------


@given(
    pace=st.builds(
        Pace,
        per_s=st.floats(1, 40),
        burst=st.integers(1, 10),
        in_flight=st.integers(1, 8),
        queue=st.integers(1, 30),
        wait_s=st.floats(0.05, 2),
        reserve=st.sampled_from([0.0, 0.2, 0.9]),
    ),
    seed=st.integers(0, 2**32),
    crowd=st.integers(1, 80),
)
def test_the_vendor_never_sees_more_than_the_budget(pace: Pace, seed: int, crowd: int) -> None:
    """Neither in any window nor at once: whoever asks for what, leaves, and whatever the vendor does."""

    async def run() -> None:
        dice = random.Random(seed)
        world, watch = watched(pace)
        chats = [world.chat() for _ in range(8)]
        faults = [
            Fault(status=500),
            Fault(status=429, retry_after="1"),
            Fault(delivery=Hang()),
            Fault(delay_s=1.0),
            Fault(delivery=Drop()),
        ]
        world.emulator.fail(*dice.sample(faults, dice.randint(0, 3)))

        async def ask() -> None:
            await asyncio.sleep(dice.uniform(0, 6))
            chat, subject = dice.choice(chats), dice.choice(["bff", "internal", "partner"])
            if dice.random() < 0.2:
                asking = asyncio.ensure_future(world.rename(chat, "Natalie"))
            else:
                rest = dice.choice(["/info", "", "/events", "/info/agentTyping"])
                asking = asyncio.ensure_future(world.ask("GET", chat_path(chat, rest), subject=subject))
            patience_s = dice.choice([0.0, 0.1, 1.0, 20.0, 20.0])
            await asyncio.wait([asking], timeout=patience_s)
            asking.cancel()
            await asyncio.wait([asking])
            assert asking.cancelled() or asking.result().status in {200, 201, 502, 503, 504}

        await asyncio.gather(*(ask() for _ in range(crowd)))
        await settled(world)
        assert watch.most_at_once() <= pace.in_flight
        assert watch.exceeded(pace) == []

    simulate(run())


@virtual
async def test_the_whole_budget_is_used() -> None:
    world, watch = watched(Pace(per_s=10, burst=5, in_flight=3, queue=1000, wait_s=5.05, reserve=0.0))
    chats = [world.chat() for _ in range(60)]
    replies = await asyncio.gather(*(world.info(chat) for chat in chats))
    # Five at once are too many for three places: they go as places come free.
    assert sum(reply.status == 200 for reply in replies) == 5 + 10 * 5
    assert watch.most_at_once() == 3
    await settled(world)


# -- a refusal belongs to a waiter ---------------------------------------------------------------------


@virtual
async def test_a_flight_outlives_the_patience_of_who_opened_it() -> None:
    pace = replace(SCARCE, wait_s=0.4)
    world, watch = watched(pace)
    chat = world.chat()
    await spend(world)
    # The next turn is at 0.5 s: 0.38 from now.
    partner = later(0.0, world, chat, "partner")
    world.pace = replace(pace, wait_s=0.3)
    bff = later(0.25, world, chat, "bff")
    await asyncio.wait([partner])
    assert world.clock.now() == pytest.approx(LATENCY_S + 0.3)
    assert is_busy(partner.result())
    assert not bff.done()
    reply = await bff
    assert world.clock.now() == pytest.approx(0.5 + LATENCY_S)
    assert (reply.status, outcome(reply)) == (200, "collapsed")
    assert len(watch.spans) == 2
    await settled(world)


@pytest.mark.parametrize(("joins", "first"), [(True, "partner's"), (False, "internal's")])
@virtual
async def test_a_flight_has_the_best_priority_of_those_who_wait(joins: bool, first: str) -> None:
    world, watch = watched(SCARCE)
    chats = {"partner's": world.chat(), "internal's": world.chat()}
    await spend(world)
    asked = [
        later(0.0, world, chats["partner's"], "partner"),
        later(0.1, world, chats["internal's"], "internal"),
    ]
    if joins:
        asked.append(later(0.2, world, chats["partner's"], "bff"))
    await asyncio.gather(*asked)
    _, second, *_ = [sent.request.target for sent in world.upstream.sent]
    assert chats[first].encode() in second
    assert {reply.result().status for reply in asked} <= {200, 503}
    assert watch.exceeded(SCARCE) == []
    await settled(world)


@virtual
async def test_a_flight_that_nobody_waits_for_ends_with_the_last_patience() -> None:
    world, watch = watched(replace(SCARCE, per_s=0.01))
    chat = world.chat()
    await spend(world)
    replies = await asyncio.gather(later(0.0, world, chat, "partner"), later(0.5, world, chat, "bff"))
    assert [is_busy(reply) for reply in replies] == [True, True]
    assert world.clock.now() == pytest.approx(LATENCY_S + 0.5 + SCARCE.wait_s)
    assert len(watch.spans) == 1
    assert len(world.exchange.flights) == 0
    await settled(world)


@virtual
async def test_a_full_queue_gives_up_its_newest_of_the_lowest_priority() -> None:
    world, _ = watched(replace(SCARCE, queue=2))
    chats = [world.chat() for _ in range(5)]
    await spend(world)
    first = later(0.0, world, chats[0], "partner")
    second = later(0.01, world, chats[1], "partner")
    third = later(0.02, world, chats[2], "partner")
    await asyncio.wait([third])
    # No room, and nobody worse.
    assert is_busy(third.result())
    assert world.clock.now() == pytest.approx(LATENCY_S + 0.02)
    bff = later(0.0, world, chats[3], "bff")
    await asyncio.wait([second])
    assert is_busy(second.result())
    assert world.clock.now() == pytest.approx(LATENCY_S + 0.02)
    assert (await bff).status == 200
    assert world.clock.now() == pytest.approx(0.5 + LATENCY_S)
    assert (await first).status == 200
    await settled(world)


@virtual
async def test_who_comes_as_a_flight_is_given_up_is_not_refused_with_it() -> None:
    """At whatever step of the loop: a flight that has no turn any more is none to be joined."""
    for steps in range(12):
        world, _ = watched(replace(SCARCE, queue=1))
        chat, other = world.chat(), world.chat()
        await spend(world)
        partner = later(0.0, world, chat, "partner")
        await asyncio.sleep(0.1)
        evicting = asyncio.create_task(world.post(other, type="line", text="Hello"))
        for _ in range(steps):
            await asyncio.sleep(0)
        world.pace = replace(SCARCE, queue=10)
        reply, written, refused = await asyncio.gather(world.info(chat), evicting, partner)
        assert (reply.status, written.status) == (200, 201), steps
        assert refused.status == 200 or is_busy(refused)
        await settled(world)


# -- stale instead -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("asked_at", "status"), [(3.0, 200), (5.5, 200), (6.5, 503)])
@pytest.mark.parametrize("wait_s", [0.1, 0.9])
@virtual
async def test_a_stale_answer_stands_in_within_its_bound(wait_s: float, asked_at: float, status: int) -> None:
    world, watch = watched(replace(SCARCE, per_s=0.01, wait_s=wait_s))
    chat = world.chat()
    await world.info(chat)
    await asyncio.sleep(asked_at - world.clock.now())
    reply = await world.info(chat)
    assert reply.status == status
    assert outcome(reply) == "stale" if status == 200 else is_busy(reply)
    assert len(watch.spans) == 1
    await settled(world)


# -- writes --------------------------------------------------------------------------------------------


def generation(world: Simulation, chat: str) -> int:
    return world.store.generation(Chat(ACCOUNT, chat))


@virtual
async def test_a_write_waits_for_its_turn() -> None:
    world, watch = watched(SCARCE)
    chat = world.chat()
    await spend(world)
    assert (await world.rename(chat, "Natalie")).status == 201
    assert world.clock.now() == pytest.approx(0.5 + LATENCY_S)
    assert generation(world, chat) == 1
    assert watch.exceeded(SCARCE) == []
    await settled(world)


@pytest.mark.parametrize("pace", [replace(SCARCE, per_s=0.01), replace(SCARCE, per_s=0.01, queue=1)])
@virtual
async def test_a_write_that_is_refused_is_never_sent(pace: Pace) -> None:
    world, watch = watched(pace)
    chat = world.chat()
    await world.info(chat)
    replies = await asyncio.gather(*(world.rename(chat, "Zoe") for _ in range(3)))
    assert all(is_busy(reply) for reply in replies)
    assert outcome(await world.info(chat)) in {"hit", "stale"}
    await settled(world)
    assert generation(world, chat) == 0
    assert len(watch.spans) == 1
    assert world.emulator.chat(chat).visitor_name != "Zoe"


@virtual
async def test_a_write_whose_writer_left_the_queue_is_never_sent() -> None:
    for steps in range(20):
        world, watch = watched(SCARCE)
        chat = world.chat()
        await spend(world)
        writing = asyncio.create_task(world.rename(chat, "Zoe"))
        await asyncio.sleep(0.2)
        for _ in range(steps):
            await asyncio.sleep(0)
        writing.cancel()
        await asyncio.wait([writing])
        assert world.budget.state()[ACCOUNT].waiting == 0
        await settled(world)
        assert len(watch.spans) == 1
        assert generation(world, chat) == 0


@virtual
async def test_a_write_that_left_as_its_turn_came_is_sent_whole_or_not_at_all() -> None:
    sent = set()
    for steps in range(20):
        world, watch = watched(SCARCE)
        chat = world.chat()
        await spend(world)
        writing = asyncio.create_task(world.rename(chat, "Zoe"))
        await asyncio.sleep(0)
        [waiting] = world.budget._queues[ACCOUNT]._waiting
        await asyncio.wait([waiting.turn])
        for _ in range(steps):
            await asyncio.sleep(0)
        writing.cancel()
        await asyncio.wait([writing])
        await settled(world)
        is_sent = len(watch.spans) == 2
        assert (world.emulator.chat(chat).visitor_name == "Zoe") is is_sent
        assert generation(world, chat) == is_sent
        sent.add(is_sent)
    assert True in sent


# -- the vendor says 429 -------------------------------------------------------------------------------


@virtual
async def test_a_429_pauses_the_account_and_its_pace_recovers_by_itself() -> None:
    pace = Pace(per_s=10, burst=10, in_flight=100, queue=1000, wait_s=1.0, reserve=0.0)
    world, watch = watched(pace)
    world.emulator.fail(Fault(status=429, retry_after="3"))
    reply = await world.info(world.chat())
    paused_at = world.clock.now()
    assert (reply.status, header(reply, "retry-after")) == (503, "3")
    assert world.budget.state()[ACCOUNT].pace == pytest.approx(0.5)
    await asyncio.sleep(1.5)
    for waiting in (world.info(world.chat()), world.rename(world.chat(), "Zoe")):
        reply = await waiting
        assert (reply.status, header(reply, "retry-after")) == (503, "2")
        assert b"upstream-throttled" in reply.body
    await asyncio.sleep(paused_at + 3 - world.clock.now())

    async def flood(seconds: float) -> int:
        """Four times as much as there is; how many were let through."""
        before = len(watch.upstream.sent)
        asking = [later(at / 40, world, world.chat(), "internal") for at in range(round(seconds * 40))]
        await asyncio.sleep(seconds)
        sent = len(watch.upstream.sent) - before
        await asyncio.gather(*asking)
        return sent

    # From half of the pace to all of it within 30 s: three quarters on average, and no burst.
    assert await flood(RECOVERY_S) == pytest.approx(0.75 * 10 * RECOVERY_S, abs=3)
    await asyncio.sleep(5)
    assert world.budget.state()[ACCOUNT].pace == 1.0
    assert await flood(5.0) == pytest.approx(10 * 5 + 10, abs=2)
    assert not [began for began, _ in watch.spans if paused_at < began < paused_at + 3]
    assert watch.exceeded(pace) == []
    await settled(world)


@virtual
async def test_who_waits_as_a_429_comes_waits_on_or_is_told_of_the_pause() -> None:
    world, watch = watched(replace(SCARCE, wait_s=4.0))
    world.emulator.fail(Fault(status=429, retry_after="2"))
    throttled = asyncio.create_task(world.info(world.chat()))
    waiting = later(0.05, world, world.chat(), "bff")
    assert (await throttled).status == 503
    paused_at = world.clock.now()
    assert (await waiting).status == 200
    assert watch.spans[1][0] >= paused_at + 2
    await settled(world)


# -- many ----------------------------------------------------------------------------------------------


@virtual
async def test_a_partner_who_floods_takes_nothing_from_the_frontend() -> None:
    """A thousand cold chats a second against twenty, with a budget of fifty; quiet first, then loaded."""
    pace = Pace(per_s=50, burst=50, in_flight=100, queue=1000, wait_s=1.0, reserve=0.2)
    quiet = await frontend(pace, partner_per_s=0, joins=False)
    assert set(quiet) == {LATENCY_S}
    for joins in (False, True):
        loaded = await frontend(pace, partner_per_s=1000, joins=joins)
        assert percentile(loaded, 0.99) <= 2 * percentile(quiet, 0.99)


SECONDS, FRONTEND_PER_S = 6, 20


async def frontend(pace: Pace, *, partner_per_s: int, joins: bool) -> list[float]:
    """How long the frontend waited for each of its chats; it is refused none."""
    world, watch = watched(pace)
    chats = [world.chat() for _ in range(SECONDS * 1000)]
    others = [world.chat() for _ in range(SECONDS * FRONTEND_PER_S)]
    partner = [
        later(index / partner_per_s, world, chats[index], "partner")
        for index in range(SECONDS * partner_per_s)
    ]
    taken: list[float] = []
    how: set[str] = set()

    async def ask(index: int) -> None:
        # Off the partner's beat; a chat that it opened 50 ms before.
        at = (index + 0.5) / FRONTEND_PER_S + 0.0003
        await asyncio.sleep(at)
        chat = chats[round((at - 0.05) * 1000)] if joins and at > 0.05 else others[index]
        began = world.clock.now()
        reply = await world.info(chat)
        assert reply.status == 200
        how.add(outcome(reply))
        taken.append(round(world.clock.now() - began, 6))

    await asyncio.gather(*(ask(index) for index in range(SECONDS * FRONTEND_PER_S)))
    replies = await asyncio.gather(*partner)
    if partner_per_s:
        # It is not shut out either.
        served = sum(reply.status == 200 for reply in replies)
        assert served >= SECONDS * (pace.per_s - FRONTEND_PER_S) * 0.9
        assert all(reply.status == 200 or is_busy(reply) for reply in replies)
    assert ("collapsed" in how) is joins
    assert watch.exceeded(pace) == []
    await settled(world)
    return taken


def percentile(values: list[float], share: float) -> float:
    return sorted(values)[-(-len(values) * round(share * 100) // 100) - 1]


@virtual
async def test_a_storm_of_those_who_leave_leaves_nothing() -> None:
    world, _ = watched(Pace(per_s=30, burst=5, in_flight=4, queue=20, wait_s=0.5, reserve=0.2))
    dice = random.Random(7)
    chats = [world.chat() for _ in range(10)]

    async def ask() -> None:
        await asyncio.sleep(dice.uniform(0, 10))
        path = chat_path(dice.choice(chats), dice.choice(["/info", "/events", "/info/visitorName"]))
        asking = asyncio.ensure_future(world.ask("GET", path, subject=dice.choice(["bff", "partner"])))
        await asyncio.wait([asking], timeout=dice.uniform(0, 0.3))
        asking.cancel()
        await asyncio.wait([asking])

    await asyncio.gather(*(ask() for _ in range(1500)))
    await settled(world)
    replies = [await world.rename(chat, "Natalie") for chat in chats]
    assert [reply.status for reply in replies] == [201] * 10
    assert name_of(await world.info(chats[0])) == "Natalie"
    await settled(world)


@virtual
async def test_a_write_whose_turn_comes_when_all_is_drained_is_not_sent() -> None:
    world = Simulation(pace=replace(PLENTY, per_s=2, burst=1, wait_s=5.0))
    chat = world.chat()
    await world.info(chat)
    writing = asyncio.create_task(world.rename(chat, "Zoe"))
    await asyncio.sleep(0.01)
    assert world.budget.state()[ACCOUNT].waiting == 1
    await world.exchange.flights.drain(0)
    reply = await writing
    assert (reply.status, json.loads(reply.body)["type"]) == (503, "urn:chat-gateway:problem:draining")
    assert len(world.upstream.sent) == 1
    assert (world.budget.state()[ACCOUNT].waiting, world.budget.state()[ACCOUNT].in_flight) == (0, 0)
