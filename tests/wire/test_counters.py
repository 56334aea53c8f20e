"""What the gateway counts is what its clients and its upstream count, over ten thousand mixed requests.

Every number is counted twice: by the gateway, and by whoever was at the other end of the wire.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gateway.demo.stage import ACCOUNT
from gateway.emulator import Drop, Fault
from tests.counting import counted
from tests.support import account_path, world
from tests.watching import go_through, stage

pytestmark = pytest.mark.anyio


async def test_everybody_counted_the_same(tmp_path: Path) -> None:
    async with stage(tmp_path) as here:
        book = await go_through(here, 9_600)
        assert book.requests.total() >= 10_000


async def test_what_is_sent_once_more_is_counted_apart(tmp_path: Path) -> None:
    """A read over a kept connection that had closed: one fetch of its client, two requests to the vendor."""
    settings: dict[str, Any] = {"admin": {"token_file": "admin-token", "hosts": ["gateway.test"]}}
    async with world(tmp_path, **settings) as here:
        path = account_path("/chat/availability")
        await here.get(path)
        here.emulator.fail(Fault(resource="availability", delivery=Drop()))
        assert (await here.get(path)).status == 200
        told = await counted(here)
        assert told.by("upstream_requests", "resource") == {"availability": 2}
        assert told.by("upstream_repeats", "account") == {ACCOUNT: 1}
        assert here.upstream_requests() == 3
        assert told.used("fetches") == {"bff": 2}
