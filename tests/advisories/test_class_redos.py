"""ReDoS: a pattern that tries every way to fit takes for ever over the right input.

Here patterns have one way.
"""

from __future__ import annotations

import asyncio

import pytest

from tests.support import PATIENCE_S, World, account_path, chat_path

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("accept", "application/json;q=" + "0" * 12_000 + "x"),
        ("accept", "a/b;" * 3_000),
        ("accept", ", " * 6_000),
        ("if-none-match", '"' * 12_001),
        ("if-none-match", 'W/"' + "\\" * 12_000),
        ("x-forwarded-for", "1." * 6_000),
        ("x-forwarded-for", ":" * 12_000),
        ("x-request-id", "a" * 12_000 + "!"),
        ("host", "a." * 6_000),
        ("authorization", "Bearer " + "a." * 6_000),
        ("content-type", "application/json" + ";" * 12_000),
    ],
)
async def test_fields(here: World, name: str, value: str) -> None:
    async with asyncio.timeout(PATIENCE_S):
        assert (await here.ask("GET", account_path(), {name: value})).status in {200, 400, 401, 406}


@pytest.mark.parametrize(
    "target",
    [
        "/a" * 4_000,
        "/api/account/" + "a" * 8_000,
        chat_path("H" + "1" * 4_000 + "-" * 3_000 + "!", "/info"),
        account_path("/chat/availability?skill=" + "%25" * 2_600),
        account_path("/chat/preSurvey?visitorIp=" + "1." * 3_900),
        account_path("/chat/preSurvey?visitorIp=" + ":" * 7_000 + "g"),
        account_path("?" + "&" * 7_900),
    ],
    ids=range(7),
)
async def test_targets(here: World, target: str) -> None:
    async with asyncio.timeout(PATIENCE_S):
        assert (await here.get(target)).status in {200, 400, 404}
