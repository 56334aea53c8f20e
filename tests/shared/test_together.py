"""What several replicas do as one, step by step on virtual time: flights, writes, and the loss of Redis."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from typing import Any

import pytest

from gateway.core.replies import Reply
from gateway.demo.stage import ACCOUNT
from gateway.emulator import EmulatorConfig, Fault, Hang, Reset
from gateway.shared.leases import Role
from gateway.shared.replicas import ACKNOWLEDGED_S, WHOLE_S
from tests.shared.together import DEADLINE_S, LEASE_S, USUAL_S, Replica, Together
from tests.simulation import APP_KEY, cache_rule, caching, chat_path, name_of, outcome
from tests.virtual import virtual

LATENCY_S = 0.120
#: A command there and back, and what is done on the way.
ROUND_S = 3 * USUAL_S

ENDINGS: dict[str, tuple[Fault | None, int]] = {
    "200": (None, 200),
    "404": (Fault(status=404, code=12), 404),
    "404 of the caller": (Fault(status=404, code=1), 404),
    "400": (Fault(status=400, code=7), 400),
    "500": (Fault(status=500), 502),
    "429": (Fault(status=429, retry_after="2"), 503),
    "reset": (Fault(delivery=Reset()), 502),
    "hang": (Fault(delivery=Hang()), 504),
}


async def crowd(together: Together, chat: str, each: int = 100) -> list[Reply]:
    """So many ask each replica at once."""
    return await asyncio.gather(
        *(replica.world.info(chat) for replica in together.living() for _ in range(each))
    )


def roles(together: Together) -> Counter[Role]:
    return sum((replica.flights.roles for replica in together.replicas), Counter[Role]())


async def cluster(count: int = 4, **said: Any) -> tuple[Together, str]:
    together = Together(count, **said)
    await together.begin()
    return together, together.replicas[0].world.chat()


@pytest.mark.parametrize("ending", ENDINGS)
def test_all_who_ask_for_one_cold_chat_cause_one_request(ending: str) -> None:
    fault, status = ENDINGS[ending]

    @virtual
    async def run() -> None:
        together, chat = await cluster()
        if fault is not None:
            together.emulator.fail(fault)
        replies = await crowd(together, chat)
        assert {reply.status for reply in replies} == {status}
        assert len({reply.body for reply in replies if reply.status == 200}) <= 1
        assert together.emulator.counts().total() == 1
        assert roles(together) == {Role.LED: 1, Role.FOLLOWED: 3}
        await together.end()

    run()


@virtual
async def test_what_one_replica_has_is_a_hit_of_the_others_as_old_as_it_is() -> None:
    together, chat = await cluster()
    first, second, *_ = together.replicas
    await first.world.info(chat)
    await asyncio.sleep(0.5)
    asked_at = together.clock.now()
    reply = await second.world.info(chat)
    assert (reply.status, together.emulator.counts().total()) == (200, 1)
    assert together.clock.now() - asked_at < 5 * ROUND_S
    # It is fresh for what is left of its second: a little less than that for the way.
    await asyncio.sleep(0.15)
    assert outcome(await second.world.info(chat)) == "hit"
    await asyncio.sleep(0.3)
    assert outcome(await second.world.info(chat)) == "miss"
    assert roles(together) == {Role.LED: 2, Role.FOUND: 1}
    await together.end()


@virtual
async def test_the_failure_of_one_holds_back_all() -> None:
    together, chat = await cluster()
    together.emulator.fail(Fault(status=500, times=None))
    await together.replicas[0].world.info(chat)
    replies = await crowd(together, chat, each=1)
    assert {reply.status for reply in replies} == {502}
    assert together.emulator.counts().total() == 1
    await together.end()


@virtual
async def test_a_pause_is_everybodys() -> None:
    together, chat = await cluster()
    other = together.replicas[0].world.chat()
    together.emulator.fail(Fault(status=429, retry_after="2"))
    await together.replicas[0].world.info(chat)
    assert {reply.status for reply in await crowd(together, other, each=1)} == {503}
    await asyncio.sleep(2.1)
    assert {reply.status for reply in await crowd(together, other, each=1)} == {200}
    assert together.emulator.counts().total() == 2
    await together.end()


@virtual
async def test_after_a_dead_leader_one_takes_over_within_the_lease() -> None:
    together, chat = await cluster()
    leader, *others = together.replicas
    dying = asyncio.create_task(leader.world.info(chat))
    await asyncio.sleep(0.02)
    asked_at = together.clock.now()
    waiting = [asyncio.create_task(other.world.info(chat)) for other in others for _ in range(50)]
    await asyncio.sleep(0.02)
    await leader.die()
    assert {reply.status for reply in await asyncio.gather(*waiting)} == {200}
    assert together.clock.now() - asked_at < LEASE_S + LATENCY_S + 0.1
    assert len(together.upstream.sent) == roles(together)[Role.LED] == 2
    await dying
    await together.end()


@virtual
async def test_a_leader_that_flies_long_keeps_its_lease() -> None:
    together, chat = await cluster()
    together.emulator.fail(Fault(delay_s=3 * LEASE_S))
    assert {reply.status for reply in await crowd(together, chat, each=1)} == {200}
    assert together.emulator.counts().total() == 1
    await together.end()


@virtual
async def test_who_was_taken_over_lands_nothing() -> None:
    """Its answer is of before the one that is there."""
    together, chat = await cluster(2, policies=caching({"info": cache_rule(8.0)}))
    slow, quick = together.replicas
    together.emulator.fail(Fault(delay_s=2 * LEASE_S))
    late = asyncio.create_task(slow.world.info(chat))
    await asyncio.sleep(0.01)
    slow.cut()
    await asyncio.sleep(LEASE_S + 0.1)
    together.emulator.agent_typing(chat, typing=True)
    assert agent_of(await quick.world.info(chat)) == "typing"
    slow.mend()
    assert agent_of(await late) == "not-typing"
    # Whoever asks next finds the newer one, the slow one as well.
    assert {agent_of(reply) for reply in await crowd(together, chat, each=1)} == {"typing"}
    await together.end()


@virtual
async def test_a_fetch_of_before_a_write_is_kept_nowhere() -> None:
    together, chat = await cluster()
    first, second, third, fourth = together.replicas
    together.emulator.fail(Fault(resource="info", delay_s=0.5))
    old = [asyncio.create_task(first.world.info(chat)), asyncio.create_task(fourth.world.info(chat))]
    await asyncio.sleep(0.1)
    await second.world.rename(chat, "Zoe")
    assert name_of(await third.world.info(chat)) == "Zoe"
    await asyncio.gather(*old)
    assert {name_of(reply) for reply in await crowd(together, chat, each=1)} == {"Zoe"}
    assert sum(replica.members.counts.silent for replica in together.replicas) == 0
    await together.end()


@virtual
async def test_followers_of_before_a_write_do_not_wait_for_who_lands_nothing() -> None:
    together, chat = await cluster(3)
    leader, follower, writer = together.replicas
    together.emulator.fail(Fault(resource="info", delay_s=4.0))
    leading = asyncio.create_task(leader.world.info(chat))
    await asyncio.sleep(0.01)
    following = asyncio.create_task(follower.world.info(chat))
    await asyncio.sleep(0.01)
    await writer.world.rename(chat, "Zoe")
    asked_at = together.clock.now()
    assert name_of(await following) == "Zoe"
    assert together.clock.now() - asked_at < 2 * LATENCY_S
    await leading
    await together.end()


@virtual
async def test_a_writer_waits_until_all_have_acknowledged() -> None:
    together, chat = await cluster()
    for replica in together.replicas[1:]:
        replica.way.delay_s = lambda: 0.010
    await crowd(together, chat, each=1)
    await together.replicas[0].world.rename(chat, "Zoe")
    assert {name_of(reply) for reply in await crowd(together, chat, each=1)} == {"Zoe"}
    assert together.replicas[0].members.counts.silent == 0
    await together.end()


@virtual
async def test_a_writer_waits_for_nobody_for_long_and_counts_who_is_silent() -> None:
    together, chat = await cluster(2)
    writer, silent = together.replicas
    await crowd(together, chat, each=1)
    silent.way.delay_s = lambda: 0.3
    asked_at = together.clock.now()
    await writer.world.rename(chat, "Zoe")
    took_s = together.clock.now() - asked_at - LATENCY_S
    assert ACKNOWLEDGED_S <= took_s < ACKNOWLEDGED_S + 2 * ROUND_S
    assert writer.members.counts.silent == 1
    # The TTL bounds what it serves, and it hears of it later.
    assert name_of(await silent.world.info(chat)) != "Zoe"
    await asyncio.sleep(0.4)
    silent.way.delay_s = lambda: USUAL_S
    assert name_of(await silent.world.info(chat)) == "Zoe"
    await together.end()


@virtual
async def test_who_has_died_is_waited_for_no_longer() -> None:
    together, chat = await cluster(2)
    writer, dead = together.replicas
    await dead.die()
    await asyncio.sleep(4.0)
    asked_at = together.clock.now()
    await writer.world.rename(chat, "Zoe")
    assert together.clock.now() - asked_at < LATENCY_S + 2 * ROUND_S
    assert (writer.members.living, writer.members.counts.silent) == (1, 0)
    await together.end()


@virtual
async def test_who_has_missed_a_write_forgets_all_it_has() -> None:
    together, chat = await cluster(2, policies=caching({"info": cache_rule(8.0)}))
    writer, deaf = together.replicas
    await crowd(together, chat, each=1)
    deaf.way.losing = 1
    await writer.world.rename(chat, "Zoe")
    assert name_of(await deaf.world.info(chat)) != "Zoe"
    await asyncio.sleep(0.6)
    assert deaf.members.counts.missed == 1
    assert name_of(await deaf.world.info(chat)) == "Zoe"
    await together.end()


@virtual
async def test_the_second_of_two_writes_tells_that_the_first_was_missed() -> None:
    together, chat = await cluster(2, policies=caching({"info": cache_rule(8.0)}))
    writer, deaf = together.replicas
    other = writer.world.chat()
    await crowd(together, chat, each=1)
    deaf.way.losing = 1
    await writer.world.rename(chat, "Zoe")
    await writer.world.rename(other, "Zac")
    assert name_of(await deaf.world.info(chat)) == "Zoe"
    await together.end()


@virtual
async def test_a_writer_whose_message_is_lost_is_told_by_the_next_mark() -> None:
    """It counts its own messages like everybody's."""
    together, chat = await cluster(2)
    writer, _ = together.replicas
    writer.way.losing = 1
    await writer.world.rename(chat, "Zoe")
    await asyncio.sleep(0.6)
    assert writer.members.counts.missed == 1
    await together.end()


