"""JSON Web Token Best Current Practices (RFC 8725), rule by rule. §3.5 and parts of §3.4 are of the keys."""

from __future__ import annotations

import asyncio
import base64
import json
import zlib
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from gateway.core.access import Claims
from gateway.core.errors import Reason, Refusal
from gateway.identity.development import kid_of, mint, new_key
from gateway.identity.documents import write_base64url
from gateway.identity.keys import ALGORITHMS
from gateway.identity.keysets import KeySetError, parse_key_set, parse_secret
from gateway.identity.tokens import MAX_TOKEN_BYTES, Fault, Issuer
from tests.identity.world import CLAIMS, NOW, PEER, SECRET, GetPair, Keys, World, examine, seal, verifier


def bearer(*parts: bytes) -> bytes:
    return b"Bearer " + b".".join(map(write_base64url, parts))


# §3.1 Perform Algorithm Verification.


@pytest.mark.parametrize("name", ["none", "None", "NONE", "nOnE", "none ", "no\u0000ne", "\uff4eone", ""])
@pytest.mark.parametrize("signature", [b"", b"AA", b"e30"])
def test_3_1_no_token_without_a_signature(world: World, name: str, signature: bytes) -> None:
    listing = Issuer("https://a.example", "gateway", ALGORITHMS | {name}, world.a)
    for its in (world.verifier, verifier(listing, clock=world.clock)):
        signed = world.token(None, alg=name).rpartition(b".")[0]
        assert isinstance(examine(its, signed + b"." + signature), Fault)
        assert isinstance(examine(its, signed), Fault)


def test_3_1_an_algorithm_the_issuer_does_not_list(world: World) -> None:
    assert world.see(world.token({"iss": "https://narrow.example"})) is Fault.ALGORITHM


def public_forms(private: bytes) -> list[bytes]:
    """Every spelling of a public key that someone might have taken for a secret."""
    key = load_pem_private_key(private, None).public_key()
    pem = key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    der = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return [pem, pem.strip(), der, base64.b64encode(der)]


def test_3_1_a_public_key_is_no_secret(world: World, pair: GetPair) -> None:
    private, public = pair("RS256")
    (jwk,) = json.loads(public)["keys"]
    forms = [*public_forms(private), public, json.dumps(jwk).encode(), jwk["n"].encode()]
    hmac = jwt.get_algorithm_by_name("HS256")
    for secret in forms:
        for kid in (jwk["kid"], None):
            signed = world.token(None, alg="HS256", kid=kid).removeprefix(b"Bearer ").rpartition(b".")[0]
            token = b"Bearer " + signed + b"." + write_base64url(hmac.sign(signed, secret))
            assert world.see(token) is Fault.UNKNOWN_KEY


@pytest.mark.parametrize("alg", ["ES384", "RS256", "PS256", "EdDSA", "HS256"])
def test_3_1_a_key_is_for_its_own_algorithm(world: World, alg: str) -> None:
    assert world.see(world.token(None, alg=alg)) is Fault.UNKNOWN_KEY


def test_3_1_a_secret_issuer_takes_nothing_else(world: World) -> None:
    issuer = Issuer("https://a.example", "gateway", ALGORITHMS, Keys(parse_secret(SECRET)))
    its = verifier(issuer, clock=world.clock)
    assert examine(its, world.token()) is Fault.UNKNOWN_KEY
    assert examine(its, world.token(None, kid=None)) is Fault.UNKNOWN_KEY


# §3.2 Use Appropriate Algorithms.


def test_3_2_nothing_weak_can_be_listed() -> None:
    families = {name.rstrip("0123456789") for name in ALGORITHMS}
    assert families == {"RS", "PS", "ES", "EdDSA", "HS"}
    assert not ALGORITHMS & {"none", "RS1", "HS1", "RSA1_5", "ES256K"}


@pytest.mark.parametrize("signature", [bytes(64), bytes(31) + b"\1" + bytes(31) + b"\1", b"\xff" * 64])
def test_3_2_degenerate_signatures(world: World, signature: bytes) -> None:
    """Zeros pass for any message where r and s go unchecked (CVE-2022-21449)."""
    head = world.token().rpartition(b".")[0]
    assert world.see(head + b"." + write_base64url(signature)) is Fault.SIGNATURE


