"""The short cut, one matter after the other: polls in their thousands, the very instants at which something
ends, each field of a head, and what has gone wrong once. All at random: `test_short_cut_first`, `_second`.
"""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import partial

import pytest

from gateway.core.headers import READ, Part
from gateway.core.limits import DAY_S
from gateway.edge.web import Cors
from gateway.emulator import Fault
from tests.road.two_worlds import (
    ORIGIN,
    SUBJECTS,
    Ask,
    Counting,
    Do,
    Options,
    Send,
    Step,
    When,
    both,
    quiet,
)
from tests.simulation import EPOCH, Simulation, cache_rule, caching, chat_path
from tests.virtual import simulate, virtual

BFF = Ask("bff")
OWN_EACH_TIME = Ask("partner", more=("traceparent: 00-{n}", "x-request-id: mine-{n}"))
LONG_RUNS: Mapping[str, tuple[tuple[Ask, ...], set[str]]] = {
    "the same bytes": ((BFF,), {"recall", "200", "of bff"}),
    "other fields each time": ((OWN_EACH_TIME,), {"answer", "200", "of partner"}),
    "what the client has": ((replace(BFF, more=("if-none-match: {etag}",)),), {"304"}),
    "a chat that is gone": ((replace(BFF, chat=2, accept="application/xml"),), {"recall", "404"}),
    "by turns": ((BFF, OWN_EACH_TIME), {"answer", "200", "of bff", "of partner", "pipelined"}),
    "a page of another origin": ((replace(BFF, more=(f"origin: {ORIGIN}",)),), {"recall", "shared origin"}),
    "limits": ((Ask("busy"),), {"recall", "limited"}),
}


@pytest.mark.parametrize("kind", LONG_RUNS)
def test_it_is_the_short_cut_that_answers(kind: str) -> None:
    asks, expected = LONG_RUNS[kind]
    told: Counter[str] = Counter()
    steps: list[Step] = [Send(asks), Send(asks, When(0.6), times=2_000, every=When(0.0037))]
    both(Options(latency_s=0.25, has_cors=True), steps, told)
    assert min(told[each] for each in expected) > 1_000, told
    assert told["after refresh"] > 200 or "404" in expected, told


#: Who polls until shortly before, and how often, ten times a second.
BOUNDARIES: Mapping[str, tuple[str, int]] = {
    "refresh": ("bff", 3),
    "fresh": ("bff", 3),
    "second": ("bff", 3),
    "expiry": ("partner-short", 45),
    "midnight": ("daily", 12),
}


@pytest.mark.parametrize("later_s", [-1e-6, 0.0, 1e-6])
@pytest.mark.parametrize("event", BOUNDARIES)
def test_at_the_very_instant(event: str, later_s: float) -> None:
    subject, times = BOUNDARIES[event]
    ask: tuple[Ask, ...] = (Ask(subject),)
    until_then: list[Step] = [Send(ask), Send(ask, When(0.4), times=times, every=When(0.1))]
    at_last: list[Step] = [Send(ask, When(later_s, event)), Send(ask)]
    # The second ends before midnight.
    both(Options(DAY_S - EPOCH % DAY_S - 1.75), until_then + at_last, Counter())


#: What makes the short cut begin anew, for the road has other values by then.
FORGETTING: Mapping[str, tuple[Options, Step]] = {
    "other entries": (Options(store_bytes=60_000), Do("others read")),
    "other grants": (
        Options(grants_bytes=20_000),
        Send(tuple(Ask(str(subject)) for subject in SUBJECTS), When(0.2)),
    ),
    "other policies": (Options(), Do("all as before")),
    "other keys": (Options(), Do("keys change")),
}


@pytest.mark.parametrize("what", FORGETTING)
def test_whoever_was_forgotten_is_soon_as_quick_as_before(what: str) -> None:
    options, forgetting = FORGETTING[what]
    before, after = Counter[str](), Counter[str]()
    polls: list[Step] = [Send((Ask("bff", chat),), When(0.2), times=20, every=When(0.03)) for chat in (0, 1)]
    # Longer than any entry is fresh.
    both(options, [*polls, forgetting, Do("quicker", When(2.0))], before)
    both(options, [*polls, forgetting, Do("quicker", When(2.0)), *polls], after)
    assert before["recall"] > 10
    assert after["recall"] >= 2 * before["recall"]


