"""The emulated service as one object without any input or output of its own."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from gateway.emulator.auth import admit
from gateway.emulator.calls import Call, RefusedError, receive
from gateway.emulator.chats import Chat, Chats, Event
from gateway.emulator.config import EmulatorConfig
from gateway.emulator.documents import Documents
from gateway.emulator.faults import Fault, Faults, bend
from gateway.emulator.messages import EmulatorRequest, EmulatorResponse
from gateway.emulator.render import Document, Tree, to_json, to_xml
from gateway.emulator.resources import Desk, Reply, carry_out

#: What is said with an internalCode when a fault does not say it itself.
_MESSAGES = {
    5: "Bad request",
    10: "Bad authorization request. general_problem=unknown_app_key",
    12: "Chat session not found",
    20: "Loading account",
}


class WrongStateError(ValueError):
    """A chat is not in a state in which this can happen to it."""


class CountKey(NamedTuple):
    """What is counted apart; `chat` is empty for what belongs to none, an override's method is PUT."""

    account: str
    chat: str
    resource: str
    method: str


@dataclass(frozen=True, slots=True)
class Counts:
    """How many requests came, whatever became of them."""

    requests: Mapping[CountKey, int]

    def total(self, resource: str | None = None, chat: str | None = None, method: str | None = None) -> int:
        """How many there were for a resource, a chat, a method; None for all."""
        return sum(
            count
            for key, count in self.requests.items()
            if resource in (None, key.resource) and chat in (None, key.chat) and method in (None, key.method)
        )

    def totals(self) -> dict[str, int]:
        """How many there were for each resource, by its name."""
        totals: Counter[str] = Counter()
        for key, count in self.requests.items():
            totals[key.resource] += count
        return dict(sorted(totals.items()))


@dataclass(frozen=True, slots=True)
class ChatState:
    """A chat, seen without touching it. `lines` are the visitor's; times are epoch seconds."""

    account: str
    id: str
    state: str
    agent: str | None
    skill: str
    visitor_name: str
    visitor_typing: str
    agent_typing: str
    started: float
    last_update: float
    timeout_s: int
    lines: tuple[str, ...]
    events: tuple[Event, ...]


