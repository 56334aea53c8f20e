"""Web cache deception by normalisation: /static/..%2finfo is resolved by one of two readers.

Here nothing is resolved.
"""

from __future__ import annotations

import pytest

from tests.advisories.attack import untouched
from tests.support import World, chat_path

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    "dots",
    [
        "../",
        "..%2f",
        "%2e%2e/",
        "%2e%2e%2f",
        "..;/",
        "./",
        "%2e/",
        "..\\",
        "..%5c",
        ".%2e/",
        "%252e%252e%252f",
        "//",
    ],
)
@pytest.mark.parametrize("before", ["/static/", "/api/account/123/", "/", "/api/account/123/chat/x/"])
async def test_dots(here: World, dots: str, before: str) -> None:
    target = chat_path(here.chat(), "/info")
    for spelled in (before + dots + target[1:], target.replace("/chat/", f"/chat/x/{dots}", 1)):
        assert (await here.get(spelled)).status in {400, 404}
    untouched(here)