# §3.3 Validate All Cryptographic Operations.


@pytest.mark.parametrize("part", [0, 1, 2])
def test_3_3_every_part_is_signed(world: World, part: int) -> None:
    good = world.token().removeprefix(b"Bearer ").split(b".")
    other = world.token({"sub": "root"}, x="y").removeprefix(b"Bearer ").split(b".")
    mixed = [*good[:part], other[part], *good[part + 1 :]]
    assert world.see(b"Bearer " + b".".join(good)) == world.see(world.token())
    assert world.see(b"Bearer " + b".".join(mixed)) is Fault.SIGNATURE


def test_3_3_a_token_in_a_token_is_not_read(world: World) -> None:
    inner = world.token().removeprefix(b"Bearer ")
    assert world.see(world.sign('{"alg":"ES256","cty":"JWT"}', inner)) is Fault.MALFORMED


# §3.4 Validate Cryptographic Inputs.


@pytest.mark.parametrize(("member", "value"), [("x", b"\1" * 32), ("y", b"\0" * 32), ("y", b"\1" * 31)])
def test_3_4_a_point_off_its_curve(pair: GetPair, member: str, value: bytes) -> None:
    document = json.loads(pair("ES256")[1])
    document["keys"][0][member] = write_base64url(value).decode()
    with pytest.raises(KeySetError):
        parse_key_set(json.dumps(document).encode(), ALGORITHMS)


# §3.5 Ensure Cryptographic Keys Have Sufficient Entropy.


def test_3_5_a_short_secret() -> None:
    for secret in (b"", b"password", SECRET[:31]):
        with pytest.raises(KeySetError):
            parse_secret(secret)
    assert parse_secret(SECRET).find(None, "HS256")


# §3.6 Avoid Compression of Encryption Inputs.


def test_3_6_nothing_is_inflated_or_decrypted(world: World) -> None:
    squeezed = zlib.compress(json.dumps(CLAIMS).encode(), wbits=-15)
    assert world.see(world.sign('{"alg":"ES256","zip":"DEF"}', squeezed)) is Fault.MALFORMED
    head = b'{"alg":"RSA-OAEP","enc":"A256GCM","zip":"DEF"}'
    for parts in ((head, b"key", b"iv", squeezed, b"tag"), (head, b"", b"iv", squeezed, b"tag")):
        assert world.see(bearer(*parts)) is Fault.MALFORMED
    assert (
        world.see(bearer(b'{"alg":"dir","enc":"A256GCM"}', json.dumps(CLAIMS).encode(), b"x"))
        is Fault.ALGORITHM
    )


# §3.7 Use UTF-8; and every document has one reading.


@pytest.mark.parametrize(
    "encode",
    [
        lambda text: text.encode("utf-16"),
        lambda text: text.encode("utf-32-le"),
        lambda text: text.encode("utf-8-sig"),
        lambda text: text.encode("latin-1"),
        lambda text: text.encode().replace(b"\xc3\xa9", b"\xed\xa0\x80"),
        lambda text: text.encode().replace(b"\xc3\xa9", b"\xc0\xaf"),
        lambda text: text.encode().replace(b"\xc3\xa9", b"\\ud800"),
    ],
    ids=["utf-16", "utf-32", "byte order mark", "latin-1", "surrogate", "overlong", "escaped surrogate"],
)
def test_3_7_other_encodings(world: World, encode: Any) -> None:
    payload = json.dumps(CLAIMS | {"sub": "caf\u00e9"}, ensure_ascii=False)
    assert isinstance(world.see(world.sign('{"alg":"ES256"}', payload.encode())), Claims)
    assert world.see(world.sign('{"alg":"ES256"}', encode(payload))) is Fault.MALFORMED


