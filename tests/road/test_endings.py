"""How a flight may end: who shares what, what is kept, and what the next request gets."""

from __future__ import annotations

import asyncio
import json
from itertools import pairwise
from typing import Any

import pytest

from gateway.core.messages import UpstreamRequest
from gateway.core.replies import Reply
from gateway.emulator import Drop, Fault, Hang, Reset, Truncate
from tests.simulation import (
    DEADLINE_S,
    EPOCH,
    MAX_PAUSE_S,
    STALE_AFTER_S,
    Simulation,
    cache_rule,
    caching,
    chat_path,
    header,
    name_of,
    outcome,
)
from tests.virtual import virtual

#: Of the shipped rule for info.
TTL_S, STALE_S = 1.0, 5.0


def for_ever(**said: Any) -> Fault:
    return Fault(resource="info", times=None, **said)


UNWELL = {
    "500": for_ever(status=500),
    "500 code 20": for_ever(status=500, code=20),
    "503": for_ever(status=503),
    "408": for_ever(status=408),
    "drop": for_ever(delivery=Drop()),
    "reset": for_ever(delivery=Reset(20)),
    "truncate": for_ever(delivery=Truncate(20)),
}
UNUSABLE = {
    "302": for_ever(redirect="https://va-e.convep.liveperson.net/elsewhere"),
    "304": for_ever(status=304),
    "204": for_ever(status=204, body=b""),
    "206": for_ever(status=206),
    "half a document": for_ever(body=b'{"info": {'),
    "no document": for_ever(body=b""),
    "another type": for_ever(content_type="text/html"),
    "another representation": for_ever(content_type="application/xml"),
    "NaN": for_ever(body=b'{"info": {"duration": NaN}}'),
    "key refused": for_ever(status=401, code=10),
}


