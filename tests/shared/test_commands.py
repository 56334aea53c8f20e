"""Commands do in memory and on real servers what they say."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core import limits as core
from gateway.core.limits import DAY_S, Rate
from gateway.core.messages import Chat
from gateway.shared.commands import (
    ALIVE_S,
    Beat,
    Charged,
    Follow,
    Found,
    Kept,
    Lead,
    RedisCommands,
    Tallied,
)
from gateway.shared.names import Place, chat_of
from gateway.shared.scripts import Reply, Script, Word, script
from tests.shared.contract import NAMES, SITES, ModelSite, Site, client, commands, run, site_of
from tests.shared.servers import VERSIONS, Server, Version, redis_server

pytestmark = pytest.mark.anyio

CHAT = Chat("123456", "H-1")
PLACE = Place(chat_of(CHAT), "f" * 16)
LEASE_S = 1.0
DAY_US = DAY_S * 1_000_000


@pytest.fixture(scope="module", params=SITES)
def place_to_be(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with site_of(request.param, tmp_path_factory.mktemp("redis")) as site:
        yield site


@pytest.fixture
def site(place_to_be: Site) -> Site:
    place_to_be.empty()
    place_to_be.said()
    place_to_be.server = "0a1b2c3d"
    return place_to_be


@pytest.fixture
def a(site: Site) -> RedisCommands:
    return commands(site, "a")


@pytest.fixture
def b(site: Site) -> RedisCommands:
    return commands(site, "b")


async def led(replica: RedisCommands, under: str = "t", place: Place = PLACE) -> Lead:
    looked = await replica.look(place, under, cold=True)
    assert isinstance(looked, Lead)
    return looked


async def landed(
    replica: RedisCommands,
    lead: Lead,
    payload: bytes = b"payload",
    *,
    fresh_s: float = 1.0,
    stale_s: float = 3.0,
) -> bytes:
    """Land an entry; its head."""
    head = lead.head(after_s=0.0, refresh_s=fresh_s, stale_s=stale_s)
    assert await replica.land(PLACE, lead.token, head + b"\n" + payload, b"landed", life_s=stale_s)
    return head


# -- flights -------------------------------------------------------------------------------------------------


async def test_the_first_leads_and_the_others_follow(site: Site, a: RedisCommands, b: RedisCommands) -> None:
    lead = await led(a)
    assert lead == Lead("0a1b2c3d.t", site.us, None)
    site.us += 300_000
    assert await b.look(PLACE, "u", cold=True) == Follow(lead.token, 0.7, None)
    # Another target is another flight.
    await led(b, "u", Place(PLACE.chat, "0" * 16))


async def test_who_asks_twice_under_one_token_leads_all_the_same(site: Site, a: RedisCommands) -> None:
    first = await led(a)
    site.us += 100_000
    assert (await led(a)).token == first.token


async def test_what_has_landed_is_found_with_its_age(site: Site, a: RedisCommands, b: RedisCommands) -> None:
    lead = await led(a)
    site.us += 250_000
    head = lead.head(after_s=0.1, refresh_s=1.0, stale_s=3.0)
    assert await a.land(PLACE, lead.token, head + b"\npay\nload", b"landed")
    assert site.said() == [(NAMES.all, b"landed")]
    assert await b.look(PLACE, "u", cold=False) == Found(Kept(head, b"pay\nload", 0.15))
    assert await b.fetch(PLACE, lead.token) == Kept(head, b"pay\nload", 0.15)
    assert await b.fetch(PLACE, "0a1b2c3d.u") is None


@pytest.mark.parametrize(
    ("after_s", "cold", "there"),
    [
        (1.0, True, True),
        (1.0, False, False),
        (2.999999, True, True),
        (3.0, True, False),
    ],
)
async def test_what_is_to_be_refreshed_goes_to_who_leads_and_to_who_follows_if_they_have_nothing(
    site: Site, a: RedisCommands, after_s: float, cold: bool, there: bool
) -> None:
    head = await landed(a, await led(a))
    site.us += round(after_s * 1_000_000)
    kept = Kept(head, b"payload", after_s) if there else None
    leads = await a.look(PLACE, "u", cold=cold)
    assert leads == Lead("0a1b2c3d.u", site.us, kept)
    assert await a.look(PLACE, "v", cold=cold) == Follow("0a1b2c3d.u", LEASE_S, kept)


async def test_a_dead_leader_is_followed_by_exactly_one(
    site: Site, a: RedisCommands, b: RedisCommands
) -> None:
    dead = await led(a)
    site.us += 999_999
    assert isinstance(await b.look(PLACE, "u", cold=True), Follow)
    site.us += 1
    next_one = await led(b, "u")
    assert isinstance(await a.look(PLACE, "v", cold=True), Follow)
    # Should it not be dead: it neither lands, nor takes the lease away, nor is heard.
    assert await a.land(PLACE, dead.token, b"late", b"landed") is False
    assert await a.land(PLACE, dead.token, None, b"let go") is False
    assert await a.renew(PLACE, dead.token) is False
    assert site.said() == []
    await landed(b, next_one)


async def test_a_renewed_lease_lasts(site: Site, a: RedisCommands, b: RedisCommands) -> None:
    lead = await led(a)
    for _ in range(5):
        site.us += 900_000
        assert await a.renew(PLACE, lead.token)
    site.us += 400_000
    assert await b.look(PLACE, "u", cold=True) == Follow(lead.token, 0.6, None)


async def test_a_first_lease_may_be_shorter_until_it_is_renewed(site: Site, b: RedisCommands) -> None:
    a = RedisCommands(site.runner, NAMES, "a", lease_s=LEASE_S, first_lease_s=0.25)
    lead = await led(a)
    assert await b.look(PLACE, "u", cold=True) == Follow(lead.token, 0.25, None)
    assert await a.renew(PLACE, lead.token)
    assert await b.look(PLACE, "u", cold=True) == Follow(lead.token, LEASE_S, None)


async def test_a_late_leader_lands_if_nobody_took_over(site: Site, a: RedisCommands) -> None:
    lead = await led(a)
    site.us += 5_000_000
    assert await a.renew(PLACE, lead.token)
    site.us += 5_000_000
    await landed(a, lead)
    # Only once.
    assert await a.land(PLACE, lead.token, b"again", b"again") is False


async def test_who_lands_nothing_lets_another_lead(site: Site, a: RedisCommands, b: RedisCommands) -> None:
    lead = await led(a)
    assert await a.land(PLACE, lead.token, None, b"let go")
    assert site.said() == [(NAMES.all, b"let go")]
    await led(b, "u")


async def test_a_write_takes_entries_and_leases(a: RedisCommands, b: RedisCommands) -> None:
    await landed(a, await led(a))
    elsewhere = Place(PLACE.chat, "0" * 16)
    flying = await led(a, "u", elsewhere)
    await b.raised(*CHAT)
    assert await a.land(elsewhere, flying.token, b"of before", b"landed") is False
    assert await a.renew(elsewhere, flying.token) is False
    assert (await led(a, "v")).kept is None
    assert isinstance(await b.look(elsewhere, "w", cold=True), Lead)


async def test_another_server_does_not_believe_the_times_of_the_first(site: Site, a: RedisCommands) -> None:
    await landed(a, await led(a))
    elsewhere = Place(PLACE.chat, "0" * 16)
    await led(a, "u", elsewhere)
    site.server = "ffffffff"
    assert await a.look(PLACE, "v", cold=True) == Lead("ffffffff.v", site.us, None)
    assert await a.look(elsewhere, "w", cold=True) == Lead("ffffffff.w", site.us, None)
    assert await a.fetch(PLACE, "0a1b2c3d.t") is None


async def test_an_entry_that_was_asked_for_in_the_future_is_none(a: RedisCommands) -> None:
    lead = await led(a)
    head = lead.head(after_s=1.0, refresh_s=2.0, stale_s=3.0)
    assert await a.land(PLACE, lead.token, head + b"\n", b"landed")
    assert (await led(a, "u")).kept is None
    assert await a.fetch(PLACE, lead.token) is None


async def test_a_lease_of_an_hour_is_none(site: Site, b: RedisCommands) -> None:
    await led(commands(site, "a", lease_s=3600))
    await led(b, "u")


async def test_a_chat_of_ever_more_targets_forgets_the_old_ones(a: RedisCommands) -> None:
    flying = await led(a, "flying", Place(PLACE.chat, "f" * 16))
    for number in range(64):
        place = Place(PLACE.chat, f"{number:016x}")
        lead = await led(a, "t", place)
        head = lead.head(after_s=0, refresh_s=60.0, stale_s=60.0)
        assert await a.land(place, lead.token, head + b"\n", b"landed")
    found = [
        isinstance(await a.look(Place(PLACE.chat, f"{n:016x}"), "u", cold=False), Found) for n in range(64)
    ]
    assert 0 < sum(found) < 64
    assert found[-1]
    assert isinstance(await a.look(Place(PLACE.chat, "f" * 16), "u", cold=False), Follow)
    assert await a.renew(Place(PLACE.chat, "f" * 16), flying.token)


# -- replicas ------------------------------------------------------------------------------------------------


async def test_a_beat_tells_who_lives_and_comes_back_as_a_mark(
    site: Site, a: RedisCommands, b: RedisCommands
) -> None:
    begun = site.us
    assert await a.beat(1) == Beat(1, begun, begun)
    site.us += 1_000_000
    assert await b.beat(7) == Beat(2, begun, begun)
    marks = [(channel, json.loads(message)) for channel, message in site.said()]
    mark = {"do": "mark", "number": 1, "writes": begun, "revocations": begun, "server": "0a1b2c3d"}
    assert marks == [(NAMES.inbox("a"), mark), (NAMES.inbox("b"), mark | {"number": 7})]
    site.us += round(ALIVE_S * 1_000_000) - 1_000_000
    assert await b.beat(8) == Beat(2, begun, begun)
    site.us += 1
    assert await b.beat(9) == Beat(1, begun, begun)


async def test_who_says_goodbye_is_not_waited_for(a: RedisCommands, b: RedisCommands) -> None:
    await a.beat(1)
    await b.beat(1)
    assert await b.bye() is True
    assert await b.bye() is False
    raised = await a.raised(*CHAT)
    assert raised is not None
    assert raised.alive == {"a"}


async def test_a_write_has_the_next_number_and_all_hear_of_it(
    site: Site, a: RedisCommands, b: RedisCommands
) -> None:
    await a.beat(1)
    await b.beat(1)
    begun, _ = site.us, site.said()
    site.us += 10
    for number in (begun + 1, begun + 2):
        raised = await a.raised("123456", 'H"\\é')
        assert raised is not None
        assert (raised.number, raised.alive) == (number, frozenset("ab"))
        [(channel, message)] = site.said()
        told = {"do": "raised", "account": "123456", "id": 'H"\\é', "n": number, "by": "a"}
        assert (channel, json.loads(message)) == (NAMES.all, told)
    beat = await b.beat(2)
    assert beat is not None
    assert beat.writes == begun + 2


@pytest.mark.parametrize("account", ["123", None])
async def test_a_purge_drops_all_chats_tells_all_and_counts_as_a_write(
    site: Site, a: RedisCommands, b: RedisCommands, account: str | None
) -> None:
    await a.beat(1)
    places = [Place(f"{number:032x}", "aa") for number in range(1200)]
    for place in places[:3]:
        await a.look(place, "t-1", cold=False)
    await a.charge("bff", [("requests", 5)])
    begun, _ = site.us, site.said()
    cursor, steps = await b.purge(account, "0"), 1
    while cursor != "0":
        assert cursor is not None
        cursor, steps = await b.purge(account, cursor), steps + 1
    [(channel, message)] = site.said()
    assert channel == NAMES.all
    told = json.loads(message)
    assert told.pop("n") > begun - 1_000_000
    assert told == {"do": "purged", "account": account, "by": "b"}
    for place in places[:3]:
        assert await a.land(place, "t-1", None, b"{}") is False, "its lease went, too"
    beat = await a.beat(2)
    assert beat is not None
    assert beat.writes == json.loads(message)["n"]
    # What is no chat's stays.
    charged = await a.charge("bff", [("requests", 5)])
    assert charged is not None
    assert charged[0].remaining == 3


async def test_an_emptied_server_never_comes_to_the_same_numbers_again(site: Site, a: RedisCommands) -> None:
    await a.beat(1)
    first = await a.raised(*CHAT)
    version = await a.revoke({"x": (b"1", math.inf)})
    site.empty()
    site.us += 100
    again = await a.raised(*CHAT)
    assert first is not None
    assert again is not None
    assert version is not None
    assert again.number > first.number
    assert (await a.revoke({"x": (b"1", math.inf)}) or 0) > version


async def test_after_a_clock_that_was_ahead_replicas_live_as_before(site: Site, a: RedisCommands) -> None:
    site.us += 3_600_000_000
    await commands(site, "b").beat(1)
    site.us -= 3_600_000_000
    beat = await a.beat(1)
    assert beat is not None
    assert beat.living == 1


async def test_one_replica_is_told(site: Site, a: RedisCommands) -> None:
    assert await a.tell("b", b"\x00ack") is True
    assert site.said() == [(NAMES.inbox("b"), b"\x00ack")]
    assert await a.tell("nobody", b"ack") is False


# -- limits --------------------------------------------------------------------------------------------------

#: Microseconds and the grid of `core.limits` have this step in common: a 64th of a second.
STEP_US = 15_625


#: Rates whose interval is so many steps however it is reckoned.
RATES = st.builds(
    lambda steps, burst: Rate(64 / steps, burst),
    st.sampled_from([steps for steps in range(1, 65) if Rate(64 / steps, 1).interval_s == steps / 64]),
    st.integers(1, 8),
)


async def one_charge(replica: RedisCommands, limit: Rate | int, *, take: bool = True) -> Charged:
    charged = await replica.charge("client", [("it", limit)], take=take)
    assert charged is not None
    [one] = charged
    return one


schedules = st.lists(st.tuples(st.integers(0, 40), st.booleans()), min_size=1, max_size=40)


@given(RATES, schedules)
@settings(max_examples=25)
async def test_a_rate_is_reckoned_as_in_one_process(
    place_to_be: Site, rate: Rate, schedule: list[tuple[int, bool]]
) -> None:
    site, tat = place_to_be, core.UNUSED
    site.empty()
    site.us = 115_200_000 * STEP_US
    replica = commands(site)
    for later, takes in schedule:
        site.us += later * STEP_US
        now = site.us / 1_000_000 - 1_799_999_000
        charged = await one_charge(replica, rate, take=takes)
        wait_s = core.wait_s(tat, rate, now)
        if wait_s:
            left = core.remaining(tat, rate, now)
        else:
            after = core.advanced(tat, rate, now)
            left = core.remaining(after, rate, now)
            tat = after if takes else tat
        assert charged == Charged(wait_s, *left)


@given(st.floats(0.5, 5_000), st.integers(1, 20), st.lists(st.integers(0, 400_000), min_size=2, max_size=60))
@settings(max_examples=25)
async def test_no_window_admits_more_than_its_rate_and_one_burst(
    place_to_be: Site, per_s: float, burst: int, gaps: list[int]
) -> None:
    site, replica = place_to_be, commands(place_to_be)
    site.empty()
    admitted = []
    for gap in gaps:
        site.us += gap
        if (await one_charge(replica, Rate(per_s, burst))).wait_s == 0.0:
            admitted.append(site.us)
    for first, begun in enumerate(admitted):
        for last in range(first, len(admitted)):
            window_s = (admitted[last] - begun) / 1_000_000
            assert last - first + 1 <= per_s * window_s + burst + 1e-9


@given(RATES, RATES, st.integers(0, 8))
@settings(max_examples=40)
async def test_another_rate_is_no_gift_and_nobody_waits_longer_than_it_says(
    place_to_be: Site, old: Rate, new: Rate, uses: int
) -> None:
    site, replica = place_to_be, commands(place_to_be)
    site.empty()
    site.us = 115_200_000 * STEP_US
    now, tat = site.us / 1_000_000 - 1_799_999_000, core.UNUSED
    for _ in range(uses):
        if (await one_charge(replica, old)).wait_s == 0.0:
            tat = core.advanced(tat, old, now)
    charged = await one_charge(replica, new)
    carried = core.UNUSED if tat == core.UNUSED else core.carried(tat, old, new, now)
    wait_s = core.wait_s(carried, new, now)
    assert charged.wait_s == pytest.approx(wait_s, abs=2e-6)
    after = carried if wait_s > 2e-6 else core.advanced(carried, new, now)
    assert charged.remaining == pytest.approx(core.remaining(after, new, now)[0], abs=1)


async def test_a_burst_that_shrank_is_there_as_a_whole_and_no_more(a: RedisCommands) -> None:
    await one_charge(a, Rate(1, 8))
    waits = [(await one_charge(a, Rate(1, 2))).wait_s for _ in range(3)]
    assert waits == [0.0, 0.0, 1.0]


async def test_no_rate_is_quicker_for_being_rounded(a: RedisCommands) -> None:
    await one_charge(a, Rate(3, 1))
    assert (await one_charge(a, Rate(3, 1))).wait_s == 0.333334


async def test_a_request_is_charged_to_all_its_limits_or_to_none(site: Site, a: RedisCommands) -> None:
    limits: list[tuple[str, Rate | int]] = [("all", Rate(1, 5)), ("day", 2), ("one", Rate(1, 3))]
    until_midnight = (DAY_US - site.us % DAY_US) / 1_000_000
    for left in (1, 0):
        charged = await a.charge("client", limits)
        assert charged is not None
        assert [one.wait_s for one in charged] == [0.0, 0.0, 0.0]
        assert charged[1] == Charged(0.0, left, until_midnight)
    for _ in range(3):
        assert await a.charge("client", limits) == [
            Charged(0.0, 3, 1.0),
            Charged(until_midnight, 0, until_midnight),
            Charged(0.0, 1, 1.0),
        ]
    # Another client has its own.
    assert (await one_charge(commands(site, "b"), 2)).remaining == 1


async def test_what_is_not_taken_is_told_as_if_it_were(a: RedisCommands) -> None:
    limits: list[tuple[str, Rate | int]] = [("all", Rate(1, 2)), ("day", 2)]
    for _ in range(3):
        foreseen = await a.charge("client", limits, take=False)
        assert foreseen == await a.charge("client", limits, take=False)
        assert foreseen == await a.charge("client", limits)


async def test_a_days_quota_is_there_again_at_midnight(site: Site, a: RedisCommands) -> None:
    assert (await one_charge(a, 1)).wait_s == 0.0
    site.us += DAY_US - site.us % DAY_US - 1
    assert await one_charge(a, 1) == Charged(1e-6, 0, 1e-6)
    site.us += 1
    assert await one_charge(a, 1) == Charged(0.0, 0, DAY_S)


async def test_a_quota_that_was_lowered_is_not_negative(a: RedisCommands) -> None:
    for _ in range(5):
        await one_charge(a, 10)
    assert (await one_charge(a, 3)).remaining == 0
    assert (await one_charge(a, 10)).remaining == 4


async def test_a_clock_that_went_back_locks_nobody_out(site: Site, a: RedisCommands) -> None:
    for _ in range(3):
        await one_charge(a, Rate(1, 3))
    site.us -= 86_400_000_000
    assert await one_charge(a, Rate(1, 3)) == Charged(1.0, 0, 1.0)


# -- tallies -------------------------------------------------------------------------------------------------


async def test_what_was_counted_is_added_once_however_often_it_is_said(
    site: Site, a: RedisCommands, b: RedisCommands
) -> None:
    assert await a.tally(7, 1, 60, {"x": 2, "y": 3}) == Tallied(0, {"x": 2, "y": 3})
    assert await a.tally(7, 1, 60, {"x": 2, "y": 3}) == Tallied(1, {"x": 2, "y": 3})
    assert await b.tally(7, 1, 60, {"x": 5}) == Tallied(0, {"x": 7, "y": 3})
    assert await a.tally(7, 2, 60, {"y": 1}) == Tallied(1, {"x": 7, "y": 4})
    assert await a.tally(7, 1, 60, {"y": 1}) == Tallied(2, {"x": 7, "y": 4})
    assert await a.tally(7, 0, 60, {}) == Tallied(2, {"x": 7, "y": 4})
    assert await a.tally(8, 3, 60, {}) == Tallied(0, {})
    site.empty()
    assert await a.tally(7, 0, 60, {}) == Tallied(0, {})


# -- revocations ---------------------------------------------------------------------------------------------


async def test_lines_are_told_from_a_version_on(site: Site, a: RedisCommands, b: RedisCommands) -> None:
    first = await a.revoke({"x": (b"1 x", math.inf), "y": (b"1 y", math.inf)})
    second = await b.revoke({"x": (b"2 x", math.inf)})
    assert first is not None
    assert second == first + 1
    said = [(channel, json.loads(message)) for channel, message in site.said()]
    assert said == [(NAMES.all, {"do": "revoked", "version": version}) for version in (first, second)]
    assert await a.revocations(0) == (second, [b"1 y", b"2 x"])
    assert await a.revocations(first) == (second, [b"2 x"])
    assert await a.revocations(second) == (second, [])


async def test_many_lines_are_told_in_pages_of_whole_versions(a: RedisCommands) -> None:
    for number in range(11):
        places = {f"{number}-{at}": (b"%d-%d" % (number, at), math.inf) for at in range(97)}
        await a.revoke(places)
    first = await a.revocations(0)
    assert first is not None
    assert len(first.lines) == 6 * 97
    second = await a.revocations(first.version)
    assert second is not None
    assert len(second.lines) == 5 * 97
    assert len({*first.lines, *second.lines}) == 11 * 97
    assert await a.revocations(second.version) == (second.version, [])


async def test_lines_that_are_over_are_dropped_with_the_next_ones(site: Site, a: RedisCommands) -> None:
    over = site.us / 1_000_000 + 10
    await a.revoke({f"{at}": (b"over", over) for at in range(250)})
    await a.revoke({"stays": (b"stays", over + 10)})
    site.us += 11_000_000
    await a.revoke({"new": (b"new", math.inf)})
    left = await a.revocations(0)
    assert left is not None
    assert len(left.lines) == 250 - 200 + 2
    await a.revoke({"newer": (b"newer", math.inf)})
    assert await a.revocations(0) == (left.version + 1, [b"stays", b"new", b"newer"])


# -- in memory as on servers ---------------------------------------------------------------------------------

FIELDS = st.sampled_from(["f1", "f2"])
TOKENS = st.sampled_from(["t1", "t2", "t3"])
MINE = st.tuples(st.sampled_from(["0a1b2c3d", "ffffffff", "-"]), TOKENS).map(".".join)
TIMES = st.integers(-2_000_000, 4_000_000)
VALUES = st.one_of(
    st.just(""),
    st.sampled_from(["rubbish", "1 2 3 4", "1 2 3 0a1b2c3d.t1", "\n", "99 " * 400]),
    st.tuples(TIMES, TIMES, TIMES, MINE).map(
        lambda it: "\n".join(
            (" ".join((*(str(1_800_054_000_123_456 + us) for us in it[:3]), it[3])), "payload")
        )
    ),
)
CALLS = st.one_of(
    st.tuples(st.just("look"), st.tuples(FIELDS, TOKENS, st.just(1000), st.booleans().map(int))),
    st.tuples(
        st.just("land"), st.tuples(FIELDS, MINE, VALUES, st.just(3000), st.just(NAMES.all), st.just("m"))
    ),
    st.tuples(st.just("renew"), st.tuples(FIELDS, MINE, st.sampled_from([1000, 20_000]))),
    st.tuples(st.just("fetch"), st.tuples(FIELDS)),
    st.tuples(st.just("raise"), st.tuples(st.just(NAMES.all), st.just(3000), st.just('{"n":'))),
    st.tuples(
        st.just("beat"),
        st.tuples(st.sampled_from("ab"), st.just(3000), st.just(NAMES.inbox("a")), st.just(1)),
    ),
    st.tuples(st.just("bye"), st.tuples(st.sampled_from("ab"))),
    st.tuples(st.just("wait"), st.integers(-500_000, 2_000_000)),
    st.tuples(st.just("become"), st.sampled_from(["0a1b2c3d", "ffffffff", "-"])),
    st.tuples(
        st.just("charge"),
        st.tuples(
            *(st.booleans().map(int), st.just("rate"), st.just("r"), st.integers(1, 4)),
            *(
                st.sampled_from([333_333, 1_000_000]),
                st.just("day"),
                st.just("d"),
                st.integers(1, 4),
                st.just(0),
            ),
        ),
    ),
    st.tuples(
        st.just("tally"),
        st.tuples(st.sampled_from("ab"), st.integers(0, 3), st.just(9), st.just("x"), st.just(2)),
    ),
)
KEYS = {
    "look": ["c"],
    "land": ["c"],
    "renew": ["c"],
    "fetch": ["c"],
    "raise": ["c", "w", "r"],
    "beat": ["r", "w", "v"],
    "bye": ["r"],
    "charge": ["l"],
    "tally": ["d", "dr"],
}


@pytest.fixture(scope="module", params=VERSIONS)
def real(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with site_of(request.param, tmp_path_factory.mktemp("redis")) as site:
        yield site


@given(st.lists(CALLS, max_size=40))
@settings(max_examples=100)
async def test_the_model_says_what_a_server_says(real: Site, calls: list[tuple[str, object]]) -> None:
    model = ModelSite()
    real.empty()
    real.said()
    real.us, real.server = model.us, model.server
    for name, said in calls:
        if isinstance(said, int):
            real.us = model.us = model.us + said
        elif isinstance(said, str):
            real.server = model.server = said
        else:
            assert isinstance(said, tuple)
            here = await model.runner.run(script(name), KEYS[name], said)
            there = await real.runner.run(script(name), KEYS[name], said)
            assert here == there, name
    assert model.said() == real.said()


# -- as it is shipped: the server's own clock, name and memory -----------------------------------------------


class Plain:
    """Runs the scripts as they are."""

    def __init__(self, server: Server) -> None:
        self.client = client(server)

    async def run(self, script: Script, keys: Sequence[str], args: Sequence[Word]) -> Reply | None:
        reply: Reply = run(self.client, script, keys, args)
        return reply


@pytest.fixture(scope="module", params=VERSIONS)
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    version: Version = request.param
    with redis_server(tmp_path_factory.mktemp("redis"), version=version) as server:
        yield server


@pytest.fixture
def plain(server: Server) -> Iterator[Plain]:
    server.flush()
    plain = Plain(server)
    yield plain
    plain.client.close()


@pytest.fixture
def shipped(plain: Plain) -> RedisCommands:
    return RedisCommands(plain, NAMES, "a", lease_s=LEASE_S)


async def test_times_are_the_servers_and_tokens_begin_with_its_name(
    server: Server, shipped: RedisCommands
) -> None:
    lead = await led(shipped)
    assert f"run_id:{lead.token.partition('.')[0]}".encode() in server.command("INFO", "server")
    assert lead.at_us / 1_000_000 == pytest.approx(time.time(), abs=5)


async def test_who_may_not_ask_for_the_servers_name_does_without(server: Server, plain: Plain) -> None:
    rules = ("on", "nopass", "~*", "&*", "+@all", "-info", "-config")
    server.command("ACL", "SETUSER", "restricted", *rules)
    plain.client.execute_command("AUTH", "restricted", "x")
    a = RedisCommands(plain, NAMES, "a", lease_s=LEASE_S)
    lead = await led(a)
    assert lead.token == "-.t"
    head = await landed(a, lead)
    found = await a.look(PLACE, "u", cold=False)
    assert isinstance(found, Found)
    assert found.kept.head == head


async def test_nothing_of_a_chat_or_client_stays_for_ever(server: Server, shipped: RedisCommands) -> None:
    chat, limits = NAMES.chat(PLACE.chat), NAMES.limits("client")
    lead = await led(shipped)
    assert 0 < server.command("PTTL", chat) <= 1_000
    head = lead.head(after_s=0, refresh_s=1.0, stale_s=60.0)
    await shipped.land(PLACE, lead.token, head + b"\n", b"landed", life_s=60.0)
    assert 50_000 < server.command("PTTL", chat) <= 60_000
    # Nobody's promise is broken by a shorter one.
    elsewhere = await led(shipped, "u", Place(PLACE.chat, "0" * 16))
    await shipped.renew(PLACE._replace(field="0" * 16), elsewhere.token)
    assert server.command("PTTL", chat) > 50_000
    await shipped.charge("client", [("all", Rate(0.01, 3))])
    # Longer than it says anything: where memory is short, what ends first goes first.
    assert 3_500_000 < server.command("PTTL", limits) <= 3_600_000
    await shipped.charge("client", [("day", 3)], take=False)
    assert server.command("PTTL", limits) <= 3_600_000
    await shipped.tally(7, 1, 60, {"x": 1})
    assert all(50_000 < server.command("PTTL", key) <= 60_000 for key in NAMES_OF_A_DAY)


NAMES_OF_A_DAY = (NAMES.day(7), NAMES.replicas_of_day(7))


async def test_of_lines_that_are_over_nothing_stays(server: Server, shipped: RedisCommands) -> None:
    await shipped.revoke({"x": (b"over", 1.0), "y": (b"stays", math.inf)})
    assert server.command("HKEYS", NAMES.revocations) == [b"y"]
    for key in (NAMES.revocations_order, NAMES.revocations_over):
        assert server.command("ZRANGE", key, 0, -1) == [b"y"]


async def test_what_only_looks_writes_nothing(server: Server, shipped: RedisCommands) -> None:
    await shipped.charge("client", [("all", Rate(1, 3)), ("day", 3)], take=False)
    await shipped.tally(7, 0, 60, {})
    await shipped.fetch(PLACE, "t")
    assert server.command("KEYS", "*") == []


FOREIGN = [b"", b"\xff\x00", b"1", b"1 2 3", b"9" * 400, b"-1 -1 -1", b"nan nan nan", b"1e9 1e9 1e9\n"]


@pytest.mark.parametrize("foreign", FOREIGN)
async def test_foreign_bytes_are_nothing(server: Server, shipped: RedisCommands, foreign: bytes) -> None:
    chat = NAMES.chat(PLACE.chat)
    server.command("HSET", chat, PLACE.field, foreign, f"lease:{PLACE.field}", foreign)
    assert (await led(shipped)).kept is None
    limits, day = NAMES.limits("client"), NAMES.day(7)
    server.command("HSET", limits, "rate:all", foreign, "day:day", foreign)
    charged = await shipped.charge("client", [("all", Rate(1, 3)), ("day", 3)])
    assert charged is not None
    assert [one.remaining for one in charged] == [2, 2]
    server.command("HSET", NAMES.replicas_of_day(7), "a", b"x" + foreign)
    server.command("HSET", day, "x", b"x" + foreign, b"\xff", foreign)
    tallied = await shipped.tally(7, 1, 60, {"x": 1})
    assert tallied is not None
    assert (tallied.known, tallied.totals["x"]) == (0, 1)
    server.command("MSET", NAMES.writes, b"x" + foreign, NAMES.revocations_version, b"x" + foreign)
    beat = await shipped.beat(1)
    assert beat is not None
    assert beat.writes / 1_000_000 == pytest.approx(time.time(), abs=5)
    raised = await shipped.raised(*CHAT)
    assert raised is not None
    assert raised.number == beat.writes + 1


# -- no answer, or none of ours ------------------------------------------------------------------------------


class Says:
    """Always the same."""

    def __init__(self, reply: Reply | None) -> None:
        self.reply = reply

    async def run(self, script: Script, keys: object, args: object) -> Reply | None:
        del script, keys, args
        return self.reply


NO_REPLIES: list[Reply | None] = [
    None,
    b"OK",
    [],
    [b"found"],
    [b"found", 1, b"foreign"],
    [[[]]],
    [1, 2],
    [b"", b""],
]


@pytest.mark.parametrize("reply", NO_REPLIES)
async def test_what_is_no_reply_is_none(reply: Reply | None) -> None:
    a = RedisCommands(Says(reply), NAMES, "a", lease_s=LEASE_S)
    answers = [
        await a.look(PLACE, "t", cold=True),
        await a.land(PLACE, "t", b"", b""),
        await a.renew(PLACE, "t"),
        await a.fetch(PLACE, "t"),
        await a.raised(*CHAT),
        await a.beat(1),
        await a.bye(),
        await a.tell("b", b""),
        await a.charge("client", [("day", 1)]),
        await a.tally(7, 1, 60, {}),
        await a.revoke({}),
        await a.revocations(0),
    ]
    assert answers == [None] * len(answers)
    assert set(a.outcomes.values()) == {1}
    assert {answered for _, answered in a.outcomes} == {reply is not None}
