"""TE.0: the front reads chunks on a GET or OPTIONS, the back reads none of it.

Here chunks on a read are refused.
"""

from __future__ import annotations

import pytest

from tests.advisories.attack import hidden, refused_and_closed, sealed
from tests.support import World, account_path

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS"])
@pytest.mark.parametrize("is_empty", [True, False])
async def test_chunks_on_what_has_no_body(here: World, method: str, is_empty: bool) -> None:
    inner = hidden(here)
    body = b"0\r\n\r\n" + inner if is_empty else b"%x\r\n%b\r\n0\r\n\r\n" % (len(inner), inner)
    await refused_and_closed(
        here, sealed(here, method, account_path(), ("transfer-encoding", "chunked"), body=body)
    )
