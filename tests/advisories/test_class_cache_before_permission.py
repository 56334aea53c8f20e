"""A shared cache that answers before it asks who is asking.

Here permission comes before every look at what is kept, short cut or not.
"""

from __future__ import annotations

import pytest

from tests.advisories.attack import Forge, sealed, throw
from tests.support import World, chat_path, message

pytestmark = pytest.mark.anyio


async def test_what_is_kept_is_not_for_all(here: World, forge: Forge) -> None:
    target = chat_path(here.chat(), "/info")
    polls = await throw(here, sealed(here, "GET", target) * 3, replies=3)
    assert [reply.status for reply in polls.replies] == [200] * 3
    expired = forge.token(claims=forge.claims(exp=1))
    strange = forge.token(key=forge.own)
    for token, status in (
        ("", 401),
        (expired, 401),
        (strange, 401),
        (forge.token(claims=forge.claims(sub="x")), 403),
    ):
        said = message("GET", target, {"authorization": f"Bearer {token}", "accept": "*/*"})
        polls.forget()
        polls.transport.write(said)
        assert await polls.until(1, 10)
        assert [reply.status for reply in polls.replies] == [status]
        assert b"visitor" not in polls.replies[0].body
    assert here.upstream_requests() == 1
    polls.transport.abort()


async def test_each_sees_what_he_may(here: World) -> None:
    target = chat_path(here.chat(), "/info")
    assert "agentId" in (await here.get(target)).body.decode()
    seen = await here.ask("GET", target, subject="partner")
    assert seen.status == 200
    assert "agentId" not in seen.body.decode()
