"""What one key must be before it may vouch for a token.

Every rule about a single key is in this file; how keys get along in a set is `keysets`.
A key that breaks a rule is answered with all its faults, as sentences.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import (
    SECP256R1,
    SECP384R1,
    SECP521R1,
    EllipticCurve,
    EllipticCurvePublicKey,
    EllipticCurvePublicNumbers,
)
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey, RSAPublicNumbers
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from cryptography.x509 import InvalidVersion, load_pem_x509_certificate
from jwt import get_algorithm_by_name

from gateway.identity.documents import read_base64url, type_name

HMAC_ALGORITHMS = frozenset({"HS256"})
RSA_ALGORITHMS = frozenset({"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"})
EDWARDS_ALGORITHMS = frozenset({"EdDSA"})
#: Curve → the one algorithm it is for (RFC 7518 §3.4).
CURVES: Mapping[str, tuple[EllipticCurve, str]] = {
    "P-256": (SECP256R1(), "ES256"),
    "P-384": (SECP384R1(), "ES384"),
    "P-521": (SECP521R1(), "ES512"),
}
#: Every algorithm an issuer may list.
ALGORITHMS = HMAC_ALGORITHMS | RSA_ALGORITHMS | EDWARDS_ALGORITHMS | {name for _, name in CURVES.values()}

MAX_KID_CHARACTERS = 256
MIN_SECRET_BYTES = 32  # RFC 7518 §3.2: no shorter than the hash
MIN_RSA_BITS = 2048  # RFC 7518 §3.3
MAX_RSA_BITS = 16384  # OpenSSL verifies no larger ones
MIN_RSA_EXPONENT = 65537  # FIPS 186-5 §5.4
MAX_RSA_EXPONENT_BITS = 64  # OpenSSL's bound for a modulus of more than 3072 bits

_VERIFIERS = {name: get_algorithm_by_name(name) for name in ALGORITHMS}
_PRIVATE_MEMBERS = ("d", "p", "q", "dp", "dq", "qi", "oth")

Faults = tuple[str, ...]
_Material = RSAPublicKey | EllipticCurvePublicKey | Ed25519PublicKey | bytes


@dataclass(frozen=True, slots=True, eq=False)
class Key:
    """A fit key and the algorithms it may be used with. It may be a secret, so it never shows itself."""

    kid: str | None
    algorithms: frozenset[str]
    _material: _Material = field(repr=False)

    @property
    def symmetric(self) -> bool:
        return isinstance(self._material, bytes)

    def verifies(self, algorithm: str, message: bytes, signature: bytes) -> bool:
        """Whether `signature` is this key's. Never true for an algorithm that is not its own."""
        return algorithm in self.algorithms and _VERIFIERS[algorithm].verify(
            message, self._material, signature
        )


def key_from_jwk(jwk: object, listed: frozenset[str]) -> Key | Faults:
    """The key that a JWK (RFC 7517 §4) holds, for an issuer that lists these algorithms."""
    if not isinstance(jwk, dict):
        return (f"expected an object, got {type_name(jwk)}",)
    faults = tuple(_label_faults(jwk))
    try:
        material = _material_of_jwk(jwk)
        algorithms = _usable(_algorithms_for(material), jwk, listed)
    except (ValueError, UnsupportedAlgorithm) as error:
        return (*faults, str(error))
    return faults or Key(jwk.get("kid"), algorithms, material)


def key_from_pem(label: str, block: bytes, listed: frozenset[str]) -> Key | Faults:
    """The key in one PEM block. Of a certificate only the key counts: neither its dates nor its signer."""
    if label.endswith("PRIVATE KEY"):
        return ("expected public keys only, got a private key, which belongs where tokens are signed",)
    try:
        material = _material_of_pem(label, block)
        return Key(None, _usable(_algorithms_for(material), {}, listed), material)
    except (ValueError, UnsupportedAlgorithm) as error:
        return (str(error),)


def key_from_secret(secret: bytes) -> Key | Faults:
    """The key of an HS256 secret."""
    try:
        return Key(None, _algorithms_for(secret), secret)
    except ValueError as error:
        return (str(error),)


# Rules for every key, wherever it was found. Those below raise ValueError with the fault.


def _algorithms_for(material: _Material) -> frozenset[str]:
    """What material is good for, if it is good at all."""
    match material:
        case bytes():
            _check_secret(material)
            return HMAC_ALGORITHMS
        case RSAPublicKey():
            _check_rsa(material.public_numbers())
            return RSA_ALGORITHMS
        case EllipticCurvePublicKey():
            return _algorithms_of_curve(material.curve.name)
        case Ed25519PublicKey():
            return EDWARDS_ALGORITHMS


def _check_secret(secret: bytes) -> None:
    if len(secret) < MIN_SECRET_BYTES:
        raise ValueError(f"expected a secret of at least {MIN_SECRET_BYTES} bytes, got {len(secret)}")


def _check_rsa(numbers: RSAPublicNumbers) -> None:
    bits = numbers.n.bit_length()
    if not MIN_RSA_BITS <= bits <= MAX_RSA_BITS:
        raise ValueError(f"expected an RSA modulus of {MIN_RSA_BITS} to {MAX_RSA_BITS} bits, got {bits}")
    if numbers.e < MIN_RSA_EXPONENT or numbers.e.bit_length() > MAX_RSA_EXPONENT_BITS or numbers.e % 2 == 0:
        raise ValueError(
            f"expected an odd RSA exponent from {MIN_RSA_EXPONENT}, of at most {MAX_RSA_EXPONENT_BITS} bits"
        )


