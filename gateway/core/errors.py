"""Every "no" the gateway can say: its reason, its status and its fixed words.

A reason is the log field, the metric label, the tail of the problem's `type` (RFC 9457) and the tests'
oracle. The words are fixed: nothing a client or the upstream said is repeated.
"""

from __future__ import annotations

import enum
import json
from dataclasses import dataclass

from gateway.core.limits import UNCOUNTED, Standing
from gateway.core.messages import Representation


class Reason(enum.Enum):
    """Reason = (slug, status, title, detail)."""

    # The request itself.
    MALFORMED_REQUEST = ("malformed-request", 400, "Malformed request", "This is not an HTTP request.")
    CLIENT_GONE = ("client-gone", 400, "Client gone", "The client hung up before its request was complete.")
    MALFORMED_TARGET = (
        "malformed-target",
        400,
        "Malformed path",
        "The path has a character or a segment that no resource has.",
    )
    TARGET_TOO_LONG = (
        "target-too-long",
        414,
        "Target too long",
        "The path and query are longer than the gateway reads.",
    )
    HEAD_TOO_LARGE = (
        "head-too-large",
        431,
        "Head too large",
        "The header fields are more or longer than the gateway reads.",
    )
    MALFORMED_QUERY = (
        "malformed-query",
        400,
        "Malformed query",
        "A query parameter is unknown, doubled, or has a value this resource does not take.",
    )
    MALFORMED_HEADER = (
        "malformed-header",
        400,
        "Malformed header",
        "A header field that must be single is doubled or missing, or Host is none.",
    )
    MALFORMED_BODY = (
        "malformed-body",
        400,
        "Malformed body",
        "The body is not a well-formed document of its content type.",
    )
    UNEXPECTED_BODY = (
        "unexpected-body",
        400,
        "Unexpected body",
        "A request with this method must not have a body.",
    )
    REQUEST_TIMEOUT = (
        "request-timeout",
        408,
        "Request timeout",
        "The request was not complete in time.",
    )
    EXPECTATION_FAILED = (
        "expectation-failed",
        417,
        "Expectation failed",
        "The only expectation that can be met is 100-continue.",
    )
    UNSUPPORTED_OVERRIDE = (
        "unsupported-override",
        400,
        "Unsupported method override",
        "X-HTTP-Method-Override is understood on POST only, and PUT is its only value.",
    )
    UNKNOWN_RESOURCE = ("unknown-resource", 404, "Unknown resource", "There is no such resource here.")
    METHOD_NOT_ALLOWED = (
        "method-not-allowed",
        405,
        "Method not allowed",
        "This resource does not take this method; Allow lists those it takes.",
    )
    NOT_ACCEPTABLE = (
        "not-acceptable",
        406,
        "Not acceptable",
        "This resource has none of the representations that Accept names.",
    )
    BODY_TOO_LARGE = ("body-too-large", 413, "Body too large", "The body is larger than the gateway takes.")
    VISITOR_IP_MISSING = (
        "visitor-ip-missing",
        400,
        "Visitor address missing",
        "This client must say the visitor's address where it starts a chat (request.visitorIp).",
    )
    UNSUPPORTED_MEDIA_TYPE = (
        "unsupported-media-type",
        415,
        "Unsupported media type",
        "The body must be application/json or application/xml, and Content-Type must say so.",
    )

    # The gateway has no room for it.
    TOO_MANY_CONNECTIONS = (
        "too-many-connections",
        503,
        "Too many connections",
        "Too many connections are open, from this address or in all; Retry-After says when to try again.",
    )
    OVERLOADED = (
        "overloaded",
        503,
        "Overloaded",
        "More is asked of the gateway than it can do; Retry-After says when to try again.",
    )

    # The caller.
    TOKEN_MISSING = (
        "token-missing",
        401,
        "Token missing",
        "Send a bearer token in the Authorization header.",
    )
    TOKEN_INVALID = ("token-invalid", 401, "Token invalid", "The token was not accepted.")
    TOKEN_EXPIRED = ("token-expired", 401, "Token expired", "The token has expired.")
    TOKEN_REVOKED = ("token-revoked", 401, "Token revoked", "The token was revoked.")
    NO_CLIENT = ("no-client", 403, "No client", "No client of this gateway matches the token.")
    AMBIGUOUS = (
        "ambiguous",
        403,
        "Ambiguous client",
        "More than one client of this gateway matches the token.",
    )
    ACCOUNT_DENIED = ("account-denied", 403, "Account denied", "This client may not use this account.")
    ACTION_DENIED = ("action-denied", 403, "Action denied", "This client may not do this.")
    CHAT_DENIED = ("chat-denied", 403, "Chat denied", "This token is for another chat.")
    FIELD_DENIED = ("field-denied", 403, "Field denied", "This client does not get to see this field.")
    RATE_LIMITED = (
        "rate-limited",
        429,
        "Rate limited",
        "This client has used up what it may; violated-policies names the limits, Retry-After says how long.",
    )
    TOO_MANY_BAD_TOKENS = (
        "too-many-bad-tokens",
        429,
        "Too many bad tokens",
        "Too many tokens from this address were not accepted; Retry-After says how long to wait.",
    )
    KEYS_UNAVAILABLE = (
        "keys-unavailable",
        503,
        "Keys unavailable",
        "The keys of the token's issuer could not be had; Retry-After says when to try again.",
    )

    # The upstream, or the way to it.
    UPSTREAM_ERROR = ("upstream-error", 502, "Upstream error", "The chat service failed to answer.")
    UPSTREAM_UNREACHABLE = (
        "upstream-unreachable",
        502,
        "Upstream unreachable",
        "The chat service could not be reached.",
    )
    UPSTREAM_RESET = (
        "upstream-reset",
        502,
        "Upstream hung up",
        "The chat service closed the connection before its answer was complete.",
    )
    UPSTREAM_BROKEN = (
        "upstream-broken",
        502,
        "Upstream answer broken",
        "The chat service sent an answer that cannot be used.",
    )
    UPSTREAM_REDIRECT = (
        "upstream-redirect",
        502,
        "Upstream redirected",
        "The chat service sent a redirect, which is never followed.",
    )
    UPSTREAM_MISMATCH = (
        "upstream-mismatch",
        502,
        "Upstream answered amiss",
        "The chat service answered for another chat.",
    )
    KEY_REFUSED = (
        "key-refused",
        502,
        "Gateway not authorised",
        "The chat service did not accept the gateway's credentials.",
    )
    CRASHED = ("crashed", 502, "Fetch failed", "The fetch failed inside the gateway.")
    UPSTREAM_THROTTLED = (
        "upstream-throttled",
        503,
        "Upstream throttled",
        "The chat service asked for a pause; Retry-After says how long.",
    )
    UPSTREAM_BUSY = (
        "upstream-busy",
        503,
        "Upstream busy",
        "More is asked of the chat service than it may be asked; Retry-After says when to try again.",
    )
    UPSTREAM_DOWN = (
        "upstream-down",
        503,
        "Upstream down",
        "The chat service failed again and again and is left alone; Retry-After says until when.",
    )
    DRAINING = ("draining", 503, "Shutting down", "This gateway is shutting down; another will answer.")
    POLICIES_CHANGED = (
        "policies-changed",
        503,
        "Policies changed",
        "What may be seen has changed; ask again.",
    )
    UPSTREAM_TIMEOUT = (
        "upstream-timeout",
        504,
        "Upstream timeout",
        "The chat service did not answer in time.",
    )

    def __init__(self, slug: str, status: int, title: str, detail: str) -> None:
        self.slug = slug
        self.status = status
        self.title = title
        self.detail = detail

    @property
    def type(self) -> str:
        """The problem's `type`, stable across releases."""
        return f"urn:chat-gateway:problem:{self.slug}"


