"""The documentation of problems has each of them, and no other."""

from __future__ import annotations

import re
from pathlib import Path

from gateway.core.errors import Reason

PAGE = Path(__file__).parents[2] / "docs" / "problems.md"


def test_each_reason_has_its_row() -> None:
    rows = re.findall(r"^\| `([a-z-]+)` \| (\d{3}) \|", PAGE.read_text(), re.MULTILINE)
    assert sorted(rows) == sorted((reason.slug, str(reason.status)) for reason in Reason)
