"""Base64 malleability: many spellings of one token get past lists of revoked ones and into caches.

Here a token has one spelling.
"""

from __future__ import annotations

import pytest

from tests.advisories.attack import Forge, rejected, status_of
from tests.support import World

pytestmark = pytest.mark.anyio


async def test_other_spellings(here: World, forge: Forge) -> None:
    token = forge.token()
    head, payload, signature = token.split(".")
    assert await status_of(here, token) == 200
    here.start_over()
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    stray = alphabet[alphabet.index(signature[-1]) ^ 1]
    others = [
        f"{head}.{payload}.{signature}=",
        f"{head}.{payload}.{signature}==",
        f"{head}=.{payload}.{signature}",
        f"{head}.{payload}.{signature[:-1]}{stray}",
        f"{head}.{payload}.{signature[:40]} {signature[40:]}",
        f"{head}.{payload}.{signature[:40]}\t{signature[40:]}",
        f"{head}.{payload}.{signature}.",
        f".{head}.{payload}.{signature}",
        f"{head}.{payload}.{signature.replace('-', '+').replace('_', '/')}=",
        f"{head}.{payload}.{signature}!",
    ]
    for other in others:
        await rejected(here, other)
