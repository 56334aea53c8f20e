"""What a client's write says: read strictly, and dressed for the upstream."""

from __future__ import annotations

from gateway.core.documents import Broken, well_formed
from gateway.core.errors import Reason, Refusal
from gateway.core.headers import body_representation, dress
from gateway.core.judgement import Granted
from gateway.core.messages import Representation, UpstreamRequest
from gateway.core.requests import Request
from gateway.core.visitors import with_visitor_ip

#: The vendor's Start Chat: the one body that says where a visitor is.
START_CHAT = ("chat", "request")


def document_of(body: bytes, request: Request) -> tuple[bytes, Representation] | Refusal:
    """A body and what it is, well-formed; or why it goes no further."""
    body_is = body_representation(request.fields)
    if body_is is None:
        return Refusal(Reason.UNSUPPORTED_MEDIA_TYPE)
    try:
        well_formed(body, body_is)
    except Broken:
        return Refusal(Reason.MALFORMED_BODY)
    return body, body_is


def dressed(
    granted: Granted, body: bytes, body_is: Representation, visitor: str | None
) -> UpstreamRequest | Refusal:
    """A write as it goes upstream: where it starts a chat, with the visitor's address as policy wants it."""
    if granted.target.resource.path == START_CHAT:
        told = with_visitor_ip(body, body_is, granted.client.visitor_ip, visitor)
        if isinstance(told, Refusal):
            return told
        body = told
    return dress(granted.target, body, body_is)