def _algorithms_of_curve(name: str) -> frozenset[str]:
    algorithms = frozenset(algorithm for curve, algorithm in CURVES.values() if curve.name == name)
    if not algorithms:
        raise ValueError(f"expected an EC key on {_one_of(CURVES)}, got one on {name}")
    return algorithms


def _usable(possible: frozenset[str], jwk: Mapping[str, object], listed: frozenset[str]) -> frozenset[str]:
    """Narrows what a key could do to what it says it is for, and then to what its issuer lists."""
    if "alg" in jwk:
        algorithm = jwk["alg"]
        if not isinstance(algorithm, str) or algorithm not in possible:
            raise ValueError(
                f"alg: expected {_one_of(possible)} for this kind of key, got {_show(algorithm)}"
            )
        possible = frozenset({algorithm})
    if not possible & listed:
        raise ValueError(
            f"expected a key for {_one_of(listed)} (the issuer's list), got one for {_one_of(possible)}"
        )
    return possible & listed


# JWK.


def _label_faults(jwk: Mapping[str, object]) -> Iterable[str]:
    kid, use, operations = jwk.get("kid", "absent"), jwk.get("use", "sig"), jwk.get("key_ops", ["verify"])
    if not isinstance(kid, str) or not 1 <= len(kid) <= MAX_KID_CHARACTERS:
        yield f"kid: expected a string of 1 to {MAX_KID_CHARACTERS} characters, got {_show(kid)}"
    if use != "sig":
        yield f'use: expected "sig", got {_show(use)}'
    if not isinstance(operations, list) or "verify" not in operations:
        yield f'key_ops: expected an array with "verify", got {_show(operations)}'
    private = [name for name in _PRIVATE_MEMBERS if name in jwk]
    if private:
        yield f"expected a public key, got one with private members ({', '.join(private)})"


def _material_of_jwk(jwk: Mapping[str, object]) -> _Material:
    kty = jwk.get("kty")
    if not isinstance(kty, str) or kty not in _KEY_TYPES:
        raise ValueError(f"kty: expected {_one_of(_KEY_TYPES)}, got {_show(kty)}")
    if kty != "oct" and "k" in jwk:
        raise ValueError("expected a public key, got one with the secret member k")
    return _KEY_TYPES[kty](jwk)


def _rsa(jwk: Mapping[str, object]) -> RSAPublicKey:
    n, e = (int.from_bytes(_octets(jwk, name), "big") for name in ("n", "e"))
    numbers = RSAPublicNumbers(e, n)
    _check_rsa(numbers)
    return numbers.public_key()


def _ec(jwk: Mapping[str, object]) -> EllipticCurvePublicKey:
    crv = jwk.get("crv")
    if not isinstance(crv, str) or crv not in CURVES:
        raise ValueError(f"crv: expected {_one_of(CURVES)}, got {_show(crv)}")
    curve, _ = CURVES[crv]
    size = (curve.key_size + 7) // 8
    x, y = (int.from_bytes(_octets(jwk, name, size), "big") for name in ("x", "y"))
    try:
        return EllipticCurvePublicNumbers(x, y, curve).public_key()
    except ValueError:
        raise ValueError(f"x, y: expected a point on {crv}, got one beside it") from None


def _okp(jwk: Mapping[str, object]) -> Ed25519PublicKey:
    if jwk.get("crv") != "Ed25519":
        raise ValueError(f"crv: expected Ed25519, got {_show(jwk.get('crv'))}")
    return Ed25519PublicKey.from_public_bytes(_octets(jwk, "x", 32))


def _oct(jwk: Mapping[str, object]) -> bytes:
    return _octets(jwk, "k")


_KEY_TYPES: Mapping[str, Callable[[Mapping[str, object]], _Material]] = {
    "EC": _ec,
    "OKP": _okp,
    "RSA": _rsa,
    "oct": _oct,
}


def _octets(jwk: Mapping[str, object], name: str, size: int | None = None) -> bytes:
    text = jwk.get(name)
    if not isinstance(text, str):
        raise ValueError(f"{name}: expected a string, got {type_name(text)}")  # noqa: TRY004 - the text is at fault
    try:
        octets = read_base64url(text.encode())
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
    if size is not None and len(octets) != size:
        raise ValueError(f"{name}: expected {size} bytes, got {len(octets)}")
    return octets


# PEM.


def _material_of_pem(label: str, block: bytes) -> _Material:
    load = _PEM_LABELS.get(label)
    if load is None:
        raise ValueError(f"expected {_one_of(_PEM_LABELS)}, got {label}")
    try:
        key = load(block)
    except (ValueError, InvalidVersion):
        raise ValueError(f"expected a {label} that can be read, got a broken one") from None
    if not isinstance(key, _Material):
        raise ValueError(f"expected an RSA, EC or Ed25519 key, got {type(key).__name__}")  # noqa: TRY004 - the text is at fault
    return key


_PEM_LABELS: Mapping[str, Callable[[bytes], object]] = {
    "CERTIFICATE": lambda block: load_pem_x509_certificate(block).public_key(),
    "PUBLIC KEY": load_pem_public_key,
    "RSA PUBLIC KEY": load_pem_public_key,
}


# Words.


def _one_of(names: Iterable[str]) -> str:
    return " or ".join(sorted(names)) or "nothing"


def _show(value: object) -> str:
    """A member's value as it would stand in the file, cut short; only for members that hold no secret."""
    text = "nothing" if value is None else json.dumps(value)
    return re.sub(r"(?<=.{40}).+", "...", text)
