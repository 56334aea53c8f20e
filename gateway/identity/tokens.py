"""Step 1 of the road: from the Authorization field to claims.

    verify → recall                 what was found good before
           → find → attempt         read, issuer, header, signature, claims; and again if newer keys came
           → judge                  time and revocation, on each use

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
from gateway.identity.failures import Failures
from gateway.identity.keys import MAX_KID_CHARACTERS
from gateway.identity.keysets import KeySet

MAX_TOKEN_BYTES = 8192
#: Of `sub`, of `jti`, and of whatever names them in a revocation.
MAX_NAME_CHARACTERS = 1024
MAX_CLIENT_CHARACTERS = 128
#: How far the clock of an issuer may be ahead in `iat`: refusing a token for being young guards nothing.
MAX_IAT_AHEAD_S = 60.0
#: The last second of the year 9999. A time after it is in milliseconds, or a mistake of another kind.
MAX_TIME = 253402300799

#: Remembered tokens, by number and by the sum of their lengths.
MEMORY_TOKENS = 10_000
MEMORY_BYTES = 16 * 1024 * 1024

#: When to try again where an issuer's keys could not be had: they are asked for all the while.
KEYS_RETRY_AFTER_S = 5.0

_SCHEME = b"Bearer "
_BEARER = re.compile(rb"bearer ([\w-]+)\.([\w-]+)\.([\w-]+)", re.IGNORECASE | re.ASCII)
_MEDIA_TYPE = "application/"  # RFC 7515 §4.1.9: it may be left out
_ANY_TYPE = frozenset({"jwt", "at+jwt"})


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
    KEYS_UNAVAILABLE = "keys-unavailable"
    UNKNOWN_KEY = "unknown-key"
    SIGNATURE = "signature"
    AUDIENCE = "audience"
    SUBJECT = "subject"
    JTI = "jti"
    CLIENT = "client"
    TIMES = "times"
    NOT_YET_VALID = "not-yet-valid"
    EXPIRED = "expired"
    REVOKED = "revoked"

    @property
    def reason(self) -> Reason:
        return _REASONS.get(self, Reason.TOKEN_INVALID)


_REASONS = {
    Fault.MISSING: Reason.TOKEN_MISSING,
    Fault.KEYS_UNAVAILABLE: Reason.KEYS_UNAVAILABLE,
    Fault.EXPIRED: Reason.TOKEN_EXPIRED,
    Fault.REVOKED: Reason.TOKEN_REVOKED,
}


class KeySource(Protocol):
    """Where the keys of an issuer come from."""

    @property
    def current(self) -> KeySet | None:
        """Another object as soon as the keys changed; None while none are to be had."""

    async def renew(self) -> None:
        """A token needs a key that is not in `current`: look again, if that may be done now. Never raises."""


class Revocations(Protocol):
    """Which tokens somebody has revoked. Asked at each use of a token, so it has to be quick."""

    def is_revoked(self, issuer: str, jti: str | None, sub: str | None) -> bool: ...


@dataclass(frozen=True, slots=True)
class Issuer:
    """One who may sign tokens, for one audience. `leeway_s` is how far the clocks may differ.

    `token_type` is the only `typ` that is taken, such as `at+jwt` (RFC 9068 §4). `client_claim` names the
    claim that says which client the token is for.
    """

    issuer: str
    audience: str
    algorithms: frozenset[str]
    keys: KeySource
    leeway_s: float = 0.0
    token_type: str | None = None
    client_claim: str | None = None


@dataclass(frozen=True, slots=True)
class _Verified:
    """A token that is good but for what is looked at on each use: time and revocation."""

    claims: Claims
    valid_from: float
    issuer: Issuer
    keys: KeySet
    size: int
    is_revoked: Callable[[], bool]


@dataclass(frozen=True, slots=True)
class _NoKey:
    """A token whose key is not in `keys`; its issuer's source may have newer ones."""

    fault: Fault
    source: KeySource
    keys: KeySet | None


