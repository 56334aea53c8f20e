"""`make bench`, or `python -m tests.benchmarks`: run the workloads; print a table, write JSON, draw plots.

See docs/benchmarks.md for what they are. A timing is never a test: this ends with 0 whatever came out.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from tests.benchmarks.ground import QUICK, Scale, ground
from tests.benchmarks.machine import describe
from tests.benchmarks.processes import DidNotStart
from tests.benchmarks.table import show
from tests.benchmarks.workloads.all import WORKLOADS


def arguments(words: Sequence[str]) -> argparse.Namespace:
    """What is asked for on the command line; ends the process where that is nothing known."""
    parser = argparse.ArgumentParser(prog="make bench", description="The gateway beside the best.")
    parser.add_argument("--quick", action="store_true", help="short runs: to see that it works")
    parser.add_argument("--only", type=_chosen, default=list(WORKLOADS), help=", ".join(WORKLOADS))
    parser.add_argument("--rounds", type=int, help="measurements of each server")
    parser.add_argument("--long", action="store_true", help="also what takes a quarter of an hour and more")
    parser.add_argument("--json", type=Path, help="where the results go as JSON")
    parser.add_argument("--plots", type=Path, help="folder for the plots, as SVG")
    return parser.parse_args(words)


def _chosen(names: str) -> list[str]:
    chosen = names.split(",")
    if unknown := [name for name in chosen if name not in WORKLOADS]:
        raise argparse.ArgumentTypeError(f"expected some of {', '.join(WORKLOADS)}, got {', '.join(unknown)}")
    return chosen


def main(words: Sequence[str]) -> None:
    """Run what is asked for."""
    asked = arguments(words)
    scale = replace(QUICK if asked.quick else Scale(), long=asked.long)
    if asked.rounds:
        scale = replace(scale, rounds=asked.rounds)
    # A terminal has its own width; a file none.
    console = Console() if sys.stdout.isatty() else Console(width=160)
    document: dict[str, Any] = {
        "machine": describe(),
        "quick": scale.quick,
        "rounds": scale.rounds,
        "workloads": {},
    }
    if asked.json:
        asked.json.parent.mkdir(parents=True, exist_ok=True)
    try:
        with ground() as site:
            for name in asked.only:
                console.print(f"[dim]{name} ...[/]")
                result = WORKLOADS[name](site, scale)
                show(console, result)
                document["workloads"][name] = result.document()
                document["not_run"] = site.not_run
                if asked.json:
                    # After each: whoever stops half-way has the half.
                    asked.json.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n")
    except DidNotStart as error:
        sys.exit(str(error))
    for name, reason in site.not_run.items():
        console.print(f"not run: {name}: {reason}", style="yellow", markup=False)
    if asked.plots:
        from tests.benchmarks.plots import draw  # noqa: PLC0415 - matplotlib takes a second

        draw(document, asked.plots)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except KeyboardInterrupt:
        sys.exit(130)
