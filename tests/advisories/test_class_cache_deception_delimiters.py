"""Web cache deception by delimiters: one of two readers ends the path at ; or an encoded one.

Here none ends it.
"""

from __future__ import annotations

import pytest

from tests.advisories.attack import deceived
from tests.support import World

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    "mark",
    [";", "%00", "%3b", "%23", "%3f", "%0a", "%09", "!", "$", ",", "|", "~", "%20", "%2e", "%26", "@", "'"],
)
async def test_a_delimiter(here: World, mark: str) -> None:
    await deceived(here, f"{mark}x.css")
