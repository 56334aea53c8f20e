"""The limits of the clients of one process, counted.

What is counted is kept by client and limit, so a change of policies forgets nothing; the names come from
files, so it stays small. A request is charged to all of its limits or to none. One of several replicas keeps
to its share of rates and of requests in progress, and knows what others have used of daily quotas.

    client, resource → lane → its meters → what was used, shared by all lanes that meet the limit
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol
from weakref import WeakSet

from gateway.core.limits import (
    DAY_S,
    UNCOUNTED,
    UNUSED,
    Left,
    Limits,
    Rate,
    Standing,
    carried,
    limit_lines,
    policy,
    rate_lines,
    refunded,
    remaining,
    scopes,
    service_limit,
    share,
    taken,
    wait_s,
    window_s,
)
from gateway.core.policy import Client

#: Nobody knows when one of the requests in progress will end.
IN_FLIGHT_RETRY_S = 1.0

_Key = tuple[str, str]  # (client, limit)
_Left = tuple[int, int | None]  # how many remain, and in how many seconds there will be more


# -- what was used ------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Arrival:
    """The arrival time of a limit, and the rate under which it was charged last; None if it never was."""

    tat: float = UNUSED
    rate: Rate | None = None


@dataclass(slots=True)
class _Count:
    used: int = 0


@dataclass(slots=True)
class _DayCount(_Count):
    """`used` is by all; of that, `elsewhere` is what others used, as far as is known."""

    elsewhere: int = 0


class _Share:
    """A replica's part of what the policies allow to all."""

    def __init__(self, replicas: int) -> None:
        self.replicas = replicas
        self._rates: dict[Rate, Rate] = {}

    def rate(self, whole: Rate) -> Rate:
        """Equal ones are the same object, which lanes find out quickest."""
        if self.replicas == 1:
            return whole
        part = self._rates.get(whole)
        if part is None:
            part = Rate(whole.per_s / self.replicas, share(whole.burst, self.replicas))
            self._rates[whole] = part
        return part

    def many(self, whole: int) -> int:
        return share(whole, self.replicas)


class _Day:
    """What was used of the daily quotas.

    The next day begins at midnight UTC, or 24 hours after this one was first seen, should the clock have gone
    back by then. So a clock that goes back over midnight gives nothing twice, and locks nobody out for longer
    than a day.
    """

    def __init__(self) -> None:
        self.counts: dict[_Key, _DayCount] = {}
        self.ends_in_s = 0.0  # as it was last seen
        self.number = 0
        self._since = -math.inf

    def see(self, now: float, wall: float) -> None:
        """The clocks have got so far: perhaps into a new day."""
        number = math.floor(wall / DAY_S)
        if number > self.number or now - self._since >= DAY_S:
            self.number = max(number, self.number + 1)
            self._since = now
            for count in self.counts.values():
                count.used = count.elsewhere = 0
        # Written so that neither is ever 0, which would be no wait.
        self.ends_in_s = min((self.number + 1) * DAY_S - wall, DAY_S - (now - self._since))

    def count(self, client: str, limit: str) -> _DayCount:
        return self.counts.setdefault((client, limit), _DayCount())


# -- meters -------------------------------------------------------------------------------------------------


class _Meter(Protocol):
    """One limit, as the requests of one lane meet it."""

    limit: str
    quota: int
    window_s: int | None

    def wait_s(self, now: float, /) -> float:
        """How long until one more is admitted; 0 if it is now."""

    def take(self, now: float, /) -> _Left:
        """Charge one, and say what is left after it."""

    def left(self, now: float, /, *, more: int) -> _Left:
        """What would be left after `more`, which is 1 or 0."""

    def divide(self, part: _Share, now: float, /) -> None:
        """Keep to another share of the limit from now on."""


