"""SSRF by jku, x5u or an issuer's URL: a verifier fetches keys from where the token says.

Here nothing in a token is an address.
"""

from __future__ import annotations

import asyncio

import pytest

from tests.advisories.attack import Forge, rejected, status_of
from tests.support import World

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("name", ["jku", "x5u", "kid", "iss", "jwk", "x5c"])
async def test_nothing_is_fetched(here: World, forge: Forge, name: str) -> None:
    visitors: list[object] = []

    async def welcome(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        visitors.append(writer)
        writer.close()

    server = await asyncio.start_server(welcome, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/jwks.json"
    header = forge.header() if name == "iss" else forge.header(**{name: [url] if name == "x5c" else url})
    claims = forge.claims(iss=url) if name == "iss" else forge.claims()
    await rejected(here, forge.token(header, claims, forge.own))
    # Truly signed, the address is passed over; but a key's name and an issuer's are who they are.
    expected = 401 if name in {"iss", "kid"} else 200
    assert await status_of(here, forge.token(header, claims)) == expected
    assert visitors == []
    server.close()
    await server.wait_closed()
