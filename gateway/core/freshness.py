"""How long an answer may be served, and what to do about a request for it.

Ages count from when the request to the upstream was sent (RFC 9111 §4.2.3), on a monotonic clock in
seconds. Three bounds meet here:

- the TTL, an upper bound on the age of a fresh answer; shortly before it ends the next flight starts;
- the stale bound, for when the upstream fails;
- the silence bound: a hit is no contact with the upstream, and the vendor lets a chat die that is silent
  for `chatTimeout` seconds. Whoever polls every 30 s, as the vendor advises, must still arrive in time.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

from gateway.core.documents import InfoFacts
from gateway.core.errors import Reason
from gateway.core.faults import Verdict
from gateway.core.messages import Answer
from gateway.core.policy import CacheRule
from gateway.core.views import Slot, View

#: What a chat's timeout is until an info says so; the value of every sample the vendor has published.
DEFAULT_CHAT_TIMEOUT_S = 40.0
#: How often the vendor tells clients to poll, at the least (its retry and keepalive page).
POLL_INTERVAL_S = 30.0
#: For the network and for clocks.
SILENCE_MARGIN_S = 2.0
#: An ended chat turns into 404 before long.
ENDED_MAX_S = 30.0
#: How long "chat session not found" is believed.
GONE_TTL_S = 2.0
#: (epoch, writes): an entry is good for as long as neither the gateway's address and upstream nor the chat
#: have been changed.
Generation = tuple[int, int]
#: The state of a chat that the upstream no longer knows.
GONE = "gone"


@dataclass(frozen=True, slots=True)
class Contact:
    """When a chat last answered 2xx (to a request sent at `at`), and what is known of its life.

    `told_at` is when the answer was asked for that told timeout or state: not every answer tells.
    """

    at: float
    timeout_s: float = DEFAULT_CHAT_TIMEOUT_S
    state: str | None = None
    told_at: float = -math.inf

    def quiet_until(self) -> float:
        """The last moment at which the chat may be answered for without contact."""
        if self.state == GONE:
            return math.inf
        if self.state == "ended":
            return self.at + ENDED_MAX_S
        return self.at + self.timeout_s - POLL_INTERVAL_S - SILENCE_MARGIN_S

    @property
    def dies_at(self) -> float | None:
        """When the vendor lets the chat die of silence; None where it no longer lives."""
        return None if self.state in {GONE, "ended"} else self.at + self.timeout_s


@dataclass(frozen=True, slots=True, eq=False)
class Entry:
    """An answer that is kept, or that is handed to all who wait for it.

    `sent_at` ≤ `refresh_at` ≤ `fresh_until` ≤ `stale_until`. `slots` fills as views are rendered.
    """

    answer: Answer
    generation: Generation
    sent_at: float
    refresh_at: float
    fresh_until: float
    stale_until: float
    slots: dict[View, Slot] = field(default_factory=dict, repr=False)

    def age(self, now: float) -> float:
        return max(0.0, now - self.sent_at)


def learned(known: Contact | None, verdict: Verdict, facts: InfoFacts, sent_at: float) -> Contact | None:
    """What is known of a chat's life after an answer to a request that was sent at `sent_at`."""
    contact = known or Contact(sent_at)
    if verdict is Verdict.GONE:
        return replace(contact, state=GONE)
    if verdict is not Verdict.GOOD:
        return known
    contact = replace(
        contact, at=max(contact.at, sent_at), state=None if contact.state == GONE else contact.state
    )
    tells = facts.chat_timeout_s is not None or facts.state is not None
    # Of two that told, the one that was asked for later knows better, whichever came first.
    if not tells or sent_at < contact.told_at:
        return contact
    return replace(
        contact,
        told_at=sent_at,
        timeout_s=contact.timeout_s if facts.chat_timeout_s is None else facts.chat_timeout_s,
        state=facts.state or contact.state,
    )


def merged(known: Contact | None, told: Contact) -> Contact:
    """What two replicas know of a chat's life, as one."""
    if known is None or told.state == GONE:
        return told
    newer = told if told.told_at > known.told_at else known
    return replace(newer, at=max(known.at, told.at))


def keep(
    answer: Answer,
    verdict: Verdict,
    rule: CacheRule | None,
    generation: Generation,
    contact: Contact,
    *,
    round_trip_s: float,
) -> Entry:
    """The entry of an answer that was asked for at `contact.at`, kept for as long as its rule lets it be."""
    if verdict is Verdict.GONE:
        return _keep_gone(answer, generation, contact.at)
    if verdict is Verdict.GOOD and rule is not None:
        return _keep_for(answer, rule, generation, contact, round_trip_s)
    return keep_nothing(answer, generation, contact.at)