class Verifier:
    """Tells claims from refusals. `wall` gives the epoch seconds that `exp`, `nbf` and `iat` are measured by.

    Tokens found good are remembered, whatever policies say, until their issuer or its key set is another
    object. Time and revocation are looked at on each use.
    """

    def __init__(
        self,
        issuers: Iterable[Issuer],
        wall: Callable[[], float],
        revocations: Revocations,
        failures: Failures,
    ) -> None:
        self._wall = wall
        self._revocations = revocations
        self._failures = failures
        self._issuers: Mapping[str, Issuer] = {}
        self._memory: LRUCache[bytes, _Verified] = LRUCache(MEMORY_BYTES, _memory_size)
        self.trust(issuers)
        self._judged_by = self._key_sets()

    def trust(self, issuers: Iterable[Issuer]) -> None:
        """From now on these are the issuers. What one vouched for that is gone or changed is dead at once.

        Raises ValueError when one is named twice.
        """
        named = _by_name(issuers)
        # The old object stays where nothing changed, and with it what was verified by it.
        self._issuers = {
            name: old if (old := self._issuers.get(name)) == issuer else issuer
            for name, issuer in named.items()
        }

    async def verify(self, authorization: bytes | None, peer: str | None) -> Claims | Refusal:
        """The claims of the token in an Authorization field's value; `peer` is the address it came from.

        None is nobody, whose mistakes are not counted. Waits only for the keys of a token that no key at hand
        fits.
        """
        if authorization is None:
            return _refusal(Fault.MISSING)
        name = _name(authorization)
        if name not in self._memory and (wait_s := self._wait_s(peer)) > 0:
            return Refusal(
                Reason.TOO_MANY_BAD_TOKENS, because=Reason.TOO_MANY_BAD_TOKENS.slug, retry_after_s=wait_s
            )
        recalled = self._recall(name)
        outcome = self._judge(recalled or self._remember(name, await self._find(authorization, peer)))
        if isinstance(outcome, Claims):
            return outcome
        # What costs no verification is free, or a client that polls on with a token that has expired would
        # keep out all others of its peer. And keys that are not there are nothing the peer did.
        if recalled is None and outcome not in {Fault.KEYS_UNAVAILABLE, Fault.UNKNOWN_KEY}:
            self._charge(peer)
        return _refusal(outcome)

    def _wait_s(self, peer: str | None) -> float:
        wait_s = 0.0 if peer is None else self._failures.wait_s(peer)
        if wait_s > 0 and (key_sets := self._key_sets()) != self._judged_by:
            # Tokens signed with a new key are wrong until that key is here, and who sent them did nothing
            # wrong. Nobody but an issuer can bring this about, so it is no way around the limit.
            self._judged_by = key_sets
            self._failures.forgive()
            return 0.0
        return wait_s

    def _key_sets(self) -> list[KeySet | None]:
        return [issuer.keys.current for issuer in self._issuers.values()]

    def _recall(self, name: bytes) -> _Verified | None:
        remembered = self._memory.get(name)
        if remembered is None or not self._vouches(remembered.issuer, remembered.keys):
            return None
        return remembered

    def _vouches(self, issuer: Issuer, keys: KeySet) -> bool:
        return self._issuers.get(issuer.issuer) is issuer and issuer.keys.current is keys

    def _remember(self, name: bytes, found: _Verified | Fault) -> _Verified | Fault:
        # Only those who can sign fill the memory.
        if isinstance(found, _Verified):
            self._memory[name] = found
        elif found is not Fault.KEYS_UNAVAILABLE:
            self._memory.pop(name, None)
        return found

    def _charge(self, peer: str | None) -> None:
        if peer is not None:
            self._failures.charge(peer)

    async def _find(self, authorization: bytes, peer: str | None) -> _Verified | Fault:
        found = self._attempt(authorization)
        if isinstance(found, _NoKey):
            if found.fault is Fault.UNKNOWN_KEY:
                # Before the wait, or all that the peer sends meanwhile would be looked at. Where the wait was
                # worth it, there are new keys, and they forgive.
                self._charge(peer)
            await found.source.renew()
            if found.source.current is not found.keys:
                found = self._attempt(authorization)
        return found.fault if isinstance(found, _NoKey) else found

    def _attempt(self, authorization: bytes) -> _Verified | _NoKey | Fault:
        """All that can be said for good while issuer and keys stay the same."""
        token = _read(authorization)
        if isinstance(token, Fault):
            return token
        name = token.payload.get("iss")
        issuer = self._issuers.get(name) if isinstance(name, str) else None
        if issuer is None:
            return Fault.ISSUER
        fault = _header_fault(token.header, issuer)
        if fault is not None:
            return fault
        keys = issuer.keys.current
        if keys is None:
            return _NoKey(Fault.KEYS_UNAVAILABLE, issuer.keys, None)
        fault = _signature_fault(token, keys)
        if fault is Fault.UNKNOWN_KEY:
            return _NoKey(fault, issuer.keys, keys)
        return (
            fault
            or _claims_fault(token.payload, issuer)
            or self._accept(token.payload, issuer, keys, len(authorization))
        )

    def _accept(
        self, payload: dict[str, object], issuer: Issuer, keys: KeySet, size: int
    ) -> _Verified | Fault:
        expires = _time(payload.get("exp"))
        not_before = _time(payload.get("nbf", 0))
        issued = _time(payload.get("iat", 0))
        if expires is None or not_before is None or issued is None:
            return Fault.TIMES
        revocations, jti, sub = self._revocations, _text(payload, "jti"), _text(payload, "sub")

        def is_revoked() -> bool:
            return revocations.is_revoked(issuer.issuer, jti, sub)

        claims = Claims(
            MappingProxyType(payload),
            expires + issuer.leeway_s,
            lambda: self._vouches(issuer, keys) and not is_revoked(),
            None if issuer.client_claim is None else _text(payload, issuer.client_claim),
        )
        valid_from = max(not_before, issued - MAX_IAT_AHEAD_S) - issuer.leeway_s
        return _Verified(claims, valid_from, issuer, keys, size, is_revoked)

    def _judge(self, found: _Verified | Fault) -> Claims | Fault:
        """What can change from one use to the next."""
        if isinstance(found, Fault):
            return found
        now = self._wall()
        if now >= found.claims.expires_at:
            return Fault.EXPIRED
        if now < found.valid_from:
            return Fault.NOT_YET_VALID
        return Fault.REVOKED if found.is_revoked() else found.claims


