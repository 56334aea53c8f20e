"""`policies/` as values: the files we ship, the patterns, and clients that overlap."""

from __future__ import annotations

import json
import shutil
from functools import cache
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gateway.config.mistakes import Mistake
from gateway.config.policies import PATTERNS, load_policies
from gateway.core.access import Claims, admit
from gateway.core.errors import Refusal
from gateway.core.messages import Representation
from gateway.core.paths import Line, Target, locate
from gateway.core.policy import ACTIONS, Policies, Resource

CHAT = "H22580-0123456789abcdef0123456789abcdefK6182"
SHIPPED = Path(__file__).parents[2] / "policies"
ISSUERS = frozenset({"https://issuer.example", "https://other.example"})


def policies_of(folder: Path) -> tuple[Policies, tuple[Mistake, ...]]:
    policies, mistakes = load_policies(folder, frozenset({"123"}), ISSUERS, 7)
    assert policies is not None, mistakes
    return policies, mistakes


@cache
def shipped() -> Policies:
    return policies_of(SHIPPED)[0]


def resource(name: str) -> Resource:
    return next(row for row in shipped().resources if row.name == name)


def located(method: str, path: str, query: str = "") -> Target | Refusal:
    line = Line(method, f"/api/account/123{path}".encode(), query.encode(), b"application/json", None)
    return locate(line, shipped().resources, {"123"}, Representation.JSON)


def test_the_files_we_ship_are_without_mistakes() -> None:
    policies, mistakes = policies_of(SHIPPED)
    assert mistakes == ()
    assert policies.version == 7


# Paths and methods as the vendor's method pages list them.
@pytest.mark.parametrize(
    ("path", "methods"),
    [
        ("", "GET"),
        ("chat/availability", "GET"),
        ("chat/availableSlots", "GET"),
        ("chat/estimatedWaitTime", "GET"),
        ("chat/preSurvey", "GET"),
        ("chat/offlineSurvey", "GET PUT"),
        ("chat/request", "POST"),
        ("conversation.json", "POST"),
        ("chat/{chat}", "GET"),
        ("chat/{chat}/events", "GET POST"),
        ("chat/{chat}/events/{event}", "GET"),
        ("chat/{chat}/info", "GET"),
        ("chat/{chat}/info/visitorName", "GET PUT"),
        ("chat/{chat}/info/visitorTyping", "GET PUT"),
        ("chat/{chat}/info/agentTyping", "GET"),
        ("chat/{chat}/exitSurvey", "GET PUT"),
        ("chat/{chat}/transcriptRequest", "PUT"),
        ("chat/{chat}/transcriptWithSubjectRequest", "PUT"),
        ("chat/{chat}/customVariables", "PUT"),
    ],
)
def test_every_resource_of_the_api_is_there(path: str, methods: str) -> None:
    rows = {"/".join(row.path): row for row in shipped().resources}
    assert " ".join(sorted(rows[path].methods)) == methods
    assert len(rows) == 19


def test_info_is_cached_and_coalesced() -> None:
    info = resource("info")
    assert info.cache is not None
    assert info.cache.ttl_s == {"waiting": 1.0, "chatting": 1.0, "ended": 10.0}
    assert info.cache.stale_s == 5.0
    assert info.cache.volatile == {"lastUpdate", "duration"}
    assert info.coalesce
    assert list(info.query) == ["v", "NC"]
    assert info.representations == (Representation.JSON, Representation.XML)


@pytest.mark.parametrize("name", ["chat", "events"])
def test_chat_and_events_are_coalesced_and_not_kept(name: str) -> None:
    row = resource(name)
    assert (row.coalesce, row.cache) == (True, None)
    assert list(row.query) == ["v", "NC", "from"]


def test_nothing_else_is_kept_or_shared() -> None:
    shared = {row.name for row in shipped().resources if row.coalesce or row.cache}
    assert shared == {"info", "chat", "events"}


@pytest.mark.parametrize(
    ("method", "path", "query", "name"),
    [
        ("GET", "", "", "account"),
        ("GET", "/chat/availability", "skill=Sales%20EN&maxWaitTime=0", "availability"),
        ("GET", "/chat/preSurvey.json", "visitorIp=2001:db8::1", "preSurvey"),
        ("POST", "/chat/request", "", "request"),
        ("POST", "/conversation.json", "", "conversation"),
        ("GET", f"/chat/{CHAT}", "from=4", "chat"),
        ("GET", f"/chat/{CHAT}/events/4", "", "event"),
        ("PUT", f"/chat/{CHAT}/info/visitorName", "", "visitorName"),
    ],
)
def test_a_name_is_never_taken_for_an_id(method: str, path: str, query: str, name: str) -> None:
    target = located(method, path, query)
    assert isinstance(target, Target)
    assert target.resource.name == name


