"""CSRF: somebody's page makes the operator's browser change something.

Here a change needs a token, our origin, and a type no form can send.
"""

from __future__ import annotations

import pytest

from tests.advisories.attack import operator
from tests.support import World

pytestmark = pytest.mark.anyio


REVOKE = b'{"client": "bff"}'


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"origin": "https://evil.example", "content-type": "application/json"}, 403),
        ({"origin": "null", "content-type": "application/json"}, 403),
        ({"origin": "http://127.0.0.1:9", "content-type": "application/json"}, 403),
        ({"content-type": "application/x-www-form-urlencoded"}, 415),
        ({"content-type": "text/plain"}, 415),
        ({"content-type": "multipart/form-data; boundary=x"}, 415),
        ({}, 415),
        ({"content-type": "application/json", "authorization": "Basic eDp5"}, 401),
        ({"content-type": "application/json", "authorization": "", "cookie": "token=x"}, 401),
    ],
)
@pytest.mark.parametrize("path", ["/revocations", "/reload", "/explain"])
async def test_a_foreign_page(here: World, path: str, fields: dict[str, str], status: int) -> None:
    assert (await operator(here, "POST", path, fields, REVOKE)).status == status
    assert (await operator(here, "GET", "/revocations", {})).json() in (
        [],
        {"revocations": []},
        {"entries": []},
    )


@pytest.mark.parametrize("path", ["/revocations", "/reload", "/explain"])
async def test_no_preflight_is_granted(here: World, path: str) -> None:
    fields = {"origin": "https://evil.example", "access-control-request-method": "POST"}
    reply = await operator(here, "OPTIONS", path, fields)
    assert reply.status == 405
    assert not [name for name, _ in reply.headers if name.startswith("access-control-")]
