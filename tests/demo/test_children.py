"""The processes of the demo."""

from __future__ import annotations

import asyncio
import socket
import sys
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


def test_a_child_ends_with_its_block(tmp_path: Path) -> None:
    port = free_ports(1)[0]
    with child(["emulator", "--port", str(port)], tmp_path / "log") as started:
        asyncio.run(started.listening(port))
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), 2)


def test_a_killed_child_has_ended_before_its_block(tmp_path: Path) -> None:
    port = free_ports(1)[0]
    with child(["http.server", str(port)], tmp_path / "log", program=(sys.executable, "-m")) as started:
        asyncio.run(started.listening(port))
        started.kill()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port), 2)
