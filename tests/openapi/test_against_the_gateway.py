"""Schemathesis asks a running gateway for what its description says, and for what it rules out.

`OPENAPI_CASES` is how often each operation is tried in each way; `make openapi` tries more often.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis import Case, GenerationMode, Response
from schemathesis.checks import CheckFunction, load_all_checks
from schemathesis.core.result import Ok
from schemathesis.schemas import APIOperation
from schemathesis.specs.openapi.checks import negative_data_rejection, positive_data_acceptance

from gateway.config.policies import load_policies
from gateway.demo.stage import ACCOUNT, shipped_policies
from gateway.openapi.document import describe
from tests.openapi.ground import Ground, ground
from tests.support import PATIENCE_S, VISITOR

CASES = int(os.environ.get("OPENAPI_CASES", "2"))
#: Nobody is kept waiting, and nobody is turned away for what the checks do.
UNBOUNDED: dict[str, Any] = {
    "failed_tokens": {"per_minute": 100_000, "burst": 100_000},
    "push": {"max_wait_s": 0},
}

Operation = APIOperation[Any, Any, Any, Any]

load_all_checks()


def operations() -> list[Operation]:
    """Those of the shipped policies."""
    policies, _ = load_policies(shipped_policies(), None, None, version=1, shown_as="")
    assert policies is not None
    schema = schemathesis.openapi.from_dict(json.loads(describe(policies, "https://chat.example", 0)))
    return [result.ok() for result in schema.get_all_operations() if isinstance(result, Ok)]


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    with ground(tmp_path_factory.mktemp("ground"), **UNBOUNDED) as it:
        yield it


@pytest.mark.parametrize("somewhere", [True, False], ids=["there", "anywhere"])
@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.value)
@pytest.mark.parametrize("operation", operations(), ids=lambda operation: operation.label)
def test_answers_are_as_described(
    here: Ground, operation: Operation, mode: GenerationMode, somewhere: bool
) -> None:
    @settings(max_examples=CASES, database=None, suppress_health_check=list(HealthCheck))
    @given(
        case=operation.as_strategy(mode, path_parameters=place(here, operation) if somewhere else None),
        accept=st.sampled_from(["application/json", "application/xml"]),
        account=st.sampled_from([ACCOUNT, None]),
    )
    def each(case: Case[Any], accept: str, account: str | None) -> None:
        if account and mode is GenerationMode.POSITIVE and "account" in case.path_parameters:
            # As good as any, and the others are nobody's.
            case.path_parameters["account"] = account
        fields = {"Authorization": f"Bearer {here.token}", "accept": accept, "x-forwarded-for": VISITOR}
        response = case.call(here.url, headers=fields, timeout=PATIENCE_S)
        excluded = list(not_asked(operation, response))
        case.validate_response(response, headers=fields, excluded_checks=excluded)

    each()


def not_asked(operation: Operation, response: Response) -> Iterator[CheckFunction]:
    """The checks that have nothing to say about what was sent, or what came back."""
    if operation.body or is_sound(operation, str(response.request.url)):
        # What is made of a body is the vendor's affair. And what was wrong with a query may have got lost on
        # the way: an empty list is no parameter.
        yield negative_data_rejection
    body_is = response.headers.get("content-type", [""])[0]
    if operation.body or body_is in {"application/json", "application/xml"}:
        # So are the vendor's own refusals: the gateway's are problem documents.
        yield positive_data_acceptance


def is_sound(operation: Operation, url: str) -> bool:
    """Whether a query, as it was sent, is one that the description allows."""
    patterns = {one.name: one.definition["schema"]["pattern"] for one in operation.query}
    said = parse_qsl(urlsplit(url).query, keep_blank_values=True)
    return all(name in patterns and re.search(patterns[name], value) for name, value in said)


def place(here: Ground, operation: Operation) -> dict[str, str]:
    """Where there is something."""
    ids = {"account": ACCOUNT, "chat": here.chat(), "event": "0"}
    return {name: value for name, value in ids.items() if f"{{{name}}}" in operation.path}


def test_what_is_not_described_is_found(here: Ground) -> None:
    """A description that is wrong is told so, or the rest would prove nothing."""
    (info,) = (one for one in operations() if one.label.startswith("GET") and one.path.endswith("/info"))
    wrong = json.loads(json.dumps(info.schema.raw_schema))
    wrong["components"]["schemas"]["Info"]["properties"]["state"] = {"type": "integer"}
    operation = schemathesis.openapi.from_dict(wrong)[info.path]["GET"]
    case = operation.Case(path_parameters=place(here, operation))
    fields = {"Authorization": f"Bearer {here.token}", "accept": "application/json"}
    with pytest.raises(BaseException, match="Response violates schema"):
        case.call_and_validate(here.url, headers=fields, timeout=PATIENCE_S)
