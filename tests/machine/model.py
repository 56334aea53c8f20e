"""What must hold of the road, written a second time and much smaller: by number, not by generation.

Everything that happens has a number, in the order of its happening. A call is one request upstream; its
document says its number, so whatever a client gets is known to be of one call. The rest is comparing
numbers and times: a call that was sent before a write ended is no answer for who asks after that; one that
was sent longer ago than the TTL is nobody's hit; and so on.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import re
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass, field

from gateway.core.errors import Reason
from gateway.core.freshness import Failed
from gateway.core.links import LinkMap
from gateway.core.messages import Answer, UpstreamRequest
from gateway.core.replies import Reply
from gateway.demo.stage import ACCOUNT
from gateway.upstream.budget import Pace
from tests.simulation import DEADLINE_S, MAX_PAUSE_S, PUBLIC_URL, UPSTREAM_HOST, chat_path, header, outcome

#: What is asked of a chat, with the path below it. The first two are shared, the third is forwarded.
PLACES = {"info": "/info", "chat": "", "agentTyping": "/info/agentTyping", "rename": "/info/visitorName"}
SHARED = ("info", "chat")
#: The ways in which the upstream may answer, but for those that end as exceptions.
PROBLEM = b'{"error": {"message": "no", "internalCode": %d}}'
ANSWERS: Mapping[str, Answer | Failed] = {
    "fails": Answer(500, (), b""),
    "is down": Answer(503, (), b""),
    "pauses": Answer(429, (), b""),
    "pauses for 3 s": Answer(429, ((b"retry-after", b"3"),), b""),
    "pauses for 9 s": Answer(429, ((b"retry-after", b"9"),), b""),
    "resets": Failed(Reason.UPSTREAM_RESET),
    "is gone": Answer(404, ((b"content-type", b"application/json"),), PROBLEM % 12),
    "blames the caller": Answer(400, ((b"content-type", b"application/json"),), PROBLEM % 7),
    "redirects": Answer(302, ((b"location", b"https://example.net/"),), b""),
    "talks nonsense": Answer(200, ((b"content-type", b"application/json"),), b'{"info": '),
}
GOOD, CRASH = "answers", "crashes in our hands"
#: From the vendor's poll interval and a margin (docs/freshness: `chatTimeout` - 32 s).
SILENCE_S = 32.0
ENDED_S = 30.0
GONE_S = 2.0
#: The shortest step of a backoff.
STEP_S = 0.25
#: Three times through the queue and to the deadline, and some more.
LONGEST_S = 20.0
EPS = 1e-6


@dataclass(slots=True)
class Chat:
    """What the upstream says of a chat, and what the gateway can know of it."""

    id: str
    name: str = "nobody"
    state: str = "chatting"
    timeout_s: int = 40
    #: The number of the end of its last write, and of what happened last to know it by.
    written: int = 0
    contact_at: float | None = None
    told_at: float = -1.0
    known_timeout_s: float = 40.0
    known_state: str | None = None
    is_gone: bool = False

    def quiet_until(self) -> float:
        """Until when it may be answered for without being asked."""
        if self.is_gone or self.contact_at is None:
            return float("inf")
        allowed_s = ENDED_S if self.known_state == "ended" else self.known_timeout_s - SILENCE_S
        return self.contact_at + allowed_s

    def hear(self, call: Call) -> None:
        """The gateway has an answer."""
        if call.said is None:
            self.is_gone = self.is_gone or _is(call, 404)
            return
        if self.is_gone:
            self.known_state = None
        self.is_gone = False
        self.contact_at = max(call.at, self.contact_at or 0.0)
        if call.place in SHARED and call.at >= self.told_at:
            self.told_at = call.at
            _, self.known_state, self.known_timeout_s = call.said


@dataclass(eq=False, slots=True)
class Call:
    """A request at the upstream. `flight` is what the gateway knows it by; `number` is of its sending."""

    number: int
    at: float
    chat: Chat
    place: str
    flight: Hashable
    body: bytes
    heard: asyncio.Future[Answer | Failed]
    said: tuple[str, str, float] | None = None
    outcome: Answer | Failed | None = None
    #: The number of its end.
    ended: int = 0
    ended_at: float = -1.0


@dataclass(eq=False, slots=True)
class Ask:
    """A request of a client's. The numbers are of what had happened when it began."""

    who: str
    token: str
    chat: Chat
    place: str
    method: str = "GET"
    tag: str | None = None
    polls: bool = False
    body: bytes = b""
    began: int = 0
    began_at: float = -1.0
    floor: int = 0
    changes: int = 0
    task: asyncio.Task[None] | None = None

    @property
    def is_on_its_way(self) -> bool:
        return self.began > 0 and self.task is not None and not self.task.done()


