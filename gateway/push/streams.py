"""One watcher: what it has been told, and what is news to it.

A stream is told again and again, a long poll once.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable
from typing import Protocol

from gateway.core.access import DeadWhen
from gateway.core.answers import render
from gateway.core.chat_events import has_events
from gateway.core.errors import Reason, problem
from gateway.core.headers import etag_matches
from gateway.core.judgement import Granted
from gateway.core.messages import Representation
from gateway.core.policy import Streaming
from gateway.core.push import Sink
from gateway.core.requests import Request
from gateway.ports import Clock, Observer
from gateway.push.heard import Heard, first_of
from gateway.push.messages import HEARTBEAT, message

#: Whoever comes back after a reload or a restart does so within so many milliseconds, not all at once.
COME_BACK_MS = 3000
#: The head of a reply that is not written by then will not be, in seconds.
BEGUN_WITHIN_S = 5.0
_NUMBER = re.compile(rb"[0-9]{1,17}")
_COMING_BACK = frozenset({Reason.DRAINING, Reason.POLICIES_CHANGED, Reason.TOKEN_EXPIRED})


class Watcher(Protocol):
    """Whoever is told of a target by its watch. `next` is the number of the event that it waits for."""

    @property
    def granted(self) -> Granted: ...
    @property
    def next(self) -> int: ...

    def tell(self, heard: Heard) -> None: ...
    def fail(self, reason: Reason, violated: tuple[str, ...]) -> None: ...
    def give_up(self) -> None: ...


class House(Protocol):
    """What a stream needs of the hub."""

    @property
    def clock(self) -> Clock: ...
    @property
    def observer(self) -> Observer: ...
    @property
    def random(self) -> Callable[[], float]: ...

    def dead_of(self, granted: Granted) -> Reason | None: ...
    def safely(self, do: Callable[[], None], watcher: Watcher | None = None) -> None: ...
    def begun(self, stream: OpenStream, first: Heard) -> None: ...
    def ended(self, stream: OpenStream) -> None: ...


def why_dead(dead_when: DeadWhen, wall: float, version: int) -> Reason | None:
    """Why a grant has ended at `wall` (epoch seconds), if it has."""
    if not dead_when.passed(wall, version):
        return None
    if wall >= dead_when.expires_at:
        return Reason.TOKEN_EXPIRED
    if dead_when.is_revoked(dead_when.client):
        return Reason.TOKEN_REVOKED
    # New policies, new keys, or the token itself: who asks again is told which.
    return Reason.POLICIES_CHANGED


class OpenStream:
    """One stream, from the request for it to its end; `core.push.Stream` for the edge."""

    def __init__(self, request: Request, granted: Granted, first: Heard, house: House) -> None:
        self.granted = granted
        self._first: Heard | None = first
        self.request = request
        self._house = house
        self._is_of_events = granted.target.resource.stream is Streaming.EVENTS
        last = request.last_event_id
        #: The tag of the document that was told last.
        self._tag = last
        self._sent_at = first.entry.sent_at
        resumed = 0 if last is None or not _NUMBER.fullmatch(last) else int(last) + 1
        self.next = resumed or first_of(granted.target)
        self._sink: Sink | None = None
        self._is_troubled = False
        self._opened_at = self._written_at = house.clock.now()
        self._is_closed = self.is_over = last is not None and first.end == "ended" and not self._news(first)

    def begin(self, sink: Sink) -> None:
        """The head of the reply has been written."""
        # It is told, and not held for as long as the stream lasts.
        first, self._first = self._first, None
        if self._is_closed or first is None:
            sink.close()
            return
        self._sink = sink
        self._written_at = self._house.clock.now()
        self._house.begun(self, first)

    def lost(self) -> None:
        """Nobody is there any more."""
        self._finish("lost")

    def tell(self, heard: Heard) -> None:
        """Say what is news to it, and if nothing comes after that, end."""
        if not self._may_be_told():
            return
        if heard.is_good and not self._follows(heard):
            return
        news = self._news(heard, again=self._is_troubled)
        self._is_troubled = False
        if news:
            kind = "event" if self._is_of_events else self.granted.target.resource.name
            self._write(kind, b"".join(news), len(news))
        if self._is_of_events:
            self.next = max(self.next, heard.next)
        elif heard.is_good:
            self._sent_at = heard.entry.sent_at
            self._tag = heard.document(self.granted.grant.view)[0]
        if heard.end is not None:
            self._write("ended", message(b"ended", json.dumps({"reason": heard.end}).encode()))
            self._finish(heard.end)

    def _follows(self, heard: Heard) -> bool:
        """Whether it is neither older than what was told, nor leaves anything out after it."""
        if self._is_of_events:
            return first_of(heard.target) <= self.next
        return heard.entry.sent_at >= self._sent_at

    def _news(self, heard: Heard, *, again: bool = False) -> list[bytes]:
        if not heard.is_good:
            return []
        view = self.granted.grant.view
        if self._is_of_events:
            return [said for number, said in heard.events_in(view) if number >= self.next]
        tag, said = heard.document(view)
        return [said] if again or tag != self._tag else []

    def fail(self, reason: Reason, violated: tuple[str, ...] = ()) -> None:
        """Say, once until it is over, that there is nothing new to hear at present."""
        if not self._is_troubled and self._may_be_told():
            self._is_troubled = True
            self._write("problem", message(b"problem", self._problem(reason, violated)))

    def close(self, reason: Reason) -> None:
        """End it, and say why."""
        if self._sink is not None and not self._is_closed:
            retry_ms = int(self._house.random() * COME_BACK_MS) if reason in _COMING_BACK else None
            self._write("closed", message(b"closed", self._problem(reason), retry_ms=retry_ms))
        self._finish(reason.slug)

    def give_up(self) -> None:
        """End it without a word: what it was told went wrong here."""
        self._finish("crashed")

    def look(self, heartbeat_s: float) -> None:
        """End it if its time has come; else see that it is not silent for longer than that."""
        now = self._house.clock.now()
        if self._sink is None:
            if now - self._opened_at >= BEGUN_WITHIN_S:
                self._finish("lost")
        elif self._may_be_told() and now - self._written_at >= heartbeat_s:
            self._write("heartbeat", HEARTBEAT)

    def _may_be_told(self) -> bool:
        if self._is_closed or self._sink is None:
            return False
        if not self._sink.is_open:
            self._finish("lost")
            return False
        reason = self._house.dead_of(self.granted)
        if reason is not None:
            self.close(reason)
        return reason is None

    def _problem(self, reason: Reason, violated: tuple[str, ...] = ()) -> bytes:
        return problem(reason, Representation.JSON, self.request.id, violated)[1]

    def _write(self, kind: str, said: bytes, count: int = 1) -> None:
        # The one before may have been one too many for who reads.
        if self._sink is None or self._is_closed:
            return
        self._written_at = self._house.clock.now()
        self._sink.write(said)
        target, observer = self.granted.target, self._house.observer
        size = len(said)
        for _ in range(count):
            observer.stream_sent(self.granted.client.name, target.resource.name, kind, size)
            size = 0

    def _finish(self, why: str) -> None:
        """Once; whoever ends it."""
        if self._is_closed:
            return
        self._is_closed = True
        self._house.ended(self)
        if self._sink is not None:
            seconds = self._house.clock.now() - self._opened_at
            target, client = self.granted.target, self.granted.client.name
            self._house.observer.stream_closed(target, client, why, seconds)
            if self._sink.is_open:
                self._sink.close()


class LongPoll:
    """One read that is held back until there is news for its client. `told` is done when it is over."""

    next: int = 0

    def __init__(self, request: Request, granted: Granted) -> None:
        self.granted = granted
        self.request = request
        self.told: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def is_news(self, heard: Heard) -> bool:
        """Whether the client has not had that."""
        target = self.granted.target
        if not heard.is_good:
            return True
        if target.resource.stream is Streaming.EVENTS:
            return has_events(heard.entry.answer.body, target.representation)
        slot = render(heard.entry, self.granted.grant.view, target)
        return not etag_matches(self.request.fields.get(b"if-none-match"), slot.etag)

    def tell(self, heard: Heard) -> None:
        if self.is_news(heard):
            self.let_go()

    def fail(self, reason: Reason, violated: tuple[str, ...] = ()) -> None:
        """It may be over before the wait is."""

    def give_up(self) -> None:
        self.let_go()

    def let_go(self) -> None:
        """Answer with what there is."""
        if not self.told.done():
            self.told.set_result(None)
