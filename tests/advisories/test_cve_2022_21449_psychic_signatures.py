"""CVE-2022-21449: Java took r = s = 0 for an ECDSA signature of anything.

Here such signatures are none.
"""

from __future__ import annotations

import pytest

from tests.advisories.attack import Forge, part, rejected, status_of
from tests.support import World

pytestmark = pytest.mark.anyio


ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


@pytest.mark.parametrize("r", [0, 1, ORDER - 1, ORDER, 2**256 - 1])
@pytest.mark.parametrize("s", [0, 1, ORDER - 1, ORDER, 2**256 - 1])
async def test_a_degenerate_signature(here: World, forge: Forge, r: int, s: int) -> None:
    signed = forge.token().rpartition(".")[0]
    await rejected(here, f"{signed}.{part(r.to_bytes(32, 'big') + s.to_bytes(32, 'big'))}")


@pytest.mark.parametrize(
    "signature", [b"", bytes(1), bytes(63), bytes(65), bytes.fromhex("3006020100020100"), bytes(132)]
)
async def test_another_length(here: World, forge: Forge, signature: bytes) -> None:
    await rejected(here, f"{forge.token().rpartition('.')[0]}.{part(signature)}")
    here.start_over()
    assert await status_of(here, forge.token()) == 200
