from __future__ import annotations

import base64
import contextlib
import datetime as dt
import json
from collections.abc import Callable
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, rsa, x25519
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from hypothesis import given
from hypothesis import strategies as st

from gateway.identity.keys import ALGORITHMS
from gateway.identity.keysets import MAX_BYTES, MAX_KEYS, KeySetError, parse_key_set, parse_secret

Jwk = dict[str, Any]
GetJwk = Callable[..., Jwk]
GetPair = Callable[..., tuple[bytes, bytes]]

PUBLIC = ALGORITHMS - {"HS256"}
SECRET = base64.urlsafe_b64encode(bytes(range(32))).rstrip(b"=").decode()
OCT = {"kty": "oct", "k": SECRET, "kid": "s"}


def jwks(*keys: object) -> bytes:
    return json.dumps({"keys": keys}).encode()


def number(value: int, size: int) -> str:
    return base64.urlsafe_b64encode(value.to_bytes(size, "big")).rstrip(b"=").decode()


def faults(data: bytes, algorithms: frozenset[str] = PUBLIC) -> tuple[str, ...]:
    with pytest.raises(KeySetError) as caught:
        parse_key_set(data, algorithms)
    return caught.value.faults


# One key that is unfit.

CHANGES = [
    ("RS256", {"kty": None}, "kty: expected EC or OKP or RSA or oct, got nothing"),
    ("RS256", {"kty": "rsa"}, 'kty: expected EC or OKP or RSA or oct, got "rsa"'),
    ("RS256", {"kty": ["RSA"]}, 'kty: expected EC or OKP or RSA or oct, got ["RSA"]'),
    ("RS256", {"use": "enc"}, 'use: expected "sig", got "enc"'),
    ("RS256", {"use": 1}, 'use: expected "sig", got 1'),
    ("RS256", {"key_ops": ["sign"]}, 'key_ops: expected an array with "verify", got ["sign"]'),
    ("RS256", {"key_ops": "verify"}, 'key_ops: expected an array with "verify", got "verify"'),
    ("RS256", {"key_ops": []}, 'key_ops: expected an array with "verify", got []'),
    ("RS256", {"kid": ""}, 'kid: expected a string of 1 to 256 characters, got ""'),
    ("RS256", {"kid": 7}, "kid: expected a string of 1 to 256 characters, got 7"),
    ("RS256", {"kid": "k" * 257}, 'kid: expected a string of 1 to 256 characters, got "' + "k" * 39 + "..."),
    ("RS256", {"d": "AQAB"}, "expected a public key, got one with private members (d)"),
    ("RS256", {"p": "AQAB", "qi": "AQAB"}, "expected a public key, got one with private members (p, qi)"),
    ("ES256", {"d": "AQAB"}, "expected a public key, got one with private members (d)"),
    ("EdDSA", {"d": "AQAB"}, "expected a public key, got one with private members (d)"),
    ("RS256", {"k": SECRET}, "expected a public key, got one with the secret member k"),
    ("RS256", {"n": None}, "n: expected a string, got nothing"),
    ("RS256", {"n": 12}, "n: expected a string, got a number"),
    ("RS256", {"n": "A A"}, "n: not base64url"),
    ("RS256", {"n": number(2**1023 + 1, 128)}, "expected an RSA modulus of 2048 to 16384 bits, got 1024"),
    ("RS256", {"n": number(2**2046 + 1, 256)}, "expected an RSA modulus of 2048 to 16384 bits, got 2047"),
    ("RS256", {"n": number(2**16384 + 1, 2049)}, "expected an RSA modulus of 2048 to 16384 bits, got 16385"),
    ("RS256", {"e": number(3, 1)}, "expected an odd RSA exponent from 65537, of at most 64 bits"),
    ("RS256", {"e": number(1, 1)}, "expected an odd RSA exponent from 65537, of at most 64 bits"),
    ("RS256", {"e": number(65538, 3)}, "expected an odd RSA exponent from 65537, of at most 64 bits"),
    ("RS256", {"e": number(2**64 + 1, 9)}, "expected an odd RSA exponent from 65537, of at most 64 bits"),
    ("RS256", {"alg": "RSA-OAEP"}, "alg: expected PS256 or PS384 or PS512 or RS256 or RS384 or RS512 "),
    ("RS256", {"alg": "HS256"}, "alg: expected PS256 or PS384 or PS512 or RS256 or RS384 or RS512 "),
    ("RS256", {"alg": "none"}, "alg: expected PS256 or PS384 or PS512 or RS256 or RS384 or RS512 "),
    ("RS256", {"alg": ["RS256"]}, "alg: expected PS256 or PS384 or PS512 or RS256 or RS384 or RS512 "),
    ("ES256", {"alg": "ES384"}, 'alg: expected ES256 for this kind of key, got "ES384"'),
    ("ES256", {"crv": "P-384"}, "x: expected 48 bytes, got 32"),
    ("ES256", {"crv": "secp256k1"}, 'crv: expected P-256 or P-384 or P-521, got "secp256k1"'),
    ("ES256", {"crv": None}, "crv: expected P-256 or P-384 or P-521, got nothing"),
    ("ES256", {"crv": {"a": 1}}, 'crv: expected P-256 or P-384 or P-521, got {"a": 1}'),
    ("ES256", {"y": number(1, 32)}, "x, y: expected a point on P-256, got one beside it"),
    ("ES256", {"x": number(1, 31)}, "x: expected 32 bytes, got 31"),
    ("EdDSA", {"crv": "Ed448"}, 'crv: expected Ed25519, got "Ed448"'),
    ("EdDSA", {"crv": "X25519"}, 'crv: expected Ed25519, got "X25519"'),
    ("EdDSA", {"x": number(1, 33)}, "x: expected 32 bytes, got 33"),
    ("EdDSA", {"x": None}, "x: expected a string, got nothing"),
]


