"""SSRF by redirect: an upstream sends the proxy, with its key, wherever it likes.

Here no redirect is followed, or shown.
"""

from __future__ import annotations

import pytest

from gateway.emulator import Fault
from tests.support import World, account_path, chat_path

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect(here: World, status: int) -> None:
    other = here.server.url + "/api/account/123/stolen"
    here.emulator.fail(Fault(status=status, redirect=other))
    reply = await here.get(chat_path(here.chat(), "/info"))
    assert (reply.status, reply.problem, reply.header("location")) == (502, "upstream-redirect", None)
    assert here.upstream_requests() == 1
    assert not here.emulator.saw(b"stolen")


async def test_a_location_elsewhere(here: World) -> None:
    here.emulator.fail(Fault(headers=((b"location", b"https://evil.example/x"),)))
    reply = await here.get(account_path())
    assert reply.header("location") is None
    assert b"evil" not in reply.body
