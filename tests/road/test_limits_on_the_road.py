"""Limits on the road: which requests are charged to whom, and what a client is told of it."""

from __future__ import annotations

import asyncio
import json
import math
import re
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.freshness import Failed
from gateway.core.limits import DAY_S, UNLIMITED, Limits, Rate
from gateway.core.messages import Answer, UpstreamRequest
from gateway.core.policy import Client
from gateway.core.replies import Reply
from gateway.core.requests import Request
from gateway.emulator import Fault
from gateway.explain import explain
from gateway.shared.limits import Alone, SharedLimiter
from gateway.upstream.budget import Pace
from tests.simulation import EPOCH, Simulation, chat_path, header, outcome
from tests.virtual import simulate, virtual

#: Comes back within no test.
NEVER = 1 / DAY_S
#: Of the shipped rule for info: past its refresh, past its freshness.
REFRESHES_AT, EXPIRES_AT = 0.9, 1.5
NOTHING_SPARE = Pace(per_s=NEVER, burst=1, in_flight=1, queue=10, wait_s=1.0, reserve=0.0)

Act = Callable[[Simulation, str], Awaitable[Reply]]


def limited(limits: Limits, *names: str, allow: tuple[str, ...] = (), **said: Any) -> Simulation:
    """A world in which those clients (`bff`, unless others are named) have these limits, and nobody else any.

    bff may not read the account, so that there is something it may not do.
    """
    world = Simulation(log_level="error", **said)
    world.adopt(
        replace(
            client,
            limits=limits if client.name in (names or ("bff",)) else UNLIMITED,
            allow=("chat:read", "chat:write", *allow) if client.name == "bff" else client.allow,
        )
        for client in world.state.policies.clients
    )
    return world


def client_of(world: Simulation, name: str = "bff") -> Client:
    return next(client for client in world.state.policies.clients if client.name == name)


def used(world: Simulation, name: str = "bff") -> int:
    """How much of its day a client has used."""
    lane = world.limiter.lane(client_of(world, name), None)
    standing = lane.peek(world.clock.now(), world.clock.wall())
    [left] = (left for left in standing.left if left.limit == "requests-per-day")
    # A peek shows how it would be after one more.
    return left.quota - left.remaining - 1


def has_fetched(world: Simulation, resource: str = "info", name: str = "bff") -> bool:
    """Whether a client who has one fetch has used it."""
    return world.limiter.peek_fetch(client_of(world, name), resource) is not None


def limits_in(reply: Reply, field: str = "ratelimit") -> dict[str, dict[str, str]]:
    """The parameters of each limit that a reply tells of."""
    said = header(reply, field)
    items = [item.split(";") for item in said.split(", ")] if said else []
    return {
        name.strip('"'): dict(parameter.split("=", 1) for parameter in parameters)
        for name, *parameters in items
    }


def violated_in(reply: Reply) -> list[str]:
    """The limits that a problem document, JSON or XML, says were broken."""
    if header(reply, "content-type") == "application/problem+json":
        return list(json.loads(reply.body).get("violated-policies", []))
    found = re.search(rb"<violated-policies>(.*)</violated-policies>", reply.body)
    return [name.decode() for name in re.findall(rb"<i>(.*?)</i>", found[1])] if found else []


# -- who is charged for a request ---------------------------------------------------------------------------


async def _hit(world: Simulation, chat: str) -> Reply:
    await world.info(chat, subject="internal")
    return await world.info(chat)


async def _failing(world: Simulation, chat: str) -> Reply:
    world.emulator.fail(Fault(status=500))
    return await world.info(chat)


async def _to_the_budget(world: Simulation, chat: str) -> Reply:
    world.pace = NOTHING_SPARE
    # Takes what there is.
    await world.ask("GET", "/api/account/123/chat/estimatedWaitTime", subject="internal")
    return await world.info(chat)


