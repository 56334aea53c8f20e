"""What the road needs of the rooms: ports as narrow as can be, and the state that a reload swaps."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol, TypeVar

from gateway.core.access import Claims, Grant
from gateway.core.answers import Undressed
from gateway.core.errors import Refusal
from gateway.core.freshness import Contact, Entry, Failed
from gateway.core.headers import Fields
from gateway.core.judgement import Granted
from gateway.core.limits import Standing
from gateway.core.links import LinkMap
from gateway.core.messages import Answer, Chat, Key, Representation, UpstreamRequest
from gateway.core.paths import Target
from gateway.core.places import Armed, Place
from gateway.core.policy import Client, Policies, Priority
from gateway.core.push import Stream
from gateway.core.replies import Reply, Result, Trip
from gateway.core.requests import Request
from gateway.core.sharing import Told
from gateway.core.views import View


class Clock(Protocol):
    """Time, injected once."""

    def now(self) -> float:
        """Monotonic seconds: for ages and deadlines."""

    def wall(self) -> float:
        """Epoch seconds: for what other machines say, such as a token's expiry."""


class Verifier(Protocol):
    """Tokens to claims. Without a peer nobody is charged for a token that is not accepted.

    `known` tells at once of one that was verified before.
    """

    async def verify(self, authorization: bytes | None, peer: str | None) -> Claims | Refusal: ...
    def known(self, authorization: bytes) -> Claims | None: ...


class Lane(Protocol):
    """The limits of one client for one resource, counted in this process."""

    def hit(self, now: float, wall: float) -> bytes | None:
        """Charge a request that ends at once: the lines of its reply. None charges nothing: it is refused."""


class Limiter(Protocol):
    """What each client has used of its limits. Without a lane, somebody else has to be asked.

    One that has left while it only waited rejoins, whatever there is room for. `watch` takes the place of one
    more watcher, until `unwatch`; or it tells why there is none.
    """

    def lane(self, client: Client, resource: str | None) -> Lane | None: ...
    async def enter(self, client: Client, resource: str | None) -> Standing: ...
    def leave(self, client: Client, resource: str | None) -> None: ...
    def rejoin(self, client: Client, resource: str | None) -> None: ...
    def fetch(self, client: Client, resource: str) -> Standing | None: ...
    def refund(self, client: Client, resource: str) -> None: ...
    def watch(self, client: Client) -> Standing | None: ...
    def unwatch(self, client: Client) -> None: ...
    async def peek(self, client: Client, resource: str | None) -> Standing: ...
    def peek_fetch(self, client: Client, resource: str) -> Standing | None: ...


class Store(Protocol):
    """Entries, generations, and when each chat was last heard of. Bounded: it may forget entries.

    What it learns of a chat, and what it forgets, disarms the chat's places at once.
    """

    def get(self, key: Key) -> Entry | None: ...
    def put(self, key: Key, entry: Entry, owner: str) -> None: ...
    def generation(self, chat: Chat) -> int: ...
    def raise_generation(self, chat: Chat) -> None: ...
    def raise_all(self) -> None: ...
    def purges(self, account: str) -> int: ...
    def purge(self, account: str | None, chat: Chat | None = None) -> int: ...
    def contact(self, chat: Chat) -> Contact | None: ...
    def touch(self, chat: Chat, contact: Contact) -> None: ...
    def place(self, key: Key, view: View) -> Place | None: ...
    def arm(self, place: Place, armed: Armed) -> None: ...
    def disarm(self, chat: Chat | None) -> None: ...


class Upstream(Protocol):
    """The way to the vendor. It adds the appKey, and it is the only place that has it."""

    @property
    def links(self) -> LinkMap: ...

    async def send(self, request: UpstreamRequest, *, is_read: bool) -> Answer | Failed: ...


class Ticket(Protocol):
    """A flight's place in the queue for the upstream; `turn` is done when it waits no more.

    It has `boarded` then, unless it was refused.
    """

    @property
    def turn(self) -> asyncio.Future[None]: ...
    @property
    def boarded(self) -> bool: ...

    def join(self, client: Client) -> None: ...


K = TypeVar("K", bound=Ticket)


class Budget(Protocol[K]):
    """How much may be asked of the upstream, and whose turn it is."""

    def ticket(self, account: str, client: Client, dies_at: float) -> K: ...
    def patience_s(self, account: str) -> float: ...
    def busy(self, account: str) -> Failed: ...
    async def enter(self, ticket: K) -> Failed | None: ...
    def leave(self, ticket: K) -> None: ...
    def slow_down(self, account: str, until: float) -> None: ...


class Protection(Protocol):
    """Which failures are remembered, so that a sick upstream is not asked at every request.

    `admit` is asked right before a request is sent: where one may probe, it is that one.
    """

    def hold(self, account: str, key: Key | None, whose: str) -> Failed | None: ...
    def admit(self, account: str, whose: str) -> Failed | None: ...
    def failed(self, account: str, key: Key | None, failed: Failed, whose: str) -> Failed: ...
    def succeeded(self, account: str, key: Key | None) -> None: ...


