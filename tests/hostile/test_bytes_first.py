"""The byte oracle over thousands of cases; the other half is in a file of its own, for another process."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.hostile.proof import proven

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("seed", [1, 2])
async def test_nothing_desynchronises(tmp_path: Path, seed: int) -> None:
    await proven(tmp_path, seed)
