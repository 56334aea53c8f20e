"""Private calls that the public listener knows as well.

Here it knows none of them.
"""

from __future__ import annotations

import pytest

from tests.advisories.attack import untouched
from tests.support import World

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    "path",
    [
        "/metrics",
        "/usage",
        "/revocations",
        "/reload",
        "/explain",
        "/healthz",
        "/readyz",
        "/admin",
        "/.env",
        "/debug/pprof",
    ],
)
async def test_unknown(here: World, path: str) -> None:
    for fields in ({}, {"authorization": f"Bearer {here.stage.admin_token}"}):
        for method in ("GET", "POST"):
            assert (await here.ask(method, path, fields)).status in {401, 404}
    assert (await here.get(path)).status == 404
    untouched(here)
