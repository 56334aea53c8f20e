"""The port `Observer`: what happened on the road becomes counters and log lines."""

from __future__ import annotations

from structlog.typing import FilteringBoundLogger

from gateway.core.answers import Undressed
from gateway.core.errors import Refusal
from gateway.core.freshness import Failed
from gateway.core.paths import Target
from gateway.core.replies import Delivered, Reply, Trip
from gateway.core.requests import Request
from gateway.observe.logs import hashed
from gateway.observe.metrics import Metrics

NOBODY = "-"


class Observer:
    """Counts and logs; decides nothing."""

    def __init__(self, metrics: Metrics, log: FilteringBoundLogger) -> None:
        self._metrics = metrics
        self._log = log

    def replied(self, request: Request, trip: Trip, reply: Reply, seconds: float) -> None:
        """A request ended after so many seconds."""
        client = _client(trip)
        resource = NOBODY if trip.target is None else trip.target.resource.name
        outcome = _outcome(trip)
        because = _because(trip)
        self._metrics.token_refusals.update(because.values())
        self._metrics.requests[client, resource, str(reply.status), outcome] += 1
        self._log.info(
            "request",
            request_id=request.id,
            client=client,
            method=request.method if trip.target else NOBODY,
            resource=resource,
            chat=None if trip.target is None or trip.target.chat is None else hashed(trip.target.chat),
            status=reply.status,
            outcome=outcome,
            **because,
            duration_ms=round(seconds * 1000, 3),
        )

    def asked(self, target: Target, outcome: Undressed | Failed) -> None:
        """The upstream was asked."""
        label = outcome.reason.slug if isinstance(outcome, Failed) else outcome.verdict.value
        self._metrics.upstream_requests[target.resource.name, label] += 1
        if isinstance(outcome, Failed):
            self._log.warning(
                "upstream failed",
                account=target.account,
                resource=target.resource.name,
                reason=label,
                received=outcome.received,
            )
        else:
            self._metrics.foreign_links += outcome.foreign_links

    def crashed(self, error: Exception) -> None:
        """Something failed inside the gateway: its kind is logged, its words may be anybody's and are not."""
        self._metrics.crashes += 1
        self._log.error("crashed", error=type(error).__name__, where=_where(error))


def _client(trip: Trip) -> str:
    if trip.grant is not None:
        return trip.grant.client
    client = trip.result.client if isinstance(trip.result, Refusal) else None
    return client or NOBODY


def _outcome(trip: Trip) -> str:
    result = trip.result
    return result.how.value if isinstance(result, Delivered) else result.reason.slug


def _because(trip: Trip) -> dict[str, str]:
    because = trip.result.because if isinstance(trip.result, Refusal) else None
    return {} if because is None else {"because": because}


def _where(error: Exception) -> list[str]:
    """The frames, innermost last, without a value in them."""
    frames = []
    traceback = error.__traceback__
    while traceback is not None:
        code = traceback.tb_frame.f_code
        frames.append(f"{code.co_qualname}:{traceback.tb_lineno}")
        traceback = traceback.tb_next
    return frames
