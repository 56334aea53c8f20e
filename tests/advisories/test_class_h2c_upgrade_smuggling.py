"""h2c smuggling: a proxy passes Upgrade on, and then tunnels what it never looks at.

Here no upgrade is made or passed on.
"""

from __future__ import annotations

import pytest

from tests.advisories.attack import hidden, refused_and_closed, sealed
from tests.support import World, account_path

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("connection", ["Upgrade, HTTP2-Settings", "upgrade", "Upgrade"])
@pytest.mark.parametrize("protocol", ["h2c", "HTTP/2.0", "websocket", "TLS/1.0"])
async def test_an_upgrade(here: World, connection: str, protocol: str) -> None:
    fields = [
        ("connection", connection),
        ("upgrade", protocol),
        ("http2-settings", "AAMAAABkAARAAAAAAAIAAAAA"),
    ]
    preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    await refused_and_closed(here, sealed(here, "GET", account_path(), *fields, body=preface + hidden(here)))


async def test_prior_knowledge(here: World) -> None:
    await refused_and_closed(here, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(9))
