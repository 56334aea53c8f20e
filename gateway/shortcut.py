"""The short cut: polls of what is fresh, answered without the road.

It may answer only what the road would answer now without awaiting, from values that the road itself made,
each of which carries its own end. It decides nothing, and without it only the speed is another.

    remember    the road hands over what it has just served: the grant, and the slot in its place
    recall      the edge has the very bytes of a request that was remembered
    answer      the edge has a request that differs from one only in what is joined with a slot

What is remembered: a caller (a token, and whatever else chooses its replies) with its blocks, which are the
header fields byte for byte; a pass for each request line that a caller may send; and in the store a place
for each (target, view), where a slot stands armed. A caller carries the end of its grants, an armed slot its
own, and whatever may end either earlier is news or disarms.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable
from typing import NamedTuple

from gateway.core.access import Grant
from gateway.core.headers import READ, Fields, Part, etag_matches, join_lines, request_id
from gateway.core.paths import Target
from gateway.core.places import Armed, CrossOrigin, Place
from gateway.core.replies import wire
from gateway.core.requests import Poll, Request
from gateway.core.shares import Shares
from gateway.ports import Clock, Hits, Lane, Limiter, Observer, State, Store

#: What is longer is not worth remembering, and cannot be without bound.
MAX_LINE_BYTES = 1_024
MAX_BLOCK_BYTES = 12_288
MAX_ETAGS_BYTES = 128
#: How many spellings of a caller's header are remembered.
MAX_BLOCKS = 4

#: What is kept of each besides its own bytes; measured by `python -m tests.benchmarks.memory`, and some more.
CALLER_BYTES = 700
BLOCK_BYTES = 400
PASS_BYTES = 300


class News:
    """Another `mark` whenever anything has changed that may end grants before their time."""

    __slots__ = ("mark",)

    def __init__(self) -> None:
        self.mark = object()

    def tell(self) -> None:
        """Something has, in whatever thread."""
        self.mark = object()


class _Caller:
    """One token and what chooses its replies: all its grants end together.

    `id` is no secret and never used twice. `news` is the mark up to which nothing has ended them.
    """

    __slots__ = ("blocks", "cross_origin", "expires_at", "grant", "id", "news")

    def __init__(self, name: bytes, grant: Grant, cross_origin: CrossOrigin) -> None:
        self.id = name
        self.grant = grant
        self.expires_at = grant.dead_when.expires_at
        # The grant was judged before: there may have been news since.
        self.news: object = None
        self.cross_origin = cross_origin
        self.blocks: list[bytes] = []


class _Known(NamedTuple):
    """What a block says."""

    caller: _Caller
    request_id: str | None
    if_none_match: bytes | None


class _Pass(NamedTuple):
    """What a caller gets for a request line: the slot in that place, charged and counted there."""

    place: Place
    lane: Lane
    hits: Hits


class ShortCut:
    """The memory of grants, bounded by bytes, shared fairly by clients.

    `new_id` makes request ids; what `is_traced` takes the road, which is where traces are made.
    """

    def __init__(
        self,
        *,
        max_bytes: int,
        state: Callable[[], State],
        news: News,
        clock: Clock,
        limiter: Limiter,
        store: Store,
        observer: Observer,
        new_id: Callable[[], str],
        is_traced: Callable[[Fields], bool] | None = None,
    ) -> None:
        self._state = state
        self._news = news
        self._now = clock.now
        self._wall = clock.wall
        self._limiter = limiter
        self._store = store
        self._observer = observer
        self._new_id = new_id
        self._is_traced = is_traced
        self._ids = itertools.count()
        #: One object each. Origins are those of the configuration.
        self._cross_origins: dict[CrossOrigin, CrossOrigin] = {}
        self._blocks: dict[bytes, _Known] = {}
        # A token is used for some tens of chats, or by a backend for all of them.
        self._callers: Shares[bytes, _Caller] = Shares(max_bytes // 4, self._forget_blocks)
        self._passes: Shares[bytes, _Pass] = Shares(max_bytes - max_bytes // 4)

    @property
    def weight(self) -> int:
        """How many bytes of its room are taken."""
        return self._callers.weight + self._passes.weight

    def counts(self) -> dict[str, int]:
        """How many there are of each kind."""
        return {"grants": len(self._passes), "callers": len(self._callers)}

    def evictions(self) -> dict[str, int]:
        """How many of each kind had to make room for others."""
        return {"grants": self._passes.evictions, "callers": self._callers.evictions}

    # -- the edge's ---------------------------------------------------------------------------------------

    def recall(self, data: bytes) -> bytes | None:
        """The response to a request that came in one piece, if these very bytes are known."""
        line, _, block = data.partition(b"\r\n")
        known = self._blocks.get(block)
        return None if known is None else self._hit(line, known)

    def answer(self, poll: Poll) -> bytes | None:
        """The response to a poll whose fields are not all as they were."""
        fields = poll.fields
        if self._is_traced is not None and self._is_traced(fields):
            return None
        # What is known by its bytes needs no hash.
        known = self._blocks.get(poll.block)
        if known is not None:
            return self._hit(poll.line, known)
        caller = self._callers.get(_name(fields))
        if caller is None:
            return None
        known = _Known(caller, request_id(fields), fields.get(b"if-none-match"))
        return self._hit(poll.line, known)

    def _hit(self, line: bytes, known: _Known) -> bytes | None:
        try:
            return self._served(line, known)
        except Exception as error:  # noqa: BLE001 - any doubt takes the road
            self._observer.crashed(error)
            return None

    def _served(self, line: bytes, known: _Known) -> bytes | None:
        caller, given_id, if_none_match = known
        held = self._passes.held.get(caller.id + line)
        if held is None:
            return None
        place, lane, hits = held.value
        armed = place.armed
        began = self._now()
        if armed is None or began >= armed.until:
            return None
        wall = self._wall()
        if wall >= caller.expires_at:
            return None
        if caller.news is not self._news.mark and not self._stands(caller, wall):
            return None
        limits = lane.hit(began, wall)
        if limits is None:
            return None
        slot = armed.slot
        name = given_id or self._new_id()
        if if_none_match is not None and etag_matches(if_none_match, slot.etag):
            status, head, body = 304, slot.head_304, b""
        else:
            status, head, body = slot.status, slot.head, slot.body
        told = armed.told(caller.cross_origin, began)
        response = wire(status, join_lines(head, wall, name.encode(), told, limits), body)
        hits.hit(armed, name, status, len(body), began, self._now() - began, wall)
        return response

    def _stands(self, caller: _Caller, wall: float) -> bool:
        """After news: look whether it was about this caller."""
        # 1 the mark is read, 2 the grant is asked: what changes in between has another mark.
        mark = self._news.mark
        if caller.grant.dead_when.passed(wall, self._state().policies.version):
            return False
        caller.news = mark
        return True

    # -- the road's ---------------------------------------------------------------------------------------

    def remember(self, request: Request, target: Target, grant: Grant, armed: Armed) -> None:
        """The road has served that slot to this request, and would until it is no longer armed."""
        poll = request.poll
        place = self._store.place(target.key, grant.view)
        lane = self._limiter.lane(grant.client, target.resource.name)
        if poll is None or place is None or lane is None or len(poll.line) > MAX_LINE_BYTES:
            return
        if place.armed is None or place.armed.until != armed.until:
            self._store.arm(place, armed)
        caller = self._caller(poll, request, grant)
        key = caller.id + poll.line
        known = self._passes.get(key)
        if known is None or known.place is not place or known.lane is not lane:
            hits = self._observer.hits(grant.client.name, grant.rule, target.resource.name)
            passing = _Pass(place, lane, hits)
            self._passes.put(grant.client.name, key, passing, PASS_BYTES + len(key))

    def _caller(self, poll: Poll, request: Request, grant: Grant) -> _Caller:
        known = self._blocks.get(poll.block)
        if known is not None and self._is_of(known.caller, grant):
            return known.caller
        name = _name(poll.fields)
        caller = self._callers.get(name)
        if caller is None or not self._is_of(caller, grant):
            cross_origin = (request.vary, request.origin)
            cross_origin = self._cross_origins.setdefault(cross_origin, cross_origin)
            caller = _Caller(b"%x " % next(self._ids), grant, cross_origin)
        self._remember_block(caller, poll)
        weight = CALLER_BYTES + sum(BLOCK_BYTES + len(block) for block in caller.blocks)
        self._callers.put(grant.client.name, name, caller, weight)
        return caller

    def _is_of(self, caller: _Caller, grant: Grant) -> bool:
        """Whether the caller's grants are as good as this one, and the next."""
        theirs, ours = caller.grant.dead_when, grant.dead_when
        return caller.grant.client is grant.client and not theirs.passed(self._wall(), ours.policies_version)

    def _remember_block(self, caller: _Caller, poll: Poll) -> None:
        block, fields = poll.block, poll.fields
        if self._is_traced is not None and self._is_traced(fields):
            return
        etags = fields.get(b"if-none-match")
        if len(block) > MAX_BLOCK_BYTES or len(etags or b"") > MAX_ETAGS_BYTES:
            return
        if len(caller.blocks) >= MAX_BLOCKS:
            self._blocks.pop(caller.blocks.pop(0), None)
        caller.blocks.append(block)
        self._blocks[block] = _Known(caller, request_id(fields), etags)

    def _forget_blocks(self, caller: _Caller) -> None:
        for block in caller.blocks:
            # The same bytes may be another's by now, who has the same token and newer grants.
            if (known := self._blocks.get(block)) is not None and known.caller is caller:
                del self._blocks[block]


def _name(fields: Fields) -> bytes:
    """What a caller is found by: a hash of the fields that choose."""
    return hashlib.sha256(b"\n".join([fields.get(name, b"") for name in _CHOOSING])).digest()


_CHOOSING = [name for name, row in READ.items() if row.part is Part.CHOOSES]
