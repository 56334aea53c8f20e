"""Issuers of every kind in front of the whole gateway, and what clients are told whose tokens fail."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from gateway.app import SystemClock
from gateway.core.limits import Rate
from gateway.demo.stage import AUDIENCE, ISSUER, shipped_policies
from gateway.flights import landing
from gateway.identity.development import kid_of, mint, new_key
from gateway.identity.failures import Failures
from gateway.identity.fetching import Unfetched
from gateway.identity.remote import RemoteKeys
from gateway.identity.revocations import Revocations
from gateway.identity.tokens import Issuer, Verifier
from tests.identity_provider import (
    CA_FILE,
    DISCOVERY,
    FAILURES,
    KEYS,
    Provider,
    hangs,
    provider,
    response,
    says,
)
from tests.shows.keys import Peers, Place, everybody, one_round, rotate, somebody
from tests.shows.stand import Stand
from tests.simulation import Simulation
from tests.support import Response, Wire, World, account_path, message, until, world
from tests.virtual import virtual

pytestmark = pytest.mark.anyio

#: The policies with the clients of these tests, beside the shipped ones.
POLICIES = "policies-of-many"
SECRET = b"a secret of thirty-two bytes, or more"
SHARED = "https://shared.example"
HOUR_S = 3600


def trusting(folder: Path, *issuers: Mapping[str, object], **clients: Mapping[str, object]) -> dict[str, Any]:
    """Settings with these issuers beside the stage's own, and with clients that match what is said here."""
    shutil.copytree(shipped_policies(), folder / POLICIES)
    more = {
        name: {"match": match, "accounts": "*", "allow": ["account:read", "chat:read"]}
        for name, match in clients.items()
    }
    if more:
        # JSON is YAML, without the anchors that a dump of YAML would have.
        (folder / POLICIES / "clients" / "more.yaml").write_text(json.dumps({"clients": more}))
    own = {"issuer": ISSUER, "jwks": "jwks.json"}
    listed = [{"audience": AUDIENCE, "algorithms": ["ES256"], **issuer} for issuer in (own, *issuers)]
    return {"policies": POLICIES, "issuers": listed}


def at_url(its: Provider, **said: object) -> dict[str, object]:
    """An issuer whose keys are at a URL."""
    return {"issuer": its.issuer, "jwks_url": its.jwks_url, **said}


async def ask(it: World, token: str, path: str = "", **fields: str) -> Response:
    """What somebody gets with this token; `fields` with underscores for dashes."""
    it.tokens.add(token)
    named = {name.replace("_", "-"): value for name, value in fields.items()}
    target = account_path(path)
    return await it.ask("GET", target, {"authorization": f"Bearer {token}", **named}, subject=None)


def client_of(it: World) -> str:
    """Whom the gateway took the last request to be from."""
    return str([line for line in it.lines() if line["event"] == "request"][-1]["client"])


# -- several issuers -----------------------------------------------------------------------------------


