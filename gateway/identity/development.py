"""Keys and tokens for development and the demo. Nothing here has a part in serving clients."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from gateway.identity.documents import read_base64url, read_object, write_base64url
from gateway.identity.keys import (
    ALGORITHMS,
    CURVES,
    EDWARDS_ALGORITHMS,
    HMAC_ALGORITHMS,
    MIN_RSA_BITS,
    MIN_RSA_EXPONENT,
    RSA_ALGORITHMS,
)
from gateway.identity.keysets import parse_secret, strip_newline
from gateway.identity.tokens import MAX_TOKEN_BYTES

PRIVATE_NAME = "private.pem"
PUBLIC_NAME = "jwks.json"

_PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey

_MAKERS: Mapping[str, Callable[[], _PrivateKey]] = {
    **dict.fromkeys(RSA_ALGORITHMS, partial(rsa.generate_private_key, MIN_RSA_EXPONENT, MIN_RSA_BITS)),
    **{algorithm: partial(ec.generate_private_key, curve) for curve, algorithm in CURVES.values()},
    **dict.fromkeys(EDWARDS_ALGORITHMS, ed25519.Ed25519PrivateKey.generate),
}

#: What of a JWK its thumbprint covers (RFC 7638 §3.2, RFC 8037 §2).
_THUMBPRINT_MEMBERS = ("crv", "e", "kty", "n", "x", "y")


def new_key(algorithm: str) -> tuple[bytes, bytes]:
    """A new key pair, as (private PEM, public JWKS); its kid is its thumbprint. Raises ValueError."""
    if algorithm not in _MAKERS:
        raise ValueError(f"algorithm: expected one of {', '.join(sorted(_MAKERS))}, got {algorithm}")
    private = _MAKERS[algorithm]()
    pem = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    members = _public_members(private)
    jwk = {**members, "kid": _thumbprint(members), "use": "sig", "alg": algorithm}
    return pem, json.dumps({"keys": [jwk]}, indent=2).encode() + b"\n"


def write_key_pair(folder: Path, algorithm: str) -> tuple[Path, Path]:
    """Writes a new pair as (private.pem, jwks.json), the private file for its owner's eyes only.

    Raises FileExistsError rather than overwrite.
    """
    private, public = folder / PRIVATE_NAME, folder / PUBLIC_NAME
    for path in (private, public):
        if path.exists():
            raise FileExistsError(f"{path}: expected no such file, got one")
    pem, jwks = new_key(algorithm)
    _write_new(private, pem, 0o600)
    _write_new(public, jwks, 0o644)
    return private, public


def _write_new(path: Path, data: bytes, mode: int) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        file.write(data)


def kid_of(private_pem: bytes) -> str:
    """The kid that `new_key` gave this key: its thumbprint (RFC 7638). Raises ValueError."""
    return _thumbprint(_public_members(_load(private_pem)))


def mint(key: bytes, algorithm: str, kid: str | None, claims: Mapping[str, object]) -> str:
    """A signed token. `key` is a private PEM or, for HS256, a secret. Raises ValueError."""
    material = _signing_secret(key) if algorithm in HMAC_ALGORITHMS else _signing_key(key, algorithm)
    try:
        return jwt.encode(dict(claims), material, algorithm, headers={"kid": kid} if kid else None)
    except (jwt.PyJWTError, TypeError) as error:
        raise ValueError(f"claims: expected such as JSON can say, got: {error}") from None


def _signing_secret(key: bytes) -> bytes:
    parse_secret(key)
    return strip_newline(key)


def _signing_key(private_pem: bytes, algorithm: str) -> _PrivateKey:
    key = _load(private_pem)
    expected, got = _kind_for(algorithm), _kind_of(key)
    if got != expected:
        raise ValueError(f"key: expected {expected}, as the algorithm is {algorithm}, got {got}")
    return key


def _kind_for(algorithm: str) -> str:
    if algorithm in RSA_ALGORITHMS:
        return "an RSA key"
    if algorithm in EDWARDS_ALGORITHMS:
        return "an Ed25519 key"
    for name, (_, its_algorithm) in CURVES.items():
        if its_algorithm == algorithm:
            return f"an EC {name} key"
    raise ValueError(f"algorithm: expected one of {', '.join(sorted(ALGORITHMS))}, got {algorithm}")


def _kind_of(key: _PrivateKey) -> str:
    match key:
        case rsa.RSAPrivateKey():
            return "an RSA key"
        case ed25519.Ed25519PrivateKey():
            return "an Ed25519 key"
        case ec.EllipticCurvePrivateKey():
            curves = (name for name, (curve, _) in CURVES.items() if curve.name == key.curve.name)
            return f"an EC {next(curves, key.curve.name)} key"


@dataclass(frozen=True, slots=True)
class Unverified:
    """What a token claims. Nothing vouches for it. A part that cannot be read is None, and has a fault."""

    header: Mapping[str, object] | None
    claims: Mapping[str, object] | None
    faults: tuple[str, ...]

    def __str__(self) -> str:
        named = (("header", self.header), ("claims", self.claims))
        parts = [f"{name}: {json.dumps(part, indent=2)}" for name, part in named if part is not None]
        faults = [f"fault: {fault}" for fault in self.faults]
        return "\n".join(["NOT VERIFIED: anyone can write this.", *parts, *faults])


def inspect(token: str) -> Unverified:
    """Reads a token without verifying it. Never raises."""
    parts = token.strip().split(".")
    if len(token) > MAX_TOKEN_BYTES:
        return Unverified(
            None, None, (f"token: expected at most {MAX_TOKEN_BYTES} characters, got {len(token)}",)
        )
    if len(parts) != 3:
        return Unverified(None, None, (f"token: expected three parts with dots between, got {len(parts)}",))
    faults: list[str] = []
    header, claims = (
        _inspect_part(name, part, faults) for name, part in zip(("header", "claims"), parts, strict=False)
    )
    return Unverified(header, claims, tuple(faults))


def _inspect_part(name: str, part: str, faults: list[str]) -> Mapping[str, object] | None:
    try:
        return read_object(read_base64url(part.encode()))
    except ValueError as error:
        faults.append(f"{name}: {error}")
        return None


@lru_cache(maxsize=8)  # an RSA key is proven prime again at each loading
def _load(private_pem: bytes) -> _PrivateKey:
    try:
        key = load_pem_private_key(private_pem, None)
    except (ValueError, TypeError):  # TypeError: it wants a password
        raise ValueError(
            "key: expected a private key in PEM, without a password, got something else"
        ) from None
    if not isinstance(key, _PrivateKey):
        raise ValueError(f"key: expected an RSA, EC or Ed25519 key, got {type(key).__name__}")  # noqa: TRY004 - the text is at fault
    return key


def _public_members(private: _PrivateKey) -> dict[str, str]:
    algorithm = next(name for kind, name in _WRITERS if isinstance(private, kind))
    jwk = jwt.get_algorithm_by_name(algorithm).to_jwk(private.public_key(), as_dict=True)
    return {name: jwk[name] for name in _THUMBPRINT_MEMBERS if name in jwk}


#: Kind of key → any PyJWT algorithm that writes such a key as a JWK.
_WRITERS = (
    (rsa.RSAPrivateKey, "RS256"),
    (ec.EllipticCurvePrivateKey, "ES256"),
    (ed25519.Ed25519PrivateKey, "EdDSA"),
)


def _thumbprint(members: Mapping[str, str]) -> str:
    canonical = json.dumps(members, sort_keys=True, separators=(",", ":"))
    return write_base64url(hashlib.sha256(canonical.encode()).digest()).decode()
