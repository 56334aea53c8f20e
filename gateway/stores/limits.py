"""The limits of the clients of one process, counted.

What is counted is kept by client and limit, so a change of policies forgets nothing; the names come from
files, so it stays small. A request is charged to all of its limits or to none.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from gateway.core.limits import (
    DAY_S,
    UNCOUNTED,
    UNUSED,
    Left,
    Limits,
    Rate,
    Standing,
    advanced,
    carried,
    more_in_s,
    remaining,
    wait_s,
)
from gateway.core.policy import Client

#: Nobody knows when one of the requests in progress will end.
IN_FLIGHT_RETRY_S = 1.0

_Key = tuple[str, str]  # (client, limit)


class _Meter(Protocol):
    """One limit as one request meets it."""

    @property
    def wait_s(self) -> float: ...
    def left(self, *, charged: bool) -> Left: ...
    def charge(self) -> None: ...


@dataclass(frozen=True, slots=True)
class _RateMeter:
    spent: dict[_Key, tuple[Rate, float]]
    key: _Key
    rate: Rate
    tat: float
    now: float

    @property
    def wait_s(self) -> float:
        return wait_s(self.tat, self.rate, self.now)

    def left(self, *, charged: bool) -> Left:
        tat = advanced(self.tat, self.rate, self.now) if charged else self.tat
        return Left(
            self.key[1],
            self.rate.burst,
            remaining(tat, self.rate, self.now),
            # 11 a minute are 11 in 60 s, also where floats make a little more of it.
            max(1, math.ceil(self.rate.burst / self.rate.per_s - 1e-9)),
            math.ceil(more_in_s(tat, self.rate, self.now)),
        )

    def charge(self) -> None:
        self.spent[self.key] = (self.rate, advanced(self.tat, self.rate, self.now))


@dataclass(frozen=True, slots=True)
class _CountMeter:
    """Requests of a day, whose quota is back in `reset_s`; or, without that, requests in progress."""

    counts: dict[_Key, int]
    key: _Key
    quota: int
    reset_s: float | None = None

    @property
    def wait_s(self) -> float:
        if self.counts.get(self.key, 0) < self.quota:
            return 0.0
        return IN_FLIGHT_RETRY_S if self.reset_s is None else self.reset_s

    def left(self, *, charged: bool) -> Left:
        unused = max(0, self.quota - self.counts.get(self.key, 0) - charged)
        if self.reset_s is None:
            return Left(self.key[1], self.quota, unused)
        return Left(self.key[1], self.quota, unused, DAY_S, math.ceil(self.reset_s))

    def charge(self) -> None:
        self.counts[self.key] = self.counts.get(self.key, 0) + 1


class _Day:
    """What was used of the daily quotas.

    The next day begins at midnight UTC, or 24 hours after this one was first seen, should the clock have gone
    back by then. So a clock that goes back over midnight gives nothing twice, and locks nobody out for longer
    than a day.
    """

    def __init__(self) -> None:
        self.used: dict[_Key, int] = {}
        self._number = 0
        self._since = -math.inf

    def ends_in_s(self, now: float, wall: float) -> float:
        """How long the day still has, at `now` (monotonic) and `wall` (epoch) seconds; begins a new one."""
        number = math.floor(wall / DAY_S)
        if number > self._number or now - self._since >= DAY_S:
            self._number = max(number, self._number + 1)
            self._since = now
            self.used.clear()
        return min((self._number + 1) * DAY_S - wall, self._since + DAY_S - now)


class MemoryLimiter:
    """Limits within this process. `now` is monotonic, `wall` epoch seconds."""

    def __init__(self, now: Callable[[], float], wall: Callable[[], float]) -> None:
        self._now = now
        self._wall = wall
        self._spent: dict[_Key, tuple[Rate, float]] = {}
        self._in_flight: dict[_Key, int] = {}
        self._day = _Day()

    async def enter(self, client: Client, resource: str | None) -> Standing:
        """Charge a request to the client and, if its resource is known, to the client's limits for that.

        All or nothing: a standing with something violated has charged nothing, and must not `leave`.
        """
        meters = self._requests(client, resource)
        standing = _judged(meters)
        if not standing.violated:
            _charge(meters)
        return standing

    def leave(self, client: Client, resource: str | None) -> None:
        """A request that has entered has ended; `client` is the very value it entered with."""
        for prefix, limits in _scopes(client, resource):
            if limits.in_flight is not None:
                key = (client.name, f"{prefix}in-flight")
                if others := self._in_flight.pop(key) - 1:
                    self._in_flight[key] = others

    def fetch(self, client: Client, resource: str) -> Standing | None:
        """Charge a fetch; or, if that violates a limit, charge nothing and say how the client stands."""
        meters = self._fetches(client, resource)
        violation = self._violation(client, resource, meters)
        if violation is None:
            _charge(meters)
        return violation

    def peek(self, client: Client, resource: str | None) -> Standing:
        """What `enter` would say."""
        return _judged(self._requests(client, resource))

    def peek_fetch(self, client: Client, resource: str) -> Standing | None:
        """What `fetch` would say."""
        return self._violation(client, resource, self._fetches(client, resource))

    def _violation(self, client: Client, resource: str, fetches: Sequence[_Meter]) -> Standing | None:
        judged = _judged(fetches)
        if not judged.violated:
            return None
        # The request itself was charged when it entered.
        requests = tuple(meter.left(charged=False) for meter in self._requests(client, resource))
        left = tuple(left for left in judged.left if left.limit in judged.violated)
        return Standing(requests + left, judged.violated, judged.retry_after_s)

    def _requests(self, client: Client, resource: str | None) -> list[_Meter]:
        meters: list[_Meter] = []
        for prefix, limits in _scopes(client, resource):
            if limits.requests is not None:
                meters.append(self._rate((client.name, f"{prefix}requests"), limits.requests))
            if limits.requests_per_day is not None:
                key = (client.name, f"{prefix}requests-per-day")
                ends_in_s = self._day.ends_in_s(self._now(), self._wall())
                meters.append(_CountMeter(self._day.used, key, limits.requests_per_day, ends_in_s))
            if limits.in_flight is not None:
                key = (client.name, f"{prefix}in-flight")
                meters.append(_CountMeter(self._in_flight, key, limits.in_flight))
        return meters

    def _fetches(self, client: Client, resource: str) -> list[_Meter]:
        return [
            self._rate((client.name, f"{prefix}fetches"), limits.fetches)
            for prefix, limits in _scopes(client, resource)
            if limits.fetches is not None
        ]

    def _rate(self, key: _Key, rate: Rate) -> _RateMeter:
        now = self._now()
        before, tat = self._spent.get(key, (rate, UNUSED))
        return _RateMeter(
            self._spent, key, rate, tat if before == rate else carried(tat, before, rate, now), now
        )


def _scopes(client: Client, resource: str | None) -> Iterator[tuple[str, Limits]]:
    """The client's limits and those for the resource, each with what stands before their names."""
    yield "", client.limits
    if resource is not None and resource in client.limits.resources:
        yield f"{resource}.", client.limits.resources[resource]


def _judged(meters: Sequence[_Meter]) -> Standing:
    """The standing after one more; nothing is charged yet."""
    if not meters:
        return UNCOUNTED
    waits_s = [meter.wait_s for meter in meters]
    left = tuple(meter.left(charged=not any(waits_s)) for meter in meters)
    violated = tuple(each.limit for each, wait in zip(left, waits_s, strict=True) if wait)
    return Standing(left, violated, max(waits_s))


def _charge(meters: Sequence[_Meter]) -> None:
    for meter in meters:
        meter.charge()
