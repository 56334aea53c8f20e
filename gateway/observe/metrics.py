"""Counters, as plain integers until somebody asks: `labels().inc()` would cost more than a hit does.

Every label is bounded: clients, rules, limits and resources are named in files, reasons and outcomes in code.
Nothing here has a chat, a token, an address or a raw path in it. `docs/metrics.md` has a row for each family.
"""

from __future__ import annotations

import asyncio
import platform
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate, chain
from typing import Any, Protocol, TypeVar

from prometheus_client import ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from gateway import __version__
from gateway.core.access import ALLOW
from gateway.core.replies import How

K = TypeVar("K", bound=tuple[str, ...])

#: From a tenth of what a hit over the road takes to twice what the upstream may take.
BUCKETS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
#: A TTL is a second where a chat lives; what outlives its chat is kept for minutes.
AGES_S = (0.1, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 8.0, 10.0, 30.0, 60.0, 300.0)
#: Nothing is served for longer than leaves 32 s, whatever a chat's timeout is; the vendor's own is 40 s.
SLACKS_S = (0.0, 15.0, 30.0, 31.0, 32.0, 33.0, 34.0, 36.0, 38.0, 39.0, 40.0, 60.0)
HIT = How.HIT.value
#: Memory, processor time and open files, by the names that all Prometheus clients give them.
_PROCESS = ProcessCollector(registry=None)
#: These take about a millisecond to write.
LINES_AT_ONCE = 100
_BUILD = (__version__, platform.python_version())


class Durations:
    """How long things took: how many fell into each bucket of `bounds_s` or beyond, and the sum."""

    __slots__ = ("bounds_s", "counts", "sum_s")

    def __init__(self, bounds_s: tuple[float, ...] = BUCKETS_S) -> None:
        self.bounds_s = bounds_s
        self.counts = [0] * (len(bounds_s) + 1)
        self.sum_s = 0.0

    def observe(self, seconds: float) -> None:
        """Count one."""
        self.counts[bisect_left(self.bounds_s, seconds)] += 1
        self.sum_s += seconds

    def buckets(self) -> list[tuple[str, float]]:
        """(upper bound, how many took at most that), as Prometheus has it."""
        labels = (*map(str, self.bounds_s), "+Inf")
        return list(zip(labels, accumulate(self.counts), strict=True))


class RemoteKeys(Protocol):
    """An issuer's keys that come over the network."""

    @property
    def failures(self) -> int: ...
    def age_s(self) -> float | None: ...


class AccountBudget(Protocol):
    """An account's budget: fetches that wait, fetches in flight, and the share of the full pace in force."""

    @property
    def waiting(self) -> int: ...
    @property
    def in_flight(self) -> int: ...
    @property
    def pace(self) -> float: ...


@dataclass(frozen=True, slots=True)
class Reloads:
    """How reading the configuration again went. `succeeded_at` is epoch seconds; `failed` is of the last."""

    succeeded_at: float = 0.0
    failures: int = 0
    failed: bool = False
    policies_version: int = 0


@dataclass(frozen=True, slots=True)
class Load:
    """What the process bears: the clients' connections, requests on the road, and what it suffered.

    `lag_max_s` is the greatest lag of late, where `lag_s` is the least.
    """

    connections: int = 0
    requests: int = 0
    lag_s: float = 0.0
    log_lines_lost: int = 0
    clock_jumps: int = 0
    lag_max_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Shared:
    """How it is with Redis and the other replicas. `commands` is by (command, outcome), `failures` by kind.

    `flights` is by role. `foreign` is what could not be read of what others have written.
    """

    up: bool = False
    whole: bool = False
    replicas: int = 1
    commands: Mapping[tuple[str, str], int] = field(default_factory=dict)
    failures: Mapping[str, int] = field(default_factory=dict)
    flights: Mapping[str, int] = field(default_factory=dict)
    silent_replicas: int = 0
    missed_messages: int = 0
    foreign: int = 0


def _alone() -> Shared | None:
    return None


