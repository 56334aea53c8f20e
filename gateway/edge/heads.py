"""What a request's head may say. Pure rules; who breaks one is refused by its reason.

The parser keeps to most of RFC 9112 by itself. Here is what it would let pass, and which bodies there may be.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import cast

from gateway.core.errors import Reason, Refusal
from gateway.core.headers import READ, Fields, Part
from gateway.core.requests import Poll

EMPTY_LINE = b"\r\n\r\n"
#: Before a request line they are skipped (RFC 9112 §2.2).
LINE_ENDS = re.compile(rb"[\r\n]+")
#: RFC 9112 §3 by the letter, and a target in origin-form (§3.2.1): only visible ASCII, and no fragment.
#: The parser would also take spaces as they come, and the versions of other protocols. CONNECT and TRACE ask
#: of a proxy what this one never does.
LINE = re.compile(rb"(?!CONNECT |TRACE )([A-Z-]{1,20}) (/[!-\"$-~]*) HTTP/1\.([01])\r\n")
#: In place of one that was read.
NO_LINE = cast(re.Match[bytes], LINE.match(b"GET / HTTP/1.1\r\n"))
CAPITAL = re.compile(rb"[A-Z]")
#: What a Host may be, a list of two not (RFC 9112 §3.2, RFC 3986 §3.2.2).
_HOST = re.compile(rb"[A-Za-z0-9._~:%!$&'()*+;=\[\]-]*")
#: Fields that tell of a body. The parser heeds them; a request that has one is no poll.
_FRAMING = frozenset({b"content-length", b"expect", b"transfer-encoding"})
_WITH_BODY = frozenset({b"POST", b"PUT", b"PATCH"})
#: The fields that are kept; the others nobody reads.
KEPT = READ.keys() | _FRAMING
POLLS_NEED = frozenset({b"host", b"authorization", b"accept"})
POLLS_MAY = frozenset(name for name, row in READ.items() if row.part is not Part.ROAD)


@dataclass(frozen=True, slots=True)
class Head:
    """A request's head: raw target, and the fields of the table or why they are refused.

    `poll` is set for what the short cut may answer.
    """

    method: str
    target: bytes = field(repr=False)
    fields: Fields | Refusal = field(repr=False)
    poll: Poll | None = None
    expects_100: bool = False


def long_target(most: int) -> re.Pattern[bytes]:
    """What begins like a request line whose target is longer."""
    return re.compile(rb"[A-Z-]{1,20} [^ \r\n]{%d}" % (most + 1))


def has_host(fields: Fields, minor: bytes) -> bool:
    """Whether it says which host it is for, as far as it must (RFC 9112 §3.2)."""
    host = fields.get(b"host")
    return minor == b"0" if host is None else _HOST.fullmatch(host) is not None


def framing(method: bytes, minor: bytes, headers: Sequence[tuple[bytes, bytes]]) -> tuple[int, bool] | Reason:
    """The declared length of the body, and whether it waits for a 100.

    Refused are bodies whose end is not sure (RFC 9112 §6.1), and those that have no place.
    """
    said = [(name, value.strip(b" \t").lower()) for name, value in headers if name in _FRAMING]
    codings = [value for name, value in said if name == b"transfer-encoding"]
    lengths = [int(value) for name, value in said if name == b"content-length"]
    if len(codings) + len(lengths) > 1 or (codings and (codings != [b"chunked"] or minor == b"0")):
        return Reason.MALFORMED_REQUEST
    if (codings or any(lengths)) and method not in _WITH_BODY:
        return Reason.UNEXPECTED_BODY
    expected = [value for name, value in said if name == b"expect"]
    if any(value != b"100-continue" for value in expected):
        return Reason.EXPECTATION_FAILED
    # Who speaks HTTP/1.0 does not know what a 100 is (RFC 9110 §10.1.1).
    return sum(lengths), bool(expected) and minor == b"1"
