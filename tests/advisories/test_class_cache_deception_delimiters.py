"""Web cache deception by delimiters: one of two readers ends the path at ; or an encoded one.

Here none ends it.
"""

from __future__ import annotations

import pytest

from tests.advisories.attack import untouched
from tests.support import World, chat_path

pytestmark = pytest.mark.anyio


async def deceived(here: World, suffix: str) -> None:
    """The victim is led to the address; then the attacker asks for it."""
    target = chat_path(here.chat(), "/info" + suffix)
    for subject in ("bff", None):
        reply = await here.ask("GET", target, subject=subject)
        assert reply.status in {400, 401, 404}
        assert "visitor" not in reply.body.decode()
    untouched(here)


@pytest.mark.parametrize(
    "mark",
    [";", "%00", "%3b", "%23", "%3f", "%0a", "%09", "!", "$", ",", "|", "~", "%20", "%2e", "%26", "@", "'"],
)
async def test_a_delimiter(here: World, mark: str) -> None:
    await deceived(here, f"{mark}x.css")
