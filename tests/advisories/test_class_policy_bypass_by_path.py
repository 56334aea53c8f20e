"""Policy bypass by path: the check sees one resource, the upstream another.

Here what is judged is what is sent.
"""

from __future__ import annotations

import pytest

from tests.advisories.attack import untouched
from tests.support import World, chat_path

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    "spelled",
    [
        "exitSurvey",
        "ExitSurvey",
        "exit%53urvey",
        "info/../exitSurvey",
        "exitSurvey;",
        "exitSurvey/",
        "exitSurvey.json",
        "./exitSurvey",
        "exitSurvey%00",
        "exitSurvey%2ejson",
    ],
)
async def test_what_a_partner_may_not_see(here: World, spelled: str) -> None:
    reply = await here.ask("GET", chat_path(here.chat(), f"/{spelled}"), subject="partner")
    assert reply.status in {400, 403, 404}
    untouched(here)
