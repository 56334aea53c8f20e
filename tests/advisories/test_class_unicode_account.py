"""Unicode normalisation: digits and letters of other scripts become ours behind the check.

Here an account and a chat are ASCII.
"""

from __future__ import annotations

import pytest

from tests.advisories.attack import sealed, throw, untouched
from tests.support import World

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    "account",
    [
        "\uff11\uff12\uff13",
        "\u0661\u0662\u0663",
        "12\u00b3",
        "123\u200b",
        "\u2460\u2461\u2462",
        "123\u0301",
        "\U0001d7cf23",
    ],
)
async def test_an_account(here: World, account: str) -> None:
    encoded = "".join(f"%{byte:02x}" for byte in account.encode())
    assert (await here.get(f"/api/account/{encoded}/chat/availability")).status == 400
    peer = await throw(
        here, sealed(here, "GET", "/api/account/X/chat/availability").replace(b"X", account.encode(), 1)
    )
    assert [reply.status for reply in peer.replies] == [400]
    untouched(here)


@pytest.mark.parametrize("claim", ["\uff42ff", "bf\u017f", "BFF", "bff\u200b", "bff "])
async def test_a_client(here: World, claim: str) -> None:
    assert (await here.ask("GET", "/api/account/123", subject=claim)).status == 403