async def test_issuers_of_every_kind_at_once(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(SECRET)
    async with provider() as fetched, provider(tmp_path / "tls") as discovered:
        settings = trusting(
            tmp_path,
            at_url(fetched),
            {"issuer": discovered.issuer, "oidc_discovery": True, "ca_file": f"tls/{CA_FILE}"},
            {"issuer": SHARED, "algorithms": ["HS256"], "secret_file": "secret"},
            fetched={"iss": fetched.issuer, "sub": "bff"},
            discovered={"iss": discovered.issuer, "sub": "bff"},
            shared={"iss": SHARED, "sub": "bff"},
        )
        said = {"iss": SHARED, "aud": AUDIENCE, "sub": "bff", "exp": int(time.time()) + 600}
        async with world(tmp_path, **settings) as it:
            tokens = {
                "bff": it.token(),
                "fetched": fetched.token(),
                "discovered": discovered.token(),
                "shared": mint(SECRET, "HS256", None, said),
            }
            for _ in range(3):
                for client, token in tokens.items():
                    assert (await ask(it, token)).status == 200
                    assert client_of(it) == client
            # Nobody's keys vouch for another's tokens.
            for token in (
                fetched.token(iss=ISSUER),
                fetched.token(iss=discovered.issuer),
                discovered.token(iss=fetched.issuer),
                discovered.token(iss=SHARED),
                mint(SECRET, "HS256", None, said | {"iss": fetched.issuer}),
                mint(SECRET[::-1], "HS256", None, said),
            ):
                assert (await ask(it, token)).problem == "token-invalid"
            # Once at the start; what named an unknown key may have had them looked at once more.
            assert 1 <= fetched.fetches <= 2
            assert 1 <= discovered.fetches == discovered.asked[DISCOVERY] <= 2


async def test_a_cluster_is_an_issuer(tmp_path: Path) -> None:
    """Its API server has a CA of its own, and gives its keys to those whom it knows."""
    (tmp_path / "sa-token").write_text("first\n")
    async with provider(tmp_path / "tls", algorithm="RS256") as cluster:
        cluster.wants = "first"
        its = {"ca_file": f"tls/{CA_FILE}", "bearer_token_file": "sa-token", "cooldown_s": 1}
        settings = trusting(
            tmp_path,
            {"issuer": cluster.issuer, "algorithms": ["RS256"], "oidc_discovery": True, **its},
            orders={"iss": cluster.issuer, "sub": {"prefix": "system:serviceaccount:shop:"}},
        )
        pod: dict[str, Any] = {
            "aud": [AUDIENCE, "https://kubernetes.default.svc"],
            "kubernetes.io": {"namespace": "shop", "serviceaccount": {"name": "orders"}},
        }
        async with world(tmp_path, **settings) as it:
            assert (await ask(it, cluster.token("system:serviceaccount:shop:orders", **pod))).status == 200
            assert client_of(it) == "orders"
            other = await ask(it, cluster.token("system:serviceaccount:shopping:orders", **pod))
            assert (other.status, other.problem) == (403, "no-client")
            assert not any("first" in line for line in it.log.getvalue().splitlines())
    assert {head.split(b" ")[1] for head in cluster.heads} == {DISCOVERY.encode(), KEYS.encode()}
    assert all(b"authorization: Bearer first\r\n" in head for head in cluster.heads)


@pytest.mark.parametrize(
    ("ca_file", "wants"), [(None, None), ("stranger/ca.pem", None), ("tls/ca.pem", "another")]
)
async def test_keys_from_whom_nobody_vouches_for_are_not_taken(
    tmp_path: Path, ca_file: str | None, wants: str | None
) -> None:
    async with provider(tmp_path / "stranger"), provider(tmp_path / "tls") as cluster:
        cluster.wants = wants
        issuer = at_url(cluster, **({} if ca_file is None else {"ca_file": ca_file}))
        settings = trusting(tmp_path, issuer, cluster={"iss": cluster.issuer})
        async with world(tmp_path, **settings) as it:
            answer = await ask(it, cluster.token())
            assert (answer.status, answer.problem) == (503, "keys-unavailable")
            assert int(answer.header("retry-after") or "0") >= 1
            assert answer.header("www-authenticate") is None
            assert (await it.get(account_path())).status == 200


# -- what an issuer may ask for ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("required", "typ", "is_taken"),
    [
        ("at+jwt", "at+jwt", True),
        ("at+jwt", "application/AT+JWT", True),
        ("at+jwt", "JWT", False),
        ("at+jwt", None, False),
        ("any", "at+jwt", True),
        ("any", "JWT", True),
        ("any", None, True),
        ("any", "logout+jwt", False),
    ],
)
async def test_token_type(tmp_path: Path, required: str, typ: str | None, is_taken: bool) -> None:
    async with provider() as its:
        settings = trusting(tmp_path, at_url(its, token_type=required), typed={"iss": its.issuer})
        async with world(tmp_path, **settings) as it:
            answer = await ask(it, its.token(header={"typ": typ}))
            assert (answer.status, answer.problem) == ((200, None) if is_taken else (401, "token-invalid"))


