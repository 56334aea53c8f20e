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

# Kubernetes sets these in every pod of a namespace that has a service `chat-gateway` or `chat-gateway-...`.
_OF_KUBERNETES = re.compile(
    r"(.*_)?(SERVICE_HOST|SERVICE_PORT(_.+)?|PORT(_[0-9]+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)"
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
    for variable in environ:
        if variable.startswith(PREFIX) and not _OF_KUBERNETES.fullmatch(variable.removeprefix(PREFIX)):
            yield _path(variable.removeprefix(PREFIX).split("__")), variable


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
