"""Step 1 of the road: from the Authorization field to claims.

    verify                          what was found good before; for all else
           → find → attempt         read, issuer, header, signature, claims; and again if newer keys came
           → judge                  time and revocation, on each use

Every rule about tokens is in this file; the rules about keys are in `keys` and `keysets`. PyJWT does the
arithmetic of signatures only: it takes tokens without `exp`, of any size and `typ`, and reads the clock.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from hashlib import sha256
from itertools import compress
from operator import is_
from sys import getsizeof, intern
from typing import Protocol

from gateway.core.access import Claims
from gateway.core.errors import Reason, Refusal
from gateway.core.shares import Shares
from gateway.identity.documents import read_base64url, read_object, size_of
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

#: For remembered tokens, unless told otherwise.
MEMORY_BYTES = 16 * 1024 * 1024
#: What a remembered token takes beside its claims: its name, the objects below, and its place in a share.
REMEMBERED_BYTES = 512
#: The place of a name among all that Python has interned.
INTERNED_BYTES = 96

#: In base64url: enough for the longest `kid`.
USUAL_HEADER_CHARACTERS = 512

#: When to try again where an issuer's keys could not be had: they are asked for all the while.
KEYS_RETRY_AFTER_S = 5.0

_SCHEME = b"Bearer "
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


@dataclass(frozen=True, slots=True, eq=False)
class _Vouched:
    """Who vouched for a token, and by which keys. Called, it tells whether the token stands.

    Every remembered token has one, so it is no closure: those take several times as much.
    """

    issuer: Issuer
    keys: KeySet
    trusted: Mapping[str, Issuer]
    revocations: Revocations
    jti: str | None
    sub: str | None

    def __call__(self) -> bool:
        return self.is_in_force() and not self.is_revoked()

    def is_in_force(self) -> bool:
        issuer = self.issuer
        return self.trusted.get(issuer.issuer) is issuer and issuer.keys.current is self.keys

    def is_revoked(self) -> bool:
        return self.revocations.is_revoked(self.issuer.issuer, self.jti, self.sub)


@dataclass(frozen=True, slots=True)
class _Verified(Claims):
    """A token that is good but for what is looked at on each use: time and revocation."""

    stands: _Vouched = field(compare=False, repr=False)
    valid_from: float = 0.0
    weight: int = field(default=0, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class _NoKey:
    """A token whose key is not in `keys`; its issuer's source may have newer ones."""

    fault: Fault
    source: KeySource
    keys: KeySet | None


