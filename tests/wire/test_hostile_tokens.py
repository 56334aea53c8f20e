"""Tokens that want to be taken for others (RFC 8725), or to hurt whoever reads them: over the whole gateway.

None of them may get an answer, cause a request, crash anything, or leave a trace of what it says.
"""

from __future__ import annotations

import asyncio
import base64
import json
import time
import zlib
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from gateway.demo.stage import AUDIENCE, ISSUER
from gateway.emulator import EmulatorConfig
from gateway.identity.development import kid_of, mint, new_key
from gateway.identity.documents import write_base64url
from tests.support import APP_KEY, Response, World, account_path, world

pytestmark = pytest.mark.anyio

#: Stands in each token somewhere, and must not stand anywhere else.
CANARY = "c4nary-b1rd-77"
SECRET = b"a secret of thirty-two bytes, or more"
RSA, SHARED, TYPED = "https://rsa.example", "https://shared.example", "https://typed.example"


@dataclass
class Forge:
    """What an attacker has: a key pair of his own, all public keys, and where he listens."""

    own: bytes
    ec: bytes
    rsa: bytes
    listens_at: str = ""
    visitors: list[object] = field(default_factory=list)

    def claims(self, **changes: object) -> dict[str, Any]:
        """What a good token says; changed, or left out for None."""
        said = {
            "iss": ISSUER,
            "aud": AUDIENCE,
            "sub": "bff",
            "exp": int(time.time()) + 600,
            "note": CANARY,
        } | changes
        return {name: value for name, value in said.items() if value is not None}

    def header(self, **changes: object) -> dict[str, Any]:
        fields = {"alg": "ES256", "typ": "JWT", "kid": kid_of(self.ec)} | changes
        return {name: value for name, value in fields.items() if value is not None}

    def signed(
        self, header: str | bytes | dict[str, Any], payload: str | bytes | dict[str, Any], key: bytes = b""
    ) -> str:
        """Truly signed by the issuer (or by `key`), whatever the parts say."""
        parts = part(header) + "." + part(payload)
        return parts + "." + signature(parts, key or self.ec)

    def own_jwk(self) -> dict[str, Any]:
        """The attacker's public key, under the issuer's own kid."""
        key = jwt.get_algorithm_by_name("ES256").prepare_key(self.own.decode())
        return {
            **jwt.get_algorithm_by_name("ES256").to_jwk(key.public_key(), as_dict=True),
            "kid": kid_of(self.ec),
            "use": "sig",
        }


def part(said: str | bytes | dict[str, Any]) -> str:
    text = json.dumps(said) if isinstance(said, dict) else said
    return write_base64url(text.encode() if isinstance(text, str) else text).decode()


def signature(signed: str, private: bytes) -> str:
    algorithm = jwt.get_algorithm_by_name("ES256")
    return write_base64url(algorithm.sign(signed.encode(), algorithm.prepare_key(private.decode()))).decode()


def hmac(header: dict[str, Any], payload: dict[str, Any], secret: bytes) -> str:
    """PyJWT refuses to sign with what looks like a public key, so by hand."""
    parts = part(header) + "." + part(payload)
    algorithm = jwt.get_algorithm_by_name("HS256")
    return parts + "." + write_base64url(algorithm.sign(parts.encode(), secret)).decode()


Named = Iterator[tuple[str, str]]


def sizes(forge: Forge) -> Named:
    yield "64 KB", forge.signed(forge.header(), forge.claims(pad="x" * 48_000))
    yield "64 KB of signature", forge.signed(forge.header(), forge.claims()) + "A" * 64_000
    yield "64 KB of header", forge.signed(forge.header(pad="x" * 48_000), forge.claims())
    yield "64 KB of dots", "." * 64_000
    yield "10,000 claims", forge.signed(forge.header(), forge.claims(**{f"c{n}": 0 for n in range(10_000)}))
    yield "10,000 audiences", forge.signed(forge.header(), forge.claims(aud=[AUDIENCE] * 10_000))
    inflating = zlib.compress(b" " * 10_000_000, wbits=-15)[:3000]
    yield "a compressed payload", forge.signed(forge.header(zip="DEF"), inflating)


