"""`policies/tests/`: those we ship hold, each mistake in one is told, and each expectation can fail."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from gateway.config.checking import check
from gateway.config.documents import read, read_file
from gateway.config.load import load
from gateway.config.policies import load_policies
from gateway.config.policy_tests import (
    OUTCOMES,
    RULED,
    CaseRow,
    ExpectRow,
    PolicyTest,
    decide,
    read_tests,
    run_tests,
)
from gateway.config.schema import schemas
from gateway.core.errors import Reason
from gateway.core.policy import Policies
from gateway.demo.stage import set_stage

SHIPPED = Path(__file__).parents[2] / "policies"
SCHEMA = Draft202012Validator(json.loads(schemas()["tests.schema.json"]))
ISSUER = "https://issuer.example"

GOOD = """\
tests:
  t:
    claims: {iss: "https://issuer.example", sub: partner}
    request: GET /api/account/123/chat/H1-2K3/info
    expect: {outcome: allow, rule: partner/allow/chat:read}
"""

VISITOR = """\
clients:
  visitor:
    match: {iss: "https://visitors.example"}
    accounts: ["123"]
    chats: {claim: chat}
    allow: [chat:read]
    deny: [events]
"""

TWINS = """\
clients:
  one:
    match: {iss: "https://twins.example"}
    accounts: "*"
    allow: [chat:read]
  two:
    match: {iss: "https://twins.example", sub: two}
    accounts: "*"
    allow: [account:read]
