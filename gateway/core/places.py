"""Where slots stand ready, for a reader that cannot go the whole road for each of many polls.

A place belongs to (target, view) as long as its entry is kept. It is armed by the road with what the road
itself would answer, and disarmed by the store as soon as anything is learned that may change that.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from gateway.core.headers import told_lines
from gateway.core.messages import Chat
from gateway.core.replies import hit_status
from gateway.core.views import Slot

#: Vary and Access-Control-Allow-Origin of a reply.
CrossOrigin = tuple[bytes, bytes | None]

#: Sums of floats may be that far from where a second begins.
_NEAR_S = 1e-6


@dataclass(slots=True, eq=False)
class Armed:
    """A slot that may be served as it is before `until`, if nothing happens. Times are monotonic seconds.

    `sent_at` and `fresh_until` are its entry's; `dies_at` is when its chat dies of silence, if it may.
    """

    slot: Slot
    until: float
    sent_at: float
    fresh_until: float
    chat: Chat | None
    dies_at: float | None = None
    # What was told last, for whom, and until when it stays the same: thousands are told so in a second.
    _told: bytes = field(default=b"", init=False, repr=False)
    _told_for: CrossOrigin | None = field(default=None, init=False, repr=False)
    _told_until: float = field(default=-math.inf, init=False, repr=False)

    def told(self, cross_origin: CrossOrigin, now: float) -> bytes:
        """How a hit at `now` came about, in the lines of its head."""
        if now < self._told_until and cross_origin is self._told_for:
            return self._told
        age_s = max(0, int(now - self.sent_at))
        left_s = max(0, math.floor(self.fresh_until - now))
        self._told_for = cross_origin
        self._told_until = min(self.sent_at + age_s + 1, self.fresh_until - left_s) - _NEAR_S
        self._told = told_lines(
            cross_origin[0], age_s, hit_status(self.fresh_until, now), None, cross_origin[1]
        )
        return self._told


class Place:
    """One (target, view); `armed` is None when only the road can tell."""

    __slots__ = ("armed",)

    def __init__(self) -> None:
        self.armed: Armed | None = None
