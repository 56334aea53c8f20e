"""Expect: proxies lost count of answers over 100-continue and odd expectations.

Here one final answer comes, and no other expectation is met.
"""

from __future__ import annotations

import pytest

from tests.advisories.attack import hidden, refused_and_closed, sealed, throw, unseen
from tests.support import World, account_path, chat_path

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("said", ["200-ok", "y 100-continue", "100-continue, x", "x=100-continue"])
async def test_other_expectations(here: World, said: str) -> None:
    fields = [("expect", said), ("content-length", "2"), ("content-type", "application/json")]
    data = sealed(here, "PUT", chat_path("H1-1", "/customVariables"), *fields, body=b"{}")
    reply = await refused_and_closed(here, data, 417)
    assert b"expectation-failed" in reply.body


async def test_refused_before_the_body(here: World) -> None:
    """Nobody can say whether the body follows a refusal or the next request."""
    fields = [("expect", "100-continue"), ("content-length", "200")]
    peer = await throw(here, sealed(here, "POST", account_path("/nothing"), *fields), replies=2)
    assert peer.is_closed
    assert [reply.status for reply in peer.replies] == [404]


async def test_the_body_at_once(here: World) -> None:
    chat, inner = here.chat(), hidden(here)
    fields = [
        ("expect", "100-continue"),
        ("content-length", str(len(inner))),
        ("content-type", "application/json"),
    ]
    peer = await throw(here, sealed(here, "PUT", chat_path(chat, "/customVariables"), *fields, body=inner))
    assert [reply.status for reply in peer.replies] == [400]
    unseen(here)
    peer.transport.abort()
