"""TERM.EXT and EXT.TERM: a bare line feed ends a chunk extension for one of two readers.

Here it is refused.
"""

from __future__ import annotations

import pytest

from tests.advisories.attack import hidden, sealed, throw, unseen
from tests.support import World, chat_path

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    "line", [b"2;\n{}", b"2;a\n{}", b"2\n{}", b"2;a\r{}", b'2;a="\n"\r\n{}', b"2\r;\r\n{}"]
)
async def test_an_extension_ends_with_its_line(here: World, line: bytes) -> None:
    chat = here.chat()
    fields = [("content-type", "application/json"), ("transfer-encoding", "chunked")]
    body = line + b"\r\n0\r\n\r\n" + hidden(here)
    peer = await throw(
        here, sealed(here, "PUT", chat_path(chat, "/customVariables"), *fields, body=body), replies=9
    )
    assert peer.is_closed
    assert [reply.status for reply in peer.replies] == [400]
    unseen(here, chat)
    unseen(here)
