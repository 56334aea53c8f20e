"""Whose fault an upstream answer is: ours, the caller's or the upstream's. One table.

The vendor answers 401 with code 10 both for a bad key and for a caller's mistake (Invalid User, Bad captcha:
seen where a chat is started, and nowhere else), and 400 with code 5 both for a bad Authorization and for a
bad body. So the status alone does not tell; what does is what was asked. A read that says nothing of the
caller's own is built by the gateway alone: "bad request" can only mean its key. Codes as observed in public
bug reports and client code:
5 bad request, 10 not authorised, 12 not found, 20 account loading, 28 no such resource.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Verdict(enum.Enum):
    """How an answer ends its request."""

    GOOD = "good"
    GONE = "gone"
    CALLERS = "callers-fault"
    OUR_KEY = "our-key"
    THROTTLED = "throttled"
    REDIRECT = "redirect"
    UPSTREAMS = "upstreams-fault"
    UNUSABLE = "unusable"


class Asked(enum.Enum):
    """What kind of request was answered; a QUESTION is a read with words of the caller's in its query."""

    READ = "read"
    QUESTION = "question"
    WRITE = "write"
    START = "start"


@dataclass(frozen=True, slots=True)
class _Rule:
    """A row: what was asked, what came back (code None: any), and the verdict."""

    asked: tuple[Asked, ...]
    statuses: range
    code: int | None
    verdict: Verdict


_ANY, _READS = tuple(Asked), (Asked.READ, Asked.QUESTION)

# The first row that fits decides.
_TABLE = (
    _Rule(_READS, range(204, 205), None, Verdict.UNUSABLE),  # a read without a body to show
    _Rule(_READS, range(206, 207), None, Verdict.UNUSABLE),  # no Range was asked for
    _Rule(_ANY, range(200, 300), None, Verdict.GOOD),
    _Rule(_ANY, range(300, 400), None, Verdict.REDIRECT),
    _Rule(_ANY, range(404, 405), 12, Verdict.GONE),
    _Rule(_ANY, range(429, 430), None, Verdict.THROTTLED),
    _Rule(_ANY, range(408, 409), None, Verdict.UPSTREAMS),
    _Rule((Asked.READ,), range(400, 401), 5, Verdict.OUR_KEY),  # "Bad authorization request"
    _Rule((Asked.START,), range(401, 402), 10, Verdict.CALLERS),  # "Invalid User", "Bad captcha"
    _Rule(_ANY, range(401, 402), None, Verdict.OUR_KEY),
    _Rule(_ANY, range(403, 404), None, Verdict.OUR_KEY),
    _Rule(_ANY, range(407, 408), None, Verdict.OUR_KEY),
    _Rule(_ANY, range(400, 500), None, Verdict.CALLERS),
)


def judge(asked: Asked, status: int, internal_code: int | None) -> Verdict:
    """The verdict over an upstream answer; what no row knows (1xx, 5xx, 999) is the upstream's fault."""
    for rule in _TABLE:
        fits_code = rule.code is None or rule.code == internal_code
        if asked in rule.asked and fits_code and status in rule.statuses:
            return rule.verdict
    return Verdict.UPSTREAMS
