"""Fat GET: the cache goes by the target, the origin by the body.

Here a GET with a body is refused and nothing is kept.
"""

from __future__ import annotations

import pytest

from tests.advisories.attack import refused_and_closed, sealed
from tests.support import World, chat_path

pytestmark = pytest.mark.anyio


async def test_a_body_does_not_choose(here: World) -> None:
    target, body = chat_path(here.chat(), "/info"), b"from=999&skill=evil"
    fields = [("content-length", str(len(body))), ("content-type", "application/x-www-form-urlencoded")]
    await refused_and_closed(here, sealed(here, "GET", target, *fields, body=body))
    assert (await here.get(target)).header("cache-status") == "chat-gateway; fwd=miss; fwd-status=200; stored"