def nesting(forge: Forge) -> Named:
    head = json.dumps(forge.claims())[:-1]
    for name, depth, opening, closing in (
        ("33 arrays", 33, "[", "]"),
        ("2,900 arrays", 2900, "[", "]"),
        ("5,800 arrays that are not closed", 5800, "[", ""),
        ("900 objects", 900, '{"a":', "}"),
    ):
        inner = opening * depth + ("1" if closing == "}" else "") + closing * depth
        yield f"{name} in the payload", forge.signed(forge.header(), f'{head}, "x": {inner}}}')
        yield f"{name} in the header", forge.signed(f'{{"alg":"ES256","x":{inner}}}', forge.claims())
        yield f"{name} as the payload", forge.signed(forge.header(), inner)


def unsigned(forge: Forge) -> Named:
    spellings = ["none", "None", "NONE", "nOnE", " none", "none ", "no\u0000ne", "\uff4eone", "n\u043ene", ""]
    for alg in (*spellings, None, 0, ["none"], ["ES256", "none"], {"alg": "none"}, True):
        told = json.dumps({"typ": "JWT", "alg": alg, "kid": kid_of(forge.ec)})
        body = part(told) + "." + part(forge.claims())
        yield f"alg {alg!r}, no signature", body + "."
        yield f"alg {alg!r}, a signature", forge.signed(told, forge.claims())
    absent = part({"typ": "JWT"}) + "." + part(forge.claims())
    yield "no alg", absent + "." + signature(absent, forge.ec)
    yield "two parts", part({"alg": "none"}) + "." + part(forge.claims())
    good = forge.signed(forge.header(), forge.claims())
    yield "no signature", good.rpartition(".")[0] + "."
    yield "a signature of zeros", good.rpartition(".")[0] + "." + part(bytes(64))
    yield "alg twice, none last", forge.signed('{"alg":"ES256","alg":"none"}', forge.claims())
    yield "alg twice, none first", forge.signed('{"alg":"none","alg":"ES256"}', forge.claims())


def confusion(forge: Forge) -> Named:
    """What is public is no secret; what is a secret is no public key."""
    for issuer, private in ((ISSUER, forge.ec), (RSA, forge.rsa), (SHARED, forge.rsa)):
        kid, key = kid_of(private), load_pem_private_key(private, None).public_key()
        spki = PublicFormat.SubjectPublicKeyInfo
        pem, der = key.public_bytes(Encoding.PEM, spki), key.public_bytes(Encoding.DER, spki)
        name = "RS256" if private == forge.rsa else "ES256"
        jwk = jwt.get_algorithm_by_name(name).to_jwk(key, as_dict=True)
        published = json.dumps({"keys": [{**jwk, "kid": kid, "use": "sig", "alg": name}]}).encode()
        forms = {
            "PEM": pem,
            "PEM without its last newline": pem.strip(),
            "PEM with other newlines": pem.replace(b"\n", b"\r\n"),
            "DER": der,
            "DER in base64": base64.b64encode(der),
            "JWK": json.dumps(jwk).encode(),
            "JWK, packed": json.dumps(jwk, separators=(",", ":"), sort_keys=True).encode(),
            "JWKS": published,
            "the modulus or x": str(jwk.get("n") or jwk.get("x")).encode(),
            "nothing": b"",
        }
        for form, secret in forms.items():
            for named in (kid, None):
                header = {name: said for name, said in (("alg", "HS256"), ("kid", named)) if said}
                yield f"{issuer}, {form}, {named is None}", hmac(header, forge.claims(iss=issuer), secret)
    yield "the secret of another issuer", mint(SECRET, "HS256", kid_of(forge.ec), forge.claims())
    for alg in ("RS256", "PS256", "ES384", "HS256", "HS512", "EdDSA", "RSA1_5", "A256GCM"):
        yield f"ES256 that says {alg}", forge.signed(forge.header(alg=alg), forge.claims())
    yield "ES256 for the secret", forge.signed(forge.header(), forge.claims(iss=SHARED))


