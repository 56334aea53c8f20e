"""Who may do what: the one place that says yes.

`identify` finds the client of a token, `admit` turns client, claims and target into a grant or a refusal.
Each decision names its rule: `partner/allow/chat:read`, `partner/deny/events`, `partner/default-deny`. A
grant is a value that carries its own end, so that whoever holds it, a waiter or the edge, can tell by itself
when it is dead.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from gateway.core.errors import Reason, Refusal
from gateway.core.paths import Target
from gateway.core.policy import Client, Index, Policies
from gateway.core.views import View

#: The outcome of a decision that lets a request pass; any other is the slug of a reason.
ALLOW = "allow"


def _for_ever() -> bool:
    return True


def _nobody(_name: str) -> bool:
    return False


@dataclass(frozen=True, slots=True)
class Claims:
    """What a verified token says. `expires_at` is its `exp` plus the issuer's leeway, in epoch seconds.

    `client` is who the token is for, where its issuer has a claim that says so. `stands` tells whether the
    key that vouched for it still does, and nobody has revoked it.
    """

    values: Mapping[str, object]
    expires_at: float
    stands: Callable[[], bool] = field(default=_for_ever, compare=False, repr=False)
    client: str | None = None


@dataclass(frozen=True, slots=True)
class DeadWhen:
    """The end of a grant: its token expired, or was revoked, or its key or client was; or newer policies."""

    expires_at: float
    policies_version: int
    stands: Callable[[], bool] = field(default=_for_ever, compare=False, repr=False)
    client: str = field(default="", compare=False, repr=False)
    is_revoked: Callable[[str], bool] = field(default=_nobody, compare=False, repr=False)

    def passed(self, wall: float, policies_version: int) -> bool:
        """Whether it has come, at `wall` (epoch seconds) and under policies of that version."""
        return (
            wall >= self.expires_at
            or policies_version != self.policies_version
            or not self.stands()
            or self.is_revoked(self.client)
        )


@dataclass(frozen=True, slots=True)
class Grant:
    """The decision "this token may make this request", and the rule that made it."""

    client: Client
    rule: str
    dead_when: DeadWhen

    @property
    def view(self) -> View:
        return self.client.view


@dataclass(frozen=True, slots=True)
class Shadow:
    """What a client in shadow mode would have decided: `allow` or a reason's slug, and by which rule."""

    client: str
    outcome: str
    rule: str


def identify(claims: Claims, policies: Policies, is_revoked: Callable[[str], bool]) -> Client | Refusal:
    """The one client that a token is for."""
    matching = [client for client in _candidates(claims, policies.index) if _matches(client, claims)]
    if len(matching) != 1:
        return Refusal(Reason.AMBIGUOUS if matching else Reason.NO_CLIENT)
    client = matching[0]
    if is_revoked(client.name):
        return Refusal(Reason.TOKEN_REVOKED, client.name, "revoked", rule=f"{client.name}/revoked")
    return client


def _candidates(claims: Claims, index: Index) -> Iterator[Client]:
    """Those of whom one condition is met."""
    for claim, clients in index.items():
        value = claims.values.get(claim)
        if isinstance(value, str | int):
            yield from clients.get((type(value), value), ())


def _matches(client: Client, claims: Claims) -> bool:
    return (claims.client is None or claims.client == client.name) and _conditions_met(client, claims)


def _conditions_met(client: Client, claims: Claims) -> bool:
    said = claims.values
    for condition in client.match:  # noqa: SIM110 - asked for every request; a generator costs as much again
        if not condition.met_by(said.get(condition.claim)):
            return False
    return True


def admit(
    client: Client, claims: Claims, policies: Policies, target: Target, is_revoked: Callable[[str], bool]
) -> Grant | Refusal:
    """Default deny: the client's policy must allow the target, and nothing in it may deny it."""
    reason, rule = _decide(client, claims, target)
    if reason is not None:
        return Refusal(reason, client=client.name, rule=rule)
    dead_when = DeadWhen(claims.expires_at, policies.version, claims.stands, client.name, is_revoked)
    # Many grants, few rules: the name of each is in memory once.
    return Grant(client, sys.intern(rule), dead_when)


def shadows(claims: Claims, policies: Policies, target: Target) -> Iterator[tuple[Client, Shadow]]:
    """What those clients would have decided that are in shadow mode and match the token.

    They go by their conditions alone: where an issuer names the client, it names the one in force.
    """
    for client in policies.shadows:
        if _conditions_met(client, claims):
            reason, rule = _decide(client, claims, target)
            yield client, Shadow(client.name, ALLOW if reason is None else reason.slug, rule)


def _decide(client: Client, claims: Claims, target: Target) -> tuple[Reason | None, str]:
    """None or why not, and the rule that decides; what denies comes before what allows."""
    name = client.name
    if client.accounts is not None and target.account not in client.accounts:
        return Reason.ACCOUNT_DENIED, f"{name}/accounts"
    covering = (target.action, target.resource.name, f"{target.method} {target.resource.name}")
    for entry in client.deny:
        if entry in covering:
            return Reason.ACTION_DENIED, f"{name}/deny/{entry}"
    if client.chats is not None and target.chat is not None:
        claim = claims.values.get(client.chats)
        if not isinstance(claim, str) or claim != target.chat.id:
            return Reason.CHAT_DENIED, f"{name}/chats"
    field_name = target.resource.field
    if field_name is not None and target.is_read and not client.view.shows(field_name):
        return Reason.FIELD_DENIED, f"{name}/view"
    for entry in client.allow:
        if entry in covering:
            return None, f"{name}/allow/{entry}"
    return Reason.ACTION_DENIED, f"{name}/default-deny"
