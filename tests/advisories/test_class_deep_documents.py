"""Documents as deep as they are long exhaust the stack of whoever reads them by recursion.

Here they are refused.
"""

from __future__ import annotations

import pytest

from tests.advisories.attack import untouched
from tests.support import World, account_path, chat_path

pytestmark = pytest.mark.anyio


async def refused(here: World, body: bytes, media_type: str = "application/xml") -> None:
    for method, target in (
        ("PUT", chat_path(here.chat(), "/customVariables")),
        ("POST", account_path("/chat/request")),
    ):
        reply = await here.ask(method, target, {"content-type": media_type}, body)
        assert (reply.status, reply.problem) == (400, "malformed-body")
    untouched(here)


@pytest.mark.parametrize("depth", [2_000, 100_000])
async def test_depth(here: World, depth: int) -> None:
    await refused(here, b"[" * depth + b"]" * depth, "application/json")
    await refused(here, b'{"a":' * (depth // 3) + b"1" + b"}" * (depth // 3), "application/json")
    await refused(here, b"[" * depth, "application/json")
    await refused(here, b"<a>" * (depth // 3) + b"</a>" * (depth // 3))
