"""A kid that is a piece of SQL, of a shell's line or of a log.

Here it is a text that names no key.
"""

from __future__ import annotations

import pytest

from tests.advisories.attack import Forge, hmac_signed, rejected
from tests.support import World

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    "kid",
    [
        "' UNION SELECT 'a' --",
        "x' OR '1'='1",
        "| cat /etc/passwd",
        "$(id)",
        "{{7*7}}",
        "${jndi:ldap://x}",
        "a\r\nx: y",
        "*",
        "\u001b[2J",
    ],
)
async def test_a_statement(here: World, forge: Forge, kid: str) -> None:
    await rejected(here, hmac_signed(forge.header(alg="HS256", kid=kid), forge.claims(), b"a"))
    # The issuer's own key, under another name, is not looked for.
    await rejected(here, forge.token(forge.header(kid=kid)))
    assert kid not in here.log.getvalue()
