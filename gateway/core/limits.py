"""How often, as values: what a client's policy allows, and what is left of it.

Rates are kept by the generic cell rate algorithm (ITU-T I.371): one number a limit, the theoretical arrival
time (`tat`), and no window that opens all at once. Over any window of w seconds it admits at most
rate * w + burst. The number of a limit that was never used is `UNUSED`, and one that was used under another
rate must be `carried` over. `now` is monotonic seconds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from gateway.core.messages import Headers

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
    """

    per_s: float
    burst: int
    interval_s: float = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        # Every request asks for it, several times.
        object.__setattr__(self, "interval_s", _up_to_grid(1 / self.per_s))


@dataclass(frozen=True, slots=True)
class Limits:
    """What a client may do, in all or with one resource; None is without limit.

    `requests` and `requests_per_day` count requests, `fetches` those that made the gateway ask the upstream,
    `in_flight` those in progress. `resources` has further limits by the name of the resource.
    """

    requests: Rate | None = None
    requests_per_day: int | None = None
    fetches: Rate | None = None
    in_flight: int | None = None
    resources: Mapping[str, Limits] = field(default_factory=dict)


UNLIMITED = Limits()


def wait_s(tat: float, rate: Rate, now: float) -> float:
    """How long until one more is admitted; 0 if it is now."""
    return max(0.0, _ahead_s(tat, now) - (rate.burst - 1) * rate.interval_s)


def advanced(tat: float, rate: Rate, now: float) -> float:
    """The arrival time once one more has been admitted."""
    return max(tat, _down_to_grid(now)) + rate.interval_s


def remaining(tat: float, rate: Rate, now: float) -> int:
    """How many more are admitted at this instant."""
    return rate.burst - _owed(tat, rate, now)


def more_in_s(tat: float, rate: Rate, now: float) -> float:
    """How long until more remain than now; 0 if all do."""
    owed = _owed(tat, rate, now)
    return _ahead_s(tat, now) - (owed - 1) * rate.interval_s if owed else 0.0


def carried(tat: float, old: Rate, new: Rate, now: float) -> float:
    """The arrival time under a new rate, with as much left as there was, or as the new burst can hold.

    So a change of limits is never a gift, however often it comes, and nobody waits longer for the next one
    than the new rate says.
    """
    left = old.burst - _ahead_s(tat, now) / old.interval_s
    owed_s = (new.burst - min(max(0.0, left), new.burst)) * new.interval_s
    return _down_to_grid(now) + _up_to_grid(owed_s)


def _down_to_grid(seconds: float) -> float:
    return math.floor(seconds * _STEPS_A_SECOND) / _STEPS_A_SECOND


def _up_to_grid(seconds: float) -> float:
    return math.ceil(seconds * _STEPS_A_SECOND) / _STEPS_A_SECOND


def _ahead_s(tat: float, now: float) -> float:
    return max(0.0, tat - _down_to_grid(now))


def _owed(tat: float, rate: Rate, now: float) -> int:
    """How many have not come back yet, the one on its way included."""
    return -int(-_ahead_s(tat, now) // rate.interval_s)


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
    def fields(self) -> Headers:
        """`RateLimit-Policy` and `RateLimit` (draft-ietf-httpapi-ratelimit-headers-11).

        A refusal tells in `RateLimit` only what was violated: Retry-After should not be earlier than any `t`
        beside it (§6). With requests in progress there is no telling when, so they have no `t`.
        """
        if not self.left:
            return ()
        told = [left for left in self.left if not self.violated or left.limit in self.violated]
        return (
            (b"ratelimit-policy", ", ".join(map(_policy, self.left)).encode()),
            (b"ratelimit", ", ".join(map(_service_limit, told)).encode()),
        )


UNCOUNTED = Standing()


def _policy(left: Left) -> str:
    kind = 'qu="concurrent-requests"' if left.window_s is None else f"w={left.window_s}"
    return f'"{left.limit}";q={left.quota};{kind}'


def _service_limit(left: Left) -> str:
    until = "" if left.reset_s is None else f";t={left.reset_s}"
    return f'"{left.limit}";r={left.remaining}{until}'
