"""The description of a gateway: its resources under the policies in force, and all it may answer.

    describe → _paths → _operation → _answers   what comes back
                                   → _body      what is sent
                                   → _query, _fields

Nothing in it is anybody's: no account, no client, no upstream. What the gateway refuses comes from
`core.errors`, and which refusals the vendor's own may stand beside from `core.faults`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from http import HTTPStatus
from typing import Any

import gateway
from gateway.core.errors import Reason
from gateway.core.faults import Asked, Verdict, judge
from gateway.core.messages import Representation
from gateway.core.paths import DESCRIPTION, PREFIX
from gateway.core.policy import IDS, Policies, Resource, Streaming
from gateway.core.writes import START_CHAT
from gateway.openapi import shapes
from gateway.openapi.shapes import Schema

Json = dict[str, Any]

#: What nobody is ever answered: one is for the log, the other ends streams.
_UNSEEN = frozenset({Reason.CLIENT_GONE, Reason.POLICIES_CHANGED})
#: No code of the vendor's, and the one that may be the caller's mistake where none would be.
_CODES = (None, 10)
_OF_BODIES = frozenset({413, 415})
_STREAM = "text/event-stream"
_ABOUT = """\
The Server Chat API, behind a gateway that keeps what many ask for.

A path may end in `.json`, which asks for JSON whatever Accept says. `v` and `NC` may be left out, and a query
parameter that is not listed is refused. A PUT may come as a POST with `X-HTTP-Method-Override: PUT`.
Send an ETag back in If-None-Match: as long as it is the current one, the answer is 304. Where a refusal has
Retry-After, wait that long.
"""
_TELLS = {
    Streaming.CHANGES: "A stream tells the document, and each change of it: `event: info`, `id` its ETag.",
    Streaming.EVENTS: "A stream tells each event of the chat: `event: event`, `id` its number.",
}
_STREAMED = (
    " Last-Event-ID goes on where a stream ended. `event: problem` tells that the chat service fails, and why"
    " (a problem document); the stream goes on. `event: closed` tells the same of a stream that ends."
    " `event: ended` is the last one of a chat. 204: the chat has ended and all was told; don't come back."
)


def describe(policies: Policies, public_url: str, max_wait_s: int) -> bytes:
    """The OpenAPI 3.1 document, in JSON. Long polls wait for `max_wait_s` at most."""
    return json.dumps(
        document(policies, public_url, max_wait_s), ensure_ascii=False, separators=(",", ":")
    ).encode()


def document(policies: Policies, public_url: str, max_wait_s: int) -> Json:
    """The OpenAPI 3.1 document."""
    return {
        "openapi": "3.1.0",
        "info": {"title": "chat-gateway", "version": gateway.__version__, "description": _ABOUT},
        "servers": [{"url": public_url}],
        "security": [{"token": []}],
        "tags": [{"name": "chat", "description": "One chat."}, {"name": "account"}, {"name": "gateway"}],
        "paths": dict(_paths(policies.resources, max_wait_s)),
        "components": {
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}},
            "schemas": {**shapes.PARTS, "Problem": _PROBLEM, "Error": shapes.ERROR},
            "parameters": {**_IDS, **_parameters(max_wait_s)},
            "headers": _HEADERS,
            "responses": dict(_refusals()),
        },
    }


def _paths(resources: Iterable[Resource], max_wait_s: int) -> Iterator[tuple[str, Json]]:
    for resource in resources:
        names = ["account", *shapes.names_of(resource.path)]
        below = "".join(f"/{segment}" for segment in resource.path)
        operations = dict(_operations(resource, max_wait_s))
        yield (
            f"{PREFIX}{{account}}{below}",
            {"parameters": [_parameter(name) for name in names], **operations},
        )
    yield DESCRIPTION, dict(_own())


def _operations(resource: Resource, max_wait_s: int) -> Iterator[tuple[str, Json]]:
    for method in resource.methods:
        yield method.lower(), _operation(resource, method, method, max_wait_s)
        if method == "GET":
            yield "head", _operation(resource, method, "HEAD", max_wait_s)
        if method == "PUT" and "POST" not in resource.methods:
            yield "post", _operation(resource, method, "POST", max_wait_s)


def _operation(resource: Resource, method: str, sent_as: str, max_wait_s: int) -> Json:
    """`method` is the effective one, `sent_as` that of the request line."""
    name = f"{resource.name[0].upper()}{resource.name[1:]}"
    said: Json = {
        "operationId": sent_as.lower() + name,
        "tags": ["chat" if resource.of_chat else "account"],
        "parameters": [*_query(resource), *_fields(resource, method, sent_as, max_wait_s)],
        "responses": dict(_answers(resource, method, sent_as)),
    }
    if resource.stream is not None and sent_as == "GET":
        said["description"] = _TELLS[resource.stream] + _STREAMED
    if method != "GET":
        said["requestBody"] = _body(resource)
    return said


# -- what is sent ---------------------------------------------------------------------------------------


def _query(resource: Resource) -> Iterator[Json]:
    for name, pattern in resource.query.items():
        yield {"name": name, "in": "query", "schema": {"type": "string", "pattern": _anchored(pattern)}}


def _anchored(pattern: re.Pattern[str]) -> str:
    """A pattern for all of a value, as ECMA-262 spells it. JSON has no surrogates to leave out."""
    return f"^(?:{pattern.pattern})$".replace(r"\ud800-\udfff", "")


def _fields(resource: Resource, method: str, sent_as: str, max_wait_s: int) -> Iterator[Json]:
    yield _parameter("X-Request-ID")
    if method == "GET" and resource.cache is not None:
        yield _parameter("If-None-Match")
    if sent_as == "GET" and resource.stream is not None:
        yield _parameter("Last-Event-ID")
        if max_wait_s > 0:
            yield _parameter("Prefer")
    if method != sent_as and method == "PUT":
        yield _parameter("X-HTTP-Method-Override")
    if resource.path == START_CHAT:
        yield _parameter("X-Forwarded-For")


def _body(resource: Resource) -> Json:
    schema = shapes.WRITTEN.get(resource.path, {"type": "object"})
    content: Json = {"application/json": {"schema": schema}}
    if resource.path in shapes.EXAMPLES:
        content["application/json"]["example"] = shapes.EXAMPLES[resource.path]
    content["application/xml"] = {"schema": shapes.in_xml(schema)}
    return {"required": True, "content": content}


# -- what comes back ------------------------------------------------------------------------------------


def _answers(resource: Resource, method: str, sent_as: str) -> Iterator[tuple[str, Json]]:
    if method == "GET":
        yield from _read(resource, has_body=sent_as == "GET")
    else:
        yield from _written(resource, method)
    of = _asked(resource, method)
    for status in _statuses(method):
        yield str(status), _refused(status, is_vendors=_is_vendors(status, of))
    yield "4XX", _ref("responses", "Error")


def _asked(resource: Resource, method: str) -> Asked:
    if method == "GET":
        return Asked.READ
    return Asked.START if resource.methods[method] == "chat:start" else Asked.WRITE


def _read(resource: Resource, *, has_body: bool) -> Iterator[tuple[str, Json]]:
    is_streamed = resource.stream is not None
    head = _heads(
        "Vary", "X-Request-ID", "Cache-Control", "Cache-Status", "Age", "RateLimit", "RateLimit-Policy"
    )
    if resource.cache is not None:
        head |= _heads("ETag")
    if is_streamed:
        head |= _heads("Preference-Applied")
    content = {one.media_type.decode(): {"schema": _shown(resource, one)} for one in resource.representations}
    if is_streamed:
        content[_STREAM] = {"schema": {"type": "string", "description": "server-sent events"}}
    yield "200", {"description": "OK", "headers": head, **({"content": content} if has_body else {})}
    if is_streamed and has_body:
        yield "204", {"description": "The chat has ended: there is nothing more to tell."}
    if resource.cache is not None:
        yield "304", {"description": "Not modified", "headers": head}


def _shown(resource: Resource, representation: Representation) -> Schema:
    if representation is Representation.JSON:
        return shapes.READ.get(resource.path, {"type": "object"})
    return _XML


def _written(resource: Resource, method: str) -> Iterator[tuple[str, Json]]:
    head = _heads("Vary", "X-Request-ID", "Cache-Status", "Location")
    done: Json = {"description": "Done, as the chat service says it.", "headers": head}
    made = shapes.ANSWERED.get(resource.path)
    if made is not None:
        done["content"] = {"application/json": {"schema": made}}
    yield ("201" if method == "POST" else "200"), done
    yield "2XX", done


def _statuses(method: str) -> list[int]:
    """What a request with that method may be refused with."""
    statuses = {reason.status for reason in Reason if reason not in _UNSEEN}
    return sorted(statuses - _OF_BODIES if method == "GET" else statuses)


def _refused(status: int, *, is_vendors: bool = False) -> Json:
    return _ref("responses", f"{'Refused' if is_vendors else 'Problem'}{status}")


def _is_vendors(status: int, of: Asked) -> bool:
    """Whether the chat service, too, may say it."""
    return any(judge(of, status, code) is Verdict.CALLERS for code in _CODES)


def _refusals() -> Iterator[tuple[str, Json]]:
    yield "Error", {"description": "A mistake, as the chat service says it.", "content": _errors()}
    for status in _statuses("POST"):
        yield f"Problem{status}", _refusal(status)
        if any(_is_vendors(status, of) for of in Asked):
            said = _refusal(status)
            # What the chat service says has another head.
            head = _heads("Vary", "X-Request-ID")
            yield f"Refused{status}", {**said, "headers": head, "content": {**said["content"], **_errors()}}


def _refusal(status: int) -> Json:
    types = [reason.type for reason in Reason if reason.status == status and reason not in _UNSEEN]
    told = {"properties": {"status": {"const": status}, "type": {"enum": types}}}
    return {
        "description": HTTPStatus(status).phrase,
        "headers": _heads("Vary", "X-Request-ID", *_OF_REFUSALS.get(status, ())),
        "content": {
            "application/problem+json": {"schema": {"allOf": [_ref("schemas", "Problem"), told]}},
            "application/problem+xml": {"schema": _XML},
        },
    }


#: XML as a whole: what is in it is what is in JSON.
_XML = {"type": "string", "contentMediaType": "application/xml"}


def _errors() -> Json:
    return {
        "application/json": {"schema": _ref("schemas", "Error")},
        "application/xml": {"schema": _XML},
    }


def _ref(kind: str, name: str) -> Json:
    return {"$ref": f"#/components/{kind}/{name}"}


def _parameter(name: str) -> Json:
    return _ref("parameters", name)


def _heads(*names: str) -> Json:
    return {name: _ref("headers", name) for name in names}


def _header(description: str, *, required: bool = False, **schema: object) -> Json:
    return {"description": description, "required": required, "schema": {"type": "string", **schema}}


_HEADERS: Mapping[str, Json] = {
    "Age": _header("Seconds since the chat service was asked.", pattern="^[0-9]+$"),
    "Allow": _header("The methods that this resource takes."),
    "Cache-Control": _header("Answers are not for caches on the way."),
    "Cache-Status": _header("Whether it was kept, and how the chat service was asked (RFC 9211)."),
    "ETag": _header("Of what this client sees, without the fields that each poll moves.", pattern='^W/".+"$'),
    "Location": _header("Where what was made is to be had."),
    "Preference-Applied": _header(
        "The answer was held back until there was news, or for as long as was wished."
    ),
    "Proxy-Status": _header("What went wrong with the chat service (RFC 9209)."),
    "RateLimit": _header("What is left of this client's limits, where it has any."),
    "RateLimit-Policy": _header("This client's limits."),
    "Retry-After": _header("Seconds to wait before asking again.", pattern="^[0-9]+$"),
    "Vary": _header("What the answer depends on.", required=True),
    "WWW-Authenticate": _header("What token is wanted (RFC 6750).", required=True, pattern="^Bearer "),
    "X-Request-ID": _header(
        "The request's own id, or the one it was given.", required=True, pattern="^[A-Za-z0-9._-]{1,64}$"
    ),
}
_OF_REFUSALS = {
    401: ("WWW-Authenticate",),
    403: ("WWW-Authenticate",),
    429: ("Retry-After", "RateLimit", "RateLimit-Policy"),
    502: ("Proxy-Status", "Retry-After"),
    503: ("Proxy-Status", "Retry-After"),
    504: ("Proxy-Status",),
}


def _field(name: str, description: str, **schema: object) -> Json:
    return {"name": name, "in": "header", "description": description, "schema": {"type": "string", **schema}}


def _parameters(max_wait_s: int) -> Mapping[str, Json]:
    """The header fields that requests may have, by name."""
    fields = (
        _field("If-None-Match", "ETags that the client has; if the current one is among them, 304."),
        _field("Last-Event-ID", "The id of the last message of a stream; this one goes on after it."),
        _field(
            "Prefer",
            f"`wait=20`: hold the answer back until there is news, at most {max_wait_s} seconds.",
        ),
        _field("X-Forwarded-For", "The visitor's address, for clients who are to say it here."),
        _field(
            "X-Request-ID",
            "An id of the client's own, of up to 64 letters, digits, dots, dashes and underscores.",
        ),
        {**_field("X-HTTP-Method-Override", "Says that this is a PUT.", enum=["PUT"]), "required": True},
    )
    return {field["name"]: field for field in fields}


def _id(name: str, pattern: str, description: str) -> Json:
    schema = {"type": "string", "pattern": f"^{pattern}$"}
    return {"name": name, "in": "path", "required": True, "description": description, "schema": schema}


_IDS = {
    "account": _id("account", "[A-Za-z0-9]{1,64}", "The account's id."),
    "chat": _id("chat", IDS["{chat}"], "The chat's id, as the Location of a started chat has it."),
    "event": _id("event", IDS["{event}"], "The event's number."),
}
_PROBLEM = {
    "description": "Why the gateway refused, or what failed (RFC 9457).",
    "type": "object",
    "required": ["type", "title", "status", "detail", "request_id"],
    "properties": {
        "type": {"type": "string", "description": "Stable: what to decide by."},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "request_id": {"type": "string", "description": "What to ask the operator about."},
        "violated-policies": {
            "type": "array",
            "items": {"type": "string"},
            "description": "Which limits were used up.",
        },
    },
}


def _own() -> Iterator[tuple[str, Json]]:
    """The description, described."""
    for verb in ("get", "head"):
        done: Json = {"description": "This document.", "headers": _heads("Vary", "X-Request-ID")}
        if verb == "get":
            done["content"] = {"application/json": {"schema": {"type": "object"}}}
        refused = {str(status): _refused(status) for status in _statuses("GET")}
        yield (
            verb,
            {
                "operationId": f"{verb}Description",
                "tags": ["gateway"],
                "parameters": [_parameter("X-Request-ID")],
                "responses": {"200": done, **refused},
            },
        )
