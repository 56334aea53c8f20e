"""What operators say in `policies/`, as values.

The shapes only: `gateway.config.policies` reads the files, `core.access` and `core.paths` decide with them.
Durations are seconds here; in the files they are milliseconds and say so in their names.
"""

from __future__ import annotations

import enum
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from gateway.core.limits import UNLIMITED, Limits
from gateway.core.messages import Representation
from gateway.core.views import FULL, View

#: Every action a client can be allowed. `chat:write` includes ending the chat.
ACTIONS = ("account:read", "account:write", "chat:read", "chat:start", "chat:write")

#: The life of a chat, as `info.state` spells it.
STATES = ("waiting", "chatting", "ended")

ClaimValue = str | int | bool


class Priority(enum.Enum):
    """Whose fetches go first when the upstream's budget is short: (name, weight in the queue)."""

    HIGH = ("high", 8)
    NORMAL = ("normal", 4)
    LOW = ("low", 1)

    def __init__(self, label: str, weight: int) -> None:
        self.label = label
        self.weight = weight


class VisitorIp(enum.Enum):
    """What is done about the visitor's address where a chat is started.

    Without `request.visitorIp` the vendor takes the gateway's address for the visitor's. REQUIRE refuses a
    body without it, FROM_FORWARDED writes it in from X-Forwarded-For, PASS leaves the body alone.
    """

    REQUIRE = "require"
    FROM_FORWARDED = "from_forwarded"
    PASS = "pass"  # noqa: S105 - no password


@dataclass(frozen=True, slots=True)
class CacheRule:
    """How long answers of a resource may be kept.

    `ttl_s` has one value for each of `STATES`. `stale_s` is how long past its freshness an answer may
    stand in for an upstream that fails. `volatile` names fields that every poll moves: they do not
    count for the ETag.
    """

    ttl_s: Mapping[str, float]
    stale_s: float
    volatile: frozenset[str]


class Streaming(enum.Enum):
    """What a stream of a resource tells: each change of the whole document, or each new event in it."""

    CHANGES = "changes"
    EVENTS = "events"


@dataclass(frozen=True, slots=True)
class Resource:
    """One row of `policies/resources.yaml`.

    `path` holds the segments below `/api/account/{account}`; `{chat}` and `{event}` stand for ids.
    `methods` maps each method (GET, POST, PUT; HEAD goes with GET) to the action it takes.
    `query` maps each known name to the pattern its whole decoded value must match, in canonical order.
    `stream` is what a stream of it tells, if there may be one. `from_info` lets a field of `info` be answered
    from an info that is fresh.
    """

    name: str
    path: tuple[str, ...]
    methods: Mapping[str, str]
    query: Mapping[str, re.Pattern[str]]
    representations: tuple[Representation, ...]
    coalesce: bool
    cache: CacheRule | None
    max_body_bytes: int | None = None
    stream: Streaming | None = None
    from_info: bool = False

    @property
    def of_chat(self) -> bool:
        return "{chat}" in self.path

    @property
    def field(self) -> str | None:
        """The one field of `info` that this resource is, if it is one (`chat/{chat}/info/visitorName`)."""
        return self.path[3] if is_field(self.path) else None


def is_field(path: tuple[str, ...]) -> bool:
    """Whether what stands there is one field of `info`."""
    return len(path) == 4 and path[:3] == ("chat", "{chat}", "info")


@dataclass(frozen=True, slots=True)
class Condition:
    """What one claim of a token must be: one of these values, or a text that begins with `prefix`."""

    claim: str
    any_of: tuple[ClaimValue, ...] = ()
    prefix: str | None = None

    def met_by(self, value: object) -> bool:
        """Whether a claim's value will do; None stands for a claim that is not there."""
        if self.prefix is not None:
            return isinstance(value, str) and value.startswith(self.prefix)
        # True == 1 in Python, but not in a token.
        for wanted in self.any_of:  # noqa: SIM110 - a generator costs more than the few comparisons
            if type(value) is type(wanted) and value == wanted:
                return True
        return False


