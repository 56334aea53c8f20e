"""An exp that is a text, a list or beyond all numbers never comes for a lenient reader.

Here it is a number of this world.
"""

from __future__ import annotations

import pytest

from tests.advisories.attack import Forge, rejected, status_of
from tests.support import World

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    "exp", ["9999999999", True, None, [9_999_999_999], {}, 0, -1, 1, 1e300, 2**63, 2**1024, "never"]
)
async def test_an_expiry(here: World, forge: Forge, exp: object) -> None:
    await rejected(here, forge.token(None, {**forge.claims(), "exp": exp}))


@pytest.mark.parametrize("name", ["nbf", "iat"])
@pytest.mark.parametrize("value", ["0", True, [0], 4_000_000_000, 1e300])
async def test_a_beginning(here: World, forge: Forge, name: str, value: object) -> None:
    await rejected(here, forge.token(None, forge.claims(**{name: value})))
    here.start_over()
    assert await status_of(here, forge.token(None, forge.claims(**{name: 1}))) == 200
