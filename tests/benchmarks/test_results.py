"""Arithmetic, tables, plots and the documentation."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from tests.benchmarks import report, table
from tests.benchmarks.__main__ import arguments
from tests.benchmarks.figures import Goal, Result, percentile, ratio, rounded
from tests.benchmarks.workloads.all import WORKLOADS
from tests.benchmarks.workloads.d_bursts import Burst, worst

RESULT = Result(
    "(x) Something",
    {"gateway": {"requests/s": 75_123, "p99 ms": 1.25}, "other": {"requests/s": 60_000, "note": "late"}},
    [Goal("gateway ÷ other", "≥", 1.0, 1.25), Goal("late, in ms", "≤", 5.0, 7.0), Goal("more", "≤", 1, None)],
    ["as it was"],
)
MACHINE = {
    "processor": "A Chip 9",
    "cores": 2,
    "system": "Linux 6",
    "memory_gib": 4.0,
    "load_before": [0.1, 0.2, 0.3],
    "python": "3.11.1",
    "packages": {"uvicorn": "1.0", "aiohttp": None},
    "programs": {"nginx": "1.22", "wrk": None},
}
RESULTS = {"machine": MACHINE, "quick": False, "rounds": 5, "workloads": {"x": RESULT.document()}}


@given(st.lists(st.floats(0, 1e6), min_size=1), st.floats(0.01, 1.0))
def test_a_percentile_is_the_least_value_that_so_many_do_not_exceed(
    values: list[float], share: float
) -> None:
    found = percentile(values, share)
    assert found in values
    assert sum(value <= found for value in values) >= share * len(values) - 1e-9
    assert sum(value < found for value in values) < share * len(values)


def test_of_nothing_there_is_no_percentile() -> None:
    assert math.isnan(percentile([], 0.5))


def test_a_ratio_is_that_of_rounds() -> None:
    # The machine was half as fast in the second round: that is nobody's merit.
    assert ratio([100.0, 50.0, 110.0], [50.0, 25.0, 50.0]) == 2.0
    assert ratio([100.0], [0.0]) == math.inf


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0.0, 0.0), (123_456.7, 123_457.0), (12.345, 12.3), (0.0012345, 0.00123), (math.nan, None)],
)
def test_figures_have_the_digits_they_are_worth(value: float, shown: float | None) -> None:
    assert rounded(value) == shown


@pytest.mark.parametrize(
    ("sign", "got", "met"),
    [("≥", 1.0, True), ("≥", 0.99, False), ("≤", 1.0, True), ("≤", 1.01, False), ("≤", None, None)],
)
def test_a_goal_is_met_or_not_or_nobody_knows(sign: str, got: float | None, met: bool | None) -> None:
    assert Goal("it", sign, 1.0, got).met is met


def test_a_result_is_shown_whole() -> None:
    console = Console(record=True, width=100, file=Path("/dev/null").open("w"))  # noqa: SIM115 - see below
    with console.file:
        table.show(console, RESULT)
        shown = console.export_text()
    for text in ("(x) Something", "75,123", "late", "✓ gateway ÷ other ≥ 1: 1.25", "✗ late, in ms", "- more"):
        assert text in shown


def test_a_result_is_a_table_in_the_documentation() -> None:
    lines = table.markdown(json.loads(json.dumps(RESULT.document()))).splitlines()
    assert lines[0] == "### (x) Something"
    assert lines[2:6] == [
        "|  | requests/s | p99 ms | note |",
        "| --- | ---: | ---: | ---: |",
        "| gateway | 75,123 | 1.25 | - |",
        "| other | 60,000 | - | late |",
    ]
    assert "- ✗ late, in ms ≤ 5: 7" in lines


def test_only_what_stands_between_the_marks_is_replaced() -> None:
    text = f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n"
    once = report.written(text, RESULTS)
    assert once.startswith(f"before\n{report.BEGIN}\n")
    assert once.endswith(f"{report.END}\nafter\n")
    assert "old" not in once
    assert "2 cores of A Chip 9" in once
    assert "nginx 1.22, Python 3.11.1, uvicorn 1.0." in once
    assert report.written(once, RESULTS) == once


def test_a_text_without_marks_is_refused() -> None:
    with pytest.raises(ValueError, match="expected one"):
        report.written("nothing", RESULTS)


def test_what_did_not_run_is_named() -> None:
    said = report.section({**RESULTS, "not_run": {"Varnish": "varnishd is not installed\nmore"}})
    assert "### Not run\n\n- Varnish: varnishd is not installed\n" in said


def test_the_documentation_has_the_marks_and_every_workload() -> None:
    text = report.DOCUMENT.read_text()
    assert report.written(text, RESULTS)
    for name in WORKLOADS:
        assert f"- **({name})**" in text or f"- **{name}**" in text
        assert f"`{name}`" in text


def test_workloads_are_chosen_by_name() -> None:
    assert arguments(["--only", "c,a"]).only == ["c", "a"]
    assert arguments([]).only == list(WORKLOADS)
    with pytest.raises(SystemExit):
        arguments(["--only", "a,zzz"])


def test_of_several_bursts_the_worst_counts() -> None:
    bursts = [Burst(1, 9.0, 0), Burst(2, 3.0, 0), Burst(2, 4.0, 0)]
    assert worst(bursts) == Burst(2, 4.0, 0)
    assert str(Burst(100, 1234.5, 3)) == "100; 1,234 ms, 3 never"
    assert str(Burst(1, None, 100)) == "1; nobody, 100 never"


def test_plots_are_drawn_of_what_there_is(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="only the extra `bench` has it")
    from tests.benchmarks.plots import draw  # noqa: PLC0415

    curves = {
        f"{count:,} {kind}": {"CPU µs/request": 9.5} for kind in ("chats", "tokens") for count in (10, 1000)
    }
    curves |= {"1 client": {"CPU µs/request": 9.0}, "10 clients": {"CPU µs/request": 9.1}}
    polled = {"upstream/chat/s": 1.1, "all p99 ms": 2.0, "age p99 s": None}
    workloads = {"a": {"rows": RESULT.rows}, "curves": {"rows": curves}, "c": {"rows": {"gateway": polled}}}
    drawn = draw({"workloads": workloads}, tmp_path / "plots")
    assert {path.name for path in drawn} == {"hits.svg", "curves.svg", "polling.svg"}
    again = draw({"workloads": {"a": {"rows": RESULT.rows}}}, tmp_path / "again")
    assert [path.read_bytes() for path in again] == [(tmp_path / "plots" / "hits.svg").read_bytes()]
    assert all(path.stat().st_size < 40_000 for path in drawn)
    assert "75,123" in (tmp_path / "plots" / "hits.svg").read_text()
    assert "not measured" in (tmp_path / "plots" / "polling.svg").read_text()
