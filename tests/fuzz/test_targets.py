"""The targets of the fuzzing, on what they begin with: each takes its seeds, and each oracle can fail."""

from __future__ import annotations

import importlib
import re
from typing import Any

import pytest

from tests.fuzz.__main__ import TARGETS
from tests.fuzz.links import LINKS


def check_seeds(target: str) -> None:
    module = importlib.import_module(f"tests.fuzz.{target}")
    for seed in module.SEEDS:
        module.check(seed)


@pytest.mark.parametrize("target", TARGETS)
def test_the_seeds_are_fine(target: str) -> None:
    check_seeds(target)


@pytest.mark.parametrize(
    ("target", "name", "wrong"),
    [
        ("paths", "CANONICAL", re.compile(b"")),
        ("tokens", "SIGNED", b"what another has signed"),
        ("links", "NOBODYS", LINKS),
        ("policies", "METHODS", frozenset()),
    ],
)
def test_each_oracle_can_fail(monkeypatch: pytest.MonkeyPatch, target: str, name: str, wrong: Any) -> None:
    monkeypatch.setattr(f"tests.fuzz.{target}.{name}", wrong)
    with pytest.raises(AssertionError):
        check_seeds(target)
