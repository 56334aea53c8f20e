"""The port `Observer`: what happened on the road becomes counters, rows of usage and log lines."""

from __future__ import annotations

import math
from typing import assert_never

from structlog.typing import FilteringBoundLogger

from gateway.core.access import ALLOW
from gateway.core.answers import Undressed
from gateway.core.errors import Reason, Refusal
from gateway.core.freshness import Failed
from gateway.core.paths import Target
from gateway.core.replies import Delivered, Described, How, Reply, Trip, outcome_of
from gateway.core.requests import Request
from gateway.observe.hits import Hits
from gateway.observe.live import Ended, Recent
from gateway.observe.logs import RequestLines, hashed
from gateway.observe.metrics import HIT, Metrics
from gateway.observe.usage import Usage, Used

NOBODY = "-"
#: Who is refused for want of room is counted, and has no line: to write it would be half of the work that
#: there is no room for.
CROWDED = frozenset({Reason.OVERLOADED, Reason.TOO_MANY_CONNECTIONS})
#: A line for all of them is written this often at most.
CROWD_S = 1.0
#: Of what many get its age matters; of what was there already, how long its chat can do without contact.
_SHARED = frozenset({How.HIT, How.STALE, How.MISS, How.COLLAPSED, How.WAITED})
_KEPT = frozenset({How.HIT, How.STALE})