class Emulator:
    """The Server Chat API, as a function from request to response and a few handles for what people do.

    `now` is the wall clock in epoch seconds. Chats have no timers: whatever was due happens, at its own
    time, when somebody looks. The handles take a chat's id, do not touch the chat, and raise
    UnknownChatError for one that is gone.
    """

    def __init__(self, config: EmulatorConfig, now: Callable[[], float]) -> None:
        self.config = config
        self.app_keys: tuple[str, ...] = (config.app_key,)
        self.recorded: deque[bytes] = deque(maxlen=config.record)
        self._now = now
        self._documents = Documents(config)
        self._chats = Chats(config)
        self._desk = Desk(config, self._chats, self._documents)
        self._faults = Faults()
        self._counter: Counter[CountKey] = Counter()

    def handle(self, request: EmulatorRequest) -> EmulatorResponse:
        """Answer a request, as received now."""
        call = receive(request, self._now())
        place = call.place
        self._counter[CountKey(place.account, place.chat, place.resource, call.method)] += 1
        self.recorded.append(request.raw)
        fault = self._faults.take(place.resource, place.chat, call.method)
        if fault is None:
            return self._answer(call)
        return bend(fault, self._faulty(call, fault))

    def _answer(self, call: Call) -> EmulatorResponse:
        try:
            reply = self._carry_out(call)
        except RefusedError as refused:
            return self._error(call, refused.status, refused.code, refused.message)
        return self._respond(call, reply)

    def _carry_out(self, call: Call) -> Reply:
        admit(call, self.config, self.app_keys)
        return carry_out(self._desk, call)

    def _faulty(self, call: Call, fault: Fault) -> EmulatorResponse:
        response = (
            self._answer(call) if fault.carries_out else EmulatorResponse(200, delay_s=self.config.latency_s)
        )
        if fault.code is None:
            return response
        message = fault.message or _MESSAGES.get(fault.code, "Error")
        return self._error(call, fault.answer_status or response.status, fault.code, message)

    def _error(self, call: Call, status: int, code: int, message: str) -> EmulatorResponse:
        return self._respond(call, Reply(self._documents.error(call.received, code, message), status))

    def _respond(self, call: Call, reply: Reply) -> EmulatorResponse:
        headers = [] if reply.location is None else [(b"location", reply.location.encode())]
        body = b""
        if reply.document is not None:
            body = self._render(call, reply.document)
            headers.append((b"content-type", b"application/json" if call.json else b"application/xml"))
        return EmulatorResponse(reply.status, tuple(headers), body, self.config.latency_s)

    def _render(self, call: Call, document: Document) -> bytes:
        if call.json:
            return to_json(document, self.config.dialect.style(call.place.resource))
        return to_xml(document)

    # What is counted and what goes wrong.

    def counts(self) -> Counts:
        """The requests that came since the start or the last reset."""
        return Counts(dict(self._counter))

    def reset_counts(self) -> None:
        """Count from zero, and forget what was recorded."""
        self._counter.clear()
        self.recorded.clear()

    def saw(self, needle: bytes) -> bool:
        """Whether these bytes are in a raw request that is still kept (`EmulatorConfig.record`)."""
        return any(needle in raw for raw in self.recorded)

    def fail(self, *faults: Fault) -> None:
        """Let these things go wrong, after those that are already waiting."""
        for fault in faults:
            self._faults.add(fault)

    def clear_faults(self) -> None:
        """Let nothing go wrong any more."""
        self._faults.clear()

    # What people do.

    def start_chat(self, account: str, /, **fields: Tree) -> str:
        """A visitor starts a chat; `fields` are those of the request's body. Returns the id."""
        if account not in self.config.accounts:
            raise ValueError(f"account: expected one of {', '.join(self.config.accounts)}, got {account!r}")
        return self._chats.start(account, self._now(), fields).id

    def chat(self, chat: str) -> ChatState:
        """A chat as it is now."""
        found = self._find(chat)
        return ChatState(
            account=found.account,
            id=found.id,
            state=found.state,
            agent=found.agent,
            skill=found.skill,
            visitor_name=found.visitor_name,
            visitor_typing=found.visitor_typing,
            agent_typing=found.agent_typing,
            started=found.started,
            last_update=found.last_update,
            timeout_s=found.timeout_s,
            lines=found.lines,
            events=tuple(found.events),
        )

    def accept(self, chat: str) -> None:
        """The agent takes a waiting chat."""
        self._acted_on(chat, "waiting").accept(self._now())

    def agent_line(self, chat: str, text: str) -> None:
        """The agent says something, as HTML if it has a tag."""
        found = self._acted_on(chat, "chatting")
        found.agent_typing = "not-typing"
        found.say(self._now(), text, str(found.agent), "agent")

    def agent_typing(self, chat: str, typing: bool = True) -> None:
        """The agent begins or stops to type."""
        self._acted_on(chat, "chatting").agent_typing = "typing" if typing else "not-typing"

    def end(self, chat: str, message: int | None = 5) -> None:
        """The chat ends; the system's `message` is 5 by the agent, 6 by accident, None by the visitor."""
        self._acted_on(chat, "waiting", "chatting").end(self._now(), message)

    def requeue(self, chat: str, message: int = 23) -> None:
        """The chat waits again: for anybody (23), for another agent (13) or for another skill (15)."""
        self._acted_on(chat, "chatting").requeue(self._now(), message)

    def transfer(self, chat: str) -> None:
        """The visitor is sent to the other account, on its own host."""
        found = self._acted_on(chat, "waiting", "chatting")
        found.add("a2a-transfer", self._now(), **self._documents.transfer(found))

    def add_event(self, chat: str, kind: str, **fields: Tree) -> int:
        """Add an event of any type and content. Returns its id."""
        return self._acted_on(chat, "waiting", "chatting", "ended").add(kind, self._now(), **fields).id

    def chat_states(self) -> Counter[str]:
        """How many chats are in each state; those that are gone are left out."""
        now = self._now()
        return Counter(chat.state for chat in self._chats.present(now))

    def _find(self, chat: str) -> Chat:
        return self._chats.find(chat, self._now())

    def _acted_on(self, chat: str, *states: str) -> Chat:
        found = self._find(chat)
        if found.state not in states:
            raise WrongStateError(f"chat {chat}: expected it {' or '.join(states)}, got {found.state}")
        if self.config.dialect.agent_touches:
            found.last_update = self._now()
        return found
