"""What is counted and measured while the clients poll, and what it comes to."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass

#: The outcomes, by how Cache-Status (RFC 9211) begins or ends.
HIT, STALE, COLLAPSED, MISS, OTHER = "hit", "stale", "collapsed", "miss", "other"


def outcome(cache_status: str) -> str:
    """How an answer came about, by its Cache-Status."""
    if "; hit" in cache_status:
        return STALE if "ttl=-" in cache_status else HIT
    if "fwd=miss" in cache_status:
        return COLLAPSED if "; collapsed" in cache_status else MISS
    return OTHER


class Spread:
    """A distribution of durations, in steps of 0.1 ms: its size does not grow with time."""

    def __init__(self) -> None:
        self._steps: Counter[int] = Counter()

    def add(self, seconds: float) -> None:
        """One more."""
        self._steps[math.ceil(seconds * 10_000)] += 1

    def percentile_ms(self, percent: float) -> float | None:
        """By nearest rank, in milliseconds, rounded up; None where nothing was added."""
        rank = math.ceil(self._steps.total() * percent / 100)
        for step in sorted(self._steps):
            rank -= self._steps[step]
            if rank <= 0:
                return step / 10
        return None


class Tally:
    """What the clients see."""

    def __init__(self) -> None:
        self.polls: Counter[str] = Counter()
        self.writes = 0
        self.errors: Counter[str] = Counter()
        self.latency = Spread()
        self.age = Spread()


@dataclass(frozen=True, slots=True)
class Figures:
    """The summary. The names are those of the JSON object; the first seven are fixed.

    Latency is that of polls. Age is how long before its arrival the upstream was asked for what an answer
    says. Both leave the first second out, and are None while nothing was measured.
    """

    client_requests: int
    upstream_info_requests: int
    chats: int
    seconds: float
    latency_p99_ms: float | None
    age_p99_ms: float | None
    errors: int
    clients: int
    hits: int
    stale: int
    collapsed: int
    misses: int
    writes: int
    upstream_requests: int
    upstream_info_requests_per_chat_and_second: float
    share_saved: float
    latency_p50_ms: float | None
    age_p50_ms: float | None
    responses: int
    response_bytes: int
    app_key_seen: int
    app_key_seen_in_logs: int
    links: int
    foreign_links: int
    error_kinds: dict[str, int]