class Observer:
    """Counts and logs; decides nothing. One hit in `log_one_hit_in` has a line; with 0 none."""

    def __init__(
        self, metrics: Metrics, log: FilteringBoundLogger, usage: Usage, log_one_hit_in: int = 1
    ) -> None:
        self._metrics = metrics
        self._log = log
        self._lines = RequestLines(log, log_one_hit_in)
        self._usage = usage
        #: How many have no line since there was one for all, and when that was.
        self._crowd = 0
        self._crowd_at = -math.inf
        self.recent = Recent()
        self._hits: dict[tuple[str, str, str], Hits] = {}

    def hits(self, client: str, rule: str, resource: str) -> Hits:
        """Where the short cut tells its hits; the same object for the same labels."""
        labels = (client, rule, resource)
        hits = self._hits.get(labels)
        if hits is None:
            hits = self._hits[labels] = Hits(labels, self._metrics, self._lines, self._usage)
        return hits

    def replied(  # noqa: PLR0917 - all of a request's end
        self, request: Request, trip: Trip, reply: Reply, seconds: float, now: float, dies_at: float | None
    ) -> None:
        """A request ended after so many seconds."""
        result = trip.result
        target = trip.target
        client = trip.client or NOBODY
        resource = NOBODY if target is None else target.resource.name
        metrics = self._metrics
        wall = self._usage.wall()
        used = self._usage.on(wall, client)
        used.requests += 1
        used.bytes_sent += len(reply.body)
        outcome = kind = outcome_of(result)
        # For durations all refusals are one kind of outcome, and so are all failures.
        match result:
            case Delivered():
                self._delivered(result, client, resource, used)
                self._aged(result, resource, now, dies_at)
            case Refusal():
                kind = "refused" if result.reason.status < 500 else "failed"
                self._refused(result, client, reply.status, used)
            case Failed():
                kind = "failed"
            case Described():
                pass
            case _:
                assert_never(result)
        metrics.road.requests[client, resource, str(reply.status), outcome] += 1
        metrics.durations[resource, kind].observe(seconds)
        if trip.rule is not None:
            metrics.road.decisions[client, trip.rule, outcome if trip.grant is None else ALLOW] += 1
        for shadow in trip.shadows:
            metrics.shadow_decisions[shadow.client, shadow.rule, shadow.outcome] += 1
        if isinstance(result, Refusal | Failed):
            self.recent.refused(Ended(wall, client, trip.rule, resource, outcome, reply.status))
        if isinstance(result, Refusal) and result.reason in CROWDED:
            self._crowded(wall)
        elif self._lines.wanted and (outcome != HIT or self._lines.takes_hit()):
            remarks = _remarks(trip)
            self._lines.say(
                request_id=request.id,
                client=client,
                rule=trip.rule,
                method=NOBODY if target is None else request.method,
                resource=resource,
                chat=None if target is None else target.chat,
                status=reply.status,
                outcome=outcome,
                seconds=seconds,
                wall=wall,
                remarks=remarks | self._lines.of_hits if outcome == HIT else remarks,
            )

    def _crowded(self, wall: float) -> None:
        self._crowd += 1
        # The clock may be set back.
        if abs(wall - self._crowd_at) >= CROWD_S:
            self._log.warning("no room", refused=self._crowd)
            self._crowd, self._crowd_at = 0, wall

    def _delivered(self, result: Delivered, client: str, resource: str, used: Used) -> None:
        if not result.opened:
            self._metrics.road.saved[client] += 1
            used.saved += 1
        if result.instead_of is not None:
            self._metrics.stood_in[resource, result.instead_of.slug] += 1

    def _aged(self, result: Delivered, resource: str, now: float, dies_at: float | None) -> None:
        if result.how in _SHARED:
            self._metrics.ages[resource].observe(result.entry.age(now))
        if result.how in _KEPT and dies_at is not None:
            self._metrics.slack.observe(dies_at - now)

    def _refused(self, refusal: Refusal, client: str, status: int, used: Used) -> None:
        used.limited += status == 429
        used.refused += 400 <= status < 500 and status != 429
        for limit in refusal.violated:
            self._metrics.limited[client, limit] += 1
        if refusal.because is not None:
            self._metrics.token_refusals[refusal.because] += 1

    def asked(self, target: Target, outcome: Undressed | Failed, client: str, seconds: float) -> None:
        """The upstream was asked, because of a request of that client, which took so many seconds."""
        label = outcome.reason.slug if isinstance(outcome, Failed) else outcome.verdict.value
        self._metrics.upstream_requests[target.resource.name, label, client] += 1
        self._metrics.upstream_durations[target.resource.name].observe(seconds)
        self._usage.today(client).fetches += 1
        if isinstance(outcome, Failed):
            self._log.warning(
                "upstream failed",
                account=target.account,
                client=client,
                resource=target.resource.name,
                reason=label,
                received=outcome.received,
            )
        else:
            self._metrics.foreign_links += outcome.foreign_links
            self._metrics.other_session_keys += outcome.other_session_key

    def stream_opened(self, client: str, resource: str) -> None:
        """Somebody watches, by a stream."""
        self._metrics.streams[client, resource] += 1
        self._metrics.streams_opened[client, resource] += 1

    def stream_sent(self, client: str, resource: str, kind: str, body_bytes: int) -> None:
        """A message was written."""
        self._metrics.stream_messages[resource, kind] += 1
        self._usage.today(client).bytes_sent += body_bytes

    def stream_closed(self, target: Target, client: str, why: str, seconds: float) -> None:
        """A stream ended after so many seconds; `why` is its reason in one word."""
        resource = target.resource.name
        self._metrics.streams[client, resource] -= 1
        self._metrics.streams_closed[client, resource, why] += 1
        self._log.info(
            "stream closed",
            client=client,
            resource=resource,
            chat=None if target.chat is None else hashed(target.chat),
            why=why,
            duration_ms=round(seconds * 1000, 3),
        )

    def crashed(self, error: Exception) -> None:
        """Something failed inside the gateway: its kind is logged, its words may be anybody's and are not."""
        self._metrics.crashes += 1
        self._log.error("crashed", error=type(error).__name__, where=_where(error))


def _remarks(trip: Trip) -> dict[str, object]:
    """What only some requests have: fields that are left out where they would say nothing."""
    result = trip.result
    remarks: dict[str, object] = {}
    if isinstance(result, Delivered):
        if result.opened:
            remarks["fetch"] = True
        if result.instead_of is not None:
            remarks["instead_of"] = result.instead_of.slug
    elif isinstance(result, Refusal):
        if result.because is not None:
            remarks["because"] = result.because
        if result.violated:
            remarks["limits"] = result.violated
    if trip.shadows:
        remarks["shadows"] = [
            {"client": shadow.client, "outcome": shadow.outcome, "rule": shadow.rule}
            for shadow in trip.shadows
        ]
    return remarks


def _where(error: Exception) -> list[str]:
    """The frames, innermost last, without a value in them."""
    frames = []
    traceback = error.__traceback__
    while traceback is not None:
        code = traceback.tb_frame.f_code
        frames.append(f"{code.co_qualname}:{traceback.tb_lineno}")
        traceback = traceback.tb_next
    return frames
