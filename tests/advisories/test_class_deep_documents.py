"""Documents as deep as they are long exhaust the stack of whoever reads them by recursion.

Here they are refused.
"""

from __future__ import annotations

import pytest

from tests.advisories.attack import refused_body
from tests.support import World

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("depth", [2_000, 100_000])
async def test_depth(here: World, depth: int) -> None:
    await refused_body(here, b"[" * depth + b"]" * depth, "application/json")
    await refused_body(here, b'{"a":' * (depth // 3) + b"1" + b"}" * (depth // 3), "application/json")
    await refused_body(here, b"[" * depth, "application/json")
    await refused_body(here, b"<a>" * (depth // 3) + b"</a>" * (depth // 3))
