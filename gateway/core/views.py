"""Which fields of an answer a client gets to see, and the finished slot that shows them.

A field is known by its name alone: a member in JSON, with or without `@`, an element or an attribute in
XML, whatever its prefix, at any depth of any document. What is withheld goes with all that it holds, and
what is shown is looked into by the same rule.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from gateway.core.messages import Representation
from gateway.core.withhold import json_cuts, xml_cuts

#: What a list of shown fields need not name: without it no client would find its way. `$` is the text of an
#: element in the vendor's older JSON (server-chat-api §2.4), and so a part of the field around it.
STRUCTURE = frozenset({"chat", "info", "events", "event", "link", "href", "rel", "$"})

#: Fields that tell what another field tells: each is withheld together with any of those behind it.
#: server-chat-api §1.3, §1.5, §1.6; docs/views.md says why, and what is not here.
ALSO: Mapping[str, frozenset[str]] = {
    # Events: who wrote a line is its agent or its visitor.
    "by": frozenset({"agentName", "visitorName"}),
    # The first event is the start of the chat, and the duration counts from it.
    "time": frozenset({"startTime"}),
    "duration": frozenset({"startTime"}),
    # The vendor's number for what happened: 3 is accepted, 5 and 6 are ended, 23 is waiting again.
    "systemMessageId": frozenset({"state"}),
    # A transfer to another account, and a question about several skills.
    "skill": frozenset({"skillName"}),
    "a2aSourceSessionId": frozenset({"chatSessionKey"}),
    # What a chat was started with, should an answer to a write repeat it.
    "agent": frozenset({"agentId", "agentName"}),
    "visitorProfile": frozenset({"visitorId"}),
    "LETagVisitorId": frozenset({"sharkVisitorId"}),
    "LETagSessionId": frozenset({"sharkSessionId"}),
    "LETagContextId": frozenset({"sharkContextId"}),
}

_INFO = """
    state chatSessionKey skillName skillId agentName agentId startTime duration lastUpdate chatTimeout
    visitorId agentTyping visitorTyping visitorName rtSessionId sharkVisitorId sharkSessionId sharkContextId
    engagementId campaignId language participantId
"""
_EVENTS = """
    id type time state textType text by source systemMessageId subType sequenceId channelID
    domain remoteSiteId chatRequestParameters a2aEventId a2aSourceSessionId a2aSourceSiteId skill
    metadata lineStatus refSequenceId
"""
_ACCOUNT = """
    account id availability AvailabilityForSkills skillAvailability skill isAvailable availableSlots
    estimatedWaitTime
"""
_SURVEYS = """
    survey id title header questions question order mandatory label type entry value checked answer
"""
_WRITES = """
    chatLocation chatEventLocation conversation conversationId participantId
    request agent serviceQueue maxWaitTime visitorIp userAgent chatReferrer chatRefferer visitorProfile
    preChatLines line lines surveyName surveyApiId LETagVisitorId LETagSessionId LETagContextId
    interactionTimeout authChatConnId ssoKey redirectUri email timezoneOffset customVariables customVariable
    name value
"""

#: Every name that the vendor's pages give a field (server-chat-api §1), those of requests included: an
#: answer to a write may repeat them. Errors have none: what crosses of them is the gateway's own words.
KNOWN_FIELDS = frozenset((_INFO + _EVENTS + _ACCOUNT + _SURVEYS + _WRITES).split()) | (STRUCTURE - {"$"})


@dataclass(frozen=True, slots=True)
class View:
    """A choice of fields by name, wherever they stand: `show` names all that are shown, `hide` some that are
    not. Both None shows everything. Two clients with equal views share their slots.
    """

    show: frozenset[str] | None = None
    hide: frozenset[str] | None = None

    def shows(self, name: str) -> bool:
        """Whether a field of that name is shown: it is chosen, and so is every field whose fact it tells."""
        return self._chooses(name) and all(map(self._chooses, ALSO.get(name, ())))

    def _chooses(self, name: str) -> bool:
        if self.hide is not None and name in self.hide:
            return False
        return self.show is None or name in self.show or name in STRUCTURE


FULL = View()


def viewed(body: bytes, representation: Representation, view: View) -> bytes:
    """A well-formed document without the fields that the view withholds; every other byte stays."""
    if view == FULL:
        return body
    cuts = json_cuts if representation is Representation.JSON else xml_cuts
    parts: list[bytes] = []
    done = 0
    for start, end in cuts(body, view.shows):
        parts.append(body[done:start])
        done = end
    return b"".join((*parts, body[done:]))


@dataclass(frozen=True, slots=True)
class Slot:
    """The finished head and body of (target, view), rendered once per entry.

    The head is lines, complete but for the request's own fields, which `core.headers.join` adds;
    `head_304` is the part of it that goes with a 304.
    """

    status: int
    head: bytes = field(repr=False)
    body: bytes = field(repr=False)
    etag: bytes | None
    head_304: bytes = b""
