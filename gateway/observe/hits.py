"""Hits by the short cut: where they are told to, at a fraction of what a request on the road costs.

Everything that a hit's labels lead to is looked up beforehand. What a hit adds to stands in the tables
themselves, so that nothing has to be carried over, and nothing can be lost or counted twice on the way.
"""

from __future__ import annotations

from bisect import bisect_left

from gateway.core.limits import DAY_S
from gateway.core.places import Armed
from gateway.observe.logs import RequestLines
from gateway.observe.metrics import AGES_S, BUCKETS_S, HIT, SLACKS_S, Metrics
from gateway.observe.usage import Usage, Used


class Hits:
    """Where hits of one client on one resource, by one rule, are told to."""

    __slots__ = (
        "_age",
        "_age_buckets",
        "_buckets",
        "_client",
        "_day_begins",
        "_day_ends",
        "_lines",
        "_resource",
        "_rule",
        "_slack",
        "_slack_buckets",
        "_statuses",
        "_took",
        "_usage",
        "_used",
    )

    def __init__(
        self, labels: tuple[str, str, str], metrics: Metrics, lines: RequestLines, usage: Usage
    ) -> None:
        self._client, self._rule, self._resource = labels
        self._statuses = metrics.hits(labels)
        self._took = metrics.durations[self._resource, HIT]
        self._buckets = self._took.counts
        self._age = metrics.ages[self._resource]
        self._age_buckets = self._age.counts
        self._slack = metrics.slack
        self._slack_buckets = self._slack.counts
        self._lines = lines if lines.hits_wanted else None
        self._usage = usage
        # No day yet: the row begins with the first hit.
        self._used = Used()
        self._day_begins = self._day_ends = 0.0

    def hit(  # noqa: PLR0917 - by position, for keywords cost a tenth more
        self,
        armed: Armed,
        request_id: str,
        status: int,
        body_bytes: int,
        now: float,
        seconds: float,
        wall: float,
    ) -> None:
        """A GET was answered at `now` (monotonic) and `wall` (epoch seconds), after so many seconds."""
        self._statuses[status] += 1
        # `Durations.observe` without the call; nearly all hits fall into the first bucket.
        self._buckets[0 if seconds <= BUCKETS_S[0] else bisect_left(BUCKETS_S, seconds)] += 1
        self._took.sum_s += seconds
        age_s = now - armed.sent_at
        self._age_buckets[bisect_left(AGES_S, age_s)] += 1
        self._age.sum_s += age_s
        if armed.dies_at is not None:
            slack_s = armed.dies_at - now
            self._slack_buckets[bisect_left(SLACKS_S, slack_s)] += 1
            self._slack.sum_s += slack_s
        if not self._day_begins <= wall < self._day_ends:
            self._begin_day(wall)
        used = self._used
        used.requests += 1
        used.saved += 1
        used.bytes_sent += body_bytes
        if self._lines is not None and self._lines.takes_hit():
            self._lines.say(
                request_id=request_id,
                client=self._client,
                rule=self._rule,
                method="GET",
                resource=self._resource,
                chat=armed.chat,
                status=status,
                outcome=HIT,
                seconds=seconds,
                wall=wall,
                remarks=self._lines.of_hits,
            )

    def _begin_day(self, wall: float) -> None:
        self._used = self._usage.on(wall, self._client)
        self._day_begins = wall // DAY_S * DAY_S
        self._day_ends = self._day_begins + DAY_S
