"""Thousands of fields, or endless ones, eat memory and time before anybody is asked for a token.

Here there are bounds.
"""

from __future__ import annotations

import pytest

from tests.advisories.attack import refused_and_closed, sealed
from tests.support import World, account_path

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    "fields",
    [
        [(f"x-{n}", "") for n in range(101)],
        [("x", "") for _ in range(5_000)],
        [("x", "a" * 16_384)],
        [("a" * 16_384, "x")],
        [("cookie", "a=b; " * 200) for _ in range(20)],
    ],
    ids=["names", "lines", "value", "name", "cookies"],
)
async def test_a_flood(here: World, fields: list[tuple[str, str]]) -> None:
    await refused_and_closed(here, sealed(here, "GET", account_path(), *fields), 431)


async def test_a_long_target(here: World) -> None:
    await refused_and_closed(here, sealed(here, "GET", account_path("?skill=" + "x" * 9_000)), 414)
