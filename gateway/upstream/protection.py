"""Which failures are remembered, so that a sick upstream is not asked at every poll.

After a failure a target whose answers are shared is held back for a step that doubles up to a bound; then one
request probes. A 429 speaks for the whole account: nothing is sent until its pause is over. And where nothing
of an account is answered any more, whatever is asked, its breaker opens: one request a step probes for all,
and the first sign of life closes it. No step and no believed pause is longer than five seconds: every request
upstream also keeps a chat alive, and a chat has only ten seconds between the vendor's poll interval and its
end.
"""

from __future__ import annotations

import enum
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from cachetools import LRUCache

from gateway.core.errors import Reason
from gateway.core.freshness import Failed
from gateway.core.messages import Key

FIRST_STEP_S = 0.25
LAST_STEP_S = 5.0
#: How long a 429 pauses at the least, and when it names no time: the vendor's retry page says a second.
MIN_PAUSE_S = 1.0
HELD_TARGETS = 50_000
#: So many failures of an account in a row open its breaker, of different chats where anybody was there to be
#: asked. Resilience4j's default window begins at ten, too.
TRIP = 10
#: How long it is open at first: longer than a target's first step, as it is closed to everybody.
FIRST_OPEN_S = 0.5
#: And at most: others probe, and what is left to a chat after two polls in vain is ten seconds.
LAST_OPEN_S = 2.0

DOWN = Failed(Reason.UPSTREAM_DOWN)
#: Nothing came, or nothing but the upstream's own excuse. Any other answer is a sign of life.
_LIFELESS = frozenset(
    {
        Reason.UPSTREAM_ERROR,
        Reason.UPSTREAM_RESET,
        Reason.UPSTREAM_TIMEOUT,
        Reason.UPSTREAM_UNREACHABLE,
    }
)


class Breaker(enum.Enum):
    """How an account's breaker stands. HALF_OPEN: a step is over, and the next request probes."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half-open"


@dataclass(frozen=True, slots=True)
class _Held:
    failed: Failed
    until: float
    step_s: float


@dataclass(frozen=True, slots=True)
class _Down:
    """An open breaker: until the step is over nobody is sent, and `prober` not before another step is."""

    until: float
    step_s: float
    prober: str | None = None


@dataclass(slots=True)
class _Row:
    """What has failed in a row: so many found nobody there, and whose requests failed otherwise."""

    unreachable: int = 0
    whose: set[str] = field(default_factory=set)

    def __len__(self) -> int:
        return self.unreachable + len(self.whose)


class Protection:
    """Backoff for each target, pauses and a breaker for each account. `now` is monotonic seconds.

    `whose` is the chat of a request, or what else it is about: one that is sick says nothing of the others.
    """

    def __init__(self, now: Callable[[], float], max_pause_s: Callable[[], float]) -> None:
        self._now = now
        self._max_pause_s = max_pause_s
        self._targets: LRUCache[Key, _Held] = LRUCache(HELD_TARGETS)
        self._accounts: dict[str, _Held] = {}
        #: Of accounts: what has failed in a row, and the breakers that are not closed.
        self._rows: defaultdict[str, _Row] = defaultdict(_Row)
        self._down: dict[str, _Down] = {}

    def hold(self, account: str, key: Key | None, whose: str) -> Failed | None:
        """Of the failures that still stand for account and target the longest, with what is left of it."""
        now = self._now()
        of_target = None if key is None else self._targets.get(key)
        standing = [
            (held.until, held.failed) for held in (self._accounts.get(account), of_target) if held is not None
        ]
        down = self._down.get(account)
        if down is not None:
            standing.append((down.until + (down.step_s if down.prober == whose else 0.0), DOWN))
        until, failed = max(standing, key=_until, default=(now, DOWN))
        return Failed(failed.reason, failed.received, until - now) if until > now else None

    def admit(self, account: str, whose: str) -> Failed | None:
        """`hold` for a request that will be sent in this step of the loop, unless something still stands.

        Where a step of the breaker is over, that request is the probe: the next one, twice as long, begins
        with it. So a probe that never ends holds up nobody for longer, and a late failure of what was sent
        before is not taken for its own. The probe after it is another's, if another asks.
        """
        hold = self.hold(account, None, whose)
        down = self._down.get(account)
        if hold is None and down is not None:
            self._open(account, min(down.step_s * 2, LAST_OPEN_S), whose)
        return hold

    def failed(self, account: str, key: Key | None, failed: Failed, whose: str) -> Failed:
        """Hold back what failed; the failure with the pause that is made of it, for the client to know.

        What nobody shares, a write or a read of its own, comes without a key: it is held back by nothing but
        its account's pause and breaker.
        """
        self._count(account, failed.reason, whose)
        pause_s: float | None = None
        now = self._now()
        if failed.reason is Reason.UPSTREAM_THROTTLED:
            pause_s = min(max(failed.retry_after_s or 0.0, MIN_PAUSE_S), self._max_pause_s())
            before = self._accounts.get(account)
            if before is not None and now + pause_s < before.until:
                # Of several answers that were under way at once, the longest pause counts.
                pause_s = before.until - now
            else:
                self._accounts[account] = _Held(failed, now + pause_s, pause_s)
        elif key is not None:
            previous = self._targets.get(key)
            if previous is not None and now < previous.until:
                # It was asked before the hold, so it is no probe.
                return Failed(failed.reason, failed.received, previous.until - now)
            pause_s = FIRST_STEP_S if previous is None else min(previous.step_s * 2, LAST_STEP_S)
            self._targets[key] = _Held(failed, now + pause_s, pause_s)
        return Failed(failed.reason, failed.received, pause_s)

    def succeeded(self, account: str, key: Key | None) -> None:
        """The account answers, and so does the target, if anybody shares it."""
        self._close(account)
        if key is not None:
            self._targets.pop(key, None)

    def forget_targets(self) -> None:
        """All are somewhere else from now on, and accounts too. One that has to pause still has to."""
        self._targets.clear()
        self._rows.clear()
        self._down.clear()

    def state(self) -> Mapping[str, Breaker]:
        """How the breakers stand of the accounts that failed last; those of all others are closed."""
        return {account: self._state(account) for account in self._rows}

    def _state(self, account: str) -> Breaker:
        down = self._down.get(account)
        if down is None:
            return Breaker.CLOSED
        return Breaker.OPEN if self._now() < down.until else Breaker.HALF_OPEN

    def _count(self, account: str, reason: Reason, whose: str) -> None:
        if reason not in _LIFELESS:
            self._close(account)
            return
        row = self._rows[account]
        if reason is Reason.UPSTREAM_UNREACHABLE:
            row.unreachable += 1
        elif len(row.whose) < TRIP:
            row.whose.add(whose)
        if len(row) >= TRIP and account not in self._down:
            self._open(account, FIRST_OPEN_S)

    def _open(self, account: str, step_s: float, prober: str | None = None) -> None:
        self._down[account] = _Down(self._now() + step_s, step_s, prober)

    def _close(self, account: str) -> None:
        self._rows.pop(account, None)
        self._down.pop(account, None)


def _until(standing: tuple[float, Failed]) -> float:
    return standing[0]
