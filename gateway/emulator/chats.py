"""Chats and their life: waiting, chatting, ended, gone.

Nothing here has a timer. A chat is advanced to the present whenever somebody looks, step by step in the order
of time, so that what happened does not depend on who looked when.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from random import Random
from uuid import UUID

from gateway.emulator.config import AgentScript, EmulatorConfig
from gateway.emulator.render import Tree, scalar

#: The vendor's numbers for what the system says in a chat.
SYSTEM_LINES = {
    2: "All operators are currently busy. Please hold.",
    3: "You are now chatting with {agent}.",
    4: "Thank you for choosing to chat with us. An agent will be with you shortly.",
    5: "The agent has ended the chat.",
    6: "The chat was unexpectedly disconnected.",
    13: "You are being transferred to another agent.",
    15: "You are being transferred to {skill}.",
    23: "Your chat has been requeued. Please hold.",
}


class UnknownChatError(LookupError):
    """There is no such chat, or no more."""


@dataclass(frozen=True, slots=True)
class Event:
    """One event of a chat; `time` is in epoch seconds, `fields` are in the order of the documents."""

    id: int
    type: str
    time: float
    fields: Mapping[str, Tree]


@dataclass(frozen=True, slots=True)
class Step:
    """What the script lets the agent do next, and when."""

    due: float
    action: str
    line: int = 0


@dataclass(slots=True)
class Chat:
    """One chat, as it is at the time it was last advanced to. Times are epoch seconds."""

    account: str
    id: str
    serial: int
    started: float
    last_update: float
    timeout_s: int
    fields: Mapping[str, Tree]
    random: Random = field(repr=False)
    state: str = "waiting"
    ended: float | None = None
    agent: str | None = None
    skill: str = "Sales"
    visitor_name: str = "You"
    visitor_typing: str = "not-typing"
    agent_typing: str = "not-typing"
    events: list[Event] = field(default_factory=list)
    step: Step | None = field(default=None, repr=False)

    @property
    def lines(self) -> tuple[str, ...]:
        """The texts of the visitor's lines."""
        return tuple(
            str(event.fields["text"]) for event in self.events if event.fields.get("source") == "visitor"
        )

    def add(self, kind: str, at: float, **fields: Tree) -> Event:
        """Append an event; ids are consecutive from 0."""
        event = Event(len(self.events), kind, at, fields)
        self.events.append(event)
        return event

    def say(self, at: float, text: str, by: str, source: str, **fields: Tree) -> Event:
        """Append a line; it is HTML if it has a tag."""
        text_type = "html" if "<" in text else "plain"
        return self.add(
            "line", at, textType=text_type, text=text, by=by, source=source, **fields, subType="REGULAR"
        )

    def system(self, at: float, message: int) -> Event:
        """Append what the system says on an occasion."""
        text = SYSTEM_LINES[message].format(agent=self.agent, skill=self.skill)
        return self.say(at, text, "info", "system", systemMessageId=message)

    def become(self, state: str, at: float) -> Event:
        """Change the state and tell so."""
        self.state = state
        return self.add("state", at, state=state)

    def accept(self, at: float) -> None:
        """The agent takes the chat."""
        self.agent = "Natalie"
        self.become("chatting", at)
        self.system(at, 3)

    def requeue(self, at: float, message: int) -> None:
        """The agent is gone and the chat waits again."""
        self.agent = None
        self.agent_typing = "not-typing"
        self.become("waiting", at)
        self.system(at, message)

    def end(self, at: float, message: int | None = None) -> Event:
        """The chat is over; `message` is what the system says about it."""
        if message is not None:
            self.system(at, message)
        self.ended = at
        self.step = None
        self.agent_typing = self.visitor_typing = "not-typing"
        return self.become("ended", at)


