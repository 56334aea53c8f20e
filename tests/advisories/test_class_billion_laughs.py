"""Billion laughs: ten lines of entities make gigabytes.

Here a document with a DTD is refused, and nothing of it is passed on.
"""

from __future__ import annotations

import pytest

from tests.advisories.attack import refused_body
from tests.support import World

pytestmark = pytest.mark.anyio


def laughs(depth: int) -> bytes:
    entities = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, depth))
    return f'<!DOCTYPE l [<!ENTITY l0 "lol">{entities}]><request>&l{depth - 1};</request>'.encode()


@pytest.mark.parametrize("depth", [1, 3, 10])
async def test_entities(here: World, depth: int) -> None:
    await refused_body(here, laughs(depth))


async def test_one_long_entity(here: World) -> None:
    """The quadratic one."""
    await refused_body(
        here,
        b'<!DOCTYPE l [<!ENTITY a "' + b"x" * 50_000 + b'">]><request>' + b"&a;" * 20_000 + b"</request>",
    )
