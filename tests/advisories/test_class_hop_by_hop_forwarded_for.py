"""Hop-by-hop abuse: Connection names X-Forwarded-For, and the proxy's own address is taken for the visitor's.

Here it is read all the same.
"""

from __future__ import annotations

import json

import pytest

from tests.support import VISITOR, World, account_path

pytestmark = pytest.mark.anyio


async def test_the_visitor_is_who_was_named(here: World) -> None:
    fields = {"content-type": "application/json", "connection": "x-forwarded-for, X-Forwarded-For"}
    reply = await here.ask(
        "POST", account_path("/chat/request"), fields, json.dumps({"request": {}}).encode()
    )
    assert reply.status == 201
    (sent,) = here.emulator.recorded
    assert VISITOR.encode() in sent.partition(b"\r\n\r\n")[2]
    assert b"x-forwarded-for" not in sent.lower()