@pytest.mark.parametrize(("algorithm", "changes", "fault"), CHANGES)
def test_an_unfit_key_refuses_the_set(jwk: GetJwk, algorithm: str, changes: Jwk, fault: str) -> None:
    changed = {**jwk(algorithm), **changes}
    unfit = {name: value for name, value in changed.items() if value is not None}
    (found,) = faults(jwks(jwk("ES384"), unfit))
    assert found.startswith(f"keys[1]: {fault}")


@pytest.mark.parametrize(
    "changes",
    [
        {"n": number(2**2047 + 1, 256)},
        {"n": number(2**16383 + 1, 2048)},
        {"e": number(2**64 - 1, 8)},
        {"kid": "k" * 256},
        {"key_ops": ["verify"], "x5c": ["AAAA"], "unknown": {}},
    ],
)
def test_a_key_at_the_edge_is_fit(jwk: GetJwk, changes: Jwk) -> None:
    assert parse_key_set(jwks(jwk("RS256", **changes)), PUBLIC).find(None, "RS256")


def test_a_set_at_the_edge_is_fit(jwk: GetJwk) -> None:
    data = jwks(*(jwk("ES256", kid=f"{index}") for index in range(MAX_KEYS)))
    assert len(parse_key_set(data.ljust(MAX_BYTES), PUBLIC).keys) == MAX_KEYS
    (fault,) = faults(data.ljust(MAX_BYTES + 1))
    assert fault == "expected at most 262144 bytes, got more"


@pytest.mark.parametrize(
    ("key", "fault"),
    [
        (OCT | {"k": number(1, 31)}, "keys[0]: expected a secret of at least 32 bytes, got 31"),
        (OCT | {"k": 5}, "keys[0]: k: expected a string, got a number"),
        (OCT | {"d": "AQAB"}, "keys[0]: expected a public key, got one with private members (d)"),
        (OCT | {"alg": "HS512"}, 'keys[0]: alg: expected HS256 for this kind of key, got "HS512"'),
        ("key", "keys[0]: expected an object, got a string"),
        (None, "keys[0]: expected an object, got nothing"),
    ],
)
def test_unfit_secrets_and_items(key: object, fault: str) -> None:
    assert faults(jwks(key), frozenset({"HS256"})) == (fault,)


