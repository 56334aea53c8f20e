"""JWE with zip: a few bytes inflate to gigabytes before anything is known.

Here nothing is decrypted or inflated.
"""

from __future__ import annotations

import zlib

import pytest

from tests.advisories.attack import Forge, part, rejected
from tests.support import World

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("alg", ["dir", "RSA-OAEP", "A256KW", "ECDH-ES"])
async def test_a_bomb(here: World, forge: Forge, alg: str) -> None:
    bomb = zlib.compress(b" " * 4_000_000, wbits=-15)
    head = part({"alg": alg, "enc": "A256GCM", "zip": "DEF"})
    await rejected(here, f"{head}..{part(b'iv')}.{part(bomb)}.{part(b'tag')}")
    await rejected(here, forge.token(forge.header(zip="DEF"), bomb))
