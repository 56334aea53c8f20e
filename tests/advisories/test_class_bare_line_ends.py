"""Bare CR, LF and NUL end a line, or a head, for some readers.

Here they stand in no head.
"""

from __future__ import annotations

import pytest

from tests.advisories.attack import hidden, refused_and_closed, sealed
from tests.support import World, account_path

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("value", ["a\nx: b", "a\rx: b", "a\x00b", "a\n\nGET / HTTP/1.1", "a\r\r\n"])
async def test_in_a_field(here: World, value: str) -> None:
    await refused_and_closed(here, sealed(here, "GET", account_path(), ("x", value)))


async def test_at_the_end_of_the_head(here: World) -> None:
    data = sealed(here, "GET", account_path())
    for end in (b"\n\n", b"\r\n\n", b"\n\r\n"):
        await refused_and_closed(here, data[:-4] + end + hidden(here))
