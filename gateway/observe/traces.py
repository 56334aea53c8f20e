"""Traces, for those who have a collector: OpenTelemetry, configured by its own environment variables.

    request (the caller's trace goes on)        hits by the short cut have none, unless the caller samples
      → flight (of the request that opened it)  others who wait for it link to it
        → upstream                              nothing of the trace is sent there

No span has a token, a key, a query or a visitor's words in it; a chat is hashed, as in the log.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from opentelemetry import trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter, SpanExporter
from opentelemetry.trace import Span, SpanContext, SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from gateway import __version__
from gateway.core.answers import Undressed
from gateway.core.freshness import Failed
from gateway.core.headers import NAME, Fields
from gateway.core.paths import PREFIX, Target
from gateway.core.replies import Reply, Trip, outcome_of
from gateway.core.requests import Request
from gateway.observe.logs import hashed

#: How long the end waits for a collector.
CLOSE_S = 2.0
#: What is longer is dropped before it is read: nobody has to pass on more (W3C Trace Context §3.3.1.5), and
#: whoever sends it may be nobody yet.
MAX_FIELD_BYTES = 512
_FIELDS = (b"traceparent", b"tracestate")
#: Any other is `_OTHER`, as the conventions have it.
_METHODS = frozenset({"DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"})
_PROPAGATOR = TraceContextTextMapPropagator()


class Traces:
    """The port `Tracer`."""

    def __init__(self, exporter: SpanExporter) -> None:
        said = Resource.create({"service.version": __version__})
        if said.attributes.get("service.name", "").startswith("unknown_service"):  # type: ignore[union-attr]  # always a text
            said = said.merge(Resource({"service.name": NAME}))
        # Whoever ends the process ends this too, in order.
        self._provider = TracerProvider(resource=said, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer(NAME, __version__)

    @staticmethod
    def wants(fields: Fields) -> bool:
        """Whether the caller has its trace recorded, so that a hit should be in it."""
        if b"traceparent" not in fields:
            return False
        context = trace.get_current_span(_PROPAGATOR.extract(_carrier(fields))).get_span_context()
        return context.is_valid and context.trace_flags.sampled

    @contextmanager
    def request(self, request: Request) -> Iterator[Span]:
        """A request, from the end of its head on."""
        with self._tracer.start_as_current_span(
            _method(request),
            context=_PROPAGATOR.extract(_carrier(request.fields)),
            kind=SpanKind.SERVER,
            record_exception=False,
        ) as span:
            yield span

    @staticmethod
    def replied(request: Request, trip: Trip, reply: Reply) -> None:
        """How the request of this task ended."""
        span = trace.get_current_span()
        if not span.is_recording():
            return
        result, target = trip.result, trip.target
        method = _method(request)
        outcome = outcome_of(result)
        span.set_attributes(
            {
                "http.request.method": method,
                "http.response.status_code": reply.status,
                "chat_gateway.outcome": outcome,
                "chat_gateway.request_id": request.id,
                **_named({"chat_gateway.client": trip.client, "chat_gateway.rule": trip.rule}),
                **_of(target),
            }
        )
        if target is not None:
            span.update_name(f"{method} {target.resource.name}")
        if reply.status >= 500:
            span.set_status(Status(StatusCode.ERROR, outcome))

    @contextmanager
    def flight(self, target: Target) -> Iterator[SpanContext]:
        """A flight; what is yielded is for those who join it."""
        with self._tracer.start_as_current_span(
            f"flight {target.resource.name}", attributes=_of(target), record_exception=False
        ) as span:
            yield span.get_span_context()

    @staticmethod
    def joined(flight: object) -> None:
        """The request of this task waits for that flight."""
        span = trace.get_current_span()
        if isinstance(flight, SpanContext) and span.is_recording():
            span.add_link(flight)

    @contextmanager
    def upstream(self, target: Target) -> Iterator[Span]:
        """A request to the upstream."""
        with self._tracer.start_as_current_span(
            f"{'GET' if target.is_read else 'POST'} upstream",
            kind=SpanKind.CLIENT,
            attributes=_of(target),
            record_exception=False,
        ) as span:
            yield span

    @staticmethod
    def asked(outcome: Undressed | Failed) -> None:
        """What came of this task's request to the upstream."""
        span = trace.get_current_span()
        if isinstance(outcome, Failed):
            span.set_attributes({"error.type": outcome.reason.slug})
            span.set_status(Status(StatusCode.ERROR, outcome.reason.slug))
            status = outcome.received
        else:
            status = outcome.answer.status
        if status is not None:
            span.set_attribute("http.response.status_code", status)

    def close(self) -> None:
        """Hand over what is left, if it is taken within `CLOSE_S`."""
        # An exporter tries again and again, for longer than the end of a process should take.
        closing = threading.Thread(target=self._provider.shutdown, daemon=True)
        closing.start()
        closing.join(CLOSE_S)


def exporter(name: str) -> SpanExporter:
    """The exporter that `OTEL_TRACES_EXPORTER` names: otlp or console."""
    if name == "console":
        return ConsoleSpanExporter()
    # It takes a while, and reads its part of the environment by itself.
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415

    return OTLPSpanExporter()


def _method(request: Request) -> str:
    return request.method if request.method in _METHODS else "_OTHER"


def _carrier(fields: Fields) -> dict[str, str]:
    said = {name: fields[name] for name in _FIELDS if name in fields}
    return {name.decode(): of.decode("latin-1") for name, of in said.items() if len(of) <= MAX_FIELD_BYTES}


def _of(target: Target | None) -> dict[str, str]:
    if target is None:
        return {}
    route = PREFIX + "/".join(("{account}", *target.resource.path))
    chat = None if target.chat is None else hashed(target.chat)
    return {
        "http.route": route.rstrip("/"),
        "chat_gateway.account": target.account,
        **_named({"chat_gateway.chat": chat}),
    }


def _named(values: Mapping[str, str | None]) -> dict[str, str]:
    return {name: value for name, value in values.items() if value is not None}
