"""What the description says of resources, whichever an operator has, and what it must not say."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openapi_spec_validator import OpenAPIV31SpecValidator

from gateway.config.policies import PATTERNS, load_policies
from gateway.core.errors import Reason
from gateway.core.messages import Representation
from gateway.core.paths import Line, Target, locate
from gateway.core.policy import CacheRule, Policies, Resource, Streaming
from gateway.demo.stage import ACCOUNT, shipped_policies
from gateway.openapi.document import describe, document
from gateway.openapi.shapes import in_xml

URL = "https://chat.example/gate"
CHAT = "H1-0aK2"
RULE = CacheRule({"waiting": 1, "chatting": 1, "ended": 1}, 0, frozenset())
BARE = Resource(
    "info", ("chat", "{chat}", "info"), {"GET": "chat:read"}, {}, tuple(Representation), True, None
)


def shipped() -> Policies:
    policies, _ = load_policies(shipped_policies(), None, None, version=1, shown_as="")
    assert policies is not None
    return policies


def described(*resources: Resource, max_wait_s: int = 30) -> Any:
    return document(Policies(1, resources, ()), URL, max_wait_s)


def of_info(**changes: Any) -> Any:
    """The path of an info that is other than `BARE` in these."""
    (path, _) = described(replace(BARE, **changes))["paths"].values()
    return path


def named(operation: Any) -> list[str]:
    """The parameters of an operation, by their names or what they refer to."""
    return [said.get("name") or said["$ref"].rpartition("/")[2] for said in operation["parameters"]]


def test_it_is_openapi() -> None:
    said = json.loads(describe(shipped(), URL, 30))
    OpenAPIV31SpecValidator(said).validate()
    assert said["servers"] == [{"url": URL}]


def test_what_is_referred_to_is_there() -> None:
    text = describe(shipped(), URL, 30).decode()
    components = json.loads(text)["components"]
    named = set(re.findall(r'"\$ref":"#/components/(\w+)/([^"]+)"', text))
    assert len(named) > 30
    assert [(kind, name) for kind, name in named if name not in components[kind]] == []


def test_each_operation_has_an_id_of_its_own() -> None:
    paths = document(shipped(), URL, 30)["paths"].values()
    ids = [said["operationId"] for path in paths for verb, said in path.items() if verb != "parameters"]
    assert len(ids) > 30
    assert len(ids) == len(set(ids))


def test_it_names_nobody() -> None:
    policies = shipped()
    text = describe(policies, URL, 30).decode()
    assert policies.clients
    for client in policies.clients:
        assert not re.search(rf"\b{client.name}\b", text)
    assert "liveperson.net" not in text
    assert f'"{ACCOUNT}"' not in text


def test_each_problem_is_in_it() -> None:
    text = describe(shipped(), URL, 30).decode()
    types = {reason.type for reason in Reason if f'"{reason.type}"' in text}
    assert {reason.type for reason in Reason} - types == {
        Reason.CLIENT_GONE.type,
        Reason.POLICIES_CHANGED.type,
    }


def test_what_is_not_kept_has_no_etag() -> None:
    assert "304" not in of_info()["get"]["responses"]
    assert "If-None-Match" not in named(of_info()["get"])
    kept = of_info(cache=RULE)["get"]
    assert "304" in kept["responses"]
    assert "ETag" in kept["responses"]["200"]["headers"]
    assert "If-None-Match" in named(kept)


@pytest.mark.parametrize("streaming", list(Streaming))
def test_what_is_streamed_says_so(streaming: Streaming) -> None:
    streamed = of_info(cache=RULE, stream=streaming)["get"]
    assert "text/event-stream" in streamed["responses"]["200"]["content"]
    assert "204" in streamed["responses"]
    assert {"Last-Event-ID", "Prefer"} <= set(named(streamed))
    assert "event: ended" in streamed["description"]
    assert "text/event-stream" not in of_info(cache=RULE)["get"]["responses"]["200"]["content"]


def test_who_never_waits_offers_no_wait() -> None:
    (path, _) = described(replace(BARE, stream=Streaming.CHANGES), max_wait_s=0)["paths"].values()
    assert "Prefer" not in named(path["get"])


def test_a_put_may_come_as_a_post() -> None:
    path = of_info(methods={"PUT": "chat:write"})
    assert {"put", "post"} < path.keys()
    assert "X-HTTP-Method-Override" in named(path["post"])
    assert "X-HTTP-Method-Override" not in named(path["put"])


def test_a_post_of_its_own_is_no_put() -> None:
    path = of_info(methods={"POST": "chat:write", "PUT": "chat:write"})
    assert "X-HTTP-Method-Override" not in named(path["post"])


def test_one_representation_is_one() -> None:
    content = of_info(representations=(Representation.JSON,))["get"]["responses"]["200"]["content"]
    assert list(content) == ["application/json"]


def test_a_head_has_no_body() -> None:
    assert "content" not in of_info()["head"]["responses"]["200"]


@given(st.sampled_from(sorted(PATTERNS)), st.text(max_size=40) | st.integers().map(str))
def test_patterns_mean_what_the_gateway_takes(kind: str, value: str) -> None:
    """What a query may be, by the description and by the road."""
    resource = replace(BARE, query={"it": PATTERNS[kind]})
    policies = Policies(1, (resource,), ())
    (path, _) = document(policies, URL, 0)["paths"].values()
    (said,) = (one for one in path["get"]["parameters"] if one.get("name") == "it")
    # As `$` is the very end in ECMA-262.
    fits = re.search(said["schema"]["pattern"].replace("$", r"\Z"), value) is not None
    query = b"it=" + "".join(f"%{byte:02x}" for byte in value.encode("utf-8", "replace")).encode()
    line = Line("GET", f"/api/account/1/chat/{CHAT}/info".encode(), query, None, None)
    assert isinstance(locate(line, policies, {"1"}, Representation.JSON), Target) == fits


def test_xml_has_its_member_for_a_root() -> None:
    schema = {
        "type": "object",
        "properties": {
            "event": {
                "type": "object",
                "required": ["@type"],
                "properties": {"@type": {"type": "string"}, "text": {"type": "string"}},
            }
        },
    }
    assert in_xml(schema) == {
        "type": "object",
        "xml": {"name": "event"},
        "required": ["type"],
        "properties": {
            "type": {"type": "string", "xml": {"attribute": True}},
            "text": {"type": "string", "xml": {"name": "text"}},
        },
    }
