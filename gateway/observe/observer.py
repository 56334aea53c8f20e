"""The port `Observer`: what happened on the road becomes counters, rows of usage and log lines."""

from __future__ import annotations

from typing import assert_never

from structlog.typing import FilteringBoundLogger

from gateway.core.access import ALLOW
from gateway.core.answers import Undressed
from gateway.core.errors import Refusal
from gateway.core.freshness import Failed
from gateway.core.paths import Target
from gateway.core.replies import Delivered, Reply, Trip
from gateway.core.requests import Request
from gateway.observe.logs import hashed
from gateway.observe.metrics import Metrics
from gateway.observe.usage import Usage

NOBODY = "-"


class Observer:
    """Counts and logs; decides nothing."""

    def __init__(self, metrics: Metrics, log: FilteringBoundLogger, usage: Usage) -> None:
        self._metrics = metrics
        self._log = log
        self._usage = usage

    def replied(self, request: Request, trip: Trip, reply: Reply, seconds: float) -> None:
        """A request ended after so many seconds."""
        client = trip.client or NOBODY
        resource = NOBODY if trip.target is None else trip.target.resource.name
        outcome = _outcome(trip)
        self._metrics.requests[client, resource, str(reply.status), outcome] += 1
        if isinstance(trip.result, Delivered) and trip.result.instead_of is not None:
            self._metrics.stood_in[resource, trip.result.instead_of.slug] += 1
        self._metrics.durations[resource, _kind(trip)].observe(seconds)
        self._count(client, trip)
        self._use(client, trip, reply)
        self._log.info(
            "request",
            request_id=request.id,
            client=client,
            rule=trip.rule,
            method=request.method if trip.target else NOBODY,
            resource=resource,
            chat=None if trip.target is None or trip.target.chat is None else hashed(trip.target.chat),
            status=reply.status,
            outcome=outcome,
            **_remarks(trip),
            duration_ms=round(seconds * 1000, 3),
        )

    def _count(self, client: str, trip: Trip) -> None:
        """What decided, and what was refused for what."""
        metrics = self._metrics
        if trip.rule is not None:
            decision = _outcome(trip) if trip.grant is None else ALLOW
            metrics.decisions[client, trip.rule, decision] += 1
        for shadow in trip.shadows:
            metrics.shadow_decisions[shadow.client, shadow.rule, shadow.outcome] += 1
        if _is_saved(trip):
            metrics.saved[client] += 1
        if isinstance(trip.result, Refusal):
            for limit in trip.result.violated:
                metrics.limited[client, limit] += 1
            if trip.result.because is not None:
                metrics.token_refusals[trip.result.because] += 1

    def _use(self, client: str, trip: Trip, reply: Reply) -> None:
        used = self._usage.today(client)
        used.requests += 1
        used.saved += _is_saved(trip)
        used.bytes_sent += len(reply.body)
        if isinstance(trip.result, Refusal):
            used.limited += reply.status == 429
            used.refused += 400 <= reply.status < 500 and reply.status != 429

    def asked(self, target: Target, outcome: Undressed | Failed, client: str) -> None:
        """The upstream was asked, because of a request of that client."""
        label = outcome.reason.slug if isinstance(outcome, Failed) else outcome.verdict.value
        self._metrics.upstream_requests[target.resource.name, label, client] += 1
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

    def crashed(self, error: Exception) -> None:
        """Something failed inside the gateway: its kind is logged, its words may be anybody's and are not."""
        self._metrics.crashes += 1
        self._log.error("crashed", error=type(error).__name__, where=_where(error))


def _outcome(trip: Trip) -> str:
    result = trip.result
    return result.how.value if isinstance(result, Delivered) else result.reason.slug


def _kind(trip: Trip) -> str:
    """An outcome for durations: all refusals are one, and so are all failures."""
    result = trip.result
    match result:
        case Delivered():
            return result.how.value
        case Failed():
            return "failed"
        case Refusal():
            return "refused" if result.reason.status < 500 else "failed"
        case _:
            assert_never(result)


def _is_saved(trip: Trip) -> bool:
    return isinstance(trip.result, Delivered) and not trip.result.opened


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
