from __future__ import annotations

import base64
import json
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed448
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from hypothesis import given
from hypothesis import strategies as st

from gateway.identity.development import inspect, kid_of, mint, new_key, write_key_pair
from gateway.identity.keys import ALGORITHMS
from gateway.identity.keysets import KeySetError, parse_key_set

GetPair = Callable[..., tuple[bytes, bytes]]


@pytest.mark.parametrize("algorithm", sorted(ALGORITHMS - {"HS256"}))
def test_a_new_key_is_fit(pair: GetPair, algorithm: str) -> None:
    private, public = pair(algorithm)
    key = parse_key_set(public, frozenset({algorithm})).find(kid_of(private), algorithm)
    assert key is not None
    assert key.algorithms == {algorithm}
    assert b"PRIVATE" in private
    assert not {"d", "p", "q"} & json.loads(public)["keys"][0].keys()


def test_kid_is_the_thumbprint() -> None:
    """RFC 8037 appendix A.3 has this key and its thumbprint."""
    seed = "302e020100300506032b6570042204209d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60"
    body = base64.b64encode(bytes.fromhex(seed)).decode()
    pem = f"-----BEGIN PRIVATE KEY-----\n{body}\n-----END PRIVATE KEY-----\n".encode()
    assert kid_of(pem) == "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"


@pytest.mark.parametrize("algorithm", ["HS256", "none", "", "ES256K"])
def test_no_pair_for(algorithm: str) -> None:
    with pytest.raises(ValueError, match="algorithm: expected one of ES256, "):
        new_key(algorithm)


def test_files(tmp_path: Path) -> None:
    private, public = write_key_pair(tmp_path, "ES256")
    assert stat.S_IMODE(private.stat().st_mode) == 0o600
    assert parse_key_set(public.read_bytes(), frozenset({"ES256"})).find(
        kid_of(private.read_bytes()), "ES256"
    )


@pytest.mark.parametrize("name", ["private.pem", "jwks.json"])
def test_files_are_not_overwritten(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("mine")
    with pytest.raises(FileExistsError, match=name):
        write_key_pair(tmp_path, "ES256")
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == "mine"


def test_mint_says_what_is_wrong(pair: GetPair) -> None:
    private, public = pair("ES256")
    with pytest.raises(KeySetError, match="at least 32 bytes"):
        mint(b"short", "HS256", None, {})
    with pytest.raises(KeySetError, match="got PEM"):
        mint(private, "HS256", None, {})
    with pytest.raises(ValueError, match="key: expected a private key in PEM, without a password"):
        mint(public, "ES256", None, {})
    with pytest.raises(ValueError, match=r"claims: expected such as JSON can say, got: .*bytes"):
        mint(private, "ES256", None, {"x": b""})


@pytest.mark.parametrize(
    ("made_for", "algorithm", "message"),
    [
        ("RS256", "ES256", "key: expected an EC P-256 key, as the algorithm is ES256, got an RSA key"),
        ("ES256", "RS256", "key: expected an RSA key, as the algorithm is RS256, got an EC P-256 key"),
        ("ES256", "ES384", "key: expected an EC P-384 key, as the algorithm is ES384, got an EC P-256 key"),
        ("EdDSA", "PS512", "key: expected an RSA key, as the algorithm is PS512, got an Ed25519 key"),
        ("ES512", "EdDSA", "key: expected an Ed25519 key, as the algorithm is EdDSA, got an EC P-521 key"),
        ("EdDSA", "none", "algorithm: expected one of ES256, ES384, .*, got none"),
        ("EdDSA", "HS512", "algorithm: expected one of ES256, .*HS256, .*, got HS512"),
    ],
)
def test_mint_says_which_key_the_algorithm_needs(
    pair: GetPair, made_for: str, algorithm: str, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        mint(pair(made_for)[0], algorithm, None, {})


def test_a_curve_that_no_algorithm_has_is_named() -> None:
    pem = ec.generate_private_key(ec.SECP256K1()).private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
    )
    with pytest.raises(ValueError, match=r"expected an EC P-256 key, .*, got an EC secp256k1 key"):
        mint(pem, "ES256", None, {})


def test_other_kinds_of_keys_are_refused() -> None:
    private = ed448.Ed448PrivateKey.generate()
    pem = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    with pytest.raises(ValueError, match="expected an RSA, EC or Ed25519 key, got Ed448PrivateKey"):
        kid_of(pem)


def test_inspect(pair: GetPair) -> None:
    token = mint(pair("ES256")[0], "ES256", "k", {"sub": "bff"})
    seen = inspect(token + "\n")
    assert seen.header == {"alg": "ES256", "typ": "JWT", "kid": "k"}
    assert seen.claims == {"sub": "bff"}
    assert seen.faults == ()
    assert str(seen).startswith("NOT VERIFIED")
    assert '"sub": "bff"' in str(seen)


@pytest.mark.parametrize(
    ("token", "fault"),
    [
        ("", "token: expected three parts with dots between, got 1"),
        ("a.b.c.d.e", "token: expected three parts with dots between, got 5"),
        ("x" * 8193, "token: expected at most 8192 characters, got 8193"),
        ("é.e30.", "header: not base64url"),
        ("e30.W10.", "claims: expected a JSON object, got an array"),
        ("\ud800.e30.", "header: "),
    ],
)
def test_inspect_tells_faults(token: str, fault: str) -> None:
    assert inspect(token).faults[0].startswith(fault)
    assert fault in str(inspect(token))


def test_inspect_takes_what_the_gateway_takes() -> None:
    assert inspect("e30.e30." + "A" * 8184).faults == ()


@given(st.text() | st.lists(st.text("eyJ0W10K_-.", max_size=20), min_size=3, max_size=3).map(".".join))
def test_inspect_never_raises(token: str) -> None:
    assert str(inspect(token)).startswith("NOT VERIFIED")