def asks(method: str, rest: str, query: str = "", **fields: Any) -> Act:
    return lambda world, chat: world.ask(method, chat_path(chat, rest), query, **fields)


CHARGED: dict[str, tuple[int, Act]] = {
    "a miss": (200, lambda world, chat: world.info(chat)),
    "a hit": (200, _hit),
    "304": (304, asks("GET", "/info", if_none_match="*")),
    "HEAD": (200, asks("HEAD", "/info")),
    "a read that is forwarded": (200, asks("GET", "/info/visitorName")),
    "a write": (201, lambda world, chat: world.rename(chat, "Natalie")),
    "403": (403, lambda world, _: world.ask("GET", "/api/account/123/chat/availability")),
    "404": (404, asks("GET", "/nothing")),
    "404 of the vendor": (404, lambda world, _: world.info("H0-404")),
    "405": (405, asks("PUT", "/info")),
    "406": (406, asks("GET", "/info", accept="image/png")),
    "400 for the path": (400, asks("GET", "/%2e%2e/info")),
    "400 for the query": (400, asks("GET", "/info", "what=1")),
    "400 for the body": (400, asks("PUT", "/info/visitorName", body=b"{", content_type="application/json")),
    "415": (415, asks("PUT", "/info/visitorName", body=b"x", content_type="text/plain")),
    "502": (502, _failing),
    "503": (503, _to_the_budget),
}


@pytest.mark.parametrize("name", CHARGED)
@virtual
async def test_every_request_of_a_known_client_is_charged(name: str) -> None:
    status, act = CHARGED[name]
    world = limited(Limits(requests_per_day=1000))
    chat = world.chat()
    reply = await act(world, chat)
    assert reply.status == status
    assert used(world) == 1
    [(limit, left)] = limits_in(reply).items()
    assert (limit, left["r"]) == ("requests-per-day", "999")
    # From when the request came; an answer may take a second.
    assert 0 <= int(left["t"]) - _until_midnight_s(world) <= 1
    assert limits_in(reply, "ratelimit-policy") == {"requests-per-day": {"q": "1000", "w": "86400"}}
    await world.settle()


def _until_midnight_s(world: Simulation) -> int:
    return math.ceil(DAY_S - world.clock.wall() % DAY_S)


@virtual
async def test_those_who_share_a_flight_are_charged_one_each() -> None:
    world = limited(Limits(requests_per_day=1000))
    chat = world.chat()
    replies = await asyncio.gather(*(world.info(chat) for _ in range(20)))
    assert world.asked() == 1
    assert sorted(limits_in(reply)["requests-per-day"]["r"] for reply in replies) == [
        str(left) for left in range(980, 1000)
    ]
    assert used(world) == 20
    await world.settle()


@pytest.mark.parametrize(
    ("status", "fields"),
    [
        (401, {"authorization": "Basic abc", "subject": "expired"}),
        (401, {"subject": "expired"}),
        (401, {"subject": "revoked"}),
        (403, {"subject": "nobody"}),
    ],
    ids=["no token", "expired", "revoked", "no client"],
)
@virtual
async def test_without_a_client_nobody_is_charged(status: int, fields: dict[str, str]) -> None:
    world = limited(Limits(requests_per_day=1000), "bff", "internal", "partner")
    world.verifier.expires_at["expired"] = EPOCH
    world.verifier.revoked.add("revoked")
    world.verifier.expires_at["Basic abc"] = EPOCH
    chat = world.chat()
    reply = await world.info(chat, **fields)
    assert reply.status == status
    assert header(reply, "ratelimit") is header(reply, "ratelimit-policy") is None
    assert [used(world, name) for name in ("bff", "internal", "partner")] == [0, 0, 0]


@virtual
async def test_clients_without_limits_are_told_nothing() -> None:
    world = limited(Limits(requests_per_day=1000))
    reply = await world.info(world.chat(), subject="internal")
    assert reply.status == 200
    assert header(reply, "ratelimit") is header(reply, "ratelimit-policy") is None


