"""Cache poisoning: a field that is not in the key changes what all get (X-Forwarded-Host in links).

Here links are the configuration's.
"""

from __future__ import annotations

import pytest

from tests.support import PUBLIC_URL, World, account_path, chat_path, links_of

pytestmark = pytest.mark.anyio


EVIL = "evil.example"


@pytest.mark.parametrize(
    "name",
    [
        "x-forwarded-host",
        "x-forwarded-proto",
        "x-forwarded-prefix",
        "x-host",
        "forwarded",
        "x-original-url",
        "x-rewrite-url",
        "x-forwarded-scheme",
    ],
)
async def test_links(here: World, name: str) -> None:
    for target in (chat_path(here.chat(), "/info"), account_path()):
        first = await here.ask("GET", target, {name: f"host={EVIL}" if name == "forwarded" else EVIL})
        second = await here.get(target)
        assert first.body == second.body
        assert EVIL not in str(first) + str(second)
        assert all(href.startswith(PUBLIC_URL + "/") for _, href in links_of(second.json()))
    assert not here.emulator.saw(EVIL.encode())
