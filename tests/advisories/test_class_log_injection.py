"""Log injection: a line end makes a second line, an escape sequence a command to the terminal.

Here a line is one JSON document in ASCII.
"""

from __future__ import annotations

import json

import pytest

from tests.advisories.attack import Forge, sealed, status_of, throw
from tests.support import World, account_path

pytestmark = pytest.mark.anyio


EVIL = [
    'a\r\n{"level": "info"}',
    "\x1b[2J\x1b]0;x\x07",
    "\u2028{}",
    "\x00",
    "%0d%0aevil",
    "\ud800",
    "\x9b31m",
]


@pytest.mark.parametrize("evil", EVIL, ids=range(len(EVIL)))
async def test_a_line_is_a_line(here: World, forge: Forge, evil: str) -> None:
    before = len(here.log.getvalue())
    for claims in (forge.claims(sub=evil), forge.claims(jti=evil), forge.claims(iss=evil)):
        await status_of(here, forge.token(None, claims))
    await status_of(here, forge.token(forge.header(kid=evil)))
    raw = evil.encode("utf-8", "surrogatepass")
    for data in (
        sealed(here, "GET", account_path("/x?y=Z")).replace(b"Z", raw, 1),
        sealed(here, "GET", account_path(), ("user-agent", "Z"), ("x-request-id", "Z")).replace(b"Z", raw),
        raw + b"\r\n\r\n",
    ):
        peer = await throw(here, data)
        peer.transport.abort()
    lines = here.log.getvalue()[before:].splitlines()
    assert len(lines) >= 4
    for line in lines:
        assert line.isascii()
        assert line.isprintable()
        assert isinstance(json.loads(line), dict)