class _RateMeter:
    __slots__ = ("_arrival", "_rate", "_whole", "limit", "quota", "window_s")

    def __init__(self, limit: str, whole: Rate, part: _Share, arrival: _Arrival) -> None:
        self.limit = limit
        self._whole = whole
        self._arrival = arrival
        self._keep_to(part.rate(whole))

    def _keep_to(self, rate: Rate) -> None:
        self._rate = rate
        self.quota = rate.burst
        self.window_s: int | None = window_s(rate)

    def divide(self, part: _Share, now: float, /) -> None:
        arrival, before, after = self._arrival, self._rate, part.rate(self._whole)
        # At once, not with the next request: until then it would come back at the rate of before. Another
        # lane may have done it already, or have charged it under other limits.
        if arrival.rate == before != after:
            arrival.tat, arrival.rate = carried(arrival.tat, before, after, now), after
        self._keep_to(after)

    def wait_s(self, now: float, /) -> float:
        return wait_s(self._tat(now), self._rate, now)

    def take(self, now: float, /) -> _Left:
        arrival = self._arrival
        arrival.tat, left, more_in_s = taken(self._tat(now), self._rate, now)
        arrival.rate = self._rate
        return left, math.ceil(more_in_s)

    def hit(self, now: float) -> tuple[int, int] | None:
        """`take`, if there is no wait."""
        arrival, rate = self._arrival, self._rate
        tat = arrival.tat if arrival.rate is rate else self._tat(now)
        if tat - rate.tolerance_s > now:
            return None
        arrival.tat, left, more_in_s = taken(tat, rate, now)
        arrival.rate = rate
        return left, math.ceil(more_in_s)

    def refund(self) -> None:
        """Give one back that was charged."""
        arrival = self._arrival
        if arrival.rate is not None:
            arrival.tat = refunded(arrival.tat, arrival.rate)

    def left(self, now: float, /, *, more: int) -> _Left:
        tat = self._tat(now)
        left, more_in_s = taken(tat, self._rate, now)[1:] if more else remaining(tat, self._rate, now)
        return left, math.ceil(more_in_s)

    def _tat(self, now: float) -> float:
        arrival, rate = self._arrival, self._rate
        # Another lane may have charged it last, under what was the rate before a reload.
        if arrival.rate is rate or arrival.rate is None or arrival.rate == rate:
            return arrival.tat
        return carried(arrival.tat, arrival.rate, rate, now)


class _DayMeter:
    __slots__ = ("_count", "_day", "limit", "quota", "window_s")

    def __init__(self, limit: str, quota: int, count: _Count, day: _Day) -> None:
        self.limit = limit
        self.quota = quota
        self.window_s: int | None = DAY_S
        self._count = count
        self._day = day

    def wait_s(self, _: float, /) -> float:
        return 0.0 if self._count.used < self.quota else self._day.ends_in_s

    def take(self, now: float, /) -> _Left:
        self._count.used += 1
        return self.left(now, more=0)

    def left(self, _: float, /, *, more: int) -> _Left:
        return max(0, self.quota - self._count.used - more), math.ceil(self._day.ends_in_s)

    def divide(self, part: _Share, now: float, /) -> None:
        """Nothing to do: all use one quota."""


class _InFlightMeter:
    __slots__ = ("_count", "_whole", "limit", "quota", "window_s")

    def __init__(self, limit: str, whole: int, part: _Share, count: _Count) -> None:
        self.limit = limit
        self.quota = part.many(whole)
        self.window_s: int | None = None
        self._whole = whole
        self._count = count

    def wait_s(self, _: float, /) -> float:
        return 0.0 if self._count.used < self.quota else IN_FLIGHT_RETRY_S

    def take(self, now: float, /) -> _Left:
        self._count.used += 1
        return self.left(now, more=0)

    def left(self, _: float, /, *, more: int) -> _Left:
        return max(0, self.quota - self._count.used - more), None

    def divide(self, part: _Share, _: float, /) -> None:
        self.quota = part.many(self._whole)

    def leave(self) -> None:
        if not self._count.used:
            raise RuntimeError(f"{self.limit}: more requests have left than had entered")
        self._count.used -= 1

    def rejoin(self) -> None:
        self._count.used += 1


# -- lanes --------------------------------------------------------------------------------------------------