async def test_a_claim_that_names_the_client(tmp_path: Path) -> None:
    """Clients of the same match are told apart by name; and a name alone opens nothing."""
    async with provider() as its:
        match = {"iss": its.issuer, "scope": "chats"}
        settings = trusting(
            tmp_path,
            at_url(its, client_claim="azp"),
            one=match,
            two=match,
            three={"iss": its.issuer, "scope": "more"},
        )
        async with world(tmp_path, **settings) as it:
            for name in ("one", "two"):
                assert (await ask(it, its.token(scope="chats", azp=name))).status == 200
                assert client_of(it) == name
            # `bff` is another issuer's.
            for name in ("three", "four", "bff", "ONE"):
                answer = await ask(it, its.token(scope="chats", azp=name))
                assert (answer.status, answer.problem) == (403, "no-client")
            for said in ({}, {"azp": ""}, {"azp": ["one"]}, {"azp": None}, {"azp": "x" * 129}):
                answer = await ask(it, its.token(scope="chats", **said))
                assert (answer.status, answer.problem) == (401, "token-invalid")


@pytest.mark.parametrize(
    ("leeway_s", "claim", "off_s", "problem"),
    [
        (0, "exp", -10, "token-expired"),
        (30, "exp", -10, None),
        (30, "exp", -50, "token-expired"),
        (0, "nbf", 10, "token-invalid"),
        (30, "nbf", 10, None),
        (30, "nbf", 50, "token-invalid"),
    ],
)
async def test_leeway(tmp_path: Path, leeway_s: int, claim: str, off_s: int, problem: str | None) -> None:
    async with provider() as its:
        settings = trusting(tmp_path, at_url(its, leeway_s=leeway_s), late={"iss": its.issuer})
        async with world(tmp_path, **settings) as it:
            said: dict[str, Any] = {claim: int(time.time()) + off_s}
            assert (await ask(it, its.token(**said))).problem == problem


# -- what is said about it (RFC 6750 §3) ---------------------------------------------------------------

REALM = 'Bearer realm="chat-gateway"'
INVALID = REALM + ', error="invalid_token"'
NOT_ENOUGH = REALM + ', error="insufficient_scope"'


async def test_challenges(tmp_path: Path) -> None:
    (tmp_path / "revoked").write_text(json.dumps({"jti": "gone", "issuer": ISSUER}) + "\n")
    async with world(tmp_path, revocations={"file": "revoked"}) as it:
        for said, path, expected in (
            (None, "", (401, "token-missing", REALM)),
            (it.token(aud="another"), "", (401, "token-invalid", INVALID)),
            (it.token(lifetime_s=-9.0), "", (401, "token-expired", INVALID)),
            (it.token(jti="gone"), "", (401, "token-revoked", INVALID)),
            (it.token("nobody"), "", (403, "no-client", NOT_ENOUGH)),
            (it.token("partner"), "", (403, "action-denied", NOT_ENOUGH)),
            (it.token(), "/nothing", (404, "unknown-resource", None)),
            (it.token(), "", (200, None, None)),
        ):
            fields = {} if said is None else {"authorization": f"Bearer {said}"}
            for method in ("GET", "HEAD"):
                answer = await it.ask(method, account_path(path), fields, subject=None)
                told = (answer.status, answer.header("www-authenticate"))
                assert told == (expected[0], expected[2])
                assert method == "HEAD" or answer.problem == expected[1]


# -- failed tokens -------------------------------------------------------------------------------------


@dataclass
class Hands:
    """On the gateway's clock: how far it is ahead."""

    ahead_s: float = 0.0


@pytest.fixture
def hands(monkeypatch: pytest.MonkeyPatch) -> Hands:
    moved = Hands()
    monkeypatch.setattr(SystemClock, "now", lambda _: time.monotonic() + moved.ahead_s)
    return moved


def few(**said: object) -> dict[str, Any]:
    """Settings with which what is used up comes back so slowly that no test can see it by chance."""
    return {"failed_tokens": {"per_minute": 1, **said}}


async def use_up(wire: Wire, count: int, **fields: str) -> None:
    """So many tokens that are wrong."""
    named = {name.replace("_", "-"): value for name, value in fields.items()}
    for _ in range(count):
        answer = await wire.ask("GET", account_path(), {"authorization": "Bearer x", **named})
        assert (answer.status, answer.problem) == (401, "token-invalid")


