"""Parameter cloaking: a second value hides behind a separator that one of two readers knows.

Here there is `&` alone, and each name once.
"""

from __future__ import annotations

import pytest

from tests.advisories.attack import untouched
from tests.support import World, account_path

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    "query",
    [
        "skill=a&skill=b",
        "skill=a&sk%69ll=b",
        "skill=a;skill=b&maxWaitTime=x",
        "skill=a&utm_content=x;skill=b",
        "skill=a&;skill=b",
        "skill[]=a",
        "?skill=a",
        "skill=a&skill%00=b",
        "skill=a&%20skill=b",
        "skill=a&amp;skill=b",
    ],
)
async def test_refused(here: World, query: str) -> None:
    reply = await here.get(account_path(f"/chat/availability?{query}"))
    assert (reply.status, reply.problem) == (400, "malformed-query")
    untouched(here)


async def test_what_is_dropped_hides_nothing(here: World) -> None:
    assert (
        await here.get(account_path("/chat/availability?_=1;skill=evil&skill=a&cb=x%26skill=evil"))
    ).status == 200
    (sent,) = here.emulator.recorded
    assert sent.startswith(b"GET /api/account/123/chat/availability?v=1&NC=true&skill=a HTTP/1.1\r\n")
