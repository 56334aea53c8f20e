"""`python -m tests.supply.wheel FOLDER`: the wheel, if building it twice in two places gives equal bytes.

Only what is installed here is used: the backend runs in this environment and asks no network.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

CHECKOUT = Path(__file__).parents[2]
#: What it is made of, and beside it what must not get in.
PARTS = ("gateway", "policies", "pyproject.toml", "README.md", "LICENSE", "docs")


def copy_sources(folder: Path) -> Path:
    """A checkout without its history, in a folder that is made for it."""
    folder.mkdir(parents=True)
    for name in PARTS:
        source = CHECKOUT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, folder / name)
    return folder


def build(sources: Path, folder: Path) -> Path:
    """One wheel. Raises CalledProcessError."""
    # Unset, it is the backend's own fixed date: the same for everybody.
    environ = {name: value for name, value in os.environ.items() if name != "SOURCE_DATE_EPOCH"}
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=sources, env=environ, check=True, capture_output=True)  # noqa: S603 - our own command
    (wheel,) = folder.glob("*.whl")
    return wheel


def main(folder: Path) -> None:
    """Leaves the wheel in the folder, and says its SHA-256. Exits with 1 if there are two different ones."""
    with TemporaryDirectory() as place:
        one, other = (
            build(copy_sources(Path(place) / number), Path(place) / f"built-{number}")
            for number in ("1", "2")
        )
        if one.read_bytes() != other.read_bytes():
            raise SystemExit("the wheel: expected the same bytes of both builds, got different ones")
        folder.mkdir(parents=True, exist_ok=True)
        made = Path(shutil.copy(one, folder))
    print(f"{hashlib.sha256(made.read_bytes()).hexdigest()}  {made}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
