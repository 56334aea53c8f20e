"""What several replicas do as one, step by step on virtual time: flights, writes, and the loss of Redis."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from gateway.core.errors import Reason
from gateway.core.freshness import Failed
from gateway.core.messages import Chat, Representation
from gateway.core.replies import Reply
from gateway.demo.stage import ACCOUNT
from gateway.emulator import EmulatorConfig, Fault, Hang, Reset
from gateway.shared.commands import RedisCommands
from gateway.shared.leases import Role
from gateway.shared.names import Names
from gateway.shared.replicas import ACKNOWLEDGED_S, WHOLE_S, Heard, Membership
from gateway.upstream.protection import Breaker, Protection
from tests.push.following import STREAM, Reader, hub_of, streaming
from tests.shared.together import DEADLINE_S, LEASE_S, USUAL_S, Replica, Together
from tests.simulation import (
    APP_KEY,
    EPOCH,
    PLENTY,
    cache_rule,
    caching,
    chat_path,
    header,
    name_of,
    outcome,
)
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


@pytest.mark.parametrize("account", [ACCOUNT, None])
@virtual
async def test_a_purge_is_everybodys_and_nothing_of_before_it_is_kept(account: str | None) -> None:
    together, kept = await cluster(3)
    first, second, third = together.replicas
    flying = second.world.chat()
    await crowd(together, kept, each=1)
    together.emulator.fail(Fault(resource="info", delay_s=4.0))
    leading = asyncio.create_task(second.world.info(flying))
    await asyncio.sleep(0.01)
    following = asyncio.create_task(third.world.info(flying))
    await asyncio.sleep(0.01)
    asked_at = together.clock.now()
    assert await first.world.exchange.purge(account) == (1, True)
    assert (await following).status == 200
    assert together.clock.now() - asked_at < 2 * LATENCY_S, "who follows looks again"
    before = together.emulator.counts().total(resource="info", chat=kept)
    assert outcome(await second.world.info(kept)) == "miss"
    assert together.emulator.counts().total(resource="info", chat=kept) == before + 1
    # What was on its way when it was purged is kept nowhere.
    await asyncio.sleep(2.0)
    await leading
    assert second.world.store.get((chat_path(flying, "/info"), "v=1&NC=true", Representation.JSON)) is None
    await together.end()


@virtual
async def test_a_purge_without_redis_is_ones_own() -> None:
    together, chat = await cluster(2)
    first, second = together.replicas
    await crowd(together, chat, each=1)
    first.cut()
    assert await first.world.exchange.purge(None) == (1, False)
    assert outcome(await second.world.info(chat)) == "hit"
    await together.end()


class _Endless:
    """A Redis in which there is always more to purge."""

    async def run(self, *_: object) -> bytes:
        return b"7"


@virtual
async def test_a_purge_ends_whatever_redis_says() -> None:
    def nobody(_: object = None) -> None: ...

    commands = RedisCommands(_Endless(), Names("test"), "replica-0", lease_s=LEASE_S)
    heard = Heard(nobody, nobody, nobody, nobody, nobody, nobody)
    assert not await Membership("replica-0", commands, heard, lambda: 0.0).purge(None)


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
async def test_stale_answers_of_others_stand_in_for_who_follows_too() -> None:
    together, chat = await cluster(3)
    first, *cold = together.replicas
    await first.world.info(chat)
    together.emulator.fail(Fault(status=500, times=None))
    await asyncio.sleep(1.5)
    replies = await asyncio.gather(*(replica.world.info(chat) for replica in cold))
    assert [outcome(reply) for reply in replies] == ["stale", "stale"]
    await together.end()


@virtual
async def test_what_others_hear_of_the_upstream_ends_a_backoff() -> None:
    """Failures are believed; if successes were not, a hiccup now and then would add up to a long hold."""
    together, chat = await cluster(2)
    leader, follower = together.replicas
    for _ in range(4):
        together.emulator.fail(Fault(status=500))
        await leader.world.info(chat)
        await asyncio.sleep(5.1)
        await leader.world.info(chat)
        await follower.world.info(chat)
        await asyncio.sleep(1.1)
    together.emulator.fail(Fault(status=500))
    await leader.world.info(chat)
    await asyncio.sleep(0.4)
    assert outcome(await follower.world.info(chat)) in {"miss", "collapsed"}
    await together.end()


@virtual
async def test_what_others_hear_of_the_upstream_keeps_the_breaker_closed() -> None:
    together, chat = await cluster(2)
    leader, follower = together.replicas
    for _ in range(12):
        together.emulator.fail(Fault(status=500))
        await leader.world.info(leader.world.chat())
        await asyncio.sleep(0.6)
        assert {reply.status for reply in await crowd(together, chat, each=1)} == {200}
        await asyncio.sleep(1.1)
    assert breakers(follower) == {}
    await together.end()


@virtual
async def test_a_write_of_which_redis_did_not_hear_is_seen_by_its_own_replica_all_the_same() -> None:
    together, chat = await cluster(2, policies=caching({"info": cache_rule(8.0)}))
    writer, other = together.replicas
    await writer.world.info(chat)
    together.redis.answers = False
    await writer.world.rename(chat, "Zoe")
    assert name_of(await writer.world.info(chat)) == "Zoe"
    together.redis.answers = True
    # And by the others as soon as it asks for the chat again: what is in Redis is from before the write.
    assert name_of(await writer.world.info(chat)) == "Zoe"
    await writer.flights.tell_untold()
    assert name_of(await other.world.info(chat)) == "Zoe"
    await together.end()


@virtual
async def test_a_fetch_of_before_a_write_of_which_redis_did_not_hear_is_kept_nowhere() -> None:
    together, chat = await cluster(2, policies=caching({"info": cache_rule(8.0)}))
    writer, other = together.replicas
    together.emulator.fail(Fault(resource="info", delay_s=0.8))
    old = asyncio.create_task(writer.world.info(chat))
    await asyncio.sleep(0.05)
    together.redis.answers = False
    await writer.world.rename(chat, "Zoe")
    together.redis.answers = True
    await old
    assert {name_of(await replica.world.info(chat)) for replica in (writer, other)} == {"Zoe"}
    await together.end()


@virtual
async def test_who_begins_to_hear_forgets_what_he_had_before() -> None:
    together = Together(2)
    writer, late = together.replicas
    late.cut()
    await asyncio.sleep(0.1)
    chat = writer.world.chat()
    await late.world.info(chat)
    await writer.world.rename(chat, "Zoe")
    late.mend()
    await asyncio.sleep(1.2)
    assert late.members.whole
    together.emulator.fail(Fault(status=500, times=None))
    reply = await late.world.info(chat)
    assert reply.status == 502 or name_of(reply) == "Zoe"
    await together.end()


@virtual
async def test_a_writers_own_followers_do_not_wait_for_who_lands_nothing() -> None:
    together, chat = await cluster(2)
    leader, writer = together.replicas
    together.emulator.fail(Fault(resource="info", delay_s=4.0))
    leading = asyncio.create_task(leader.world.info(chat))
    await asyncio.sleep(0.3)
    following = asyncio.create_task(writer.world.info(chat))
    await asyncio.sleep(0.01)
    await writer.world.rename(chat, "Zoe")
    written_at = together.clock.now()
    assert name_of(await following) == "Zoe"
    assert together.clock.now() - written_at < 2 * LATENCY_S
    await leading
    await together.end()


@virtual
async def test_a_lease_whose_flight_has_crashed_is_free() -> None:
    together, chat = await cluster(2)
    crashing, other = together.replicas
    world, disarm = crashing.world, crashing.world.store.disarm

    def crash(chat: Chat | None) -> None:
        del chat
        world.store.disarm = disarm  # type: ignore[method-assign]
        raise ZeroDivisionError

    world.store.disarm = crash  # type: ignore[method-assign]
    assert (await world.info(chat)).status == 502
    world.metrics.crashes = 0
    asked_at = together.clock.now()
    assert (await other.world.info(chat)).status == 200
    assert together.clock.now() - asked_at < LATENCY_S + 5 * ROUND_S
    await together.end()


@virtual
async def test_a_leader_that_waits_for_its_turn_is_followed_to_its_end() -> None:
    together, chat = await cluster(2)
    leader, follower = together.replicas
    leader.world.pace = replace(PLENTY, in_flight=1, wait_s=5.0)
    together.emulator.fail(Fault(delay_s=4.0))
    busy = asyncio.create_task(leader.world.info(leader.world.chat()))
    await asyncio.sleep(0.2)
    together.emulator.fail(Fault(delay_s=4.0))
    leading = asyncio.create_task(leader.world.info(chat))
    await asyncio.sleep(0.01)
    assert (await follower.world.info(chat)).status == 200
    assert {(await task).status for task in (busy, leading)} == {200}
    await together.end()


@virtual
async def test_who_would_refresh_earlier_than_the_others_does_not_look_again_and_again() -> None:
    together, chat = await cluster(2)
    first, hasty = together.replicas
    hasty.world.exchange._round_trips_s[ACCOUNT] = 2.0
    await first.world.info(chat)
    until = together.clock.now() + 0.6
    while together.clock.now() < until:
        await hasty.world.info(chat)
        await asyncio.sleep(0.001)
    assert hasty.flights.roles.total() <= 2
    await together.end()


@virtual
async def test_what_is_taken_over_asked_nobody_and_is_counted_so() -> None:
    together, chat = await cluster(2)
    first, second = together.replicas
    assert outcome(await first.world.info(chat)) == "miss"
    assert outcome(await second.world.info(chat)) == "collapsed"
    assert second.world.metrics.road.saved["bff"] == 1
    await together.end()


@virtual
async def test_a_failure_of_an_account_that_is_not_ours_is_not_believed() -> None:
    together, _ = await cluster(1)
    [replica] = together.replicas
    failed = Failed(Reason.UPSTREAM_THROTTLED, 429, 5.0)
    replica.world.exchange.believe("\ud800", ("/", "", Representation.JSON), "x", failed)
    assert breakers(replica) == {}
    assert replica.world.budget.state() == {}
    await together.end()


@virtual
async def test_what_somebody_puts_back_from_long_ago_is_not_what_was_waited_for() -> None:
    """He needs no key to it: a lease under its own token, and the news that it has landed."""
    together, chat = await cluster(2, policies=caching({"info": cache_rule(8.0)}))
    first, victim = together.replicas
    await first.world.info(chat)
    [(name, of)] = [(name, of) for name, of in together.redis._keys.items() if ":chat:" in name]
    [(field, value)] = [(field, value) for field, value in of.items() if not field.startswith("lease:")]
    token = value.split(b"\n")[0].rpartition(b" ")[2]
    await asyncio.sleep(25.0)
    now_us = round((EPOCH + 7.25 + together.clock.now()) * 1e6)
    together.redis._keys[name] = {field: value, f"lease:{field}": (token, now_us + 1_000_000)}
    asking = asyncio.create_task(victim.world.info(chat))
    await asyncio.sleep(0.01)
    place = {"chat": name.rpartition(":")[2], "field": field}
    said = {"do": "landed", "by": "x", **place, "token": token.decode(), "kept": True, "failed": None}
    victim.members.hear(json.dumps(said).encode())
    assert header(await asking, "age") == "0"
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


def breakers(replica: Replica) -> Mapping[str, Breaker]:
    protection = replica.world.exchange.protection
    assert isinstance(protection, Protection)
    return protection.state()


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
        b"[" * 60_000,
        b'{"do": "revoked", "version": 1' + b" " * 65_536 + b"}",
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


# -- streams -----------------------------------------------------------------------------------------------


@virtual
async def test_streams_of_all_replicas_cost_what_one_poll_costs_and_hear_of_each_others_writes() -> None:
    together, chat = await cluster(3, policies=streaming())
    path, readers = chat_path(chat, "/info"), []
    for replica in together.replicas:
        hub_of(replica.world)
        for _ in range(5):
            reply = await replica.world.ask("GET", path, accept=STREAM)
            assert reply.stream is not None
            readers.append(reader := Reader())
            reader.stream = reply.stream
            reply.stream.begin(reader)
    before, began = together.emulator.counts().total(chat=chat), together.clock.now()
    for number in range(10):
        together.emulator.agent_typing(chat, number % 2 == 0)
        await asyncio.sleep(2)
    polls = together.emulator.counts().total(chat=chat) - before
    assert polls <= 1.2 * (together.clock.now() - began)
    assert {len(reader.told("info")) for reader in readers} == {11}
    await together.replicas[0].world.rename(chat, "Zoe")
    await asyncio.sleep(0.6)
    assert {reader.names[-1] for reader in readers} == {"Zoe"}
    for reader in readers:
        reader.leave()
    await together.end()
