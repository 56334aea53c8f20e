"""TE.TE: one of two readers is talked out of Transfer-Encoding.

Here it is `chunked`, once, or refused.
"""

from __future__ import annotations

import pytest

from tests.advisories.attack import hidden, refused_and_closed, sealed
from tests.support import World, chat_path

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    "said",
    [
        ["chunked", "identity"],
        ["chunked", "chunked"],
        ["chunked, chunked"],
        ["xchunked"],
        ["x, chunked"],
        ["chunked;x=y"],
        ['"chunked"'],
        ["chunked\x0b"],
        ["\x0bchunked"],
        ["chu\tnked"],
        ["gzip, chunked"],
        [""],
    ],
)
async def test_hidden_codings(here: World, said: list[str]) -> None:
    body = b"0\r\n\r\n" + hidden(here)
    fields = [("transfer-encoding", one) for one in said]
    await refused_and_closed(here, sealed(here, "POST", chat_path("H1-1", "/events"), *fields, body=body))


@pytest.mark.parametrize(
    "name", ["transfer-encoding ", "transfer-encoding\t", " transfer-encoding", "transfer\x00-encoding"]
)
async def test_hidden_names(here: World, name: str) -> None:
    fields = [("content-length", "0"), (name, "chunked")]
    data = sealed(here, "POST", chat_path("H1-1", "/events"), *fields, body=b"0\r\n\r\n" + hidden(here))
    await refused_and_closed(here, data)
