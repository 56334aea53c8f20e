"""`make`: on a machine whose Python is too old, and that what it runs is there."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(
    shutil.which("make") is None or not (CHECKOUT / "Makefile").exists(), reason="there is no make"
)
#: Knows `-c` only, like the Python that runs it, but with another version.
STUB = """\
#!/bin/sh
test "$1" = -c || {{ echo "unexpected: $*" >&2; exit 1; }}
exec "{python}" -c 'import sys; sys.version_info = {version}; exec(sys.argv[1])' "$2"
"""


def make(folder: Path, version: tuple[int, ...]) -> subprocess.CompletedProcess[str]:
    for name in ("Makefile", "pyproject.toml", "requirements-dev.txt"):
        shutil.copy(CHECKOUT / name, folder)
    stub = folder / "python"
    stub.write_text(STUB.format(python=sys.executable, version=version))
    stub.chmod(0o755)
    command = ["make", "test", f"PYTHON={stub}"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)  # noqa: S603 - our own command


@pytest.mark.parametrize("version", [(2, 7, 18), (3, 10, 13)])
def test_a_python_that_is_too_old_is_refused_before_anything_is_made(
    tmp_path: Path, version: tuple[int, ...]
) -> None:
    made = make(tmp_path, version)
    assert made.returncode == 2
    told = made.stderr.splitlines()[0]
    assert told.startswith(
        f"expected Python 3.11 or newer, got {tmp_path / 'python'} {version[0]}.{version[1]};"
    )
    assert "PYTHON=python3.12" in told
    assert not (tmp_path / ".venv").exists()


@pytest.mark.parametrize("version", [(3, 11, 0), (3, 12, 1)])
def test_another_python_can_be_named(tmp_path: Path, version: tuple[int, ...]) -> None:
    made = make(tmp_path, version)
    assert "unexpected: -m venv .venv" in made.stderr
    assert "expected Python" not in made.stderr


def test_what_it_runs_is_there() -> None:
    text = (CHECKOUT / "Makefile").read_text()
    named = set(re.findall(r"/python -m ((?:gateway|tests)[\w.]*)", text))
    assert {"tests.benchmarks", "tests.supply.sbom"} <= named
    places = {name: CHECKOUT / name.replace(".", "/") for name in named}
    assert not {
        name
        for name, place in places.items()
        if not ((place / "__main__.py").exists() or place.with_suffix(".py").exists())
    }


def test_its_targets_are_no_files() -> None:
    text = (CHECKOUT / "Makefile").read_text()
    targets = re.findall(r"^([a-z-]+):", text, re.MULTILINE)
    assert sorted(re.findall(r"\.PHONY: (.*)", text)[0].split()) == sorted(targets)
