"""The processes of the demo."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from gateway.demo.children import DidNotStart, child, free_ports


def test_ports_are_free_and_different() -> None:
    assert len(set(free_ports(3))) == 3


def test_who_does_not_start_has_told_why(tmp_path: Path) -> None:
    with (
        child(["serve", "--config", "not-there.yaml"], tmp_path / "log") as started,
        pytest.raises(DidNotStart, match=r"serve did not start: not-there\.yaml: "),
    ):
        asyncio.run(started.listening(free_ports(1)[0]))