# -- field by field ------------------------------------------------------------------------------------------

#: Each field of the table with a value that the remembered poll did not have.
OTHERS: Mapping[bytes, bytes] = {
    b"accept": b"application/json, application/xml;q=0.5",
    b"access-control-request-method": b"GET",
    b"authorization": b"Bearer internal",
    b"content-type": b"text/xml",
    b"host": b"elsewhere.test",
    b"if-none-match": b"*",
    b"last-event-id": b"7",
    b"origin": b"https://elsewhere.example",
    b"prefer": b"wait=1",
    b"traceparent": b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    b"tracestate": b"a=b",
    b"x-forwarded-for": b"203.0.113.1",
    b"x-http-method-override": b"PUT",
    b"x-request-id": b"mine",
}
USUAL: Mapping[bytes, bytes] = {
    b"host": b"gateway.test",
    b"authorization": b"Bearer bff",
    b"accept": b"application/json",
}


class Warm:
    """A connection on which a poll was answered before, by the road."""

    def __init__(self) -> None:
        self.told: Counter[str] = Counter()
        self.it = Simulation(short_cut=partial(Counting, self.told))
        self.peer = self.it.edge.connect()
        self.line = b"GET " + chat_path(self.it.chat(), "/info").encode() + b" HTTP/1.1"

    async def poll(self, fields: Iterable[tuple[bytes, bytes]] = USUAL.items()) -> tuple[bytes, bool]:
        """The reply without its id, and whether the short cut gave it."""
        before, self.peer.received = self.told.total(), []
        self.peer.send(b"\r\n".join([self.line, *(b"%s: %s" % pair for pair in fields), b"", b""]))
        await asyncio.sleep(0.125)
        return re.sub(rb"id-\d+", b"", self.peer.text), self.told.total() > before

    async def warmed(self) -> bytes:
        """The usual reply, once it comes from the short cut."""
        assert not (await self.poll())[1]
        reply, is_cut = await self.poll()
        assert is_cut
        return reply


def test_each_field_of_the_table_is_asked_about() -> None:
    assert OTHERS.keys() == READ.keys()


@pytest.mark.parametrize("name", READ, ids=bytes.decode)
@virtual
async def test_a_field_does_what_the_table_says(name: bytes) -> None:
    warm = Warm()
    usual = await warm.warmed()
    reply, is_cut = await warm.poll({**USUAL, name: OTHERS[name]}.items())
    match READ[name].part:
        case Part.ROAD | Part.CHOOSES:
            assert not is_cut
        case Part.JOINED:
            assert is_cut
            assert reply != usual
        case Part.NONE:
            assert is_cut
            assert without_age(reply) == without_age(usual)


def without_age(reply: bytes) -> bytes:
    return re.sub(rb"(age|ttl)(: |=)\d", b"", reply)


@pytest.mark.parametrize("name", READ, ids=bytes.decode)
@virtual
async def test_a_doubled_field_is_for_the_road(name: bytes) -> None:
    warm = Warm()
    await warm.warmed()
    value = USUAL.get(name, OTHERS[name])
    # Also where both lines say the same, and wherever the second stands.
    first = {**USUAL, name: value}.items()
    assert not (await warm.poll([*first, (name, value)]))[1]
    assert not (await warm.poll([(name.upper(), value), *first]))[1]


@pytest.mark.parametrize("name", USUAL, ids=bytes.decode)
@virtual
async def test_a_poll_without_what_it_needs_is_for_the_road(name: bytes) -> None:
    warm = Warm()
    await warm.warmed()
    assert not (await warm.poll([pair for pair in USUAL.items() if pair[0] != name]))[1]


@pytest.mark.parametrize(
    "name", [name for name, row in READ.items() if row.part is Part.CHOOSES], ids=bytes.decode
)
@virtual
async def test_each_value_of_what_chooses_is_remembered_by_itself(name: bytes) -> None:
    warm = Warm()
    await warm.warmed()
    other = {**USUAL, name: OTHERS[name]}.items()
    assert [(await warm.poll(other))[1] for _ in range(2)] == [False, True]
    assert (await warm.poll())[1]


@virtual
async def test_what_is_joined_comes_out() -> None:
    warm = Warm()
    await warm.warmed()
    reply, is_cut = await warm.poll({**USUAL, b"x-request-id": b"mine", b"if-none-match": b"*"}.items())
    assert is_cut
    assert reply.startswith(b"HTTP/1.1 304 Not Modified\r\n")
    assert b"\r\nx-request-id: mine\r\n" in reply


