"""The wall clock jumps, as clocks do that are set: what is measured by it follows, all else never notices.

Ages, flights, rates and budgets go by the monotonic clock. By the wall clock go what others have written
down as a date (tokens), the quota of a day, usage, and the dates that are told.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import re
from collections.abc import Callable
from email.utils import parsedate_to_datetime
from typing import Any

import pytest

import tests.simulation
from gateway.core.access import Claims
from gateway.core.limits import DAY_S, Limits, Rate
from gateway.core.replies import Reply
from gateway.emulator import Fault as Sick
from gateway.identity.development import mint
from gateway.identity.keysets import parse_secret
from gateway.identity.tokens import Fault, Issuer
from tests.connections import Peer
from tests.identity.world import CLAIMS, NOW, SECRET, Clock, Keys, examine, verifier
from tests.road.test_limits_on_the_road import limited, limits_in
from tests.simulation import EPOCH, Simulation, chat_path, header, outcome
from tests.virtual import virtual

HOUR_S = 3_600.0
JUMPS_S = [HOUR_S, -HOUR_S, 1.5 * DAY_S, -1.5 * DAY_S, 0.75, -0.75]
jumping = pytest.mark.parametrize("by_s", JUMPS_S)

Jump = Callable[[float], None]


@pytest.fixture
def jump(monkeypatch: pytest.MonkeyPatch) -> Jump:
    """Set the wall clock forward, or back, by so much."""

    def by(seconds: float) -> None:
        monkeypatch.setattr(tests.simulation, "EPOCH", tests.simulation.EPOCH + seconds)

    return by


def simulation(**said: Any) -> Simulation:
    return alone(Simulation(**said))


def alone(world: Simulation) -> Simulation:
    """The vendor has a clock of its own, and that does not jump."""
    now = world.clock.now
    world.emulator._now = lambda: EPOCH + now()
    return world


async def poll(peer: Peer, chat: str) -> None:
    """Ask for the info, as somebody does whom the short cut knows, and wait for the answer."""
    head = "host: gateway.test\r\nauthorization: Bearer bff\r\naccept: application/json"
    peer.send(f"GET {chat_path(chat, '/info')} HTTP/1.1\r\n{head}\r\n\r\n".encode())
    await asyncio.sleep(0.2)


def statuses(peer: Peer) -> list[int]:
    return [int(status) for status in re.findall(rb"HTTP/1.1 (\d+) ", peer.text)]


def date(reply: Reply) -> float:
    said = header(reply, "date")
    assert said is not None
    return parsedate_to_datetime(said).timestamp()


def quota(reply: Reply) -> tuple[int, int]:
    """How much is left of the day, and for how long."""
    left = limits_in(reply)["requests-per-day"]
    return int(left["r"]), int(left["t"])


# -- what never notices ------------------------------------------------------------------------------------


@jumping
def test_an_answer_is_as_old_as_it_is(jump: Jump, by_s: float) -> None:
    @virtual
    async def run() -> None:
        world = simulation()
        chat = world.chat()
        first = await world.info(chat)
        jump(by_s)
        second = await world.info(chat)
        assert [outcome(first), outcome(second)] == ["miss", "hit"]
        assert header(second, "age") == "0"
        assert [date(first), date(second)] == [EPOCH, int(EPOCH + by_s + world.clock.now())]
        await world.settle()
        assert outcome(await world.info(chat)) == "miss"
        assert [line["event"] for line in map(json.loads, world.log.getvalue().splitlines())] == [
            "request"
        ] * 3
        await world.settle()

    run()


@jumping
def test_a_flight_lands_and_all_who_wait_have_its_answer(jump: Jump, by_s: float) -> None:
    @virtual
    async def run() -> None:
        world = simulation(latency_s=lambda: 1.0)
        chat = world.chat()
        asked = [asyncio.create_task(world.info(chat)) for _ in range(5)]
        await asyncio.sleep(0.5)
        jump(by_s)
        replies = await asyncio.gather(*asked)
        assert {reply.status for reply in replies} == {200}
        assert world.asked("info") == 1
        assert world.clock.now() == pytest.approx(1.0)
        await world.settle()

    run()


@jumping
def test_a_rate_goes_on_as_it_was(jump: Jump, by_s: float) -> None:
    @virtual
    async def run() -> None:
        world = alone(limited(Limits(requests=Rate(1.0, 3))))
        chat = world.chat()
        for _ in range(3):
            assert (await world.info(chat)).status == 200
        jump(by_s)
        refused = await world.info(chat)
        assert (refused.status, header(refused, "retry-after")) == (429, "1")
        await asyncio.sleep(1.0)
        assert [(await world.info(chat)).status for _ in range(2)] == [200, 429]
        await world.settle()

    run()


@jumping
def test_a_step_of_backoff_is_as_long_as_it_was(jump: Jump, by_s: float) -> None:
    @virtual
    async def run() -> None:
        world = simulation()
        chat = world.chat()
        world.emulator.fail(Sick(status=503))
        assert (await world.info(chat)).status == 502
        asked = world.asked()
        jump(by_s)
        assert (await world.info(chat)).status == 502
        assert world.asked() == asked
        # No step is longer.
        await asyncio.sleep(5.0)
        assert (await world.info(chat)).status == 200
        await world.settle()

    run()


# -- what goes by the wall clock ---------------------------------------------------------------------------


@jumping
def test_a_token_is_good_until_its_date(jump: Jump, by_s: float) -> None:
    """By the road and by the short cut, which remembers that it was good."""

    @virtual
    async def run() -> None:
        world = simulation()
        chat = world.chat()
        world.verifier.expires_at["bff"] = EPOCH + 600
        peer = world.edge.connect()
        for _ in range(2):
            await poll(peer, chat)
        jump(by_s)
        await poll(peer, chat)
        expected = 401 if by_s >= 600 else 200
        assert statuses(peer) == [200, 200, expected]
        assert (await world.info(chat)).status == expected
        await asyncio.sleep(max(0.0, 600 - by_s))
        late = world.edge.connect()
        await poll(late, chat)
        assert statuses(late) == [401]
        for each in (peer, late):
            each.hang_up()
        await world.settle()

    run()


@jumping
def test_a_token_goes_by_its_dates_whenever_it_was_verified(by_s: float) -> None:
    clock = Clock()
    keys = Keys(parse_secret(SECRET))
    its = verifier(Issuer(CLAIMS["iss"], CLAIMS["aud"], frozenset({"HS256"}), keys), clock=clock)
    token = b"Bearer " + mint(SECRET, "HS256", None, CLAIMS | {"nbf": NOW - 60, "exp": NOW + 60}).encode()
    for now in (NOW, NOW + by_s, NOW, NOW + by_s):
        clock.now = now
        outcome = examine(its, token)
        if now >= NOW + 60:
            assert outcome is Fault.EXPIRED
        elif now < NOW - 60:
            assert outcome is Fault.NOT_YET_VALID
        else:
            assert isinstance(outcome, Claims)


@jumping
def test_a_quota_is_never_locked_for_more_than_a_day(jump: Jump, by_s: float) -> None:
    @virtual
    async def run() -> None:
        world = limited(Limits(requests_per_day=3))
        chat = "H1-2K3"
        for _ in range(3):
            assert (await world.info(chat)).status == 404
        jump(by_s)
        reply = await world.info(chat)
        remaining, reset_s = quota(reply)
        assert 0 < reset_s <= DAY_S
        # What was used is forgotten in another day, and not because the clock went back.
        is_next_day = by_s > 0 and (EPOCH + by_s) // DAY_S > EPOCH // DAY_S
        assert (reply.status, remaining) == ((404, 2) if is_next_day else (429, 0))
        if not is_next_day:
            assert header(reply, "retry-after") == str(reset_s)
        await asyncio.sleep(DAY_S)
        assert (await world.info(chat)).status == 404
        await world.settle()

    run()


@jumping
def test_usage_and_lines_have_the_date_that_it_is(jump: Jump, by_s: float) -> None:
    @virtual
    async def run() -> None:
        world = simulation()
        chat = world.chat()
        peer = world.edge.connect()
        for _ in range(2):
            await poll(peer, chat)
        jump(by_s)
        for _ in range(2):
            await poll(peer, chat)
        rows = {str(row["day"]): row["requests"] for row in world.usage.table()}
        days = [f"{dt.datetime.fromtimestamp(at, dt.UTC):%Y-%m-%d}" for at in (EPOCH, EPOCH + by_s)]
        assert rows == ({days[0]: 4} if days[0] == days[1] else dict.fromkeys(days, 2))
        lines = [json.loads(line) for line in world.log.getvalue().splitlines()]
        assert [line["timestamp"][:10] for line in lines] == [days[0]] * 2 + [days[1]] * 2
        assert all(line["duration_ms"] >= 0 for line in lines)
        assert all(min(took.counts) >= 0 <= took.sum_s for took in world.metrics.durations.values())
        peer.hang_up()
        await world.settle()

    run()
