"""Counters, as plain integers behind one collector: `labels().inc()` would cost more than a cache hit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector


class Metrics(Collector):
    """What the process has done since it started. Nothing here has a chat, a token or a raw path in it."""

    def __init__(self) -> None:
        #: (client, resource, status, outcome) → requests
        self.requests: Counter[tuple[str, str, str, str]] = Counter()
        #: (resource, outcome) → requests to the upstream
        self.upstream_requests: Counter[tuple[str, str]] = Counter()
        #: what was wrong with a token → refusals
        self.token_refusals: Counter[str] = Counter()
        self.foreign_links = 0
        self.crashes = 0
        self.reload_failures = 0
        self.flights: Callable[[], int] = int

    def collect(self) -> Iterable[Metric]:
        """All families, for the exposition."""
        requests = CounterMetricFamily(
            "chat_gateway_requests",
            "Requests of clients, by how they ended",
            labels=("client", "resource", "status", "outcome"),
        )
        for labels, count in self.requests.items():
            requests.add_metric(labels, count)
        upstream = CounterMetricFamily(
            "chat_gateway_upstream_requests",
            "Requests to the upstream, by how they ended",
            labels=("resource", "outcome"),
        )
        for upstream_labels, count in self.upstream_requests.items():
            upstream.add_metric(upstream_labels, count)
        refusals = CounterMetricFamily(
            "chat_gateway_token_refusals", "Refused tokens, by what was wrong with them", labels=("because",)
        )
        for because, count in self.token_refusals.items():
            refusals.add_metric((because,), count)
        yield requests
        yield upstream
        yield refusals
        yield CounterMetricFamily(
            "chat_gateway_foreign_links",
            "Links that lead elsewhere than to a configured account, left alone",
            value=self.foreign_links,
        )
        yield CounterMetricFamily(
            "chat_gateway_crashes", "Fetches and requests that failed inside the gateway", value=self.crashes
        )
        yield CounterMetricFamily(
            "chat_gateway_reload_failures",
            "Changed key files that were refused; the last good keys stay",
            value=self.reload_failures,
        )
        yield GaugeMetricFamily("chat_gateway_flights", "Fetches in progress", value=self.flights())

    def exposition(self) -> bytes:
        """The text that Prometheus scrapes."""
        registry = CollectorRegistry(auto_describe=False)
        registry.register(self)
        return generate_latest(registry)
