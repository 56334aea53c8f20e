"""A token for somebody else, whose name is nearly ours.

Here the audience is equal, or has ours as a member.
"""

from __future__ import annotations

import pytest

from gateway.demo.stage import AUDIENCE
from tests.advisories.attack import Forge, rejected, status_of
from tests.support import World

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    "audience",
    [
        AUDIENCE[:-1],
        AUDIENCE + "2",
        AUDIENCE.upper(),
        "",
        [],
        ["other"],
        [[AUDIENCE]],
        {AUDIENCE: 1},
        None,
        "*",
    ],
)
async def test_for_somebody_else(here: World, forge: Forge, audience: object) -> None:
    await rejected(here, forge.token(None, forge.claims(aud=audience)))
    here.start_over()
    assert await status_of(here, forge.token(None, forge.claims(aud=["other", AUDIENCE]))) == 200
