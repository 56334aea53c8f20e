"""Who may do what: nobody, unless exactly one client matches and its policy says so."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from gateway.core.access import Claims, DeadWhen, Grant, admit
from gateway.core.errors import Reason, Refusal
from gateway.core.messages import Representation
from gateway.core.paths import Line, Target, locate
from gateway.core.policy import Client, Policies
from tests.simulation import shipped

ISS = "https://issuer.example"
RESOURCES = shipped().resources
CHAT = "/api/account/123/chat/H1-2K3"


def client(
    name: str, match: Mapping[str, str | int | bool], *allow: str, accounts: frozenset[str] | None = None
) -> Client:
    return Client(name, {"iss": ISS, **match}, accounts, frozenset(allow))


def target(path: str = f"{CHAT}/info", method: str = "GET") -> Target:
    line = Line(method, path.encode(), b"", None, None)
    found = locate(line, RESOURCES, {"123", "456"}, Representation.JSON)
    assert isinstance(found, Target)
    return found


def decide(claims: Mapping[str, object], *clients: Client, of: Target | None = None) -> Grant | Refusal:
    policies = Policies(7, RESOURCES, clients)
    return admit(Claims({"iss": ISS, **claims}, 1000.0), policies, of or target())


READER = client("reader", {"sub": "bff"}, "chat:read")


def test_a_grant_says_who_what_and_until_when() -> None:
    granted = decide({"sub": "bff"}, READER)
    assert isinstance(granted, Grant)
    assert (granted.client, granted.view.name) == ("reader", "full")
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
        assert decided == Refusal(refused, client="one")
