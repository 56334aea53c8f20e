"""Plots for the README and the documentation, as small SVG files."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

OURS, THEIRS, LIMIT = "#0b6e4f", "#a9b4bd", "#dfe4e8"
LINES = ("#0b6e4f", "#c8553d", "#3d5a80")
_LOOK = {
    # Text stays text: smaller files, and fonts of the reader's own.
    "svg.fonttype": "none",
    "svg.hashsalt": "chat-gateway",
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#67727c",
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "xtick.color": "#67727c",
    "ytick.color": "#22282d",
}
Rows = Mapping[str, Mapping[str, Any]]


def draw(document: Mapping[str, Any], folder: Path) -> list[Path]:
    """Draw what the results have figures for; returns the files. The folder is made if it is not there."""
    folder.mkdir(parents=True, exist_ok=True)
    drawn = []
    with mpl.rc_context(_LOOK):
        for name, (workload, plot) in PLOTS.items():
            if workload in document["workloads"]:
                path = folder / f"{name}.svg"
                figure = plot(document["workloads"][workload]["rows"])
                # Without a date, equal results are equal files.
                figure.savefig(path, metadata={"Date": None})
                drawn.append(path)
    return drawn


def hits(rows: Rows) -> Any:
    """(a): requests a second, the fastest on top."""
    figure = Figure(figsize=(7.2, 0.36 * len(rows) + 0.9), layout="constrained")
    axes = figure.add_subplot()
    fastest_last = sorted(rows, key=lambda name: rows[name]["requests/s"])
    _bars(axes, fastest_last, [rows[name]["requests/s"] for name in fastest_last])
    axes.set_title("Hits of one chat: requests a second on one core")
    return figure


def polling(rows: Rows) -> Any:
    """(c): what the upstream, those who wait and those who read get of it, side by side."""
    figure = Figure(figsize=(9.6, 0.36 * len(rows) + 1.0), layout="constrained")
    panels = {
        "upstream/chat/s": "upstream requests\na chat and second",
        "all p99 ms": "latency, p99 in ms",
        "age p99 s": "age, p99 in s",
    }
    names = list(rows)[::-1]
    for number, (column, title) in enumerate(panels.items()):
        axes = figure.add_subplot(1, len(panels), number + 1)
        _bars(axes, names, [rows[name][column] for name in names])
        axes.set_title(title)
        if number:
            axes.set_yticklabels([])
    return figure


def curves(rows: Rows) -> Any:
    """The processor time of a hit as things grow."""
    figure = Figure(figsize=(5.4, 3.0), layout="constrained")
    axes = figure.add_subplot()
    for kind, colour in zip(("chats", "tokens", "clients"), LINES, strict=True):
        points = [(count, row["CPU µs/request"]) for count, row in counted(rows, kind)]
        axes.plot(*zip(*points, strict=True), color=colour, marker="o", markersize=4, label=kind)
    axes.set_xscale("log")
    axes.set_ylim(bottom=0)
    axes.set_title("Processor time of a hit in µs, as things grow")
    axes.legend(frameon=False)
    return figure


def counted(rows: Rows, kind: str) -> list[tuple[int, Mapping[str, Any]]]:
    """Those rows that say how many there were of a kind, with the number."""
    split = ((label.split(" ", 1), row) for label, row in rows.items())
    return [(int(count.replace(",", "")), row) for (count, what), row in split if what in {kind, kind[:-1]}]


def _bars(axes: Any, names: list[str], values: list[float | None]) -> None:
    bars = axes.barh(
        names, [value or 0.0 for value in values], color=[colour(name) for name in names], height=0.66
    )
    axes.bar_label(bars, [_label(value) for value in values], padding=3)
    axes.set_xticks([])
    axes.spines["bottom"].set_visible(False)
    axes.margins(x=0.18)


def _label(value: float | None) -> str:
    # What was not measured must not look like nothing at all.
    if value is None:
        return "not measured"
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def colour(name: str) -> str:
    """Ours stands out; what is no competitor stands back."""
    if name.startswith("gateway"):
        return OURS
    return LIMIT if "return" in name else THEIRS


#: File → the workload and how it is drawn.
PLOTS: Mapping[str, tuple[str, Callable[[Rows], Any]]] = {
    "hits": ("a", hits),
    "polling": ("c", polling),
    "curves": ("curves", curves),
}
