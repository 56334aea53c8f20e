"""Label explosion: whoever chooses labels fills the memory of all who count.

Here no label is a client's word.
"""

from __future__ import annotations

import pytest

from tests.advisories.attack import Forge, sealed, status_of, throw
from tests.support import World, account_path, chat_path

pytestmark = pytest.mark.anyio


CANARY = "c4nary"


async def series(here: World) -> set[str]:
    text = (await here.admin("/metrics")).body.decode()
    assert CANARY not in text
    return {line.rpartition(" ")[0] for line in text.splitlines() if not line.startswith("#")}


async def stir(here: World, forge: Forge, n: int) -> None:
    for target in (
        f"/{CANARY}{n}",
        account_path(f"/{CANARY}{n}"),
        account_path(f"?{CANARY}{n}=1"),
        chat_path(f"H{n}-{CANARY}", "/info"),
    ):
        await here.ask(
            "GET",
            target,
            {"user-agent": f"{CANARY}{n}", "x-request-id": f"{CANARY}{n}", "origin": f"https://{CANARY}{n}"},
        )
    await status_of(here, forge.token(None, forge.claims(sub=f"{CANARY}{n}", iss=f"{CANARY}{n}")))
    await status_of(here, forge.token(None, forge.claims(sub=f"{CANARY}{n}")))
    peer = await throw(here, sealed(here, f"{CANARY}{n}".upper(), account_path()))
    peer.transport.abort()


async def test_labels_are_ours(here: World, forge: Forge) -> None:
    await stir(here, forge, 0)
    before = await series(here)
    for n in range(1, 30):
        await stir(here, forge, n)
    assert await series(here) == before
    assert len(before) > 50
