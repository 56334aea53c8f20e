"""What the live page and `chat-gateway top` are fed with: the last minutes, and once a second how it stands.

A second is taken down whether or not anybody looks, from sums alone. What only readers need is looked up
while there are any, and once for all of them.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from heapq import nlargest
from itertools import islice
from typing import Protocol

from gateway import __version__
from gateway.core.limits import Left, Limits
from gateway.core.messages import Chat
from gateway.core.replies import How
from gateway.observe.logs import hashed
from gateway.observe.metrics import AGES_S, BUCKETS_S, HIT, Durations, Metrics
from gateway.observe.usage import Usage
from gateway.ports import Clock

#: How many seconds are remembered, how many may read, and how many messages one of them may be behind.
PAST_S = 300
MAX_READERS = 16
MAX_BEHIND = 8
#: How many refusals and failures are remembered, and how many clients and watches are told.
RECENT = 50
MAX_CLIENTS = 50
MAX_WATCHES = 50

#: How long these take is for their clients to say.
_HELD_BACK = How.WAITED.value


@dataclass(frozen=True, slots=True)
class Ended:
    """A refusal or a failure, and when it was told, in epoch seconds. `reason` is its slug."""

    at: float
    client: str
    rule: str | None
    resource: str
    reason: str
    status: int


class Recent:
    """The last refusals and failures."""

    def __init__(self) -> None:
        self._ended: deque[Ended] = deque(maxlen=RECENT)

    def refused(self, ended: Ended) -> None:
        """Remember it, as the newest."""
        self._ended.append(ended)

    def newest_first(self) -> list[dict[str, object]]:
        """Ready for JSON."""
        return [asdict(ended) for ended in reversed(self._ended)]


class Watched(Protocol):
    """What is watched, by how many, and when its newest answer was asked for. `trouble` is a slug."""

    @property
    def account(self) -> str: ...
    @property
    def chat(self) -> Chat | None: ...
    @property
    def resource(self) -> str: ...
    @property
    def watchers(self) -> int: ...
    @property
    def sent_at(self) -> float: ...
    @property
    def trouble(self) -> str | None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Sights:
    """What is looked up for readers, besides what is counted.

    `limits` takes names of clients: what each may do, and what is left of it, if that is known here.
    """

    is_ready: Callable[[], bool]
    replicas: Callable[[], int]
    reload: Callable[[], object]
    accounts: Callable[[], Iterable[str]]
    watches: Callable[[], Sequence[Watched]]
    limits: Callable[[Collection[str]], Mapping[str, tuple[Limits, Sequence[Left] | None]]]


@dataclass(frozen=True, slots=True)
class Counts:
    """Sums since the start; requests and ages at delivery by bucket as well."""

    requests: int
    upstream: int
    saved: int
    hits: int
    refused: int
    failed: int
    messages: int
    took: tuple[int, ...]
    ages: tuple[int, ...]


class Reader:
    """One who reads along: an async iterator of messages, as bytes of `text/event-stream`.

    Whoever falls behind is told no more. `leave` is to be called in the end.
    """

    def __init__(self, first: bytes, left: Callable[[Reader], None]) -> None:
        self.is_over = False
        self._left = left
        # One more, for the end.
        self._waiting: asyncio.Queue[bytes | None] = asyncio.Queue(MAX_BEHIND + 1)
        self._waiting.put_nowait(first)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while (message := await self._waiting.get()) is not None:
            yield message

    def tell(self, message: bytes) -> None:
        """Hand it a message; or end, if it has not taken those of before."""
        if self._waiting.qsize() == MAX_BEHIND:
            self.end()
        elif not self.is_over:
            self._waiting.put_nowait(message)

    def end(self) -> None:
        """Nothing comes after what it has been told."""
        if not self.is_over:
            self.is_over = True
            self._waiting.put_nowait(None)

    def leave(self) -> None:
        """It reads no more."""
        self.is_over = True
        self._left(self)


class Live:
    """The last seconds, and who reads along. `tick` is to be called once a second."""

    def __init__(self, metrics: Metrics, usage: Usage, recent: Recent, sights: Sights, clock: Clock) -> None:
        self._metrics = metrics
        self._usage = usage
        self._recent = recent
        self._sights = sights
        self._clock = clock
        self._began = clock.now()
        self._counts = counted(metrics)
        self._past: deque[dict[str, object]] = deque(maxlen=PAST_S)
        self._readers: dict[Reader, None] = {}
        self._is_closed = False
        #: Client → requests at the last tick, and when that was, if anybody read along then.
        self._before: tuple[float, Mapping[str, int]] | None = None
        self._per_second: Mapping[str, float] = {}

    async def tick(self) -> None:
        """A second is over: take it down, and tell the readers."""
        before, self._counts = self._counts, counted(self._metrics)
        self._past.append({"at": round(self._clock.wall(), 3), **sample(before, self._counts)})
        if not self._readers:
            self._before, self._per_second = None, {}
            return
        self._time({name: used.requests for name, used in self._usage.since_start().items()})
        message = _message("now", self._now())
        for reader in self._readers:
            reader.tell(message)

    def open(self) -> Reader | None:
        """One more reader, who is told the past and how it stands; None if there are enough."""
        if self._is_closed or len(self._readers) >= MAX_READERS:
            return None
        if not self._past:
            self._past.append({"at": round(self._clock.wall(), 3), **sample(self._counts, self._counts)})
        first = _message("past", {"samples": list(self._past)}) + _message("now", self._now())
        reader = Reader(first, lambda gone: self._readers.pop(gone, None))
        self._readers[reader] = None
        return reader

    def close(self) -> None:
        """All have read to the end."""
        self._is_closed = True
        for reader in self._readers:
            reader.end()

    def _time(self, requests: Mapping[str, int]) -> None:
        """How many requests a second each client has sent since the last tick."""
        now, before = self._clock.now(), self._before
        if before is not None and now > before[0]:
            seconds = now - before[0]
            self._per_second = {
                client: round((count - before[1].get(client, 0)) / seconds, 1)
                for client, count in requests.items()
            }
        self._before = now, requests

    # -- how it stands ------------------------------------------------------------------------------------

    def _now(self) -> dict[str, object]:
        sights, gauges = self._sights, self._metrics.gauges
        load, shared, watches = gauges.load(), gauges.shared(), sights.watches()
        return {
            "at": round(self._clock.wall(), 3),
            "version": __version__,
            "ready": sights.is_ready(),
            "uptime_s": round(self._clock.now() - self._began),
            "replicas": sights.replicas(),
            "policies_version": gauges.reloads().policies_version,
            "sample": self._past[-1],
            **self._totals(),
            "clients": self._clients(),
            "watches": [self._watch(one) for one in islice(watches, MAX_WATCHES)],
            "watches_total": len(watches),
            "flights": gauges.flights(),
            "waiters": gauges.waiters(),
            "accounts": self._accounts(),
            "kept": gauges.kept(),
            "load": {
                "connections": load.connections,
                "requests": load.requests,
                "lag_ms": round(load.lag_s * 1000, 1),
            },
            "shared": shared and {"up": shared.up, "whole": shared.whole, "replicas": shared.replicas},
            "reload": sights.reload(),
            "refusals": self._recent.newest_first(),
        }

    def _totals(self) -> dict[str, object]:
        """What is counted, at this moment."""
        counts, metrics = counted(self._metrics), self._metrics
        return {
            "totals": {
                "requests": counts.requests,
                "upstream": counts.upstream,
                "saved": counts.saved,
                "streams_open": metrics.streams.total(),
                "messages": counts.messages,
            },
            "outcomes": _by_outcome(metrics),
        }

    def _clients(self) -> list[dict[str, object]]:
        """The busiest: first those who are just now."""
        used, streams = self._usage.since_start(), Counter[str]()
        for (client, _), count in self._metrics.streams.items():
            streams[client] += count
        names = nlargest(
            MAX_CLIENTS, used, key=lambda name: (self._per_second.get(name, 0.0), used[name].requests)
        )
        limits = self._sights.limits(frozenset(names))
        return [
            {
                "name": name,
                "requests": used[name].requests,
                "per_second": self._per_second.get(name),
                "saved": used[name].saved,
                "limited": used[name].limited,
                "refused": used[name].refused,
                "streams": streams[name],
                "limits": list(_limits(*limits[name])) if name in limits else [],
            }
            for name in names
        ]

    def _watch(self, watched: Watched) -> dict[str, object]:
        return {
            "account": watched.account,
            "chat": None if watched.chat is None else hashed(watched.chat),
            "resource": watched.resource,
            "watchers": watched.watchers,
            "age_s": round(max(0.0, self._clock.now() - watched.sent_at), 3),
            "trouble": watched.trouble,
        }

    def _accounts(self) -> list[dict[str, object]]:
        breakers, budgets = self._metrics.gauges.breakers(), self._metrics.gauges.budgets()
        return [
            {
                "name": name,
                "breaker": breakers.get(name, "closed"),
                "budget": {"waiting": budget.waiting, "in_flight": budget.in_flight, "pace": budget.pace}
                if (budget := budgets.get(name))
                else {"waiting": 0, "in_flight": 0, "pace": 1.0},
            }
            for name in sorted(self._sights.accounts())
        ]


def _limits(limits: Limits, left: Sequence[Left] | None) -> Iterable[dict[str, object]]:
    """What is left of each; None where only others know."""
    if left is not None:
        for one in left:
            yield {"name": one.limit, "limit": one.quota, "remaining": one.remaining}
        return
    quotas = {
        "requests": limits.requests and limits.requests.burst,
        "requests-per-day": limits.requests_per_day,
        "in-flight": limits.in_flight,
    }
    for name, quota in quotas.items():
        if quota is not None:
            yield {"name": name, "limit": quota, "remaining": None}


# -- a second -----------------------------------------------------------------------------------------------


def counted(metrics: Metrics) -> Counts:
    """Sums as of now. Of tables with a row a client only the sum of the rows is made, which is quick."""
    by_outcome = _by_outcome(metrics)
    prompt = [took for (_, outcome), took in metrics.durations.items() if outcome != _HELD_BACK]
    return Counts(
        requests=by_outcome.total(),
        upstream=metrics.upstream_requests.total(),
        saved=metrics.saved.total(),
        hits=by_outcome[HIT],
        refused=by_outcome["refused"],
        failed=by_outcome["failed"],
        messages=metrics.stream_messages.total(),
        took=_added(prompt, len(BUCKETS_S) + 1),
        ages=_added(metrics.ages.values(), len(AGES_S) + 1),
    )


def _by_outcome(metrics: Metrics) -> Counter[str]:
    """All refusals are one outcome here, and so are all failures."""
    by_outcome: Counter[str] = Counter()
    for (_, outcome), took in metrics.durations.items():
        by_outcome[outcome] += sum(took.counts)
    return by_outcome


def _added(durations: Iterable[Durations], buckets: int) -> tuple[int, ...]:
    return tuple(map(sum, zip([0] * buckets, *(one.counts for one in durations), strict=True)))


def sample(before: Counts, after: Counts) -> dict[str, object]:
    """What came between. Quantiles are as exact as the buckets; None where nothing came."""
    told: dict[str, object] = {
        name: getattr(after, name) - getattr(before, name)
        for name in ("requests", "upstream", "saved", "hits", "refused", "failed", "messages")
    }
    took = [late - early for late, early in zip(after.took, before.took, strict=True)]
    ages = [late - early for late, early in zip(after.ages, before.ages, strict=True)]
    return told | {
        "p50_ms": _ms(quantile(BUCKETS_S, took, 0.5)),
        "p99_ms": _ms(quantile(BUCKETS_S, took, 0.99)),
        "age_p99_ms": _ms(quantile(AGES_S, ages, 0.99)),
    }


def quantile(bounds_s: Sequence[float], counts: Sequence[int], part: float) -> float | None:
    """So large a part took at most that, in seconds, as if each bucket were filled evenly.

    Nothing is known beyond the last bound, so that is the most it says.
    """
    wanted = sum(counts) * part
    if not wanted:
        return None
    lower = 0.0
    for upper, count in zip(bounds_s, counts, strict=False):
        if count >= wanted:
            return lower + (upper - lower) * wanted / count
        wanted -= count
        lower = upper
    return lower


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 3)


def _message(event: str, said: object) -> bytes:
    # ASCII, and no line break in it.
    return f"event: {event}\ndata: {json.dumps(said, allow_nan=False)}\n\n".encode()