class Lane:
    """What the requests of a client for one resource are charged to, under `limits`.

    `now` is monotonic, `wall` epoch seconds. A change of limits makes another lane; this one still counts,
    under the limits that it has, and the replica's share of them.
    """

    __slots__ = (
        "__weakref__",
        "_day",
        "_fetches",
        "_in_flight",
        "_lines",
        "_only",
        "_policies",
        "_requests",
        "limits",
    )

    def __init__(
        self, limits: Limits, requests: Sequence[_Meter], fetches: Sequence[_RateMeter], day: _Day | None
    ) -> None:
        self.limits = limits
        self._requests = tuple(requests)
        self._fetches = tuple(fetches)
        self._day = day
        self._in_flight = tuple(meter for meter in requests if isinstance(meter, _InFlightMeter))
        # What most clients have is a rate and nothing else.
        only = requests[0] if len(requests) == 1 else None
        self._only = only if isinstance(only, _RateMeter) else None
        self._write_policies()

    def _write_policies(self) -> None:
        meters = self._requests
        self._policies = ", ".join(policy(meter.limit, meter.quota, meter.window_s) for meter in meters)
        self._lines = b"" if self._only is None else rate_lines(self._policies, self._only.limit)

    def divide(self, part: _Share, now: float) -> None:
        """Keep to another share of the limits from now on; nothing is given for that."""
        for meter in (*self._requests, *self._fetches):
            meter.divide(part, now)
        self._write_policies()

    def hit(self, now: float, wall: float) -> bytes | None:
        """Charge a request that ends at once, and tell as `Standing.lines` does how the client stands.

        None if that violates a limit; nothing is charged then.
        """
        if self._only is not None:
            numbers = self._only.hit(now)
            return None if numbers is None else self._lines % numbers
        meters = self._requests
        if not meters:
            return b""
        if self._day is not None:
            self._day.see(now, wall)
        for meter in meters:
            if meter.wait_s(now):
                return None
        told = []
        for meter in meters:
            left, reset_s = meter.take(now)
            told.append(service_limit(meter.limit, left, reset_s))
        if self._in_flight:
            self.leave()
        return limit_lines(self._policies, ", ".join(told))

    def enter(self, now: float, wall: float) -> Standing:
        """Charge a request.

        All or nothing: a standing with something violated has charged nothing, and must not `leave`.
        """
        return self._request(now, wall, charge=True)

    def peek(self, now: float, wall: float) -> Standing:
        """What `enter` would say."""
        return self._request(now, wall, charge=False)

    def leave(self) -> None:
        """A request that has entered has ended."""
        for meter in self._in_flight:
            meter.leave()

    def rejoin(self) -> None:
        """One that has left goes on, whatever there is room for."""
        for meter in self._in_flight:
            meter.rejoin()

    def fetch(self, now: float, wall: float) -> Standing | None:
        """Charge a fetch; or, if that violates a limit, charge nothing and say how the client stands."""
        return self._fetch(now, wall, charge=True)

    def refund(self) -> None:
        """A fetch that was charged asked nobody after all."""
        for meter in self._fetches:
            meter.refund()

    def peek_fetch(self, now: float, wall: float) -> Standing | None:
        """What `fetch` would say."""
        return self._fetch(now, wall, charge=False)

    def _request(self, now: float, wall: float, *, charge: bool) -> Standing:
        if self._day is not None:
            self._day.see(now, wall)
        return _standing(self._requests, now, charge=charge)

    def _fetch(self, now: float, wall: float, *, charge: bool) -> Standing | None:
        standing = _standing(self._fetches, now, charge=charge)
        if not standing.violated:
            return None
        if self._day is not None:
            self._day.see(now, wall)
        # The request itself was charged when it entered.
        requests = _uncharged(self._requests, now)
        fetches = tuple(left for left in standing.left if left.limit in standing.violated)
        return Standing(requests + fetches, standing.violated, standing.retry_after_s)


def _standing(meters: Sequence[_Meter], now: float, *, charge: bool) -> Standing:
    """The standing after one more, which is charged if it should be and violates nothing."""
    if not meters:
        return UNCOUNTED
    waits_s = [meter.wait_s(now) for meter in meters]
    if not any(waits_s):
        lefts = [meter.take(now) if charge else meter.left(now, more=1) for meter in meters]
        return Standing(tuple(map(_told, meters, lefts)))
    violated = tuple(meter.limit for meter, wait in zip(meters, waits_s, strict=True) if wait)
    return Standing(_uncharged(meters, now), violated, max(waits_s))


def _uncharged(meters: Sequence[_Meter], now: float) -> tuple[Left, ...]:
    return tuple(_told(meter, meter.left(now, more=0)) for meter in meters)


def _told(meter: _Meter, left: _Left) -> Left:
    many, reset_s = left
    return Left(meter.limit, meter.quota, many, meter.window_s, reset_s)


# -- clients ------------------------------------------------------------------------------------------------


