"""Weak HMAC secrets are guessed from a single token.

Here a short one is refused at the start, and no common one opens anything.
"""

from __future__ import annotations

import pytest

from gateway.identity.keysets import KeySetError, parse_secret
from tests.advisories.attack import Forge, hmac_signed, rejected
from tests.support import World

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    "secret", [b"", b"secret", b"password", b"your-256-bit-secret", b"changeme", b"x" * 31]
)
async def test_a_weak_secret(here: World, forge: Forge, secret: bytes) -> None:
    with pytest.raises(KeySetError):
        parse_secret(secret)
    for kid in (forge.kid, None):
        await rejected(here, hmac_signed(forge.header(alg="HS256", kid=kid), forge.claims(), secret))
