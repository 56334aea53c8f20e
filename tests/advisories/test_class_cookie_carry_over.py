"""A client that keeps cookies gives one visitor's session to the next.

Here no cookie goes either way.
"""

from __future__ import annotations

import pytest

from gateway.emulator import Fault
from tests.support import World, account_path, chat_path

pytestmark = pytest.mark.anyio


async def test_no_cookie(here: World) -> None:
    here.emulator.fail(Fault(set_cookie="session=c4nary; Path=/"))
    first = await here.get(chat_path(here.chat(), "/info"), cookie="mine=c4nary")
    assert first.status == 200
    assert first.header("set-cookie") is None
    await here.get(account_path())
    assert here.upstream_requests() == 2
    assert not here.emulator.saw(b"c4nary=")
    assert not here.emulator.saw(b"ookie")
