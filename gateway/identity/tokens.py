"""Step 1 of the road: from the Authorization field to claims.

Every rule about tokens is in this file; the rules about keys are in `keys` and `keysets`. PyJWT does the
arithmetic of signatures only: it takes tokens without `exp`, of any size and `typ`, and reads the clock.
"""

from __future__ import annotations

import enum
import hashlib
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Protocol

from cachetools import LRUCache

from gateway.core.access import Claims
from gateway.core.errors import Reason, Refusal
from gateway.identity.documents import read_base64url, read_object
from gateway.identity.keys import MAX_KID_CHARACTERS
from gateway.identity.keysets import KeySet

MAX_TOKEN_BYTES = 8192
MAX_SUBJECT_CHARACTERS = 1024
#: How far the clock of an issuer may be ahead in `iat`: refusing a token for being young guards nothing.
MAX_IAT_AHEAD_S = 60.0
#: The last second of the year 9999. A time after it is in milliseconds, or a mistake of another kind.
MAX_TIME = 253402300799

#: Remembered tokens, by number and by the sum of their lengths.
MEMORY_TOKENS = 10_000
MEMORY_BYTES = 16 * 1024 * 1024

_SCHEME = b"Bearer "
_BEARER = re.compile(rb"bearer ([\w-]+)\.([\w-]+)\.([\w-]+)", re.IGNORECASE | re.ASCII)
_TYPES = frozenset({"jwt", "at+jwt", "application/jwt", "application/at+jwt"})


class Fault(enum.Enum):
    """What is wrong with a token: a label for logs and metrics, which says nothing the token says."""

    MISSING = "missing"
    TOO_LONG = "too-long"
    MALFORMED = "malformed"
    ALGORITHM = "algorithm"
    TYPE = "type"
    CRITICAL = "critical"
    KEY_ID = "key-id"
    ISSUER = "issuer"
    UNKNOWN_KEY = "unknown-key"
    SIGNATURE = "signature"
    AUDIENCE = "audience"
    SUBJECT = "subject"
    TIMES = "times"
    NOT_YET_VALID = "not-yet-valid"
    EXPIRED = "expired"

    @property
    def reason(self) -> Reason:
        return _REASONS.get(self, Reason.TOKEN_INVALID)


_REASONS = {Fault.MISSING: Reason.TOKEN_MISSING, Fault.EXPIRED: Reason.TOKEN_EXPIRED}


class KeySource(Protocol):
    """Where the keys of an issuer come from. `current` is another object as soon as they changed."""

    @property
    def current(self) -> KeySet: ...


@dataclass(frozen=True, slots=True)
class Issuer:
    """One who may sign tokens, for one audience. `leeway_s` is how far the clocks may differ."""

    issuer: str
    audience: str
    algorithms: frozenset[str]
    keys: KeySource
    leeway_s: float = 0.0


@dataclass(frozen=True, slots=True)
class _Verified:
    """A token that is good in all but time, which is looked at on each use."""

    claims: Claims
    valid_from: float
    issuer: Issuer
    keys: KeySet
    size: int

    def at(self, now: float) -> Claims | Fault:
        if now >= self.claims.expires_at:
            return Fault.EXPIRED
        return Fault.NOT_YET_VALID if now < self.valid_from else self.claims


class Verifier:
    """Tells claims from refusals. `wall` gives the epoch seconds that `exp`, `nbf` and `iat` are measured by.

    Tokens found good are remembered until the issuer's key set is another object; time is looked at on
    each use.
    """

    def __init__(self, issuers: Iterable[Issuer], wall: Callable[[], float]) -> None:
        self._issuers = _by_name(issuers)
        self._wall = wall
        self._memory: LRUCache[bytes, _Verified] = LRUCache(MEMORY_BYTES, _memory_size)

    async def verify(self, authorization: bytes | None) -> Claims | Refusal:
        """The claims of the token in an Authorization field's value."""
        outcome = self.examine(authorization)
        if isinstance(outcome, Claims):
            return outcome
        return Refusal(outcome.reason, because=outcome.value)

    def examine(self, authorization: bytes | None) -> Claims | Fault:
        """Like `verify`, with the exact fault, and at once."""
        if authorization is None:
            return Fault.MISSING
        if len(authorization) > len(_SCHEME) + MAX_TOKEN_BYTES:
            return Fault.TOO_LONG
        verified = self._remembered(authorization)
        return verified if isinstance(verified, Fault) else verified.at(self._wall())

    def _remembered(self, authorization: bytes) -> _Verified | Fault:
        # Only those who can sign fill the memory; and it holds hashes, since tokens are worth stealing.
        name = hashlib.sha256(authorization).digest()
        remembered = self._memory.get(name)
        if remembered is not None and remembered.keys is remembered.issuer.keys.current:
            return remembered
        outcome = _verify(authorization, self._issuers)
        if isinstance(outcome, _Verified):
            self._memory[name] = outcome
        else:
            self._memory.pop(name, None)
        return outcome


