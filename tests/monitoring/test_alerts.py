"""What Prometheus and Grafana are given: rules that ring when they should, about what there is."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from gateway.observe.metrics import Metrics
from tests.chart.rendering import CHART

ROOT = CHART.parents[1]
RULES = CHART / "files" / "alerts.yaml"
PROMTOOL = shutil.which("promtool")
ALERTS: list[dict[str, Any]] = [
    rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]
]
NAMES = [alert["alert"] for alert in ALERTS]
DASHBOARD: dict[str, Any] = json.loads((CHART / "files" / "dashboard.json").read_text())
#: What all Prometheus clients tell of their process.
PROCESS = {
    "process_open_fds",
    "process_max_fds",
    "process_cpu_seconds_total",
    "process_resident_memory_bytes",
}
_NAME = re.compile(r"\b(?:chat_gateway|process)_[a-z_]+")
_ENDING = re.compile(r"_(total|bucket|count|sum)$")


@pytest.mark.skipif(PROMTOOL is None, reason="promtool is not installed (Debian: prometheus)")
@pytest.mark.parametrize(
    "arguments",
    [("check", "rules", str(RULES)), ("test", "rules", str(Path(__file__).parent / "alerts.yaml"))],
)
def test_prometheus_finds_them_good(arguments: tuple[str, ...]) -> None:
    done = subprocess.run(  # noqa: S603 - our own files
        [str(PROMTOOL), *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_each_alert_is_tried_when_it_should_ring_and_when_not() -> None:
    tests = yaml.safe_load((Path(__file__).parent / "alerts.yaml").read_text())["tests"]
    tried = [one for test in tests for one in test["alert_rule_test"]]
    assert {one["alertname"] for one in tried if "exp_alerts" in one} == set(NAMES)
    assert {one["alertname"] for one in tried if "exp_alerts" not in one} == set(NAMES)


def families() -> set[str]:
    return {f"chat_gateway_{family.name}" for family in Metrics().families()} | PROCESS


def expressions() -> Iterator[tuple[str, str]]:
    for alert in ALERTS:
        yield alert["alert"], alert["expr"]
    for panel in DASHBOARD["panels"]:
        for target in panel.get("targets", ()):
            yield f"{panel['title']}: {target['legendFormat']}", target["expr"]


@pytest.mark.parametrize(("where", "expr"), list(expressions()), ids=lambda part: part[:40].replace(" ", "-"))
def test_what_is_asked_for_is_there(where: str, expr: str, known: set[str]) -> None:
    asked = _NAME.findall(expr)
    assert asked, where
    for name in asked:
        assert name in known or _ENDING.sub("", name) in known, f"{where}: there is no {name}"


@pytest.fixture(scope="module")
def known() -> set[str]:
    documented = set(re.findall(r"`(chat_gateway_[a-z_]+)`", (ROOT / "docs" / "metrics.md").read_text()))
    return families() | {_ENDING.sub("", name) for name in documented}


@pytest.mark.parametrize("name", NAMES)
def test_each_alert_has_its_page(name: str) -> None:
    page = (ROOT / "docs" / "operations.md").read_text()
    assert f"\n### {name}\n" in page


def test_there_is_no_page_of_another() -> None:
    page = (ROOT / "docs" / "operations.md").read_text()
    assert re.findall(r"^### (ChatGateway\w+)$", page, re.MULTILINE) == NAMES, "in the same order"


def test_somebody_is_woken_for_few_things() -> None:
    severities = [alert["labels"]["severity"] for alert in ALERTS]
    assert set(severities) == {"page", "ticket"}
    assert severities == sorted(severities), "what wakes somebody comes first"


def test_no_panel_lies_over_another() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken, panel["title"]
        assert at["x"] + at["w"] <= 24
        taken |= cells
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
