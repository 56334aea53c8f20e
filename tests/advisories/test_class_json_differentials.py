"""Parsers differ about NaN, doubled names, comments and numbers without end: one checks, the other obeys.

Here such a body is refused.
"""

from __future__ import annotations

import pytest

from tests.advisories.attack import refused_body
from tests.support import World

pytestmark = pytest.mark.anyio


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
    await refused_body(here, body.encode(), "application/json")


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32", "utf-8-sig", "utf-7"])
async def test_another_encoding(here: World, encoding: str) -> None:
    body = '{"\u00e9": 1}'.encode(encoding)
    await refused_body(here, body if encoding != "utf-7" else b"\xff" + body, "application/json")
