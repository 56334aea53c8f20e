"""TE.CL: the front reads chunks, the back by Content-Length, and what is left over is the next request.

Here both are refused.
"""

from __future__ import annotations

import pytest

from tests.advisories.attack import hidden, refused_and_closed, sealed
from tests.support import World, chat_path

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("length", [0, 4, 5])
async def test_a_length_beside_chunks(here: World, length: int) -> None:
    inner = hidden(here)
    body = b"%x\r\n%b\r\n0\r\n\r\n" % (len(inner), inner)
    fields = [("transfer-encoding", "chunked"), ("content-length", str(length))]
    await refused_and_closed(
        here, sealed(here, "PUT", chat_path("H1-1", "/customVariables"), *fields, body=body)
    )
