"""PBES2: the token says how often its password is hashed, two billion times.

Here such algorithms do not exist.
"""

from __future__ import annotations

import asyncio

import pytest

from tests.advisories.attack import Forge, part, rejected
from tests.support import PATIENCE_S, World

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("alg", ["PBES2-HS256+A128KW", "PBES2-HS512+A256KW"])
async def test_many_rounds(here: World, forge: Forge, alg: str) -> None:
    said = {"alg": alg, "enc": "A128GCM", "p2c": 2**31 - 1, "p2s": "AAAA"}
    async with asyncio.timeout(PATIENCE_S):
        await rejected(
            here, f"{part(said)}.{part(b'key')}.{part(b'iv')}.{part(forge.claims())}.{part(b'tag')}"
        )
        await rejected(here, forge.token(forge.header(**said)))