@dataclass(frozen=True, slots=True)
class Gauges:
    """What is looked up when somebody asks: keys by issuer, budgets by account, revocations in force.

    `kept` has, for each kind of memory, the bytes that are kept and how many may be; `counts`, for each kind
    of thing, how many are kept, and `evictions` how many had to make room. `breakers` has how those
    of accounts stand, and `sent` for each client the bytes of bodies. `shared` is None where nothing is.
    """

    flights: Callable[[], int] = int
    keys: Callable[[], Mapping[str, RemoteKeys]] = dict
    reloads: Callable[[], Reloads] = Reloads
    budgets: Callable[[], Mapping[str, AccountBudget]] = dict
    revocations: Callable[[], int] = int
    kept: Callable[[], Mapping[str, tuple[int, int]]] = dict
    counts: Callable[[], Mapping[str, int]] = dict
    evictions: Callable[[], Mapping[str, int]] = dict
    sent: Callable[[], Mapping[str, int]] = dict
    waiters: Callable[[], int] = int
    watches: Callable[[], int] = int
    breakers: Callable[[], Mapping[str, str]] = dict
    load: Callable[[], Load] = Load
    shared: Callable[[], Shared | None] = _alone


Kind = type[CounterMetricFamily] | type[GaugeMetricFamily] | type[HistogramMetricFamily]


@dataclass(frozen=True, slots=True)
class Family(Collector):
    """A family at one moment. A row is what its kind's `add_metric` takes, and makes `lines_a_row` lines."""

    kind: Kind
    name: str
    help_text: str
    labels: tuple[str, ...]
    rows: Sequence[tuple[Any, ...]]
    lines_a_row: int = 1

    def collect(self) -> Iterable[Metric]:
        """As prometheus_client asks for it."""
        made = self.kind(f"chat_gateway_{self.name}", self.help_text, labels=self.labels)
        for row in self.rows:
            made.add_metric(*row)
        return (made,)

    def pieces(self) -> Iterator[bytes]:
        """The text that Prometheus scrapes, some `LINES_AT_ONCE` at a time."""
        step = LINES_AT_ONCE // self.lines_a_row
        yield generate_latest(replace(self, rows=self.rows[:step]))
        for begin in range(step, len(self.rows), step):
            piece = generate_latest(replace(self, rows=self.rows[begin : begin + step]))
            # Help and type, a line each, are said once.
            yield piece.split(b"\n", 2)[2]


@dataclass(frozen=True, slots=True)
class RoadCounts:
    """What the road counts, and the short cut too: only the sum says what the process did."""

    #: (client, resource, status, outcome) → requests
    requests: Counter[tuple[str, str, str, str]] = field(default_factory=Counter)
    #: client → requests that were answered and caused none to the upstream
    saved: Counter[str] = field(default_factory=Counter)
    #: (client, rule, outcome) → decisions
    decisions: Counter[tuple[str, str, str]] = field(default_factory=Counter)


