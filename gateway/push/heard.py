"""What an entry says to those who watch: its end, and its messages, rendered once for each view."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import cached_property

from gateway.core.answers import asked, judged, render
from gateway.core.chat_events import ChatEvent, chat_events, event_spans
from gateway.core.documents import Document
from gateway.core.faults import Verdict
from gateway.core.freshness import Entry
from gateway.core.paths import Target
from gateway.core.policy import Streaming
from gateway.core.views import View
from gateway.push.messages import message

_FROM = re.compile(r"(?:^|&)from=([0-9]+)")


def first_of(target: Target) -> int:
    """The number of the first event that is asked for."""
    said = _FROM.search(target.query)
    return 0 if said is None else int(said[1])


def asking_from(target: Target, number: int) -> Target:
    """The same, from that event on. The query stays canonical."""
    given = dict(pair.split("=", 1) for pair in target.query.split("&")) | {"from": str(number)}
    query = "&".join(f"{name}={given[name]}" for name in target.resource.query if name in given)
    return replace(target, query=query)


class Heard:
    """An answer to a target, as watchers are told of it."""

    def __init__(self, target: Target, entry: Entry) -> None:
        self.target = target
        self.entry = entry
        self._documents: dict[View, tuple[bytes, bytes]] = {}
        self._events: dict[View, tuple[tuple[int, bytes], ...]] = {}

    @property
    def is_good(self) -> bool:
        return self.entry.answer.status == 200

    @cached_property
    def end(self) -> str | None:
        """Why nothing comes after it: `ended`, `gone`, or None."""
        if not self.is_good:
            verdict, _ = judged(self.entry.answer, asked(self.target), self.target.representation)
            return "gone" if verdict is Verdict.GONE else None
        if self.target.resource.stream is Streaming.EVENTS:
            return "ended" if any(event.ends for event in self.events) else None
        facts = Document.parse(self.entry.answer.body, self.target.representation).facts()
        return "ended" if facts.state == "ended" else None

    @cached_property
    def events(self) -> tuple[ChatEvent, ...]:
        """The events of the whole document, whoever may see them."""
        return chat_events(self.entry.answer.body) if self.is_good else ()

    @cached_property
    def next(self) -> int:
        """The number after the last event in it, or the first that was asked for."""
        numbers = (event.number + 1 for event in self.events if event.number is not None)
        return max(numbers, default=first_of(self.target))

    def document(self, view: View) -> tuple[bytes, bytes]:
        """The tag of the document in that view, and the message that has all of it."""
        known = self._documents.get(view)
        if known is None:
            slot = render(self.entry, view, self.target)
            tag = slot.etag or b""
            name = self.target.resource.name.encode()
            known = self._documents[view] = tag, message(name, slot.body, id=tag)
        return known

    def events_in(self, view: View) -> tuple[tuple[int, bytes], ...]:
        """The number of each event that the view shows, and its message."""
        known = self._events.get(view)
        if known is None:
            known = self._events[view] = self._rendered(view)
        return known

    def _rendered(self, view: View) -> tuple[tuple[int, bytes], ...]:
        body = render(self.entry, view, self.target).body
        spans = event_spans(body)
        if len(spans) != len(self.events):
            # The view hides events as such.
            return ()
        return tuple(
            (event.number, message(b"event", body[start:end], id=b"%d" % event.number))
            for event, (start, end) in zip(self.events, spans, strict=True)
            if event.number is not None
        )
