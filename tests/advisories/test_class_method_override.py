"""Method override: a policy looks at the method, the origin at a field.

Here the override is part of what is judged, and says PUT on POST only.
"""

from __future__ import annotations

import pytest

from tests.advisories.attack import untouched
from tests.support import World, chat_path

pytestmark = pytest.mark.anyio


LOOK_ALIKES = ["x-http-method", "x-method-override", "x-http-methodoverride", "_method"]


@pytest.mark.parametrize("said", ["DELETE", "GET", "put", "PUT, PUT", "PATCH", "", "PUT\t;x"])
@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "HEAD"])
async def test_only_put_on_post(here: World, method: str, said: str) -> None:
    target = chat_path(here.chat(), "/info/visitorName")
    reply = await here.ask(
        method, target, {"x-http-method-override": said, "content-type": "application/json"}
    )
    assert reply.status == 400
    untouched(here)


async def test_who_may_not_write_may_not_say_so(here: World) -> None:
    fields = {"x-http-method-override": "PUT", "content-type": "application/json"}
    target = chat_path(here.chat(), "/info/visitorName")
    reply = await here.ask("POST", target, fields, b'{"visitorName": "x"}', subject="internal")
    assert (reply.status, reply.problem) == (403, "action-denied")
    untouched(here)


@pytest.mark.parametrize("name", LOOK_ALIKES)
async def test_look_alikes_say_nothing(here: World, name: str) -> None:
    target = chat_path(here.chat(), "/info/visitorName")
    assert (await here.ask("GET", target, {name: "PUT"})).status == 200
    assert not here.emulator.saw(name.encode())