def test_names_go_before_ids_wherever_they_stand_in_the_file(tmp_path: Path) -> None:
    shutil.copytree(SHIPPED, tmp_path / "policies")
    rows = {
        "chat": {"path": "chat/{chat}", "methods": {"GET": "chat:read"}},
        "availability": {"path": "chat/availability", "methods": {"GET": "account:read"}},
    }
    (tmp_path / "policies" / "resources.yaml").write_text(json.dumps({"resources": rows}))
    resources = policies_of(tmp_path / "policies")[0].resources
    assert [row.name for row in resources] == ["availability", "chat"]


@pytest.mark.parametrize(
    ("pattern", "good", "bad"),
    [
        ("digits", ["0", "007", "9" * 18], ["", "-1", "9" * 19, "1 ", "1\n", "٣"]),
        ("seconds", ["0", "59", "9999", "79999", "86399", "86400"], ["", "86401", "90000", "100000", "-1"]),
        ("bool", ["true", "false"], ["", "True", "1"]),
        ("token", ["a", "A-b_c.9", "x" * 128], ["", "x" * 129, "a b", "a/b", "a\n"]),
        (
            "ip",
            ["10.0.0.1", "::1", "2001:db8::1", "::ffff:10.0.0.1"],
            ["", "10.0.0", "abc", "1.2.3.4.5", "a" * 46],
        ),
        (
            "text",
            ["a", "Sales EN", "äöü 聊天", "x" * 256],
            ["", "x" * 257, "a\0", "a\nb", "a\u2028b", "\x85"],
        ),
    ],
)
def test_patterns(pattern: str, good: list[str], bad: list[str]) -> None:
    assert [text for text in good if not PATTERNS[pattern].fullmatch(text)] == []
    assert [text for text in bad if PATTERNS[pattern].fullmatch(text)] == []


def test_every_whole_second_of_a_day_is_a_number_of_seconds() -> None:
    assert [n for n in range(86_500) if bool(PATTERNS["seconds"].fullmatch(str(n))) != (n <= 86_400)] == []


@pytest.mark.parametrize(
    ("client", "actions"),
    [
        ("bff", set(ACTIONS)),
        ("internal", {"account:read", "chat:read"}),
        ("partner", {"chat:read"}),
    ],
)
def test_the_clients_we_ship(client: str, actions: set[str]) -> None:
    policies, _ = policies_of(SHIPPED)
    claims = Claims({"iss": "https://issuer.example", "sub": client}, 1.0)
    allowed = set()
    for path, method in [
        ("/chat/availability", "GET"),
        ("/chat/offlineSurvey", "PUT"),
        ("/chat/request", "POST"),
        (f"/chat/{CHAT}", "GET"),
        (f"/chat/{CHAT}/events", "POST"),
    ]:
        target = located(method, path)
        assert isinstance(target, Target)
        if not isinstance(admit(claims, policies, target), Refusal):
            allowed.add(target.action)
    assert allowed == actions


CLAIMS = st.dictionaries(
    st.sampled_from(["sub", "tier", "internal"]),
    st.sampled_from(["a", "b", "1"]) | st.booleans() | st.integers(0, 1),
).filter(lambda claims: isinstance(claims.get("sub", ""), str))
MATCHES = st.builds(lambda iss, rest: {"iss": iss, **rest}, st.sampled_from(sorted(ISSUERS)), CLAIMS)


@settings(max_examples=60, deadline=None)
@given(MATCHES, MATCHES)
@example({"iss": "https://issuer.example", "tier": True}, {"iss": "https://issuer.example", "tier": 1})
def test_a_warning_means_that_one_token_matches_both(
    tmp_path_factory: pytest.TempPathFactory, one: dict[str, object], other: dict[str, object]
) -> None:
    folder = tmp_path_factory.mktemp("overlap") / "policies"
    (folder / "clients").mkdir(parents=True)
    rows = {"chat": {"path": "chat/{chat}", "methods": {"GET": "chat:read"}}}
    (folder / "resources.yaml").write_text(json.dumps({"resources": rows}))
    for name, match in (("one", one), ("other", other)):
        client = {"match": match, "accounts": "*", "allow": ["chat:read"]}
        (folder / "clients" / f"{name}.yaml").write_text(json.dumps({"clients": {name: client}}))
    policies, mistakes = policies_of(folder)
    target = located("GET", f"/chat/{CHAT}")
    assert isinstance(target, Target)
    # If any token matches both, then the one that has all claims of the one and of the other.
    token = Claims({**one, **other}, 1.0), Claims({**other, **one}, 1.0)
    ambiguous = all(isinstance(admit(claims, policies, target), Refusal) for claims in token)
    assert bool(mistakes) == ambiguous
    assert {mistake.severity for mistake in mistakes} <= {"warning"}


def test_files_that_are_not_ours_are_left_alone(tmp_path: Path) -> None:
    shutil.copytree(SHIPPED, tmp_path / "policies")
    clients = tmp_path / "policies" / "clients"
    (clients / "README.md").write_text("- not: [a client")
    # What Kubernetes puts into a mounted folder, and editors beside a file.
    (clients / "..data").mkdir()
    (clients / ".#bff.yaml").write_bytes(b"\0")
    policies, mistakes = policies_of(tmp_path / "policies")
    assert mistakes == ()
    assert len(policies.clients) == 3