@pytest.mark.parametrize(
    "header",
    [
        '{"alg":"ES256","alg":"none"}',
        '{"alg":"none","alg":"ES256"}',
        '{"alg":"ES256","a\\u006cg":"ES256"}',
        '{"alg":"ES256","x":NaN}',
        '{"alg":"ES256","x":1e999}',
        '{"alg":"ES256","x":"\\ud800"}',
        '{"alg":"ES256"',
        '["ES256"]',
        '"ES256"',
        "null",
        "",
        b'\xff{"alg":"ES256"}',
        b'\xef\xbb\xbf{"alg":"ES256"}',
        '{"alg":"ES256","x":' + "[" * 2000 + "]" * 2000 + "}",
    ],
    ids=lambda value: value[:30],
)
def test_3_7_headers_of_no_one_reading(world: World, header: str | bytes) -> None:
    assert world.see(world.sign(header, json.dumps(CLAIMS))) is Fault.MALFORMED


@pytest.mark.parametrize(
    "extra",
    [
        '"sub":"admin"',
        '"exp":9999999999',
        '"iss":"https://b.example"',
        '"x":{"a":1,"a":2}',
        '"x":NaN',
        '"x":-Infinity',
        '"x":1e999',
        '"x":"\\udc00"',
        '"x":' + "[" * 33 + "]" * 33,
        '"x":' + "[" * 2500 + "]" * 2500,
        '"x":' + '{"x":' * 900 + "1" + "}" * 900,
        '"x":' + "9" * 4400,
        '"x":01',
    ],
    ids=lambda value: value[:30],
)
def test_3_7_payloads_of_no_one_reading(world: World, extra: str) -> None:
    payload = json.dumps(CLAIMS).removesuffix("}") + "," + extra + "}"
    assert world.see(world.sign('{"alg":"ES256"}', payload)) is Fault.MALFORMED


# §3.8 Validate Issuer and Subject.


def test_3_8_issuers_do_not_share_keys(world: World, pair: GetPair) -> None:
    other = pair("ES256", "other")[0]
    for kid, fault in [(kid_of(other), Fault.UNKNOWN_KEY), (kid_of(world.private), Fault.SIGNATURE)]:
        token = mint(other, "ES256", kid, CLAIMS)
        assert world.see(b"Bearer " + token.encode()) is fault
    mine = mint(other, "ES256", kid_of(other), CLAIMS | {"iss": "https://b.example"})
    assert isinstance(world.see(b"Bearer " + mine.encode()), Claims)
    assert world.see(world.token({"iss": "https://b.example"})) is Fault.UNKNOWN_KEY


@pytest.mark.parametrize(
    "issuer", ["https://c.example", "https://a.example/", "http://a.example", "https://A.example", "", None]
)
def test_3_8_the_right_subject_of_the_wrong_issuer(world: World, issuer: str | None) -> None:
    assert world.see(world.token({"iss": issuer})) is Fault.ISSUER


@pytest.mark.parametrize("subject", [7, None, ["bff"], {"bff": 1}, "s" * 1025])
def test_3_8_a_subject_is_a_text(world: World, subject: object) -> None:
    payload = json.dumps(CLAIMS | {"sub": subject})
    assert world.see(world.sign('{"alg":"ES256"}', payload)) is Fault.SUBJECT


# §3.9 Use and Validate Audience.


@pytest.mark.parametrize(
    "audience", [None, "", "Gateway", "gateway ", "other", [], ["other"], [["gateway"]], 7]
)
def test_3_9_a_token_for_somebody_else(world: World, audience: object) -> None:
    assert world.see(world.token({"aud": audience})) is Fault.AUDIENCE


@pytest.mark.parametrize("audience", ["gateway", ["gateway"], ["other", "gateway"]])
def test_3_9_a_token_for_this_gateway(world: World, audience: object) -> None:
    assert isinstance(world.see(world.token({"aud": audience})), Claims)


# §3.10 Do Not Trust Received Claims.


@pytest.mark.parametrize(
    "kid", ["../../../dev/null", "' OR 1=1 --", "| cat /etc/passwd", "x" * 256, "\u0000"]
)
def test_3_10_a_key_id_only_names(world: World, kid: str) -> None:
    assert world.see(world.token(None, kid=kid)) is Fault.UNKNOWN_KEY


