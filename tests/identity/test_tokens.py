from __future__ import annotations

import asyncio
import base64
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.access import Claims
from gateway.core.errors import Reason, Refusal
from gateway.identity.development import kid_of, mint, new_key
from gateway.identity.documents import write_base64url
from gateway.identity.keys import ALGORITHMS
from gateway.identity.keysets import KeySet, parse_key_set, parse_secret
from gateway.identity.tokens import MAX_TOKEN_BYTES, MEMORY_TOKENS, Fault, Issuer, Verifier

GetPair = Callable[..., tuple[bytes, bytes]]

NOW = 1_800_000_000.0
SECRET = b"0123456789abcdef0123456789abcdef"
CLAIMS: dict[str, Any] = {"iss": "https://a.example", "aud": "gateway", "sub": "bff", "exp": NOW + 60}


@dataclass
class Keys:
    current: KeySet


@dataclass
class Clock:
    now: float = NOW

    def __call__(self) -> float:
        return self.now


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
        ]
        self.verifier = Verifier(self.issuers, self.clock)

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
        return self.verifier.examine(authorization)


def seal(signed: bytes, private: bytes, algorithm: str = "ES256") -> bytes:
    signer = jwt.get_algorithm_by_name(algorithm)
    return signed + b"." + write_base64url(signer.sign(signed, signer.prepare_key(private)))


@pytest.fixture
def world(pair: GetPair) -> World:
    keys = [json.loads(pair(name)[1])["keys"][0] for name in ("ES256", "RS256")]
    a = parse_key_set(json.dumps({"keys": keys}).encode(), ALGORITHMS)
    return World(Keys(a), Keys(parse_key_set(pair("ES256", "other")[1], ALGORITHMS)), pair("ES256")[0])