def _refusal(fault: Fault) -> Refusal:
    retry_after_s = KEYS_RETRY_AFTER_S if fault is Fault.KEYS_UNAVAILABLE else None
    return Refusal(fault.reason, because=fault.value, retry_after_s=retry_after_s)


def _name(authorization: bytes) -> bytes:
    """What a token is remembered by: a hash, since tokens are worth stealing, however Bearer is spelt."""
    scheme, _, token = authorization.partition(b" ")
    return hashlib.sha256(b"bearer " + token if scheme.lower() == b"bearer" else authorization).digest()


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


def _read(authorization: bytes) -> _Token | Fault:
    """The parts of a JWS in its compact form (RFC 7515 §7.1); a fault for all else, a JWE included."""
    if len(authorization) > len(_SCHEME) + MAX_TOKEN_BYTES:
        return Fault.TOO_LONG
    match = _BEARER.fullmatch(authorization)
    if match is None:
        return Fault.MALFORMED
    header, payload, signature = match.groups()
    try:
        return _Token(
            read_object(read_base64url(header)),
            read_object(read_base64url(payload)),
            header + b"." + payload,
            read_base64url(signature),
        )
    except ValueError:
        return Fault.MALFORMED


def _header_fault(header: Mapping[str, object], issuer: Issuer) -> Fault | None:
    """Keys that a header brings or points to (jwk, jku, x5c, x5u) are not looked at."""
    algorithm, kind, kid = header.get("alg"), header.get("typ", "JWT"), header.get("kid", "")
    if not isinstance(algorithm, str) or algorithm not in issuer.algorithms:
        return Fault.ALGORITHM
    if not isinstance(kind, str) or not _is_type(kind.lower(), issuer.token_type):
        return Fault.TYPE
    if "crit" in header or "b64" in header:
        # No extension is understood here, so RFC 7515 §4.1.11 has all that must be refused.
        return Fault.CRITICAL
    return None if isinstance(kid, str) and len(kid) <= MAX_KID_CHARACTERS else Fault.KEY_ID


def _is_type(kind: str, required: str | None) -> bool:
    bare = kind.removeprefix(_MEDIA_TYPE)
    return bare in _ANY_TYPE if required is None else bare == required


def _signature_fault(token: _Token, keys: KeySet) -> Fault | None:
    algorithm, kid = str(token.header["alg"]), token.header.get("kid")
    key = keys.find(None if kid is None else str(kid), algorithm)
    if key is None:
        return Fault.UNKNOWN_KEY
    return None if key.verifies(algorithm, token.signed, token.signature) else Fault.SIGNATURE


def _claims_fault(payload: Mapping[str, object], issuer: Issuer) -> Fault | None:
    audience, client = payload.get("aud"), issuer.client_claim
    audiences = audience if isinstance(audience, list) else [audience]
    if issuer.audience not in audiences or not all(isinstance(name, str) for name in audiences):
        return Fault.AUDIENCE
    # What could not be named in a revocation is not taken.
    if not _is_text(payload.get("sub", ""), 0, MAX_NAME_CHARACTERS):
        return Fault.SUBJECT
    if not _is_text(payload.get("jti", ""), 0, MAX_NAME_CHARACTERS):
        return Fault.JTI
    if client is not None and not _is_text(payload.get(client), 1, MAX_CLIENT_CHARACTERS):
        return Fault.CLIENT
    return None


def _is_text(value: object, least: int, most: int) -> bool:
    return isinstance(value, str) and least <= len(value) <= most


def _text(payload: Mapping[str, object], name: str) -> str | None:
    value = payload.get(name)
    return value if isinstance(value, str) else None


def _time(value: object) -> float | None:
    """A NumericDate (RFC 7519 §2). A bool is a number in Python only."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    return float(value) if 0 <= value <= MAX_TIME else None
