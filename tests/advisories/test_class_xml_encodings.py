"""XML that names an encoding, or is in another one, gets past those who look for bytes.

Here it is UTF-8.
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


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32", "cp037"])
async def test_another_encoding(here: World, encoding: str) -> None:
    await refused(here, f'<?xml version="1.0" encoding="{encoding}"?><request>x</request>'.encode(encoding))


@pytest.mark.parametrize("name", ["utf-7", "ibm037", "x-evil", "utf-16", "ucs-4"])
async def test_another_name(here: World, name: str) -> None:
    await refused(here, f'<?xml version="1.0" encoding="{name}"?><request>x</request>'.encode())