def test_a_key_the_issuer_does_not_list(jwk: GetJwk) -> None:
    listed = frozenset({"ES256", "RS512"})
    assert faults(jwks(OCT), listed) == (
        "keys[0]: expected a key for ES256 or RS512 (the issuer's list), got one for HS256",
    )
    assert faults(jwks(jwk("RS256")), listed) == (
        "keys[0]: expected a key for ES256 or RS512 (the issuer's list), got one for RS256",
    )
    assert parse_key_set(jwks(jwk("RS256", alg=None)), listed).keys[0].algorithms == {"RS512"}


# Keys that do not get along.


def test_mixed_kinds(jwk: GetJwk) -> None:
    assert faults(jwks(jwk("ES256"), OCT), ALGORITHMS) == (
        "expected either public keys or secrets (oct), got both",
    )


def test_a_kid_names_one_key(jwk: GetJwk) -> None:
    assert faults(jwks(jwk("RS256", kid="a"), jwk("ES256", kid="b"), jwk("ES384", kid="a"))) == (
        "keys[2]: expected a kid of its own, got that of keys[0]",
    )


def test_a_kid_is_needed_where_two_keys_fit(jwk: GetJwk) -> None:
    assert faults(jwks(jwk("ES256", kid=None), jwk("ES256", "other"))) == (
        "keys[0]: expected a kid, as another key fits ES256 too; got none",
    )
    assert parse_key_set(jwks(jwk("ES256", kid=None), jwk("ES384", kid=None)), PUBLIC).find(None, "ES256")


def test_all_faults_at_once(jwk: GetJwk) -> None:
    found = faults(
        jwks(jwk("RS256", use="enc", alg="RSA-OAEP"), jwk("ES256", kid=""), jwk("ES384"), jwk("ES384"))
    )
    assert [fault.split(":")[0] for fault in found] == ["keys[0]", "keys[0]", "keys[1]", "keys[3]"]


def test_a_fault_shows_no_secret() -> None:
    (found,) = faults(jwks(OCT | {"k": "topsecret"}), frozenset({"HS256"}))
    assert "topsecret" not in found
    assert SECRET not in repr(parse_key_set(jwks(OCT), frozenset({"HS256"})))
    assert repr(bytes(range(32))) not in repr(parse_key_set(jwks(OCT), frozenset({"HS256"})))


# Documents that are no key set.


@pytest.mark.parametrize(
    ("data", "fault"),
    [
        (b"", "expected a JWKS document (a JSON object) or PEM, got neither"),
        (b"[]", "expected a JWKS document (a JSON object) or PEM, got neither"),
        (b"\xff\xfe", "expected a JWKS document (a JSON object) or PEM, got neither"),
        (b"{", "JWKS: Expecting property name"),
        (b'{"keys":[],"keys":[]}', 'JWKS: the member "keys" is doubled'),
        (b'{"keys":[{"kty":"RSA","kty":"EC"}]}', 'JWKS: the member "kty" is doubled'),
        (b'{"keys":' + b"[" * 100_000, "JWKS: nested too deeply"),
        (b"{}", "keys: expected an array, got nothing"),
        (b'{"kty":"RSA"}', "keys: expected an array, got nothing"),
        (b'{"keys":{}}', "keys: expected an array, got an object"),
        (b'{"keys":[]}', "expected 1 to 100 keys, got 0"),
        (jwks(*[{}] * (MAX_KEYS + 1)), "expected 1 to 100 keys, got 101"),
        (jwks("x" * MAX_BYTES), "expected at most 262144 bytes, got more"),
        (
            b"-----BEGIN PUBLIC KEY-----\nAAAA\n",
            "PEM: expected an END for each BEGIN, got a block that is cut short",
        ),
        (
            b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----",
            "PEM block 1: expected a PUBLIC KEY that can be read, got a broken one",
        ),
        (
            b"-----BEGIN EC PARAMETERS-----\nAAAA\n-----END EC PARAMETERS-----",
            "PEM block 1: expected CERTIFICATE or PUBLIC KEY or RSA PUBLIC KEY, got EC PARAMETERS",
        ),
    ],
    ids=lambda value: value[:30] if isinstance(value, bytes) else value,
)
def test_no_key_set(data: bytes, fault: str) -> None:
    (found,) = faults(data)
    assert found.startswith(fault)