@virtual
async def test_what_is_refused_for_one_limit_is_charged_to_none() -> None:
    just_one = Limits(in_flight=10, requests=Rate(NEVER, 1))
    world = limited(Limits(requests_per_day=1000, resources={"info": just_one}))
    chat = world.chat()
    assert (await world.info(chat)).status == 200
    for _ in range(5):
        reply = await world.info(chat)
        assert reply.status == 429
        assert violated_in(reply) == ["info.requests"]
        assert list(limits_in(reply)) == ["info.requests"]
        assert list(limits_in(reply, "ratelimit-policy")) == [
            "requests-per-day",
            "info.requests",
            "info.in-flight",
        ]
    assert used(world) == 1
    assert world.asked() == 1


@virtual
async def test_a_limit_for_one_resource_of_one_client_concerns_nothing_else() -> None:
    world = limited(Limits(resources={"info": Limits(requests=Rate(NEVER, 1))}), "bff", "partner")
    chat = world.chat()
    assert [(await world.info(chat)).status for _ in range(2)] == [200, 429]
    assert (await world.ask("GET", chat_path(chat, "/events"))).status == 200
    assert (await world.info(chat, subject="partner")).status == 200
    assert (await world.info(chat, subject="partner")).status == 429
    assert (await world.info(chat, subject="internal")).status == 200
    await world.settle()


@virtual
async def test_a_refusal_for_what_a_client_may_not_counts_for_that_resource() -> None:
    world = limited(Limits(resources={"availability": Limits(requests=Rate(NEVER, 1))}))
    path = "/api/account/123/chat/availability"
    assert [(await world.ask("GET", path)).status for _ in range(2)] == [403, 429]


@virtual
async def test_a_day_ends_at_midnight() -> None:
    world = limited(Limits(requests_per_day=2))
    chat = world.chat()
    assert [(await world.info(chat)).status for _ in range(3)] == [200, 200, 429]
    reply = await world.info(chat)
    until_s = DAY_S - EPOCH % DAY_S
    assert header(reply, "retry-after") == limits_in(reply)["requests-per-day"]["t"] == f"{until_s:.0f}"
    await asyncio.sleep(until_s - 0.5)
    assert (await world.info(chat)).status == 429
    await asyncio.sleep(0.5)
    assert [(await world.info("H0-404")).status for _ in range(3)] == [404, 404, 429]


# -- who is charged for a fetch ------------------------------------------------------------------------------

ONE_FETCH = Limits(fetches=Rate(NEVER, 1))


async def _refreshing_hit(world: Simulation, chat: str) -> Reply:
    await world.info(chat, subject="internal")
    await asyncio.sleep(REFRESHES_AT - world.clock.now())
    reply = await world.info(chat)
    assert outcome(reply) == "hit"
    return reply


async def _stale(world: Simulation, chat: str) -> Reply:
    await world.info(chat, subject="internal")
    await asyncio.sleep(EXPIRES_AT - world.clock.now())
    world.emulator.fail(Fault(status=500))
    reply = await world.info(chat)
    assert outcome(reply) == "stale"
    return reply


async def _joining(world: Simulation, chat: str) -> Reply:
    opening = asyncio.create_task(world.info(chat, subject="internal"))
    await asyncio.sleep(0.05)
    reply = await world.info(chat)
    assert outcome(reply) == "collapsed"
    await opening
    return reply


async def _held_back(world: Simulation, chat: str) -> Reply:
    world.emulator.fail(Fault(status=500))
    await world.info(chat, subject="internal")
    return await world.info(chat)


