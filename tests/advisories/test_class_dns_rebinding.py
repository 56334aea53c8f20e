"""DNS rebinding: a page's own name comes to mean 127.0.0.1, and its scripts read what only this machine may.

Here names are ours or refused.
"""

from __future__ import annotations

import pytest

from tests.advisories.attack import operator
from tests.support import World

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "evil.example:80",
        "localhost@evil.example",
        "gateway.test",
    ],
)
@pytest.mark.parametrize("path", ["/usage", "/revocations", "/metrics"])
async def test_a_foreign_name(here: World, host: str, path: str) -> None:
    assert (await operator(here, "GET", path, {}, host=host)).status == 421
    assert (await operator(here, "GET", path, {}, host="localhost")).status == 200
