"""What a change of policies changes: each change that is told is real, and none that is real goes untold."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config.changes import Changes, changes
from gateway.config.policies import load_policies
from gateway.core.access import Claims, Grant, admit
from gateway.core.limits import Limits, Rate
from gateway.core.messages import Representation
from gateway.core.paths import Line, Target, locate
from gateway.core.policy import (
    ACTIONS,
    Client,
    Condition,
    Policies,
    Priority,
    Resource,
    Streaming,
    VisitorIp,
)
from gateway.core.views import FULL, View

SHIPPED = Path(__file__).parents[2] / "policies"
CHAT = "H1-2K3"
ISSUER = Condition("iss", ("https://issuer.example",))


def shipped() -> Policies:
    policies, _ = load_policies(SHIPPED, None, None, 1)
    assert policies is not None
    return policies


RESOURCES = shipped().resources


def client(name: str = "a", **parts: Any) -> Client:
    return Client(name, **{"match": (ISSUER,), "accounts": None, "allow": ("chat:read",)} | parts)


def policies(*clients: Client, shadows: tuple[Client, ...] = ()) -> Policies:
    return Policies(1, RESOURCES, clients, shadows)


# -- properties --------------------------------------------------------------------------------------------

ENTRIES = [
    *ACTIONS,
    *(row.name for row in RESOURCES),
    *(f"{method} {row.name}" for row in RESOURCES for method in row.methods),
]


@st.composite
def some_policies(draw: st.DrawFn) -> Policies:
    entries = st.lists(st.sampled_from(ENTRIES), max_size=4, unique=True).map(tuple)
    clients = st.builds(
        client,
        name=st.sampled_from("abc"),
        accounts=st.sampled_from([None, frozenset({"1"}), frozenset({"1", "2"})]),
        allow=entries,
        deny=entries,
        chats=st.sampled_from([None, "chat"]),
        view=st.sampled_from([FULL, View(show=frozenset({"state"})), View(hide=frozenset({"visitorName"}))]),
    )
    drawn = draw(st.lists(clients, max_size=4, unique_by=lambda one: one.name))
    resources = draw(st.sets(st.sampled_from(range(len(RESOURCES))), max_size=3))
    kept = tuple(row for index, row in enumerate(RESOURCES) if index not in resources)
    enforced = draw(st.integers(0, len(drawn)))
    return Policies(draw(st.integers(1, 9)), kept, tuple(drawn[:enforced]), tuple(drawn[enforced:]))


def may(said: Policies, name: str, resource: Resource, method: str) -> bool:
    """Asked the long way: as a request, of the account and the chat that the client is for."""
    by_name = {one.name: one for one in said.clients}
    if name not in by_name:
        return False
    asker = by_name[name]
    account = "1" if asker.accounts is None else max(asker.accounts)
    segments = [CHAT if part == "{chat}" else "7" if part == "{event}" else part for part in resource.path]
    path = "/".join(["/api/account", account, *segments])
    target = locate(Line(method, path.encode(), b"", None, None), said, {account}, Representation.JSON)
    if not isinstance(target, Target):
        return False
    claims = Claims({"chat": CHAT}, math.inf)
    return isinstance(admit(asker, claims, said, target, lambda _: False), Grant)


@given(some_policies())
def test_nothing_changes_where_nothing_does(said: Policies) -> None:
    assert changes(said, replace(said, version=said.version + 1)).lines == ()


@given(some_policies(), some_policies())
def test_what_is_told_is_what_may_be_done_now_and_might_not_before(old: Policies, new: Policies) -> None:
    told = {(one.client, one.resource, one.method): one for one in changes(old, new).turned}
    for name, resource, method in itertools.product("abc", RESOURCES, ("GET", "POST", "PUT")):
        before, after = may(old, name, resource, method), may(new, name, resource, method)
        turned = told.pop((name, resource.name, method), None)
        assert (turned is not None) == (before != after)
        if turned is not None:
            assert (turned.before.outcome == "allow", turned.after.outcome == "allow") == (before, after)
    assert told == {}


@given(some_policies(), some_policies())
def test_only_what_means_the_same_has_no_changes(old: Policies, new: Policies) -> None:
    assert (changes(old, new).lines == ()) == (meaning(old) == meaning(new))


def meaning(said: Policies) -> object:
    """Without what has no meaning: the order of clients, and of the entries in a list."""

    def of(clients: tuple[Client, ...]) -> object:
        return {
            one.name: replace(one, allow=(*sorted(one.allow),), deny=(*sorted(one.deny),)) for one in clients
        }

    return of(said.clients), of(said.shadows), {row.name for row in said.resources}


@given(some_policies(), some_policies())
def test_the_way_back_is_the_way_there_the_other_way_round(old: Policies, new: Policies) -> None:
    there, back = changes(old, new), changes(new, old)
    assert (sorted(there.added), sorted(there.removed)) == (sorted(back.removed), sorted(back.added))
    assert {(one.client, one.resource, one.method, one.before, one.after) for one in there.turned} == {
        (one.client, one.resource, one.method, one.after, one.before) for one in back.turned
    }
    assert {(one.name, one.key, one.before, one.after) for one in there.altered} == {
        (one.name, one.key, one.after, one.before) for one in back.altered
    }


# -- what is said ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parts", "lines"),
    [
        (
            {"allow": ("chat:read", "POST events")},
            [
                "client a: POST events: action-denied by a/default-deny, now allow by a/allow/POST events",
                "client a: allow: chat:read, now POST events, chat:read",
            ],
        ),
        (
            {"deny": ("event",)},
            [
                "client a: GET event: allow by a/allow/chat:read, now action-denied by a/deny/event",
                "client a: deny: nothing, now event",
            ],
        ),
        (
            {"view": View(hide=frozenset({"agentTyping"}))},
            [
                "client a: GET agentTyping: allow by a/allow/chat:read, now field-denied by a/view",
                "client a: view.hide: nothing, now agentTyping",
            ],
        ),
        ({"accounts": frozenset({"2", "1"})}, ["client a: accounts: *, now 1, 2"]),
        ({"chats": "chat"}, ["client a: chats: nothing, now claim chat"]),
        ({"priority": Priority.HIGH}, ["client a: priority: normal, now high"]),
        ({"visitor_ip": VisitorIp.REQUIRE}, ["client a: visitor_ip: pass, now require"]),
        (
            {"match": (ISSUER, Condition("sub", (1, True, "1")), Condition("azp", prefix="shop-"))},
            [
                'client a: match.sub: nothing, now "1" or 1 or true',
                'client a: match.azp: nothing, now prefix "shop-"',
            ],
        ),
        (
            {"match": (Condition("iss", ("https://other.example",)),)},
            ['client a: match.iss: "https://issuer.example", now "https://other.example"'],
        ),
        (
            {
                "limits": Limits(
                    Rate(10.0, 20), 1000, Rate(90 / 60, 1), 5, {"chat": Limits(fetches=Rate(7 / 60, 1))}
                )
            },
            [
                "client a: limits.requests: nothing, now 10 a second, 20 at once",
                "client a: limits.requests_per_day: nothing, now 1000",
                "client a: limits.fetches: nothing, now 90 a minute, 1 at once",
                "client a: limits.in_flight: nothing, now 5",
                "client a: limits.resources.chat.fetches: nothing, now 7 a minute, 1 at once",
            ],
        ),
        ({"limits": Limits(streams=200)}, ["client a: limits.streams: nothing, now 200"]),
        (
            {"limits": Limits(Rate(10.0, 20), exact=True)},
            [
                "client a: limits.requests: nothing, now 10 a second, 20 at once",
                "client a: limits.shared: nothing, now exact",
            ],
        ),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_changed_client(parts: dict[str, Any], lines: list[str]) -> None:
    assert list(changes(policies(client()), policies(client(**parts))).lines) == lines


@pytest.mark.parametrize("per_minute", [1, 7, 59, 60, 61, 90, 6_000_000])
def test_a_rate_is_told_as_it_was_meant(per_minute: int) -> None:
    (change,) = changes(
        policies(client()), policies(client(limits=Limits(requests=Rate(per_minute / 60, 3))))
    ).altered
    found = re.fullmatch(r"(\d+) a (second|minute), 3 at once", change.after)
    assert found is not None
    assert int(found[1]) * (60 if found[2] == "second" else 1) == per_minute


def test_clients_that_come_and_go() -> None:
    narrow = client("b", allow=("GET account",))
    assert changes(policies(client()), policies(client(), narrow)).lines == (
        "client b: added",
        "client b: GET account: no-client, now allow by b/allow/GET account",
    )
    assert changes(policies(client(), narrow), policies(client())).lines == (
        "client b: removed",
        "client b: GET account: allow by b/allow/GET account, now no-client",
    )


def test_a_client_in_shadow_mode_may_do_nothing() -> None:
    narrow = client("b", allow=("GET account",))
    assert changes(policies(narrow), policies(shadows=(narrow,))).lines == (
        "client b: GET account: allow by b/allow/GET account, now no-client",
        "client b: mode: enforce, now shadow",
    )
    wider = replace(narrow, allow=("account:read",))
    assert changes(policies(shadows=(narrow,)), policies(shadows=(wider,))).lines == (
        "client b: allow: GET account, now account:read",
    )


def edited(change: Callable[[Resource], Resource]) -> Policies:
    """One client, and the resource `info` changed."""
    resources = tuple(change(row) if row.name == "info" else row for row in RESOURCES)
    return replace(policies(client()), resources=resources)


def test_resources_that_come_and_go() -> None:
    without = Policies(1, tuple(row for row in RESOURCES if row.name != "info"), (client(),))
    assert changes(policies(client()), without).lines == (
        "resource info: removed",
        "client a: GET info: allow by a/allow/chat:read, now unknown-resource",
    )


@pytest.mark.parametrize(
    ("change", "lines"),
    [
        (
            lambda row: replace(row, methods={"PUT": "chat:write"}),
            [
                "client a: GET info: allow by a/allow/chat:read, now method-not-allowed",
                "resource info: methods.GET: chat:read, now nothing",
                "resource info: methods.PUT: nothing, now chat:write",
            ],
        ),
        (
            lambda row: replace(row, path=("chat", "{chat}", "facts")),
            ["resource info: path: chat/{chat}/info, now chat/{chat}/facts"],
        ),
        (
            lambda row: replace(row, cache=None, coalesce=False),
            [
                "resource info: coalesce: true, now false",
                "resource info: cache.ttl_ms.waiting: 1000, now nothing",
                "resource info: cache.ttl_ms.chatting: 1000, now nothing",
                "resource info: cache.ttl_ms.ended: 10000, now nothing",
                "resource info: cache.stale_ms: 5000, now nothing",
                "resource info: cache.volatile: duration, lastUpdate, now nothing",
            ],
        ),
        (
            lambda row: replace(row, query={**row.query, "from": RESOURCES[0].query["v"]}),
            ["resource info: query.from: nothing, now 1"],
        ),
        (
            lambda row: replace(row, representations=(Representation.JSON,)),
            ["resource info: representations: json, xml, now json"],
        ),
        (
            lambda row: replace(row, stream=Streaming.EVENTS, from_info=True),
            ["resource info: stream: changes, now events", "resource info: from_info: nothing, now true"],
        ),
        (lambda row: replace(row, stream=None), ["resource info: stream: changes, now nothing"]),
    ],
)
def test_a_changed_resource(change: Callable[[Resource], Resource], lines: list[str]) -> None:
    assert list(changes(policies(client()), edited(change)).lines) == lines


def test_as_json() -> None:
    found = asdict(changes(policies(client()), policies(client(deny=("info",)))))
    assert found == {
        "added": (),
        "removed": (),
        "turned": (
            {
                "client": "a",
                "method": "GET",
                "resource": "info",
                "before": {"outcome": "allow", "rule": "a/allow/chat:read"},
                "after": {"outcome": "action-denied", "rule": "a/deny/info"},
            },
        ),
        "altered": ({"kind": "client", "name": "a", "key": "deny", "before": "nothing", "after": "info"},),
    }
    assert Changes((), (), (), ()).lines == ()