@pytest.mark.parametrize("algorithm", sorted(ALGORITHMS))
def test_each_algorithm(pair: GetPair, algorithm: str) -> None:
    if algorithm == "HS256":
        key, keys, kid = SECRET, parse_secret(SECRET), None
    else:
        key, public = pair(algorithm)
        keys, kid = parse_key_set(public, frozenset({algorithm})), kid_of(key)
    issuer = Issuer("https://a.example", "gateway", frozenset({algorithm}), Keys(keys))
    verifier = Verifier([issuer], Clock())
    token = mint(key, algorithm, kid, CLAIMS).encode()
    outcome = verifier.examine(b"Bearer " + token)
    assert isinstance(outcome, Claims)
    assert outcome.values == CLAIMS
    assert outcome.expires_at == NOW + 60
    for place in (0, len(token) // 2, len(token) - 4):
        broken = token[:place] + (b"A" if token[place : place + 1] != b"A" else b"B") + token[place + 1 :]
        assert isinstance(verifier.examine(b"Bearer " + broken), Fault)


# The field.


@pytest.mark.parametrize("scheme", [b"Bearer ", b"bearer ", b"BEARER "])
def test_schemes(world: World, scheme: bytes) -> None:
    assert isinstance(world.see(world.token().replace(b"Bearer ", scheme)), Claims)


ALIEN = b"\xc3\xa9"
FIELDS: list[tuple[Callable[[bytes], bytes], Fault]] = [
    (lambda _: b"", Fault.MALFORMED),
    (lambda _: b"Bearer", Fault.MALFORMED),
    (lambda _: b"Bearer ", Fault.MALFORMED),
    (lambda _: b"Basic YTpi", Fault.MALFORMED),
    (lambda _: b"LivePerson appKey=0123", Fault.MALFORMED),
    (lambda token: token, Fault.MALFORMED),
    (lambda token: b"Bearer  " + token, Fault.MALFORMED),
    (lambda token: b"Bearer\t" + token, Fault.MALFORMED),
    (lambda token: b" Bearer " + token, Fault.MALFORMED),
    (lambda token: b"Bearer " + token + b" ", Fault.MALFORMED),
    (lambda token: b"Bearer " + token + b"\n", Fault.MALFORMED),
    (lambda token: b"Bearer " + token + b"=", Fault.MALFORMED),
    (lambda token: b"Bearer " + token + b", Bearer " + token, Fault.MALFORMED),
    (lambda token: b"Bearer " + token.replace(b".", b". ", 1), Fault.MALFORMED),
    (lambda token: b"Bearer " + token.replace(b".", b"\x00.", 1), Fault.MALFORMED),
    (lambda token: b"Bearer " + token.replace(b".", ALIEN + b".", 1), Fault.MALFORMED),
    (lambda token: b"Bearer " + token.replace(b".", b"+.", 1), Fault.MALFORMED),
    (lambda token: b"Bearer " + token.replace(b".", b"==.", 1), Fault.MALFORMED),
    (lambda token: b"Bearer " + token.rpartition(b".")[0], Fault.MALFORMED),
    (lambda token: b"Bearer " + token.rpartition(b".")[0] + b".", Fault.MALFORMED),
    (lambda token: b"Bearer ." + token.partition(b".")[2], Fault.MALFORMED),
    (lambda token: b"Bearer " + token + b".e30", Fault.MALFORMED),
    (lambda token: b"Bearer " + token + b".e30.e30", Fault.MALFORMED),
    (lambda token: b"Bearer " + token[:-1], Fault.MALFORMED),
    (lambda token: b"Bearer " + token + b"A", Fault.SIGNATURE),
    (lambda token: b"Bearer " + token + b"AA", Fault.SIGNATURE),
    (lambda token: b"Bearer " + token + b"AAA", Fault.MALFORMED),
    (lambda token: b"Bearer " + token + b"AAAA", Fault.SIGNATURE),
    (lambda token: b"Bearer " + token + b"A" * 64 * 1024, Fault.TOO_LONG),
]


@pytest.mark.parametrize(("spoil", "fault"), FIELDS)
def test_fields(world: World, spoil: Callable[[bytes], bytes], fault: Fault) -> None:
    assert world.see(spoil(world.token().removeprefix(b"Bearer "))) is fault


def test_stray_bits_in_the_signature(world: World) -> None:
    """64 bytes end in a character of which two bits count, so three other spellings decode to the same."""
    alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    token = world.token()
    last = alphabet.index(token[-1:])
    twin = token[:-1] + alphabet[last + 1 : last + 2]
    pad = b"=="
    assert base64.urlsafe_b64decode(token.split(b".")[2] + pad) == base64.urlsafe_b64decode(
        twin.split(b".")[2] + pad
    )
    assert world.see(twin) is Fault.MALFORMED


def test_no_field(world: World) -> None:
    assert world.see(None) is Fault.MISSING


def test_the_longest_token(world: World) -> None:
    room = (MAX_TOKEN_BYTES - len(world.token({"pad": ""}, x=""))) * 3 // 4
    tokens = [
        world.token({"pad": "x" * (room + more)}, x="x" * extra) for extra in range(3) for more in range(10)
    ]
    lengths = {len(token) - len(b"Bearer "): token for token in tokens}
    assert isinstance(world.see(lengths[MAX_TOKEN_BYTES]), Claims)
    assert world.see(lengths[MAX_TOKEN_BYTES + 1]) is Fault.TOO_LONG
    assert world.see(world.token({f"claim{n}": n for n in range(10_000)})) is Fault.TOO_LONG


# The header.

HEADERS: list[tuple[dict[str, object], Fault | None]] = [
    ({}, None),
    ({"typ": None}, None),
    ({"typ": "jwt"}, None),
    ({"typ": "at+JWT"}, None),
    ({"typ": "application/jwt"}, None),
    ({"typ": "Application/AT+jwt"}, None),
    ({"typ": "JWE"}, Fault.TYPE),
    ({"typ": "dpop+jwt"}, Fault.TYPE),
    ({"typ": "logout+jwt"}, Fault.TYPE),
    ({"typ": ""}, Fault.TYPE),
    ({"typ": 1}, Fault.TYPE),
    ({"typ": ["JWT"]}, Fault.TYPE),
    ({"alg": None}, Fault.ALGORITHM),
    ({"alg": ""}, Fault.ALGORITHM),
    ({"alg": "es256"}, Fault.ALGORITHM),
    ({"alg": "ES256K"}, Fault.ALGORITHM),
    ({"alg": "HS512"}, Fault.ALGORITHM),
    ({"alg": "dir"}, Fault.ALGORITHM),
    ({"alg": 256}, Fault.ALGORITHM),
    ({"alg": True}, Fault.ALGORITHM),
    ({"alg": ["ES256"]}, Fault.ALGORITHM),
    ({"alg": {"ES256": 1}}, Fault.ALGORITHM),
    ({"alg": "ES384"}, Fault.UNKNOWN_KEY),
    ({"alg": "HS256"}, Fault.UNKNOWN_KEY),
    ({"alg": "RS256"}, Fault.UNKNOWN_KEY),
    ({"alg": "RS256", "kid": None}, Fault.SIGNATURE),
    ({"kid": None}, None),
    ({"kid": ""}, Fault.UNKNOWN_KEY),
    ({"kid": "other"}, Fault.UNKNOWN_KEY),
    ({"kid": "../../../dev/null"}, Fault.UNKNOWN_KEY),
    ({"kid": "' OR 1=1 --"}, Fault.UNKNOWN_KEY),
    ({"kid": "k" * 256}, Fault.UNKNOWN_KEY),
    ({"kid": "k" * 257}, Fault.KEY_ID),
    ({"kid": 0}, Fault.KEY_ID),
    ({"kid": False}, Fault.KEY_ID),
    ({"kid": []}, Fault.KEY_ID),
    ({"crit": ["exp"]}, Fault.CRITICAL),
    ({"crit": []}, Fault.CRITICAL),
    ({"crit": ["b64"], "b64": False}, Fault.CRITICAL),
    ({"b64": True}, Fault.CRITICAL),
    ({"jku": "https://evil.example/jwks.json", "x5u": "http://127.0.0.1:1/"}, None),
]


@pytest.mark.parametrize(("header", "fault"), HEADERS)
def test_headers(world: World, header: dict[str, object], fault: Fault | None) -> None:
    outcome = world.see(world.token(None, **header))
    assert outcome is fault if fault else isinstance(outcome, Claims)


@pytest.mark.parametrize("name", ["none", "None", "NONE", "nOnE", "none ", "no\u0000ne", "\uff4eone", ""])
@pytest.mark.parametrize("signature", [b"", b"AA", b"e30"])
def test_alg_none(world: World, name: str, signature: bytes) -> None:
    world.issuers[0] = Issuer("https://a.example", "gateway", ALGORITHMS | {name}, world.a)
    for verifier in (world.verifier, Verifier(world.issuers, world.clock)):
        signed = world.token(None, alg=name).rpartition(b".")[0]
        assert isinstance(verifier.examine(signed + b"." + signature), Fault)


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
def test_headers_of_no_one_reading(world: World, header: str | bytes) -> None:
    assert world.see(world.sign(header, json.dumps(CLAIMS))) is Fault.MALFORMED


# Whose key it is.


def public_forms(private: bytes) -> list[bytes]:
    """Every spelling of a public key that someone might have taken for a secret."""
    key = load_pem_private_key(private, None).public_key()
    pem = key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    der = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return [pem, pem.strip(), der, base64.b64encode(der)]


def test_key_confusion(world: World, pair: GetPair) -> None:
    private, public = pair("RS256")
    (jwk,) = json.loads(public)["keys"]
    forms = [*public_forms(private), public, json.dumps(jwk).encode(), jwk["n"].encode()]
    hmac = jwt.get_algorithm_by_name("HS256")
    for secret in forms:
        for kid in (jwk["kid"], None):
            signed = world.token(None, alg="HS256", kid=kid).removeprefix(b"Bearer ").rpartition(b".")[0]
            token = b"Bearer " + signed + b"." + write_base64url(hmac.sign(signed, secret))
            assert world.see(token) is Fault.UNKNOWN_KEY


def test_a_secret_issuer_takes_nothing_else(world: World) -> None:
    issuer = Issuer("https://a.example", "gateway", ALGORITHMS, Keys(parse_secret(SECRET)))
    verifier = Verifier([issuer], world.clock)
    assert verifier.examine(world.token()) is Fault.UNKNOWN_KEY
    assert verifier.examine(world.token(None, kid=None)) is Fault.UNKNOWN_KEY


def test_a_key_in_the_header_is_not_used(world: World) -> None:
    private, public = new_key("ES256")
    (jwk,) = json.loads(public)["keys"]
    parts = (json.dumps({"alg": "ES256", "jwk": jwk}).encode(), json.dumps(CLAIMS).encode())
    token = seal(b".".join(map(write_base64url, parts)), private)
    assert world.see(b"Bearer " + token) is Fault.SIGNATURE


def test_issuers_do_not_share_keys(world: World, pair: GetPair) -> None:
    other = pair("ES256", "other")[0]
    for kid, fault in [(kid_of(other), Fault.UNKNOWN_KEY), (kid_of(world.private), Fault.SIGNATURE)]:
        token = mint(other, "ES256", kid, CLAIMS)
        assert world.see(b"Bearer " + token.encode()) is fault
    mine = mint(other, "ES256", kid_of(other), CLAIMS | {"iss": "https://b.example"})
    assert isinstance(world.see(b"Bearer " + mine.encode()), Claims)
    assert world.see(world.token({"iss": "https://b.example"})) is Fault.UNKNOWN_KEY


def test_an_algorithm_the_issuer_does_not_list(world: World) -> None:
    assert world.see(world.token({"iss": "https://narrow.example"})) is Fault.ALGORITHM


def test_an_issuer_is_configured_once(world: World) -> None:
    with pytest.raises(ValueError, match=r"got https://a\.example twice"):
        Verifier([*world.issuers, world.issuers[0]], world.clock)


# The payload.

PAYLOADS: list[tuple[dict[str, object], Fault | None]] = [
    ({"iss": None}, Fault.ISSUER),
    ({"iss": "https://a.example/"}, Fault.ISSUER),
    ({"iss": "HTTPS://a.example"}, Fault.ISSUER),
    ({"iss": "https://a.example\u0000"}, Fault.ISSUER),
    ({"iss": ["https://a.example"]}, Fault.ISSUER),
    ({"iss": {"a": 1}}, Fault.ISSUER),
    ({"aud": None}, Fault.AUDIENCE),
    ({"aud": ""}, Fault.AUDIENCE),
    ({"aud": "Gateway"}, Fault.AUDIENCE),
    ({"aud": "gateway2"}, Fault.AUDIENCE),
    ({"aud": []}, Fault.AUDIENCE),
    ({"aud": ["other"]}, Fault.AUDIENCE),
    ({"aud": ["gateway", 1]}, Fault.AUDIENCE),
    ({"aud": [["gateway"]]}, Fault.AUDIENCE),
    ({"aud": {"gateway": 1}}, Fault.AUDIENCE),
    ({"aud": ["other", "gateway"]}, None),
    ({"sub": None}, None),
    ({"sub": ""}, None),
    ({"sub": "s" * 1024}, None),
    ({"sub": "s" * 1025}, Fault.SUBJECT),
    ({"sub": 7}, Fault.SUBJECT),
    ({"sub": ["bff"]}, Fault.SUBJECT),
    ({"exp": None}, Fault.TIMES),
    ({"exp": str(int(NOW) + 60)}, Fault.TIMES),
    ({"exp": True}, Fault.TIMES),
    ({"exp": [NOW + 60]}, Fault.TIMES),
    ({"exp": -1}, Fault.TIMES),
    ({"exp": 1e300}, Fault.TIMES),
    ({"exp": 10**400}, Fault.TIMES),
    ({"exp": (NOW + 60) * 1000}, Fault.TIMES),
    ({"exp": 253402300799}, None),
    ({"exp": 253402300800}, Fault.TIMES),
    ({"exp": 0}, Fault.EXPIRED),
    ({"exp": int(NOW) + 60}, None),
    ({"nbf": "0"}, Fault.TIMES),
    ({"nbf": False}, Fault.TIMES),
    ({"nbf": 10**400}, Fault.TIMES),
    ({"nbf": NOW}, None),
    ({"nbf": NOW + 0.001}, Fault.NOT_YET_VALID),
    ({"iat": "0"}, Fault.TIMES),
    ({"iat": True}, Fault.TIMES),
    ({"iat": NOW + 60}, None),
    ({"iat": NOW + 60.001}, Fault.NOT_YET_VALID),
    ({"deep": {"a": [{"b": [1]}]}}, None),
]


@pytest.mark.parametrize(("claims", "fault"), PAYLOADS, ids=lambda value: str(value)[:40])
def test_payloads(world: World, claims: dict[str, object], fault: Fault | None) -> None:
    outcome = world.see(world.token(claims))
    assert outcome is fault if fault else isinstance(outcome, Claims)


@pytest.mark.parametrize("name", ["exp", "nbf", "iat", "sub", "aud"])
def test_null_is_not_absence(world: World, name: str) -> None:
    payload = json.dumps(CLAIMS | {name: None})
    assert isinstance(world.see(world.sign('{"alg":"ES256"}', payload)), Fault)
    assert world.see(world.sign('{"alg":"ES256","kid":null}', json.dumps(CLAIMS))) is Fault.KEY_ID


@pytest.mark.parametrize(
    "extra",
    [
        '"sub":"admin"',
        '"exp":9999999999',
        '"x":NaN',
        '"x":-Infinity',
        '"x":1e999',
        '"x":"\\udc00"',
        '"x":' + "[" * 33 + "]" * 33,
        '"x":' + "[" * 2500 + "]" * 2500,
        '"x":' + "9" * 4400,
        '"x":01',
    ],
    ids=lambda value: value[:30],
)
def test_payloads_of_no_one_reading(world: World, extra: str) -> None:
    payload = json.dumps(CLAIMS).removesuffix("}") + "," + extra + "}"
    assert world.see(world.sign('{"alg":"ES256"}', payload)) is Fault.MALFORMED


# Time.


@pytest.mark.parametrize("leeway_s", [0.0, 30.0])
def test_the_edges_of_time(world: World, leeway_s: float) -> None:
    world = World(world.a, world.b, world.private, leeway_s=leeway_s)
    token = world.token({"nbf": NOW, "exp": NOW + 60})
    begin, end = NOW - leeway_s, NOW + 60 + leeway_s
    table = [(begin - 0.001, False), (begin, True), (end - 0.001, True), (end, False), (begin, True)]
    for _ in range(2):  # the second time from memory
        for now, good in table:
            world.clock.now = now
            assert isinstance(world.see(token), Claims) is good
    world.clock.now = end
    assert world.see(token) is Fault.EXPIRED
    world.clock.now = begin
    claims = world.see(token)
    assert isinstance(claims, Claims)
    assert claims.expires_at == end


# Memory.


def test_a_removed_key_refuses_at_once(world: World) -> None:
    token = world.token()
    assert isinstance(world.see(token), Claims)
    old, world.a.current = world.a.current, world.b.current
    assert world.see(token) is Fault.UNKNOWN_KEY
    world.a.current = old
    assert isinstance(world.see(token), Claims)


def test_a_good_token_is_verified_once(world: World) -> None:
    token = world.token()
    first, second = world.see(token), world.see(token)
    assert isinstance(first, Claims)
    assert first is second
    world.a.current = KeySet(world.a.current.keys)
    assert world.see(token) is not first


def test_refusals_are_not_remembered(world: World) -> None:
    world.see(world.token() + b"AAAA")
    assert len(world.verifier._memory) == 0


def test_the_memory_is_bounded(world: World) -> None:
    issuer = Issuer("https://a.example", "gateway", ALGORITHMS, Keys(parse_secret(SECRET)))
    verifier = Verifier([issuer], world.clock)
    head = write_base64url(b'{"alg":"HS256"}')
    hmac = jwt.get_algorithm_by_name("HS256")

    def poll(number: int, pad: str = "") -> None:
        signed = head + b"." + write_base64url(json.dumps(CLAIMS | {"sub": f"{number}", "pad": pad}).encode())
        token = b"Bearer " + signed + b"." + write_base64url(hmac.sign(signed, SECRET))
        assert isinstance(verifier.examine(token), Claims)

    for number in range(MEMORY_TOKENS + 100):
        poll(number)
    assert MEMORY_TOKENS <= len(verifier._memory) <= MEMORY_TOKENS + 10
    for number in range(2500):
        poll(number, "x" * 5500)
    assert len(verifier._memory) < 2500


# The port.


@pytest.mark.parametrize(
    ("changes", "reason", "because"),
    [
        ({"exp": 1}, Reason.TOKEN_EXPIRED, "expired"),
        ({"nbf": NOW + 1}, Reason.TOKEN_INVALID, "not-yet-valid"),
        ({"aud": "x"}, Reason.TOKEN_INVALID, "audience"),
    ],
)
def test_refusals_have_reasons(
    world: World, changes: dict[str, object], reason: Reason, because: str
) -> None:
    refusal = asyncio.run(world.verifier.verify(world.token(changes)))
    assert refusal == Refusal(reason, because=because)


def test_the_port(world: World) -> None:
    assert asyncio.run(world.verifier.verify(None)) == Refusal(Reason.TOKEN_MISSING, because="missing")
    assert asyncio.run(world.verifier.verify(b"x")) == Refusal(Reason.TOKEN_INVALID, because="malformed")
    assert asyncio.run(world.verifier.verify(world.token())) == world.see(world.token())


def test_an_expired_forgery_is_not_called_expired(world: World) -> None:
    assert world.see(world.token({"exp": 1}) + b"AAAA") is Fault.SIGNATURE


# Anything at all.

VERIFIER = Verifier(
    [
        Issuer(
            "https://a.example", "gateway", ALGORITHMS, Keys(parse_key_set(new_key("EdDSA")[1], ALGORITHMS))
        )
    ],
    Clock(),
)
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.sampled_from(["EdDSA", "HS256", "gateway"]),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)
headers = st.fixed_dictionaries({}, optional=dict.fromkeys(("alg", "typ", "kid", "crit"), json_values))
payloads = st.fixed_dictionaries(
    {}, optional=dict.fromkeys(("iss", "aud", "sub", "exp", "nbf", "iat"), json_values)
)


@given(
    st.binary()
    | st.binary().map(b"Bearer ".__add__)
    | st.text("aZ09-_.= ").map(lambda t: b"Bearer " + t.encode())
)
def test_bytes_never_verify(field: bytes) -> None:
    assert isinstance(VERIFIER.examine(field), Fault)


@given(headers, payloads, st.booleans(), st.binary(min_size=1, max_size=70))
def test_documents_never_verify(
    header: dict[str, object], payload: dict[str, object], likely: bool, signature: bytes
) -> None:
    if likely:
        header |= {"alg": "EdDSA"}
        payload |= {"iss": "https://a.example"}
    document = (json.dumps(header).encode(), json.dumps(payload).encode(), signature)
    outcome = VERIFIER.examine(b"Bearer " + b".".join(map(write_base64url, document)))
    assert isinstance(outcome, Fault)
    assert re.fullmatch("[a-z-]+", outcome.value)
