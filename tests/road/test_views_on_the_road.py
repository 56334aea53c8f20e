"""Ten clients, seven views, one chat: one request to the upstream, ten answers, each its own part of it."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Mapping

import pytest

from gateway.core.messages import Answer
from gateway.core.policy import Client, Condition
from gateway.core.replies import Reply
from gateway.core.views import FULL, View
from gateway.demo.stage import ISSUER
from gateway.emulator import Dialect, EmulatorConfig, Fault
from tests.oracle import cut, shows
from tests.simulation import (
    APP_KEY,
    PUBLIC_URL,
    UPSTREAM_HOST,
    Simulation,
    cache_rule,
    caching,
    chat_path,
    header,
    outcome,
)
from tests.virtual import virtual

VIEWS: Mapping[str, View] = {
    "all": FULL,
    "all too": FULL,
    "state": View(show=frozenset({"state", "agentTyping", "startTime", "time"})),
    "state too": View(show=frozenset(["time", "startTime", "agentTyping", "state"])),
    "names": View(show=frozenset({"visitorName", "agentName", "by", "type"})),
    "one name": View(show=frozenset({"visitorName", "by", "type"})),
    "not the visitor": View(hide=frozenset({"visitorName", "visitorId"})),
    "not the visitor too": View(hide=frozenset(["visitorId", "visitorName"])),
    "no text": View(hide=frozenset({"text", "agentName", "channelGroup"})),
    "no info": View(hide=frozenset({"info", "event"})),
}
RESOURCES = {"info": "/info", "chat": "", "events": "/events"}
FORMS = ["application/json", "application/xml"]
TTL_S = 1.0

resources = pytest.mark.parametrize("resource", RESOURCES)
forms = pytest.mark.parametrize("form", FORMS)
Replies = dict[str, Reply]


class Crowd:
    """Ten clients in front of one chat."""

    def __init__(self) -> None:
        config = EmulatorConfig(app_key=APP_KEY, dialect=Dialect(unknown_fields=True))
        self.world = Simulation(config=config, policies=caching(dict.fromkeys(RESOURCES, cache_rule(TTL_S))))
        self.world.adopt(
            Client(
                name,
                (Condition("iss", (ISSUER,)), Condition("sub", (name,))),
                None,
                ("chat:read", "chat:write"),
                view=view,
            )
            for name, view in VIEWS.items()
        )
        self.chat = self.world.chat()
        self.world.emulator.agent_line(self.chat, "How can I help?")
        self.world.emulator.transfer(self.chat)

    async def ask(self, resource: str, form: str, method: str = "GET", **tags: str) -> Replies:
        """The replies to all ten, who ask at once; `tags` are what they send as If-None-Match."""
        path = chat_path(self.chat, RESOURCES[resource])

        async def one(name: str) -> Reply:
            tag = tags.get(name, '"none"')
            return await self.world.ask(method, path, subject=name, accept=form, if_none_match=tag)

        return dict(zip(VIEWS, await asyncio.gather(*map(one, VIEWS)), strict=True))

    def part(self, view: View, form: str) -> bytes:
        """What a view shows of the upstream's newest answer of that form."""
        answers = [sent.outcome for sent in self.world.upstream.sent if isinstance(sent.outcome, Answer)]
        whole = next(a.body for a in reversed(answers) if a.header(b"content-type") == form.encode())
        whole = whole.replace(f"https://{UPSTREAM_HOST}".encode(), PUBLIC_URL.encode())
        return cut(whole, form, lambda name: shows(view, name))

    def check(self, replies: Replies, form: str, hows: set[str], asked: int) -> None:
        """Each has his own part, all came about in one of these ways, and the upstream was asked so often."""
        assert self.world.asked() == asked
        assert {outcome(reply) for reply in replies.values()} == hows
        for name, reply in replies.items():
            assert reply.status == 200
            assert reply.body == self.part(VIEWS[name], form), name
            assert header(reply, "content-length") == str(len(reply.body))
        self.check_tags(replies)

    @staticmethod
    def check_tags(replies: Replies) -> None:
        """Equal views share a tag, and others have another unless they show the same."""
        tags = {name: header(reply, "etag") for name, reply in replies.items()}
        for name, reply in replies.items():
            for other, theirs in replies.items():
                assert (tags[name] == tags[other]) == (reply.body == theirs.body), (name, other)
        assert None not in tags.values()
        assert all(tags[f"{name} too"] == tags[name] for name in ("all", "state", "not the visitor"))


@forms
@resources
@virtual
async def test_each_gets_his_part_of_the_one_answer(resource: str, form: str) -> None:
    crowd = Crowd()
    cold = await crowd.ask(resource, form)
    crowd.check(cold, form, {"miss", "collapsed"}, 1)
    # Nobody's view is an empty one or the whole by accident.
    assert len({reply.body for reply in cold.values()}) >= 5
    await asyncio.sleep(0.3)
    hits = await crowd.ask(resource, form)
    crowd.check(hits, form, {"hit"}, 1)
    assert {name: reply.body for name, reply in hits.items()} == {name: r.body for name, r in cold.items()}
    await crowd.world.settle()