"""


@pytest.fixture(scope="module")
def policies(tmp_path_factory: pytest.TempPathFactory) -> Policies:
    """Those we ship, and a visitor and two that one token can match."""
    folder = tmp_path_factory.mktemp("own") / "policies"
    shutil.copytree(SHIPPED, folder)
    (folder / "clients" / "visitor.yaml").write_text(VISITOR)
    (folder / "clients" / "twins.yaml").write_text(TWINS)
    return read_policies(folder)


def read_policies(folder: Path) -> Policies:
    policies, mistakes = load_policies(folder, None, None, 1)
    assert policies is not None, mistakes
    return policies


def case(claims: dict[str, object], request: str, expect: dict[str, object], **more: str) -> PolicyTest:
    said = {"tests": {"t": {"claims": claims, "request": request, "expect": expect, **more}}}
    document, _ = read(json.dumps(said).encode(), "t.yaml")
    row = check(CaseRow, document, ("tests", "t"), {})
    assert isinstance(row, CaseRow), row
    return PolicyTest("t.yaml", 3, "t", row)


# -- those we ship -----------------------------------------------------------------------------------------


def test_what_we_ship_is_as_we_say_and_no_rule_of_it_goes_untested() -> None:
    tests, mistakes = read_tests(SHIPPED)
    ran = run_tests(tests, read_policies(SHIPPED))
    assert (mistakes, ran.failures, ran.untouched) == ((), (), ())
    assert len(tests) > 30


@pytest.mark.parametrize("path", sorted((SHIPPED / "tests").iterdir()), ids=lambda path: path.name)
def test_the_files_we_ship_fit_their_schema_and_tell_editors_of_it(path: Path) -> None:
    assert path.read_text().splitlines()[0] == "# yaml-language-server: $schema=../schema/tests.schema.json"
    SCHEMA.validate(read_file(path, path.name)[0].data)


def test_a_gateway_that_names_them_reads_no_test_as_a_policy(tmp_path: Path) -> None:
    folder = tmp_path / "policies"
    shutil.copytree(SHIPPED, folder)
    (folder / "tests" / "broken.yaml").write_text("clients: {")
    assert read_policies(folder) == read_policies(SHIPPED)


# -- mistakes ----------------------------------------------------------------------------------------------

# What of GOOD, replaced by what; what is told of line 1, 2, ...; whether a schema sees it too.
NO_ISSUER = 'iss: "https://issuer.example", '
NO_MAP = "tests: expected a map with at least one test, got"
NO_REQUEST = "tests.t.request: expected a method and a path, as GET /api/account/123/chat/H1-2K3/info, got"
A_FIELD = "expected a field that the upstream is known to send"
NO_RULE = "expected no such key, as no rule says no-client"
AFTER_NO_CLIENT = "expected no such key, as nothing is shown after no-client, got a list"


@pytest.mark.parametrize(
    ("old", "new", "told", "is_seen"),
    [
        ("tests:", "tsets:", [f"1: {NO_MAP} nothing", "1: tsets: expected tests, got tsets"], True),
        (GOOD, "tests: {}", [f"1: {NO_MAP} an empty one"], True),
        (GOOD, "tests: [a]", [f"1: {NO_MAP} a list"], True),
        (GOOD, "", [f"1: {NO_MAP} nothing"], True),
        ("  t:", '  "":', ["2: tests.'': expected a name of 1 to 120 printable characters, got ''"], True),
        (
            "{" + NO_ISSUER + "sub: partner}",
            "partner",
            ["3: tests.t.claims: expected a map of claims, iss among them, got 'partner'"],
            True,
        ),
        (NO_ISSUER, "", ["3: tests.t.claims.iss: expected a text, got nothing"], True),
        ('"https://issuer.example"', "3", ["3: tests.t.claims.iss: expected a text, got 3"], True),
        (
            "request:",
            "reqeust:",
            [
                "2: tests.t.request: expected a value, got nothing",
                "4: tests.t.reqeust: expected request, got reqeust",
            ],
            True,
        ),
        ("GET ", "get ", [f"4: {NO_REQUEST} 'get /api/account/123/chat/H1-2K3/info'"], True),
        ("GET ", "", [f"4: {NO_REQUEST} '/api/account/123/chat/H1-2K3/info'"], True),
        ("/info", "/info x", [f"4: {NO_REQUEST} 'GET /api/account/123/chat/H1-2K3/info x'"], True),
        ("/info", "/ä", [f"4: {NO_REQUEST} 'GET /api/account/123/chat/H1-2K3/ä'"], True),
        (
            "    expect",
            "    accept: 3\n    expect",
            ["5: tests.t.accept: expected the value of an Accept field, got 3"],
            True,
        ),
        (
            "    expect",
            "    client:\n    expect",
            ["5: tests.t.client: expected the name of a client, got nothing"],
            True,
        ),
        (
            "outcome: allow",
            "outcome: yes-please",
            [f"5: tests.t.expect.outcome: expected one of {', '.join(OUTCOMES)}, got 'yes-please'"],
            True,
        ),
        ("outcome: allow, ", "", ["5: tests.t.expect.outcome: expected a value, got nothing"], True),
        (
            ", rule: partner/allow/chat:read",
            "",
            ["5: tests.t.expect.rule: expected the rule that says allow, got nothing"],
            False,
        ),
        (
            "outcome: allow",
            "outcome: no-client",
            [f"5: tests.t.expect.rule: {NO_RULE}, got partner/allow/chat:read"],
            False,
        ),
        (
            "outcome: allow, rule: partner/allow/chat:read",
            "outcome: no-client, shows: [state], hides: [by]",
            [
                f"5: tests.t.expect.hides: {AFTER_NO_CLIENT}",
                f"5: tests.t.expect.shows: {AFTER_NO_CLIENT}",
            ],
            False,
        ),
        (
            "rule: partner/allow/chat:read",
            "rule: partner",
            ["5: tests.t.expect.rule: expected a rule as partner/allow/chat:read, got 'partner'"],
            True,
        ),
        (
            "read}",
            "read, shows: []}",
            ["5: tests.t.expect.shows: expected at least one entry, got none"],
            True,
        ),
        (
            "read}",
            "read, hides: [by, by]}",
            ["5: tests.t.expect.hides.1: expected each entry once (first as number 1), got it again"],
            True,
        ),
        (
            "read}",
            "read, hides: [visitorname]}",
            [f"5: warning: tests.t.expect.hides.0: {A_FIELD} (perhaps visitorName), got 'visitorname'"],
            False,
        ),
    ],
)
def test_each_mistake_is_told_with_its_place(
    tmp_path: Path, old: str, new: str, told: list[str], is_seen: bool
) -> None:
    text = GOOD.replace(old, new)
    assert text != GOOD
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "t.yaml").write_text(text)
    _, mistakes = read_tests(tmp_path, "policies/")
    assert [str(mistake) for mistake in mistakes] == [f"policies/tests/t.yaml:{line}" for line in told]
    assert SCHEMA.is_valid(read(text.encode(), "t.yaml")[0].data) is not is_seen


def test_what_is_no_yaml_is_told_once(tmp_path: Path) -> None:
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "t.yaml").write_text("tests: {\n")
    _, (mistake,) = read_tests(tmp_path)
    assert str(mistake).startswith("tests/t.yaml:2: expected well-formed YAML, got this: ")


@pytest.mark.parametrize(
    ("files", "told"),
    [
        (None, ["policies/tests: expected a readable folder, got no such file or directory"]),
        ([], ["policies/tests: expected a file *.yaml with a test, got none"]),
        (["README.md", ".hidden.yaml"], ["policies/tests: expected a file *.yaml with a test, got none"]),
        (["a.yml"], ["policies/tests/a.yml: expected a name that ends in .yaml, got .yml"]),
    ],
)
def test_no_tests_are_a_mistake(tmp_path: Path, files: list[str] | None, told: list[str]) -> None:
    if files is not None:
        (tmp_path / "tests").mkdir()
        for name in files:
            (tmp_path / "tests" / name).write_text(GOOD)
    tests, mistakes = read_tests(tmp_path, "policies/")
    assert (tests, [str(mistake) for mistake in mistakes]) == ((), told)


def test_outcomes_are_those_of_the_gateway() -> None:
    assert set(OUTCOMES) - {"allow"} <= {reason.slug for reason in Reason}


# -- decisions ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("claims", "request_line", "outcome", "rule"),
    [
        ({"chat": "H1-2K3"}, "GET /api/account/123/chat/H1-2K3/info", "allow", "visitor/allow/chat:read"),
        ({"chat": "H1-2K3"}, "GET /api/account/123/chat/H1-9K9/info", "chat-denied", "visitor/chats"),
        ({}, "GET /api/account/123/chat/H1-2K3/info", "chat-denied", "visitor/chats"),
        (
            {"chat": "H1-2K3"},
            "GET /api/account/123/chat/H1-2K3/events",
            "action-denied",
            "visitor/deny/events",
        ),
        ({"chat": "H1-2K3"}, "GET /api/account/9/chat/H1-2K3", "account-denied", "visitor/accounts"),
        ({"chat": "H1-2K3"}, "GET /api/account/123.json", "action-denied", "visitor/default-deny"),
        ({}, "GET /somewhere/else", "unknown-resource", None),
        ({}, "GET /", "unknown-resource", None),
    ],
)
def test_what_is_decided_for_a_visitor(
    policies: Policies, claims: dict[str, object], request_line: str, outcome: str, rule: str | None
) -> None:
    said = {"iss": "https://visitors.example", **claims}
    test = case(said, request_line, {"outcome": "no-client"})
    decision = decide(test.row, policies)
    assert (decision.outcome, decision.rule) == (outcome, rule)
    assert decision.client is not None
    assert decision.client.name == "visitor"


@pytest.mark.parametrize(
    ("more", "outcome"),
    [({}, "ambiguous"), ({"client": "one"}, "allow"), ({"client": "nobody"}, "no-client")],
)
def test_a_token_may_name_its_client(policies: Policies, more: dict[str, str], outcome: str) -> None:
    claims: dict[str, object] = {"iss": "https://twins.example", "sub": "two"}
    test = case(claims, "GET /api/account/1/chat/H1-2K3", {"outcome": "no-client"}, **more)
    assert decide(test.row, policies).outcome == outcome


@pytest.mark.parametrize(
    ("client_claim", "claims", "client", "outcome"),
    [
        (None, {"azp": "one"}, "one", "ambiguous"),
        ("azp", {"azp": "one"}, None, "allow"),
        ("azp", {"azp": "nobody"}, "one", "no-client"),
        ("azp", {}, "one", "allow"),
        ("azp", {}, None, "no-client"),
    ],
)
def test_with_settings_the_issuer_says_whether_tokens_name_clients(
    tmp_path: Path, client_claim: str | None, claims: dict[str, object], client: str | None, outcome: str
) -> None:
    issuer = {"issuer": "https://twins.example", "audience": "a"}
    keys = {"jwks": "jwks.json", "algorithms": ["ES256"]}
    named = {} if client_claim is None else {"client_claim": client_claim}
    stage = set_stage(
        tmp_path,
        listen="127.0.0.1:0",
        admin_listen="127.0.0.1:0",
        public_url="http://127.0.0.1:8080",
        upstream_url="http://127.0.0.1:9100",
        app_key="key",
        issuers=[issuer | keys | named],
    )
    clients = tmp_path / "policies" / "clients"
    for path in clients.iterdir():
        path.unlink()
    (clients / "twins.yaml").write_text(TWINS)
    loaded = load(stage.config, {})
    assert loaded.settings is not None
    assert loaded.policies is not None
    said = {"iss": "https://twins.example", "sub": "two", **claims}
    more = {} if client is None else {"client": client}
    test = case(said, "GET /api/account/123/chat/H1-2K3", {"outcome": "no-client"}, **more)
    assert decide(test.row, loaded.policies, loaded.settings).outcome == outcome
    elsewhere = case(said, "GET /api/account/9/chat/H1-2K3", {"outcome": "no-client"}, **more)
    assert decide(elsewhere.row, loaded.policies, loaded.settings).outcome == (
        "unknown-resource" if outcome == "allow" else outcome
    )


def test_accept_counts(policies: Policies) -> None:
    claims: dict[str, object] = {"iss": ISSUER, "sub": "bff"}
    outcomes = []
    for path, accept in [
        ("conversation.json", "application/json"),
        ("chat/request", "application/xml"),
        ("chat/request", "text/html"),
    ]:
        test = case(claims, f"POST /api/account/1/{path}", {"outcome": "no-client"}, accept=accept)
        outcomes.append(decide(test.row, policies).outcome)
    assert outcomes == ["allow", "allow", "not-acceptable"]


# -- failures ----------------------------------------------------------------------------------------------

PARTNER: dict[str, object] = {"iss": ISSUER, "sub": "partner"}
INFO = "GET /api/account/123/chat/H1-2K3/info"
ALLOWED: dict[str, object] = {"outcome": "allow", "rule": "partner/allow/chat:read"}


@pytest.mark.parametrize(
    ("expect", "told"),
    [
        (ALLOWED | {"client": "partner", "shows": ["state"], "hides": ["visitorName"]}, []),
        (
            {"outcome": "action-denied", "rule": "partner/default-deny"},
            ["expected action-denied by partner/default-deny, got allow by partner/allow/chat:read"],
        ),
        (
            ALLOWED | {"rule": "partner/allow/info"},
            ["expected allow by partner/allow/info, got allow by partner/allow/chat:read"],
        ),
        ({"outcome": "no-client"}, ["expected no-client, got allow by partner/allow/chat:read"]),
        (ALLOWED | {"client": "bff"}, ["expected client bff, got partner"]),
        (
            ALLOWED | {"shows": ["state", "text"], "hides": ["by", "time"]},
            [
                "expected text shown to partner, got it withheld",
                "expected time withheld from partner, got it shown",
            ],
        ),
    ],
)
def test_what_is_not_as_expected_is_told(
    policies: Policies, expect: dict[str, object], told: list[str]
) -> None:
    ran = run_tests([case(PARTNER, INFO, expect)], policies)
    assert [str(failure) for failure in ran.failures] == [f"t.yaml:3: t: {line}" for line in told]


def test_nobody_is_no_client(policies: Policies) -> None:
    ran = run_tests([case({"iss": "x"}, INFO, ALLOWED | {"client": "partner", "shows": ["by"]})], policies)
    assert [str(failure) for failure in ran.failures] == [
        "t.yaml:3: t: expected allow by partner/allow/chat:read, got no-client",
        "t.yaml:3: t: expected client partner, got none",
    ]


def test_clients_and_rules_that_no_test_meets_are_told(policies: Policies) -> None:
    visitor: dict[str, object] = {"iss": "https://visitors.example", "chat": "H1-2K3"}
    ran = run_tests([case(PARTNER, INFO, ALLOWED), case(visitor, INFO, ALLOWED)], policies, None, "p/")
    assert [str(warning) for warning in ran.untouched] == [
        f"p/tests: warning: {name}: expected a test that meets it, got none"
        for name in (
            *("bff", "internal", "partner/deny/exitSurvey", "one", "two"),
            *("visitor/deny/events", "visitor/accounts", "visitor/chats"),
        )
    ]


def test_each_ruled_outcome_names_a_rule() -> None:
    assert {"allow", "account-denied", "action-denied", "chat-denied", "field-denied"} == set(RULED)


def test_every_key_of_a_test_is_documented_with_the_outcomes() -> None:
    text = (SHIPPED.parent / "docs" / "policies.md").read_text().split("\n## Policy tests\n")[1]
    section = text.split("\n## ")[0]
    keys = [name for name in CaseRow.model_fields if name != "expect"]
    keys += [f"expect.{name}" for name in ExpectRow.model_fields]
    assert re.findall(r"^\| `([a-z.]+)` \|", section, re.MULTILINE) == keys
    (row,) = re.findall(r"^\| `expect.outcome`.*$", section, re.MULTILINE)
    assert set(OUTCOMES) == set(re.findall("`([a-z-]+)`", row))
    example = section.split("```yaml\n")[1].split("```")[0]
    document, mistakes = read(example.encode(), "example.yaml")
    assert mistakes == []
    SCHEMA.validate(document.data)
