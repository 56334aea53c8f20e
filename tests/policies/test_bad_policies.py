"""Each file or folder in `bad/` holds one mistake and says, in its first lines, what it is told for it.

A file `resource-*` stands in for resources.yaml, a file `client-*` for all clients, a folder for what it has.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from gateway.config.policies import load_policies

GOOD = Path(__file__).parents[2] / "policies"
BAD = sorted((Path(__file__).parent / "bad").iterdir())


def build(bad: Path, folder: Path) -> None:
    shutil.copytree(GOOD, folder, ignore=shutil.ignore_patterns("clients") if "client" in bad.name else None)
    if bad.is_dir():
        shutil.copytree(bad, folder, dirs_exist_ok=True)
    elif bad.name.startswith("client"):
        (folder / "clients").mkdir()
        shutil.copy(bad, folder / "clients" / "client.yaml")
    else:
        shutil.copy(bad, folder / "resources.yaml")


def expected_of(bad: Path) -> list[str]:
    files = sorted(path for path in bad.rglob("*") if path.is_file()) if bad.is_dir() else [bad]
    lines = [line for path in files for line in path.read_text().splitlines()]
    return [line.removeprefix("# expect: ") for line in lines if line.startswith("# expect: ")]


def test_the_fixtures_were_found() -> None:
    assert len(BAD) > 50


@pytest.mark.parametrize("bad", BAD, ids=lambda path: path.stem)
def test_a_bad_file_gets_exactly_the_message_it_expects(bad: Path, tmp_path: Path) -> None:
    build(bad, tmp_path / "policies")
    policies, mistakes = load_policies(
        tmp_path / "policies",
        frozenset({"123"}),
        frozenset({"https://issuer.example", "https://naming.example"}),
        1,
        named_by={"https://naming.example": "azp"},
    )
    assert [str(mistake) for mistake in mistakes] == expected_of(bad) != []
    assert (policies is None) == any(mistake.severity == "error" for mistake in mistakes)
