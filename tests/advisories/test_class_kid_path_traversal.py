"""A kid that is a file's name: /dev/null is an empty HMAC secret.

Here a kid is compared, and opens nothing.
"""

from __future__ import annotations

import pytest

from tests.advisories.attack import Forge, hmac_signed, rejected
from tests.support import World

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    "kid",
    [
        "../../../../dev/null",
        "/dev/null",
        "file:///dev/null",
        "jwks.json",
        "../jwks.json",
        "\\\\host\\x",
        "a\u0000",
        "/proc/self/environ",
    ],
)
async def test_a_path(here: World, forge: Forge, kid: str) -> None:
    for secret in (b"", b"\0", b"\n"):
        await rejected(here, hmac_signed(forge.header(alg="HS256", kid=kid), forge.claims(), secret))
    await rejected(here, forge.token(forge.header(kid=kid), None, forge.own))