@virtual
async def test_nothing_stale_is_served_by_who_may_have_missed_a_write() -> None:
    together, chat = await cluster(1)
    [replica] = together.replicas
    await replica.world.info(chat)
    together.emulator.fail(Fault(status=500, times=None))
    await asyncio.sleep(1.5)
    assert outcome(await replica.world.info(chat)) == "stale"
    replica.way.losing = 1_000
    await asyncio.sleep(WHOLE_S + 0.3)
    assert (await replica.world.info(chat)).status == 502
    replica.way.losing = 0
    await asyncio.sleep(0.6)
    assert outcome(await replica.world.info(chat)) == "stale"
    await together.end()


@virtual
async def test_stale_answers_of_others_stand_in_where_there_are_none() -> None:
    together, chat = await cluster(2)
    first, cold = together.replicas
    await first.world.info(chat)
    together.emulator.fail(Fault(status=500, times=None))
    await asyncio.sleep(1.5)
    assert outcome(await cold.world.info(chat)) == "stale"
    await together.end()


@virtual
async def test_without_redis_each_asks_for_itself_and_nobody_hangs() -> None:
    together, chat = await cluster()
    together.redis.answers = False
    asked_at = together.clock.now()
    assert {reply.status for reply in await crowd(together, chat)} == {200}
    assert together.clock.now() - asked_at < LATENCY_S + DEADLINE_S + ROUND_S
    assert together.emulator.counts().total() == 4
    await together.end()