async def test_the_sixty_first_bad_token_is_not_looked_at(tmp_path: Path, hands: Hands) -> None:
    async with world(tmp_path, **few()) as it, it.wire() as wire:
        kept = it.token(jti="kept")
        assert (await ask(it, kept)).status == 200
        await use_up(wire, 60)
        told = await wire.ask("GET", account_path(), {"authorization": "Bearer x"})
        assert (told.status, told.problem) == (429, "too-many-bad-tokens")
        assert told.header("www-authenticate") is None
        # A sound one would not be refused, were it looked at.
        assert (await ask(it, it.token(jti="new"))).problem == "too-many-bad-tokens"
        # Who is known goes on, and who sends nothing is told as ever.
        assert (await ask(it, kept)).status == 200
        assert (await wire.ask("GET", account_path())).problem == "token-missing"
        wait_s = int(told.header("retry-after") or "0")
        assert 50 <= wait_s <= 60
        hands.ahead_s += wait_s - 5
        assert (await ask(it, it.token(jti="too early"))).problem == "too-many-bad-tokens"
        hands.ahead_s += 5
        assert (await ask(it, it.token(jti="in time"))).status == 200
        assert it.upstream_requests() == 3


async def test_a_flood_costs_the_upstream_and_the_provider_nothing(tmp_path: Path) -> None:
    async with provider() as its:
        settings = trusting(tmp_path, at_url(its, cooldown_s=1), flood={"iss": its.issuer})
        async with world(tmp_path, **settings, **few(burst=5)) as it, it.wire() as wire:
            # The keys came after the start, for which everybody starts anew once.
            await use_up(wire, 5 + 5)
            fetches = its.fetches
            for number in range(20):
                answer = await ask(it, its.token(header={"kid": f"unknown-{number}"}))
                assert answer.status == 429
            assert its.fetches == fetches
            assert it.upstream_requests() == 0


async def test_who_waits_for_keys_is_counted_before(tmp_path: Path) -> None:
    async with provider() as its, contextlib.AsyncExitStack() as stack:
        settings = trusting(tmp_path, at_url(its, cooldown_s=1), flood={"iss": its.issuer})
        it = await stack.enter_async_context(world(tmp_path, **settings, **few(burst=5)))
        its.behaviour = hangs
        wires = [await stack.enter_async_context(it.wire()) for _ in range(20)]
        for number, wire in enumerate(wires):
            token = its.token(header={"kid": f"unknown-{number}"})
            it.tokens.add(token)
            await wire.send(message("GET", account_path(), {"authorization": f"Bearer {token}"}))
        told = [(await wire.response()).status for wire in wires]
        # Five, and five more for the keys that came since the start.
        assert (told.count(401), told.count(429)) == (10, 10)


async def test_each_peer_answers_for_itself(tmp_path: Path) -> None:
    """Behind a balancer that is trusted, the peer is whoever it heard last."""
    settings = few(burst=3) | {"trusted_proxies": ["127.0.0.1"]}
    async with world(tmp_path, **settings) as it, it.wire() as wire:
        await use_up(wire, 3, x_forwarded_for="198.51.100.1")
        for forwarded, status in (
            ("198.51.100.1", 429),
            # What a peer says about itself is before what the balancer appended.
            ("203.0.113.9, 198.51.100.1", 429),
            ("198.51.100.1, 203.0.113.9", 200),
            ("203.0.113.9", 200),
            ("2001:db8:1:2::1", 200),
        ):
            answer = await ask(it, it.token(jti=forwarded), x_forwarded_for=forwarded)
            assert (forwarded, answer.status) == (forwarded, status)
        # All addresses of a network /64 are one host's.
        await use_up(wire, 3, x_forwarded_for="2001:db8:1:2::1")
        for forwarded, status in (("2001:db8:1:2:ffff::1", 429), ("2001:db8:1:3::1", 200)):
            answer = await ask(it, it.token(jti=forwarded), x_forwarded_for=forwarded)
            assert (forwarded, answer.status) == (forwarded, status)
        assert (await ask(it, it.token(jti="the balancer's own"))).status == 200


async def test_nobody_else_says_whose_address_it_is(tmp_path: Path) -> None:
    async with world(tmp_path, **few(burst=3)) as it, it.wire() as wire:
        for number in range(3):
            await use_up(wire, 1, x_forwarded_for=f"198.51.100.{number}")
        answer = await ask(it, it.token(), x_forwarded_for="198.51.100.9")
        assert answer.status == 429


# -- issuers that change, and that fail ----------------------------------------------------------------