@given(st.binary() | st.text().map(jwks) | st.binary().map(lambda raw: b"{" + raw))
def test_only_key_set_errors(data: bytes) -> None:
    with pytest.raises(KeySetError):
        parse_key_set(data, ALGORITHMS)


@given(
    st.dictionaries(
        st.sampled_from(["kty", "n", "e", "crv", "x", "y", "k", "d", "alg", "use", "kid", "key_ops"]),
        st.sampled_from(
            ["RSA", "EC", "OKP", "oct", "P-256", "Ed25519", "RS256", "AQAB", "sig", "", SECRET, SECRET * 9]
        )
        | st.none()
        | st.integers()
        | st.lists(st.text(max_size=3)),
    )
)
def test_odd_members_are_faults(key: Jwk) -> None:
    with contextlib.suppress(KeySetError):
        assert len(parse_key_set(jwks(key), ALGORITHMS).keys) == 1


# PEM.

KINDS = "expected an RSA, EC or Ed25519 key, got"
UNFIT: list[tuple[Callable[[], Any], str]] = [
    (lambda: dsa.generate_private_key(1024), f"{KINDS} DSAPublicKey"),  # noqa: S505 - it is to be refused
    (ed448.Ed448PrivateKey.generate, f"{KINDS} Ed448PublicKey"),
    (x25519.X25519PrivateKey.generate, f"{KINDS} X25519PublicKey"),
    (
        lambda: ec.generate_private_key(ec.SECP256K1()),
        "expected an EC key on P-256 or P-384 or P-521, got one on secp256k1",
    ),
    (
        lambda: rsa.generate_private_key(65537, 1024),  # noqa: S505 - it is to be refused
        "expected an RSA modulus of 2048 to 16384 bits, got 1024",
    ),
    (
        lambda: rsa.generate_private_key(3, 2048),
        "expected an odd RSA exponent from 65537, of at most 64 bits",
    ),
]


def public_pem(private: Any, kind: PublicFormat = PublicFormat.SubjectPublicKeyInfo) -> bytes:
    pem: bytes = private.public_key().public_bytes(Encoding.PEM, kind)
    return pem


def certificate(private: Any) -> bytes:
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "issuer")])
    day = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)
    builder = x509.CertificateBuilder(name, name, private.public_key(), 7, day, day + dt.timedelta(days=1))
    return builder.sign(private, hashes.SHA256()).public_bytes(Encoding.PEM)


@pytest.mark.parametrize(("make", "fault"), UNFIT)
def test_unfit_pem(make: Callable[[], Any], fault: str) -> None:
    assert faults(public_pem(make())) == (f"PEM block 1: {fault}",)


@pytest.mark.parametrize(
    ("kind", "lock"),
    [
        (PrivateFormat.PKCS8, NoEncryption()),
        (PrivateFormat.TraditionalOpenSSL, NoEncryption()),
        (PrivateFormat.PKCS8, BestAvailableEncryption(b"x")),
        (PrivateFormat.OpenSSH, NoEncryption()),
    ],
)
def test_private_pem(pair: GetPair, kind: PrivateFormat, lock: Any) -> None:
    private = load_pem_private_key(pair("RS256")[0], None)
    (found,) = faults(public_pem(private) + private.private_bytes(Encoding.PEM, kind, lock))
    assert found.startswith("PEM block 2: expected public keys only, got a private key")