def brought_along(forge: Forge) -> Named:
    """Keys in the header, or pointed to from there, signed by whose they are."""
    url, jwk = forge.listens_at, forge.own_jwk()
    brought: dict[str, object] = {
        "jwk": jwk,
        "jku": f"{url}/jwks.json",
        "x5u": f"{url}/chain.pem",
        "x5c": [base64.b64encode(b"certificate").decode()],
    }
    extra: Iterable[tuple[str, dict[str, object]]] = (
        *((name, {name: value}) for name, value in brought.items()),
        ("all of them", {**brought, "x5t": "AA", "x5t#S256": "AA"}),
        ("kid that is a URL", {"kid": f"{url}/jwks.json"}),
        ("kid that is a path", {"kid": "../../../../dev/null"}),
        ("kid that is a query", {"kid": "' OR 1=1 --"}),
        ("kid with a line break", {"kid": f"a\r\nx-evil: {CANARY}"}),
        ("kid of 10,000 characters", {"kid": "k" * 5_000}),
        ("kid that is no text", {"kid": {"kid": 1}}),
    )
    for name, said in extra:
        yield name, forge.signed(forge.header(**said), forge.claims(), forge.own)
        yield (
            f"{name}, without kid",
            forge.signed(
                {n: v for n, v in forge.header(**said).items() if n != "kid"}, forge.claims(), forge.own
            ),
        )
    yield "an issuer that is a URL", forge.signed(forge.header(), forge.claims(iss=url), forge.own)


def extensions(forge: Forge) -> Named:
    for name, said in (
        ("crit", {"crit": ["exp"]}),
        ("crit of an unknown one", {"crit": ["x-evil"], "x-evil": True}),
        ("crit without content", {"crit": []}),
        ("crit that is no list", {"crit": "b64"}),
        ("crit that is null", {"crit": None}),
        ("b64", {"b64": False, "crit": ["b64"]}),
        ("b64 without crit", {"b64": False}),
        ("b64 that changes nothing", {"b64": True}),
    ):
        yield name, forge.signed(json.dumps(forge.header() | said), forge.claims())
    head = part({"alg": "ES256", "b64": False, "crit": ["b64"]})
    bare = f"{head}.{json.dumps(forge.claims(), separators=(',', ':'))}"
    yield "a payload that is not encoded", f"{bare}.{signature(bare, forge.ec)}"
    detached = forge.signed(forge.header(), forge.claims()).split(".")
    yield "a detached payload", f"{detached[0]}..{detached[2]}"
    for kind in ("logout+jwt", "dpop+jwt", "secevent+jwt", "id_token+jwt", "JOSE", "", "at", 7):
        yield f"typ {kind!r}", forge.signed(forge.header(typ=kind), forge.claims())
    yield "not the type that is required", forge.signed(forge.header(), forge.claims(iss=TYPED))
    for name, fields in (
        ("dir", {"alg": "dir", "enc": "A256GCM"}),
        ("RSA-OAEP", {"alg": "RSA-OAEP", "enc": "A256GCM", "zip": "DEF"}),
        (
            "PBES2 with many rounds",
            {"alg": "PBES2-HS256+A128KW", "enc": "A128GCM", "p2c": 2**31, "p2s": "AA"},
        ),
    ):
        body = part(forge.claims())
        yield f"JWE, {name}", f"{part(fields)}.{body}.{part(b'iv')}.{body}.{part(b'tag')}"
        yield f"JWE, {name}, no key", f"{part(fields)}..{part(b'iv')}.{body}.{part(b'tag')}"
        yield f"JWE in three parts, {name}", f"{part(fields)}.{body}.{part(b'tag')}"
    good = forge.signed(forge.header(), forge.claims())
    yield (
        "a JWS in JSON",
        json.dumps(dict(zip(("protected", "payload", "signature"), good.split("."), strict=True))),
    )
    yield "a JWT in a JWT", forge.signed(forge.header(cty="JWT"), good)