class Overload(Protocol):
    """Whether there is room for one more request; without a priority, for anybody's."""

    def refuses(self, priority: Priority | None) -> Refusal | None: ...
    def enter(self) -> None: ...
    def leave(self) -> None: ...


class Lease(Protocol):
    """The right to ask the upstream for what all replicas want. Whoever has it lands, fails or lets go."""

    async def land(self, told: Told, entry: Entry) -> bool:
        """Hand over what was heard. False: it is of before a write, or somebody else has taken over."""

    async def fail(self, failed: Failed) -> None: ...
    def let_go(self) -> None: ...


class Replicas(Protocol):
    """The other replicas of this gateway. What is asked of them ends soon, whether or not they are there.

    `whole`: nothing is missing of what they have said. Without that nothing stale may be served.
    """

    @property
    def whole(self) -> bool: ...

    async def board(
        self, target: Target, stale: Callable[[Told], object] | None
    ) -> Told | Failed | Lease | None:
        """What they have or are fetching of the target, or the lease to fetch it; None: there is nobody.

        `stale`, if this replica has nothing, is told at once of what is to be refreshed or stale.
        """

    async def write_ended(self, chat: Chat) -> None:
        """A write to the chat has ended: when this returns all others know, or are too slow."""

    async def purge(self, account: str | None) -> bool:
        """Let go what they have of an account, or of all. False: it may be that nobody was told."""


class Watchers(Protocol):
    """Those who are told what changes, instead of asking again and again."""

    def open(self, request: Request, granted: Granted, entry: Entry) -> Stream | Refusal:
        """A stream that begins with what has just been answered."""

    async def change(
        self, request: Request, granted: Granted, entry: Entry, wait_s: float
    ) -> Entry | Refusal | None:
        """The first entry that says anything new to this caller; after `wait_s` the newest there is.

        None if there is nothing to wait for: then this one is news, or nobody waits any more.
        It also ends when the caller's grant does, or the caller leaves: who may be told is asked after that.
        """

    def landed(self, target: Target, entry: Entry) -> None:
        """The target was answered, whoever asked."""

    def written(self, chat: Chat) -> None:
        """What was known of the chat is old."""

    def purged(self, account: str | None) -> None:
        """What was known of the account's chats is old, or of all."""


class Polls(Protocol):
    """How watchers' answers are asked for: as their own reads are, past judging and charging a request."""

    async def poll(self, granted: Granted) -> Result: ...


class Hits(Protocol):
    """Who counts and logs the hits of one client by one rule on one resource, where nothing else happened."""

    def hit(  # noqa: PLR0917 - by position: keywords cost a tenth more
        self,
        armed: Armed,
        request_id: str,
        status: int,
        body_bytes: int,
        now: float,
        seconds: float,
        wall: float,
    ) -> None: ...


class Observer(Protocol):
    """Who counts and logs. It is told, and decides nothing.

    `now` is when the reply was made, `dies_at` when its chat dies of silence, if it may (monotonic seconds).
    """

    def hits(self, client: str, rule: str, resource: str) -> Hits: ...
    def replied(  # noqa: PLR0917 - all of a request's end
        self, request: Request, trip: Trip, reply: Reply, seconds: float, now: float, dies_at: float | None
    ) -> None: ...
    def asked(self, target: Target, outcome: Undressed | Failed, client: str, seconds: float) -> None: ...
    def crashed(self, error: Exception) -> None: ...
    def stream_opened(self, client: str, resource: str) -> None: ...
    def stream_sent(self, client: str, resource: str, kind: str, body_bytes: int) -> None: ...
    def stream_closed(self, target: Target, client: str, why: str, seconds: float) -> None: ...


class Tracer(Protocol):
    """Who follows requests through processes, by the context of the task that says so.

    `flight` yields what `joined` takes: which flight it is that the request of this task waits for.
    """

    def wants(self, fields: Fields) -> bool: ...
    def request(self, request: Request) -> AbstractContextManager[object]: ...
    def replied(self, request: Request, trip: Trip, reply: Reply) -> None: ...
    def flight(self, target: Target) -> AbstractContextManager[object]: ...
    def joined(self, flight: object) -> None: ...
    def upstream(self, target: Target) -> AbstractContextManager[object]: ...
    def asked(self, outcome: Undressed | Failed) -> None: ...


class ShortCut(Protocol):
    """Who remembers what the road has served."""

    def remember(self, request: Request, target: Target, grant: Grant, armed: Armed) -> None: ...


@dataclass(frozen=True, slots=True)
class State:
    """Everything that a reload changes, as one value; asked for anew after every wait.

    `epoch` tells one public address, upstream and set of resources from another: what was made under an older
    one is neither served nor kept.
    """

    policies: Policies
    accounts: Collection[str]
    default_representation: Representation
    stale_after_s: float
    upstream: Upstream
    is_revoked: Callable[[str], bool]
    max_body_bytes: int
    refuse_other_session_key: bool = False
    epoch: int = 0
