"""What the documentation points at is there: files, headings, and metrics by their names."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[2]
PAGES = sorted(
    path.relative_to(CHECKOUT)
    for pattern in ("*.md", "docs/**/*.md", "helm/**/*.md")
    for path in CHECKOUT.glob(pattern)
)
METRICS = frozenset(
    re.findall(r"^\| `(chat_gateway_\w+)` \|", (CHECKOUT / "docs" / "metrics.md").read_text(), re.MULTILINE)
)


def text_of(page: Path) -> str:
    """Without what is quoted as it is: examples have links of their own."""
    return re.sub(r"^```.*?^```|`[^`\n]*`", "", (CHECKOUT / page).read_text(), flags=re.MULTILINE | re.DOTALL)


def links(page: Path) -> list[str]:
    return [link for link in re.findall(r"\]\(([^)\s]+)\)", text_of(page)) if "://" not in link]


def anchors(path: Path) -> set[str]:
    """What a page's headings are called in links, by GitHub's rules."""
    headings = re.findall(r"^#+ (.+)$", path.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_each_link_leads_somewhere(page: Path) -> None:
    lost = []
    for link in links(page):
        name, _, anchor = link.partition("#")
        path = CHECKOUT / page.parent / name if name else CHECKOUT / page
        if not path.exists() or (anchor and anchor not in anchors(path)):
            lost.append(link)
    assert lost == []


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_each_metric_is_one(page: Path) -> None:
    named = set(re.findall(r"\bchat_gateway_[a-z_]+[a-z]\b", (CHECKOUT / page).read_text()))
    assert named <= METRICS


def test_links_are_looked_at() -> None:
    assert "metrics.md#worth-a-look" in links(Path("docs/operations.md"))
    assert len(METRICS) > 40
