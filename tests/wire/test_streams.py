"""Streams and long polls over real sockets, by a gateway that is wired as it is shipped."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from gateway.demo.following import Follower, Message, follow, following
from gateway.parts import web_config
from tests.reloading import changeable, edit, reload, say
from tests.support import Wire, World, chat_path, policies_with, until, world

pytestmark = pytest.mark.anyio

HOST = "127.0.0.1"


class Told:
    """A stream, and what came on it."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.follower: Follower

    @property
    def kinds(self) -> list[str]:
        return [message.kind for message in self.messages]

    def documents(self, kind: str) -> list[Any]:
        return [json.loads(message.data) for message in self.messages if message.kind == kind]

    def names(self) -> list[str]:
        return [document["info"]["visitorName"] for document in self.documents("info")]

    def texts(self) -> list[str]:
        return [str(event["text"]) for event in self.documents("event") if "text" in event]


@contextlib.asynccontextmanager
async def told(
    it: World, path: str, *, token: str | None = None, last_id: str | None = None
) -> AsyncIterator[Told]:
    """A stream of what stands there, until the block ends."""
    said = Told()
    question = following(HOST, path, token or it.token(), last_id)
    said.follower = await follow(HOST, it.addresses.public[1], question, said.messages.append)
    try:
        yield said
    finally:
        said.follower.transport.abort()


async def has(said: Callable[[], bool]) -> None:
    await until(said)


async def test_each_change_is_told_and_the_end(here: World) -> None:
    chat = here.chat()
    async with told(here, chat_path(chat, "/info")) as it:
        await has(lambda: it.kinds == ["info"])
        await here.write("PUT", chat_path(chat, "/info/visitorName"), {"visitorName": "Zoe"})
        await has(lambda: it.names()[-1:] == ["Zoe"])
        here.emulator.end(chat)
        await it.follower.ended
        assert it.kinds[-2:] == ["info", "ended"]
        assert it.documents("ended") == [{"reason": "ended"}]
        assert it.documents("info")[-1]["info"]["state"] == "ended"
        last = it.messages[-2].id
    assert here.gateway.metrics.streams.total() == 0
    async with told(here, chat_path(chat, "/info"), last_id=last) as it:
        await it.follower.ended
        assert (it.follower.status, it.messages) == (204, [])


async def test_a_stream_has_what_a_poll_has_and_its_tag(here: World) -> None:
    chat = here.chat()
    async with told(here, chat_path(chat, "/info")) as it:
        await has(lambda: it.kinds == ["info"])
        polled = await here.get(chat_path(chat, "/info"))
        assert it.messages[0].data.replace(b"\n", b"") == polled.body.replace(b"\n", b"")
        assert it.messages[0].id == polled.header("etag")


async def test_a_view_holds_for_streams(here: World) -> None:
    chat = here.chat()
    here.emulator.agent_line(chat, "a secret")
    partner = here.token("partner")
    async with (
        told(here, chat_path(chat, "/info"), token=partner) as info,
        told(here, chat_path(chat, "/events"), token=partner) as events,
    ):
        await has(lambda: bool(info.messages) and len(events.messages) >= 3)
        (seen,) = info.documents("info")
        assert "visitorName" not in seen["info"]
        assert not any("text" in event or "by" in event for event in events.documents("event"))
        assert b"secret" not in b"".join(message.data for message in events.messages)


async def test_events_are_told_once_and_in_order_and_from_where_one_was(here: World) -> None:
    chat = here.chat()
    path = chat_path(chat, "/events")
    async with told(here, path) as it:
        for number in range(3):
            here.emulator.agent_line(chat, f"line {number}")
        await has(lambda: it.texts()[-1:] == ["line 2"])
        ids = [int(message.id or -1) for message in it.messages]
        assert ids == list(range(len(ids)))
        last = it.messages[-2].id
    here.emulator.agent_line(chat, "line 3")
    async with told(here, path, last_id=last) as it:
        await has(lambda: it.texts() == ["line 2", "line 3"])
    async with told(here, f"{path}?from={ids[-1]}") as it:
        await has(lambda: it.texts() == ["line 2", "line 3"])


@pytest.mark.parametrize(
    ("subject", "path", "status"),
    [
        ("stranger", "/info", 403),
        ("bff", "/exitSurvey", 406),
        ("bff", "", 406),
    ],
)
async def test_who_may_not_gets_no_stream(here: World, subject: str, path: str, status: int) -> None:
    before = here.upstream_requests()
    async with told(here, chat_path(here.chat(), path), token=here.token(subject)) as it:
        await it.follower.ended
        assert (it.follower.status, it.messages) == (status, [])
    assert here.upstream_requests() == before