class Verifier:
    """Tells claims from refusals. `wall` gives the epoch seconds that `exp`, `nbf` and `iat` are measured by.

    Tokens found good are remembered, whatever policies say, until their issuer or its key set is another
    object. Time and revocation are looked at on each use. Each `owner` of tokens has its share of
    `max_bytes`. `changed` is called in the step in which other issuers take over.
    """

    def __init__(
        self,
        issuers: Iterable[Issuer],
        wall: Callable[[], float],
        revocations: Revocations,
        failures: Failures,
        *,
        owner: Callable[[Claims], str] = lambda _: "-",
        max_bytes: int = MEMORY_BYTES,
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        self._wall = wall
        self._revocations = revocations
        self._failures = failures
        self._owner = owner
        self._changed = changed
        self._issuers = _by_name(issuers)
        self._memory: Shares[bytes, _Verified] = Shares(max_bytes)
        self._judged_by = self._key_sets()

    @property
    def weight(self) -> int:
        """How many bytes of its room are taken."""
        return self._memory.weight

    @property
    def remembered(self) -> int:
        """How many tokens are remembered."""
        return len(self._memory)

    @property
    def evictions(self) -> int:
        """How many tokens had to make room for others."""
        return self._memory.evictions

    def trust(self, issuers: Iterable[Issuer]) -> None:
        """From now on these are the issuers. What one vouched for that is gone or changed is dead at once.

        Raises ValueError when one is named twice.
        """
        named = _by_name(issuers)
        # The old object stays where nothing changed, and with it what was verified by it.
        kept = {
            name: old if (old := self._issuers.get(name)) == issuer else issuer
            for name, issuer in named.items()
        }
        if kept != self._issuers:
            # The mapping stays, as every remembered token looks into it.
            self._issuers.clear()
            self._issuers.update(kept)
            self._changed()

    async def verify(self, authorization: bytes | None, peer: str | None) -> Claims | Refusal:
        """The claims of the token in an Authorization field's value; `peer` is the address it came from.

        None is nobody, whose mistakes are not counted. Waits only for the keys of a token that no key at hand
        fits.
        """
        if authorization is None:
            return _refusal(Fault.MISSING)
        name = _name(authorization)
        remembered = self._memory.get(name)
        if remembered is not None and remembered.stands.is_in_force():
            # What costs no verification is free, or a client that polls on with a token that has expired
            # would keep out all others of its peer.
            outcome = self._judge(remembered)
            return outcome if isinstance(outcome, Claims) else _refusal(outcome)
        if remembered is None and (wait_s := self._wait_s(peer)) > 0:
            return Refusal(
                Reason.TOO_MANY_BAD_TOKENS, because=Reason.TOO_MANY_BAD_TOKENS.slug, retry_after_s=wait_s
            )
        found = await self._find(authorization, peer)
        self._remember(name, found)
        outcome = found if isinstance(found, Fault) else self._judge(found)
        if isinstance(outcome, Claims):
            return outcome
        # Keys that are not there are nothing the peer did; one that is unknown was charged for already.
        if outcome not in {Fault.KEYS_UNAVAILABLE, Fault.UNKNOWN_KEY}:
            self._charge(peer)
        return _refusal(outcome)

    def known(self, authorization: bytes) -> Claims | None:
        """What `verify` would say of a token that it has accepted before, and would again."""
        remembered = self._memory.get(_name(authorization))
        if remembered is None or not remembered.stands.is_in_force():
            return None
        outcome = self._judge(remembered)
        return outcome if isinstance(outcome, Claims) else None

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

    def _remember(self, name: bytes, found: _Verified | Fault) -> None:
        # Only those who can sign fill the memory.
        if isinstance(found, _Verified):
            self._memory.put(self._owner(found), name, found, found.weight)
        elif found is not Fault.KEYS_UNAVAILABLE:
            self._memory.pop(name)

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
        return fault or _claims_fault(token.payload, issuer) or self._accept(token.payload, issuer, keys)

    def _accept(self, payload: dict[str, object], issuer: Issuer, keys: KeySet) -> _Verified | Fault:
        expires = _time(payload.get("exp"))
        not_before = _time(payload.get("nbf", 0))
        issued = _time(payload.get("iat", 0))
        if expires is None or not_before is None or issued is None:
            return Fault.TIMES
        claims, size = _lean(payload, issuer)
        return _Verified(
            claims,
            expires + issuer.leeway_s,
            _Vouched(
                issuer,
                keys,
                self._issuers,
                self._revocations,
                _text(payload, "jti"),
                _text(payload, "sub"),
            ),
            None if issuer.client_claim is None else _text(payload, issuer.client_claim),
            max(not_before, issued - MAX_IAT_AHEAD_S) - issuer.leeway_s,
            REMEMBERED_BYTES + size,
        )

    def _judge(self, verified: _Verified) -> Claims | Fault:
        """What can change from one use to the next."""
        now = self._wall()
        if now >= verified.expires_at:
            return Fault.EXPIRED
        if now < verified.valid_from:
            return Fault.NOT_YET_VALID
        return Fault.REVOKED if verified.stands.is_revoked() else verified


def _lean(payload: dict[str, object], issuer: Issuer) -> tuple[dict[str, object], int]:
    """The same claims, and the bytes they take: what tokens say alike is held once for all of them."""
    claims = {intern(name): value for name, value in payload.items()}
    claims["iss"] = issuer.issuer
    if claims["aud"] == issuer.audience:
        claims["aud"] = issuer.audience
    size = getsizeof(claims) + size_of(claims.values())
    # Who brings a name that nobody has said so far pays for it.
    if brought := list(compress(payload, map(is_, payload, claims))):
        size += size_of(brought) + len(brought) * INTERNED_BYTES
    return claims, size


def _refusal(fault: Fault) -> Refusal:
    retry_after_s = KEYS_RETRY_AFTER_S if fault is Fault.KEYS_UNAVAILABLE else None
    return Refusal(fault.reason, because=fault.value, retry_after_s=retry_after_s)


def _name(authorization: bytes) -> bytes:
    """What a token is remembered by: a hash, since tokens are worth stealing, however Bearer is spelt."""
    if not authorization.startswith(_SCHEME) and _has_scheme(authorization):
        authorization = _SCHEME + authorization[len(_SCHEME) :]
    return sha256(authorization).digest()


def _has_scheme(authorization: bytes) -> bool:
    return authorization[: len(_SCHEME)].lower() == b"bearer "


def _by_name(issuers: Iterable[Issuer]) -> dict[str, Issuer]:
    named: dict[str, Issuer] = {}
    for issuer in issuers:
        if issuer.issuer in named:
            raise ValueError(f"issuers: expected each issuer once, got {issuer.issuer} twice")
        named[issuer.issuer] = issuer
    return named


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
    parts = authorization[len(_SCHEME) :].split(b".")
    if not _has_scheme(authorization) or len(parts) != 3 or not all(parts):
        return Fault.MALFORMED
    header, payload, signature = parts
    try:
        return _Token(
            _usual_header(header) if len(header) <= USUAL_HEADER_CHARACTERS else _header(header),
            read_object(read_base64url(payload)),
            header + b"." + payload,
            read_base64url(signature),
        )
    except ValueError:
        return Fault.MALFORMED


def _header(text: bytes) -> Mapping[str, object]:
    return read_object(read_base64url(text))


@lru_cache(maxsize=64)
def _usual_header(text: bytes) -> Mapping[str, object]:
    """The tokens of an issuer share a few headers. Long ones are not kept, as anybody can send them."""
    return _header(text)


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
    if type(value) is not int and type(value) is not float:
        return None
    return float(value) if 0 <= value <= MAX_TIME else None