def test_pem_of_every_kind(pair: GetPair) -> None:
    rs, es, ed = (load_pem_private_key(pair(name)[0], None) for name in ("RS256", "ES384", "EdDSA"))
    data = (
        b"Bag Attributes\r\n"
        + public_pem(rs, PublicFormat.PKCS1)
        + certificate(es)
        + b"\n\n"
        + public_pem(ed)
    )
    found = [sorted(key.algorithms) for key in parse_key_set(data, PUBLIC).keys]
    assert found == [["PS256", "PS384", "PS512", "RS256", "RS384", "RS512"], ["ES384"], ["EdDSA"]]


def test_pem_keys_have_no_kid_to_tell_them_apart(pair: GetPair) -> None:
    pem = public_pem(load_pem_private_key(pair("ES256")[0], None))
    assert len(faults(pem + pem)) == 2


# Secrets.


@pytest.mark.parametrize("tail", [b"", b"\n", b"\r\n"])
def test_a_secret_loses_one_newline(tail: bytes) -> None:
    assert parse_secret(b"s" * 32 + tail).find(None, "HS256")
    with pytest.raises(KeySetError, match="secret: expected a secret of at least 32 bytes, got 31"):
        parse_secret(b"s" * 31 + tail)


@pytest.mark.parametrize("data", [b"s" * 31 + b"\n\n", b"{" + b"s" * 31, bytes(range(32))])
def test_any_other_bytes_are_a_secret(data: bytes) -> None:
    assert parse_secret(data).find(None, "HS256")


@pytest.mark.parametrize("data", [b" " + jwks(OCT), b"-----BEGIN PUBLIC KEY-----" + b"A" * 32])
def test_public_text_is_no_secret(data: bytes) -> None:
    with pytest.raises(KeySetError, match="got PEM or JSON"):
        parse_secret(data)


def test_a_secret_is_bounded() -> None:
    with pytest.raises(KeySetError, match="expected at most"):
        parse_secret(b"s" * (MAX_BYTES + 1))


# Finding.


def test_find(jwk: GetJwk) -> None:
    keys = parse_key_set(
        jwks(
            jwk("RS256", kid="r", alg=None),
            jwk("ES256", kid="a"),
            jwk("ES256", "other", kid="b"),
            jwk("EdDSA", kid=None),
        ),
        PUBLIC,
    )
    rs, a, b, ed = keys.keys
    table = [
        ("r", "RS256", rs),
        ("r", "PS512", rs),
        (None, "RS256", rs),
        ("a", "ES256", a),
        ("b", "ES256", b),
        (None, "ES256", None),
        ("a", "RS256", None),
        ("r", "HS256", None),
        ("r", "none", None),
        (None, "EdDSA", ed),
        ("any", "EdDSA", ed),
        ("any", "RS256", None),
    ]
    assert [keys.find(kid, algorithm) for kid, algorithm, _ in table] == [key for _, _, key in table]


def test_a_key_keeps_to_its_algorithms(jwk: GetJwk) -> None:
    (key,) = parse_key_set(jwks(jwk("RS256")), PUBLIC).keys
    assert not key.verifies("PS256", b"", b"")
    assert not key.verifies("none", b"", b"")


def test_a_certificate_of_a_version_nobody_knows_is_a_fault() -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([])
    made = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    end = made + dt.timedelta(days=1)
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, made, end)
    good = builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)
    odd = good.replace(b"\xa0\x03\x02\x01\x02", b"\xa0\x03\x02\x01\x07", 1)
    pem = b"-----BEGIN CERTIFICATE-----\n%s-----END CERTIFICATE-----\n" % base64.encodebytes(odd)
    assert odd != good
    assert faults(pem) == ("PEM block 1: expected a CERTIFICATE that can be read, got a broken one",)
