"""CVE-2015-9235: libraries took `alg: none` for a signature.

Here an algorithm is one that the issuer lists.
"""

from __future__ import annotations

import pytest

from tests.advisories.attack import Forge, part, rejected, status_of
from tests.support import World

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    "alg", ["none", "None", "NONE", "nOnE", "", " none", "none\u0000", None, 0, ["none"]]
)
@pytest.mark.parametrize("signature", ["", "AA", "good"])
async def test_no_signature(here: World, forge: Forge, alg: object, signature: str) -> None:
    assert await status_of(here, forge.token()) == 200
    here.start_over()
    header = forge.header() | {"alg": alg}
    signed = forge.token(header)
    await rejected(
        here, signed if signature == "good" else f"{part(header)}.{part(forge.claims())}.{signature}"
    )
