"""Line folding: a field goes on in the next line for one reader and ends for the other.

Here a folded head is refused.
"""

from __future__ import annotations

import pytest

from tests.advisories.attack import refused_and_closed, sealed
from tests.support import World, account_path

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("field", ["x: a\r\n b", "x: a\r\n\tb", "transfer-encoding:\r\n chunked", "x:\r\n a"])
async def test_a_folded_field(here: World, field: str) -> None:
    name, _, value = field.partition(":")
    await refused_and_closed(here, sealed(here, "GET", account_path(), (name, value.removeprefix(" "))))
