from __future__ import annotations

import asyncio
import base64
import gc
import itertools
import json
import re
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jwt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.access import Claims
from gateway.core.errors import Reason, Refusal
from gateway.core.limits import Rate
from gateway.identity import tokens
from gateway.identity.development import kid_of, mint, new_key
from gateway.identity.documents import size_of, write_base64url
from gateway.identity.keys import ALGORITHMS
from gateway.identity.keysets import KeySet, parse_key_set, parse_secret
from gateway.identity.revocations import Revocations
from gateway.identity.tokens import (
    INTERNED_BYTES,
    KEYS_RETRY_AFTER_S,
    MAX_TOKEN_BYTES,
    Fault,
    Issuer,
    Verifier,
)
from tests.identity.world import CLAIMS, NOW, PEER, SECRET, GetPair, Keys, World, examine, verifier


@pytest.mark.parametrize("algorithm", sorted(ALGORITHMS))
def test_each_algorithm(pair: GetPair, algorithm: str) -> None:
    if algorithm == "HS256":
        key, keys, kid = SECRET, parse_secret(SECRET), None
    else:
        key, public = pair(algorithm)
        keys, kid = parse_key_set(public, frozenset({algorithm})), kid_of(key)
    issuer = Issuer("https://a.example", "gateway", frozenset({algorithm}), Keys(keys))
    its = verifier(issuer)
    token = mint(key, algorithm, kid, CLAIMS).encode()
    outcome = examine(its, b"Bearer " + token)
    assert isinstance(outcome, Claims)
    assert outcome.values == CLAIMS
    assert outcome.expires_at == NOW + 60
    for place in (0, len(token) // 2, len(token) - 4):
        broken = token[:place] + (b"A" if token[place : place + 1] != b"A" else b"B") + token[place + 1 :]
        assert isinstance(examine(its, b"Bearer " + broken), Fault)


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


def test_an_issuer_is_configured_once(world: World) -> None:
    with pytest.raises(ValueError, match=r"got https://a\.example twice"):
        verifier(*world.issuers, world.issuers[0])


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
    ({"jti": ""}, None),
    ({"jti": "j" * 1024}, None),
    ({"jti": "j" * 1025}, Fault.JTI),
    ({"jti": 7}, Fault.JTI),
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


@pytest.mark.parametrize("name", ["exp", "nbf", "iat", "sub", "aud", "jti"])
def test_null_is_not_absence(world: World, name: str) -> None:
    payload = json.dumps(CLAIMS | {name: None})
    assert isinstance(world.see(world.sign('{"alg":"ES256"}', payload)), Fault)
    assert world.see(world.sign('{"alg":"ES256","kid":null}', json.dumps(CLAIMS))) is Fault.KEY_ID


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


# Who the token is for.


@pytest.mark.parametrize("said", ["bff", "b", "c" * 128])
def test_the_claim_that_names_the_client(world: World, said: str) -> None:
    claims = world.see(world.token({"iss": "https://names.example", "client_id": said}))
    assert isinstance(claims, Claims)
    assert claims.client == said


@pytest.mark.parametrize("said", [None, "", "c" * 129, 7, True, ["bff"], {"bff": 1}])
def test_a_claim_that_names_no_client(world: World, said: object) -> None:
    assert world.see(world.token({"iss": "https://names.example", "client_id": said})) is Fault.CLIENT


def test_without_such_a_claim_nobody_is_named(world: World) -> None:
    claims = world.see(world.token({"client_id": "bff"}))
    assert isinstance(claims, Claims)
    assert claims.client is None


# Memory.


def test_a_removed_key_refuses_at_once(world: World) -> None:
    token = world.token()
    claims = world.ask(token)
    assert isinstance(claims, Claims)
    assert claims.stands()
    old, world.a.current = world.a.current, world.b.current
    assert not claims.stands()
    assert world.ask(token) == Refusal(Reason.TOKEN_INVALID, because="unknown-key")
    world.a.current = old
    assert isinstance(world.ask(token), Claims)


def test_a_good_token_is_verified_once(world: World) -> None:
    token = world.token()
    first, second = world.ask(token), world.ask(token)
    assert isinstance(first, Claims)
    assert first is second
    assert world.a.current is not None
    world.a.current = KeySet(world.a.current.keys)
    assert world.ask(token) is not first


def test_a_token_is_remembered_once_however_bearer_is_spelled(world: World) -> None:
    token = world.token()
    _, _, bare = token.partition(b" ")
    assert isinstance(world.ask(bare), Refusal)
    for scheme in (b"Bearer", b"bearer", b"BEARER", b"bEaReR"):
        assert isinstance(world.ask(scheme + b" " + bare), Claims)
    assert len(world.verifier._memory) == 1
    # What is no bearer token is none, also when the same token was good.
    for spoiled in (bare, b"Basic " + bare, b"Bearer  " + bare, b"Bearer\t" + bare):
        assert isinstance(world.ask(spoiled), Refusal)


def test_refusals_are_not_remembered(world: World) -> None:
    world.ask(world.token() + b"AAAA")
    assert len(world.verifier._memory) == 0


def test_only_what_would_be_accepted_now_is_known(world: World) -> None:
    token = world.token({"exp": NOW + 1})
    assert world.verifier.known(token) is None
    claims = world.ask(token)
    assert world.verifier.known(token) == claims
    assert world.verifier.known(token + b"AAAA") is None
    world.clock.now += 1
    assert world.verifier.known(token) is None
    other = world.token()
    world.ask(other)
    # Its key is gone.
    world.a.current = KeySet(())
    assert world.verifier.known(other) is None


HMAC = jwt.get_algorithm_by_name("HS256")


def remembering(**settings: Any) -> Verifier:
    """One to which it is quickly proven who somebody is."""
    return verifier(
        Issuer("https://a.example", "gateway", ALGORITHMS, Keys(parse_secret(SECRET))), **settings
    )


def quick(**changes: object) -> bytes:
    """A token for it."""
    payload = write_base64url(json.dumps(CLAIMS | changes).encode())
    signed = write_base64url(b'{"alg":"HS256"}') + b"." + payload
    return b"Bearer " + signed + b"." + write_base64url(HMAC.sign(signed, SECRET))


def by_subject(claims: Claims) -> str:
    return str(claims.values["sub"]).partition("-")[0]


def test_who_has_many_tokens_pushes_out_only_his_own() -> None:
    its = remembering(owner=by_subject, max_bytes=100_000)
    few = [quick(sub=f"few-{number}") for number in range(10)]
    kept = [examine(its, token) for token in few]
    for number in range(200):
        assert isinstance(examine(its, quick(sub=f"many-{number}")), Claims)
    assert [examine(its, token) for token in few] == kept
    assert all(examine(its, token) is claims for token, claims in zip(few, kept, strict=True))
    assert 90_000 < its._memory.weight <= 100_000
    first, last = examine(its, quick(sub="many-0")), examine(its, quick(sub="many-199"))
    assert first is examine(its, quick(sub="many-0"))
    assert last is examine(its, quick(sub="many-199"))
    assert len(its._memory) < 200


def test_a_token_that_is_larger_than_its_share_is_verified_each_time() -> None:
    its, token = remembering(max_bytes=2000), quick(pad="x" * 2000)
    assert examine(its, token) == examine(its, token)
    assert len(its._memory) == 0


TOKENS: dict[str, Callable[[int], dict[str, object]]] = {
    "short": lambda n: {"sub": f"{n}"},
    "ordinary": lambda n: {"sub": f"service-{n}", "jti": f"{n:032}", "iat": n, "scope": "read write"},
    "nested": lambda n: {"sub": f"s{n}", "roles": [f"r{n}", {"a": [n + 0.5]}]},
    "wide": lambda n: {f"claim-{m}": f"{m}-{n}" for m in range(30)},
}


@pytest.mark.parametrize("kind", TOKENS)
def test_no_token_takes_more_memory_than_it_weighs(kind: str) -> None:
    sent = [quick(**TOKENS[kind](number)) for number in range(500)]

    async def poll(its: Verifier) -> None:
        for token in sent:
            await its.verify(token, PEER)

    tracemalloc.start()
    try:
        its = [remembering(max_bytes=10**9)]
        asyncio.run(poll(its[0]))
        weight = its[0]._memory.weight
        # What goes with it is what it held; others in this process take memory meanwhile, too.
        gc.collect()
        held, _ = tracemalloc.get_traced_memory()
        its.clear()
        gc.collect()
        left, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held - left <= weight <= 2 * (held - left)


def test_what_tokens_say_alike_is_held_once() -> None:
    its = remembering()
    one, other = examine(its, quick(department="a")), examine(its, quick(department="b"))
    assert isinstance(one, Claims)
    assert isinstance(other, Claims)
    assert list(map(id, one.values)) == list(map(id, other.values))
    assert one.values["iss"] is other.values["iss"]
    assert one.values["aud"] is other.values["aud"]


def test_who_brings_a_new_name_pays_for_it() -> None:
    its, weights = remembering(), [0]
    name = "-".join("name")  # made here, as Python interns what stands in a program
    for number in range(3):
        assert isinstance(examine(its, quick(jti=f"{number}", **{name: 1})), Claims)
        weights.append(its._memory.weight)
    first, second, third = (after - before for before, after in itertools.pairwise(weights))
    assert first == second + INTERNED_BYTES + size_of([name])
    assert second == third


def test_long_headers_are_not_kept() -> None:
    its = remembering()
    for pad, kept in ((300, 1), (400, 0)):
        before = tokens._usual_header.cache_info().misses
        header = write_base64url(json.dumps({"alg": "HS256", "pad": "x" * pad}).encode())
        signed = header + b"." + write_base64url(json.dumps(CLAIMS).encode())
        token = b"Bearer " + signed + b"." + write_base64url(HMAC.sign(signed, SECRET))
        assert isinstance(examine(its, token), Claims)
        assert tokens._usual_header.cache_info().misses == before + kept


# Other issuers.


def test_other_issuers_while_running(world: World) -> None:
    token = world.token()
    kept = world.ask(token)
    assert isinstance(kept, Claims)
    world.verifier.trust([Issuer("https://a.example", "gateway", ALGORITHMS, world.a), world.issuers[1]])
    assert kept.stands()
    assert world.ask(token) is kept
    world.verifier.trust([Issuer("https://a.example", "elsewhere", ALGORITHMS, world.a)])
    assert not kept.stands()
    assert world.ask(token) == Refusal(Reason.TOKEN_INVALID, because="audience")
    world.verifier.trust([])
    assert world.ask(token) == Refusal(Reason.TOKEN_INVALID, because="issuer")
    assert not kept.stands()


# Revocation.


@pytest.mark.parametrize("named", [{"jti": "j1"}, {"sub": "bff"}], ids=str)
def test_a_revoked_token(world: World, tmp_path: Path, named: dict[str, str]) -> None:
    revocations = Revocations(None, tmp_path / "journal", world.clock)
    world.verifier = verifier(*world.issuers, clock=world.clock, revocations=revocations)
    token, other = world.token({"jti": "j1"}), world.token({"jti": "j2", "sub": "other"})
    for _ in range(2):  # the second time from memory
        claims = world.ask(token)
        assert isinstance(claims, Claims)
        asyncio.run(revocations.record(named | {"issuer": "https://a.example"}))
        assert not claims.stands()
        assert world.ask(token) == Refusal(Reason.TOKEN_REVOKED, because="revoked")
        assert isinstance(world.ask(other), Claims)
        asyncio.run(revocations.record(named | {"issuer": "https://a.example", "withdrawn": True}))
        assert claims.stands()


def test_names_are_those_of_one_issuer_and_one_kind(world: World, tmp_path: Path) -> None:
    revocations = Revocations(None, tmp_path / "journal", world.clock)
    world.verifier = verifier(*world.issuers, clock=world.clock, revocations=revocations)
    asyncio.run(revocations.record({"sub": "bff", "issuer": "https://b.example"}))
    asyncio.run(revocations.record({"jti": "bff", "issuer": "https://a.example"}))
    asyncio.run(revocations.record({"client": "bff"}))
    assert isinstance(world.ask(world.token({"jti": "j1"})), Claims)


# Keys that are yet to come.


def test_an_unknown_key_is_looked_for_once(world: World) -> None:
    assert world.ask(world.token(None, kid="new")) == Refusal(Reason.TOKEN_INVALID, because="unknown-key")
    assert world.a.renewals == 1
    assert isinstance(world.ask(world.token()), Claims)
    assert world.a.renewals == 1


def test_a_token_whose_key_comes_is_good(world: World) -> None:
    world.a.current, world.a.coming = world.b.current, world.a.current
    assert isinstance(world.ask(world.token()), Claims)
    assert world.a.renewals == 1


def test_a_forgery_waits_for_no_keys(world: World) -> None:
    world.ask(world.token() + b"AAAA")
    world.ask(world.token(None, alg="none"))
    world.ask(world.token({"iss": "https://elsewhere.example"}, kid="new"))
    assert world.a.renewals == world.b.renewals == 0


def test_a_good_token_does_not_wait_while_another_does(world: World) -> None:
    class Slow(Keys):
        async def renew(self) -> None:
            await asyncio.Event().wait()

    async def run() -> None:
        world.verifier.trust([Issuer("https://a.example", "gateway", ALGORITHMS, Slow(world.a.current))])
        waiting = asyncio.create_task(world.verifier.verify(world.token(None, kid="new"), PEER))
        await asyncio.sleep(0)
        for token in (world.token(), world.token({"sub": "other"})):
            # Nothing that would have to wait could be driven by hand.
            with pytest.raises(StopIteration) as end:
                world.verifier.verify(token, PEER).send(None)
            assert isinstance(end.value.value, Claims)
        assert not waiting.done()
        waiting.cancel()

    asyncio.run(run())


def test_no_keys_to_be_had(world: World) -> None:
    token = world.token()
    claims = world.ask(token)
    assert isinstance(claims, Claims)
    keys, world.a.current = world.a.current, None
    expected = Refusal(Reason.KEYS_UNAVAILABLE, because="keys-unavailable", retry_after_s=KEYS_RETRY_AFTER_S)
    assert world.ask(token) == expected
    assert not claims.stands()
    assert world.a.renewals == 1
    world.a.coming = keys
    assert isinstance(world.ask(token), Claims)


# Tokens that are not accepted.


def few(world: World) -> World:
    """Three may be wrong at once, and one more every 10 s."""
    world.verifier = verifier(*world.issuers, clock=world.clock, rate=Rate(0.1, 3))
    return world


BAD = [
    b"x",
    b"Bearer " + b"A" * MAX_TOKEN_BYTES * 2,
    b"Bearer e30.e30.e30",
]


@pytest.mark.parametrize("bad", BAD, ids=["malformed", "too-long", "no issuer"])
def test_too_many_bad_tokens(world: World, bad: bytes) -> None:
    few(world)
    kept, fresh = world.token(), world.token({"jti": "new"})
    assert isinstance(world.ask(kept), Claims)
    for _ in range(3):
        refusal = world.ask(bad)
        assert isinstance(refusal, Refusal)
        assert refusal.reason is Reason.TOKEN_INVALID
    expected = Refusal(Reason.TOO_MANY_BAD_TOKENS, because="too-many-bad-tokens", retry_after_s=10.0)
    assert world.ask(bad) == expected
    assert world.ask(fresh) == expected
    assert isinstance(world.ask(kept), Claims)
    assert isinstance(world.ask(fresh, "192.0.2.2"), Claims)
    world.clock.now += 10.001
    assert isinstance(world.ask(world.token({"jti": "newer"})), Claims)


@pytest.mark.parametrize(
    ("changes", "header", "because"),
    [
        ({"exp": 1}, {}, "expired"),
        ({"aud": "x"}, {}, "audience"),
        ({}, {"kid": "new"}, "unknown-key"),
        ({}, {"alg": "none"}, "algorithm"),
    ],
)
def test_every_bad_token_counts(
    world: World, changes: dict[str, object], header: dict[str, object], because: str
) -> None:
    few(world)
    told = [world.ask(world.token(changes, **header)) for _ in range(4)]
    assert [refusal.because for refusal in told if isinstance(refusal, Refusal)] == [
        because,
        because,
        because,
        "too-many-bad-tokens",
    ]


def test_what_is_no_bad_token_does_not_count(world: World) -> None:
    few(world)
    for _ in range(5):
        assert world.ask(None) == Refusal(Reason.TOKEN_MISSING, because="missing")
    world.a.current = None
    for _ in range(10):
        refusal = world.ask(world.token())
        assert isinstance(refusal, Refusal)
        assert refusal.reason is Reason.KEYS_UNAVAILABLE


def test_a_remembered_token_that_has_expired_does_not_count(world: World) -> None:
    few(world)
    token = world.token({"exp": NOW + 1})
    assert isinstance(world.ask(token), Claims)
    world.clock.now += 1
    for _ in range(5):
        assert world.ask(token) == Refusal(Reason.TOKEN_EXPIRED, because="expired")
    assert isinstance(world.ask(world.token()), Claims)


def test_new_keys_forgive(world: World) -> None:
    """Who was ahead of the keys sent good tokens, as is known once they are here."""
    assert world.a.current is not None
    full, world.a.current = world.a.current, KeySet(world.a.current.keys[1:])
    few(world)
    token = world.token()
    told = [world.ask(token) for _ in range(4)]
    assert isinstance(told[-1], Refusal)
    assert told[-1].reason is Reason.TOO_MANY_BAD_TOKENS
    world.a.current = full
    assert isinstance(world.ask(token), Claims)
    assert isinstance(world.ask(world.token({"jti": "another"})), Claims)


def test_a_remembered_token_is_looked_at_again_under_new_keys(world: World) -> None:
    few(world)
    token = world.token()
    assert isinstance(world.ask(token), Claims)
    assert world.a.current is not None
    world.a.current = KeySet(world.a.current.keys)
    for _ in range(4):
        world.ask(b"x")
    assert isinstance(world.ask(token), Claims)


def test_a_remembered_token_is_not_forgotten_while_there_are_no_keys(world: World) -> None:
    few(world)
    token = world.token()
    assert isinstance(world.ask(token), Claims)
    keys, world.a.current = world.a.current, None
    world.ask(token)
    world.a.current = keys
    for _ in range(4):
        world.ask(b"x")
    assert isinstance(world.ask(token), Claims)


def test_a_remembered_token_that_is_good_no_more_is_forgotten(world: World) -> None:
    few(world)
    token = world.token()
    assert isinstance(world.ask(token), Claims)
    world.a.current = world.b.current
    told = [world.ask(token) for _ in range(10)]
    assert isinstance(told[-1], Refusal)
    assert told[-1].reason is Reason.TOO_MANY_BAD_TOKENS


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
    assert world.ask(world.token(changes)) == Refusal(reason, because=because)


def test_the_port(world: World) -> None:
    assert world.ask(None) == Refusal(Reason.TOKEN_MISSING, because="missing")
    assert world.ask(b"x") == Refusal(Reason.TOKEN_INVALID, because="malformed")
    assert world.ask(world.token()) == world.see(world.token())


def test_an_expired_forgery_is_not_called_expired(world: World) -> None:
    assert world.see(world.token({"exp": 1}) + b"AAAA") is Fault.SIGNATURE


# Anything at all.

VERIFIER = verifier(
    Issuer("https://a.example", "gateway", ALGORITHMS, Keys(parse_key_set(new_key("EdDSA")[1], ALGORITHMS)))
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
    {}, optional=dict.fromkeys(("iss", "aud", "sub", "exp", "nbf", "iat", "jti"), json_values)
)


@given(
    st.binary()
    | st.binary().map(b"Bearer ".__add__)
    | st.text("aZ09-_.= ").map(lambda t: b"Bearer " + t.encode())
)
def test_bytes_never_verify(field: bytes) -> None:
    assert isinstance(examine(VERIFIER, field), Fault)


@given(headers, payloads, st.booleans(), st.binary(min_size=1, max_size=70))
def test_documents_never_verify(
    header: dict[str, object], payload: dict[str, object], likely: bool, signature: bytes
) -> None:
    if likely:
        header |= {"alg": "EdDSA"}
        payload |= {"iss": "https://a.example"}
    document = (json.dumps(header).encode(), json.dumps(payload).encode(), signature)
    outcome = examine(VERIFIER, b"Bearer " + b".".join(map(write_base64url, document)))
    assert isinstance(outcome, Fault)
    assert re.fullmatch("[a-z-]+", outcome.value)
