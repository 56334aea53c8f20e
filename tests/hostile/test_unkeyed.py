"""What is not in the cache's key changes nothing that is kept: a thousand fields, a thousand query names.

Each is asked with between two plain requests, over the road alone and with the short cut.
"""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest

from gateway.core.requests import Poll
from tests.hostile.canonical import Meant, document, head, plain
from tests.hostile.names import DROPPED, HEADERS, KNOWN, QUERIES, READ
from tests.hostile.oracle import UNLIMITED
from tests.hostile.recorder import Peer, Recorder, Reply, connect, recording
from tests.support import PATIENCE_S, World, policies_with, world

pytestmark = pytest.mark.anyio

CANARY = "c4nary-unkeyed-5150"
#: Of a reply's own (architecture: joined with the slot).
OWN = (b"date: ", b"age: ", b"x-request-id: ", b"cache-status: ")
TTL = "waiting: 1000, chatting: 1000, ended: 10000"


@dataclass
class Cache:
    """A gateway with its short cut or without, and one client's connection."""

    it: World
    recorder: Recorder
    peer: Peer
    token: str
    cuts: int = 0
    _numbers: itertools.count[int] = field(default_factory=lambda: itertools.count(1))

    def chat(self) -> Meant:
        tag = f"H{next(self._numbers)}-u"
        return Meant(tag, f"/chat/{tag}/info")

    async def ask(self, meant: Meant, query: str = "", *more: tuple[bytes, bytes]) -> Reply:
        asked = plain(meant, self.token, *more)
        if query:
            asked = asked.replace(b" HTTP/1.1", f"?{query} HTTP/1.1".encode(), 1)
        self.peer.transport.write(asked)
        assert await self.peer.until(1, PATIENCE_S)
        assert not self.peer.garbage
        (reply,) = self.peer.replies
        assert CANARY.encode() not in self.peer.forget()
        return reply

    def asked_once(self, meant: Meant) -> bool:
        """Whether the upstream has seen one request for the chat, the canonical one."""
        (seen,) = self.recorder.taken(meant.tag)
        return {seen} == meant.canonical(self.recorder.host)


@pytest.fixture(scope="module", params=[True, False], ids=["short cut", "road"])
async def cache(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Cache]:
    folder = tmp_path_factory.mktemp("unkeyed")
    # As long as it may be, for a machine that is busy with other things.
    policies = policies_with(folder / "long", TTL, "waiting: 8000, chatting: 8000, ended: 8000")
    settings = UNLIMITED | {"policies": policies, "short_cut": request.param}
    async with recording() as (recorder, url), world(folder, upstream=url, **settings) as it:
        its = Cache(it, recorder, await connect(it.addresses.public), it.token())
        with pytest.MonkeyPatch.context() as patch:
            count_cuts(its, patch)
            yield its
        its.peer.transport.abort()
        assert not recorder.strange
        assert not any(recorder.seen.values())


def count_cuts(its: Cache, patch: pytest.MonkeyPatch) -> None:
    short_cut = its.it.gateway.short_cut
    if short_cut is None:
        return
    recall, answer = short_cut.recall, short_cut.answer

    def recalled(data: bytes) -> bytes | None:
        reply = recall(data)
        its.cuts += reply is not None
        return reply

    def answered(poll: Poll) -> bytes | None:
        reply = answer(poll)
        its.cuts += reply is not None
        return reply

    patch.setattr(short_cut, "recall", recalled)
    patch.setattr(short_cut, "answer", answered)


def kept(reply: Reply) -> tuple[int, list[bytes], bytes]:
    """What of a reply is the slot's."""
    return (
        reply.status,
        [line for line in reply.fields.split(b"\r\n") if not line.startswith(OWN)],
        reply.body,
    )


def test_there_are_enough() -> None:
    assert len(HEADERS) >= 1_000
    assert len(QUERIES) >= 1_000
    assert not READ & set(HEADERS)
    assert not KNOWN & set(QUERIES)


async def test_no_field_changes_what_is_kept(cache: Cache) -> None:
    before = cache.cuts
    for name in HEADERS:
        chat, said = cache.chat(), (name.encode(), CANARY.encode())
        first = await cache.ask(chat)
        assert (first.status, first.body) == (200, document(chat.tag, chat.media_type)), name
        assert kept(await cache.ask(chat, "", said)) == kept(first), name
        assert kept(await cache.ask(chat)) == kept(first), name
        assert cache.asked_once(chat), name
    if cache.it.gateway.short_cut is not None:
        assert cache.cuts - before == 2 * len(HEADERS)


async def test_no_field_is_kept_of_the_first(cache: Cache) -> None:
    """The request that fills the cache is the one that poisons it elsewhere."""
    for name in HEADERS:
        chat, said = cache.chat(), (name.encode(), CANARY.encode())
        first = await cache.ask(chat, "", said)
        assert first.body == document(chat.tag, chat.media_type), name
        assert kept(await cache.ask(chat)) == kept(first), name
        assert cache.asked_once(chat), name


async def test_no_unknown_query_name_is_asked_or_kept(cache: Cache) -> None:
    for name in QUERIES:
        chat, query = cache.chat(), f"{name}={CANARY}"
        refused = await cache.ask(chat, query)
        assert (refused.status, b"malformed-query" in refused.body) == (400, True), name
        assert cache.recorder.taken(chat.tag) == [], name
        first = await cache.ask(chat)
        assert kept(await cache.ask(chat, f"v=1&{query}"))[0] == 400, name
        assert kept(await cache.ask(chat)) == kept(first), name
        assert cache.asked_once(chat), name


@pytest.mark.parametrize("name", DROPPED)
async def test_what_is_dropped_shares_the_entry(cache: Cache, name: str) -> None:
    for spelled in (name, name.replace("c", "%63").replace("_", "%5F").replace("K", "%4B")):
        for queries in (
            ["", f"{spelled}={CANARY}"],
            [f"{spelled}={CANARY}", ""],
            [f"NC=true&{spelled}&v=1", "v=1"],
        ):
            chat = cache.chat()
            replies = [kept(await cache.ask(chat, query)) for query in (*queries, *queries)]
            assert replies == [replies[0]] * 4
            assert replies[0][2] == document(chat.tag, chat.media_type)
            assert cache.asked_once(chat)


@pytest.mark.parametrize("query", ["v=1", "NC=true", "NC=true&v=1", "%76=1", "v=%31", "&&v=1&", "N%43=true&"])
async def test_spellings_of_the_same_share_the_entry(cache: Cache, query: str) -> None:
    chat = cache.chat()
    first = kept(await cache.ask(chat, query))
    assert kept(await cache.ask(chat)) == first
    assert cache.asked_once(chat)


async def test_a_fat_get_is_no_key(cache: Cache) -> None:
    """A body on a GET is refused, and its connection with it."""
    chat = cache.chat()
    first = await cache.ask(chat)
    peer = await connect(cache.it.addresses.public)
    length = (b"content-length", b"%d" % len(CANARY))
    peer.transport.write(head(b"GET %s HTTP/1.1" % chat.target, [(b"host", b"a"), length]) + CANARY.encode())
    assert await peer.until_closed(PATIENCE_S)
    assert [reply.status for reply in peer.replies] == [400]
    assert kept(await cache.ask(chat)) == kept(first)
    assert cache.asked_once(chat)
