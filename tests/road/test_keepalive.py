"""Nobody's chat dies of the cache, and nobody's chat is kept alive by it."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.freshness import Failed
from gateway.core.messages import Answer, Chat, UpstreamRequest
from gateway.core.replies import Reply
from gateway.demo.stage import ACCOUNT
from gateway.emulator import EmulatorConfig, Fault, Hang
from tests.simulation import (
    APP_KEY,
    EPOCH,
    Simulation,
    as_json,
    cache_rule,
    caching,
    chat_path,
    header,
    nothing,
    outcome,
)
from tests.virtual import simulate, virtual

#: The largest that the configuration takes, for chats that live.
LARGEST_TTL_S = 8.0
LARGEST = caching({"info": cache_rule(LARGEST_TTL_S, stale_s=8.0)})
CHAT_TIMEOUT_S = 40.0
POLL_S = 30.0
HOUR_S = 3600.0
#: All ways in which two clients who poll every 30 s can stand to each other.
PHASES = [half / 2 for half in range(60)]

Marks = Sequence[tuple[float, str]]
TROUBLES = ("503", "429", "timeout, lost", "timeout, reached")


@dataclass
class Troubles:
    """What goes wrong in each minute: `marks` are (seconds into it, what), in the order of time.

    Each strikes the next request to the upstream after its mark, one a request.
    """

    world: Simulation
    marks: Marks
    retry_after: str | None = None

    def __post_init__(self) -> None:
        minutes = (minute * 60.0 for minute in itertools.count())
        self._coming: Iterator[tuple[float, str]] = (
            (minute + into, what) for minute in minutes for into, what in self.marks
        )
        self._next = next(self._coming, None)
        self.struck = 0
        self.world.upstream.interfere = self.strike

    async def strike(self, _request: UpstreamRequest) -> Answer | Failed | None:
        if self._next is None or self.world.clock.now() < self._next[0]:
            return None
        what = self._next[1]
        self._next = next(self._coming, None)
        self.struck += 1
        if what == "timeout, lost":
            return await nothing()
        if what == "timeout, reached":
            self.world.emulator.fail(Fault(delivery=Hang()))
            return None
        await asyncio.sleep(0.12)
        head = ((b"retry-after", self.retry_after.encode()),) if self.retry_after else ()
        return Answer(int(what), head if what == "429" else (), b"")


async def insist(world: Simulation, chat: str) -> Reply:
    """Poll; after a 502, 503 or 504 again when Retry-After says, or after a second."""
    while True:
        reply = await world.info(chat)
        if reply.status not in {502, 503, 504}:
            return reply
        await asyncio.sleep(int(header(reply, "retry-after") or 1))


async def poll(world: Simulation, chat: str, first_at: float, until: float) -> bool:
    """A client as the vendor's pages want it; whether it found the chat alive each time."""
    for number in itertools.count():
        due = first_at + number * POLL_S
        if due > until:
            return True
        await asyncio.sleep(max(0.0, due - world.clock.now()))
        if (await insist(world, chat)).status != 200 or not lives(world, chat):
            return False
    raise AssertionError("the loop is endless")


def lives(world: Simulation, chat: str) -> bool:
    return world.emulator.chat(chat).state == "chatting"


