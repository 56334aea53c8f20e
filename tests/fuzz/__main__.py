"""Coverage-guided fuzzing of what reads bytes of strangers: `python -m tests.fuzz [target] [--runs N]`.

A target is a module here with `SEEDS` to begin with and `check`, which raises on bytes whose outcome is
wrong. Without a name all have their turn. A crash leaves its bytes in a file; give that file instead of
runs to see it again: `python -m tests.fuzz paths --again crash-…`. Needs atheris.
"""

from __future__ import annotations

import argparse
import importlib
import subprocess
import sys
import tempfile
from pathlib import Path

TARGETS = ("paths", "tokens", "links", "policies")
CRASHES = Path("build/fuzz")
#: What the road reads of the kind is hardly ever longer.
MAX_BYTES = 2_000


def fuzz(target: str, runs: int, seed: int) -> None:
    """Never returns: atheris ends the process."""
    atheris = importlib.import_module("atheris")
    with atheris.instrument_imports(include=["gateway.core", "gateway.identity", "gateway.config"]):
        module = importlib.import_module(f"tests.fuzz.{target}")
    CRASHES.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as corpus:
        for number, bytes_ in enumerate(module.SEEDS):
            (Path(corpus) / f"seed-{number}").write_bytes(bytes_)
        options = [f"-runs={runs}", f"-seed={seed}", f"-max_len={MAX_BYTES}", "-verbosity=0"]
        atheris.Setup([target, *options, f"-artifact_prefix={CRASHES}/", corpus], module.check)
        atheris.Fuzz()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description="Fuzz what reads bytes.")
    parser.add_argument("target", nargs="?", choices=TARGETS)
    parser.add_argument("--runs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1, help="0 takes another each time")
    parser.add_argument("--again", type=Path, help="a file with the bytes of a crash")
    said = parser.parse_args()
    if said.target is None:
        more = [f"--runs={said.runs}", f"--seed={said.seed}"]
        commands = ([sys.executable, "-m", "tests.fuzz", target, *more] for target in TARGETS)
        # Nothing but our own names and numbers is in them.
        return max(subprocess.run(command, check=False).returncode for command in commands)  # noqa: S603
    if said.again is not None:
        importlib.import_module(f"tests.fuzz.{said.target}").check(said.again.read_bytes())
        return 0
    fuzz(said.target, said.runs, said.seed)
    return 0


if __name__ == "__main__":
    sys.exit(main())
