"""Cache key normalisation: two requests that the origin tells apart share a key.

Here what shares a key is sent as the same bytes.
"""

from __future__ import annotations

import pytest

from tests.support import World, account_path, chat_path

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("skill=a", "skill=A"),
        ("skill=a%26b", "skill=a"),
        ("skill=a%2Fb", "skill=a%252Fb"),
        ("skill=%C3%A9", "skill=e%CC%81"),
        ("skill=a%20", "skill=a"),
        ("skill=a&agent=b", "skill=b&agent=a"),
    ],
)
async def test_two_meanings_are_two(here: World, one: str, other: str) -> None:
    for query in (one, other):
        assert (await here.get(account_path(f"/chat/availability?{query}"))).status == 200
    first, second = here.emulator.recorded
    assert first != second


async def test_two_chats_are_two(here: World) -> None:
    chat = here.chat()
    assert (await here.get(chat_path(chat, "/info"))).status == 200
    assert (await here.get(chat_path(chat.swapcase(), "/info"))).status == 404
    assert here.upstream_requests() == 2
