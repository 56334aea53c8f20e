"""Parsers differ about NaN, doubled names, comments and numbers without end: one checks, the other obeys.

Here such a body is refused.
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


@pytest.mark.parametrize(
    "body",
    [
        '{"a":NaN}',
        '{"a":Infinity}',
        '{"a":-Infinity}',
        '{"a":1,"a":2}',
        '{"a":1,"\\u0061":2}',
        '{"a":1,}',
        '{"a":1}//',
        '{"a":01}',
        "{'a':1}",
        '{"a":1}{"a":2}',
        '{"a":"\\x41"}',
        '{"a":"\t"}',
        "",
    ],
)
async def test_one_reading(here: World, body: str) -> None:
    await refused(here, body.encode(), "application/json")


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32", "utf-8-sig", "utf-7"])
async def test_another_encoding(here: World, encoding: str) -> None:
    body = '{"\u00e9": 1}'.encode(encoding)
    await refused(here, body if encoding != "utf-7" else b"\xff" + body, "application/json")
