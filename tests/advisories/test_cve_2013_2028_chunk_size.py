"""CVE-2013-2028: nginx took a chunk size so large that it became negative.

Here a size that no counter holds is refused.
"""

from __future__ import annotations

import pytest

from tests.advisories.attack import refused_and_closed, sealed
from tests.support import World, chat_path

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    "size", ["ffffffffffffffff0", "8000000000000000" * 2, "1" + "0" * 40, "-1", "+2", "0x2", "2_0", ""]
)
async def test_sizes(here: World, size: str) -> None:
    fields = [("content-type", "application/json"), ("transfer-encoding", "chunked")]
    data = sealed(
        here,
        "PUT",
        chat_path("H1-1", "/customVariables"),
        *fields,
        body=size.encode() + b"\r\n{}\r\n0\r\n\r\n",
    )
    await refused_and_closed(here, data)


@pytest.mark.parametrize("size", ["fffffffffffffff0", "7fffffffffffffff"])
async def test_sizes_that_will_never_come(here: World, size: str) -> None:
    """Nothing is set aside for what was only announced."""
    fields = [("content-type", "application/json"), ("transfer-encoding", "chunked")]
    body = size.encode() + b"\r\n" + b"x" * 300_000
    reply = await refused_and_closed(
        here, sealed(here, "PUT", chat_path("H1-1", "/customVariables"), *fields, body=body), 413
    )
    assert b"body-too-large" in reply.body
