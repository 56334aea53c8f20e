"""Results for the terminal and, as Markdown, for the documentation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from tests.benchmarks.figures import Figure, Result

_MET = {True: "✓", False: "✗", None: "-"}


def columns(rows: Mapping[str, Mapping[str, Figure]]) -> list[str]:
    """The names of all figures, in the order in which they first stand."""
    return list(dict.fromkeys(name for row in rows.values() for name in row))


def shown(figure: Figure) -> str:
    """A figure as people read it."""
    if figure is None:
        return "-"
    if isinstance(figure, str):
        return figure
    return f"{figure:,.0f}" if abs(figure) >= 1000 else f"{figure:g}"


def judged(goal: Mapping[str, Any]) -> str:
    """A goal in one line."""
    return f"{_MET[goal['met']]} {goal['what']} {goal['sign']} {goal['bound']:g}: {shown(goal['got'])}"


def show(console: Console, result: Result) -> None:
    """Print one result."""
    document = result.document()
    table = Table(title=document["title"], title_justify="left", title_style="bold")
    names = columns(document["rows"])
    table.add_column("")
    for name in names:
        table.add_column(name, justify="right")
    for label, row in document["rows"].items():
        table.add_row(label, *(shown(row.get(name)) for name in names))
    console.print(table)
    for line in [*map(judged, document["goals"]), *document["notes"]]:
        console.print(f"  {line}", markup=False, highlight=False)
    console.print()


def markdown(document: Mapping[str, Any]) -> str:
    """One result, as `Result.document` has it, under a heading."""
    names = columns(document["rows"])
    lines = [
        f"### {document['title']}",
        "",
        _line(["", *names]),
        _line(["---", *["---:"] * len(names)]),
        *(
            _line([label, *(shown(row.get(name)) for name in names)])
            for label, row in document["rows"].items()
        ),
    ]
    said = [*map(judged, document["goals"]), *document["notes"]]
    return "\n".join([*lines, *([""] if said else []), *(f"- {line}" for line in said), ""])


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
