"""`python -m tests.benchmarks.report results.json …`: write the results into docs/benchmarks.md.

Several files are results of several runs, one after the other. Only what stands between the two marks is
replaced.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.benchmarks.table import markdown

DOCUMENT = Path(__file__).parents[2] / "docs" / "benchmarks.md"
BEGIN, END = "<!-- results: begin -->", "<!-- results: end -->"


def written(text: str, *results: Mapping[str, Any]) -> str:
    """The text with these results between its marks. Raises ValueError where it has no marks."""
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        raise ValueError(f"{DOCUMENT.name}: expected one {BEGIN} and one {END}")
    before, rest = text.split(BEGIN)
    sections = "\n".join(map(section, results))
    return f"{before}{BEGIN}\n\n{sections}\n{END}{rest.split(END)[1]}"


def section(results: Mapping[str, Any]) -> str:
    """The machine, a table for each workload, and what did not run."""
    parts = [machine(results), *(markdown(one) for one in results["workloads"].values())]
    if results.get("not_run"):
        lines = [f"- {name}: {reason.splitlines()[0]}" for name, reason in results["not_run"].items()]
        parts.append("\n".join(["### Not run", "", *lines, ""]))
    return "\n".join(parts)


def machine(results: Mapping[str, Any]) -> str:
    """What it was measured on, in a paragraph."""
    on = results["machine"]
    programs = {**on["programs"], "Python": on["python"], **on["packages"]}
    versions = ", ".join(f"{name} {number}" for name, number in programs.items() if number)
    loads = ", ".join(f"{load:g}" for load in on["load_before"])
    kind = "A quick run, which says little. " if results["quick"] else ""
    return (
        f"{kind}{on['cores']} cores of {on['processor']}, {on['memory_gib']:g} GiB, {on['system']};"
        f" load before: {loads}; {results['rounds']} rounds.\n{versions}.\n"
    )


if __name__ == "__main__":
    runs = [json.loads(Path(name).read_text()) for name in sys.argv[1:]]
    DOCUMENT.write_text(written(DOCUMENT.read_text(), *runs))