async def survives(
    phase_s: float, marks: Marks, until: float, retry_after: str | None = None, offset_s: float = 0.0
) -> bool:
    """Whether a chat lives that two clients poll, `phase_s` apart, the first from `offset_s` on."""
    world = Simulation(policies=LARGEST, log_level="error")
    chat = world.chat()
    troubles = Troubles(world, marks, retry_after)
    firsts = (offset_s, offset_s + phase_s)
    lived = await asyncio.gather(*(poll(world, chat, first, until) for first in firsts))
    await world.settle()
    assert not all(lived) or troubles.struck >= len(marks) * (until // 60 - 1), "there was trouble"
    return all(lived)


@pytest.mark.parametrize("phase_s", PHASES)
def test_a_polled_chat_lives_for_an_hour_of_troubles(phase_s: float) -> None:
    """Two clients every 30 s; a 503, a 429 and a timeout in each minute, spread over it.

    Clients do as the vendor's page on retries and keepalive says: after a 502, 503 or 504 they ask again
    when Retry-After says, or after a second without it, and then go on with their 30 s.
    """
    marks = [(5.0, "503"), (25.0, "429"), (45.0, "timeout, lost")]
    assert simulate(survives(phase_s, marks, HOUR_S))


@pytest.mark.parametrize("retry_after", [None, "1", "2"])
@pytest.mark.parametrize("reached", ["timeout, lost", "timeout, reached"])
@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_a_polled_chat_lives_when_all_troubles_of_a_minute_come_at_once(
    order: tuple[int, ...], reached: str, retry_after: str | None
) -> None:
    """The worst there is: each strikes the retry after the one before, for the phases round the bounds."""
    troubles = ("503", "429", reached)
    for phase_s in (0.0, 5.0, 8.0, 22.0, 29.5):
        for into in (0.0, 20.0):
            marks = [(into + index / 1000, troubles[which]) for index, which in enumerate(order)]
            assert simulate(survives(phase_s, marks, 300.0, retry_after)), (phase_s, marks)


@given(
    phase_s=st.sampled_from(PHASES),
    offset_s=st.floats(0.0, 30.0),
    marks=st.permutations([0, 1, 2]).flatmap(
        lambda order: st.lists(st.floats(0.0, 59.0), min_size=3, max_size=3).map(
            lambda into: [
                (at, ("503", "429", "timeout, lost")[which])
                for at, which in zip(sorted(into), order, strict=True)
            ]
        )
    ),
    retry_after=st.sampled_from([None, "0", "1", "2"]),
)
def test_a_polled_chat_lives_wherever_the_troubles_strike(
    phase_s: float, offset_s: float, marks: Marks, retry_after: str | None
) -> None:
    assert simulate(survives(phase_s, marks, 300.0, retry_after, offset_s))


# -- the bound -----------------------------------------------------------------------------------------


@given(
    gaps=st.lists(
        st.sampled_from([0.0, 0.2, 0.8, 0.9, 1.0, 2.5, 7.8, 7.9, 7.99, 8.0, 8.1, 9.0, 30.0])
        | st.floats(0, 40),
        min_size=1,
        max_size=30,
    ),
    timeout_s=st.sampled_from([20, 32, 33, 34, 36, 40, 60, 3600]),
    ttl_s=st.sampled_from([1.0, 3.0, 8.0]),
    stale_s=st.sampled_from([0.0, 5.0, 8.0]),
    latency_s=st.sampled_from([0.01, 0.12, 0.6, 3.0]),
    fails=st.lists(st.sampled_from([None, None, "500", "429", "hang"]), min_size=1, max_size=6),
    resources=st.lists(st.sampled_from(["/info", "/info", "/info", "", "/info/agentTyping"]), min_size=1),
)
def test_nothing_is_served_in_a_chats_last_half_minute_without_contact(
    *,
    gaps: list[float],
    timeout_s: int,
    ttl_s: float,
    stale_s: float,
    latency_s: float,
    fails: list[str | None],
    resources: list[str],
) -> None:
    """Whatever comes from the cache comes before contact + chatTimeout - 32 s; then the chat dies on time."""

    async def main() -> None:
        policies = caching({"info": cache_rule(ttl_s, stale_s), "chat": cache_rule(ttl_s, stale_s)})
        config = EmulatorConfig(app_key=APP_KEY, accounts=(ACCOUNT,), ended_readable_s=86_400)
        world = Simulation(config=config, policies=policies, latency_s=lambda: latency_s)
        chat = world.chat(interactionTimeout=timeout_s)
        troubles = itertools.cycle(fails)
        for gap_s, rest in zip(gaps, itertools.cycle(resources), strict=False):
            await asyncio.sleep(gap_s)
            world.emulator.clear_faults()
            world.emulator.fail(*FAULTS[next(troubles)])
            if not lives(world, chat):
                return
            reply = await world.ask("GET", chat_path(chat, rest))
            if outcome(reply) in {"hit", "stale"}:
                answered = [sent.at for sent in world.upstream.sent if sent.is_contact]
                assert world.clock.now() <= max(answered) + timeout_s - 32 + 1e-6
                assert timeout_s > 32
        world.emulator.clear_faults()
        last_request_at = world.clock.now()
        await asyncio.sleep(5.0)
        assert all(sent.at <= last_request_at for sent in world.upstream.sent), "nobody asked any more"
        await asyncio.sleep(timeout_s)
        died = [
            event.time for event in world.emulator.chat(chat).events if event.fields.get("state") == "ended"
        ]
        assert died
        assert died[0] - EPOCH <= last_request_at + latency_s + timeout_s
        await world.settle()

    simulate(main())


FAULTS: dict[str | None, tuple[Fault, ...]] = {
    None: (),
    "500": (Fault(status=500),),
    "429": (Fault(status=429, retry_after="2"),),
    "hang": (Fault(delivery=Hang(), applies=False),),
}


@virtual
async def test_a_chat_with_a_short_timeout_is_coalesced_and_never_kept() -> None:
    world = Simulation()
    chat = world.chat(interactionTimeout=20)
    for round_number in range(1, 20):
        replies = await asyncio.gather(*(world.info(chat) for _ in range(10)))
        assert [outcome(reply) for reply in replies] == ["miss"] + ["collapsed"] * 9
        assert world.asked() == round_number
        await asyncio.sleep(0.01)
    await world.settle()


@virtual
async def test_a_shorter_timeout_counts_as_soon_as_it_is_known() -> None:
    world = Simulation(policies=LARGEST)
    chat = world.chat()
    await world.info(chat)
    shorter = as_json({"chat": {"info": {"state": "chatting", "chatTimeout": 20}}})
    world.emulator.fail(Fault(resource="chat", body=shorter))
    await world.ask("GET", chat_path(chat))
    assert outcome(await world.info(chat)) == "miss"
    assert world.asked("info") == 2, "looking again inside the flight knows no more than looking"
    await world.settle()


@virtual
async def test_a_chat_that_was_not_gone_after_all_is_bounded_again() -> None:
    world = Simulation(policies=caching({"visitorName": cache_rule(LARGEST_TTL_S, 8.0)}))
    chat = world.chat()
    world.emulator.fail(Fault(resource="info", status=404, code=12))
    assert (await world.info(chat)).status == 404
    sent_at = world.clock.now()
    await world.ask("GET", chat_path(chat, "/info/visitorName"))
    world.emulator.fail(Fault(status=500, times=None))
    await asyncio.sleep(sent_at + LARGEST_TTL_S + 0.01 - world.clock.now())
    assert (await world.ask("GET", chat_path(chat, "/info/visitorName"))).status == 502
    await world.settle()


# -- nobody polls --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("polls", "asked"),
    [
        ([0.0], 1),
        ([0.05 * number for number in range(140)], 1),  # a burst of hits
        ([0.0, LARGEST_TTL_S - 0.1], 2),  # a hit that starts a refresh, and then nothing
        ([0.0, LARGEST_TTL_S + 0.1], 2),
    ],
)
@virtual
async def test_a_chat_that_nobody_polls_any_more_dies_on_time(polls: list[float], asked: int) -> None:
    world = Simulation(policies=LARGEST)
    chat = world.chat()
    for moment in polls:
        await asyncio.sleep(moment - world.clock.now() if moment > world.clock.now() else 0.0)
        assert (await world.info(chat)).status == 200
    await world.settle()
    assert world.asked() == asked
    dies_at = world.upstream.sent[-1].at + 0.06 + CHAT_TIMEOUT_S
    await asyncio.sleep(dies_at - 0.01 - world.clock.now())
    assert lives(world, chat)
    await asyncio.sleep(0.02)
    assert not lives(world, chat)
    assert world.asked() == asked


@virtual
async def test_of_two_answers_the_one_asked_for_later_knows_better() -> None:
    """A slow answer that lands late brings its own facts, but they are older than what is known."""
    world = Simulation(latency_s=lambda: 0.1)
    chat = world.emulator.start_chat(ACCOUNT)
    world.emulator.fail(Fault(resource="chat", delay_s=1.0))
    slow = asyncio.create_task(world.ask("GET", chat_path(chat)))
    await asyncio.sleep(0.3)
    world.emulator.accept(chat)
    await world.info(chat)
    await slow
    contact = world.store.contact(Chat(ACCOUNT, chat))
    assert contact is not None
    assert contact.state == "chatting"