@virtual
async def test_who_loses_redis_while_he_follows_goes_alone_at_once() -> None:
    together, chat = await cluster()
    leader, *others = together.replicas
    together.emulator.fail(Fault(delay_s=4.0))
    leading = asyncio.create_task(leader.world.info(chat))
    await asyncio.sleep(0.01)
    waiting = [asyncio.create_task(other.world.info(chat)) for other in others]
    await asyncio.sleep(0.01)
    asked_at = together.clock.now()
    for replica in together.replicas:
        replica.cut()
    assert {reply.status for reply in await asyncio.gather(*waiting)} == {200}
    assert together.clock.now() - asked_at < LATENCY_S + ROUND_S
    await leading
    assert together.emulator.counts().total() == 4
    for replica in together.replicas:
        replica.mend()
    await together.end()


@virtual
async def test_an_emptied_redis_costs_a_fetch_and_nothing_else() -> None:
    together, chat = await cluster()
    await crowd(together, chat, each=1)
    together.redis.empty()
    await asyncio.sleep(1.1)
    assert {reply.status for reply in await crowd(together, chat)} == {200}
    assert together.emulator.counts().total() == 2
    assert {replica.members.counts.missed for replica in together.replicas} == {1}
    assert all(replica.members.whole for replica in together.replicas)
    await together.end()


