"""From the bytes of a request to what is asked of which resource."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from urllib.parse import parse_qs

from gateway.emulator.messages import EmulatorRequest
from gateway.emulator.render import BodyError, Tree, parse_body

#: Paths below /api/account/{account}, by the names that are used for counting and for faults.
_PATHS = {
    (): "base",
    ("conversation",): "conversation",
    ("service", "baseURI"): "discovery",
    ("service", "{service}", "baseURI"): "discovery",
    ("chat", "request"): "start-chat",
    ("chat", "availability"): "availability",
    ("chat", "availableSlots"): "available-slots",
    ("chat", "estimatedWaitTime"): "estimated-wait-time",
    ("chat", "preSurvey"): "pre-survey",
    ("chat", "", "preSurvey"): "pre-survey",  # as the page of the pre-chat survey spells it
    ("chat", "offlineSurvey"): "offline-survey",
    ("chat", "{chat}"): "chat",
    ("chat", "{chat}", "events"): "events",
    ("chat", "{chat}", "events", "{event}"): "event",
    ("chat", "{chat}", "info"): "info",
    ("chat", "{chat}", "info", "visitorName"): "visitor-name",
    ("chat", "{chat}", "info", "visitorTyping"): "visitor-typing",
    ("chat", "{chat}", "info", "agentTyping"): "agent-typing",
    ("chat", "{chat}", "exitSurvey"): "exit-survey",
    ("chat", "{chat}", "transcriptRequest"): "transcript-request",
    ("chat", "{chat}", "transcriptWithSubjectRequest"): "transcript-with-subject-request",
    ("chat", "{chat}", "customVariables"): "custom-variables",
}
UNKNOWN = "unknown"
_IS_JSON = {
    "application/json": True,
    "application/xml": False,
    "text/xml": False,
    "application/*": False,
    "*/*": False,
}


_DIGITS = re.compile(r"[0-9]{1,18}")


class RefusedError(Exception):
    """The request ends in an error document."""

    def __init__(self, status: int, code: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message


@dataclass(frozen=True, slots=True)
class Place:
    """What a request target names. What it does not name is empty."""

    resource: str
    json: bool
    account: str = ""
    chat: str = ""
    event: str = ""
    service: str = ""
    query: Mapping[str, list[str]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Call:
    """A located request, at the time it was received (epoch seconds). An override's method is PUT."""

    request: EmulatorRequest
    place: Place
    method: str
    json: bool
    received: float

    def argument(self, name: str) -> str | None:
        """The first value of a query parameter."""
        values = self.place.query.get(name)
        return values[0] if values else None

    def number(self, name: str) -> int | None:
        """A query parameter that must be digits."""
        value = self.argument(name)
        if value is None:
            return None
        number = digits(value)
        if number is None:
            raise RefusedError(400, 5, f"Bad value for parameter {name}")
        return number

    def body(self) -> Mapping[str, Tree]:
        """The body as a tree with its root."""
        try:
            return parse_body(self.request.body, self.request.header(b"content-type") or b"")
        except BodyError as error:
            raise RefusedError(400, 5, str(error)) from error

    def root(self, name: str) -> Mapping[str, Tree]:
        """What the body has under a root that must be there."""
        tree = self.body().get(name)
        if not isinstance(tree, Mapping):
            raise RefusedError(400, 5, f"Bad request body: expected {name}")
        return tree


def digits(text: str) -> int | None:
    """The number that a text of at most 18 digits is."""
    return int(text) if _DIGITS.fullmatch(text) else None


def receive(request: EmulatorRequest, received: float) -> Call:
    """Locate a request."""
    place = locate(request.target)
    method = request.method
    if method == "POST" and request.header(b"x-http-method-override") is not None:
        method = (request.header(b"x-http-method-override") or b"").decode("latin-1")
    return Call(request, place, method, place.json or _accepts_json(request.header(b"accept")), received)


@lru_cache(maxsize=4096)
def locate(target: bytes) -> Place:
    """What a request target names."""
    path, _, query = target.decode("latin-1").partition("?")
    json = path.endswith(".json")
    segments = path.removesuffix(".json").split("/")
    if segments[:3] != ["", "api", "account"] or len(segments) < 4:
        return Place(UNKNOWN, json)
    resource, names = _match(tuple(segments[4:]))
    return Place(resource, json, segments[3], query=parse_qs(query, keep_blank_values=True), **names)


def _match(path: tuple[str, ...]) -> tuple[str, dict[str, str]]:
    # Patterns without names stand first, so `chat/request` is no chat of that id.
    for pattern, resource in _PATHS.items():
        names = _names(pattern, path)
        if names is not None:
            return resource, names
    return UNKNOWN, {}


def _names(pattern: tuple[str, ...], path: tuple[str, ...]) -> dict[str, str] | None:
    if len(pattern) != len(path):
        return None
    names = {}
    for want, got in zip(pattern, path, strict=True):
        if want.startswith("{"):
            names[want[1:-1]] = got
        elif want != got:
            return None
    return names


def _accepts_json(accept: bytes | None) -> bool:
    """Whether Accept prefers JSON; the service's default is XML."""
    if accept is None or accept == b"application/json":
        return accept is not None
    quality = {True: 0.0, False: 0.0}
    for item in accept.decode("latin-1").lower().split(","):
        media_type, *parameters = (part.strip() for part in item.split(";"))
        if media_type in _IS_JSON:
            kind = _IS_JSON[media_type]
            quality[kind] = max(quality[kind], _quality(parameters))
    return quality[True] > quality[False]


def _quality(parameters: list[str]) -> float:
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name == "q":
            try:
                return float(value)
            except ValueError:
                return 0.0
    return 1.0
