"""Hash flooding: keys that collide make a dictionary a list.

Python's text hashes are seeded, and documents are bounded.
"""

from __future__ import annotations

import json
import sys

import pytest

from tests.support import World, chat_path

pytestmark = pytest.mark.anyio


def test_hashes_are_seeded() -> None:
    assert sys.flags.hash_randomization == 1


async def test_thousands_of_keys(here: World) -> None:
    """Texts, of which Python's own numbers would collide: multiples of 2**61 - 1."""
    said = {str(n * (2**61 - 1)): 0 for n in range(8_000)}
    reply = await here.write("PUT", chat_path(here.chat(), "/customVariables"), {"customVariables": said})
    assert reply.status in {200, 400, 413}
    assert len(json.dumps(said)) < 262_144
