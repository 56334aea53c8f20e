"""What the stage switches on in the policies that come with the package."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.config.policies import load_policies
from gateway.demo.stage import ACCOUNT, ISSUER, set_stage


@pytest.mark.parametrize(
    ("switched", "expected"), [(False, set()), (True, {"visitorName", "visitorTyping", "agentTyping"})]
)
def test_fields_of_info_are_answered_from_it_where_that_is_switched_on(
    tmp_path: Path, switched: bool, expected: set[str]
) -> None:
    set_stage(
        tmp_path,
        listen="127.0.0.1:0",
        admin_listen="127.0.0.1:0",
        public_url="http://gateway.example",
        upstream_url="http://127.0.0.1:1",
        app_key="key",
        from_info=switched,
    )
    policies, mistakes = load_policies(tmp_path / "policies", frozenset({ACCOUNT}), frozenset({ISSUER}), 1)
    assert mistakes == ()
    assert policies is not None
    assert {row.name for row in policies.resources if row.from_info} == expected
