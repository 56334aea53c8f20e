"""The policies that come with the package, for fuzzing: nothing else of the tests is needed."""

from __future__ import annotations

from gateway.config.policies import load_policies
from gateway.core.policy import Policies
from gateway.demo.stage import ISSUER, shipped_policies

ACCOUNTS = frozenset({"123", "le456"})


def _load() -> Policies:
    policies, mistakes = load_policies(shipped_policies(), ACCOUNTS, frozenset({ISSUER}), 1)
    assert policies is not None, mistakes
    return policies


POLICIES = _load()
