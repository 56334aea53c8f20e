"""0.CL: the front forgets that a GET may have a body, the back waits for it.

Here a body on a read is refused, and never read as a request.
"""

from __future__ import annotations

import pytest

from tests.advisories.attack import hidden, refused_and_closed, sealed
from tests.support import World, account_path

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("method", ["GET", "HEAD", "DELETE", "OPTIONS"])
async def test_a_body_on_what_has_none(here: World, method: str) -> None:
    inner = hidden(here)
    data = sealed(here, method, account_path(), ("content-length", str(len(inner))), body=inner)
    await refused_and_closed(here, data)


async def test_no_bytes_are_no_body(here: World) -> None:
    """What well-behaved clients send."""
    assert (await here.get(account_path(), content_length="0")).status == 200
