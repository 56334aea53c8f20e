"""When the gateway itself has more to do than it can: who is refused, before anything is done for him.

Two signs tell: how many requests are under way, and how late the event loop is with what is due. The lower a
client's priority, the earlier it is refused, so that the rest are served as ever. Polls that the short cut
answers don't come here: a hit costs less than a refusal.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice

from gateway.core.errors import Reason, Refusal
from gateway.core.policy import Priority

#: How often the loop is looked at, and how many looks in a row have to find it late. The least of their lags
#: counts, as of the delays in CoDel (RFC 8289 §3.1): one stall, however long, is a reload or a collection and
#: no overload, and the first look in time says that it is over.
TICK_S = 0.050
LOOKS = 4
#: The greatest lag that is told is of this half minute and the one before.
GREATEST_S = 30.0
#: A wall clock that is corrected by less than this needs no attention: tokens count in seconds.
JUMP_S = 1.0
#: Whoever is refused may come back after one, two or three seconds. Whole ones, as that is what can be said.
RETRIES_S = 3

#: Up to what share of the requests, and to how many times the lag, each priority is served. What is too much
#: for the highest is too much for everybody.
_SERVED = {
    Priority.LOW: (0.5, 1.0),
    Priority.NORMAL: (0.75, 2.0),
    Priority.HIGH: (1.0, 4.0),
}


@dataclass(frozen=True, slots=True)
class Bounds:
    """How many requests may be under way, and how late the loop may be; the defaults are the settings'."""

    max_requests: int = 4_000
    lag_s: float = 0.1


class Overload:
    """Counts the requests on the road and watches the loop.

    `bounds` is asked each time, `now` is monotonic seconds, `jitter` gives 0 to 1, without the 1.
    """

    def __init__(
        self, bounds: Callable[[], Bounds], now: Callable[[], float], jitter: Callable[[], float]
    ) -> None:
        self._bounds = bounds
        self._now = now
        self._jitter = jitter
        #: Requests under way.
        self.requests = 0
        #: The least of the last lags, and of all but the oldest of them.
        self._least_s = self._newer_s = 0.0
        self._due = math.inf
        self._greatest_s = [0.0, 0.0]
        self._greatest_since = -math.inf

    @property
    def lag_s(self) -> float:
        """How late the loop has been at the least, the last `LOOKS` times."""
        # A look that is late now is one of them already: a step of the loop may be long.
        return max(self._least_s, min(self._newer_s, self._now() - self._due))

    @property
    def lag_max_s(self) -> float:
        """How late the loop has been at the most, in the last half to whole minute."""
        return max(*self._greatest_s, self._now() - self._due)

    def _seen(self, lag_s: float, now: float) -> None:
        if now - self._greatest_since >= GREATEST_S:
            self._greatest_s = [0.0, self._greatest_s[0]]
            self._greatest_since = now
        self._greatest_s[0] = max(self._greatest_s[0], lag_s)

    def enter(self) -> None:
        """A request comes in; `leave` when it goes, whatever became of it."""
        self.requests += 1

    def leave(self) -> None:
        self.requests -= 1

    def refuses(self, priority: Priority | None) -> Refusal | None:
        """Whether one that has entered is refused; None is for one at the door, of whom nothing is known."""
        bounds = self._bounds()
        share, lags = _SERVED[priority or Priority.HIGH]
        requests = self.requests + (priority is None)
        if requests <= share * bounds.max_requests and self.lag_s <= lags * bounds.lag_s:
            return None
        return Refusal(Reason.OVERLOADED, retry_after_s=1.0 + math.floor(RETRIES_S * self._jitter()))

    async def watch(self, wall: Callable[[], float], jumped: Callable[[float], None]) -> None:
        """See how late the loop is, for ever.

        `wall` is epoch seconds; `jumped` hears by how many it has moved against the monotonic clock, if it
        was set or the machine slept.
        """
        lags_s = deque([0.0] * LOOKS, LOOKS)
        ahead_s = wall() - self._now()
        try:
            while True:
                self._due = self._now() + TICK_S
                await asyncio.sleep(TICK_S)
                now = self._now()
                lags_s.append(max(0.0, now - self._due))
                self._seen(lags_s[-1], now)
                self._least_s, self._newer_s = min(lags_s), min(islice(lags_s, 1, None))
                moved_s = wall() - now - ahead_s
                if abs(moved_s) > JUMP_S:
                    ahead_s += moved_s
                    jumped(moved_s)
        finally:
            # Who does not look knows of no lag; what was seen last must not stand for ever.
            self._least_s = self._newer_s = 0.0
            self._greatest_s = [0.0, 0.0]
            self._due = math.inf
