"""crit and b64: what is signed is not what is read, for a verifier that skips what it does not know.

Here any extension is refused.
"""

from __future__ import annotations

import pytest

from tests.advisories.attack import Forge, part, rejected, status_of
from tests.support import World

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    "said",
    [
        {"crit": ["b64"], "b64": False},
        {"b64": False},
        {"b64": True},
        {"crit": ["x"], "x": 1},
        {"crit": []},
        {"crit": "b64"},
        {"crit": ["exp"]},
        {"crit": [["b64"]]},
    ],
)
async def test_an_extension(here: World, forge: Forge, said: dict[str, object]) -> None:
    assert await status_of(here, forge.token()) == 200
    here.start_over()
    await rejected(here, forge.token(forge.header() | said))


async def test_a_detached_payload(here: World, forge: Forge) -> None:
    head, payload, signature = forge.token(forge.header(crit=["b64"], b64=False)).split(".")
    await rejected(here, f"{head}..{signature}")
    await rejected(here, f"{head}.{payload}.{part(b'')}")
