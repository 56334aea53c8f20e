"""Billion laughs: ten lines of entities make gigabytes.

Here a document with a DTD is refused, and nothing of it is passed on.
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


def laughs(depth: int) -> bytes:
    entities = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, depth))
    return f'<!DOCTYPE l [<!ENTITY l0 "lol">{entities}]><request>&l{depth - 1};</request>'.encode()


@pytest.mark.parametrize("depth", [1, 3, 10])
async def test_entities(here: World, depth: int) -> None:
    await refused(here, laughs(depth))


async def test_one_long_entity(here: World) -> None:
    """The quadratic one."""
    await refused(
        here,
        b'<!DOCTYPE l [<!ENTITY a "' + b"x" * 50_000 + b'">]><request>' + b"&a;" * 20_000 + b"</request>",
    )
