"""The gateway describes itself to its clients, and to nobody else."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from gateway.core.paths import DESCRIPTION
from tests.openapi.ground import Ground, ground
from tests.support import PUBLIC_URL, Response, chat_path


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


def test_it_can_only_be_read(here: Ground) -> None:
    response = asked(here, "POST")
    assert (response.status, response.header("allow")) == (405, "GET, HEAD")
    assert asked(here, "POST", subject=None).status == 401


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


#: Of every message, whatever it is about.
OF_HTTP = {"cache-control", "connection", "content-length", "content-type", "date", "via"}
BODIES = {"PUT": b'{"visitorName": "Zoe"}', "POST": b'{"event": {"@type": "line", "text": "a"}}'}


@pytest.mark.parametrize(
    ("method", "rest", "fields", "status"),
    [
        ("GET", "/info", {}, "200"),
        ("HEAD", "/info", {}, "200"),
        ("GET", "/info", {"if-none-match": "*"}, "304"),
        ("GET", "/info", {"if-none-match": "*", "prefer": "wait=1"}, "304"),
        ("GET", "/info", {"authorization": "Bearer x"}, "401"),
        ("PUT", "/info/visitorName", {"content-type": "application/json"}, "2XX"),
        ("POST", "/events", {"content-type": "application/json"}, "201"),
    ],
)
def test_each_field_of_an_answer_is_described(
    here: Ground, method: str, rest: str, fields: dict[str, str], status: str
) -> None:
    body = BODIES.get(method, b"")
    path = chat_path(here.chat(), rest)
    answer = here.wait_for(lambda it: it.ask(method, path, fields, body, subject="bff"))
    assert str(answer.status).startswith(status.rstrip("X"))
    said = json.loads(asked(here, "GET").body)
    (at,) = (one for one in said["paths"] if one.endswith(f"/{{chat}}{rest}"))
    described = said["paths"][at][method.lower()]["responses"][status]
    if "$ref" in described:
        described = said["components"]["responses"][described["$ref"].rpartition("/")[2]]
    told = {name for name, _ in answer.headers}
    assert told - OF_HTTP <= {name.lower() for name in described["headers"]}
