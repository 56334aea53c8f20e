"""CVE-2018-0114: node-jose verified a token by the key that it brought along.

Here keys come from the configuration.
"""

from __future__ import annotations

import pytest

from tests.advisories.attack import Forge, rejected
from tests.support import World

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("kid", ["the issuer's", "its own", None])
async def test_a_key_in_the_header(here: World, forge: Forge, kid: str | None) -> None:
    jwk = forge.jwk(forge.own) | {"kid": forge.kid, "use": "sig", "alg": "ES256"}
    name = {"the issuer's": forge.kid, "its own": "mine", None: None}[kid]
    await rejected(here, forge.token(forge.header(jwk=jwk, kid=name), None, forge.own))
    await rejected(here, forge.token(forge.header(jwk={"keys": [jwk]}, kid=name), None, forge.own))
