"""Who may do what: the one place that says yes.

`admit` turns claims, policies and a target into a grant or a refusal. A grant is a value that carries
its own end, so that whoever holds it, a waiter or the edge, can tell by itself when it is dead.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from gateway.core.errors import Reason, Refusal
from gateway.core.paths import Target
from gateway.core.policy import Client, Policies
from gateway.core.views import FULL, View


def _for_ever() -> bool:
    return True


@dataclass(frozen=True, slots=True)
class Claims:
    """What a verified token says. `expires_at` is its `exp` plus the issuer's leeway, in epoch seconds.

    `stands` tells whether the key that vouched for it still does.
    """

    values: Mapping[str, object]
    expires_at: float
    stands: Callable[[], bool] = field(default=_for_ever, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class DeadWhen:
    """The end of a grant: the token's expiry, the end of its key, or policies newer than these."""

    expires_at: float
    policies_version: int
    stands: Callable[[], bool] = field(default=_for_ever, compare=False, repr=False)

    def passed(self, wall: float, policies_version: int) -> bool:
        """Whether it has come, at `wall` (epoch seconds) and under policies of that version."""
        return wall >= self.expires_at or policies_version != self.policies_version or not self.stands()


@dataclass(frozen=True, slots=True)
class Grant:
    """The decision "this token may make this request"."""

    client: str
    view: View
    dead_when: DeadWhen


def admit(claims: Claims, policies: Policies, target: Target) -> Grant | Refusal:
    """Default deny: one client must match the token, and its policy must allow account and action."""
    matching = [client for client in policies.clients if _matches(client, claims)]
    if len(matching) != 1:
        return Refusal(Reason.AMBIGUOUS if matching else Reason.NO_CLIENT)
    client = matching[0]
    if client.accounts is not None and target.account not in client.accounts:
        return Refusal(Reason.ACCOUNT_DENIED, client=client.name)
    if target.action not in client.allow:
        return Refusal(Reason.ACTION_DENIED, client=client.name)
    return Grant(client.name, FULL, DeadWhen(claims.expires_at, policies.version, claims.stands))


def _matches(client: Client, claims: Claims) -> bool:
    return all(_equal(claims.values.get(name), wanted) for name, wanted in client.match.items())


def _equal(value: object, wanted: object) -> bool:
    # True == 1 in Python, but not in a token.
    return type(value) is type(wanted) and value == wanted
