"""CVE-2016-5431: PHP JOSE chose how to verify by the token's own header.

Here the JWK, as it is published, is no secret either.
"""

from __future__ import annotations

import json

import pytest

from tests.advisories.attack import Forge, hmac_signed, rejected
from tests.support import World

pytestmark = pytest.mark.anyio


async def test_a_jwk_is_no_secret(here: World, forge: Forge) -> None:
    jwk = forge.jwk(forge.private)
    published = (here.stage.config.parent / "jwks.json").read_bytes()
    secrets = [
        json.dumps(jwk).encode(),
        json.dumps(jwk, separators=(",", ":"), sort_keys=True).encode(),
        published,
        jwk["x"].encode(),
        b"",
    ]
    for secret in secrets:
        await rejected(here, hmac_signed(forge.header(alg="HS256"), forge.claims(), secret))
