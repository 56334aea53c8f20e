"""Off by a slash: nginx's alias let /api../ out of its folder, and prefixes matched in the middle of a name.

Here a prefix ends at a segment.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.advisories.attack import untouched
from tests.support import World, world

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    "target",
    [
        "/api../account/123",
        "/api..;/account/123",
        "/apix/account/123",
        "/api/account../123",
        "/api/accountx/123",
        "/api/account/123../",
        "/api/account/123x",
        "/api/account/12",
        "/api/account/1234/chat/availability",
        "/api/account",
    ],
)
async def test_nearly_the_prefix(here: World, target: str) -> None:
    assert (await here.get(target)).status in {400, 404}
    untouched(here)


@pytest.mark.parametrize(
    "target",
    ["/gwx/api/account/123", "/gw../api/account/123", "/gw/../api/account/123", "/gw/gw/api/account/123"],
)
async def test_nearly_the_public_prefix(tmp_path: Path, target: str) -> None:
    async with world(tmp_path, public_url="https://chat.example/gw") as it:
        assert (await it.get(target)).status in {400, 404}
        untouched(it)
        assert (await it.get("/gw/api/account/123")).status == 200
