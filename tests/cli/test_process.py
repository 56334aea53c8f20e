"""What the system gives a process: open files, and the streams that everybody has."""

from __future__ import annotations

import os
import re
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gateway.cli.process import RESERVE, allow_open_files, too_few_open_files
from gateway.configuration import configure
from tests.cli.processes import line_of, started
from tests.support import staged

FEW = (200, 400)
TOO_FEW = (
    f"edge.max_connections: expected a limit of open files of at least {10_000 + 100 + RESERVE}, got 400"
)


def allow(soft: int, hard: int) -> Callable[[], None]:
    return lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def stage(folder: Path, **settings: Any) -> str:
    return str(staged(folder, **settings).config)


def limits_of(pid: int) -> tuple[int, int]:
    [found] = re.findall(
        r"^Max open files +(\d+) +(\d+)", Path(f"/proc/{pid}/limits").read_text(), re.MULTILINE
    )
    return int(found[0]), int(found[1])


def test_a_gateway_takes_all_the_files_it_may_and_warns_if_they_are_too_few(tmp_path: Path) -> None:
    with started("serve", "--config", stage(tmp_path), first=allow(*FEW)) as process:
        said = line_of(process)
        assert (said["event"], said["level"], said["warning"]) == ("configuration", "warning", TOO_FEW)
        assert line_of(process)["event"] == "listening"
        assert limits_of(process.pid) == (400, 400)


def test_check_warns_of_the_same(tmp_path: Path) -> None:
    with started("check", "--config", stage(tmp_path), first=allow(*FEW)) as process:
        out, err = process.communicate(timeout=15)
    assert (process.returncode, err) == (0, "")
    assert out.splitlines()[0] == TOO_FEW
    assert out.splitlines()[1].startswith("ok: ")


def test_enough_is_nothing_to_warn_of(tmp_path: Path) -> None:
    config = stage(tmp_path, edge={"max_connections": 400 - 100 - RESERVE})
    with started("serve", "--config", config, first=allow(*FEW)) as process:
        assert line_of(process)["event"] == "listening"


@pytest.mark.parametrize(("spare", "warnings"), [(-1, 1), (0, 0), (1, 0)])
def test_what_is_needed(tmp_path: Path, spare: int, warnings: int) -> None:
    config = Path(stage(tmp_path, edge={"max_connections": 7}))
    settings = configure(config, {"CHAT_GATEWAY_UPSTREAM__MAX_CONNECTIONS": "5"}).settings
    assert len(too_few_open_files(settings, 7 + 5 + RESERVE + spare)) == warnings


def test_the_limit_is_that_of_the_system() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        assert allow_open_files() == (before[1] if before[1] != resource.RLIM_INFINITY else sys.maxsize)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def close_streams() -> None:
    for descriptor in range(3):
        os.close(descriptor)


def test_closed_streams_are_nothing_that_a_socket_could_be() -> None:
    code = (
        "import os; from gateway.cli.process import fill_standard_streams as fill; fill(); fill();"
        "os._exit(any(os.readlink(f'/proc/self/fd/{n}') != '/dev/null' for n in range(3)))"
    )
    process = subprocess.Popen([sys.executable, "-c", code], preexec_fn=close_streams)  # noqa: S603, PLW1509 - ours
    assert process.wait(15) == 0
