"""Which failures are remembered, so that a sick upstream is not asked at every poll.

After a failure a target whose answers are shared is held back for a step that doubles up to a bound; then one
request probes. A 429 speaks for the whole account: nothing is sent until its pause is over. No step and no
believed pause is longer than five seconds: every request upstream also keeps a chat alive, and a chat has
only ten seconds between the vendor's poll interval and its end.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from cachetools import LRUCache

from gateway.core.errors import Reason
from gateway.core.freshness import Failed
from gateway.core.messages import Key

FIRST_STEP_S = 0.25
LAST_STEP_S = 5.0
#: How long a 429 pauses at the least, and when it names no time: the vendor's retry page says a second.
MIN_PAUSE_S = 1.0
HELD_TARGETS = 50_000


@dataclass(frozen=True, slots=True)
class _Held:
    failed: Failed
    until: float
    step_s: float


class Protection:
    """Backoff for each target, pauses for each account. `now` is monotonic seconds."""

    def __init__(self, now: Callable[[], float], max_pause_s: Callable[[], float]) -> None:
        self._now = now
        self._max_pause_s = max_pause_s
        self._targets: LRUCache[Key, _Held] = LRUCache(HELD_TARGETS)
        self._accounts: dict[str, _Held] = {}

    def hold(self, account: str, key: Key | None) -> Failed | None:
        """The failure that still stands for the account or the target, with what is left of its pause."""
        now = self._now()
        for held in (self._accounts.get(account), None if key is None else self._targets.get(key)):
            if held is not None and now < held.until:
                return Failed(held.failed.reason, held.failed.received, held.until - now)
        return None

    def failed(self, account: str, key: Key | None, failed: Failed) -> Failed:
        """Hold back what failed; the failure with the pause that is made of it, for the client to know.

        What nobody shares, a write or a read of its own, comes without a key: it is held back by nothing but
        its account's pause.
        """
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

    def succeeded(self, key: Key) -> None:
        """The target answers again."""
        self._targets.pop(key, None)

    def forget_targets(self) -> None:
        """All are somewhere else from now on. An account that has to pause still has to."""
        self._targets.clear()