def _by_name(issuers: Iterable[Issuer]) -> Mapping[str, Issuer]:
    named: dict[str, Issuer] = {}
    for issuer in issuers:
        if issuer.issuer in named:
            raise ValueError(f"issuers: expected each issuer once, got {issuer.issuer} twice")
        named[issuer.issuer] = issuer
    return named


def _memory_size(verified: _Verified) -> int:
    # With a least size for each, one bound holds both the number and the bytes.
    return max(verified.size, MEMORY_BYTES // MEMORY_TOKENS)


@dataclass(frozen=True, slots=True)
class _Token:
    header: Mapping[str, object]
    payload: dict[str, object]
    signed: bytes
    signature: bytes


def _verify(authorization: bytes, issuers: Mapping[str, Issuer]) -> _Verified | Fault:
    """All but the comparison with the clock."""
    token = _read(authorization)
    if token is None:
        return Fault.MALFORMED
    name = token.payload.get("iss")
    issuer = issuers.get(name) if isinstance(name, str) else None
    if issuer is None:
        return Fault.ISSUER
    keys = issuer.keys.current
    fault = (
        _header_fault(token.header, issuer)
        or _signature_fault(token, keys)
        or _claims_fault(token.payload, issuer)
    )
    return fault or _accept(token.payload, issuer, keys, len(authorization))


def _read(authorization: bytes) -> _Token | None:
    """The parts of a JWS in its compact form (RFC 7515 §7.1); None for all else, a JWE included."""
    match = _BEARER.fullmatch(authorization)
    if match is None:
        return None
    header, payload, signature = match.groups()
    try:
        return _Token(
            read_object(read_base64url(header)),
            read_object(read_base64url(payload)),
            header + b"." + payload,
            read_base64url(signature),
        )
    except ValueError:
        return None


def _header_fault(header: Mapping[str, object], issuer: Issuer) -> Fault | None:
    """Keys that a header brings or points to (jwk, jku, x5c, x5u) are not looked at."""
    algorithm, kind, kid = header.get("alg"), header.get("typ", "JWT"), header.get("kid", "")
    if not isinstance(algorithm, str) or algorithm not in issuer.algorithms:
        return Fault.ALGORITHM
    if not isinstance(kind, str) or kind.lower() not in _TYPES:
        return Fault.TYPE
    if "crit" in header or "b64" in header:
        # No extension is understood here, so RFC 7515 §4.1.11 has all that must be refused.
        return Fault.CRITICAL
    return None if isinstance(kid, str) and len(kid) <= MAX_KID_CHARACTERS else Fault.KEY_ID


def _signature_fault(token: _Token, keys: KeySet) -> Fault | None:
    algorithm, kid = str(token.header["alg"]), token.header.get("kid")
    key = keys.find(None if kid is None else str(kid), algorithm)
    if key is None:
        return Fault.UNKNOWN_KEY
    return None if key.verifies(algorithm, token.signed, token.signature) else Fault.SIGNATURE


def _claims_fault(payload: Mapping[str, object], issuer: Issuer) -> Fault | None:
    audience, subject = payload.get("aud"), payload.get("sub", "")
    audiences = audience if isinstance(audience, list) else [audience]
    if issuer.audience not in audiences or not all(isinstance(name, str) for name in audiences):
        return Fault.AUDIENCE
    return None if isinstance(subject, str) and len(subject) <= MAX_SUBJECT_CHARACTERS else Fault.SUBJECT


def _accept(payload: dict[str, object], issuer: Issuer, keys: KeySet, size: int) -> _Verified | Fault:
    expires = _time(payload.get("exp"))
    not_before = _time(payload.get("nbf", 0))
    issued = _time(payload.get("iat", 0))
    if expires is None or not_before is None or issued is None:
        return Fault.TIMES
    claims = Claims(MappingProxyType(payload), expires + issuer.leeway_s, lambda: issuer.keys.current is keys)
    valid_from = max(not_before, issued - MAX_IAT_AHEAD_S) - issuer.leeway_s
    return _Verified(claims, valid_from, issuer, keys, size)


def _time(value: object) -> float | None:
    """A NumericDate (RFC 7519 §2). A bool is a number in Python only."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    return float(value) if 0 <= value <= MAX_TIME else None
