"""CVE-2024-53861: PyJWT 2.10.0 took a part of the issuer's name for the issuer.

Here it is equal to the last letter.
"""

from __future__ import annotations

import pytest

from gateway.demo.stage import ISSUER
from tests.advisories.attack import Forge, rejected, status_of
from tests.support import World

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    "issuer",
    [
        ISSUER[:-1],
        ISSUER[1:],
        ISSUER + "/",
        ISSUER + ".evil.example",
        "",
        "h",
        "issuer",
        ISSUER.upper(),
        ISSUER + "\u0000",
        f" {ISSUER}",
        [ISSUER],
        None,
    ],
)
async def test_nearly_the_issuer(here: World, forge: Forge, issuer: object) -> None:
    assert await status_of(here, forge.token()) == 200
    here.start_over()
    await rejected(here, forge.token(None, forge.claims(iss=issuer)))
