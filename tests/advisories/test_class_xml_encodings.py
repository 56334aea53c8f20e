"""XML that names an encoding, or is in another one, gets past those who look for bytes.

Here it is UTF-8.
"""

from __future__ import annotations

import pytest

from tests.advisories.attack import refused_body
from tests.support import World

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32", "cp037"])
async def test_another_encoding(here: World, encoding: str) -> None:
    await refused_body(
        here, f'<?xml version="1.0" encoding="{encoding}"?><request>x</request>'.encode(encoding)
    )


@pytest.mark.parametrize("name", ["utf-7", "ibm037", "x-evil", "utf-16", "ucs-4"])
async def test_another_name(here: World, name: str) -> None:
    await refused_body(here, f'<?xml version="1.0" encoding="{name}"?><request>x</request>'.encode())
