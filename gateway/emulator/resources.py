"""What each resource does, by name and method."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from gateway.emulator.calls import Call, RefusedError, digits
from gateway.emulator.chats import Chat, Chats, Event, UnknownChatError
from gateway.emulator.config import EmulatorConfig
from gateway.emulator.documents import Documents, survey
from gateway.emulator.render import Document, Tree, scalar

#: The longest wait that a caller may ask availability for.
_MAX_WAIT_TIME_S = 86_400


@dataclass(frozen=True, slots=True)
class Reply:
    """What a resource answers, before it has a representation."""

    document: Document | None = None
    status: int = 200
    location: str | None = None


@dataclass(frozen=True, slots=True)
class Desk:
    """What the resources work with."""

    config: EmulatorConfig
    chats: Chats
    documents: Documents

    def chat(self, call: Call) -> Chat:
        """The chat a call is about, touched by it: the answer to a request already counts that request."""
        try:
            chat = self.chats.find(call.place.chat, call.received, call.place.account)
        except UnknownChatError as error:
            raise RefusedError(404, 12, "Chat session not found") from error
        chat.last_update = call.received
        return chat


Action = Callable[[Desk, Call], Reply]


def _base(desk: Desk, call: Call) -> Reply:
    if desk.config.dialect.base_redirects:
        return Reply(status=302, location=desk.documents.href(call.place.account))
    return Reply(desk.documents.base(call.place.account))


def _discovery(desk: Desk, call: Call) -> Reply:
    if call.argument("version") != "1.0":
        raise RefusedError(400, 5, "missing or unknown version")
    account = call.place.account
    host = desk.config.base_uri or (call.request.header(b"host") or b"").decode("latin-1")
    found: list[Tree] = [
        {"service": service, "account": account, "baseURI": host}
        for service in ("agentVep", "conversationVep", "smt")
        if call.place.service in ("", service)
    ]
    if not found:
        raise RefusedError(404, 28, f"unknown service {call.place.service}")
    if call.place.service:
        return Reply(Document("baseURI", found[0], bare=True))
    return Reply(Document("baseURIs", found if call.json else {"baseURI": found}))


def _check_wait_time(call: Call) -> None:
    wait_s = call.number("maxWaitTime")
    if wait_s is not None and wait_s > _MAX_WAIT_TIME_S:
        raise RefusedError(400, 5, "Bad value for parameter maxWaitTime")
    if call.argument("serviceQueue") is not None and wait_s is None:
        raise RefusedError(400, 5, "serviceQueue requires maxWaitTime")


def _availability(desk: Desk, call: Call) -> Reply:
    _check_wait_time(call)
    available = desk.config.available_slots != 0
    skills = call.place.query.get("skill", [])
    if len(skills) < 2:
        return Reply(Document("availability", available))
    each: list[Tree] = [{"skill": skill, "isAvailable": available} for skill in skills]
    return Reply(Document("availability", {"AvailabilityForSkills": {"skillAvailability": each}}))


def _available_slots(desk: Desk, call: Call) -> Reply:
    _check_wait_time(call)
    return Reply(Document("availableSlots", desk.config.available_slots))


def _estimated_wait_time(desk: Desk, _: Call) -> Reply:
    return Reply(Document("estimatedWaitTime", desk.config.estimated_wait_time_s))


def _pre_survey(_desk: Desk, _call: Call) -> Reply:
    return Reply(survey("pre"))


def _offline_survey(_desk: Desk, _call: Call) -> Reply:
    return Reply(survey("offline"))


def _exit_survey(desk: Desk, call: Call) -> Reply:
    desk.chat(call)
    return Reply(survey("exit"))


def _submit_offline_survey(_desk: Desk, call: Call) -> Reply:
    call.root("survey")
    return Reply()


def _start_chat(desk: Desk, call: Call) -> Reply:
    fields = _start_fields(call)
    if desk.config.captcha:
        raise RefusedError(401, 10, "Bad captcha")
    if digits(scalar(fields.get("visitorId", 0))) is None:
        raise RefusedError(401, 10, "Invalid User")
    chat = desk.chats.start(call.place.account, call.received, fields)
    return Reply(status=desk.config.dialect.start_status, location=desk.documents.chat_href(chat))


def _start_fields(call: Call) -> Mapping[str, Tree]:
    fields = call.body().get("request", {})
    if fields == "":  # an empty XML element
        return {}
    if not isinstance(fields, Mapping):
        raise RefusedError(400, 5, "Bad request body: expected request")
    if not digits(scalar(fields.get("interactionTimeout", 1))):
        raise RefusedError(400, 5, "Bad value for interactionTimeout")
    return fields


def _conversation(desk: Desk, call: Call) -> Reply:
    call.body()
    ids: Tree = {"participantId": desk.chats.new_guid(), "conversationId": desk.chats.new_guid()}
    return Reply(Document("conversation", ids, bare=True), status=201)


def _chat(desk: Desk, call: Call) -> Reply:
    since = call.number("from") or 0
    return Reply(desk.documents.chat(desk.chat(call), since, call.received))


def _events(desk: Desk, call: Call) -> Reply:
    since = call.number("from") or 0
    return Reply(desk.documents.events(desk.chat(call), since))


def _event(desk: Desk, call: Call) -> Reply:
    chat = desk.chat(call)
    number = digits(call.place.event)
    if number is None or number >= len(chat.events):
        raise RefusedError(404, 28, "Event not found")
    return Reply(desk.documents.event(chat.events[number]))


def _add_event(desk: Desk, call: Call) -> Reply:
    chat = desk.chat(call)
    body = call.root("event")
    kind = body.get("@type", body.get("type"))
    if kind == "line":
        event = _add_line(desk, chat, call, body)
    elif kind == "state" and body.get("state") == "ended":
        event = _end(chat, call)
    else:
        raise RefusedError(400, 5, "Bad event")
    document = desk.documents.event_location(chat, event) if desk.config.dialect.event_body else None
    return Reply(document, 201, desk.documents.event_href(chat, event))


def _add_line(desk: Desk, chat: Chat, call: Call, body: Mapping[str, Tree]) -> Event:
    if chat.state != "chatting":
        raise RefusedError(400, 5, "Cannot add line while not in chat")
    event = chat.say(call.received, scalar(body.get("text")), chat.visitor_name, "visitor")
    if desk.config.dialect.line_status:
        chat.add(
            "line-status",
            call.received,
            metadata=[],
            source="agent",
            lineStatus="ACCEPT",
            refSequenceId=event.id,
        )
    return event


def _end(chat: Chat, call: Call) -> Event:
    if chat.state == "ended":
        raise RefusedError(400, 5, "Cannot end chat. Chat was ended")
    return chat.end(call.received)


def _info(desk: Desk, call: Call) -> Reply:
    return Reply(desk.documents.info(desk.chat(call), call.received))


def _visitor_name(desk: Desk, call: Call) -> Reply:
    return Reply(Document("visitorName", desk.chat(call).visitor_name))


def _set_visitor_name(desk: Desk, call: Call) -> Reply:
    chat = desk.chat(call)
    chat.visitor_name = _text_under(call, "visitorName")
    return Reply(status=desk.config.dialect.name_status)


def _visitor_typing(desk: Desk, call: Call) -> Reply:
    return Reply(Document("visitorTyping", desk.chat(call).visitor_typing))


def _set_visitor_typing(desk: Desk, call: Call) -> Reply:
    chat = desk.chat(call)
    typing = _text_under(call, "visitorTyping")
    if typing not in ("typing", "not-typing"):
        raise RefusedError(400, 5, "Bad value for visitorTyping")
    if chat.state != "chatting":
        raise RefusedError(400, 5, "Cannot set visitor's typing status. Chat was ended")
    chat.visitor_typing = typing
    return Reply()


def _text_under(call: Call, root: str) -> str:
    text = call.body().get(root)
    if not isinstance(text, str):
        raise RefusedError(400, 5, f"Bad request body: expected {root}")
    return text


def _agent_typing(desk: Desk, call: Call) -> Reply:
    chat = desk.chat(call)
    return Reply(Document("agentTyping", chat.agent_typing if chat.state == "chatting" else "unknown"))


def _take(desk: Desk, call: Call) -> Reply:
    """Take a document and do nothing with it: an answered survey, a transcript's address, variables."""
    desk.chat(call)
    call.body()
    return Reply()