async def test_a_chat_that_is_gone_is_no_stream(here: World) -> None:
    async with told(here, chat_path("H1-2K3", "/info")) as it:
        await it.follower.ended
        assert it.follower.status == 404


async def test_an_expired_token_ends_it(here: World) -> None:
    expires_at = int(time.time()) + 2
    token = here.token(exp=expires_at)
    async with told(here, chat_path(here.chat(), "/info"), token=token) as it:
        await has(lambda: it.kinds == ["info"])
        await it.follower.ended
        (problem,) = it.documents("closed")
        assert problem["type"] == "urn:chat-gateway:problem:token-expired"


async def test_revocation_and_reload_end_it(tmp_path: Path) -> None:
    async with changeable(tmp_path) as it:
        path = chat_path(it.chat(), "/info")
        token = it.token(jti="one")
        async with told(it, path, token=token) as one, told(it, path, token=it.token()) as two:
            await has(lambda: one.kinds == two.kinds == ["info"])
            said = {"jti": "one", "issuer": "https://issuer.example", "note": "a test"}
            wire_answer = await revoke(it, said)
            assert wire_answer == 201
            await one.follower.ended
            # Whether its keys have changed or it was revoked is told to who asks again.
            assert one.documents("closed")[0]["type"].endswith(":policies-changed")
            assert one.follower.retry_s is not None
            assert (await it.get(path, authorization=f"Bearer {token}")).problem == "token-revoked"
            assert two.kinds == ["info"]
            edit(it.stage.config.parent / "policies/clients/bff.yaml", "priority: high", "priority: normal")
            assert (await reload(it)).json()["changed"]
            await two.follower.ended
            assert two.documents("closed")[0]["type"].endswith(":policies-changed")
            assert two.follower.retry_s is not None


async def revoke(it: World, said: object) -> int:
    wire = Wire(*await asyncio.open_connection(*it.addresses.private), it.received)
    fields = {"authorization": f"Bearer {it.stage.admin_token}", "content-type": "application/json"}
    try:
        return (await wire.ask("POST", "/revocations", fields, json.dumps(said).encode())).status
    finally:
        await wire.close()


async def test_no_more_than_its_client_may_have(tmp_path: Path) -> None:
    few = policies_with(tmp_path / "few", "priority: high", "priority: high\n    limits: {streams: 2}")
    async with world(tmp_path, environ={"POLICIES": few}) as it:
        path = chat_path(it.chat(), "/info")
        async with told(it, path) as one, told(it, path) as two:
            await has(lambda: one.kinds == two.kinds == ["info"])
            refused = await it.get(path, accept="text/event-stream")
            assert (refused.status, refused.problem) == (429, "rate-limited")
            assert refused.json()["violated-policies"] == ["streams"]
            etag = (await it.get(path)).header("etag") or ""
            waiting = await it.get(path, if_none_match=etag, prefer="wait=5")
            assert waiting.status == 429
        # Whoever has left makes room.
        await has(lambda: it.gateway.metrics.streams.total() == 0)
        async with told(it, path) as three:
            await has(lambda: three.kinds == ["info"])


async def test_the_end_of_the_process_sends_it_elsewhere(tmp_path: Path) -> None:
    async with contextlib.AsyncExitStack() as stack:
        async with world(tmp_path, drain_s=5) as it:
            path = chat_path(it.chat(), "/info")
            one = await stack.enter_async_context(told(it, path))
            await has(lambda: one.kinds == ["info"])
        await one.follower.ended
        assert one.documents("closed")[0]["type"].endswith(":draining")
        assert one.follower.retry_s


# -- long polls --------------------------------------------------------------------------------------------


async def test_a_long_poll_is_answered_when_there_is_news(here: World) -> None:
    chat = here.chat()
    path = chat_path(chat, "/info")
    etag = (await here.get(path)).header("etag") or ""
    waiting = asyncio.create_task(here.get(path, if_none_match=etag, prefer="wait=20"))
    await asyncio.sleep(0.1)
    assert not waiting.done()
    await here.write("PUT", chat_path(chat, "/info/visitorName"), {"visitorName": "Amy"})
    answer = await waiting
    assert (answer.status, answer.json()["info"]["visitorName"]) == (200, "Amy")
    assert answer.header("preference-applied") == "wait"
    assert answer.header("etag") != etag


