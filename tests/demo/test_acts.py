"""What the demo shows of clients that differ, against a real gateway."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.demo.acts import Acts, Stand, perform
from gateway.demo.screen import acts_told
from tests.support import chat_path, world

pytestmark = pytest.mark.anyio


async def test_the_acts_show_what_the_policies_say(tmp_path: Path) -> None:
    async with world(tmp_path) as it:
        host, port = it.addresses.public
        chat_url = f"http://{host}:{port}{chat_path(it.chat())}"
        acts = await perform(Stand(it.stage, chat_url, it.addresses.private[1]))
        assert acts.errors == ()
        assert acts.fields_of_partner == (
            *("agentTyping", "duration", "lastUpdate"),
            *("startTime", "state", "visitorTyping"),
        )
        assert acts.fields_of_backend > 15
        assert acts.limited_after >= 300 - 3
        assert acts.ratelimit.startswith('"requests";r=0;t=')
        assert any("partner/deny/exitSurvey" in step for step in acts.explained)
        assert (acts.denied, acts.revoked) == ("403 field-denied", "401 token-revoked")


async def test_what_should_not_have_been_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "other-token").write_text("not-the-one-of-the-stage\n")
    async with world(tmp_path, environ={"ADMIN__TOKEN_FILE": "other-token"}) as it:
        host, port = it.addresses.public
        chat_url = f"http://{host}:{port}{chat_path(it.chat())}"
        acts = await perform(Stand(it.stage, chat_url, it.addresses.private[1]))
        assert acts.errors == ("the explanation", "the confirmed revocation", "the revoked token")
        assert "Errors: the explanation, the confirmed revocation, the revoked token." in acts_told(acts)


def test_all_of_it_is_told() -> None:
    limit = (317, '"requests";r=0;t=1', "1")
    told = acts_told(Acts(21, ("state",), "403 field-denied", *limit, 200, ("a: b",), "401 x", ()))
    for word in ("21 fields", "partner 1: state", "403 field-denied", *map(str, limit), "    a: b", "401 x"):
        assert word in told