#: Resource → method → what is done.
ACTIONS: Mapping[str, Mapping[str, Action]] = {
    "base": {"GET": _base},
    "conversation": {"POST": _conversation},
    "discovery": {"GET": _discovery},
    "start-chat": {"POST": _start_chat},
    "availability": {"GET": _availability},
    "available-slots": {"GET": _available_slots},
    "estimated-wait-time": {"GET": _estimated_wait_time},
    "pre-survey": {"GET": _pre_survey},
    "offline-survey": {"GET": _offline_survey, "PUT": _submit_offline_survey},
    "chat": {"GET": _chat},
    "events": {"GET": _events, "POST": _add_event},
    "event": {"GET": _event},
    "info": {"GET": _info},
    "visitor-name": {"GET": _visitor_name, "PUT": _set_visitor_name},
    "visitor-typing": {"GET": _visitor_typing, "PUT": _set_visitor_typing},
    "agent-typing": {"GET": _agent_typing},
    "exit-survey": {"GET": _exit_survey, "PUT": _take},
    "transcript-request": {"PUT": _take},
    "transcript-with-subject-request": {"PUT": _take},
    "custom-variables": {"PUT": _take},
}


def carry_out(desk: Desk, call: Call) -> Reply:
    """What the service answers to a call, or RefusedError."""
    actions = ACTIONS[call.place.resource]
    if call.method == "PUT" and call.request.method == "PUT" and not desk.config.dialect.real_put:
        raise RefusedError(405, 5, "Method PUT is not supported; use X-HTTP-Method-Override")
    if call.method not in actions:
        raise RefusedError(405, 5, f"Method {call.method} is not supported")
    return actions[call.method](desk, call)
