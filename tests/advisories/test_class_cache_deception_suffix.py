"""Web cache deception: /info/x.css is the page to one and a style sheet to the other, which keeps it.

Here there is no such path.
"""

from __future__ import annotations

import pytest

from tests.advisories.attack import deceived
from tests.support import World, chat_path

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    "suffix",
    ["/x.css", ".css", "/nothing.js", ".jpg", "/.css", ".json.css", "/robots.txt", ".ico", ".json/x.css"],
)
async def test_a_static_name(here: World, suffix: str) -> None:
    await deceived(here, suffix)


async def test_nobody_else_may_keep_it(here: World) -> None:
    reply = await here.get(chat_path(here.chat(), "/info.json"))
    assert (reply.header("cache-control"), reply.header("vary")) == (
        "private, no-cache",
        "Accept, Authorization",
    )
