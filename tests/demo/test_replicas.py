"""Where the demo finds a server for its replicas, and what it says where there is none."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from gateway.demo.replicas import LeftOut, find_server


def program(folder: Path, name: str) -> None:
    (folder / name).touch(mode=0o755)


@pytest.mark.parametrize(
    ("there", "found"),
    [
        (["redis-server"], "redis-server"),
        (["valkey-server"], "valkey-server"),
        (["valkey-server", "redis-server"], "redis-server"),
    ],
)
def test_either_server_will_do(tmp_path: Path, there: list[str], found: str) -> None:
    for name in there:
        program(tmp_path, name)
    assert find_server(str(tmp_path)) == str(tmp_path / found)


def test_a_machine_may_have_none(tmp_path: Path) -> None:
    assert find_server(str(tmp_path)) == LeftOut("there is no redis-server or valkey-server")


def test_the_gateway_may_be_installed_without_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program(tmp_path, "redis-server")
    monkeypatch.setitem(sys.modules, "redis", None)
    assert find_server(str(tmp_path)) == LeftOut("the extra redis is not installed")


def test_the_one_beside_the_interpreter_goes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bin").mkdir()
    program(tmp_path, "redis-server")
    program(tmp_path / "bin", "redis-server")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "bin" / "python"))
    assert find_server() == str(tmp_path / "bin" / "redis-server")
