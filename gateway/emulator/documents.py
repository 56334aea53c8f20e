"""The documents of the service as trees, with the fields and links in the order of the vendor's samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta, timezone

from gateway.emulator.chats import Chat, Event
from gateway.emulator.config import EmulatorConfig
from gateway.emulator.render import Document, Tree, scalar

_ACCOUNT_LINKS = (
    ("self", ""),
    ("chat-request", "/chat/request"),
    ("chat-availability", "/chat/availability"),
    ("chat-available-slots", "/chat/availableSlots"),
    ("chat-estimatedWaitTime", "/chat/estimatedWaitTime"),
    ("prechat-survey", "/chat/preSurvey"),
    ("chat-offline-survey", "/chat/offlineSurvey"),
)
_INFO_LINKS = (
    ("self", "/info"),
    ("visitor-name", "/info/visitorName"),
    ("visitor-typing", "/info/visitorTyping"),
    ("agent-typing", "/info/agentTyping"),
)


class Documents:
    """Makes the documents of one service."""

    def __init__(self, config: EmulatorConfig) -> None:
        self._config = config
        self._zone = timezone(timedelta(minutes=config.utc_offset_minutes))

    def time(self, at: float) -> str:
        """A time as the service writes it: milliseconds, and the server's own offset."""
        return datetime.fromtimestamp(at, self._zone).isoformat(timespec="milliseconds")

    def href(self, account: str, path: str = "") -> str:
        """The public address of something below an account."""
        return f"{self._config.link_base}/api/account/{account}{path}"

    def chat_href(self, chat: Chat, path: str = "") -> str:
        """The public address of something below a chat."""
        return self.href(chat.account, f"/chat/{chat.id}{path}")

    def error(self, at: float, code: int, message: str) -> Document:
        """The error envelope."""
        return Document("error", {"time": self.time(at), "message": message, "internalCode": code})

    def base(self, account: str) -> Document:
        """The base resource of an account."""
        links = [_link(self.href(account, path), rel) for rel, path in _ACCOUNT_LINKS]
        return Document("account", {"@id": account, "link": links})

    def chat(self, chat: Chat, since: int, now: float) -> Document:
        """Chat, events and info in one; `since` is the first event to include."""
        tree = {
            "link": self._chat_links(chat),
            "events": self._events(chat, since),
            "info": self._info(chat, now),
            **self._unknown(chat),
        }
        return Document("chat", tree)

    def events(self, chat: Chat, since: int) -> Document:
        """The events from `since` on."""
        return Document("events", self._events(chat, since))

    def event(self, event: Event) -> Document:
        """One event."""
        return Document("event", self._event(event))

    def event_location(self, chat: Chat, event: Event) -> Document:
        """Where an added event is, as a body."""
        return Document("chatEventLocation", {"link": [_link(self.event_href(chat, event), "self")]})

    def event_href(self, chat: Chat, event: Event) -> str:
        """The public address of an event."""
        return self.chat_href(chat, f"/events/{event.id}")

    def info(self, chat: Chat, now: float) -> Document:
        """The information section of a chat."""
        return Document("info", self._info(chat, now))

    def transfer(self, chat: Chat) -> dict[str, Tree]:
        """The fields of an event that sends the visitor to another account, on another host."""
        domain, account = self._config.transfer_domain, self._config.transfer_account
        return {
            "domain": domain,
            "remoteSiteId": account,
            "chatRequestParameters": {
                "a2aEventId": len(chat.events),
                "a2aSourceSessionId": chat.id,
                "a2aSourceSiteId": chat.account,
                "skill": chat.skill,
            },
            "link": [_link(f"https://{domain}/api/account/{account}/chat/request", "a2a-transfer")],
        }

    def _chat_links(self, chat: Chat) -> list[Tree]:
        return [
            _link(self.chat_href(chat), "self"),
            _link(self.chat_href(chat, "/events"), "events"),
            _link(self.chat_href(chat, "/info"), "info"),
            _link(self.chat_href(chat, f"?from={len(chat.events)}"), "next"),
            _link(self.chat_href(chat, "/transcriptRequest"), "transcript-request"),
            _link(self.chat_href(chat, "/transcriptWithSubjectRequest"), "transcript-with-subject-request"),
            _link(self.chat_href(chat, "/exitSurvey"), "exit-survey"),
            _link(self.chat_href(chat, "/customVariables"), "custom-variables"),
        ]

    def _events(self, chat: Chat, since: int) -> dict[str, Tree]:
        links = [
            _link(self.chat_href(chat, "/events"), "self"),
            _link(self.chat_href(chat, f"/events?from={len(chat.events)}"), "next"),
        ]
        return {"link": links, "event": [self._event(event) for event in chat.events[since:]]}

    def _event(self, event: Event) -> dict[str, Tree]:
        return {"@id": event.id, "@type": event.type, "time": self.time(event.time), **event.fields}

    def _info(self, chat: Chat, now: float) -> dict[str, Tree]:
        return {
            "link": self._info_links(chat),
            "state": chat.state,
            "chatSessionKey": chat.id,
            "skillName": chat.skill,
            "skillId": 25975313,
            **({"agentName": chat.agent, "agentId": 25025413} if chat.agent is not None else {}),
            "startTime": self.time(chat.started),
            "duration": self._duration(chat, now),
            "lastUpdate": self.time(chat.last_update),
            "chatTimeout": chat.timeout_s,
            "visitorId": int(scalar(chat.fields.get("visitorId"), str(1214701440734022 + chat.serial))),
            "agentTyping": chat.agent_typing,
            "visitorTyping": chat.visitor_typing,
            "visitorName": chat.visitor_name,
            "rtSessionId": 4294967524 + chat.serial,
            "sharkVisitorId": scalar(chat.fields.get("LETagVisitorId"), "rloXnVgEQ-iQuoOytvKNqA"),
            "sharkSessionId": scalar(chat.fields.get("LETagSessionId"), "rN82d4rATN6EuiA4cJwaPg"),
            "sharkContextId": scalar(chat.fields.get("LETagContextId"), "3"),
            "engagementId": scalar(chat.fields.get("engagementId"), "27469613"),
            "campaignId": scalar(chat.fields.get("campaignId"), "26948813"),
            "language": scalar(chat.fields.get("language"), "en-US"),
            **_participant(chat.fields),
            **self._unknown(chat),
        }

    def _duration(self, chat: Chat, now: float) -> int:
        over = now if chat.ended is None else chat.ended
        return int(over - chat.started) if self._config.dialect.duration_counts else 0

    def _info_links(self, chat: Chat) -> list[Tree]:
        links = [_link(self.chat_href(chat, path), rel) for rel, path in _INFO_LINKS]
        if self._config.dialect.malformed_links:
            links[1]["@href"] = links[1]["@href"].replace("://", ":/", 1)
            links[2]["@href"] = links[2]["@href"].partition("://")[2]
        return [*links]

    def _unknown(self, chat: Chat) -> dict[str, Tree]:
        if not self._config.dialect.unknown_fields:
            return {}
        link = _link(self.chat_href(chat, "/info"), "related")
        return {"channelGroup": {"@channelID": "web", "link": [link], "weights": [1, 2.5]}}