def readings(forge: Forge) -> Named:
    """Documents that two readers would read differently."""
    payload = json.dumps(forge.claims())[:-1]
    for name, extra in (
        ("sub twice", '"sub": "partner"'),
        ("sub twice, escaped", '"s\\u0075b": "bff"'),
        ("iss twice", f'"iss": "{RSA}"'),
        ("exp twice", '"exp": 9999999999'),
        ("twice, deep inside", '"x": {"a": {"b": 1, "b": 2}}'),
        ("NaN", '"x": NaN'),
        ("Infinity", '"x": -Infinity'),
        ("a number beyond a float", '"x": 1e999'),
        ("digits without end", '"x": ' + "9" * 4400),
        ("a lone surrogate", '"x": "\\udc00"'),
        ("a leading zero", '"x": 01'),
        ("a comment", '"x": 1 /* y */'),
        ("a comma too many", '"x": 1,'),
    ):
        yield name, forge.signed(forge.header(), f"{payload}, {extra}}}")
    for name, header in (
        ("kid twice", f'{{"alg":"ES256","kid":"x","kid":"{kid_of(forge.ec)}"}}'),
        ("typ twice", '{"alg":"ES256","typ":"JWT","typ":"JWT"}'),
        ("NaN in the header", '{"alg":"ES256","x":NaN}'),
        ("a header that is a list", '["ES256"]'),
        ("a header that is a text", '"ES256"'),
        ("no header", ""),
        ("a byte order mark", b'\xef\xbb\xbf{"alg":"ES256"}'),
        ("UTF-16", '{"alg":"ES256"}'.encode("utf-16")),
        ("no UTF-8", b'{"alg":"ES256","x":"\xff"}'),
    ):
        yield name, forge.signed(header, forge.claims())
    for name, body in (
        ("a payload that is a list", "[1]"),
        ("a payload that is null", "null"),
        ("no payload", ""),
        ("two payloads", f"{payload}}}{payload}}}"),
        ("a payload in UTF-16", f"{payload}}}".encode("utf-16")),
        ("a payload that is no UTF-8", payload.encode() + b', "x": "\xc0\xaf"}'),
    ):
        yield name, forge.signed(forge.header(), body)
    good = forge.signed(forge.header(), forge.claims())
    yield "padding", good + "="
    yield "padding inside", good.replace(".", "=.", 1)
    yield "the other alphabet", good.rpartition(".")[0] + "." + "+/" * 43
    yield "stray bits", good[:-1] + chr(ord(good[-1]) + 1)
    yield "an empty part more", good + "."
    yield "a line of base64", ".".join(f"{one[:60]} {one[60:]}" for one in good.split("."))


def wrong_claims(forge: Forge) -> Named:
    """Truly signed, with claims of other types, or for somebody else."""
    for name, values in {
        "iss": [f"{ISSUER}/", ISSUER.upper(), "", "https://evil.example", RSA, SHARED, 7, None, [ISSUER], {}],
        "aud": [
            "",
            "Chat-Gateway",
            f"{AUDIENCE} ",
            "another",
            7,
            True,
            None,
            [],
            [[AUDIENCE]],
            [AUDIENCE, 7],
            {},
        ],
        "exp": ["4000000000", "soon", True, None, [4_000_000_000], -1, 4e15, 0, 1, {}],
        "nbf": ["0", True, [0], 4_000_000_000, 4e15, {}],
        "iat": ["0", True, [0], 4_000_000_000, {}],
        "sub": [7, True, ["bff"], {"bff": 1}, "s" * 1025],
        "jti": [7, True, ["1"], {}, "j" * 1025],
    }.items():
        for value in values:
            yield f"{name} {str(value)[:40]!r}", forge.signed(forge.header(), forge.claims(**{name: value}))
    # The issuer's right subject, said by another issuer, who may say such things of his own clients only.
    yield "the right sub of another issuer", mint(forge.rsa, "RS256", kid_of(forge.rsa), forge.claims())
    yield "a stranger's key under the right kid", forge.signed(forge.header(), forge.claims(), forge.own)
    others = forge.signed(forge.header(), forge.claims(sub="internal")).split(".")
    mine = forge.signed(forge.header(), forge.claims()).split(".")
    yield "another token's signature", ".".join([*mine[:2], others[2]])
    yield "another token's payload", ".".join([mine[0], others[1], mine[2]])


