"""SSRF by the absolute form: a reverse proxy that acts as a forward one.

Here a target is a path.
"""

from __future__ import annotations

import pytest

from tests.advisories.attack import refused_and_closed, sealed
from tests.support import World

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    "target",
    [
        "http://169.254.169.254/latest/meta-data/",
        "http://127.0.0.1:8081/metrics",
        "https://evil.example/api/account/123",
        "//evil.example/api/account/123x",
        "@evil.example/",
        ":8081/metrics",
        "evil.example:443",
        "file:///etc/passwd",
        "gopher://x/_",
    ],
)
async def test_another_host(here: World, target: str) -> None:
    await refused_and_closed(here, sealed(here, "GET", target, ("connection", "close")))