@dataclass
class Bounds:
    """What the configuration of a run allows. `ttl_s` has the places that are cached."""

    ttl_s: Mapping[str, float]
    stale_s: float
    pace: Pace


@dataclass
class Model:
    """The upstream and the oracle of one run. What is wrong is said, once somebody looks."""

    bounds: Bounds
    now: Callable[[], float]
    flight: Callable[[], Hashable]
    is_current: Callable[[Hashable, Chat], bool]
    allows: Callable[[Ask], bool]
    hides_name: Callable[[str], bool]
    wrong: list[str] = field(default_factory=list)
    chats: list[Chat] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    pending: list[Call] = field(default_factory=list)
    asks: list[Ask] = field(default_factory=list)
    #: Whether every call is answered as soon as it comes.
    is_obliging: bool = False
    #: Whether anything has happened for which a request may fail.
    is_troubled: bool = False
    changes: int = 0
    changed_at: float = -1.0
    reloaded: int = 0
    crashes: int = 0
    _numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))
    _paused_until: float = -1.0
    _held_until: dict[tuple[str, str], float] = field(default_factory=dict)
    _demand_at: dict[tuple[str, str], float] = field(default_factory=dict)
    _projections: dict[tuple[str, str], set[object]] = field(default_factory=dict)
    _writers: dict[bytes, Ask] = field(default_factory=dict)

    links = LinkMap(PUBLIC_URL, {ACCOUNT: frozenset({UPSTREAM_HOST})}, ())

    def number(self) -> int:
        return next(self._numbers)

    def must(self, holds: object, what: str, *more: object) -> None:
        """Take down what does not hold. The road would swallow what is raised inside of it."""
        if not holds:
            self.wrong.append(" ".join(map(str, (what, *more))))

    # -- the upstream ------------------------------------------------------------------------------------

    async def send(self, request: UpstreamRequest, *, is_read: bool) -> Answer | Failed:
        call = self._call(request)
        self.must(is_read == (call.place != "rename"), "a read is a read", call)
        self._may_be_sent(call)
        self.calls.append(call)
        self.pending.append(call)
        if self.is_obliging:
            self.answer(call, GOOD)
        try:
            async with asyncio.timeout(DEADLINE_S):
                call.outcome = await call.heard
        except TimeoutError:
            self.is_troubled = True
            call.outcome = Failed(Reason.UPSTREAM_TIMEOUT)
        finally:
            self._ended(call)
        return call.outcome

    def _call(self, request: UpstreamRequest) -> Call:
        path = request.target.decode().partition("?")[0]
        chat = next(chat for chat in self.chats if path.startswith(chat_path(chat.id)))
        rest = path.removeprefix(chat_path(chat.id))
        place = next(place for place, below in PLACES.items() if below == rest)
        heard: asyncio.Future[Answer | Failed] = asyncio.get_running_loop().create_future()
        return Call(self.number(), self.now(), chat, place, self.flight(), request.body, heard)

    def answer(self, call: Call, how: str) -> None:
        """Let a call that is on its way be answered so."""
        if call.heard.done():
            return
        self.is_troubled = self.is_troubled or how != GOOD
        if how == GOOD:
            call.heard.set_result(self._document(call))
        elif how == CRASH:
            self.crashes += 1
            call.heard.set_exception(RuntimeError("a mistake of ours"))
        else:
            call.heard.set_result(ANSWERS[how])

    def _document(self, call: Call) -> Answer:
        chat = call.chat
        if call.place == "rename":
            chat.name = json.loads(call.body)["visitorName"]
        call.said = chat.name, chat.state, chat.timeout_s
        info = {
            "visitorName": chat.name,
            "state": chat.state,
            "chatTimeout": chat.timeout_s,
            "chatSessionKey": chat.id,
            "lastUpdate": call.number,
        }
        documents: dict[str, object] = {
            "info": {"info": info},
            "chat": {"chat": {"info": info}},
            "agentTyping": {"agentTyping": "typing", "lastUpdate": call.number},
        }
        # A writer may hear of the chat too.
        body = json.dumps(documents.get(call.place, {"visitorName": chat.name})).encode()
        status = 200 if call.place in documents else 201
        return Answer(status, ((b"content-type", b"application/json"),), body)

    def _ended(self, call: Call) -> None:
        call.ended, call.ended_at = self.number(), self.now()
        self.pending.remove(call)
        call.chat.hear(call)
        if call.place == "rename":
            call.chat.written = call.ended
        if call.place in SHARED:
            self._hold(call)
        if isinstance(call.outcome, Answer) and _is(call, 429):
            asked_s = float(dict(call.outcome.headers).get(b"retry-after", b"0"))
            pause_s = min(max(asked_s, 1.0), MAX_PAUSE_S)
            self._paused_until = max(self._paused_until, self.now() + pause_s)

    def _hold(self, call: Call) -> None:
        """A target that has failed is left alone for a step, unless it was asked before a write."""
        target = call.chat.id, call.place
        if call.said is not None or _is(call, 400, 404):
            self._held_until.pop(target, None)
        elif call.outcome is not None and not _is(call, 429) and self.is_current(call.flight, call.chat):
            self._held_until[target] = max(self._held_until.get(target, 0.0), self.now() + STEP_S)

    # -- what may be sent --------------------------------------------------------------------------------

    def _may_be_sent(self, call: Call) -> None:
        now, pace = self.now(), self.bounds.pace
        self.must(now >= self._paused_until - EPS, "sent in a pause", call)
        self.must(len(self.pending) < pace.in_flight, "too many at once", call)
        for sent, earlier in enumerate(reversed(self.calls), start=2):
            most = pace.burst + pace.per_s * (now - earlier.at) + 1e-3
            self.must(sent <= most, "too many a second", call)
        if call.place in SHARED:
            self._may_fly(call)
        if call.place == "rename":
            self.must(all(call.body != other.body for other in self.calls), "a write sent twice", call)
            writer = self._writers[call.body]
            # Between the last look and here the loop may take a few steps, but no time passes.
            is_told = now > self.changed_at
            self.must(not is_told or self.allows(writer), "sent for who may not", call)

    def _may_fly(self, call: Call) -> None:
        of_flight = isinstance(call.flight, tuple) and call.flight[0][0]
        self.must(of_flight == chat_path(call.chat.id, PLACES[call.place]), "no flight of its target's", call)
        self.must(all(call.flight != other.flight for other in self.pending), "two at once", call)
        wanted = (call.chat.id, call.place)
        held_until = self._held_until.get(wanted, -1.0)
        is_probe = self.now() >= held_until - EPS or not self.is_current(call.flight, call.chat)
        self.must(is_probe, "no probe yet", call)
        waits = any(ask.is_on_its_way and (ask.chat.id, ask.place) == wanted for ask in self.asks)
        since_s = self.now() - self._demand_at.get(wanted, -1e9)
        self.must(waits or since_s <= self.bounds.pace.wait_s + EPS, "nobody wanted it", call)

    # -- what may be told --------------------------------------------------------------------------------

    def begin(self, ask: Ask) -> None:
        """A client's request arrives."""
        ask.began, ask.began_at = self.number(), self.now()
        ask.floor, ask.changes = ask.chat.written, self.changes
        self._demand_at[ask.chat.id, ask.place] = self.now()
        if ask.body:
            self._writers[ask.body] = ask

    def gone(self, ask: Ask) -> None:
        """It has ended, or was cancelled."""
        if ask.began:
            self._demand_at[ask.chat.id, ask.place] = self.now()

    def told(self, ask: Ask, reply: Reply) -> None:
        """A client gets this, now."""
        told = (ask, reply.status, reply.headers, reply.body)
        if self.hides_name(ask.who):
            self.must(b"visitorName" not in reply.body, "a hidden field", *told)
        if not self.allows(ask):
            self._told_who_may_not(ask, reply)
        elif reply.status in {401, 403}:
            self.must(ask.changes != self.changes, "refused who may", *told)
        elif ask.place == "rename":
            self.must(reply.status in {201, 400, 404, 429, 502, 503, 504}, "no ending of a write", *told)
            self._is_excused(reply, told)
        elif reply.status in {200, 304, 400, 404}:
            self._told_something(ask, reply)
        else:
            self.must(reply.status in {429, 502, 503, 504}, "no ending of a read", *told)
            self._is_excused(reply, told)

    def _is_excused(self, reply: Reply, told: tuple[object, ...]) -> None:
        self.must(self.is_troubled or reply.status in {201, 429}, "failed without trouble", *told)

    def _told_who_may_not(self, ask: Ask, reply: Reply) -> None:
        if ask.place == "rename":
            # What is done is done: he hears how it went, and of the chat not a word.
            is_bare = not reply.body or b"urn:chat-gateway:problem" in reply.body
            self.must(is_bare, "told who may not", ask, reply.status, reply.body)
        else:
            self.must(reply.status in {401, 403, 429}, "told who may not", ask, reply.status, reply.body)

    def _told_something(self, ask: Ask, reply: Reply) -> None:
        how = outcome(reply)
        calls = [call for call in reversed(self.calls) if self._fits(call, ask, how)]
        of_status = [call for call in calls if self._has_status(call, reply.status)]
        self.must(of_status, "the answer of no call that fits", ask, how, reply.status, reply.body)
        if reply.status in {200, 304}:
            self._told_document(ask, reply, of_status)
        if how in {"hit", "stale"}:
            until = ask.chat.quiet_until()
            self.must(self.now() <= until + EPS, "served without contact", ask, self.now(), until)

    def _told_document(self, ask: Ask, reply: Reply, calls: list[Call]) -> None:
        tag = ask.place, header(reply, "etag") or ""
        # What is not cached has no tag.
        known = self._projections.setdefault(tag, set()) if tag[1] else set()
        if reply.status == 200 and ask.method == "GET":
            said = re.search(rb'"lastUpdate": ?(\d+)', reply.body)
            self.must(said, "no document of ours", ask, reply.body)
            number = int(said[1]) if said else 0
            calls = [call for call in calls if call.number == number]
            self.must(calls, "of a call that does not fit", ask, outcome(reply), number, reply.headers)
            known.update(self._projection(ask, call) for call in calls)
        elif known:
            fits = any(self._projection(ask, call) in known for call in calls)
            self.must(fits, "the tag of something else", ask, reply.status, tag)

    def _projection(self, ask: Ask, call: Call) -> object:
        """What an ETag stands for: what of the document the client sees, without the volatile."""
        if call.said is None or ask.place == "agentTyping":
            return None
        return call.said[1:] if self.hides_name(ask.who) else call.said

    @staticmethod
    def _has_status(call: Call, status: int) -> bool:
        if status in {200, 304}:
            return call.said is not None
        return _is(call, status)

    def _fits(self, call: Call, ask: Ask, how: str) -> bool:
        """Whether a call may be the one whose answer this request gets now, in that way."""
        is_of_it = call.chat is ask.chat and call.place == ask.place and call.ended > 0
        if not is_of_it or call.number < max(ask.floor, self.reloaded):
            return False
        age_s, ttl_s = self.now() - call.at, self.bounds.ttl_s.get(ask.place, -1.0)
        if _is(call, 404):
            ttl_s = GONE_S
        is_fresh = age_s <= ttl_s + EPS
        match how:
            case "hit":
                return is_fresh
            case "stale":
                return age_s <= ttl_s + self.bounds.stale_s + EPS
            case "bypass":
                return call.number > ask.began
            case _:
                # It waited for this call, be it for no time; or meanwhile somebody asked about the rest of
                # the chat, and what was kept may be served again.
                return call.ended_at >= ask.began_at or is_fresh

    # -- always ------------------------------------------------------------------------------------------

    def nobody_waits_for_ever(self) -> None:
        for ask in self.asks:
            if ask.is_on_its_way:
                self.must(self.now() - ask.began_at <= LONGEST_S, "waits for ever", ask)


def _is(call: Call, *statuses: int) -> bool:
    """Whether the upstream answered with one of these."""
    return isinstance(call.outcome, Answer) and call.outcome.status in statuses