class Metrics:
    """What the process has done since it started, and how it stands.

    `road` is for those who count; `requests`, `saved` and `decisions` are sums, made anew at each look.
    """

    def __init__(self) -> None:
        self.road = RoadCounts()
        self._hits: defaultdict[tuple[str, str, str], dict[int, int]] = defaultdict(lambda: defaultdict(int))
        #: (resource, outcome) → how long they took
        self.durations: defaultdict[tuple[str, str], Durations] = defaultdict(Durations)
        #: resource → how old answers were that were shared
        self.ages: defaultdict[str, Durations] = defaultdict(lambda: Durations(AGES_S))
        #: How long chats had to live when what is kept of them was served.
        self.slack = Durations(SLACKS_S)
        #: (resource, outcome, client) → requests to the upstream
        self.upstream_requests: Counter[tuple[str, str, str]] = Counter()
        #: resource → how long those took
        self.upstream_durations: defaultdict[str, Durations] = defaultdict(Durations)
        #: account → of those, how many were sent once more
        self.repeats: Counter[str] = Counter()
        #: (resource, failure) → stale answers that stood in for it
        self.stood_in: Counter[tuple[str, str]] = Counter()
        #: (client, limit) → refusals
        self.limited: Counter[tuple[str, str]] = Counter()
        #: (client, rule, outcome) → decisions
        self.shadow_decisions: Counter[tuple[str, str, str]] = Counter()
        #: what was wrong with a token → refusals
        self.token_refusals: Counter[str] = Counter()
        #: (client, resource) → streams that are open
        self.streams: Counter[tuple[str, str]] = Counter()
        #: (client, resource) → streams that were ever opened
        self.streams_opened: Counter[tuple[str, str]] = Counter()
        #: (resource, kind) → messages
        self.stream_messages: Counter[tuple[str, str]] = Counter()
        #: (client, resource, why) → streams that have ended
        self.streams_closed: Counter[tuple[str, str, str]] = Counter()
        self.foreign_links = 0
        self.other_session_keys = 0
        self.crashes = 0
        self.gauges = Gauges()

    def hits(self, labels: tuple[str, str, str]) -> dict[int, int]:
        """To count the short cut's hits in, by status; `labels` are (client, rule, resource)."""
        return self._hits[labels]

    @property
    def requests(self) -> Counter[tuple[str, str, str, str]]:
        """All requests: (client, resource, status, outcome) → how many."""
        requests = self.road.requests.copy()
        for client, _, resource, status, count in self._each_hit():
            requests[client, resource, str(status), HIT] += count
        return requests

    @property
    def saved(self) -> Counter[str]:
        """All that were answered and caused none to the upstream: client → how many."""
        saved = self.road.saved.copy()
        for client, _, _, _, count in self._each_hit():
            saved[client] += count
        return saved

    @property
    def decisions(self) -> Counter[tuple[str, str, str]]:
        """All decisions: (client, rule, outcome) → how many."""
        decisions = self.road.decisions.copy()
        for client, rule, _, _, count in self._each_hit():
            decisions[client, rule, ALLOW] += count
        return decisions

    def _each_hit(self) -> Iterator[tuple[str, str, str, int, int]]:
        for labels, statuses in self._hits.items():
            for status, count in statuses.items():
                yield *labels, status, count

    def families(self) -> list[Family]:
        """All that is counted, at one moment."""
        return [
            *self._requests(),
            *self._policies(),
            *self._upstream(),
            *self._memory(),
            *self._streams(),
            *self._load(),
            *self._shared(),
            *self._configuration(),
            _counter("crashes", "Fetches and requests that failed inside the gateway", self.crashes),
            Family(
                GaugeMetricFamily, "build_info", "What runs; always 1", ("version", "python"), [(_BUILD, 1)]
            ),
        ]

    def exposition(self) -> bytes:
        """The text that Prometheus scrapes."""
        return b"".join(self._pieces())

    async def scrape(self) -> bytes:
        """The exposition as of now, and what the system says of the process.

        It may be megabytes, so requests have their turns in between.
        """
        written = []
        for piece in self._pieces():
            written.append(piece)
            await asyncio.sleep(0)
        return b"".join((*written, generate_latest(_PROCESS)))

    def _pieces(self) -> Iterator[bytes]:
        return chain.from_iterable(family.pieces() for family in self.families())

    def _requests(self) -> Iterator[Family]:
        yield _counters(
            "requests",
            "Requests of clients, by how they ended",
            ("client", "resource", "status", "outcome"),
            self.requests,
        )
        yield _histograms(
            "request_duration_seconds",
            "How long requests took, from the end of the head to the reply",
            ("resource", "outcome"),
            self.durations,
        )
        yield _histograms(
            "answer_age_seconds",
            "How old answers were, at delivery, that are shared by clients",
            ("resource",),
            {(resource,): age for resource, age in self.ages.items()},
        )
        yield _histograms(
            "keepalive_slack_seconds",
            "How long a chat had to live without contact, at delivery of what is kept of it",
            (),
            {(): self.slack},
        )
        yield _counters(
            "response_body_bytes",
            "Bytes of bodies that were sent to clients, messages of streams included",
            ("client",),
            {(client,): sent for client, sent in self.gauges.sent().items()},
        )
        yield _counters(
            "saved_requests",
            "Requests of clients that were answered and caused no request to the upstream",
            ("client",),
            {(client,): count for client, count in self.saved.items()},
        )
        yield _counters(
            "stale_answers",
            "Stale answers that stood in for a failure of the upstream, by that failure",
            ("resource", "instead_of"),
            self.stood_in,
        )

    def _policies(self) -> Iterator[Family]:
        yield _counters(
            "decisions",
            "Decisions about requests of known clients, by the rule that made them",
            ("client", "rule", "outcome"),
            self.decisions,
        )
        yield _counters(
            "shadow_decisions",
            "What clients in shadow mode would have decided",
            ("client", "rule", "outcome"),
            self.shadow_decisions,
        )
        yield _counters("limited_requests", "Requests refused for a limit", ("client", "limit"), self.limited)
        yield _counters(
            "token_refusals",
            "Refused tokens, by what was wrong with them",
            ("because",),
            {(because,): count for because, count in self.token_refusals.items()},
        )

    def _upstream(self) -> Iterator[Family]:
        yield _counters(
            "upstream_requests",
            "Requests to the upstream, by how they ended and whose request caused them",
            ("resource", "outcome", "client"),
            self.upstream_requests,
        )
        yield _histograms(
            "upstream_duration_seconds",
            "How long requests to the upstream took, until their answers were understood",
            ("resource",),
            {(resource,): took for resource, took in self.upstream_durations.items()},
        )
        yield _counters(
            "upstream_repeats",
            "Requests to the upstream that were sent once more, by account",
            ("account",),
            {(account,): count for account, count in self.repeats.items()},
        )
        yield _gauge("flights", "Fetches in progress", self.gauges.flights())
        yield _gauge("waiters", "Requests that wait for a fetch", self.gauges.waiters())
        budgets = self.gauges.budgets()
        yield _gauges(
            "budget_waiting",
            "Fetches that wait for the account's budget",
            "account",
            {account: budget.waiting for account, budget in budgets.items()},
        )
        yield _gauges(
            "budget_in_flight",
            "Requests of the account that the upstream has not answered yet",
            "account",
            {account: budget.in_flight for account, budget in budgets.items()},
        )
        yield _gauges(
            "budget_pace_ratio",
            "The share of the account's rate that is in force; less than 1 after a 429 of the upstream",
            "account",
            {account: budget.pace for account, budget in budgets.items()},
        )
        yield _gauges(
            "breaker_open",
            "1 while the account's upstream is left alone, but for a request that tries it now and then",
            "account",
            {account: state != "closed" for account, state in self.gauges.breakers().items()},
        )
        yield _counter(
            "other_session_keys",
            "Answers about a chat whose session key is not the chat's",
            self.other_session_keys,
        )
        yield _counter(
            "foreign_links",
            "Links that lead elsewhere than to a configured account, left alone",
            self.foreign_links,
        )

    def _memory(self) -> Iterator[Family]:
        kept = self.gauges.kept()
        yield _gauges(
            "kept_bytes",
            "What is kept in memory that is bounded by bytes",
            "kind",
            {kind: taken for kind, (taken, _) in kept.items()},
        )
        yield _gauges(
            "kept_bytes_limit",
            "How much of it may be kept",
            "kind",
            {kind: most for kind, (_, most) in kept.items()},
        )
        yield _gauges("kept", "How many things are kept in memory", "kind", self.gauges.counts())
        yield _counters(
            "evictions",
            "Things that were let go because others needed the room",
            ("kind",),
            {(kind,): count for kind, count in self.gauges.evictions().items()},
        )

    def _streams(self) -> Iterator[Family]:
        of_whom = ("client", "resource")
        yield Family(
            GaugeMetricFamily, "streams", "Streams that are open", of_whom, list(self.streams.items())
        )
        yield _counters("streams_opened", "Streams that were opened", of_whom, self.streams_opened)
        yield _counters(
            "streams_closed", "Streams that have ended, by why", (*of_whom, "why"), self.streams_closed
        )
        yield _counters(
            "stream_messages", "Messages written to streams", ("resource", "kind"), self.stream_messages
        )
        yield _gauge("watches", "What is being watched, however many watch it", self.gauges.watches())

    def _load(self) -> Iterator[Family]:
        load = self.gauges.load()
        yield _gauge("connections", "Connections of clients that are open", load.connections)
        yield _gauge("requests_in_progress", "Requests on the road", load.requests)
        yield _gauge("event_loop_lag_seconds", "How late the event loop is", load.lag_s)
        yield _gauge("event_loop_lag_max_seconds", "How late the event loop has been of late", load.lag_max_s)
        yield _counter("log_lines_lost", "Log lines that could not be written", load.log_lines_lost)
        yield _counter("clock_jumps", "Times that the wall clock was set", load.clock_jumps)

    def _shared(self) -> Iterator[Family]:
        shared = self.gauges.shared()
        if shared is None:
            return
        yield _gauge("shared_up", "1 while Redis answers, else 0", shared.up)
        yield _gauge("shared_whole", "1 while nothing is missing of what replicas say, else 0", shared.whole)
        yield _gauge("shared_replicas", "Replicas that live, this one included", shared.replicas)
        yield _counters(
            "shared_commands",
            "Commands for Redis, by whether somebody answered",
            ("command", "outcome"),
            shared.commands,
        )
        yield _counters(
            "shared_failures",
            "Commands that failed, by how they did",
            ("kind",),
            {(kind,): count for kind, count in shared.failures.items()},
        )
        yield _counters(
            "shared_flights",
            "Fetches that this replica wanted, by its part in them",
            ("role",),
            {(role,): count for role, count in shared.flights.items()},
        )
        yield _counter(
            "shared_silent_replicas",
            "Replicas that did not acknowledge a write in time",
            shared.silent_replicas,
        )
        yield _counter(
            "shared_missed_messages",
            "Times that messages were missing, so that nothing kept was served any more",
            shared.missed_messages,
        )
        yield _counter(
            "shared_foreign", "Values and messages in Redis that could not be read", shared.foreign
        )

    def _configuration(self) -> Iterator[Family]:
        reloads = self.gauges.reloads()
        yield _counter(
            "reload_failures",
            "Changed configurations and key files that were refused; the last good ones stay",
            reloads.failures,
        )
        yield _gauge("reload_failed", "1 if the last attempt to read them again was refused", reloads.failed)
        yield _gauge("reload_success_timestamp_seconds", "When they were last accepted", reloads.succeeded_at)
        yield _gauge(
            "policies_version", "Which reading of the policies is in force", reloads.policies_version
        )
        keys = self.gauges.keys()
        ages = {issuer: remote.age_s() for issuer, remote in keys.items()}
        yield _gauges(
            "key_set_age_seconds",
            "How long ago an issuer's keys were last fetched; absent if they never were",
            "issuer",
            {issuer: age for issuer, age in ages.items() if age is not None},
        )
        yield _counters(
            "key_set_fetch_failures",
            "Fetches of an issuer's keys that failed",
            ("issuer",),
            {(issuer,): remote.failures for issuer, remote in keys.items()},
        )
        yield _gauge(
            "revocations", "Revocations of tokens, subjects and clients in force", self.gauges.revocations()
        )


def _counters(name: str, help_text: str, labels: tuple[str, ...], counts: Mapping[K, float]) -> Family:
    return Family(CounterMetricFamily, name, help_text, labels, list(counts.items()))


def _counter(name: str, help_text: str, count: float) -> Family:
    return Family(CounterMetricFamily, name, help_text, (), [((), count)])


def _histograms(
    name: str, help_text: str, labels: tuple[str, ...], durations: Mapping[K, Durations]
) -> Family:
    rows = [(values, took.buckets(), took.sum_s) for values, took in durations.items() if any(took.counts)]
    # Its buckets, the count and the sum.
    lines_a_row = max((len(buckets) for _, buckets, _ in rows), default=0) + 2
    return Family(HistogramMetricFamily, name, help_text, labels, rows, lines_a_row)


def _gauges(name: str, help_text: str, label: str, values: Mapping[str, float]) -> Family:
    return Family(
        GaugeMetricFamily,
        name,
        help_text,
        (label,),
        [((labelled,), value) for labelled, value in values.items()],
    )


def _gauge(name: str, help_text: str, value: float) -> Family:
    return Family(GaugeMetricFamily, name, help_text, (), [((), value)])