def test_3_10_no_key_is_fetched_or_taken_from_a_header(world: World) -> None:
    private, public = new_key("ES256")
    (jwk,) = json.loads(public)["keys"]
    visitors: list[object] = []

    async def welcome(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        visitors.append(writer.get_extra_info("peername"))
        writer.close()

    async def run() -> None:
        server = await asyncio.start_server(welcome, "127.0.0.1", 0)
        host, port = server.sockets[0].getsockname()
        url = f"http://{host}:{port}/jwks.json"
        everything = {"jwk": jwk, "jku": url, "x5u": url, "x5c": ["MIIB"], "x5t": "AA"}
        for brought in (everything, *({name: value} for name, value in everything.items())):
            for kid in ({}, {"kid": jwk["kid"]}):
                header = {"alg": "ES256"} | kid | brought
                signed = b".".join(write_base64url(json.dumps(part).encode()) for part in (header, CLAIMS))
                refusal = await world.verifier.verify(b"Bearer " + seal(signed, private), PEER)
                assert isinstance(refusal, Refusal)
                assert refusal.reason is Reason.TOKEN_INVALID
            # Nor do they hurt a good token.
            assert isinstance(await world.verifier.verify(world.token(None, **brought), PEER), Claims)
        assert visitors == []
        reader, writer = await asyncio.open_connection(host, port)
        await reader.read()
        assert len(visitors) == 1  # it does hear who comes
        writer.close()
        server.close()
        await server.wait_closed()

    asyncio.run(run())


@pytest.mark.parametrize(
    "extension", [{"crit": ["exp"]}, {"crit": []}, {"crit": "b64"}, {"b64": True}, {"b64": False}]
)
def test_3_10_extensions_are_not_understood(world: World, extension: dict[str, object]) -> None:
    assert world.see(world.token(None, **extension)) is Fault.CRITICAL


def test_3_10_an_unencoded_payload(world: World) -> None:
    header = write_base64url(b'{"alg":"ES256","b64":false,"crit":["b64"]}')
    signed = header + b"." + json.dumps(CLAIMS).encode()
    assert world.see(b"Bearer " + seal(signed, world.private)) is Fault.MALFORMED


def test_3_10_more_than_anyone_needs(world: World) -> None:
    assert world.see(world.token() + b"A" * 64 * 1024) is Fault.TOO_LONG
    assert world.see(world.token({f"claim{n}": n for n in range(10_000)})) is Fault.TOO_LONG
    many = world.token({f"{n}": 0 for n in range(600)})
    assert len(many) < MAX_TOKEN_BYTES
    assert isinstance(world.see(many), Claims)


# §3.11 Use Explicit Typing.


@pytest.mark.parametrize("kind", ["at+jwt", "AT+JWT", "application/at+jwt"])
def test_3_11_an_access_token(world: World, kind: str) -> None:
    assert isinstance(world.see(world.token({"iss": "https://typed.example"}, typ=kind)), Claims)


@pytest.mark.parametrize(
    "kind", [None, "JWT", "application/jwt", "at", "jwt+at", "application/application/at+jwt"]
)
def test_3_11_another_token_where_an_access_token_is_required(world: World, kind: str | None) -> None:
    assert world.see(world.token({"iss": "https://typed.example"}, typ=kind)) is Fault.TYPE


# §3.12 Use Mutually Exclusive Validation Rules for Different Kinds of JWTs.


@pytest.mark.parametrize(
    "kind", ["dpop+jwt", "logout+jwt", "secevent+jwt", "id_token+jwt", "oauth-authz-req+jwt", "JOSE", "JWE"]
)
def test_3_12_tokens_for_other_purposes(world: World, kind: str) -> None:
    assert world.see(world.token(None, typ=kind)) is Fault.TYPE


def test_3_12_an_id_token_is_for_its_client(world: World) -> None:
    """The same issuer, the same key: an ID token's audience is who asked for it."""
    token = world.token({"aud": "frontend", "nonce": "n", "auth_time": NOW})
    assert world.see(token) is Fault.AUDIENCE