@dataclass(frozen=True, slots=True)
class Client:
    """One client of `policies/clients/*.yaml`.

    `match` holds a condition for `iss` and perhaps others; all must be met. `accounts` is None for all that
    are configured. An entry of `allow` and `deny` is an action (`chat:read`), a resource (`info`), or one of
    its methods (`GET events`). `chats` names the claim that must equal the chat's id.
    """

    name: str
    match: tuple[Condition, ...]
    accounts: frozenset[str] | None
    allow: tuple[str, ...]
    deny: tuple[str, ...] = ()
    chats: str | None = None
    view: View = FULL
    limits: Limits = UNLIMITED
    priority: Priority = Priority.NORMAL
    visitor_ip: VisitorIp = VisitorIp.PASS


#: Claim → type and value → the clients for which a token must say just that.
Index = Mapping[str, Mapping[tuple[type, ClaimValue], tuple[Client, ...]]]


def indexed(clients: tuple[Client, ...]) -> Index:
    """Each client under the condition that it shares with the fewest others.

    So a token is compared with few of many; one for each issuer is enough, as each client names its own.
    """
    shared = Counter(
        place for client in clients for condition in client.match for place in _places(condition)
    )
    index: dict[str, dict[tuple[type, ClaimValue], tuple[Client, ...]]] = {}
    for client in clients:
        rarest = min(
            (condition for condition in client.match if condition.any_of),
            key=lambda condition: max(shared[place] for place in _places(condition)),
        )
        for claim, kind, value in _places(rarest):
            values = index.setdefault(claim, {})
            values[kind, value] = (*values.get((kind, value), ()), client)
    return index


def _places(condition: Condition) -> Iterator[tuple[str, type, ClaimValue]]:
    return ((condition.claim, type(value), value) for value in condition.any_of)


#: What stands for an id in a resource's path, and the shape of such an id, as seen in public clients.
#: Every id ever seen has digits, a dash and more; so no id can be mistaken for the name of a resource.
IDS = {
    "{chat}": r"[A-Za-z]{0,4}[0-9]{1,32}-[A-Za-z0-9-]{1,96}",
    "{event}": r"[0-9]{1,18}",
}


@dataclass(frozen=True, slots=True)
class Shape:
    """All resources whose paths have equally many segments, and what they look like below the account.

    The group of `pattern` that matched, its `lastindex`, counts the resources from 1; the first that fits is
    the one. `almost` is for what would be one of them but for an id.
    """

    pattern: re.Pattern[str]
    almost: re.Pattern[str]
    resources: tuple[Resource, ...]


def shaped(resources: Iterable[Resource]) -> Mapping[int, Shape]:
    """Resources by the number of their segments, so that a path is matched once, not with each of them."""
    alike: dict[int, tuple[Resource, ...]] = {}
    for resource in resources:
        size = len(resource.path)
        alike[size] = (*alike.get(size, ()), resource)
    return {size: _shape(found) for size, found in alike.items()}


def _shape(resources: tuple[Resource, ...]) -> Shape:
    exact = [_pattern(resource, IDS) for resource in resources]
    loose = [_pattern(resource, dict.fromkeys(IDS, "[^/]*")) for resource in resources]
    return Shape(
        re.compile("|".join(f"({path})" for path in exact)),
        re.compile("|".join(rf"(?!{path}\Z){wider}" for path, wider in zip(exact, loose, strict=True))),
        resources,
    )


def _pattern(resource: Resource, ids: Mapping[str, str]) -> str:
    return "/".join(ids.get(segment) or re.escape(segment) for segment in resource.path)


NO_SHAPE = Shape(re.compile("(?!)"), re.compile("(?!)"), ())


@dataclass(frozen=True, slots=True)
class Policies:
    """All of `policies/`, as one value. `version` tells one reading from another: grants end with theirs.

    `shadows` are clients in `mode: shadow`: what they would decide is told, and changes nothing. `views` is
    how many views there are besides the whole.
    """

    version: int
    resources: tuple[Resource, ...]
    clients: tuple[Client, ...]
    shadows: tuple[Client, ...] = ()
    index: Index = field(init=False, repr=False, compare=False)
    shapes: Mapping[int, Shape] = field(init=False, repr=False, compare=False)
    views: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "views", len({client.view for client in self.clients} - {FULL}))
        object.__setattr__(self, "index", indexed(self.clients))
        object.__setattr__(self, "shapes", shaped(self.resources))
