"""Two issuers, their keys, a verifier and hands on its clock."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jwt

from gateway.core.access import Claims
from gateway.core.errors import Refusal
from gateway.core.limits import Rate
from gateway.identity.development import kid_of
from gateway.identity.documents import write_base64url
from gateway.identity.failures import Failures
from gateway.identity.keys import ALGORITHMS
from gateway.identity.keysets import KeySet
from gateway.identity.revocations import Revocations
from gateway.identity.tokens import Fault, Issuer, Verifier

GetPair = Callable[..., tuple[bytes, bytes]]

NOW = 1_800_000_000.0
SECRET = b"0123456789abcdef0123456789abcdef"
CLAIMS: dict[str, Any] = {"iss": "https://a.example", "aud": "gateway", "sub": "bff", "exp": NOW + 60}
PEER = "192.0.2.1"


@dataclass
class Keys:
    """A source of keys; `coming` is what the next renewal brings."""

    current: KeySet | None
    coming: KeySet | None = None
    renewals: int = 0

    async def renew(self) -> None:
        self.renewals += 1
        if self.coming is not None:
            self.current = self.coming


@dataclass
class Clock:
    now: float = NOW

    def __call__(self) -> float:
        return self.now


def verifier(
    *issuers: Issuer,
    clock: Clock | None = None,
    revocations: Revocations | None = None,
    rate: Rate | None = None,
    **settings: Any,
) -> Verifier:
    """One whose peers may get as many wrong as they like, unless told otherwise."""
    clock = clock or Clock()
    rate = rate or Rate(1000.0, 1_000_000)
    return Verifier(
        issuers,
        clock,
        revocations or Revocations(None, None, clock),
        Failures(lambda: rate, clock),
        **settings,
    )


def examine(verifier: Verifier, authorization: bytes | None) -> Claims | Fault:
    """The claims, or the exact fault."""
    outcome = asyncio.run(verifier.verify(authorization, PEER))
    return outcome if isinstance(outcome, Claims) else Fault(outcome.because)


@dataclass
class World:
    """Two issuers; A signs with ES256 and RS256, B with ES256, and lists HS256 as A does, in vain."""

    a: Keys
    b: Keys
    private: bytes
    clock: Clock = field(default_factory=Clock)
    leeway_s: float = 0.0

    def __post_init__(self) -> None:
        listed = ALGORITHMS
        self.issuers = [
            Issuer("https://a.example", "gateway", listed, self.a, self.leeway_s),
            Issuer("https://b.example", "gateway", listed, self.b),
            Issuer("https://narrow.example", "gateway", frozenset({"RS256"}), self.a),
            Issuer("https://typed.example", "gateway", listed, self.a, token_type="at+jwt"),
            Issuer("https://names.example", "gateway", listed, self.a, client_claim="client_id"),
        ]
        self.verifier = verifier(*self.issuers, clock=self.clock)

    def token(self, changes: dict[str, Any] | None = None, **header: object) -> bytes:
        """A token of A with claims and header fields changed, or left out for None."""
        payload = {name: value for name, value in (CLAIMS | (changes or {})).items() if value is not None}
        fields = {"alg": "ES256", "typ": "JWT", "kid": kid_of(self.private)} | header
        return self.sign(json.dumps({k: v for k, v in fields.items() if v is not None}), json.dumps(payload))

    def sign(self, header: str | bytes, payload: str | bytes) -> bytes:
        """A truly signed token, whatever its parts say."""
        parts = [
            write_base64url(part.encode() if isinstance(part, str) else part) for part in (header, payload)
        ]
        return b"Bearer " + seal(b".".join(parts), self.private)

    def see(self, authorization: bytes | None) -> Claims | Fault:
        return examine(self.verifier, authorization)

    def ask(self, authorization: bytes | None, peer: str = PEER) -> Claims | Refusal:
        return asyncio.run(self.verifier.verify(authorization, peer))


def seal(signed: bytes, private: bytes, algorithm: str = "ES256") -> bytes:
    signer = jwt.get_algorithm_by_name(algorithm)
    return signed + b"." + write_base64url(signer.sign(signed, signer.prepare_key(private)))