@forms
@resources
@virtual
async def test_a_refresh_and_a_stale_answer_are_each_ones_part_too(resource: str, form: str) -> None:
    crowd = Crowd()
    await crowd.ask(resource, form)
    await asyncio.sleep(TTL_S - 0.22)  # 0.1 s before the end
    early = await crowd.ask(resource, form)
    assert crowd.world.clock.now() < TTL_S
    crowd.check(early, form, {"hit"}, 1)
    await asyncio.sleep(0.2)
    crowd.check(await crowd.ask(resource, form), form, {"hit"}, 2)
    await asyncio.sleep(TTL_S)
    crowd.world.emulator.fail(Fault(status=500))
    crowd.check(await crowd.ask(resource, form), form, {"stale"}, 3)
    await crowd.world.settle()


@resources
@virtual
async def test_each_representation_is_asked_for_once(resource: str) -> None:
    crowd = Crowd()
    both = await asyncio.gather(*(crowd.ask(resource, form) for form in FORMS))
    for form, replies in zip(FORMS, both, strict=True):
        crowd.check(replies, form, {"miss", "collapsed"}, 2)


@forms
@resources
@pytest.mark.parametrize("method", ["GET", "HEAD"])
@virtual
async def test_another_ones_tag_is_good_only_for_the_same_part(method: str, resource: str, form: str) -> None:
    crowd = Crowd()
    known = await crowd.ask(resource, form)
    for other in VIEWS:
        tag = header(known[other], "etag") or ""
        replies = await crowd.ask(resource, form, method, **dict.fromkeys(VIEWS, tag))
        for name, reply in replies.items():
            same = known[name].body == known[other].body
            assert reply.status == (304 if same else 200), (name, other)
            assert header(reply, "etag") == header(known[name], "etag")
            assert reply.body == (b"" if same or method == "HEAD" else known[name].body)
    assert crowd.world.asked() == 1


@forms
@resources
@virtual
async def test_a_head_is_that_of_ones_own_part(resource: str, form: str) -> None:
    crowd = Crowd()
    heads = await crowd.ask(resource, form, "HEAD")
    replies = await crowd.ask(resource, form)
    assert crowd.world.asked() == 1
    for name, head in heads.items():
        assert (head.status, head.body) == (200, b"")
        for field in ("etag", "content-length", "content-type"):
            assert header(head, field) == header(replies[name], field), (name, field)


@forms
@virtual
async def test_what_one_does_not_see_does_not_change_his_tag(form: str) -> None:
    crowd = Crowd()
    before = await crowd.ask("info", form)
    renamed = await rename(crowd)
    assert renamed.status == 201
    await asyncio.sleep(0.2)
    tags = {name: header(reply, "etag") or "" for name, reply in before.items()}
    after = await crowd.ask("info", form, "GET", **tags)
    for name, reply in after.items():
        assert reply.status == (304 if b"You" not in before[name].body else 200), name
        assert (b"Zoe" in reply.body) == (b"You" in before[name].body), name
    assert {reply.status for reply in after.values()} == {200, 304}


async def rename(crowd: Crowd) -> Reply:
    return await crowd.world.ask(
        "PUT",
        chat_path(crowd.chat, "/info/visitorName"),
        subject="state",
        body=b'{"visitorName": "Zoe"}',
        content_type="application/json",
    )


@forms
@virtual
async def test_a_field_of_its_own_is_refused_to_those_who_do_not_see_it(form: str) -> None:
    crowd = Crowd()
    path = chat_path(crowd.chat, "/info/visitorName")
    for name, view in VIEWS.items():
        reply = await crowd.world.ask("GET", path, subject=name, accept=form)
        assert reply.status == (200 if shows(view, "visitorName") else 403), name
        assert (b"You" in reply.body) == shows(view, "visitorName"), name


@forms
@virtual
async def test_the_answer_to_a_write_is_cut_as_well(form: str) -> None:
    crowd = Crowd()
    whole = {
        "application/json": b'{"info":{"state":"chatting","visitorName":"Zoe","agentName":"Natalie"}}',
        "application/xml": b"<info><state>chatting</state><visitorName>Zoe</visitorName></info>",
    }[form]
    for name, view in VIEWS.items():
        crowd.world.emulator.fail(Fault(method="PUT", body=whole, content_type=form))
        reply = await crowd.world.ask(
            "PUT",
            chat_path(crowd.chat, "/info/visitorName"),
            subject=name,
            accept=form,
            body=b'{"visitorName": "Zoe"}',
            content_type="application/json",
        )
        assert reply.status == 201
        assert reply.body == cut(whole, form, functools.partial(shows, view)), name
