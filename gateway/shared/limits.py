"""Exact limits: the requests of some clients, counted in Redis for all replicas.

    lane    None: who counts in Redis has to be asked each time
    enter   here, if too many are in progress; in Redis, for rates and daily quotas; all or nothing
    alone   nobody answers: what happens then is a setting

Requests in progress and fetches are counted here, as are all clients whose limits are not exact.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import Protocol, assert_never

from gateway.core.limits import DAY_S, Left, Limits, Rate, Standing, scopes, window_s
from gateway.core.policy import Client
from gateway.ports import Lane, Limiter
from gateway.shared.commands import Charged

#: When one who is refused for want of an answer may ask again.
DENIED_RETRY_S = 1.0


class Alone(Enum):
    """What is done with exact limits while nobody answers.

    Each replica keeps to its share; all requests are refused; or none is counted.
    """

    PER_REPLICA = "per_replica"
    DENY = "deny"
    ALLOW = "allow"


class Charges(Protocol):
    """Who counts for all: `Commands`. `take` is False to hear what it would say."""

    async def charge(
        self, client: str, limits: Sequence[tuple[str, Rate | int]], *, take: bool = True
    ) -> Sequence[Charged] | None: ...


_Ask = Callable[[Client, str | None], Awaitable[Standing]]


class Here(Limiter, Protocol):
    """The limiter of this process."""

    def recount(self, client: str, limit: str, used: int) -> None:
        """Of today's quota so much is used."""


@dataclass(frozen=True, slots=True)
class _Division:
    """What of a client's limits is counted where, for one resource."""

    limits: Limits
    here: Client
    there: tuple[tuple[str, Rate | int], ...]


class SharedLimiter:
    """The port `Limiter`, where some clients have exact limits."""

    def __init__(self, memory: Here, charges: Charges, alone: Alone) -> None:
        self._memory = memory
        self._charges = charges
        self._alone = alone
        self._divisions: dict[tuple[str, str | None], _Division] = {}

    def lane(self, client: Client, resource: str | None) -> Lane | None:
        return None if self._divided(client, resource).there else self._memory.lane(client, resource)

    async def enter(self, client: Client, resource: str | None) -> Standing:
        """Charge a request; one that violates a limit has charged nothing, and must not `leave`."""
        divided = self._divided(client, resource)
        here = await self._memory.enter(divided.here, resource)
        if not divided.there:
            return here
        standing = None
        try:
            # One that is refused here already is to hear of all that it violates.
            standing = await self._asked(divided, here, take=not here.violated)
        finally:
            # Also if its client is gone before there was an answer.
            if not here.violated and (standing is None or standing.violated):
                self._memory.leave(divided.here, resource)
        if standing is None:
            return await self._unanswered(self._memory.enter, divided, client, resource)
        return standing

    def leave(self, client: Client, resource: str | None) -> None:
        self._memory.leave(self._divided(client, resource).here, resource)

    def rejoin(self, client: Client, resource: str | None) -> None:
        self._memory.rejoin(self._divided(client, resource).here, resource)

    def fetch(self, client: Client, resource: str) -> Standing | None:
        return self._memory.fetch(self._divided(client, resource).here, resource)

    def refund(self, client: Client, resource: str) -> None:
        self._memory.refund(self._divided(client, resource).here, resource)

    def watch(self, client: Client) -> Standing | None:
        return self._memory.watch(client)

    def unwatch(self, client: Client) -> None:
        self._memory.unwatch(client)

    async def peek(self, client: Client, resource: str | None) -> Standing:
        """What `enter` would say."""
        divided = self._divided(client, resource)
        here = await self._memory.peek(divided.here, resource)
        if not divided.there:
            return here
        standing = await self._asked(divided, here, take=False)
        if standing is None:
            return await self._unanswered(self._memory.peek, divided, client, resource)
        return standing

    def peek_fetch(self, client: Client, resource: str) -> Standing | None:
        return self._memory.peek_fetch(self._divided(client, resource).here, resource)

    async def _asked(self, divided: _Division, here: Standing, *, take: bool) -> Standing | None:
        client = divided.here.name
        charged = await self._charges.charge(client, divided.there, take=take)
        if charged is None:
            return None
        if take:
            # So that who is alone goes on from there.
            for (limit, quota), one in zip(divided.there, charged, strict=True):
                if not isinstance(quota, Rate):
                    self._memory.recount(client, limit, quota - one.remaining)
        return _joined(_there(divided, charged), here)

    async def _unanswered(
        self, ask: _Ask, divided: _Division, client: Client, resource: str | None
    ) -> Standing:
        match self._alone:
            case Alone.PER_REPLICA:
                return await ask(client, resource)
            case Alone.ALLOW:
                return await ask(divided.here, resource)
            case Alone.DENY:
                return Standing((), tuple(limit for limit, _ in divided.there), DENIED_RETRY_S)
            case _:
                assert_never(self._alone)

    def _divided(self, client: Client, resource: str | None) -> _Division:
        divided = self._divisions.get((client.name, resource))
        if divided is None or divided.limits is not client.limits:
            divided = self._divisions[client.name, resource] = _divide(client, resource)
        return divided


def _divide(client: Client, resource: str | None) -> _Division:
    if not client.limits.exact:
        return _Division(client.limits, client, ())
    there = tuple(
        (prefix + name, quota)
        for prefix, limits in scopes(client.limits, resource)
        for name, quota in (("requests", limits.requests), ("requests-per-day", limits.requests_per_day))
        if quota is not None
    )
    return _Division(client.limits, replace(client, limits=_without_requests(client.limits)), there)


def _without_requests(limits: Limits) -> Limits:
    resources = {name: _without_requests(further) for name, further in limits.resources.items()}
    return replace(limits, requests=None, requests_per_day=None, resources=resources)


# -- standings of two counts ---------------------------------------------------------------------------------


def _there(divided: _Division, charged: Sequence[Charged]) -> Standing:
    asked = tuple(zip(divided.there, charged, strict=True))
    return Standing(
        tuple(_left(limit, quota, one) for (limit, quota), one in asked),
        tuple(limit for (limit, _), one in asked if one.wait_s),
        max(one.wait_s for one in charged),
    )


def _left(limit: str, quota: Rate | int, one: Charged) -> Left:
    if isinstance(quota, Rate):
        return Left(limit, quota.burst, one.remaining, window_s(quota), math.ceil(one.reset_s))
    return Left(limit, quota, one.remaining, DAY_S, math.ceil(one.reset_s))


def _joined(there: Standing, here: Standing) -> Standing:
    """Both as one: where the one refuses, the other is as if the request had never come."""
    refused = bool(there.violated or here.violated)
    left = (
        replace(each, remaining=each.remaining + 1) if refused and not standing.violated else each
        for standing in (there, here)
        for each in standing.left
    )
    return Standing(tuple(left), there.violated + here.violated, max(there.retry_after_s, here.retry_after_s))