class MemoryLimiter:
    """Limits within this process, which is one of so many replicas.

    `now` is monotonic, `wall` epoch seconds.
    """

    def __init__(self, now: Callable[[], float], wall: Callable[[], float]) -> None:
        self._now = now
        self._wall = wall
        self._arrivals: dict[_Key, _Arrival] = {}
        self._in_flight: dict[_Key, _Count] = {}
        self._watching: Counter[str] = Counter()
        self._day = _Day()
        self._lanes: dict[tuple[str, str | None], Lane] = {}
        #: Others hold lanes too, older ones among them.
        self._laid: WeakSet[Lane] = WeakSet()
        self._share = _Share(1)

    def lane(self, client: Client, resource: str | None) -> Lane:
        """What requests of the client, under its limits of now, are charged to.

        Those that a client has for the resource come on top of those that it has in all.
        """
        lane = self._lanes.get((client.name, resource))
        if lane is None or lane.limits is not client.limits:
            lane = self._lanes[client.name, resource] = self._lay(client, resource)
        return lane

    async def enter(self, client: Client, resource: str | None) -> Standing:
        """Charge a request to the client and, if its resource is known, to the client's limits for that.

        All or nothing: a standing with something violated has charged nothing, and must not `leave`.
        """
        return self.lane(client, resource).enter(self._now(), self._wall())

    def leave(self, client: Client, resource: str | None) -> None:
        """A request that has entered has ended; `client` is the very value it entered with."""
        self.lane(client, resource).leave()

    def rejoin(self, client: Client, resource: str | None) -> None:
        """A request that has left goes on, and will leave again."""
        self.lane(client, resource).rejoin()

    def fetch(self, client: Client, resource: str) -> Standing | None:
        """Charge a fetch; or, if that violates a limit, charge nothing and say how the client stands."""
        return self.lane(client, resource).fetch(self._now(), self._wall())

    def refund(self, client: Client, resource: str) -> None:
        """A fetch that was charged asked nobody after all; `client` is the very value it was charged to."""
        self.lane(client, resource).refund()

    def watch(self, client: Client) -> Standing | None:
        """Take the place of one more watcher; or how the client stands, if it has no more."""
        if self._watching[client.name] >= client.limits.streams:
            return Standing((), ("streams",), IN_FLIGHT_RETRY_S)
        self._watching[client.name] += 1
        return None

    def unwatch(self, client: Client) -> None:
        """One of those that were let in watches no more."""
        if not self._watching[client.name]:
            raise RuntimeError("streams: more watchers have left than had come")
        self._watching[client.name] -= 1

    async def peek(self, client: Client, resource: str | None) -> Standing:
        """What `enter` would say."""
        return self.lane(client, resource).peek(self._now(), self._wall())

    def peek_fetch(self, client: Client, resource: str) -> Standing | None:
        """What `fetch` would say."""
        return self.lane(client, resource).peek_fetch(self._now(), self._wall())

    # -- with other replicas ------------------------------------------------------------------------------

    def divide(self, replicas: int) -> None:
        """Keep to the share of one of so many, in all lanes at once."""
        if replicas != self._share.replicas:
            self._share = _Share(replicas)
            for lane in self._laid:
                lane.divide(self._share, self._now())

    def counted(self, day: int) -> Mapping[str, int]:
        """What was charged here to the daily quotas of that epoch day, by `client/limit`."""
        counts = self._day.counts if self._is_today(day) else {}
        return {"/".join(key): count.used - count.elsewhere for key, count in counts.items()}

    def learn(self, day: int, elsewhere: Mapping[str, int]) -> None:
        """Other replicas have charged so much; what is known already is never taken back on that day."""
        if self._is_today(day):
            for name, used in elsewhere.items():
                count = self._day.count(*_key(name))
                more = max(0, used - count.elsewhere)
                count.elsewhere += more
                count.used += more

    def recount(self, client: str, limit: str, used: int) -> None:
        """Of today's quota so much is used, as somebody knows who counts for all."""
        self._day.see(self._now(), self._wall())
        count = self._day.count(client, limit)
        count.elsewhere += used - count.used
        count.used = used

    def _is_today(self, day: int) -> bool:
        self._day.see(self._now(), self._wall())
        return day == self._day.number

    # -- laying -------------------------------------------------------------------------------------------

    def _lay(self, client: Client, resource: str | None) -> Lane:
        requests: list[_Meter] = []
        fetches: list[_RateMeter] = []
        day = None
        for prefix, limits in scopes(client.limits, resource):
            if limits.requests is not None:
                requests.append(self._rate(client.name, f"{prefix}requests", limits.requests))
            if limits.requests_per_day is not None:
                day, limit = self._day, f"{prefix}requests-per-day"
                count = day.count(client.name, limit)
                requests.append(_DayMeter(limit, limits.requests_per_day, count, day))
            if limits.in_flight is not None:
                limit = f"{prefix}in-flight"
                inside = self._in_flight.setdefault((client.name, limit), _Count())
                requests.append(_InFlightMeter(limit, limits.in_flight, self._share, inside))
            if limits.fetches is not None:
                fetches.append(self._rate(client.name, f"{prefix}fetches", limits.fetches))
        lane = Lane(client.limits, requests, fetches, day)
        self._laid.add(lane)
        return lane

    def _rate(self, client: str, limit: str, rate: Rate) -> _RateMeter:
        return _RateMeter(limit, rate, self._share, self._arrivals.setdefault((client, limit), _Arrival()))


def _key(name: str) -> _Key:
    client, _, limit = name.partition("/")
    return client, limit
