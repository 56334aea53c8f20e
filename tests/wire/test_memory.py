"""Memory is bounded by bytes that mean something, and who has much pushes out nothing of who has little."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from itertools import count, islice
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.messages import Chat
from gateway.core.policy import Client, Condition
from gateway.core.views import FULL, View
from gateway.demo.stage import ACCOUNT, ISSUER
from gateway.shortcut import MAX_BLOCKS
from gateway.stores.memory import _index
from tests.benchmarks.ground import chat_id
from tests.benchmarks.memory import Cost, Polled, measure_chats, measure_tokens, polled, polls, token, tracing
from tests.connections import Peer
from tests.simulation import Simulation, cache_rule, caching, chat_path
from tests.support import until
from tests.virtual import simulate

#: The least that settings allow.
SMALL: Mapping[str, Any] = {
    "cache": {"max_bytes": 2**20},
    "memory": {"tokens_bytes": 2**20, "grants_bytes": 2**20},
}
FEW, MANY = range(20), 5_000


# -- weights -----------------------------------------------------------------------------------------------


def assert_honest(costs: dict[str, Cost]) -> None:
    for name, cost in costs.items():
        assert cost.takes <= cost.weighs <= 2 * cost.takes, (name, cost)


@pytest.mark.anyio
@pytest.mark.parametrize("views", [0, 1, 4])
async def test_chats_and_grants_weigh_what_they_take(views: int) -> None:
    with tracing():
        assert_honest(await measure_chats(200, views))


@pytest.mark.anyio
@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"If-None-Match": f'W/"{"0" * 100}"', "X-Request-ID": "0" * 64},
        {"If-None-Match": f'W/"{"0" * 7_000}"'},
    ],
    ids=["plain", "with fields that are looked at", "with more of them than is remembered"],
)
async def test_tokens_and_callers_weigh_what_they_take(fields: Mapping[str, str]) -> None:
    with tracing():
        assert_honest(await measure_tokens(400, fields))


# -- shares ------------------------------------------------------------------------------------------------


def of_a_few() -> list[bytes]:
    """The polls of a client with a few chats and a few tokens."""
    return [poll for number in FEW for poll in polls(token(number), (number, number + 1), times=2)]


def of_many_chats() -> list[bytes]:
    """The polls of one that looks at many chats: none that shares a counter with one of the few."""
    few = {_index(Chat(ACCOUNT, chat_id(number))) for number in range(len(FEW) + 1)}
    others = (number for number in count(100) if _index(Chat(ACCOUNT, chat_id(number))) not in few)
    return list(polls(token(0, 1), islice(others, MANY), times=2))


def of_many_tokens() -> list[bytes]:
    """The polls of one that has a token for each."""
    return [poll for number in range(MANY) for poll in polls(token(number, 1), (0,))]


def missed(it: Polled, questions: Iterable[bytes]) -> int:
    """How many of these the short cut does not answer."""
    short_cut = it.gateway.short_cut
    assert short_cut is not None
    return sum(short_cut.recall(question) is None for question in questions)


@pytest.mark.anyio
@pytest.mark.parametrize("crowd", [of_many_chats, of_many_tokens])
async def test_who_has_many_costs_nobody_else_anything(crowd: Callable[[], list[bytes]]) -> None:
    async with polled(views=1, **SMALL) as it:
        verify = it.gateway._verifier.verify
        mine, theirs = of_a_few(), crowd()
        await it.ask(mine)
        claims = [await verify(b"Bearer " + token(number), None) for number in FEW]
        await it.ask(theirs)
        assert not missed(it, mine)
        for number, one in zip(FEW, claims, strict=True):
            assert await verify(b"Bearer " + token(number), None) is one
        # They are in each other's way, so it was not for want of a crowd.
        assert len(theirs) / 2 < missed(it, theirs) < len(theirs)
        for kind, (kept, most) in it.gateway.metrics.gauges.kept().items():
            assert kept <= most, kind


@pytest.mark.anyio
async def test_tokens_that_lead_to_no_client_cost_no_client_anything() -> None:
    async with polled(**SMALL) as it:
        verify = it.gateway._verifier.verify
        claims = [await verify(b"Bearer " + token(number), None) for number in FEW]
        await it.verify(token(number, client_number=7) for number in range(MANY))
        for number, one in zip(FEW, claims, strict=True):
            assert await verify(b"Bearer " + token(number), None) is one


@pytest.mark.anyio
async def test_a_token_that_comes_in_ever_other_headers_costs_no_more() -> None:
    async with polled() as it:
        for number in range(3 * MAX_BLOCKS):
            await it.ask(polls(token(0), (number,), times=2, fields={"X-Request-ID": str(number)}))
        assert it.gateway.short_cut is not None
        assert len(it.gateway.short_cut._blocks) == MAX_BLOCKS


@pytest.mark.anyio
async def test_each_kind_has_the_bound_that_is_set() -> None:
    said: Mapping[str, Any] = {
        "cache": {"max_bytes": 2**20},
        "memory": {"tokens_bytes": 2**21, "grants_bytes": 2**22},
    }
    async with polled(**said) as it:
        kept = it.gateway.metrics.gauges.kept()
        assert kept == {"entries": (0, 2**20), "tokens": (0, 2**21), "grants": (0, 2**22)}


# -- flights -----------------------------------------------------------------------------------------------


@pytest.mark.anyio
async def test_no_flight_is_evicted() -> None:
    """While flights are in the air, the store is filled several times over, and more wait for them."""
    slow, quick = range(40), range(100, 700)
    async with polled(**SMALL) as it:
        it.upstream.slow = frozenset(chat_id(number).encode() for number in slow)
        waiting: dict[Peer, int] = {}
        for begin in range(100, 700, 200):
            for number in slow:
                peer = it.edge.connect()
                peer.send(next(polls(token(0), (number,))))
                waiting[peer] = number
            await it.ask(polls(token(0), range(begin, begin + 200), times=2))
        assert it.upstream.asked == len(slow) + len(quick)
        assert not any(peer.received for peer in waiting)
        it.upstream.may.set()
        await until(lambda: all(peer.received for peer in waiting))
        for peer, number in waiting.items():
            assert peer.text.startswith(b"HTTP/1.1 200")
            assert chat_id(number).encode() in peer.text.partition(b"\r\n\r\n")[2]
        assert it.upstream.asked == len(slow) + len(quick)
        assert len(it.gateway.exchange.flights) == 0
        assert it.weight("entries") <= 2**20
        for peer in waiting:
            peer.hang_up()


# -- whatever happens --------------------------------------------------------------------------------------

#: Room for a few entries, and a few callers with their passes, for each of three.
TIGHT_BYTES = 30_000
VIEWS = (FULL, View(hide=frozenset({"visitorName"})), View(show=frozenset({"state"})))
CLIENTS = tuple(
    Client(
        f"client-{number}",
        (Condition("iss", (ISSUER,)), Condition("sub", tuple(f"{name}-{number}" for name in "abcd"))),
        None,
        ("chat:read", "chat:write"),
        view=view,
    )
    for number, view in enumerate(VIEWS)
)
POLLS = st.tuples(
    st.sampled_from([f"{name}-{number}" for name in "abcd" for number in range(3)]),
    st.integers(0, 7),
    st.sampled_from(["/info", "/info.json", "/info?v=1", "/events"]),
    st.sampled_from("12345678"),
)
STEPS = st.one_of(POLLS, POLLS, POLLS, st.sampled_from(["write", "forget", "all again", 0.3, 2.0, 40.0]))


def assert_bounded(it: Simulation) -> None:
    store, short_cut = it.store, it.short_cut
    assert short_cut is not None
    for table, most in (
        (store._entries, TIGHT_BYTES),
        (short_cut._callers, TIGHT_BYTES // 4),
        (short_cut._passes, TIGHT_BYTES - TIGHT_BYTES // 4),
    ):
        assert table.weight <= most
    assert set(short_cut._blocks) == {
        block for held in short_cut._callers.held.values() for block in held.value.blocks
    }
    kept = {place for held in store._entries.held.values() for place in held.value.places.values()}
    listed = {place for places in store._armed.values() for place in places}
    passed = {held.value.place for held in short_cut._passes.held.values()}
    armed = {place for place in kept | listed | passed if place.armed is not None}
    assert armed <= kept, "a place is armed whose entry has left"
    assert armed <= listed, "a place is armed that nothing would disarm"


Step = tuple[str, int, str, str] | str | float


async def lived(steps: list[Step]) -> int:
    """Go through all that, and see that memory is bounded all along; how often the short cut answered."""
    rules = {name: cache_rule(1.0) for name in ("info", "events")}
    policies = replace(caching(rules), clients=CLIENTS)
    it = Simulation(policies=policies, store_bytes=TIGHT_BYTES, grants_bytes=TIGHT_BYTES)
    chats = [it.chat() for _ in range(8)]
    for step in steps:
        match step:
            case (subject, number, rest, host):
                line = f"GET {chat_path(chats[number], rest)} HTTP/1.1"
                head = f"{line}\r\nhost: {host}\r\nauthorization: Bearer {subject}\r\naccept: */*\r\n\r\n"
                peer = it.edge.connect()
                for _ in range(3):
                    peer.send(head.encode())
                    await asyncio.sleep(0.2)
                peer.hang_up()
            case float():
                await asyncio.sleep(step)
            case "write":
                await it.ask("PUT", chat_path(chats[0], "/info/visitorName"), subject="a-0")
            case "forget":
                it.forget_client("client-2")
            case _:
                it.adopt(CLIENTS)
        assert_bounded(it)
    await it.settle()
    assert_bounded(it)
    return sum(sum(statuses.values()) for statuses in it.metrics._hits.values())


def test_memory_is_bounded_whatever_happens() -> None:
    answered = 0

    @given(st.lists(STEPS, min_size=10, max_size=40))
    def bounded(steps: list[Step]) -> None:
        nonlocal answered
        answered += simulate(lived(steps))

    bounded()
    assert answered > 100
