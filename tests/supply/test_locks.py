"""The locks: each package once, by version and hash, and no word of where it comes from."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.supply.sbom import read_lock

CHECKOUT = Path(__file__).parents[2]
PROJECT = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
EXTRAS = ("redis", "otel", "dev", "bench", "fuzz")
LOCKS: dict[str | None, Path] = {
    None: CHECKOUT / "requirements.txt",
    **{extra: CHECKOUT / f"requirements-{extra}.txt" for extra in EXTRAS},
}


def locked(extra: str | None) -> dict[str, str]:
    return {pinned.name: pinned.version for pinned in read_lock(LOCKS[extra].read_text())}


def test_every_extra_has_a_lock_and_every_lock_is_looked_at() -> None:
    assert set(PROJECT["optional-dependencies"]) == set(EXTRAS)
    assert set(CHECKOUT.glob("requirements*.txt")) == set(LOCKS.values())


@pytest.mark.parametrize("extra", LOCKS)
def test_a_lock_holds_names_versions_and_hashes_and_no_address(extra: str | None) -> None:
    text = LOCKS[extra].read_text()
    assert read_lock(text)
    assert "://" not in text


@pytest.mark.parametrize("extra", LOCKS)
def test_what_is_asked_for_is_locked_in_a_version_that_is_asked_for(extra: str | None) -> None:
    asked = [*PROJECT["dependencies"], *(PROJECT["optional-dependencies"][extra] if extra else [])]
    versions = locked(extra)
    for requirement in map(Requirement, asked):
        assert requirement.specifier.contains(versions[canonicalize_name(requirement.name)]), requirement.name


@pytest.mark.parametrize("extra", EXTRAS)
def test_what_is_tested_is_what_is_installed(extra: str) -> None:
    assert locked(None).items() <= locked(extra).items()
