"""The documents of the Server Chat API as JSON Schema, by the paths of their resources.

No field of an answer is required: the vendor leaves some out, and a view may withhold any. The vendor's own
samples are not of one mind about types, so what stands here is as wide as they are: an array of one may be
its element, and text that looks like a number may be one. Other fields may be there too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Schema = Mapping[str, Any]
Path = tuple[str, ...]

CHAT = ("chat", "{chat}")

_TEXT: Schema = {"type": ["string", "number", "boolean"]}
_NUMBER: Schema = {"type": ["number", "string"]}


def _object(**properties: Schema) -> Schema:
    return {"type": "object", "properties": properties}


def _with(**properties: Schema) -> Schema:
    """An object that is nothing without these."""
    return {**_object(**properties), "required": list(properties)}


def _one_or_many(name: str) -> Schema:
    return {"anyOf": [_ref(name), {"type": "array", "items": _ref(name)}]}


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _named(names: str, schema: Schema) -> dict[str, Schema]:
    return dict.fromkeys(names.split(), schema)


def _one_of(*values: str) -> Schema:
    return {"type": "string", "enum": list(values)}


#: Parts of documents, by the names that they are referred to.
PARTS: Mapping[str, Schema] = {
    "Link": {
        **_object(**_named("href @href rel @rel", {"type": "string"})),
        "description": "Where to find something else: an address of this gateway, and what is there.",
    },
    "Info": {
        **_object(
            link=_one_or_many("Link"),
            state={"type": "string", "description": "waiting, chatting or ended"},
            **_named("chatSessionKey skillName agentName startTime lastUpdate", _TEXT),
            **_named("agentTyping visitorTyping visitorName language participantId", _TEXT),
            **_named("skillId agentId duration chatTimeout visitorId rtSessionId", _NUMBER),
            **_named("sharkVisitorId sharkSessionId sharkContextId engagementId campaignId", _TEXT),
        ),
        "description": "How a chat stands.",
    },
    "Event": {
        **_object(
            **_named("id @id systemMessageId", _NUMBER),
            **_named("type @type time state textType text by source subType", _TEXT),
            link=_one_or_many("Link"),
        ),
        "description": "Something that happened in a chat: a line, or another state.",
    },
    "Events": {
        **_object(link=_one_or_many("Link"), event=_one_or_many("Event")),
        "description": "What happened in a chat, from the event on that was asked for.",
    },
    "Survey": {
        **_object(
            id=_NUMBER,
            **_named("title header", _TEXT),
            questions=_object(question={"type": ["object", "array"]}),
        ),
        "description": "Questions, and what may be answered.",
    },
}

_SURVEY = _object(survey=_ref("Survey"))
_INFO = (*CHAT, "info")
_VISITOR_NAME, _VISITOR_TYPING = (*_INFO, "visitorName"), (*_INFO, "visitorTyping")

#: What a GET answers. The vendor's `chat` holds the other two.
READ: Mapping[Path, Schema] = {
    (): {"type": "object"},
    CHAT: _object(
        chat=_object(link=_one_or_many("Link"), events=_ref("Events"), info=_ref("Info")),
    ),
    (*CHAT, "events"): _object(events=_ref("Events")),
    (*CHAT, "events", "{event}"): _object(event=_ref("Event")),
    (*CHAT, "exitSurvey"): _SURVEY,
    _INFO: _object(info=_ref("Info")),
    (*_INFO, "agentTyping"): _object(agentTyping={"type": "string"}),
    _VISITOR_NAME: _object(visitorName=_TEXT),
    _VISITOR_TYPING: _object(visitorTyping={"type": "string"}),
    ("chat", "availability"): _object(availability={"type": ["boolean", "object"]}),
    ("chat", "availableSlots"): _object(availableSlots=_NUMBER),
    ("chat", "estimatedWaitTime"): _object(estimatedWaitTime=_NUMBER),
    ("chat", "offlineSurvey"): _SURVEY,
    ("chat", "preSurvey"): _SURVEY,
}

_ANSWERED = _with(
    survey=_object(
        id=_NUMBER,
        question={"type": ["object", "array"], "items": _object(id=_NUMBER, answer=_TEXT)},
    )
)

#: What a POST or a PUT is sent.
WRITTEN: Mapping[Path, Schema] = {
    (*CHAT, "customVariables"): _with(
        customVariables=_object(customVariable={"type": "array", "items": _object(name=_TEXT, value=_TEXT)})
    ),
    (*CHAT, "events"): _with(
        event={
            **_object(
                **{"@type": _one_of("line", "state")},
                text={"type": "string", "description": "of a line"},
                state={**_one_of("ended"), "description": "ends the chat"},
            ),
            "required": ["@type"],
        }
    ),
    (*CHAT, "exitSurvey"): _ANSWERED,
    (*CHAT, "transcriptRequest"): _object(email={"type": "string", "format": "email"}),
    (*CHAT, "transcriptWithSubjectRequest"): {"type": "object"},
    _VISITOR_NAME: _with(visitorName={"type": "string"}),
    _VISITOR_TYPING: _with(visitorTyping=_one_of("typing", "not-typing")),
    ("chat", "offlineSurvey"): _ANSWERED,
    ("chat", "request"): _with(
        request=_object(
            **_named("skill agent serviceQueue userAgent chatReferrer language", {"type": "string"}),
            **_named("LETagVisitorId LETagSessionId LETagContextId", {"type": "string"}),
            **_named("participantId conversationId", {"type": "string"}),
            **_named("visitorId engagementId campaignId", _NUMBER),
            visitorIp={
                "type": "string",
                "anyOf": [{"format": "ipv4"}, {"format": "ipv6"}],
                "description": "the visitor's address, not that of whoever asks",
            },
            maxWaitTime={"type": "integer", "minimum": 0, "maximum": 86_400},
            interactionTimeout={"type": "integer", "minimum": 1, "description": "seconds"},
            preChatLines=_object(line={"type": "array", "items": {"type": "string"}}),
            survey={"type": "object"},
        )
    ),
    ("conversation.json",): _object(
        **_named("authChatConnId ssoKey redirectUri", {"type": "string"}),
        **_named("LETagVisitorId LETagSessionId LETagContextId", {"type": "string"}),
        engagementId=_NUMBER,
    ),
}

#: An example of what is sent, for those that are sent most.
EXAMPLES: Mapping[Path, Schema] = {
    (*CHAT, "events"): {"event": {"@type": "line", "text": "Hello"}},
    _VISITOR_NAME: {"visitorName": "Natalie"},
    _VISITOR_TYPING: {"visitorTyping": "typing"},
    ("chat", "request"): {"request": {"skill": "Support", "visitorIp": "203.0.113.7"}},
}

#: What a write answers, where it answers with a document.
ANSWERED: Mapping[Path, Schema] = {
    ("conversation.json",): _object(**_named("participantId conversationId", {"type": "string"})),
}

#: How the vendor says that a request was the caller's mistake.
ERROR = _object(
    error=_object(time={"type": "string"}, message={"type": "string"}, internalCode={"type": "integer"})
)


def in_xml(schema: Schema, name: str = "") -> Schema:
    """The same document in XML: its one member is the root, and members with `@` are attributes."""
    properties: Mapping[str, Schema] = schema.get("properties", {})
    if not name and len(properties) == 1:
        ((root, inner),) = properties.items()
        return in_xml(inner, root)
    said: dict[str, Any] = {**schema, "xml": {"name": name or "request"}}
    if properties:
        said["required"] = [_bare(key) for key in schema.get("required", ())]
        said["properties"] = {_bare(key): _member(key, inner) for key, inner in properties.items()}
    return said


def _member(key: str, schema: Schema) -> Schema:
    return {**schema, "xml": {"attribute": True}} if key.startswith("@") else in_xml(schema, key)


def _bare(key: str) -> str:
    return key.removeprefix("@")


def names_of(path: Sequence[str]) -> list[str]:
    """The parameters of a path, in order."""
    return [segment[1:-1] for segment in path if segment.startswith("{")]
