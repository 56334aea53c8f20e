"""Problem documents: well-formed, fixed words, and everything documented."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from gateway.core.documents import Document
from gateway.core.errors import Reason, problem
from gateway.core.messages import Representation

MEMBERS = ["type", "title", "status", "detail", "request_id"]


@pytest.mark.parametrize("reason", Reason, ids=lambda reason: reason.slug)
def test_a_problem_says_the_same_in_both_representations(reason: Reason) -> None:
    json_type, in_json = problem(reason, Representation.JSON, "a-1")
    xml_type, in_xml = problem(reason, Representation.XML, "a-1")
    assert (json_type, xml_type) == (b"application/problem+json", b"application/problem+xml")
    said = json.loads(in_json)
    assert list(said) == MEMBERS
    assert (said["type"], said["status"], said["request_id"]) == (reason.type, reason.status, "a-1")
    Document.parse(in_xml, Representation.XML, strict=True)
    elements = re.findall(r"<([a-z-]+)>([^<]*)</\1>", in_xml.decode())
    assert elements == [(name.replace("_", "-"), str(value)) for name, value in said.items()]
    assert b'xmlns="urn:ietf:rfc:7807"' in in_xml, "the namespace that RFC 9457 kept"


@pytest.mark.parametrize("reason", Reason, ids=lambda reason: reason.slug)
def test_a_reason_is_fit_for_a_label_a_uri_and_a_reader(reason: Reason) -> None:
    assert re.fullmatch(r"[a-z]+(-[a-z]+)*", reason.slug)
    assert reason.type == f"urn:chat-gateway:problem:{reason.slug}"
    assert 400 <= reason.status <= 504
    assert reason.detail.endswith(".")
    assert not re.search(r"[<>&{}%]", reason.title + reason.detail), "fixed words, nothing to escape"


def test_no_two_reasons_share_a_slug() -> None:
    assert len({reason.slug for reason in Reason}) == len(list(Reason))


def test_every_reason_is_documented_with_its_status() -> None:
    page = (Path(__file__).parents[2] / "docs" / "problems.md").read_text()
    rows = re.findall(r"^\| `([a-z-]+)` \| (\d+) \|", page, re.MULTILINE)
    assert dict(rows) == {reason.slug: str(reason.status) for reason in Reason}
