"""Open redirect: a slash too many, and the server sends the browser elsewhere.

Here nothing redirects, on either listener.
"""

from __future__ import annotations

import pytest

from tests.advisories.attack import operator
from tests.support import World

pytestmark = pytest.mark.anyio


TARGETS = [
    "//evil.example",
    "//evil.example/..",
    "/\\\\evil.example",
    "/metrics/",
    "/usage//",
    "/%2f%2fevil.example",
    "/api/account/123/",
    "/?next=https://evil.example",
    "/healthz/..;/",
]


@pytest.mark.parametrize("target", TARGETS)
async def test_no_redirect(here: World, target: str) -> None:
    # The live page heeds no query; all else is no path of either listener.
    is_page = target.startswith("/?")
    for reply, is_there in (
        (await here.get(target), False),
        (await operator(here, "GET", target, {}), is_page),
    ):
        assert reply.status == 200 if is_there else 400 <= reply.status < 500
        assert reply.header("location") is None
        assert b"evil" not in reply.body