def strangers(forge: Forge) -> Named:
    """Good tokens of clients that there are not."""
    for sub in ("nobody", "BFF", "bff ", "bff\u0000", "b\u0444f", "", "*", "bff,internal"):
        yield f"sub {sub!r}", forge.signed(forge.header(), forge.claims(sub=sub))
    yield "no sub", forge.signed(forge.header(), forge.claims(sub=None))
    yield "a sub of an issuer with none", mint(SECRET, "HS256", None, forge.claims(iss=SHARED))


KINDS: Mapping[str, Callable[[Forge], Named]] = {
    "sizes": sizes,
    "nesting": nesting,
    "unsigned": unsigned,
    "confusion": confusion,
    "brought along": brought_along,
    "extensions": extensions,
    "readings": readings,
    "wrong claims": wrong_claims,
    "strangers": strangers,
}


@pytest.fixture(scope="module")
async def forge() -> AsyncIterator[Forge]:
    it = Forge(new_key("ES256")[0], b"", new_key("RS256")[0])

    async def welcome(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        it.visitors.append(writer.get_extra_info("peername"))
        writer.close()

    async with await asyncio.start_server(welcome, "127.0.0.1", 0) as listening:
        it.listens_at = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
        yield it


@pytest.fixture(scope="module")
async def besieged(tmp_path_factory: pytest.TempPathFactory, forge: Forge) -> AsyncIterator[World]:
    """Issuers of every kind, so that their rules could be mixed up; and no limit that hides the rest."""
    folder = tmp_path_factory.mktemp("besieged")
    (folder / "rsa.json").write_bytes(published(forge.rsa))
    (folder / "secret").write_bytes(SECRET)
    rows: tuple[dict[str, object], ...] = (
        {"issuer": ISSUER, "algorithms": ["ES256"], "jwks": "jwks.json"},
        {"issuer": RSA, "algorithms": ["RS256"], "jwks": "rsa.json"},
        {"issuer": SHARED, "algorithms": ["HS256"], "secret_file": "secret"},
        {"issuer": TYPED, "algorithms": ["ES256"], "jwks": "jwks.json", "token_type": "at+jwt"},
    )
    settings: dict[str, Any] = {
        "issuers": [{"audience": AUDIENCE, **row} for row in rows],
        "failed_tokens": {"per_minute": 100_000, "burst": 100_000},
    }
    async with world(folder, emulator=EmulatorConfig(app_key=APP_KEY), **settings) as it:
        forge.ec = it.stage.private_key
        yield it


def published(private: bytes) -> bytes:
    """The JWKS of an RSA key."""
    key = load_pem_private_key(private, None).public_key()
    jwk = jwt.get_algorithm_by_name("RS256").to_jwk(key, as_dict=True)
    return json.dumps({"keys": [{**jwk, "kid": kid_of(private), "use": "sig", "alg": "RS256"}]}).encode()


@pytest.fixture
async def here(besieged: World, forge: Forge) -> AsyncIterator[World]:
    """The module's world with nothing counted; afterwards it is as well as before."""
    besieged.start_over()
    besieged.received.clear()
    yield besieged
    assert besieged.upstream_requests() == 0
    assert forge.visitors == []
    # A good token is good still.
    assert (await besieged.ask("GET", account_path())).status == 200
    exposed = (await besieged.admin("/metrics")).body.decode()
    assert "chat_gateway_crashes_total 0.0\n" in exposed
    assert not [line for line in besieged.lines() if line["level"] in {"warning", "error"}]
    assert CANARY not in seen(besieged) + exposed


def seen(it: World) -> str:
    """All that was logged, and all that anybody was told."""
    return it.log.getvalue() + b"\n".join(it.received).decode("latin-1")


async def told(it: World, token: str) -> Response:
    """What somebody gets who sends this, on a connection of its own."""
    return await it.ask("GET", account_path(), {"authorization": f"Bearer {token}"}, subject=None)


@pytest.mark.parametrize("kind", KINDS)
async def test_no_such_token_gets_in(here: World, forge: Forge, kind: str) -> None:
    tokens = list(KINDS[kind](forge))
    expected = (403, "no-client") if kind == "strangers" else (401, "token-invalid")
    surprises = {}
    for name, token in tokens:
        answer = await told(here, token)
        if (answer.status, answer.problem) not in {expected, *ALSO.get(name, ())}:
            surprises[name] = (answer.status, answer.problem)
    assert surprises == {}
    left = seen(here) + (await here.admin("/metrics")).body.decode()
    for name, token in tokens:
        assert not [piece for piece in token.split(".") if len(piece) > 16 and piece in left], name


#: What truly is another fault.
ALSO = {
    **{f"exp {value!r}": {(401, "token-expired")} for value in ("0", "1")},
    # No head is that large.
    **{
        name: {(431, "head-too-large")}
        for name in (
            *("64 KB", "64 KB of dots", "64 KB of header", "64 KB of signature"),
            *("10,000 audiences", "10,000 claims"),
        )
    },
}


async def test_the_good_ones_do(besieged: World, forge: Forge) -> None:
    """Each of those above is one of these, spoiled."""
    good = {
        "as it is": forge.signed(forge.header(), forge.claims()),
        "without kid": forge.signed(forge.header(kid=None), forge.claims()),
        "without typ": forge.signed(forge.header(typ=None), forge.claims()),
        "several audiences": forge.signed(forge.header(), forge.claims(aud=["another", AUDIENCE])),
        "32 levels": forge.signed(
            forge.header(), json.dumps(forge.claims())[:-1] + ', "x": ' + "[" * 31 + "]" * 31 + "}"
        ),
        "600 claims": forge.signed(forge.header(), forge.claims(**{f"{n}": 0 for n in range(500)})),
        "with keys that nobody looks at": forge.signed(
            forge.header(jwk=forge.own_jwk(), jku=forge.listens_at, x5u=forge.listens_at), forge.claims()
        ),
    }
    for name, token in good.items():
        assert ((await told(besieged, token)).status, name) == (200, name)
    # Good for their issuers, who have no clients here.
    for token in (
        mint(forge.rsa, "RS256", kid_of(forge.rsa), forge.claims(iss=RSA)),
        mint(SECRET, "HS256", None, forge.claims(iss=SHARED)),
        forge.signed(forge.header(typ="at+jwt"), forge.claims(iss=TYPED)),
    ):
        assert (await told(besieged, token)).problem == "no-client"
    assert forge.visitors == []
    # The listener would have heard a caller.
    host, _, port = forge.listens_at.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    await reader.read()
    writer.close()
    assert forge.visitors
    forge.visitors.clear()


# -- around the token ----------------------------------------------------------------------------------

INVALID, MISSING, DOUBLED = (401, "token-invalid"), (401, "token-missing"), (400, "malformed-header")
UNREADABLE, GOOD = (400, "malformed-request"), (200, None)
#: The lines of a head, with {} for a good token; and what is said to it.
FIELDS: Mapping[str, tuple[str, tuple[int, str | None]]] = {
    "as it is": ("authorization: Bearer {}", GOOD),
    "in other letters": ("AUTHORIZATION: bEARER {}", GOOD),
    "with space around it": ("authorization: \t Bearer {} \t", GOOD),
    "twice": ("authorization: Bearer {}\r\nauthorization: Bearer {}", DOUBLED),
    "beside another": ("authorization: Basic eDp5\r\nauthorization: Bearer {}", DOUBLED),
    "beside nothing": ("authorization:\r\nauthorization: Bearer {}", DOUBLED),
    "far from another": ("authorization: Bearer {}\r\naccept: */*\r\nAuthorization: x", DOUBLED),
    "two in one": ("authorization: Bearer {}, Bearer {}", INVALID),
    "after another": ("authorization: Basic eDp5, Bearer {}", INVALID),
    "without scheme": ("authorization: {}", INVALID),
    "Basic": ("authorization: Basic {}", INVALID),
    "DPoP": ("authorization: DPoP {}", INVALID),
    "JWT": ("authorization: JWT {}", INVALID),
    "the vendor's": ("authorization: LivePerson appKey={}", INVALID),
    "scheme twice": ("authorization: Bearer Bearer {}", INVALID),
    "colon": ("authorization: Bearer: {}", INVALID),
    "equals": ("authorization: Bearer={}", INVALID),
    "quoted": ('authorization: Bearer "{}"', INVALID),
    "a parameter": ("authorization: Bearer {}, realm=x", INVALID),
    "two spaces": ("authorization: Bearer  {}", INVALID),
    "a tab": ("authorization: Bearer\t{}", INVALID),
    "no space": ("authorization: Bearer{}", INVALID),
    "a space that is none": ("authorization: Bearer\xa0{}", INVALID),
    "a byte beyond": ("authorization: Bearer {}\xff", INVALID),
    "folded": ("authorization: Bearer\r\n {}", UNREADABLE),
    "NUL": ("authorization: Bearer \x00{}", UNREADABLE),
    "space before the colon": ("authorization : Bearer {}", UNREADABLE),
    "another field": ("x-authorization: Bearer {}", MISSING),
    "for a proxy": ("proxy-authorization: Bearer {}", MISSING),
    "a cookie": ("cookie: access_token={}", MISSING),
    "an underscore": ("http_authorization: Bearer {}", MISSING),
    "forwarded": ("x-forwarded-authorization: Bearer {}\r\nx-access-token: {}", MISSING),
}


@pytest.mark.parametrize("name", FIELDS)
async def test_fields(besieged: World, forge: Forge, name: str) -> None:
    besieged.start_over()
    lines, expected = FIELDS[name]
    token = forge.signed(forge.header(), forge.claims())
    besieged.tokens.add(token)
    async with besieged.wire() as wire:
        head = f"GET {account_path()} HTTP/1.1\r\nhost: a\r\n{lines.replace('{}', token)}\r\n\r\n"
        await wire.send(head.encode("latin-1"))
        answer = await wire.response()
    assert (answer.status, answer.problem) == expected
    assert besieged.upstream_requests() == (expected == GOOD)


@pytest.mark.parametrize("name", ["access_token", "token", "jwt", "authorization", "Bearer"])
async def test_a_token_in_the_query_is_none(here: World, forge: Forge, name: str) -> None:
    token = forge.signed(forge.header(), forge.claims())
    here.tokens.add(token)
    target = f"{account_path()}?{name}={token}"
    assert (await here.ask("GET", target, subject=None)).problem == "token-missing"
    # Nor does it stand beside a good one.
    assert (await here.get(target)).problem == "malformed-query"
    form = {"content-type": "application/x-www-form-urlencoded"}
    body = f"{name}={token}".encode()
    answer = await here.ask("POST", account_path("/chat/request"), form, body, subject=None)
    assert answer.problem == "token-missing"
    assert token not in seen(here)
