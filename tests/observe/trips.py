"""Ends of requests, made by hand: what the road tells the observer."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass, field, replace
from typing import Any

from gateway.core.access import DeadWhen, Grant, Shadow
from gateway.core.errors import Reason, Refusal
from gateway.core.freshness import Failed, keep_nothing
from gateway.core.messages import Answer, Chat, Representation
from gateway.core.paths import Target
from gateway.core.places import Armed
from gateway.core.policy import Client, Resource
from gateway.core.replies import Delivered, How, Reply, Trip
from gateway.core.requests import Request
from gateway.core.views import Slot
from gateway.observe.logs import logger
from gateway.observe.metrics import Metrics
from gateway.observe.observer import Observer
from gateway.observe.usage import Usage

CHAT = Chat("123", "H6249123-c0ffee5ec2e7K5279348")
INFO = Resource(
    "info",
    ("chat", "{chat}", "info"),
    {"GET": "chat:read"},
    {},
    (Representation.JSON,),
    coalesce=True,
    cache=None,
)
ACCOUNT = Resource(
    "account", (), {"GET": "account:read"}, {}, (Representation.JSON,), coalesce=False, cache=None
)
OF_CHAT = Target(
    "GET", "123", CHAT, INFO, Representation.JSON, f"/api/account/123/chat/{CHAT.id}/info", "", dropped=False
)
OF_ACCOUNT = Target(
    "GET", "123", None, ACCOUNT, Representation.JSON, "/api/account/123", "skill=Wilhelmina", dropped=False
)
SHADOW = Shadow("partner-next", "action-denied", "partner-next/default-deny")
#: All that must not be written down: of the chat, the query, the token, the body and the two addresses.
SECRETS = (CHAT.id, "Wilhelmina", "eyJhbGci", "192.0.2.77", "198.51.100.9", "/api/account")


async def _body(_: int) -> bytes | Refusal:
    return b"Wilhelmina"


REQUEST = Request(
    "a59f53808ceeecee",
    "GET",
    OF_CHAT.path.encode(),
    b"v=1&name=Wilhelmina",
    {b"authorization": b"Bearer eyJhbGci.x.y"},
    _body,
    peer="192.0.2.77",
    visitor="198.51.100.9",
)


def delivered(
    how: How,
    client: str = "bff",
    *,
    opened: bool = False,
    target: Target = OF_CHAT,
    instead_of: Reason | None = None,
) -> Trip:
    """An answer for a client, by its rule."""
    rule = f"{client}/allow/{target.action}"
    entry = keep_nothing(Answer(200, (), b"Wilhelmina"), (0, 0), 0.0)
    grant = Grant(Client(client, (), None, ()), rule, DeadWhen(9e9, 1))
    return Trip(Delivered(entry, how, instead_of, opened), target, grant, client, rule)


def refused(refusal: Refusal, client: str | None = "partner", **known: Any) -> Trip:
    return Trip(refusal, client=client, **known)


def armed(target: Target = OF_CHAT, dies_at: float | None = None) -> Armed:
    """What stands ready of an answer that was asked for at 0."""
    return Armed(Slot(200, b"", b"", None), 1.0, 0.0, 1.0, target.chat, dies_at)


FAILED = Failed(Reason.UPSTREAM_ERROR, 503)


def reply(trip: Trip, body: bytes = b"0123456789") -> Reply:
    """Ten bytes with the status that goes with the trip's end."""
    result = trip.result
    return Reply(result.reason.status if isinstance(result, Failed | Refusal) else 200, b"", body)


@dataclass
class Desk:
    """An observer, and all it writes to. `wall` is turned by hand."""

    wall: float = 1_795_343_223.0
    level: str = "debug"
    log_one_hit_in: int = 1
    metrics: Metrics = field(default_factory=Metrics)
    log: io.StringIO = field(default_factory=io.StringIO)

    def __post_init__(self) -> None:
        self.usage = Usage(lambda: self.wall)
        log = logger(self.level, self.log, lambda: self.wall)
        self.observer = Observer(self.metrics, log, self.usage, self.log_one_hit_in)
        self.metrics.gauges = replace(self.metrics.gauges, sent=self.usage.sent)

    def tell(
        self,
        trip: Trip,
        seconds: float = 0.004,
        request: Request = REQUEST,
        *,
        now: float = 0.5,
        dies_at: float | None = None,
    ) -> None:
        self.observer.replied(request, trip, reply(trip), seconds, now, dies_at)

    def hit(self, request_id: str = "x", status: int = 200, seconds: float = 0.1, now: float = 0.5) -> None:
        """A hit by the short cut."""
        hits = self.observer.hits("bff", "bff/allow/chat:read", "info")
        hits.hit(armed(), request_id, status, 0, now, seconds, self.wall)

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.getvalue().splitlines()]

    def exposed(self) -> dict[str, float]:
        """Each sample of the exposition."""
        samples = [line for line in self.metrics.exposition().decode().splitlines() if line[0] != "#"]
        return {name: float(value) for name, _, value in (sample.rpartition(" ") for sample in samples)}
