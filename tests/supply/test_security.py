"""SECURITY.md: each test it names is there, each row has one, and none of the ten risks is left out."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[2]
TEXT = (CHECKOUT / "SECURITY.md").read_text()
RISKS = (
    "Broken Object Level Authorization",
    "Broken Authentication",
    "Broken Object Property Level Authorization",
    "Unrestricted Resource Consumption",
    "Broken Function Level Authorization",
    "Unrestricted Access to Sensitive Business Flows",
    "Server Side Request Forgery",
    "Security Misconfiguration",
    "Improper Inventory Management",
    "Unsafe Consumption of APIs",
)
LINKS = sorted(set(re.findall(r"\]\(([^)#]+)", TEXT)))
TESTS = [link for link in LINKS if link.startswith("tests/")]


def rows(heading: str) -> list[list[str]]:
    section = TEXT.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    return [line.strip("| ").split(" | ") for line in section.splitlines() if line.startswith("| ")][2:]


def holds_tests(path: Path) -> bool:
    """A file with tests, or a folder with such files."""
    if path.is_dir():
        return any(map(holds_tests, path.glob("test_*.py")))
    return (
        re.search(r"^ *(async )?def test_|^[A-Z]\w+ = \w+\.TestCase$", path.read_text(), re.MULTILINE)
        is not None
    )


@pytest.mark.parametrize("link", LINKS)
def test_what_is_linked_is_there(link: str) -> None:
    assert (CHECKOUT / link).exists()


@pytest.mark.parametrize("link", TESTS)
def test_what_is_to_prove_something_holds_tests(link: str) -> None:
    assert holds_tests(CHECKOUT / link)


@pytest.mark.parametrize("heading", ["Who attacks, and what holds", "OWASP API Security Top 10 (2023)"])
def test_every_row_names_what_proves_it(heading: str) -> None:
    found = rows(heading)
    assert len(found) >= 10
    assert [row[0] for row in found if len(row) != 3 or "](tests/" not in row[2]] == []


def test_all_ten_risks_are_answered_in_order() -> None:
    named = [row[0] for row in rows("OWASP API Security Top 10 (2023)")]
    assert named == [f"**API{number}** {risk}" for number, risk in enumerate(RISKS, 1)]
