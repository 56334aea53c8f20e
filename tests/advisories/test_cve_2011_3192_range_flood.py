"""CVE-2011-3192: Apache made a copy for each of a thousand overlapping ranges.

Here Range is not read.
"""

from __future__ import annotations

import pytest

from tests.support import World, chat_path

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    "said", ["bytes=0-1", "bytes=" + ",".join(f"5-{n}" for n in range(1300)), "bytes=-1", "x"]
)
async def test_ranges(here: World, said: str) -> None:
    target = chat_path(here.chat(), "/info")
    whole = await here.get(target)
    for fields in ({"range": said}, {"range": said, "if-range": "x"}, {"request_range": said}):
        ranged = await here.get(target, **fields)
        assert (ranged.status, ranged.body) == (200, whole.body)
        assert ranged.header("content-range") is None