async def test_a_new_key_is_found_by_its_first_token(tmp_path: Path) -> None:
    async with provider() as its:
        settings = trusting(tmp_path, at_url(its, cooldown_s=1), late={"iss": its.issuer})
        async with world(tmp_path, **settings) as it:
            old = its.token()
            assert (await ask(it, old)).status == 200
            its.rotate(keep=1)
            assert (await ask(it, its.token())).status == 200
            assert (await ask(it, old)).status == 200
            assert its.fetches == 2


async def test_a_key_that_is_published_while_older_keys_are_fetched(tmp_path: Path) -> None:
    """The fetch under way left too early for it: another one is made for the first token by it."""
    may_go_on = asyncio.Event()

    async def slow(_: bytes, __: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        said = response(200, its.jwks())
        await may_go_on.wait()
        writer.write(said)

    async with provider() as its:
        settings = trusting(tmp_path, at_url(its, cooldown_s=1), late={"iss": its.issuer})
        async with world(tmp_path, **settings) as it, it.wire() as wire:
            its.behaviour = slow
            [remote] = it.gateway._key_sources.remotes.values()
            refreshing = asyncio.create_task(landing(remote._join()))
            await until(lambda: its.fetches == 2)
            its.rotate(keep=1)
            fields = {"authorization": f"Bearer {its.token()}"}
            await wire.send(message("GET", account_path(), fields))
            assert (await it.get(account_path())).status == 200  # answered after the head above was read
            may_go_on.set()
            assert (await wire.response()).status == 200
            await refreshing


async def test_a_removed_key_is_refused_at_the_next_request(tmp_path: Path) -> None:
    async with provider() as its:
        settings = trusting(tmp_path, at_url(its, cooldown_s=1), late={"iss": its.issuer})
        async with world(tmp_path, **settings) as it:
            old = its.token()
            assert (await ask(it, old)).status == 200
            its.rotate(keep=0)
            # It is good until the gateway knows, which a token by the new key brings about.
            assert (await ask(it, old)).status == 200
            assert (await ask(it, its.token())).status == 200
            assert (await ask(it, old)).problem == "token-invalid"
            assert (await ask(it, its.token())).status == 200


@pytest.mark.parametrize("name", FAILURES)
async def test_an_issuer_that_fails_keeps_its_clients(tmp_path: Path, name: str) -> None:
    async with provider() as its:
        settings = trusting(tmp_path, at_url(its, cooldown_s=1), late={"iss": its.issuer})
        async with world(tmp_path, **settings) as it:
            kept = its.token(jti="kept")
            assert (await ask(it, kept)).status == 200
            its.behaviour = FAILURES[name]
            assert (await ask(it, its.token(header={"kid": "unknown"}))).problem == "token-invalid"
            assert its.fetches == 2
            assert (await ask(it, kept)).status == 200
            assert (await ask(it, its.token(jti="new"))).status == 200
            [line] = [line for line in it.lines() if line["event"] == "keys not fetched"]
            assert line["issuer"] == its.issuer


async def test_an_issuer_that_hangs_keeps_nobody_waiting(tmp_path: Path) -> None:
    async with provider() as its:
        settings = trusting(tmp_path, at_url(its, cooldown_s=1), late={"iss": its.issuer})
        async with world(tmp_path, **settings) as it, contextlib.AsyncExitStack() as stack:
            assert (await ask(it, its.token())).status == 200
            its.behaviour = hangs
            unknown = its.token(header={"kid": "unknown"})
            it.tokens.add(unknown)
            patient = await stack.enter_async_context(it.wire())
            await patient.send(message("GET", account_path(), {"authorization": f"Bearer {unknown}"}))
            answer = asyncio.create_task(patient.response())
            await until(lambda: its.fetches == 2)
            # Sound tokens, known or not, and the other issuer's are answered while that one waits.
            for token in (its.token(), its.token(jti="new"), it.token()):
                assert (await ask(it, token)).status == 200
            assert not answer.done()
            assert (await answer).problem == "token-invalid"


async def test_an_issuer_that_is_late_at_the_start(tmp_path: Path) -> None:
    async with provider() as its:
        its.behaviour = FAILURES["down"]
        settings = trusting(tmp_path, at_url(its, cooldown_s=1), late={"iss": its.issuer})
        async with world(tmp_path, **settings) as it:
            early = await ask(it, its.token())
            assert (early.status, early.problem) == (503, "keys-unavailable")
            assert (await it.get(account_path())).status == 200
            its.behaviour = None
            await until(lambda: "keys fetched" in it.log.getvalue())
            assert (await ask(it, its.token())).status == 200


@pytest.mark.parametrize("named", ["jwks_url", "oidc_discovery"])
async def test_a_redirect_is_not_followed(tmp_path: Path, named: str) -> None:
    async with provider() as its, provider() as elsewhere:
        elsewhere.issuer = its.issuer
        target = f"location: {elsewhere.jwks_url}"
        its.behaviour = says(response(302, b"", target))
        issuer = at_url(its) if named == "jwks_url" else {"issuer": its.issuer, "oidc_discovery": True}
        settings = trusting(tmp_path, issuer, late={"iss": its.issuer})
        async with world(tmp_path, **settings) as it:
            assert (await ask(it, elsewhere.token())).problem == "keys-unavailable"
        assert elsewhere.heads == []


@virtual
async def test_an_hour_without_the_provider_refuses_nobody() -> None:
    """Polls with a token that is known, with new ones, and between strangers who ask for unknown keys."""
    private, jwks = new_key("ES256")
    asked: list[float] = []
    sim = Simulation()
    now, wall = sim.clock.now, sim.clock.wall

    async def fetch(_: str) -> bytes:
        asked.append(now())
        if now() > 1:
            raise Unfetched("down")
        return jwks

    def token(sub: str = "bff", kid: str = kid_of(private), **said: object) -> str:
        claims = {"iss": ISSUER, "aud": AUDIENCE, "sub": sub, "exp": wall() + 2 * HOUR_S}
        return mint(private, "ES256", kid, claims | said)

    keys = RemoteKeys(
        ISSUER, KEYS, frozenset({"ES256"}), fetch, now=now, random=lambda: 0.5, tell=lambda _: None
    )
    fetching = asyncio.create_task(keys.keep_fresh())
    failures = Failures(lambda: Rate(1.0, 60), now)
    issuer = Issuer(ISSUER, AUDIENCE, frozenset({"ES256"}), keys)
    sim.exchange._verifier = Verifier([issuer], wall, Revocations(None, None, wall), failures)
    chat, kept = sim.chat(), token()
    for second in range(HOUR_S):
        await asyncio.sleep(1)
        new = [token(jti=str(second))] if second % 60 == 0 else []
        for one in (kept, *new):
            assert (await sim.info(chat, authorization=f"Bearer {one}")).status == 200
        stranger = await sim.info(chat, authorization=f"Bearer {token(kid='unknown')}")
        assert stranger.status == 401
    fetching.cancel()
    await asyncio.wait((fetching,))
    assert keys.failures == len(asked) - 1
    # Every refresh_s, after the first failures sooner, and once a cooldown for strangers.
    assert keys.failures <= now() / 300 + 10 + now() / 10


# -- what can be counted of the show, without a look at the clock ----------------------------------------


@contextlib.asynccontextmanager
async def place(folder: Path) -> AsyncIterator[Place]:
    """What the show stands on, in one process."""
    async with provider() as its:
        settings = trusting(folder, at_url(its, cooldown_s=1), poller={"iss": its.issuer})
        async with world(folder, **settings, trusted_proxies=["127.0.0.1"]) as it:
            yield Place(Stand(it.addresses.public[1], it.server.port, its.token), its)


async def test_rotation_under_load_refuses_nobody(tmp_path: Path) -> None:
    async with place(tmp_path) as at:
        rotated = await rotate(at, rotations=1, every_s=1.5)
        assert rotated.is_ok(1), rotated


@pytest.mark.parametrize("peers", [everybody, somebody])
async def test_a_flood_of_unknown_keys_hurts_nobody(tmp_path: Path, peers: Callable[[], Peers]) -> None:
    async with place(tmp_path) as at:
        beside = await one_round(at, peers(), 1.5)
        assert beside.is_ok, beside
        assert beside.flood[401]
        # One peer's are not looked at any more, once it has sent so many.
        assert (beside.flood[429] > 0) == (peers is somebody)
