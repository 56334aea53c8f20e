"""A field of a fresh info costs no request, where the policies say so, and is told only to who may see it."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from gateway.core.policy import Client, Condition, Policies
from gateway.core.replies import Reply
from gateway.core.views import View
from gateway.demo.stage import ISSUER
from tests.simulation import Simulation, as_json, chat_path, header, outcome, shipped
from tests.virtual import virtual

FORMS = ["application/json", "application/xml"]
FIELDS = ["visitorName", "visitorTyping", "agentTyping"]


def from_info(switched: bool = True) -> Policies:
    resources = (replace(row, from_info=switched and row.name in FIELDS) for row in shipped().resources)
    return replace(shipped(), resources=tuple(resources))


class Stand:
    """A chat whose info has just been asked for in one format."""

    def __init__(self, *, switched: bool = True) -> None:
        self.world = Simulation(policies=from_info(switched))
        self.chat = self.world.chat()

    async def ask(self, rest: str, form: str = FORMS[0], subject: str = "bff") -> Reply:
        return await self.world.ask("GET", chat_path(self.chat, rest), accept=form, subject=subject)

    @property
    def asked(self) -> int:
        return len(self.world.upstream.sent)


@pytest.mark.parametrize("wanted", FORMS)
@pytest.mark.parametrize("of", FORMS)
@pytest.mark.parametrize("field", FIELDS)
@virtual
async def test_a_fresh_info_answers_as_the_upstream_would(field: str, of: str, wanted: str) -> None:
    it, plain = Stand(), Stand(switched=False)
    await it.ask("/info", of)
    await asyncio.sleep(0.5)
    asked = it.asked
    told = await it.ask(f"/info/{field}", wanted)
    assert it.asked == asked
    assert (told.status, outcome(told)) == (200, "hit")
    assert told.body == (await plain.ask(f"/info/{field}", wanted)).body
    assert header(told, "content-type") == wanted
    assert header(told, "age") == "0"


@virtual
async def test_without_a_fresh_info_or_the_permission_of_the_policies_the_upstream_is_asked() -> None:
    it, plain = Stand(), Stand(switched=False)
    assert outcome(await it.ask("/info/visitorName")) == "bypass"
    await it.ask("/info")
    await asyncio.sleep(1.5)
    assert outcome(await it.ask("/info/visitorName")) == "bypass"
    await plain.ask("/info")
    assert outcome(await plain.ask("/info/visitorName")) == "bypass"


@virtual
async def test_after_a_write_nobody_is_told_what_was_before() -> None:
    it = Stand()
    await it.ask("/info")
    await it.world.ask(
        "PUT",
        chat_path(it.chat, "/info/visitorName"),
        body=as_json({"visitorName": "Natalie"}),
        content_type="application/json",
    )
    assert (await it.ask("/info/visitorName")).body == b'{"visitorName":"Natalie"}'


@virtual
async def test_what_a_view_withholds_stays_withheld() -> None:
    it = Stand()
    match = (Condition("iss", (ISSUER,)), Condition("sub", ("blind",)))
    hidden = View(hide=frozenset({"visitorName"}))
    it.world.adopt([Client("blind", match, None, ("chat:read",), view=hidden)])
    await it.ask("/info")
    assert (await it.ask("/info/visitorName", subject="blind")).status == 403
    assert (await it.ask("/info/visitorTyping", subject="blind")).status == 200