@virtual
async def test_a_flight_that_another_has_flown_costs_its_client_no_fetch() -> None:
    together, chat = await cluster(2)
    first, second = together.replicas
    refunds: list[str] = []
    second.world.limiter.refund = lambda client, resource: refunds.append(f"{client.name}/{resource}")  # type: ignore[method-assign]
    await first.world.info(chat)
    await second.world.info(chat)
    assert refunds == ["bff/info"]
    await together.end()


@virtual
async def test_what_one_knows_of_a_chats_life_all_know() -> None:
    """Of a chat with a shorter timeout nothing is kept beyond what that allows, by whomever it was asked."""
    config = EmulatorConfig(app_key=APP_KEY, accounts=(ACCOUNT,), chat_timeout_s=35)
    rules = {"info": cache_rule(8.0), "events": cache_rule(8.0)}
    together, chat = await cluster(2, policies=caching(rules), config=config)
    first, second = together.replicas
    # Only an info tells it.
    await first.world.info(chat)
    for replica in (first, second):
        await replica.world.ask("GET", chat_path(chat, "/events"))
    await asyncio.sleep(2.5)
    assert outcome(await second.world.ask("GET", chat_path(chat, "/events"))) == "hit"
    await asyncio.sleep(1.0)
    assert outcome(await second.world.ask("GET", chat_path(chat, "/events"))) == "miss"
    await together.end()


def agent_of(reply: Reply) -> str:
    said: str = json.loads(reply.body)["info"]["agentTyping"]
    return said


def _foreign(replica: Replica, message: bytes) -> int:
    replica.members.hear(message)
    return replica.members.counts.foreign


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"x",
        b"[]",
        b"{}",
        b'{"do": "nothing"}',
        b'{"do": ["raised"]}',
        b'{"do": "raised", "account": 1, "id": "x", "n": 1, "by": "y"}',
        b'{"do": "raised", "account": "1", "id": "x", "n": true, "by": "y"}',
        b'{"do": "ack", "n": "1", "by": "y"}',
        b'{"do": "mark", "number": 1, "writes": 1.5, "revocations": 1, "server": "-"}',
        b'{"do": "landed"}',
        b'{"do": "landed", "by": "y", "chat": "c", "field": "f", "token": "t", "kept": false, "failed": {}}',
        b"[" * 100_000,
    ],
)
def test_what_is_no_message_is_counted_and_changes_nothing(message: bytes) -> None:
    @virtual
    async def run() -> None:
        together, chat = await cluster(1)
        [replica] = together.replicas
        assert _foreign(replica, message) == 1
        assert (await replica.world.info(chat)).status == 200
        await together.end()

    run()