@pytest.mark.parametrize(
    "before",
    [
        b"GET / HTTP/1.1\r\nx-other: ",
        b"GET / HTTP/1.1\r\nhost: gateway.test\r\n",
        # Refused before the body comes; what comes then is its body all the same.
        b"PUT / HTTP/1.1\r\nhost: gateway.test\r\ncontent-length: %d\r\n\r\n",
        b"PUT / HTTP/1.1\r\nhost: gateway.test\r\ntransfer-encoding: chunked\r\n\r\n%x\r\n",
    ],
)
@virtual
async def test_the_bytes_of_a_poll_within_another_message_are_none(before: bytes) -> None:
    warm = Warm()
    await warm.warmed()
    known = b"\r\n".join([warm.line, *(b"%s: %s" % pair for pair in USUAL.items()), b"", b""])
    cut, warm.peer.received = warm.told.total(), []
    warm.peer.send(before % len(known) if b"%" in before else before)
    await quiet()
    warm.peer.send(known)
    await quiet()
    assert warm.told.total() == cut
    assert warm.peer.text.count(b"HTTP/1.1 ") == 1


# -- what has gone wrong once --------------------------------------------------------------------------------


def test_what_was_asked_before_a_reload_is_not_remembered_for_after_it() -> None:
    """The edge made of it what its configuration said by then: here, whose scripts may read the reply."""
    site = b"https://shop.example"

    async def story() -> None:
        it = Simulation(latency_s=lambda: 0.3)
        it.web_config = replace(it.web_config, cors=Cors(frozenset({site}), 600))
        chat, peer = it.chat(), it.edge.connect()
        asked = (
            b"GET %s HTTP/1.1\r\nhost: x\r\nauthorization: Bearer bff\r\naccept: */*\r\norigin: %s\r\n\r\n"
        )
        poll = asked % (chat_path(chat, "/info").encode(), site)
        peer.send(poll)
        await asyncio.sleep(0.1)
        it.web_config = replace(it.web_config, cors=Cors(frozenset(), 600))
        it.adopt(it.state.policies.clients)
        await asyncio.sleep(0.25)
        assert b"access-control-allow-origin" in peer.text
        for _ in range(4):
            peer.received = []
            peer.send(poll)
            await asyncio.sleep(0.01)
            assert peer.text.startswith(b"HTTP/1.1 200")
            assert b"access-control-allow-origin" not in peer.text
        await it.settle()

    simulate(story())


def test_a_crash_in_the_short_cut_is_counted_and_costs_nobody_an_answer() -> None:
    async def story() -> None:
        warm = Warm()
        await warm.warmed()
        assert warm.it.short_cut is not None
        for held in warm.it.short_cut._passes.held.values():
            held.value = held.value._replace(lane=None)  # type: ignore[arg-type]
        reply, is_cut = await warm.poll()
        assert reply.startswith(b"HTTP/1.1 200")
        assert not is_cut
        assert warm.it.metrics.crashes > 0
        await warm.it.settle()

    simulate(story())


def test_the_reply_to_a_miss_is_remembered_too() -> None:
    async def story() -> None:
        warm = Warm()
        assert not (await warm.poll())[1]
        assert (await warm.poll())[1]
        await warm.it.settle()

    simulate(story())


def test_a_refresh_that_brings_nothing_is_tried_again() -> None:
    """Its landing disarms, whatever it was: the next poll opens another."""

    async def story() -> None:
        it = Simulation(policies=caching({"info": cache_rule(4.0)}), latency_s=lambda: 0.05)
        chat, peer = it.chat(), it.edge.connect()
        poll = b"GET %s HTTP/1.1\r\nhost: x\r\nauthorization: Bearer bff\r\naccept: */*\r\n\r\n"
        for _ in range(2):
            peer.send(poll % chat_path(chat, "/info").encode())
            await asyncio.sleep(0.1)
        # The refresh is due 82.5 ms before the end, and takes 50.
        await asyncio.sleep(3.72)
        it.emulator.fail(Fault(resource="info", status=418, times=1))
        asked = it.asked("info")
        for _ in range(7):
            peer.send(poll % chat_path(chat, "/info").encode())
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)
        assert it.asked("info") == asked + 2
        await it.settle()

    simulate(story())