FETCHES: dict[str, tuple[str, int, Act]] = {
    "a miss": ("info", 200, lambda world, chat: world.info(chat)),
    "HEAD": ("info", 200, asks("HEAD", "/info")),
    "304": ("info", 304, asks("GET", "/info", if_none_match="*")),
    "what is shared, not kept": ("events", 200, asks("GET", "/events")),
    "a hit that starts the refresh": ("info", 200, _refreshing_hit),
    "a failure": ("info", 502, _failing),
    "a stale answer": ("info", 200, _stale),
    "a read that is forwarded": ("visitorName", 200, asks("GET", "/info/visitorName")),
    "a write": ("visitorName", 201, lambda world, chat: world.rename(chat, "Natalie")),
}
FREE: dict[str, tuple[str, int, Act]] = {
    "a hit": ("info", 200, _hit),
    "to join": ("info", 200, _joining),
    "what is held back": ("info", 502, _held_back),
    "403": ("availability", 403, CHARGED["403"][1]),
    "405": ("info", 405, CHARGED["405"][1]),
    "a body that is none": ("visitorName", 400, CHARGED["400 for the body"][1]),
}


@pytest.mark.parametrize("of_resource", [False, True], ids=["of the client", "of the resource"])
@pytest.mark.parametrize("name", [*FETCHES, *FREE])
@virtual
async def test_a_fetch_is_charged_to_whose_request_opens_it(name: str, *, of_resource: bool) -> None:
    resource, status, act = (FETCHES | FREE)[name]
    world = limited(Limits(resources={resource: ONE_FETCH}) if of_resource else ONE_FETCH)
    chat = world.chat()
    assert (await act(world, chat)).status == status
    assert has_fetched(world, resource) is (name in FETCHES)
    await world.settle()


@virtual
async def test_without_a_fetch_left_one_has_what_is_fresh_and_what_others_fetch() -> None:
    world = limited(ONE_FETCH)
    chat = world.chat()
    assert outcome(await world.info(chat)) == "miss"
    await asyncio.sleep(REFRESHES_AT - world.clock.now())
    # Past its refresh, and nobody pays for one.
    assert outcome(await world.info(chat)) == "hit"
    await asyncio.sleep(EXPIRES_AT - world.clock.now())
    assert world.asked() == 1
    reply = await world.info(chat)
    assert reply.status == 429
    assert violated_in(reply) == ["fetches"]
    assert limits_in(reply)["fetches"]["r"] == "0"
    assert header(reply, "retry-after") == limits_in(reply)["fetches"]["t"]
    assert (await _joining(world, chat)).status == 200
    assert outcome(await world.info(chat)) == "hit"
    assert world.asked() == 2
    await world.settle()


@pytest.mark.parametrize("name", ["a read that is forwarded", "a write"])
@virtual
async def test_what_is_nobody_elses_is_refused_without_a_fetch_left(name: str) -> None:
    world = limited(Limits(fetches=Rate(NEVER, 1), requests_per_day=1000))
    chat = world.chat()
    act = FETCHES[name][2]
    await act(world, chat)
    reply = await act(world, chat)
    assert reply.status == 429
    assert violated_in(reply) == ["fetches"]
    # The request had been let in.
    assert used(world) == 2
    assert world.asked() == 1


# -- in flight -----------------------------------------------------------------------------------------------

ONE_AT_A_TIME = Limits(in_flight=1)


async def _crashing(world: Simulation, chat: str) -> Reply:
    async def crash(_: UpstreamRequest) -> Answer | Failed | None:
        raise ValueError

    world.upstream.interfere = crash
    reply = await world.info(chat)
    world.upstream.interfere = None
    return reply


async def _too_many_fetches(world: Simulation, chat: str) -> Reply:
    world.limiter.fetch(client_of(world), "info")
    return await world.info(chat)


@pytest.mark.parametrize("act", [*(act for _, act in CHARGED.values()), _crashing, _too_many_fetches])
@virtual
async def test_what_has_ended_is_no_longer_in_flight(act: Act) -> None:
    world = limited(replace(ONE_AT_A_TIME, fetches=Rate(NEVER, 1)))
    await act(world, world.chat())
    assert not (await world.limiter.peek(client_of(world), "info")).violated


