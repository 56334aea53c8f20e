"""Environment variables laid over a document, before it is checked.

`CHAT_GATEWAY_UPSTREAM__DEADLINE_MS=800` is the setting `upstream.deadline_ms`. A list or a map is written as
JSON and replaces the whole value of the file. Account ids keep their case.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Mapping

from gateway.config.documents import Document, plain, read
from gateway.config.mistakes import KeyPath, Mistake, dotted

PREFIX = "CHAT_GATEWAY_"

_LINK = re.compile(r"(tcp|udp|sctp)://.+")
_NUMBER = re.compile(r"[0-9]{1,5}")
_ADDRESS = re.compile(r"[0-9]{1,3}(\.[0-9]{1,3}){3}|[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*")
# What Kubernetes sets in every pod of a namespace that has a service `chat-gateway` or `chat-gateway-...`:
# how the names end, and how the values look. A setting that is misspelt must not pass for one of these.
_OF_KUBERNETES = tuple(
    (re.compile(rf"(.*_)?{name}"), value)
    for name, value in (
        (r"SERVICE_HOST", _ADDRESS),
        (r"SERVICE_PORT(_.+)?", _NUMBER),
        (r"PORT", _LINK),
        (r"PORT_[0-9]+_(TCP|UDP|SCTP)", _LINK),
        (r"PORT_[0-9]+_(TCP|UDP|SCTP)_PROTO", re.compile(r"tcp|udp|sctp")),
        (r"PORT_[0-9]+_(TCP|UDP|SCTP)_PORT", _NUMBER),
        (r"PORT_[0-9]+_(TCP|UDP|SCTP)_ADDR", _ADDRESS),
    )
)


def overlay(document: Document, environ: Mapping[str, str]) -> tuple[Document, list[Mistake]]:
    """The document with all overrides in their places, the shallow ones first."""
    data = copy.deepcopy(document.data)
    variables = sorted(_variables(environ))
    if data is None and variables:
        data = {}
    origins = dict(document.origins)
    mistakes: list[Mistake] = []
    for path, variable in variables:
        origin = (f"environment variable {variable}", 0)
        if not _put(data, path, _value(environ[variable])):
            expected = "the name of a setting (lists are replaced whole)"
            mistakes.append(Mistake(*origin, dotted(path), expected, variable.removeprefix(PREFIX)))
            continue
        origins = {place: at for place, at in origins.items() if place[: len(path)] != path}
        for end in range(1, len(path) + 1):
            origins.setdefault(path[:end], origin)
    return Document(data, origins), mistakes


def _variables(environ: Mapping[str, str]) -> Iterator[tuple[tuple[str, ...], str]]:
    for variable, value in environ.items():
        name = variable.removeprefix(PREFIX)
        if variable.startswith(PREFIX) and not _is_of_kubernetes(name, value):
            yield _path(name.split("__")), variable


def _is_of_kubernetes(name: str, value: str) -> bool:
    return any(names.fullmatch(name) and values.fullmatch(value) for names, values in _OF_KUBERNETES)


def _path(parts: list[str]) -> tuple[str, ...]:
    head, *rest = parts
    if head.lower() == "accounts" and rest:
        return ("accounts", rest[0], *(part.lower() for part in rest[1:]))
    return tuple(part.lower() for part in parts)


def _value(text: str) -> object:
    """Text as YAML would read it without quotes; what can't be read is left to the setting's own check."""
    if text.startswith(("{", "[")):
        document, mistakes = read(text.encode("utf-8", "surrogateescape"), "")
        # An IPv6 address begins like a list.
        return text if mistakes else document.data
    try:
        return plain(text) if text else text
    except ValueError:
        return text


def _put(data: object, path: KeyPath, value: object) -> bool:
    """Put a value in its place, making the maps on the way. False if something else stands there."""
    *way, last = path
    for step in way:
        if not isinstance(data, dict):
            return False
        if data.get(step) is None:
            data[step] = {}
        data = data[step]
    if not isinstance(data, dict):
        return False
    data[last] = value
    return True