def _link(href: str, rel: str) -> dict[str, str]:
    return {"@href": href, "@rel": rel}


def _participant(fields: Mapping[str, Tree]) -> dict[str, Tree]:
    return {"participantId": scalar(fields["participantId"])} if "participantId" in fields else {}


def survey(kind: str) -> Document:
    """The survey asked before a chat, after it, or in its place."""
    return Document("survey", _SURVEYS[kind])


def _question(number: int, label: str, kind: str, *entries: str) -> dict[str, Tree]:
    chosen: Sequence[Tree] = [{"value": entry, "checked": False} for entry in entries]
    return {
        "id": number,
        "order": number,
        "mandatory": number == 0,
        "label": label,
        "type": kind,
        **({"entry": chosen} if chosen else {}),
    }


_SURVEYS: Mapping[str, Tree] = {
    "pre": {
        "id": 24970013,
        "title": "Pre-Chat Survey",
        "header": "Please tell us about you.",
        "questions": {
            "question": [
                _question(0, "Your name", "Text Field"),
                _question(1, "Your topic", "Radio Button", "Sales", "Support"),
            ]
        },
    },
    "offline": {
        "id": "24970113",
        "title": "Offline Survey",
        "header": "Nobody is here. Please leave a message.",
        "questions": {
            "question": [
                {"id": "0", "order": "0", "mandatory": "true", "label": "Your message", "type": "Text Area"}
            ]
        },
    },
    "exit": {
        "id": 24970213,
        "title": "Exit Survey",
        "header": "Thank you for chatting with us.",
        "questions": {
            "question": [
                _question(0, "How did we do?", "Dropdown Box", "1", "2", "3"),
                _question(1, "Anything else?", "Text Area"),
            ]
        },
    },
}
