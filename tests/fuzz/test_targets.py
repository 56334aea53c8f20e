"""The targets of the fuzzing, on what they begin with: each takes its seeds, and has an oracle that can fail."""

from __future__ import annotations

import importlib

import pytest

from tests.fuzz import links, paths, policies, tokens
from tests.fuzz.__main__ import TARGETS


@pytest.mark.parametrize("target", TARGETS)
def test_the_seeds_are_fine(target: str) -> None:
    module = importlib.import_module(f"tests.fuzz.{target}")
    for seed in module.SEEDS:
        module.check(seed)


def test_the_oracles_can_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths, "ACCOUNTS", {"456"})
    monkeypatch.setattr(links, "rewrite", lambda body, *_: links.rewrite.__class__)
    monkeypatch.setattr(tokens, "SIGNED", b"another")
    monkeypatch.setattr(policies, "METHODS", set())
    for module in (links, tokens, policies):
        with pytest.raises((AssertionError, AttributeError)):
            for seed in module.SEEDS:
                module.check(seed)
