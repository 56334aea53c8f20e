"""CL.TE: the front reads by Content-Length, the back by chunks.

Here both at once are refused, in either order.
"""

from __future__ import annotations

import pytest

from tests.advisories.attack import hidden, refused_and_closed, sealed
from tests.support import World, chat_path

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("turned", [False, True])
async def test_length_and_chunks(here: World, turned: bool) -> None:
    body = b"0\r\n\r\n" + hidden(here)
    framing = [("content-length", str(len(body))), ("transfer-encoding", "chunked")]
    fields = [("content-type", "application/json"), *(framing[::-1] if turned else framing)]
    await refused_and_closed(here, sealed(here, "POST", chat_path("H1-1", "/events"), *fields, body=body))