@pytest.mark.parametrize("name", ["a miss", "a read that is forwarded", "a write"])
@pytest.mark.parametrize("pace", [None, NOTHING_SPARE], ids=["under way", "queued"])
@virtual
async def test_who_leaves_is_no_longer_in_flight(name: str, pace: Pace | None) -> None:
    for steps in range(25):
        world = limited(Limits(in_flight=1, resources={"info": ONE_AT_A_TIME}))
        chat = world.chat()
        if pace is not None:
            world.pace = pace
            await world.ask("GET", "/api/account/123/chat/estimatedWaitTime", subject="internal")
        asking = asyncio.ensure_future(FETCHES[name][2](world, chat))
        for _ in range(steps):
            await asyncio.sleep(0)
        assert (await world.limiter.peek(client_of(world), "info")).violated or steps == 0
        asking.cancel()
        await asyncio.wait([asking])
        assert asking.cancelled()
        assert not (await world.limiter.peek(client_of(world), "info")).violated
        await world.settle()


@pytest.mark.parametrize(
    "limits",
    [
        Limits(in_flight=30),
        Limits(requests=Rate(1.0, 30)),
        Limits(resources={"info": Limits(in_flight=30)}),
        Limits(resources={"info": Limits(requests=Rate(1.0, 30))}),
    ],
    ids=["in flight", "burst", "in flight, of the resource", "burst, of the resource"],
)
@virtual
async def test_of_sixty_at_once_thirty_get_in(limits: Limits) -> None:
    world = limited(limits)
    chat = world.chat()
    replies = await asyncio.gather(*(world.info(chat) for _ in range(60)))
    assert sorted(reply.status for reply in replies) == [200] * 30 + [429] * 30
    await world.settle()


@virtual
async def test_of_sixty_fetches_at_once_thirty_fly() -> None:
    world = limited(Limits(fetches=Rate(NEVER, 30)))
    chats = [world.chat() for _ in range(60)]
    replies = await asyncio.gather(*(world.info(chat) for chat in chats))
    assert sorted(reply.status for reply in replies) == [200] * 30 + [429] * 30
    assert world.asked() == 30
    await world.settle()


# -- what a client is told -----------------------------------------------------------------------------------

BREAKABLE: dict[str, tuple[Limits, float]] = {
    "requests": (Limits(requests=Rate(0.1, 3)), 10),
    "info.requests": (Limits(resources={"info": Limits(requests=Rate(0.3, 2))}), 4),
    "fetches": (Limits(fetches=Rate(0.05, 1)), 20),
    "info.fetches": (Limits(resources={"info": Limits(fetches=Rate(0.2, 2))}), 5),
    "requests-per-day": (Limits(requests_per_day=2), DAY_S - EPOCH % DAY_S),
}


@pytest.mark.parametrize("accept", ["application/json", "application/xml"])
@pytest.mark.parametrize("name", BREAKABLE)
@virtual
async def test_who_waits_as_told_gets_in_and_nobody_waits_in_vain(name: str, accept: str) -> None:
    limits, wait_s = BREAKABLE[name]
    world = limited(limits)
    # What is gone is kept for two seconds only; nothing lives as long as the waits here.
    replies = [await world.info(f"H0-{index}", accept=accept) for index in range(4)]
    reply = replies[-1]
    assert reply.status == 429
    assert violated_in(reply) == [name]
    assert header(reply, "content-type") == accept.replace("/", "/problem+")
    retry_after_s = int(header(reply, "retry-after") or 0)
    # An answer of the first took its time, so some of it may have come back.
    assert wait_s - 1 <= retry_after_s <= wait_s
    assert limits_in(reply) == {name: {"r": "0", "t": str(retry_after_s)}}
    await asyncio.sleep(retry_after_s - 1)
    assert (await world.info("H0-99")).status == 429
    await asyncio.sleep(1)
    assert (await world.info("H0-99")).status == 404


