"""The gateway describes itself to its clients, and to nobody else."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from gateway.core.paths import DESCRIPTION
from tests.openapi.ground import Ground, ground
from tests.support import PUBLIC_URL, Response


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    with ground(tmp_path_factory.mktemp("ground")) as it:
        yield it


def asked(here: Ground, method: str, path: str = DESCRIPTION, *, subject: str | None = "partner") -> Response:
    return here.wait_for(lambda it: it.ask(method, path, subject=subject))


def test_a_client_gets_it(here: Ground) -> None:
    response = asked(here, "GET")
    assert (response.status, response.header("content-type")) == (200, "application/json")
    said = json.loads(response.body)
    assert said["openapi"] == "3.1.0"
    assert said["servers"] == [{"url": PUBLIC_URL}]
    assert here.do(lambda it: it.upstream_requests()) == 0


def test_a_head_is_without_it(here: Ground) -> None:
    response = asked(here, "HEAD")
    assert (response.status, response.body) == (200, b"")


@pytest.mark.parametrize(
    ("subject", "problem"), [(None, "token-missing"), ("nobody-knows", "no-client")], ids=str
)
def test_nobody_else_does(here: Ground, subject: str | None, problem: str) -> None:
    response = asked(here, "GET", subject=subject)
    assert response.problem == problem
    assert b"paths" not in response.body


@pytest.mark.parametrize(
    "path", ["/openapi", "/openapi.json/", "/OPENAPI.json", "/x/openapi.json", "/openapi.json.json"]
)
def test_only_there(here: Ground, path: str) -> None:
    assert asked(here, "GET", path).status in {400, 404}
