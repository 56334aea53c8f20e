"""Spans, as a collector gets them: the caller's trace goes on, and all who share a flight lead to it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from gateway.demo.stage import ACCOUNT
from gateway.emulator import Fault
from gateway.observe.traces import Traces
from tests.simulation import Simulation, chat_path
from tests.virtual import virtual

TRACE, CALLER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SAMPLED = f"00-{TRACE}-{CALLER}-01"
NOT_SAMPLED = f"00-{TRACE}-{CALLER}-00"


class Collector:
    """What has been handed over, once it is."""

    def __init__(self) -> None:
        self._kept = InMemorySpanExporter()
        self.traces = Traces(self._kept)

    def spans(self) -> list[ReadableSpan]:
        """Everything, in the order of the beginnings."""
        self.traces.close()
        return sorted(self._kept.get_finished_spans(), key=lambda span: span.start_time or 0)

    def named(self, *names: str) -> list[ReadableSpan]:
        """Those with one of these names; there is at least one."""
        found = [span for span in self.spans() if span.name in names]
        assert found, [span.name for span in self.spans()]
        return found


@contextmanager
def environment(patch: pytest.MonkeyPatch, **said: str) -> Iterator[Collector]:
    for name, value in said.items():
        patch.setenv(name, value)
    yield Collector()


def trace_id(span: ReadableSpan) -> str:
    return f"{span.context.trace_id:032x}"


def parent_id(span: ReadableSpan) -> int | None:
    return None if span.parent is None else span.parent.span_id


@virtual
async def test_a_request_its_flight_and_the_upstream_are_one_trace() -> None:
    collector = Collector()
    world = Simulation(tracer=collector.traces, log_level="error")
    chat = world.chat()
    reply = await world.info(chat, traceparent=SAMPLED, tracestate="a=b")
    assert reply.status == 200
    request, flight, upstream = collector.spans()
    assert [span.name for span in (request, flight, upstream)] == ["GET info", "flight info", "GET upstream"]
    assert {trace_id(span) for span in (request, flight, upstream)} == {TRACE}
    assert parent_id(request) == int(CALLER, 16)
    assert parent_id(flight) == request.context.span_id
    assert parent_id(upstream) == flight.context.span_id
    assert [span.kind for span in (request, flight, upstream)] == [
        SpanKind.SERVER,
        SpanKind.INTERNAL,
        SpanKind.CLIENT,
    ]
    assert request.attributes is not None
    said = dict(request.attributes)
    hashed = said.pop("chat_gateway.chat")
    assert said == {
        "http.request.method": "GET",
        "http.response.status_code": 200,
        "http.route": "/api/account/{account}/chat/{chat}/info",
        "chat_gateway.account": ACCOUNT,
        "chat_gateway.client": "bff",
        "chat_gateway.outcome": "miss",
        "chat_gateway.request_id": "test",
        "chat_gateway.rule": "bff/allow/chat:read",
    }
    assert isinstance(hashed, str)
    assert len(hashed) == 12


@virtual
async def test_who_waits_links_to_the_flight_of_another() -> None:
    collector = Collector()
    world = Simulation(tracer=collector.traces, log_level="error")
    chat = world.chat()
    await asyncio.gather(*(world.info(chat) for _ in range(3)))
    (flight,) = (span for span in collector.spans() if span.name == "flight info")
    requests = collector.named("GET info")
    assert len({trace_id(span) for span in requests}) == 3, "nobody's trace is another's"
    openers = [span for span in requests if span.context.span_id == parent_id(flight)]
    waiters = [span for span in requests if span not in openers]
    assert [len(span.links) for span in openers] == [0]
    assert [[link.context.span_id for link in span.links] for span in waiters] == [
        [flight.context.span_id]
    ] * 2


@virtual
async def test_nothing_of_a_trace_is_sent_to_the_upstream() -> None:
    collector = Collector()
    world = Simulation(tracer=collector.traces, log_level="error")
    await world.info(world.chat(), traceparent=SAMPLED)
    (sent,) = world.upstream.sent
    assert not {name for name, _ in sent.request.headers} & {b"traceparent", b"tracestate", b"baggage"}


@virtual
async def test_what_a_caller_said_is_in_no_span() -> None:
    collector = Collector()
    world = Simulation(tracer=collector.traces, log_level="error")
    chat = world.chat()
    await world.info(chat)
    await world.rename(chat, "Somebody")
    await world.ask("GET", f"/api/account/{ACCOUNT}/chat/availability", "skill=Secrets")
    await world.ask("BREW", "/api/account/other/chat/unheard-of", "appKey=key", subject="nobody")
    told = "\n".join(span.to_json() for span in collector.spans())
    assert "PUT visitorName" in told
    for word in (chat, "Somebody", "Secrets", "other", "unheard", "appKey", "Bearer", "BREW"):
        assert word not in told, word


@pytest.mark.parametrize(
    ("fault", "status", "reason"),
    [
        (Fault(resource="info", status=500), 502, "upstream-error"),
        (Fault(resource="info", status=404, code=12), 404, None),
        (Fault(resource="info", body=b"{"), 502, "upstream-broken"),
    ],
)
@virtual
async def test_a_failure_is_one_of_the_span_too(fault: Fault, status: int, reason: str | None) -> None:
    collector = Collector()
    world = Simulation(tracer=collector.traces, log_level="error")
    chat = world.chat()
    world.emulator.fail(fault)
    assert (await world.info(chat)).status == status
    for span in collector.named("GET info", "GET upstream"):
        expected = StatusCode.UNSET if reason is None else StatusCode.ERROR
        assert (span.status.status_code, span.status.description) == (expected, reason)


@pytest.mark.parametrize(
    ("said", "goes_on"),
    [
        (SAMPLED, True),
        (f"{SAMPLED}, {SAMPLED}", False),
        ("00-00000000000000000000000000000000-b7ad6b7169203331-01", False),
        ("nonsense", False),
        ("\xff\xfe", False),
        ("", False),
    ],
)
@virtual
async def test_what_is_no_trace_begins_another(said: str, *, goes_on: bool) -> None:
    collector = Collector()
    world = Simulation(tracer=collector.traces, log_level="error")
    await world.info(world.chat(), traceparent=said)
    (request,) = collector.named("GET info")
    assert (trace_id(request) == TRACE) == goes_on


@virtual
async def test_who_does_not_sample_is_not_traced() -> None:
    collector = Collector()
    world = Simulation(tracer=collector.traces, log_level="error")
    assert (await world.info(world.chat(), traceparent=NOT_SAMPLED)).status == 200
    assert collector.spans() == []


@virtual
async def test_a_hit_takes_the_road_if_its_caller_samples() -> None:
    collector = Collector()
    world = Simulation(tracer=collector.traces, log_level="error")
    chat = world.chat()
    peer = world.edge.connect()
    for said in ("", "", NOT_SAMPLED, SAMPLED, SAMPLED):
        field = f"traceparent: {said}\r\n" if said else ""
        head = f"host: a\r\nauthorization: Bearer bff\r\naccept: application/json\r\n{field}"
        peer.send(f"GET {chat_path(chat, '/info')} HTTP/1.1\r\n{head}\r\n".encode())
        await asyncio.sleep(0.15)
    assert len(peer.received) == 5
    requests = collector.named("GET info")
    assert [trace_id(span) == TRACE for span in requests] == [False, True, True], "the others were cut short"
    assert b"cache-status: chat-gateway; hit" in peer.received[-1][1]


@virtual
async def test_the_environment_names_the_service(monkeypatch: pytest.MonkeyPatch) -> None:
    for said, name in (({}, "chat-gateway"), ({"OTEL_SERVICE_NAME": "ours"}, "ours")):
        with environment(monkeypatch, **said) as collector:
            world = Simulation(tracer=collector.traces, log_level="error")
            await world.info(world.chat())
            assert {span.resource.attributes["service.name"] for span in collector.spans()} == {name}


@pytest.mark.parametrize(("size", "passed_on"), [(512, True), (513, False)])
@virtual
async def test_of_a_long_state_nothing_is_read(size: int, *, passed_on: bool) -> None:
    collector = Collector()
    world = Simulation(tracer=collector.traces, log_level="error")
    state = f"c={'x' * 200},b={'x' * 200},a={'x' * (size - 408)}"
    assert len(state) == size
    await world.info(world.chat(), traceparent=SAMPLED, tracestate=state)
    request, *_ = collector.spans()
    assert trace_id(request) == TRACE
    assert bool(request.context.trace_state) == passed_on