class Chats:
    """All chats of a service, found by account and id."""

    def __init__(self, config: EmulatorConfig) -> None:
        self._config = config
        self._chats: dict[str, Chat] = {}
        self._serials = 0
        self._random = Random(config.seed)  # noqa: S311  ids of an emulation, which must come out the same again

    def present(self, now: float) -> Iterator[Chat]:
        """Those that are not gone, as they are now."""
        for chat_id in list(self._chats):
            with contextlib.suppress(UnknownChatError):
                yield self.find(chat_id, now)

    def start(self, account: str, now: float, fields: Mapping[str, Tree]) -> Chat:
        """A new chat, waiting."""
        self._serials += 1
        timeout_s = self._config.chat_timeout_s
        if self._config.dialect.interaction_timeout_counts and "interactionTimeout" in fields:
            timeout_s = int(scalar(fields["interactionTimeout"]))
        chat = Chat(
            account=account,
            id=self._new_id(),
            serial=self._serials,
            started=now,
            last_update=now,
            timeout_s=timeout_s,
            fields=fields,
            random=Random(f"{self._config.seed}/{self._serials}"),  # noqa: S311  as above
            skill=scalar(fields.get("skill"), "Sales"),
        )
        self._chats[chat.id] = chat
        self._open(chat, now)
        return chat

    def find(self, chat_id: str, now: float, account: str | None = None) -> Chat:
        """A chat as it is now, or UnknownChatError; an ended one can be read for a while."""
        chat = self._chats.get(chat_id)
        if chat is None or account not in (None, chat.account):
            raise UnknownChatError(f"chat: expected one that is not gone, got {chat_id!r}")
        self._advance(chat, now)
        if chat.ended is not None and now >= chat.ended + self._config.ended_readable_s:
            del self._chats[chat_id]
            raise UnknownChatError(f"chat: expected one that is not gone, got {chat_id!r}")
        return chat

    def new_guid(self) -> str:
        """An id of the other form the service uses."""
        return str(UUID(int=self._random.getrandbits(128), version=4))

    def _new_id(self) -> str:
        pick = self._random
        return (
            f"H{pick.randrange(10**18, 10**19)}-{pick.getrandbits(128):032x}K{pick.randrange(10**6, 10**7)}"
        )

    def _open(self, chat: Chat, now: float) -> None:
        chat.become("waiting", now)
        chat.system(now, 4 if self._config.available_slots else 2)
        for line in _pre_chat_lines(chat.fields):
            chat.say(now, line, chat.visitor_name, "visitor", systemMessageId=0)
        if self._config.agent is not None:
            chat.step = Step(
                now + _jittered(chat, self._config.agent.accept_after_s, self._config.agent), "accept"
            )

    def _advance(self, chat: Chat, now: float) -> None:
        while chat.ended is None:
            dies = chat.last_update + chat.timeout_s
            step = chat.step
            if step is not None and step.due < dies and step.due <= now:
                self._perform(chat, step)
            elif dies <= now:
                chat.end(dies, 6)
            else:
                return

    def _perform(self, chat: Chat, step: Step) -> None:
        script = self._config.agent or AgentScript()
        chat.step = _after(chat, step, script)
        if self._config.dialect.agent_touches:
            chat.last_update = step.due
        if step.action == "accept" and chat.state == "waiting":
            chat.accept(step.due)
        elif step.action == "typing" and chat.state == "chatting":
            chat.agent_typing = "typing"
        elif step.action == "line" and chat.state == "chatting":
            chat.agent_typing = "not-typing"
            here = f"{self._config.link_base}/api/account/{chat.account}/chat/{chat.id}"
            chat.say(step.due, script.lines[step.line].replace("{chat}", here), str(chat.agent), "agent")
        elif step.action == "end":
            chat.end(step.due, 5)


def _after(chat: Chat, step: Step, script: AgentScript) -> Step | None:
    """The step that follows: accept, then typing and line in turn, then the end or the first line again."""
    if step.action == "typing":
        return Step(step.due + script.typing_s, "line", step.line)
    line = 0 if step.action == "accept" else step.line + 1
    pause = _jittered(chat, max(script.line_every_s - script.typing_s, 0.001), script)
    if line == len(script.lines) and script.ends:
        return Step(step.due + pause, "end")
    return Step(step.due + pause, "typing", line % len(script.lines)) if script.lines else None


def _jittered(chat: Chat, pause_s: float, script: AgentScript) -> float:
    return pause_s * (1 + script.jitter * chat.random.uniform(-1, 1))


def _pre_chat_lines(fields: Mapping[str, Tree]) -> list[str]:
    lines = fields.get("preChatLines")
    if not isinstance(lines, Mapping):
        return []
    found = lines.get("line", lines.get("lines", ""))
    return [scalar(line) for line in found] if isinstance(found, list) else [scalar(found)]
