"""CL.CL: of two lengths each reader takes another.

Here a second one is refused, equal or not, in lines or in a list.
"""

from __future__ import annotations

import pytest

from tests.advisories.attack import hidden, refused_and_closed, sealed
from tests.support import World, chat_path

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    "lengths", [["2", "200"], ["200", "2"], ["2", "2"], ["2, 2"], ["2,200"], ["2", ""], ["+2"], ["2 2"]]
)
async def test_two_lengths(here: World, lengths: list[str]) -> None:
    fields = [("content-type", "application/json"), *(("content-length", one) for one in lengths)]
    data = sealed(here, "PUT", chat_path("H1-1", "/customVariables"), *fields, body=b"{}" + hidden(here))
    await refused_and_closed(here, data)
