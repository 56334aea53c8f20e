"""From an Authorization field to claims: what was signed by nobody says nothing.

The first byte says what the rest is: a token; or a header, a payload and a signature, a line each, the
first two still to be encoded, with the true signature of another token, with one made from the public
key as if it were a secret (CVE-2016-10555 and its kind), or truly signed.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Coroutine
from typing import Any

from gateway.core.access import Claims
from gateway.core.errors import Refusal
from gateway.identity.development import new_key
from gateway.identity.documents import write_base64url
from gateway.identity.keys import ALGORITHMS
from gateway.identity.keysets import parse_key_set
from tests.identity.world import CLAIMS, NOW, PEER, Keys, World

PRIVATE, PUBLIC = new_key("ES256")
KEYS = Keys(parse_key_set(PUBLIC, ALGORITHMS))
WORLD = World(KEYS, KEYS, PRIVATE)
GOOD = WORLD.token().removeprefix(b"Bearer ")
SIGNED, _, SIGNATURE = GOOD.rpartition(b".")
HEADER = b'{"alg": "ES256", "typ": "JWT"}'
PAYLOAD = json.dumps(CLAIMS).encode()
RAW, STOLEN, CONFUSED, SIGNED_HERE = b"T", b"S", b"C", b"H"
SEEDS = [
    RAW + GOOD,
    RAW + GOOD[:-4] + b"AAAA",
    RAW + SIGNED + b".",
    *(kind + HEADER + b"\n" + PAYLOAD for kind in (STOLEN, CONFUSED, SIGNED_HERE)),
    CONFUSED + b'{"alg": "HS256"}\n' + PAYLOAD,
    RAW + write_base64url(b'{"alg": "none"}') + b"." + write_base64url(PAYLOAD) + b".",
    SIGNED_HERE + HEADER + b'\n{"iss": "https://a.example", "aud": ["x", "gateway"], "exp": 1e12, "nbf": 0}',
    SIGNED_HERE + b'{"alg": "ES256", "crit": ["b64"], "b64": false, "jwk": {}}\n' + PAYLOAD,
]


def check(data: bytes) -> None:
    kind, rest = data[:1], data[1:]
    header, _, payload = rest.partition(b"\n")
    signed = write_base64url(header) + b"." + write_base64url(payload)
    if kind == SIGNED_HERE:
        outcome = _verified(WORLD.sign(header, payload))
        assert isinstance(outcome, Refusal) or _may_stand(header, payload), outcome
    elif kind in {STOLEN, CONFUSED}:
        mac = hmac.digest(PUBLIC, signed, hashlib.sha256)
        signature = SIGNATURE if kind == STOLEN else write_base64url(mac)
        assert isinstance(_verified(b"Bearer " + signed + b"." + signature), Refusal) or signed == SIGNED
    else:
        outcome = _verified(b"Bearer " + rest)
        assert isinstance(outcome, Refusal) or rest.rpartition(b".")[0] == SIGNED, outcome


def _verified(authorization: bytes) -> Claims | Refusal:
    outcome = _done(WORLD.verifier.verify(authorization, PEER))
    assert isinstance(outcome, Claims) or 400 <= outcome.reason.status <= 503, outcome
    return outcome


def _done(work: Coroutine[Any, Any, Claims | Refusal]) -> Claims | Refusal:
    """The outcome of what waits for nothing: a loop for each would take longer than the rest."""
    try:
        work.send(None)
    except StopIteration as done:
        outcome: Claims | Refusal = done.value
        return outcome
    raise AssertionError("it waits")


def _may_stand(header: bytes, payload: bytes) -> bool:
    """What a token must say at the least, whoever signed it (RFC 8725)."""
    said, claims = json.loads(header), json.loads(payload)
    audiences = claims["aud"] if isinstance(claims["aud"], list) else [claims["aud"]]
    return (
        said["alg"] == "ES256"
        and "crit" not in said
        and claims["iss"] in {issuer.issuer for issuer in WORLD.issuers}
        and "gateway" in audiences
        and claims["exp"] > NOW
        and claims.get("nbf", 0) <= NOW
    )
