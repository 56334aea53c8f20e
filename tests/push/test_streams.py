"""Streams over the whole road, on virtual time, against the emulator."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace

import pytest

from gateway.core.errors import Reason
from gateway.core.freshness import Failed
from gateway.core.limits import Limits, Rate
from gateway.core.messages import Answer, Chat, UpstreamRequest
from gateway.core.requests import Request
from gateway.demo.stage import ACCOUNT
from gateway.overload import Overload
from tests.push.following import STREAM, Following, streaming
from tests.simulation import EPOCH, chat_path, header
from tests.virtual import virtual


@virtual
async def test_the_current_document_and_then_each_change() -> None:
    sim = Following()
    chat = sim.chat()
    reader = await sim.follow(chat)
    await asyncio.sleep(10)
    assert reader.names == ["You"]
    await sim.rename(chat, "b")
    at = sim.clock.now()
    await asyncio.sleep(1)
    assert reader.names == ["You", "b"]
    assert reader.messages[-1].at - at < 0.5
    assert reader.messages[-1].id == header(await sim.info(chat), "etag")
    reader.leave()
    await sim.ended()


@virtual
async def test_one_upstream_poll_a_ttl_however_many_watch() -> None:
    sim = Following(streaming(streams=1000))
    chat = sim.chat()
    readers = [await sim.follow(chat) for _ in range(1000)]
    before = sim.polls()
    for name in range(20):
        sim.emulator.agent_typing(chat, name % 2 == 0)
        await asyncio.sleep(0.7)
    assert 12 <= sim.polls() - before <= 16
    changes = [message.id for message in readers[0].messages]
    assert len(changes) > 3
    assert all([message.id for message in reader.messages] == changes for reader in readers)
    assert [(watching.watchers, watching.trouble) for watching in sim.hub.watches()] == [(1000, None)]
    for reader in readers:
        reader.leave()
    await sim.ended()


@virtual
async def test_the_chat_lives_as_long_as_it_is_watched() -> None:
    sim = Following()
    chat = sim.chat()
    reader = await sim.follow(chat)
    await asyncio.sleep(300)
    assert sim.emulator.chat(chat).state == "chatting"
    assert reader.events == ["info"]
    assert len(reader.heartbeats) >= 50
    reader.leave()
    await asyncio.sleep(60)
    assert sim.emulator.chat(chat).state == "ended"
    await sim.ended()


@virtual
async def test_an_ended_chat_ends_its_streams() -> None:
    sim = Following()
    chat = sim.chat()
    readers = [await sim.follow(chat), await sim.follow(chat, "/events")]
    sim.emulator.end(chat)
    await asyncio.sleep(2)
    for reader in readers:
        assert reader.events[-1] == "ended"
        assert reader.messages[-1].json == {"reason": "ended"}
        assert not reader.is_open
        last = reader.messages[-2].id
        assert last is not None
        rest = "/info" if reader is readers[0] else "/events"
        reply, _ = await sim.open(chat, rest, last_event_id=last)
        assert reply.status == 204
    # Who has not had the last message gets it, and the end.
    late = await sim.follow(chat)
    assert late.events == ["info", "ended"]
    await sim.ended()


@virtual
async def test_a_chat_that_is_gone_ends_its_streams() -> None:
    sim = Following()
    chat = sim.chat()
    reader = await sim.follow(chat)

    async def gone(_: UpstreamRequest) -> Answer:
        body = b'{"error": {"message": "no", "internalCode": 12}}'
        return Answer(404, ((b"content-type", b"application/json"),), body)

    sim.upstream.interfere = gone
    await asyncio.sleep(2)
    assert [message.json for message in reader.told("ended")] == [{"reason": "gone"}]
    assert (await sim.open(chat))[0].status == 404
    await sim.ended()


@virtual
async def test_events_come_once_and_in_order_wherever_one_begins() -> None:
    sim = Following()
    chat = sim.chat()
    first = await sim.follow(chat, "/events")
    for number in range(5):
        sim.emulator.agent_line(chat, f"a{number}")
        await asyncio.sleep(0.3)
    second = await sim.follow(chat, "/events", "from=2")
    third = await sim.follow(chat, "/events", last_event_id="3")
    for number in range(5):
        sim.emulator.agent_line(chat, f"b{number}")
        await asyncio.sleep(0.7)
    await asyncio.sleep(2)
    numbers = [number for number, _ in first.lines]
    assert numbers == list(range(len(numbers)))
    assert [text for _, text in first.lines if text and text[0] in "ab"] == [
        f"{kind}{number}" for kind in "ab" for number in range(5)
    ]
    assert second.lines == [line for line in first.lines if line[0] >= 2]
    assert third.lines == [line for line in first.lines if line[0] > 3]
    first.leave()
    # Whoever comes back has lost nothing.
    sim.emulator.agent_line(chat, "c")
    again = await sim.follow(chat, "/events", last_event_id=str(numbers[-1]))
    await asyncio.sleep(2)
    assert [text for _, text in again.lines] == ["c"]
    for reader in (second, third, again):
        reader.leave()
    await sim.ended()


@virtual
async def test_who_has_the_current_document_is_not_told_it_again() -> None:
    sim = Following()
    chat = sim.chat()
    tag = header(await sim.info(chat), "etag")
    assert tag is not None
    reader = await sim.follow(chat, last_event_id=tag)
    await asyncio.sleep(3)
    assert reader.messages == []
    await sim.rename(chat, "b")
    await asyncio.sleep(1)
    assert reader.names == ["b"]
    reader.leave()
    await sim.ended()


@virtual
async def test_trouble_is_told_once_and_its_end_by_the_document() -> None:
    sim = Following()
    chat = sim.chat()
    reader = await sim.follow(chat)

    async def broken(_: UpstreamRequest) -> Failed:
        return Failed(Reason.UPSTREAM_BROKEN)

    sim.upstream.interfere = broken
    await asyncio.sleep(10)
    assert reader.events == ["info", "problem"]
    assert reader.messages[-1].json["type"] == Reason.UPSTREAM_BROKEN.type
    assert [watching.trouble for watching in sim.hub.watches()] == ["upstream-broken"]
    sim.upstream.interfere = None
    await asyncio.sleep(6)
    assert reader.events == ["info", "problem", "info"]
    reader.leave()
    await sim.ended()


def _expire(sim: Following) -> None:
    sim.verifier.expires_at["bff"] = EPOCH + 2


@pytest.mark.parametrize(
    ("why", "slug", "comes_back"),
    [
        ("expired", "token-expired", True),
        ("revoked", "policies-changed", True),
        ("client", "token-revoked", False),
        ("policies", "policies-changed", True),
        ("drained", "draining", True),
    ],
)
@virtual
async def test_a_stream_ends_with_its_grant(why: str, slug: str, comes_back: bool) -> None:
    sim = Following()
    chat = sim.chat()
    if why == "expired":
        _expire(sim)
    reader = await sim.follow(chat)
    sim.hub.random = lambda: 0.25
    await asyncio.sleep(2 - sim.clock.now())
    if why == "revoked":
        sim.revoke("bff")
    elif why == "client":
        sim.revoke_client("bff")
    elif why == "policies":
        sim.adopt(sim.state.policies.clients)
    elif why == "drained":
        await sim.hub.drain()
    await asyncio.sleep(0.6)
    assert reader.events == ["info", "closed"]
    closed = reader.messages[-1]
    assert closed.json["type"].endswith(f":{slug}")
    assert closed.json["request_id"] == "test"
    assert closed.retry == ("750" if comes_back else None)
    assert closed.at <= 2.6
    assert not reader.is_open
    assert sim.metrics.streams_closed == {("bff", "info", slug): 1}
    if why == "drained":
        assert (await sim.open(chat))[0].status == 503
    await sim.ended()


@virtual
async def test_streams_are_limited_while_they_last() -> None:
    sim = Following(streaming(streams=1))
    chat = sim.chat()
    reader = await sim.follow(chat)
    refused, _ = await sim.open(chat)
    assert refused.status == 429
    assert json.loads(refused.body)["violated-policies"] == ["streams"]
    assert (await sim.wait(chat, if_none_match=reader.messages[0].id or "")).status == 429
    reader.leave()
    (await sim.follow(chat)).leave()
    # A head that never was written takes its place for a while only.
    await sim.ask("GET", chat_path(chat, "/info"), accept=STREAM)
    assert (await sim.open(chat))[0].status == 429
    await asyncio.sleep(6)
    (await sim.follow(chat)).leave()
    await sim.ended()


@virtual
async def test_one_that_breaks_is_nobody_elses_trouble() -> None:
    sim = Following()
    chat = sim.chat()
    bad, good = await sim.follow(chat), await sim.follow(chat)
    bad.breaks = True
    await sim.rename(chat, "b")
    await asyncio.sleep(1)
    assert good.names == ["You", "b"]
    assert not bad.is_open
    assert sim.metrics.crashes == 1
    good.leave()
    await sim.ended()


@virtual
async def test_what_a_write_overtook_is_not_told() -> None:
    sim = Following(latency_s=lambda: 0.4)
    chat = sim.chat()
    reader = await sim.follow(chat)
    for name in "bcdef":
        await asyncio.sleep(0.37)
        await sim.rename(chat, name)
    await asyncio.sleep(3)
    assert reader.names == ["You", *sorted(set(reader.names[1:]))]
    assert reader.names[-1] == "f"
    reader.leave()
    await sim.ended()


@virtual
async def test_a_long_poll_is_answered_at_the_first_change() -> None:
    sim = Following()
    chat = sim.chat()
    tag = header(await sim.info(chat), "etag") or ""
    waiting = asyncio.create_task(sim.wait(chat, if_none_match=tag))
    await asyncio.sleep(7)
    assert not waiting.done()
    sim.emulator.agent_typing(chat)
    await asyncio.sleep(1.5)
    reply = await waiting
    assert (reply.status, header(reply, "preference-applied")) == (200, "wait")
    tag = header(reply, "etag") or ""
    began = sim.clock.now()
    nothing = await sim.wait(chat, if_none_match=tag)
    assert nothing.status == 304
    assert sim.clock.now() - began == pytest.approx(20)
    # Who has something else is answered at once.
    began = sim.clock.now()
    assert (await sim.wait(chat)).status == 200
    assert (await sim.wait(chat, if_none_match='W/"0"')).status == 200
    assert sim.clock.now() - began < 1
    await sim.ended()


@pytest.mark.parametrize("accept", ["application/json", "application/xml"])
@virtual
async def test_a_long_poll_for_events_waits_for_one(accept: str) -> None:
    sim = Following()
    chat = sim.chat()
    everything = json.loads((await sim.ask("GET", chat_path(chat, "/events"))).body)["events"]["event"]
    query = f"from={len(everything) if isinstance(everything, list) else 1}"
    empty = await sim.wait(chat, "/events", query, accept=accept)
    assert (empty.status, b"agent says" in empty.body) == (200, False)
    assert sim.clock.now() >= 20
    waiting = asyncio.create_task(sim.wait(chat, "/events", query, accept=accept))
    await asyncio.sleep(3)
    sim.emulator.agent_line(chat, "agent says")
    await asyncio.sleep(1.5)
    assert b"agent says" in (await waiting).body
    await sim.ended()


@virtual
async def test_a_long_poll_ends_when_its_client_has_gone() -> None:
    sim = Following()
    chat = sim.chat()
    tag = header(await sim.info(chat), "etag") or ""
    there = [True]

    async def body(_: int) -> bytes:
        return b""

    fields = {b"authorization": b"Bearer bff", b"prefer": b"wait=20", b"if-none-match": tag.encode()}
    path = chat_path(chat, "/info").encode()
    request = Request("test", "GET", path, b"", fields, body, is_there=lambda: there[0])
    waiting = asyncio.create_task(sim.exchange.answer(request))
    await asyncio.sleep(3)
    there[0] = False
    await asyncio.sleep(0.6)
    assert waiting.done()
    await sim.ended()


# -- whoever is told: only what it may see, for as long as it may --------------------------------------------


@pytest.mark.parametrize("first", ["bff", "partner"])
@virtual
async def test_each_is_told_in_its_own_view_whoever_came_first(first: str) -> None:
    sim = Following()
    chat = sim.chat()
    subjects = sorted(["bff", "partner"], key=lambda subject: subject != first)
    infos = {subject: await sim.follow(chat, subject=subject) for subject in subjects}
    events = {subject: await sim.follow(chat, "/events", subject=subject) for subject in subjects}
    sim.emulator.agent_line(chat, "a secret")
    sim.emulator.agent_typing(chat)
    await sim.rename(chat, "Zoe")
    await asyncio.sleep(2)
    assert infos["bff"].names[-1] == "Zoe"
    assert "a secret" in [text for _, text in events["bff"].lines]
    seen = [message.json["info"] for message in infos["partner"].told("info")]
    assert len(seen) >= 2
    assert not any("visitorName" in info for info in seen)
    assert {text for _, text in events["partner"].lines} == {None}
    for reader in (*infos.values(), *events.values()):
        reader.leave()
    await sim.ended()


@virtual
async def test_nothing_is_told_after_the_end_of_a_grant_though_nobody_has_looked() -> None:
    sim = Following()
    chat = sim.chat()
    reader, other = await sim.follow(chat, subject="internal"), await sim.follow(chat)
    # Just after a look.
    await asyncio.sleep(1.05)
    sim.revoke("internal")
    await sim.rename(chat, "b")
    await asyncio.sleep(0.35)
    assert other.names == ["You", "b"]
    assert (reader.events, reader.names) == (["info", "closed"], ["You"])
    other.leave()
    await sim.ended()


@virtual
async def test_a_long_poll_that_is_over_takes_no_place() -> None:
    sim = Following(streaming(streams=1))
    chat = sim.chat()
    tag = header(await sim.info(chat), "etag") or ""
    for _ in range(3):
        assert (await sim.wait(chat, if_none_match=tag)).status == 304
    (await sim.follow(chat)).leave()
    await sim.ended()


@pytest.mark.parametrize("what", ["chat", "account", "all", "missed", "written"])
@virtual
async def test_what_may_be_old_is_asked_for_at_once(what: str) -> None:
    sim = Following(streaming(ttl_s=8.0))
    chat = sim.chat()
    reader = await sim.follow(chat)
    await asyncio.sleep(1)
    sim.emulator.agent_typing(chat)
    if what == "missed":
        sim.exchange.missed()
    elif what == "written":
        sim.exchange.written(Chat(ACCOUNT, chat))
    else:
        account = None if what == "all" else ACCOUNT
        await sim.exchange.purge(account, Chat(ACCOUNT, chat) if what == "chat" else None)
    await asyncio.sleep(0.5)
    assert reader.events == ["info", "info"]
    reader.leave()
    await sim.ended()


@virtual
async def test_who_waits_does_not_outlive_its_token() -> None:
    sim = Following()
    chat = sim.chat()
    tag = header(await sim.info(chat), "etag") or ""
    sim.verifier.expires_at["bff"] = EPOCH + sim.clock.now() + 3
    began = sim.clock.now()
    assert (await sim.wait(chat, if_none_match=tag)).status == 401
    assert sim.clock.now() - began < 3.6
    await sim.ended()


@virtual
async def test_whose_fetches_are_used_up_is_told_by_those_of_others() -> None:
    policies = streaming()
    few = Limits(fetches=Rate(0.001, 2))
    clients = (replace(one, limits=few) if one.name == "partner" else one for one in policies.clients)
    sim = Following(replace(policies, clients=tuple(clients)))
    chat = sim.chat()
    readers = [await sim.follow(chat, subject="partner"), await sim.follow(chat)]
    await asyncio.sleep(20)
    assert [reader.events for reader in readers] == [["info"], ["info"]]
    readers[1].leave()
    await asyncio.sleep(3)
    assert readers[0].events == ["info", "problem"]
    assert readers[0].messages[-1].json["violated-policies"] == ["fetches"]
    readers[0].leave()
    await sim.ended()


@virtual
async def test_those_who_watch_pay_in_turn() -> None:
    sim = Following()
    chat = sim.chat()
    readers = [await sim.follow(chat, subject=subject) for subject in ("bff", "internal")]
    await asyncio.sleep(20)
    paid = [sim.usage.today(client).fetches for client in ("bff", "internal")]
    assert sum(paid) >= 15
    assert abs(paid[0] - paid[1]) <= 2
    for reader in readers:
        reader.leave()
    await sim.ended()


@virtual
async def test_who_waits_is_no_request_under_way() -> None:
    sim = Following()
    chat = sim.chat()
    tag = header(await sim.info(chat), "etag") or ""
    waiting = [asyncio.create_task(sim.wait(chat, if_none_match=tag)) for _ in range(3)]
    await asyncio.sleep(3)
    overload = sim.exchange._overload
    assert isinstance(overload, Overload)
    assert overload.requests == 0
    await asyncio.gather(*waiting)
    assert overload.requests == 0
    await sim.ended()