@virtual
async def test_the_longest_wait_counts_of_several() -> None:
    limits = Limits(requests=Rate(0.5, 1), resources={"info": Limits(requests=Rate(0.1, 1), in_flight=1)})
    world = limited(limits)
    chat = world.chat()
    under_way = asyncio.create_task(world.info(chat))
    await asyncio.sleep(0)
    reply = await world.info(chat)
    assert violated_in(reply) == ["requests", "info.requests", "info.in-flight"]
    assert header(reply, "retry-after") == "10"
    assert {name: said.get("t") for name, said in limits_in(reply).items()} == {
        "requests": "2",
        "info.requests": "10",
        "info.in-flight": None,
    }
    await under_way


@given(
    rate=st.builds(Rate, st.floats(0.5, 20), st.integers(1, 8)),
    in_flight=st.integers(1, 6),
    before=st.lists(st.floats(0, 2), max_size=8),
)
def test_so_many_get_in_as_remain(rate: Rate, in_flight: int, before: list[float]) -> None:
    async def run() -> None:
        world = limited(Limits(requests=rate, in_flight=in_flight))
        chat = world.chat()
        reply = await world.info(chat)
        for pause_s in before:
            await asyncio.sleep(pause_s)
            reply = await world.info(chat)
        remain = limits_in(reply)
        # The client's own request was in flight when it was told; it is no more.
        promised = min(int(remain["requests"]["r"]), int(remain.get("in-flight", {"r": "9"})["r"]) + 1)
        replies = await asyncio.gather(*(world.info(chat) for _ in range(20)))
        assert sum(reply.status != 429 for reply in replies) >= promised
        await world.settle()

    simulate(run())


KINDS = {name: act for name, (_, act) in CHARGED.items() if name not in {"a hit", "502", "503"}}


@given(
    requests=st.builds(Rate, st.floats(0.1, 20), st.integers(1, 10)),
    fetches=st.builds(Rate, st.floats(0.1, 20), st.integers(1, 10)),
    in_flight=st.integers(1, 6),
    traffic=st.lists(
        st.tuples(st.sampled_from([0.0, 0.0, 0.01, 0.2, 1.0, 5.0]), st.sampled_from(sorted(KINDS))),
        min_size=1,
        max_size=60,
    ),
)
def test_no_window_admits_more_than_its_rate_and_burst(
    requests: Rate, fetches: Rate, in_flight: int, traffic: list[tuple[float, str]]
) -> None:
    """Whatever is asked: those let in, those that had the upstream asked, and those in progress."""

    async def run() -> None:
        world = limited(Limits(requests=requests, fetches=fetches, in_flight=in_flight))
        chat = world.chat()
        admitted: list[tuple[float, float]] = []

        async def ask(act: Act) -> None:
            began = world.clock.now()
            reply = await act(world, chat)
            if reply.status != 429 or list(limits_in(reply)) == ["fetches"]:
                admitted.append((began, world.clock.now()))

        asking = []
        for pause_s, kind in traffic:
            await asyncio.sleep(pause_s)
            asking.append(asyncio.create_task(ask(KINDS[kind])))
        await asyncio.gather(*asking)
        assert len(admitted) >= 1
        assert exceeded([began for began, _ in admitted], requests) is None
        assert exceeded([sent.at for sent in world.upstream.sent], fetches) is None
        for began, _ in admitted:
            assert sum(start <= began < end for start, end in admitted) <= in_flight
        await world.settle()

    simulate(run())


def exceeded(moments: list[float], rate: Rate) -> tuple[float, float] | None:
    """A window in which there is more than its rate and burst."""
    moments = sorted(moments)
    for first, began in enumerate(moments):
        for last, ended in enumerate(moments[first:], 1):
            if last > rate.per_s * (ended - began) + rate.burst + 1e-6:
                return began, ended
    return None


