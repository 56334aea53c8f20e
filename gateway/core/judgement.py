"""Steps 1 to 3 of the road, for a token that was verified: whose request it is, for what, and whether it may.

Nothing is charged here, and nobody waits: the road and the tests of policies ask the same question.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace

from gateway.core.access import Claims, Grant, Shadow, admit, identify, shadows
from gateway.core.errors import Refusal
from gateway.core.messages import Representation
from gateway.core.paths import Line, Target, locate
from gateway.core.policy import Client, Policies
from gateway.core.replies import Result, Trip

#: Clients in shadow mode that match a token, and what they would have decided.
Shadowing = tuple[tuple[Client, Shadow], ...]


@dataclass(frozen=True, slots=True)
class Granted:
    """A request that may be made."""

    grant: Grant
    target: Target
    shadows: Shadowing = ()

    @property
    def client(self) -> Client:
        return self.grant.client

    def trip(self, result: Result) -> Trip:
        """The end of the request, with what is known of it."""
        if isinstance(result, Refusal) and result.rule is not None:
            # What was granted by then is not what decided.
            return Trip(result, self.target, None, self.client.name, result.rule)
        return Trip(result, self.target, self.grant, self.client.name, self.grant.rule)


@dataclass(frozen=True, slots=True)
class Refused:
    """A request that may not. The client is known if the token is one's."""

    refusal: Refusal
    client: Client | None = None
    target: Target | None = None
    shadows: Shadowing = ()

    def trip(self) -> Trip:
        """The end of the request, with what is known of it."""
        return Trip(self.refusal, self.target, None, self.refusal.client, self.refusal.rule)


Judged = Granted | Refused


def judge(
    claims: Claims,
    line: Line,
    policies: Policies,
    *,
    accounts: Collection[str],
    default: Representation,
    is_revoked: Callable[[str], bool],
) -> Judged:
    """Who it was counts first: without a client nobody learns which resources there are."""
    client = identify(claims, policies, is_revoked)
    target = locate(line, policies, accounts, default)
    if isinstance(target, Refusal):
        if isinstance(client, Refusal):
            return Refused(client)
        return Refused(replace(target, client=client.name), client)
    shadowing = tuple(shadows(claims, policies, target)) if policies.shadows else ()
    if isinstance(client, Refusal):
        return Refused(client, None, target, shadowing)
    grant = admit(client, claims, policies, target, is_revoked)
    if isinstance(grant, Refusal):
        return Refused(grant, client, target, shadowing)
    return Granted(grant, target, shadowing)
