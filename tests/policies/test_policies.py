"""`policies/` as values: the files we ship, the patterns, and clients that overlap."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gateway.config.load import load
from gateway.config.mistakes import Mistake
from gateway.config.policies import PATTERNS, load_policies
from gateway.core.access import Claims, Grant, admit, identify
from gateway.core.errors import Reason, Refusal
from gateway.core.limits import UNLIMITED, Limits, Rate
from gateway.core.messages import Representation
from gateway.core.paths import Line, Target, locate
from gateway.core.policy import (
    ACTIONS,
    CacheRule,
    Client,
    Condition,
    Policies,
    Priority,
    Resource,
    Streaming,
    VisitorIp,
)
from gateway.core.views import FULL, View

CHAT = "H22580-0123456789abcdef0123456789abcdefK6182"
SHIPPED = Path(__file__).parents[2] / "policies"
GOOD = Path(__file__).parent / "good"
SETTINGS = Path(__file__).parents[1] / "config" / "good"
ISSUERS = frozenset({"https://issuer.example", "https://other.example"})


def policies_of(
    folder: Path, named_by: Mapping[str, str] | None = None
) -> tuple[Policies, tuple[Mistake, ...]]:
    policies, mistakes = load_policies(folder, frozenset({"123"}), ISSUERS, 7, named_by=named_by)
    assert policies is not None, mistakes
    return policies, mistakes


@cache
def shipped() -> Policies:
    return policies_of(SHIPPED)[0]


def resource(name: str) -> Resource:
    return next(row for row in shipped().resources if row.name == name)


def located(method: str, path: str, query: str = "") -> Target | Refusal:
    line = Line(method, f"/api/account/123{path}".encode(), query.encode(), b"application/json", None)
    return locate(line, shipped(), {"123"}, Representation.JSON)


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


def test_the_chat_is_coalesced_and_not_kept() -> None:
    row = resource("chat")
    assert (row.coalesce, row.cache, row.stream) == (True, None, None)
    assert list(row.query) == ["v", "NC", "from"]


def test_events_are_kept_for_a_second_and_told_one_by_one() -> None:
    row = resource("events")
    assert row.cache == CacheRule({"waiting": 1.0, "chatting": 1.0, "ended": 10.0}, 0.0, frozenset())
    assert row.stream is Streaming.EVENTS
    assert list(row.query) == ["v", "NC", "from"]


def test_an_info_is_told_as_it_changes() -> None:
    assert resource("info").stream is Streaming.CHANGES


def test_no_field_is_answered_from_an_info() -> None:
    assert not any(row.from_info for row in shipped().resources)


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


def nobody(_: str) -> bool:
    return False


def decided(claims: Claims, policies: Policies, target: Target | Refusal) -> Grant | Refusal:
    assert isinstance(target, Target)
    client = identify(claims, policies, nobody)
    return client if isinstance(client, Refusal) else admit(client, claims, policies, target, nobody)


@pytest.mark.parametrize(
    ("client", "actions"),
    [
        ("bff", set(ACTIONS)),
        ("internal", {"account:read", "chat:read"}),
        ("partner", {"chat:read"}),
    ],
)
def test_what_the_clients_we_ship_may_do(client: str, actions: set[str]) -> None:
    claims = Claims({"iss": "https://issuer.example", "sub": client}, 1.0)
    allowed = set()
    for path, method in [
        ("/chat/availability", "GET"),
        ("/chat/offlineSurvey", "PUT"),
        ("/chat/request", "POST"),
        (f"/chat/{CHAT}", "GET"),
        (f"/chat/{CHAT}/events", "POST"),
    ]:
        grant = decided(claims, shipped(), located(method, path))
        if isinstance(grant, Grant):
            allowed.add(grant.rule.removeprefix(f"{client}/allow/"))
    assert allowed == actions


def test_the_partner_we_ship_sees_the_state_the_typing_and_the_times() -> None:
    (partner,) = (client for client in shipped().clients if client.name == "partner")
    assert all(map(partner.view.shows, ("state", "agentTyping", "visitorTyping", "startTime", "lastUpdate")))
    assert not any(map(partner.view.shows, ("visitorName", "agentName", "text", "visitorId", "tomorrow")))
    assert partner.priority is Priority.LOW
    # More than the demo asks for: a hundred polls a second.
    assert partner.limits.requests is not None
    assert partner.limits.requests.per_s > 100


def test_the_bff_we_ship_goes_first_and_says_who_the_visitor_is() -> None:
    (bff,) = (client for client in shipped().clients if client.name == "bff")
    assert (bff.priority, bff.visitor_ip) == (Priority.HIGH, VisitorIp.FROM_FORWARDED)


def test_the_visitor_in_the_comments_of_the_bff_would_work(tmp_path: Path) -> None:
    shutil.copytree(SHIPPED, tmp_path / "policies")
    text = (SHIPPED / "clients" / "bff.yaml").read_text()
    example = text[text.index("  # visitor:") :].replace("\n  # ", "\n  ").replace("  # visitor", "  visitor")
    (tmp_path / "policies" / "clients" / "bff.yaml").write_text(f"clients:\n{example}")
    policies, mistakes = load_policies(
        tmp_path / "policies", frozenset({"123"}), ISSUERS | {"https://visitors.example"}, 7
    )
    assert mistakes == ()
    assert policies is not None
    (visitor,) = (client for client in policies.clients if client.name == "visitor")
    assert visitor.chats == "chat"


def copied(folder: Path, clients: Path | dict[str, object]) -> Path:
    """The shipped resources with other clients."""
    (folder / "clients").mkdir(parents=True)
    shutil.copy(SHIPPED / "resources.yaml", folder)
    if isinstance(clients, Path):
        shutil.copytree(clients, folder / "clients", dirs_exist_ok=True)
    else:
        (folder / "clients" / "clients.yaml").write_text(json.dumps({"clients": clients}))
    return folder


def test_everything_that_is_written_arrives(tmp_path: Path) -> None:
    policies, mistakes = policies_of(copied(tmp_path / "policies", GOOD / "clients"))
    assert mistakes == ()
    assert policies.clients == (
        Client(
            "whole",
            match=(
                Condition("iss", ("https://issuer.example", "https://other.example")),
                Condition("sub", ("a", "b")),
                Condition("azp", prefix="shop-"),
                Condition("tier", (1, True, "1")),
                Condition("internal", (True,)),
            ),
            accounts=frozenset({"123"}),
            allow=("chat:read", "chat:start", "POST events", "visitorName"),
            deny=("exitSurvey", "GET visitorName"),
            chats="chat",
            view=View(hide=frozenset({"agentId", "text"})),
            limits=Limits(
                requests=Rate(10, 20),
                requests_per_day=100_000,
                fetches=Rate(1.5, 1),
                in_flight=20,
                resources={
                    "events": Limits(Rate(0.5, 1), 500, Rate(2, 2), 1),
                    "info": Limits(in_flight=2),
                },
                exact=True,
            ),
            priority=Priority.HIGH,
            visitor_ip=VisitorIp.REQUIRE,
        ),
    )
    assert policies.shadows == (
        Client(
            "tried",
            match=(Condition("iss", ("https://issuer.example",)),),
            accounts=None,
            allow=("GET info",),
            view=View(show=frozenset({"state"})),
        ),
    )


def row(match: object, **more: object) -> dict[str, object]:
    return {"match": match, "accounts": "*", "allow": ["chat:read"], **more}


def test_names_go_before_ids_wherever_they_stand_in_the_file(tmp_path: Path) -> None:
    folder = copied(tmp_path / "policies", {"one": row({"iss": "https://issuer.example"})})
    rows = {
        "chat": {"path": "chat/{chat}", "methods": {"GET": "chat:read"}},
        "availability": {"path": "chat/availability", "methods": {"GET": "account:read"}},
    }
    (folder / "resources.yaml").write_text(json.dumps({"resources": rows}))
    assert [resource.name for resource in policies_of(folder)[0].resources] == ["availability", "chat"]


def test_what_is_not_written_is_without_limit_and_shows_all(tmp_path: Path) -> None:
    one = row({"iss": "https://issuer.example"})
    (client,) = policies_of(copied(tmp_path / "policies", {"one": one}))[0].clients
    assert (client.deny, client.chats, client.view, client.limits) == ((), None, FULL, UNLIMITED)
    assert (client.priority, client.visitor_ip) == (Priority.NORMAL, VisitorIp.PASS)


@pytest.mark.parametrize(
    ("written", "rate"),
    [
        ({"per_second": 7}, Rate(7, 7)),
        ({"per_minute": 59}, Rate(59 / 60, 1)),
        ({"per_minute": 600}, Rate(10, 10)),
        ({"per_second": 1, "burst": 30}, Rate(1, 30)),
        ({"per_second": 100_000, "burst": 100_000}, Rate(100_000, 100_000)),
        ({"per_minute": 6_000_000}, Rate(100_000, 100_000)),
    ],
)
def test_a_burst_is_a_second_worth_unless_it_is_said(
    tmp_path: Path, written: dict[str, int], rate: Rate
) -> None:
    one = row({"iss": "https://issuer.example"}, limits={"requests": written})
    (client,) = policies_of(copied(tmp_path / "policies", {"one": one}))[0].clients
    assert client.limits == Limits(requests=rate)


def test_a_shadow_may_stand_beside_the_client_it_is_tried_for(tmp_path: Path) -> None:
    match = {"iss": "https://issuer.example", "sub": "a"}
    rows: dict[str, object] = {
        "old": row(match),
        "new": row(match, mode="shadow"),
        "newer": row(match, mode="shadow"),
    }
    policies, mistakes = policies_of(copied(tmp_path / "policies", rows))
    assert mistakes == ()
    assert [client.name for client in policies.clients] == ["old"]
    assert [client.name for client in policies.shadows] == ["new", "newer"]


@pytest.mark.parametrize(
    ("issuers", "warned"),
    [
        (["https://issuer.example"], False),
        (["https://other.example"], True),
        (["https://issuer.example", "https://other.example"], True),
    ],
)
def test_clients_whose_issuer_names_them_do_not_overlap(
    tmp_path: Path, issuers: list[str], warned: bool
) -> None:
    match = {"iss": {"one_of": issuers}}
    rows: dict[str, object] = {"one": row(match), "other": row(match)}
    named_by = {"https://issuer.example": "azp"}
    assert bool(policies_of(copied(tmp_path / "policies", rows), named_by)[1]) == warned


@pytest.mark.parametrize(
    ("issuer", "warned"), [("https://keys.example", False), ("https://other.example", True)]
)
def test_the_settings_say_which_issuers_name_their_clients(tmp_path: Path, issuer: str, warned: bool) -> None:
    match = {"iss": issuer}
    shutil.copytree(SETTINGS, tmp_path / "good")
    copied(tmp_path / "policies", {"one": row(match), "other": row(match)})
    loaded = load(tmp_path / "good" / "gateway.yaml", {"CHAT_GATEWAY_POLICIES": "../policies"})
    assert loaded.policies is not None
    assert bool(loaded.mistakes) == warned


@pytest.mark.parametrize(("named", "warned"), [("shop", False), ("store", True)])
def test_the_settings_say_which_claim_names_a_client(tmp_path: Path, named: str, warned: bool) -> None:
    shutil.copytree(SETTINGS, tmp_path / "good")
    copied(tmp_path / "policies", {"shop": row({"iss": "https://keys.example", "azp": named})})
    loaded = load(tmp_path / "good" / "gateway.yaml", {"CHAT_GATEWAY_POLICIES": "../policies"})
    assert loaded.policies is not None
    assert [mistake.key for mistake in loaded.mistakes] == ["clients.shop.match.azp"] * warned


TEXTS = st.sampled_from(["a", "ab", "b", "1"])
VALUES = TEXTS | st.booleans() | st.integers(0, 1)


def conditions(values: st.SearchStrategy[object]) -> st.SearchStrategy[object]:
    # True equals 1 in Python, but not in a token.
    several = st.lists(values, min_size=1, max_size=3, unique_by=lambda value: (type(value), value))
    return values | st.builds(lambda chosen: {"one_of": chosen}, several)


def prefixes() -> st.SearchStrategy[object]:
    return st.builds(lambda prefix: {"prefix": prefix}, TEXTS)


ISSUER = conditions(st.sampled_from(sorted(ISSUERS)))
MATCHES = st.fixed_dictionaries(
    {"iss": ISSUER},
    optional={
        "sub": conditions(TEXTS) | prefixes(),
        "tier": conditions(VALUES) | prefixes(),
        "internal": conditions(VALUES),
    },
)


def candidates(wanted: object) -> list[object]:
    """Values that meet a condition, if any other that is written here is met as well by one of them."""
    match wanted:
        case {"one_of": list(values)}:
            return values
        case {"prefix": prefix}:
            return [prefix]
    return [wanted]


@settings(max_examples=100, deadline=None)
@given(MATCHES, MATCHES, st.sets(st.sampled_from(sorted(ISSUERS))))
@example(
    {"iss": "https://issuer.example", "sub": {"prefix": "ab"}},
    {"iss": "https://issuer.example", "sub": {"prefix": "a"}},
    set(),
)
@example({"iss": "https://issuer.example", "tier": True}, {"iss": "https://issuer.example", "tier": 1}, set())
def test_a_warning_means_that_one_token_matches_both(
    tmp_path_factory: pytest.TempPathFactory,
    one: dict[str, object],
    other: dict[str, object],
    named_by: set[str],
) -> None:
    folder = tmp_path_factory.mktemp("overlap") / "policies"
    policies, mistakes = policies_of(
        copied(folder, {"one": row(one), "other": row(other)}), dict.fromkeys(named_by, "azp")
    )
    # If any token matches both, then one whose every claim is something that either names.
    claims = sorted(one.keys() | other.keys())
    choices = [
        [value for match in (one, other) if claim in match for value in candidates(match[claim])]
        for claim in claims
    ]
    ambiguous = False
    for values in itertools.product(*choices):
        token = dict(zip(claims, values, strict=True))
        said = "one" if token["iss"] in named_by else None
        found = identify(Claims(token, 1.0, client=said), policies, nobody)
        ambiguous |= isinstance(found, Refusal) and found.reason is Reason.AMBIGUOUS
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