# -- clients in shadow mode ----------------------------------------------------------------------------------


def shadowed(limits: Limits, name: str = "next") -> Simulation:
    """A world in which bff has no limits, and a client in shadow mode beside it has these."""
    world = limited(UNLIMITED)
    shadow = replace(client_of(world), name=name, limits=limits)
    world.adopt(world.state.policies.clients, [shadow])
    return world


def decisions(world: Simulation) -> dict[str, int]:
    """What the shadow would have decided, how often."""
    return {said: count for (_, _, said), count in world.metrics.shadow_decisions.items()}


@pytest.mark.parametrize(
    "limits",
    [
        Limits(requests=Rate(NEVER, 2)),
        Limits(requests_per_day=2),
        Limits(resources={"info": Limits(requests=Rate(NEVER, 2))}),
    ],
)
@virtual
async def test_a_shadows_limits_are_counted_and_refuse_nobody(limits: Limits) -> None:
    world = shadowed(limits)
    chat = world.chat()
    for _ in range(5):
        reply = await world.info(chat)
        assert reply.status == 200
        assert header(reply, "ratelimit") is None
    assert decisions(world) == {"allow": 2, "rate-limited": 3}
    await world.settle()


@virtual
async def test_a_shadow_counts_what_is_in_flight() -> None:
    world = shadowed(Limits(in_flight=2))
    chat = world.chat()
    replies = await asyncio.gather(*(world.info(chat) for _ in range(5)))
    assert {reply.status for reply in replies} == {200}
    assert decisions(world) == {"allow": 2, "rate-limited": 3}
    await world.info(chat)
    assert decisions(world) == {"allow": 3, "rate-limited": 3}
    await world.settle()


@virtual
async def test_a_shadow_of_somebody_unknown_is_told_of() -> None:
    world = shadowed(UNLIMITED)
    policies = world.state.policies
    world.adopt((client for client in policies.clients if client.name != "bff"), policies.shadows)
    assert (await world.info(world.chat())).status == 403
    assert decisions(world) == {"allow": 1}


# -- exact limits, while nobody answers who counts ----------------------------------------------------------


class Nobody:
    async def charge(self, *_: object, take: bool = True) -> None:
        """Does not answer."""


def cut_off(alone: Alone) -> Simulation:
    world = limited(Limits(Rate(NEVER, 1), 9, exact=True))
    world.exchange.limiter = SharedLimiter(world.limiter, Nobody(), alone)
    return world


@pytest.mark.parametrize(
    ("alone", "statuses"),
    [(Alone.PER_REPLICA, [200, 429, 429]), (Alone.DENY, [429] * 3), (Alone.ALLOW, [200] * 3)],
)
@virtual
async def test_exact_limits_that_nobody_counts_are_kept_as_is_set(alone: Alone, statuses: list[int]) -> None:
    world = cut_off(alone)
    chat = world.chat()
    assert [(await world.info(chat)).status for _ in range(3)] == statuses
    await world.settle()


@virtual
async def test_who_is_refused_for_want_of_a_count_is_told_of_which_and_when_to_come_again() -> None:
    world = cut_off(Alone.DENY)
    reply = await world.info(world.chat())
    assert violated_in(reply) == ["requests", "requests-per-day"]
    assert (header(reply, "retry-after"), header(reply, "ratelimit")) == ("1", None)
    fields = {b"authorization": b"Bearer bff"}
    asked = Request("asked", "GET", chat_path("H1-a", "/info").encode(), b"", fields, _no_body)
    told = dict((await explain(world.exchange, asked)).steps)
    assert told["limit"] == (
        "nobody answers who counts requests and requests-per-day for all replicas; again in 1.0 s"
    )


async def _no_body(_: int) -> bytes:
    return b""