def _keep_for(
    answer: Answer, rule: CacheRule, generation: Generation, contact: Contact, round_trip_s: float
) -> Entry:
    """The entry of a good answer that was asked for at `contact.at`."""
    state = contact.state
    # A state that is not known gets the shortest.
    ttl_s = rule.ttl_s.get(state or "", min(rule.ttl_s.values()))
    fresh_until = max(contact.at, min(contact.at + ttl_s, contact.quiet_until()))
    early_s = min(round_trip_s * 1.25 + 0.020, (fresh_until - contact.at) / 2)
    stale_until = max(fresh_until, min(fresh_until + rule.stale_s, contact.quiet_until()))
    return Entry(answer, generation, contact.at, fresh_until - early_s, fresh_until, stale_until)


def _keep_gone(answer: Answer, generation: Generation, sent_at: float) -> Entry:
    """The negative entry of a chat that is gone. It costs nobody's life, so nothing is refreshed early."""
    until = sent_at + GONE_TTL_S
    return Entry(answer, generation, sent_at, until, until, until)


def keep_nothing(answer: Answer, generation: Generation, sent_at: float) -> Entry:
    """For an answer that is shared by those who wait for it and by nobody after."""
    return Entry(answer, generation, sent_at, sent_at, sent_at, sent_at)


@dataclass(frozen=True, slots=True)
class Failed:
    """A request upstream that brought nothing to show. `received` is the upstream's status, if any."""

    reason: Reason
    received: int | None = None
    retry_after_s: float | None = None

    @property
    def excuses_stale(self) -> bool:
        """Whether a stale answer may stand in: an upstream that is unwell, not one that talks nonsense."""
        return self.reason in _UNWELL


_UNWELL = frozenset(
    {
        Reason.UPSTREAM_BUSY,
        Reason.UPSTREAM_DOWN,
        Reason.UPSTREAM_ERROR,
        Reason.UPSTREAM_RESET,
        Reason.UPSTREAM_THROTTLED,
        Reason.UPSTREAM_TIMEOUT,
        Reason.UPSTREAM_UNREACHABLE,
    }
)


@dataclass(frozen=True, slots=True)
class Serve:
    """The entry is fresh; `refresh` asks for the next flight to start now."""

    entry: Entry
    refresh: bool


@dataclass(frozen=True, slots=True)
class Fetch:
    """Ask the upstream; `fallback` may stand in while it is within its bound."""

    fallback: Entry | None


@dataclass(frozen=True, slots=True)
class Hold:
    """The upstream failed a moment ago and is not to be asked yet."""

    failed: Failed
    fallback: Entry | None


Plan = Serve | Fetch | Hold


def plan(
    entry: Entry | None, generation: Generation, contact: Contact | None, hold: Failed | None, now: float
) -> Plan:
    """What to do about a request for a resource that is coalesced or cached."""
    if entry is not None and entry.generation != generation:
        entry = None
    if entry is not None and now < entry.fresh_until and may_serve(entry, contact, now):
        return Serve(entry, refresh=now >= entry.refresh_at and hold is None)
    return Fetch(entry) if hold is None else Hold(hold, entry)


def hit_until(entry: Entry, contact: Contact | None, now: float, *, has_left: bool) -> float:
    """Until when `plan` says to serve the entry and nothing else, if nothing is learned meanwhile.

    `now` if it does not say so now. `has_left` tells that the flight which refreshes it is on its way: who
    comes then adds nothing to it.
    """
    quiet_until = math.inf if contact is None else contact.quiet_until()
    if now < entry.refresh_at:
        return min(entry.refresh_at, quiet_until)
    return min(entry.fresh_until, quiet_until) if has_left else now


def may_serve(entry: Entry, contact: Contact | None, now: float) -> bool:
    """Whether an entry, fresh or stale, is within its bounds.

    The entry's own bound was drawn with what was known then; a newer contact may know a shorter timeout.
    """
    quiet_until = math.inf if contact is None else contact.quiet_until()
    return now < entry.stale_until and now <= quiet_until


def smoothed(previous_s: float | None, sample_s: float) -> float:
    """An account's round trip, smoothed as TCP smooths its own (RFC 6298 §2)."""
    return sample_s if previous_s is None else previous_s + (sample_s - previous_s) / 8
