"""A token in the URL ends in logs, histories and Referer.

Here it is read from Authorization only, and such a URL is refused unlogged.
"""

from __future__ import annotations

import pytest

from tests.advisories.attack import untouched
from tests.support import World, account_path

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    "name", ["access_token", "token", "authorization", "Authorization", "bearer", "jwt", "_", "appKey", "cb"]
)
async def test_a_token_in_the_query(here: World, name: str) -> None:
    token = here.token()
    reply = await here.ask("GET", account_path(f"?{name}={token}"), subject=None)
    assert (reply.status, reply.problem) == (401, "token-missing")
    untouched(here)
    assert token not in here.log.getvalue()
    assert token.encode() not in (await here.admin("/metrics")).body


@pytest.mark.parametrize(
    "name", ["cookie", "x-access-token", "x-api-key", "proxy-authorization", "x-authorization"]
)
async def test_a_token_elsewhere(here: World, name: str) -> None:
    reply = await here.ask("GET", account_path(), {name: f"Bearer {here.token()}"}, subject=None)
    assert reply.status == 401
