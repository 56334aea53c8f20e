"""HTTP/0.9 and made-up versions make a server answer without a head, or guess.

Here only 1.0 and 1.1 are spoken.
"""

from __future__ import annotations

import pytest

from tests.advisories.attack import refused_and_closed, sealed
from tests.support import World, account_path

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    "version",
    [
        "",
        " HTTP/0.9",
        " HTTP/1.2",
        " HTTP/2",
        " HTTP/2.0",
        " HTTP/11",
        " HTTP/1.1x",
        " RTSP/1.0",
        " http/1.1",
    ],
)
async def test_a_version(here: World, version: str) -> None:
    await refused_and_closed(
        here, sealed(here, "GET", account_path()).replace(b" HTTP/1.1", version.encode(), 1)
    )