@dataclass(frozen=True, slots=True)
class Refusal:
    """A request that ends here. `client` is known once a token has matched one.

    `because` is a label for the log that says more than the client is told; `rule` is what decided.
    `standing` is that of a client that broke a limit.
    """

    reason: Reason
    client: str | None = None
    because: str | None = None
    retry_after_s: float | None = None
    allow: tuple[str, ...] = ()
    rule: str | None = None
    standing: Standing = UNCOUNTED

    @property
    def violated(self) -> tuple[str, ...]:
        """The names of the limits that were broken."""
        return self.standing.violated


def too_often(client: str, standing: Standing) -> Refusal:
    """The refusal of a client that broke a limit."""
    rule = f"{client}/limits/{standing.violated[0]}"
    return Refusal(
        Reason.RATE_LIMITED, client, retry_after_s=standing.retry_after_s, rule=rule, standing=standing
    )


def problem(
    reason: Reason, representation: Representation, request_id: str, violated: tuple[str, ...] = ()
) -> tuple[bytes, bytes]:
    """A problem document, as (content type, body): RFC 9457 §3 in JSON, appendix B in XML.

    `violated` becomes the member `violated-policies` (draft-ietf-httpapi-ratelimit-headers-11).
    """
    if representation is Representation.JSON:
        members: dict[str, object] = {
            "type": reason.type,
            "title": reason.title,
            "status": reason.status,
            "detail": reason.detail,
            "request_id": request_id,
        }
        if violated:
            members["violated-policies"] = violated
        return b"application/problem+json", json.dumps(members).encode()
    # The words are fixed, the id is one of ours, and limits are named by us: nothing here needs escaping.
    policies = "".join(f"<i>{name}</i>" for name in violated)
    policies = f"<violated-policies>{policies}</violated-policies>" if violated else ""
    document = (
        '<?xml version="1.0" encoding="UTF-8"?>'
        f'<problem xmlns="urn:ietf:rfc:7807"><type>{reason.type}</type><title>{reason.title}</title>'
        f"<status>{reason.status}</status><detail>{reason.detail}</detail><request-id>{request_id}</request-id>{policies}</problem>"
    )
    return b"application/problem+xml", document.encode()
