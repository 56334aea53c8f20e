"""A comparison that stops at the first wrong letter tells the token letter by letter.

Here digests of one length are compared in constant time.
"""

from __future__ import annotations

import hmac

import pytest

import gateway.admin.web
from tests.advisories.attack import operator
from tests.support import World

pytestmark = pytest.mark.anyio


async def test_what_is_compared(here: World, monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[int, int]] = []

    def compare(one: bytes, other: bytes) -> bool:
        compared.append((len(one), len(other)))
        return hmac.compare_digest(one, other)

    right = here.stage.admin_token
    # The module's own name only: the rest of the process goes on with the real one.
    watched = type("Watched", (), {"compare_digest": staticmethod(compare)})
    monkeypatch.setattr(gateway.admin.web, "hmac", watched)
    for token, status in (
        (right, 200),
        (right[:-1], 401),
        (right[0], 401),
        ("x" * 4_000, 401),
        ("", 401),
        (right + "x", 401),
    ):
        reply = await operator(here, "GET", "/usage", {"authorization": f"Bearer {token}"})
        assert reply.status == status
    assert compared == [(32, 32)] * 6
