"""CONNECT to a reverse proxy opens a way into the network behind it.

Here it is refused.
"""

from __future__ import annotations

import pytest

from tests.advisories.attack import hidden, refused_and_closed, sealed
from tests.support import World, account_path

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("target", ["127.0.0.1:8081", "evil.example:443", account_path(), "/", "[::1]:22"])
async def test_a_tunnel(here: World, target: str) -> None:
    await refused_and_closed(here, sealed(here, "CONNECT", target) + hidden(here))