def some(faults: dict[str, Fault]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("fault", faults.values(), ids=faults.keys())


async def at(moment: float) -> None:
    """Wait until that moment of virtual time."""
    await asyncio.sleep(moment - asyncio.get_running_loop().time())


async def many(world: Simulation, chat: str, clients: int = 20) -> list[Reply]:
    return await asyncio.gather(*(world.info(chat) for _ in range(clients)))


# -- 2xx -----------------------------------------------------------------------------------------------


@virtual
async def test_an_answer_is_shared_and_kept() -> None:
    world = Simulation()
    chat = world.chat()
    replies = await many(world, chat)
    assert {reply.body for reply in replies} == {replies[0].body}
    assert [outcome(reply) for reply in replies] == ["miss"] + ["collapsed"] * 19
    assert outcome(await world.info(chat)) == "hit"
    assert world.asked() == 1
    await world.settle()


@virtual
async def test_a_fresh_answer_is_never_older_than_its_ttl_and_nobody_waits() -> None:
    world = Simulation()
    chat = world.chat()
    await world.info(chat)
    for _ in range(600):
        await asyncio.sleep(0.01)
        asked_at = world.clock.now()
        reply = await world.info(chat)
        assert outcome(reply) == "hit"
        assert world.clock.now() == asked_at
        assert header(reply, "age") == "0"
    assert world.asked() <= 8
    await world.settle()


@pytest.mark.parametrize(("asked_at", "how"), [(2.99, "hit"), (3.01, "miss")])
@virtual
async def test_an_age_counts_from_when_the_upstream_was_asked(asked_at: float, how: str) -> None:
    world = Simulation(latency_s=lambda: 1.0, policies=caching({"info": cache_rule(3.0, stale_s=0.0)}))
    chat = world.chat()
    assert header(await world.info(chat), "age") == "1"
    await at(asked_at)
    reply = await world.info(chat)
    assert outcome(reply) == how
    assert header(reply, "age") == ("2" if how == "hit" else "1")
    await world.settle()


@virtual
async def test_json_and_xml_at_once_are_two() -> None:
    world = Simulation()
    chat = world.chat()
    types = ["application/json", "application/xml"] * 20
    replies = await asyncio.gather(*(world.info(chat, accept=accept) for accept in types))
    assert [header(reply, "content-type") for reply in replies] == types
    assert world.asked() == 2
    await world.settle()


# -- a write while in flight ---------------------------------------------------------------------------


@virtual
async def test_a_write_parts_those_who_came_before_from_those_who_come_after() -> None:
    world = Simulation()
    chat = world.chat()
    world.emulator.fail(Fault(resource="info", delay_s=1.0))
    before = [asyncio.create_task(world.info(chat)) for _ in range(5)]
    await at(0.2)
    await world.rename(chat, "Natalie")
    after = await many(world, chat)
    assert {name_of(reply) for reply in after} == {"Natalie"}
    assert world.clock.now() < 1.0, "nobody waited for the flight from before the write"
    assert {name_of(reply) for reply in await asyncio.gather(*before)} == {"You"}
    kept = await world.info(chat)
    assert (outcome(kept), name_of(kept)) == ("hit", "Natalie")
    assert world.asked("info") == 2
    await world.settle()


# -- 404 with code 12, and other faults of the caller --------------------------------------------------


@virtual
async def test_a_chat_that_is_gone_stays_gone_for_two_seconds() -> None:
    world = Simulation()
    chat = world.chat()
    world.emulator.fail(Fault(resource="info", status=404, code=12))
    assert {reply.status for reply in await many(world, chat)} == {404}
    await at(1.99)
    reply = await world.info(chat)
    assert (reply.status, outcome(reply)) == (404, "hit")
    assert json.loads(reply.body)["error"]["internalCode"] == 12
    assert world.asked() == 1
    await at(2.01)
    assert (await world.info(chat)).status == 200
    await world.settle()


@pytest.mark.parametrize("applies", [True, False])
@virtual
async def test_any_write_drops_what_is_known_of_a_chat_that_is_gone(applies: bool) -> None:
    world = Simulation()
    chat = world.chat()
    world.emulator.fail(
        Fault(resource="info", status=404, code=12), Fault(method="PUT", status=500, applies=applies)
    )
    assert (await world.info(chat)).status == 404
    assert (await world.rename(chat, "Natalie")).status == 502
    assert (await world.info(chat)).status == 200
    await world.settle()


@virtual
async def test_the_callers_fault_is_shared_once_and_not_kept() -> None:
    world = Simulation()
    chat = world.chat()
    world.emulator.fail(Fault(resource="info", status=400, code=28, message="null for uri: /x?appKey=y"))
    replies = await many(world, chat)
    assert {reply.status for reply in replies} == {400}
    assert all(b"appKey=y" not in reply.body for reply in replies)
    assert (world.asked(), (await world.info(chat)).status, world.asked()) == (1, 200, 2)
    await world.settle()


# -- our key is refused --------------------------------------------------------------------------------


@virtual
async def test_a_refused_key_is_our_fault() -> None:
    world = Simulation()
    chat = world.chat()
    world.emulator.app_keys = ("another",)
    replies = await many(world, chat)
    assert {reply.status for reply in replies} == {502}
    assert world.asked() == 1
    assert header(replies[0], "proxy-status") == (
        "chat-gateway; error=proxy_configuration_error; received-status=401"
    )
    await world.settle()


@virtual
async def test_a_write_whose_key_is_refused_is_not_repeated() -> None:
    world = Simulation()
    chat = world.chat()
    world.emulator.fail(Fault(method="PUT", status=403))
    assert (await world.rename(chat, "Natalie")).status == 502
    assert world.asked() == 1
    await world.settle()


# -- an upstream that is unwell ------------------------------------------------------------------------


@some(UNWELL)
@virtual
async def test_a_failure_is_shared_once_as_502(fault: Fault) -> None:
    world = Simulation()
    chat = world.chat()
    world.emulator.fail(fault)
    assert {reply.status for reply in await many(world, chat)} == {502}
    assert world.asked() == 1
    await world.settle()


@some(UNWELL)
@virtual
async def test_a_failure_is_covered_by_a_stale_answer_within_its_bound_and_never_beyond(fault: Fault) -> None:
    world = Simulation()
    chat = world.chat()
    await world.info(chat)
    world.emulator.fail(fault)
    while world.clock.now() < 10:
        asked_at = world.clock.now()
        reply = await world.info(chat)
        if asked_at < TTL_S:
            assert outcome(reply) == "hit"
        elif world.clock.now() < TTL_S + STALE_S:
            assert (reply.status, outcome(reply)) == (200, "stale")
        elif asked_at >= TTL_S + STALE_S:
            assert reply.status == 502
        await asyncio.sleep(0.01)
    await world.settle()


@some(UNUSABLE)
@virtual
async def test_an_unusable_answer_is_502_even_where_a_stale_one_is_at_hand(fault: Fault) -> None:
    world = Simulation()
    chat = world.chat()
    await world.info(chat)
    world.emulator.fail(fault)
    await at(TTL_S + 0.01)
    assert {reply.status for reply in await many(world, chat)} == {502}
    assert world.asked() == 2
    await world.settle()


@some(UNWELL | UNUSABLE)
@virtual
async def test_a_sick_target_is_probed_once_a_step(fault: Fault) -> None:
    world = Simulation()
    chat = world.chat()
    world.emulator.fail(fault)
    while world.clock.now() < 40:
        reply = await world.info(chat)
        assert reply.status == 502
        assert 1 <= int(header(reply, "retry-after") or 0) <= MAX_PAUSE_S
        await asyncio.sleep(0.05)
    probes = [sent.at for sent in world.upstream.sent]
    steps = [later - earlier for earlier, later in pairwise(probes)]
    for step, expected in zip(steps, [0.25, 0.5, 1.0, 2.0, 4.0] + [5.0] * 20, strict=False):
        assert expected <= step <= expected + 0.3, "no longer than a step, a round trip and a poll"
    assert len(steps) >= 10, "it is probed for ever"
    await world.settle()


@virtual
async def test_backoff_starts_over_after_an_answer() -> None:
    world = Simulation()
    chat = world.chat()

    async def probes_of_a_bad_time() -> list[float]:
        began = len(world.upstream.sent)
        world.emulator.fail(Fault(resource="info", status=500, times=4))
        for _ in range(600):
            await world.info(chat)
            await asyncio.sleep(0.05)
        sent = [one.at for one in world.upstream.sent[began : began + 5]]
        return [later - earlier for earlier, later in pairwise(sent)]

    first, second = await probes_of_a_bad_time(), await probes_of_a_bad_time()
    assert first == pytest.approx(second, abs=0.06), "but for the phase of the polls"
    await world.settle()


@virtual
async def test_a_sick_target_does_not_hold_back_another() -> None:
    world = Simulation()
    sick, well = world.chat(), world.chat()
    world.emulator.fail(Fault(resource="info", chat=sick, status=500))
    assert (await world.info(sick)).status == 502
    assert (await world.info(well)).status == 200
    await world.settle()


# -- 429 -----------------------------------------------------------------------------------------------


PAUSES = pytest.mark.parametrize(
    ("retry_after", "pause_s"), [("2", 2.0), (None, 1.0), ("3600", MAX_PAUSE_S), ("soon", 1.0), ("0", 1.0)]
)


async def read(world: Simulation, chat: str) -> Reply:
    return await world.info(chat)


async def forward(world: Simulation, chat: str) -> Reply:
    return await world.ask("GET", chat_path(chat, "/info/agentTyping"))


async def write(world: Simulation, chat: str) -> Reply:
    return await world.rename(chat, "Natalie")


ROADS = (read, forward, write)


@PAUSES
@pytest.mark.parametrize("first", ROADS)
@virtual
async def test_a_pause_speaks_for_the_account_and_is_believed_up_to_a_bound(
    first: object, retry_after: str | None, pause_s: float
) -> None:
    world = Simulation()
    chat, other = world.chat(), world.chat()
    world.emulator.fail(Fault(status=429, retry_after=retry_after))
    assert callable(first)
    refused = await first(world, chat)
    over_at = world.clock.now() + pause_s
    assert refused.status == 503
    assert int(header(refused, "retry-after") or 0) == pause_s
    while world.clock.now() < over_at - 0.05:
        held = [await ask(world, other) for ask in ROADS]
        assert {reply.status for reply in held} == {503}
        for reply in held:
            assert 1 <= int(header(reply, "retry-after") or 0) <= pause_s
        await asyncio.sleep(0.1)
    assert world.asked() == 1
    await at(over_at)
    assert (await read(world, other)).status == 200
    await world.settle()


@virtual
async def test_a_pause_is_covered_by_a_stale_answer() -> None:
    world = Simulation()
    chat = world.chat()
    await world.info(chat)
    await at(TTL_S + 0.01)
    world.emulator.fail(Fault(status=429, retry_after="3"))
    for _ in range(5):
        reply = await world.info(chat)
        assert (reply.status, outcome(reply)) == (200, "stale")
    assert world.asked() == 2
    await world.settle()


# -- slow, and never -----------------------------------------------------------------------------------


@virtual
async def test_a_slow_upstream_is_covered_by_a_stale_answer_while_the_flight_goes_on() -> None:
    world = Simulation()
    chat = world.chat()
    await world.info(chat)
    world.emulator.fail(Fault(resource="info", delay_s=2.0))
    await at(TTL_S + 0.01)
    replies = await many(world, chat)
    assert world.clock.now() == pytest.approx(TTL_S + 0.01 + STALE_AFTER_S)
    assert {outcome(reply) for reply in replies} == {"stale"}
    await at(TTL_S + 0.01 + 2.121)
    assert world.asked() == 2
    await world.settle()
    assert world.asked() == 2


@virtual
async def test_what_a_slow_flight_brings_is_kept() -> None:
    world = Simulation(policies=caching({"info": cache_rule(3.0)}))
    chat = world.chat()
    await world.info(chat)
    world.emulator.fail(Fault(resource="info", delay_s=1.0))
    await at(3.01)
    assert outcome(await world.info(chat)) == "stale"
    await at(3.01 + 1.121)
    assert outcome(await world.info(chat)) == "hit"
    assert world.asked() == 2
    await world.settle()


@virtual
async def test_nothing_by_the_deadline_is_504() -> None:
    world = Simulation()
    chat = world.chat()
    world.emulator.fail(Fault(resource="info", delivery=Hang()))
    assert {reply.status for reply in await many(world, chat)} == {504}
    assert world.clock.now() == DEADLINE_S
    assert world.asked() == 1
    held = await world.info(chat)
    assert (held.status, header(held, "retry-after")) == (504, "1")
    assert world.asked() == 1
    await at(DEADLINE_S + 0.25)
    assert (await world.info(chat)).status == 200
    await world.settle()


@virtual
async def test_a_stale_answer_covers_a_hanging_upstream_within_its_bound() -> None:
    world = Simulation()
    chat = world.chat()
    await world.info(chat)
    world.emulator.fail(for_ever(delivery=Hang()))
    while world.clock.now() < 20:
        asked_at = world.clock.now()
        reply = await world.info(chat)
        if TTL_S <= asked_at < TTL_S + STALE_S - STALE_AFTER_S:
            assert outcome(reply) == "stale"
        if world.clock.now() >= TTL_S + STALE_S:
            assert reply.status == 504
        await asyncio.sleep(0.05)
    await world.settle()


# -- waiters -------------------------------------------------------------------------------------------


@virtual
async def test_who_leaves_leaves_alone() -> None:
    world = Simulation()
    chat = world.chat()
    waiting = [asyncio.create_task(world.info(chat)) for _ in range(100)]
    await at(0.05)
    for task in waiting[:90]:
        task.cancel()
    replies = await asyncio.gather(*waiting, return_exceptions=True)
    assert sum(isinstance(reply, asyncio.CancelledError) for reply in replies) == 90
    assert [reply.status for reply in replies if isinstance(reply, Reply)] == [200] * 10
    assert world.asked() == 1
    await world.settle()


@virtual
async def test_one_waiters_deadline_is_not_the_others() -> None:
    world = Simulation(latency_s=lambda: 1.0)
    chat = world.chat()
    patient = asyncio.create_task(world.info(chat))
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await world.info(chat)
    assert (await patient).status == 200
    assert world.asked() == 1
    await world.settle()


@virtual
async def test_a_flight_that_all_have_left_lands_and_is_kept() -> None:
    world = Simulation()
    chat = world.chat()
    waiting = [asyncio.create_task(world.info(chat)) for _ in range(10)]
    await at(0.05)
    for task in waiting:
        task.cancel()
    await at(0.2)
    assert len(world.exchange.flights) == 0
    assert outcome(await world.info(chat)) == "hit"
    assert world.asked() == 1
    await world.settle()


@virtual
async def test_a_write_whose_writer_left_is_done_all_the_same() -> None:
    world = Simulation()
    chat = world.chat()
    await world.info(chat)
    writing = asyncio.create_task(world.rename(chat, "Natalie"))
    await at(0.13)
    writing.cancel()
    await at(0.3)
    assert world.emulator.chat(chat).visitor_name == "Natalie"
    assert name_of(await world.info(chat)) == "Natalie"
    await world.settle()


@virtual
async def test_who_waited_must_still_be_allowed() -> None:
    world = Simulation()
    chat = world.chat()
    world.verifier.expires_at["partner"] = EPOCH + 0.1
    partner = asyncio.create_task(world.info(chat, subject="partner"))
    bff = asyncio.create_task(world.info(chat))
    assert ((await partner).status, (await bff).status) == (401, 200)
    await world.settle()


@virtual
async def test_who_waited_is_measured_by_the_policies_of_delivery() -> None:
    world = Simulation()
    chat = world.chat()
    partner = asyncio.create_task(world.info(chat, subject="partner"))
    bff = asyncio.create_task(world.info(chat))
    await at(0.05)
    world.forget_client("partner")
    assert ((await partner).status, (await bff).status) == (403, 200)
    await world.settle()


@virtual
async def test_a_writer_hears_how_his_write_ended_also_when_his_token_expired_meanwhile() -> None:
    world = Simulation()
    chat = world.chat()
    world.verifier.expires_at["bff"] = EPOCH + 0.1
    assert (await world.rename(chat, "Natalie")).status == 201
    await world.settle()


# -- the gateway's own end -----------------------------------------------------------------------------


async def crash(_request: UpstreamRequest) -> None:
    await asyncio.sleep(0.05)
    raise LookupError("on purpose")


@virtual
async def test_a_crash_wakes_everyone_and_frees_the_key() -> None:
    world = Simulation()
    chat = world.chat()
    world.upstream.interfere = crash
    replies = await many(world, chat)
    assert {reply.status for reply in replies} == {502}
    assert b"on purpose" not in replies[0].body
    assert "on purpose" not in world.log.getvalue()
    assert len(world.exchange.flights) == 0
    assert world.metrics.crashes == 1
    world.upstream.interfere = None
    assert (await world.info(chat)).status == 200
    await world.settle()


@virtual
async def test_a_write_that_crashed_may_have_been_applied() -> None:
    world = Simulation()
    chat = world.chat()
    await world.info(chat)
    world.upstream.interfere = crash
    assert (await world.rename(chat, "Natalie")).status == 502
    world.upstream.interfere = None
    assert outcome(await world.info(chat)) == "miss"
    await world.settle()


@pytest.mark.parametrize(("window_s", "status"), [(1.0, 200), (0.05, 503)])
@virtual
async def test_what_flies_lands_inside_the_drain_window(window_s: float, status: int) -> None:
    world = Simulation()
    chat = world.chat()
    waiting = [asyncio.create_task(world.info(chat)) for _ in range(5)]
    waiting += [asyncio.create_task(ask(world, chat)) for ask in (forward, write)]
    await at(0.01)
    await world.exchange.flights.drain(window_s)
    assert {reply.status // 100 * 100 for reply in await asyncio.gather(*waiting)} == {status // 100 * 100}
    assert len(world.exchange.flights) == 0
    await world.settle()


@virtual
async def test_draining_ends_what_has_not_landed_in_time() -> None:
    world = Simulation(latency_s=lambda: 4.0)
    chat = world.chat()
    waiting = [asyncio.create_task(world.info(chat)), asyncio.create_task(world.rename(chat, "Zoe"))]
    await asyncio.sleep(0.1)
    began = world.clock.now()
    await world.exchange.flights.drain(1.0)
    assert world.clock.now() - began == pytest.approx(1.0)
    read, write = await asyncio.gather(*waiting)
    assert (read.status, b"problem:draining" in read.body) == (503, True)
    # It may have been applied: nobody is to do it again because of us.
    assert (write.status, b"problem:upstream-timeout" in write.body) == (504, True)
    # And the place in the budget is free.
    assert {state.in_flight for state in world.budget.state().values()} == {0}
    await world.settle()


@virtual
async def test_a_write_that_is_ended_before_its_first_step_leaves_its_place() -> None:
    world = Simulation()
    chat = world.chat()
    writing = asyncio.create_task(world.rename(chat, "Zoe"))
    while not world.exchange.flights:  # noqa: ASYNC110 - nobody sets an event for it
        await asyncio.sleep(0)
    await world.exchange.flights.drain(0)
    assert (await writing).status == 504
    assert {state.in_flight for state in world.budget.state().values()} == {0}
    await world.settle()


@virtual
async def test_what_cannot_be_rendered_is_told_counted_and_logged(monkeypatch: pytest.MonkeyPatch) -> None:
    world = Simulation()
    chat = world.chat()

    def unable(*_: object) -> None:
        raise ValueError("a secret")

    monkeypatch.setattr("gateway.core.answers.viewed", unable)
    reply = await world.info(chat, subject="partner")
    assert (reply.status, json.loads(reply.body)["type"]) == (502, "urn:chat-gateway:problem:crashed")
    assert world.metrics.crashes == 1
    assert world.metrics.requests["partner", "info", "502", "crashed"] == 1
    assert '"crashed"' in world.log.getvalue()
    assert "a secret" not in world.log.getvalue()
    # Nobody else's view is touched by it.
    assert (await world.info(chat)).status == 200
    await world.settle()
