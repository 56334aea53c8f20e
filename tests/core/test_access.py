"""Who may do what: nobody, unless exactly one client matches and its policy says so."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.access import Claims, DeadWhen, Grant, Shadow, admit, identify, shadows
from gateway.core.errors import Reason, Refusal
from gateway.core.messages import Representation
from gateway.core.paths import Line, Target, locate
from gateway.core.policy import Client, Condition, Policies
from gateway.core.views import View
from tests.simulation import shipped

ISS = "https://issuer.example"
RESOURCES = shipped().resources
CHAT = "/api/account/123/chat/H1-2K3"

Match = Mapping[str, str | int | bool]


def client(
    name: str, match: Match, *allow: str, accounts: frozenset[str] | None = None, **more: Any
) -> Client:
    conditions = tuple(Condition(claim, (wanted,)) for claim, wanted in ({"iss": ISS} | dict(match)).items())
    return Client(name, conditions, accounts, allow, **more)


def target(path: str = f"{CHAT}/info", method: str = "GET") -> Target:
    line = Line(method, path.encode(), b"", None, None)
    found = locate(line, shipped(), {"123", "456"}, Representation.JSON)
    assert isinstance(found, Target)
    return found


def nobody(_: str) -> bool:
    return False


def decide(
    claims: Mapping[str, object], *clients: Client, of: Target | None = None, named: str | None = None
) -> Grant | Refusal:
    policies = Policies(7, RESOURCES, clients)
    said = Claims({"iss": ISS, **claims}, 1000.0, client=named)
    found = identify(said, policies, nobody)
    return found if isinstance(found, Refusal) else admit(found, said, policies, of or target(), nobody)


READER = client("reader", {"sub": "bff"}, "chat:read")


def test_a_grant_says_who_by_which_rule_and_until_when() -> None:
    granted = decide({"sub": "bff"}, READER)
    assert isinstance(granted, Grant)
    assert (granted.client, granted.rule, granted.view) == (READER, "reader/allow/chat:read", View())
    assert granted.dead_when == DeadWhen(1000.0, 7)


@pytest.mark.parametrize(
    ("wall", "version", "dead"), [(999.9, 7, False), (1000.0, 7, True), (999.9, 8, True), (999.9, 6, True)]
)
def test_a_grant_ends_with_its_token_or_its_policies(wall: float, version: int, dead: bool) -> None:
    assert DeadWhen(1000.0, 7).passed(wall, version) is dead


@pytest.mark.parametrize(
    ("claims", "match", "matches"),
    [
        ({"sub": "bff"}, {"sub": "bff"}, True),
        ({"sub": "bff", "more": 1}, {"sub": "bff"}, True),
        ({"sub": "bff", "tier": 1}, {"sub": "bff", "tier": 1}, True),
        ({"sub": "bff", "admin": True}, {"sub": "bff", "admin": True}, True),
        ({"sub": "BFF"}, {"sub": "bff"}, False),
        ({"sub": "bff "}, {"sub": "bff"}, False),
        ({}, {"sub": "bff"}, False),
        ({"sub": None}, {"sub": "bff"}, False),
        ({"sub": ["bff"]}, {"sub": "bff"}, False),
        ({"tier": 1}, {"tier": True}, False),
        ({"tier": True}, {"tier": 1}, False),
        ({"tier": 1.0}, {"tier": 1}, False),
        ({"tier": "1"}, {"tier": 1}, False),
        ({"iss": "https://other.example", "sub": "bff"}, {"sub": "bff"}, False),
    ],
)
def test_claims_match_by_value_and_type(
    claims: Mapping[str, object], match: Mapping[str, str | int | bool], matches: bool
) -> None:
    decided = decide(claims, client("one", match, "chat:read"))
    assert isinstance(decided, Grant) is matches
    assert matches or decided == Refusal(Reason.NO_CLIENT)


def test_nobody_is_let_in_by_no_policy() -> None:
    assert decide({"sub": "bff"}) == Refusal(Reason.NO_CLIENT)


def test_a_token_of_two_clients_is_refused() -> None:
    other = client("other", {"team": "chat"}, "chat:read")
    assert decide({"sub": "bff", "team": "chat"}, READER, other) == Refusal(Reason.AMBIGUOUS)
    assert isinstance(decide({"sub": "bff"}, READER, other), Grant)


@pytest.mark.parametrize(
    ("accounts", "allow", "path", "method", "refused"),
    [
        (None, "chat:read", f"{CHAT}/info", "GET", None),
        (None, "chat:read", f"{CHAT}/info", "HEAD", None),
        (frozenset({"123"}), "chat:read", f"{CHAT}/info", "GET", None),
        (frozenset({"456"}), "chat:read", f"{CHAT}/info", "GET", Reason.ACCOUNT_DENIED),
        (frozenset({"123"}), "chat:read", "/api/account/456/chat/H1-2K3/info", "GET", Reason.ACCOUNT_DENIED),
        (frozenset[str](), "chat:read", f"{CHAT}/info", "GET", Reason.ACCOUNT_DENIED),
        (None, "chat:write", f"{CHAT}/info", "GET", Reason.ACTION_DENIED),
        (None, "chat:read", f"{CHAT}/info/visitorName", "PUT", Reason.ACTION_DENIED),
        (None, "chat:read", f"{CHAT}/events", "POST", Reason.ACTION_DENIED),
        (None, "chat:read", "/api/account/123", "GET", Reason.ACTION_DENIED),
        (None, "chat:write", "/api/account/123/chat/request", "POST", Reason.ACTION_DENIED),
        (None, "chat:start", "/api/account/123/chat/request", "POST", None),
        (None, "account:read", "/api/account/123/chat/offlineSurvey", "PUT", Reason.ACTION_DENIED),
        (None, "account:write", "/api/account/123/chat/offlineSurvey", "PUT", None),
    ],
)
def test_account_and_action_must_both_be_allowed(
    accounts: frozenset[str] | None, allow: str, path: str, method: str, refused: Reason | None
) -> None:
    one = client("one", {"sub": "bff"}, allow, accounts=accounts)
    decided = decide({"sub": "bff"}, one, of=target(path, method))
    if refused is None:
        assert isinstance(decided, Grant)
    else:
        assert isinstance(decided, Refusal)
        assert (decided.reason, decided.client) == (refused, "one")


@pytest.mark.parametrize(
    ("condition", "value", "met"),
    [
        (Condition("sub", ("a", "b")), "b", True),
        (Condition("sub", ("a", "b")), "c", False),
        (Condition("sub", (1, True)), True, True),
        (Condition("sub", (1,)), True, False),
        (Condition("sub", ()), None, False),
        (Condition("sub", prefix="shop-"), "shop-7", True),
        (Condition("sub", prefix="shop-"), "shop-", True),
        (Condition("sub", prefix="shop-"), "Shop-7", False),
        (Condition("sub", prefix="shop-"), ["shop-7"], False),
        (Condition("sub", prefix="shop-"), None, False),
    ],
)
def test_a_condition_is_met_by_one_of_its_values_or_by_a_prefix(
    condition: Condition, value: object, met: bool
) -> None:
    assert condition.met_by(value) is met


LINES, NAME = f"{CHAT}/events", f"{CHAT}/info/visitorName"


@pytest.mark.parametrize(
    ("allow", "deny", "path", "method", "outcome"),
    [
        (("chat:read",), (), LINES, "GET", "allow/chat:read"),
        (("events",), (), LINES, "POST", "allow/events"),
        (("GET events",), (), LINES, "GET", "allow/GET events"),
        (("GET events",), (), LINES, "HEAD", "allow/GET events"),
        (("GET events",), (), LINES, "POST", "default-deny"),
        (("events",), (), f"{CHAT}/events/1", "GET", "default-deny"),
        (("chat:read", "chat:write"), ("events",), LINES, "GET", "deny/events"),
        (("chat:read", "chat:write"), ("POST events",), LINES, "POST", "deny/POST events"),
        (("chat:read", "chat:write"), ("POST events",), LINES, "GET", "allow/chat:read"),
        (("PUT visitorName",), ("chat:write",), NAME, "PUT", "deny/chat:write"),
        ((), (), LINES, "GET", "default-deny"),
    ],
)
def test_the_rule_that_decides_is_named_and_deny_beats_allow(
    allow: tuple[str, ...], deny: tuple[str, ...], path: str, method: str, outcome: str
) -> None:
    decided = decide({}, client("one", {}, *allow, deny=deny), of=target(path, method))
    assert decided.rule == f"one/{outcome}"
    assert isinstance(decided, Grant) is outcome.startswith("allow")


@pytest.mark.parametrize(
    ("claim", "path", "allowed"),
    [
        ("H1-2K3", f"{CHAT}/info", True),
        ("H1-2K4", f"{CHAT}/info", False),
        ("", f"{CHAT}/info", False),
        (None, f"{CHAT}/info", False),
        (["H1-2K3"], f"{CHAT}/info", False),
        ("H1-2K3", "/api/account/123/chat/H9-2K3/events", False),
        ("H1-2K4", "/api/account/123", True),
    ],
)
def test_a_client_for_one_visitor_gets_at_the_chat_its_token_names(
    claim: object, path: str, allowed: bool
) -> None:
    visitor = client("visitor", {}, "chat:read", "account:read", chats="chat")
    decided = decide({"chat": claim}, visitor, of=target(path))
    assert isinstance(decided, Grant) is allowed
    if isinstance(decided, Refusal):
        assert (decided.reason, decided.rule) == (Reason.CHAT_DENIED, "visitor/chats")


@pytest.mark.parametrize(
    ("view", "method", "allowed"),
    [
        (View(show=frozenset({"state"})), "GET", False),
        (View(hide=frozenset({"visitorName"})), "GET", False),
        (View(hide=frozenset({"agentName"})), "GET", True),
        (View(show=frozenset({"visitorName"})), "GET", True),
        # To be told a field and to set it are two things.
        (View(hide=frozenset({"visitorName"})), "PUT", True),
    ],
)
def test_a_withheld_field_is_refused_where_it_stands_alone(view: View, method: str, allowed: bool) -> None:
    one = client("one", {}, "chat:read", "chat:write", view=view)
    decided = decide({}, one, of=target(NAME, method))
    assert isinstance(decided, Grant) is allowed
    if isinstance(decided, Refusal):
        assert (decided.reason, decided.rule) == (Reason.FIELD_DENIED, "one/view")


def test_an_issuer_may_name_the_client_itself() -> None:
    one, other = client("one", {}, "chat:read"), client("other", {}, "chat:read")
    assert decide({}, one, other).rule is None
    for name in ("one", "other"):
        assert decide({}, one, other, named=name).rule == f"{name}/allow/chat:read"
    assert decide({}, one, other, named="third") == Refusal(Reason.NO_CLIENT)


def test_a_revoked_client_is_nobody_and_its_grants_are_dead() -> None:
    revoked: set[str] = set()
    policies = Policies(7, RESOURCES, (READER,))
    said = Claims({"iss": ISS, "sub": "bff"}, 1000.0)
    grant = admit(READER, said, policies, target(), revoked.__contains__)
    assert isinstance(grant, Grant)
    assert not grant.dead_when.passed(0.0, 7)
    revoked.add("reader")
    assert grant.dead_when.passed(0.0, 7)
    refusal = identify(said, policies, revoked.__contains__)
    assert refusal == Refusal(Reason.TOKEN_REVOKED, "reader", "revoked", rule="reader/revoked")


def test_a_grant_dies_with_its_token() -> None:
    stands = [True]
    said = Claims({"iss": ISS, "sub": "bff"}, 1000.0, lambda: stands[0])
    grant = admit(READER, said, Policies(7, RESOURCES, (READER,)), target(), nobody)
    assert isinstance(grant, Grant)
    assert not grant.dead_when.passed(0.0, 7)
    stands[0] = False
    assert grant.dead_when.passed(0.0, 7)


def test_a_shadow_says_what_it_would_and_decides_nothing() -> None:
    wider = client("wider", {}, "chat:read", "chat:write")
    narrower = client("narrower", {"sub": "bff"}, "account:read")
    elsewhere = client("elsewhere", {"sub": "other"}, "chat:read")
    policies = Policies(7, RESOURCES, (READER,), (wider, narrower, elsewhere))
    said = Claims({"iss": ISS, "sub": "bff"}, 1000.0)
    assert identify(said, policies, nobody) is READER
    told = [(who.name, shadow) for who, shadow in shadows(said, policies, target())]
    assert told == [
        ("wider", Shadow("wider", "allow", "wider/allow/chat:read")),
        ("narrower", Shadow("narrower", "action-denied", "narrower/default-deny")),
    ]
    # Nobody is let in by a shadow.
    alone = Policies(7, RESOURCES, (), (wider,))
    assert identify(said, alone, nobody) == Refusal(Reason.NO_CLIENT)


VALUES = st.sampled_from(["a", "b", "ab", "", 1, True, 0, False])
CONDITIONS = st.one_of(
    st.builds(Condition, st.sampled_from(["sub", "azp", "tier"]), st.lists(VALUES, min_size=1).map(tuple)),
    st.builds(
        lambda claim, prefix: Condition(claim, prefix=prefix),
        st.sampled_from(["sub", "azp"]),
        st.sampled_from(["a", "ab"]),
    ),
)


@st.composite
def crowds(draw: st.DrawFn) -> tuple[Client, ...]:
    matches = draw(st.lists(st.lists(CONDITIONS, max_size=3), max_size=8))
    issuers = draw(st.lists(st.sampled_from([(ISS,), (ISS, "other"), ("other",)]), min_size=8, max_size=8))
    return tuple(
        Client(f"c{at}", (Condition("iss", issuer), *match), None, ("chat:read",))
        for at, (issuer, match) in enumerate(zip(issuers, matches, strict=False))
    )


@given(crowds(), st.dictionaries(st.sampled_from(["sub", "azp", "tier"]), st.one_of(VALUES, st.none())))
def test_whoever_is_found_is_who_all_conditions_fit(
    crowd: tuple[Client, ...], said: dict[str, object]
) -> None:
    """However clients are looked up, as if each had been asked."""
    claims = Claims({"iss": ISS, **said}, 1000.0)
    fitting = [
        one for one in crowd if all(wanted.met_by(claims.values.get(wanted.claim)) for wanted in one.match)
    ]
    found = identify(claims, Policies(7, RESOURCES, crowd), nobody)
    if len(fitting) == 1:
        assert found is fitting[0]
    else:
        assert found == Refusal(Reason.AMBIGUOUS if fitting else Reason.NO_CLIENT)
