"""How often, as values: what a client's policy allows, and what is left of it.

Rates are kept by the generic cell rate algorithm (ITU-T I.371): one number a limit, the theoretical arrival
time (`tat`), and no window that opens all at once. Over any window of w seconds it admits at most
rate * w + burst. The number of a limit that was never used is `UNUSED`, and one that was used under another
rate must be `carried` over. `now` is monotonic seconds.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

DAY_S = 86_400

#: The arrival time of a limit that nobody has used.
UNUSED = -math.inf

# Arrival times lie on a grid on which sums and differences of floats are exact (up to 17 years of uptime),
# so that a burst of 30 is 30, not 29, wherever the clock stands. The step is 60 ns.
_STEPS_A_SECOND = 2.0**24


@dataclass(frozen=True, slots=True)
class Rate:
    """So many a second on average, and `burst` at once.

    `interval_s` is how long one takes to come back, rounded up to the grid: never faster than the rate.
    `tolerance_s` is how far ahead of `now` the arrival time of one that is admitted may be.
    """

    per_s: float
    burst: int
    interval_s: float = field(init=False, repr=False, compare=False)
    tolerance_s: float = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        # Every request asks for them, several times.
        object.__setattr__(self, "interval_s", _up_to_grid(1 / self.per_s))
        object.__setattr__(self, "tolerance_s", (self.burst - 1) * self.interval_s)


@dataclass(frozen=True, slots=True)
class Limits:
    """What a client may do, in all or with one resource; None is without limit.

    `requests` and `requests_per_day` count requests, `fetches` those that made the gateway ask the upstream,
    `in_flight` those in progress, `streams` those that wait to be told of changes, in each replica.
    `resources` has further limits by the name of the resource. If they are `exact`, all replicas together
    keep to those of requests, else each keeps to its share.
    """

    requests: Rate | None = None
    requests_per_day: int | None = None
    fetches: Rate | None = None
    in_flight: int | None = None
    resources: Mapping[str, Limits] = field(default_factory=dict)
    exact: bool = False
    streams: int = 100


UNLIMITED = Limits()


def scopes(limits: Limits, resource: str | None) -> Iterator[tuple[str, Limits]]:
    """The limits in all and those for the resource, each with what stands before their names."""
    yield "", limits
    if resource is not None and resource in limits.resources:
        yield f"{resource}.", limits.resources[resource]


def share(many: int, replicas: int) -> int:
    """A replica's part of so many: rounded up, so that nobody is shut out."""
    return -(-many // replicas)


def wait_s(tat: float, rate: Rate, now: float) -> float:
    """How long until one more is admitted; 0 if it is now."""
    # What lies on the grid is later than `now` just if it is later than the step that `now` is in.
    if tat - rate.tolerance_s <= now:
        return 0.0
    return tat - _down_to_grid(now) - rate.tolerance_s


def advanced(tat: float, rate: Rate, now: float) -> float:
    """The arrival time once one more has been admitted."""
    return max(tat, _down_to_grid(now)) + rate.interval_s


def remaining(tat: float, rate: Rate, now: float) -> tuple[int, float]:
    """How many more are admitted at this instant, and how long until there are more; 0 if all are."""
    ahead_s = tat - _down_to_grid(now)
    if ahead_s <= 0:
        return rate.burst, 0.0
    # Those that have not come back yet, the one on its way included.
    owed = -int(-ahead_s // rate.interval_s)
    return rate.burst - owed, ahead_s - (owed - 1) * rate.interval_s


def taken(tat: float, rate: Rate, now: float) -> tuple[float, int, float]:
    """`advanced`, and what is `remaining` after that: in one step, because every hit takes it."""
    interval_s = rate.interval_s
    at = math.floor(now * _STEPS_A_SECOND) / _STEPS_A_SECOND
    ahead_s = tat - at + interval_s if tat > at else interval_s
    owed = -int(-ahead_s // interval_s)
    return at + ahead_s, rate.burst - owed, ahead_s - (owed - 1) * interval_s


def carried(tat: float, old: Rate, new: Rate, now: float) -> float:
    """The arrival time under a new rate, with as much left as there was, or as the new burst can hold.

    So a change of limits is never a gift, however often it comes, and nobody waits longer for the next one
    than the new rate says.
    """
    ahead_s = max(0.0, tat - _down_to_grid(now))
    left = old.burst - ahead_s / old.interval_s
    owed_s = (new.burst - min(max(0.0, left), new.burst)) * new.interval_s
    return _down_to_grid(now) + _up_to_grid(owed_s)


def refunded(tat: float, rate: Rate) -> float:
    """The arrival time once one that was charged has been given back.

    One that has come back by itself meanwhile comes back twice; so each refund lets in one too many at most.
    """
    return tat - rate.interval_s


def _down_to_grid(seconds: float) -> float:
    return math.floor(seconds * _STEPS_A_SECOND) / _STEPS_A_SECOND


def _up_to_grid(seconds: float) -> float:
    return math.ceil(seconds * _STEPS_A_SECOND) / _STEPS_A_SECOND


@dataclass(frozen=True, slots=True)
class Left:
    """What is left of one limit: `remaining` of `quota` in a window of so many seconds.

    `reset_s` is when there will be more. A limit of requests in progress has neither.
    """

    limit: str
    quota: int
    remaining: int
    window_s: int | None = None
    reset_s: int | None = None


@dataclass(frozen=True, slots=True)
class Standing:
    """How a client stands after a request: what is left, and which limits it broke."""

    left: tuple[Left, ...] = ()
    violated: tuple[str, ...] = ()
    retry_after_s: float = 0.0

    @property
    def lines(self) -> bytes:
        """`RateLimit-Policy` and `RateLimit` as lines of a head; nothing where nothing is limited.

        A refusal tells in `RateLimit` only what was violated: Retry-After should not be earlier than any `t`
        beside it (draft-ietf-httpapi-ratelimit-headers-11 §6).
        """
        if not self.left:
            return b""
        told = [left for left in self.left if not self.violated or left.limit in self.violated]
        return limit_lines(
            ", ".join([policy(left.limit, left.quota, left.window_s) for left in self.left]),
            ", ".join([service_limit(left.limit, left.remaining, left.reset_s) for left in told]),
        )


UNCOUNTED = Standing()


# -- what clients are told (draft-ietf-httpapi-ratelimit-headers-11) ----------------------------------------


def window_s(rate: Rate) -> int:
    """In how many seconds all of the burst comes back, rounded up."""
    # 11 a minute are 11 in 60 s, also where floats make a little more of it.
    return max(1, math.ceil(rate.burst / rate.per_s - 1e-9))


def policy(limit: str, quota: int, window_s: int | None) -> str:
    """A quota policy (§3): what never changes of a limit."""
    kind = 'qu="concurrent-requests"' if window_s is None else f"w={window_s}"
    return f'"{limit}";q={quota};{kind}'


def service_limit(limit: str, remaining: int, reset_s: int | None) -> str:
    """A service limit (§4). With requests in progress there is no telling when, so they have no `t`."""
    return f'"{limit}";r={remaining}' if reset_s is None else f'"{limit}";r={remaining};t={reset_s}'


def rate_lines(policies: str, limit: str) -> bytes:
    """`limit_lines` of one rate, with places (%d) for what remains and until when."""
    lines = limit_lines(policies, f'"{limit}";r=\0;t=\0').replace(b"%", b"%%")
    return lines.replace(b"\0", b"%d")


def limit_lines(policies: str, service_limits: str) -> bytes:
    """Both fields; each is a list (§3, §4), whose items are joined already."""
    return f"ratelimit-policy: {policies}\r\nratelimit: {service_limits}\r\n".encode()