async def test_a_long_poll_ends_in_time(here: World) -> None:
    path = chat_path(here.chat(), "/info")
    etag = (await here.get(path)).header("etag") or ""
    began = time.monotonic()
    answer = await here.get(path, if_none_match=etag, prefer="wait=1")
    assert (answer.status, answer.body) == (304, b"")
    assert time.monotonic() - began > 0.9
    # What is news already is not held back.
    answer = await here.get(path, prefer="wait=20")
    assert (answer.status, answer.header("preference-applied")) == (200, None)


@pytest.mark.parametrize("accept", ["application/json", "application/xml"])
async def test_events_are_waited_for(here: World, accept: str) -> None:
    chat = here.chat()
    path = chat_path(chat, "/events")
    events = (await here.get(path)).json()["events"]["event"]
    after = f"{path}?from={len(events)}"
    waiting = asyncio.create_task(here.get(after, accept=accept, prefer="wait=20"))
    await asyncio.sleep(0.1)
    assert not waiting.done()
    here.emulator.agent_line(chat, "at last")
    answer = await waiting
    assert answer.status == 200
    assert b"at last" in answer.body


async def test_who_hangs_up_waits_no_longer(here: World) -> None:
    path = chat_path(here.chat(), "/info")
    etag = (await here.get(path)).header("etag") or ""
    waiting = asyncio.create_task(here.get(path, if_none_match=etag, prefer="wait=20"))
    await has(lambda: len(here.gateway.hub.watches()) == 1)
    waiting.cancel()
    await has(lambda: here.gateway.hub.watches() == ())


# -- the settings -------------------------------------------------------------------------------------------


async def test_how_they_are_kept_changes_while_they_run(tmp_path: Path) -> None:
    async with changeable(tmp_path, push={"max_wait_s": 0}) as it:
        path = chat_path(it.chat(), "/info")
        etag = (await it.get(path)).header("etag") or ""
        answer = await it.get(path, if_none_match=etag, prefer="wait=20")
        assert (answer.status, answer.header("preference-applied")) == (304, None)
        say(it, push={"max_wait_s": 1, "heartbeat_ms": 500, "send_ms": 700})
        assert (await reload(it)).json()["changed"]
        assert web_config(it.gateway.settings).stream_send_s == 0.7
        etag = (await it.get(path)).header("etag") or ""
        answer = await it.get(path, if_none_match=etag, prefer="wait=20")
        assert (answer.status, answer.header("preference-applied")) == (304, "wait")
        async with told(it, path):
            sent = it.gateway.metrics.stream_messages
            await has(lambda: sent["info", "heartbeat"] >= 2)


async def test_streams_are_counted(here: World) -> None:
    path = chat_path(here.chat(), "/info")
    sent = here.gateway.metrics.stream_messages.copy()
    async with told(here, path) as one, told(here, path) as two:
        await has(lambda: one.kinds == two.kinds == ["info"])
        assert here.gateway.metrics.streams["bff", "info"] == 2
        assert here.gateway.metrics.stream_messages["info", "info"] - sent["info", "info"] == 2
    await has(lambda: here.gateway.metrics.streams["bff", "info"] == 0)


async def test_nothing_is_asked_for_nobody(here: World) -> None:
    path = chat_path(here.chat(), "/info")
    async with told(here, path) as it:
        await has(lambda: it.kinds == ["info"])
    await has(lambda: here.gateway.hub.watches() == ())
    before = here.upstream_requests()
    await asyncio.sleep(1.3)
    assert here.upstream_requests() == before


# -- beside the rest ----------------------------------------------------------------------------------------


async def test_a_second_stream_is_a_stream_too(here: World) -> None:
    """The short cut knows documents only."""
    path = chat_path(here.chat(), "/info")
    token = here.token()
    for _ in range(3):
        async with told(here, path, token=token) as it:
            await has(lambda: it.kinds == ["info"])


async def test_a_long_poll_is_not_in_flight_while_it_waits(tmp_path: Path) -> None:
    one = policies_with(tmp_path / "one", "priority: high", "priority: high\n    limits: {in_flight: 1}")
    async with world(tmp_path, environ={"POLICIES": one}) as it:
        path = chat_path(it.chat(), "/info")
        etag = (await it.get(path)).header("etag") or ""
        waiting = asyncio.create_task(it.get(path, if_none_match=etag, prefer="wait=2"))
        await has(lambda: len(it.gateway.hub.watches()) == 1)
        assert [(await it.get(path)).status for _ in range(3)] == [200] * 3
        assert (await waiting).status == 304
        assert (await it.get(path)).status == 200
