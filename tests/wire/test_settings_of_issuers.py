"""Whose tokens are believed: each setting of an issuer, said at first or while the gateway runs."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.demo.stage import AUDIENCE, ISSUER
from gateway.identity.development import kid_of, mint, new_key
from tests.identity_provider import CA_FILE, DISCOVERY, provider
from tests.proxy import proxying
from tests.reloading import WHEN, changeable, say
from tests.support import (
    Response,
    World,
    account_path,
    policies_with,
)

pytestmark = pytest.mark.anyio

OTHER = "https://other.example"


async def ask_as(it: World, key: bytes, algorithm: str = "ES256", **said: object) -> Response:
    """What somebody gets for a token that says what the stage's own says, but for this."""
    claims = {"iss": ISSUER, "aud": AUDIENCE, "sub": "bff", "exp": int(it.stage.wall()) + 600} | said
    token = mint(key, algorithm, kid_of(key) if algorithm == "ES256" else None, claims)
    it.tokens.add(token)
    return await it.ask("GET", account_path(), {"authorization": f"Bearer {token}"}, subject=None)


def issuer(**said: object) -> list[dict[str, object]]:
    """`issuers` as the stage has it, but for this; None leaves a setting out."""
    usual = {"issuer": ISSUER, "audience": AUDIENCE, "algorithms": ["ES256"], "jwks": "jwks.json"}
    return [{name: value for name, value in (usual | said).items() if value is not None}]


@contextlib.asynccontextmanager
async def with_issuers(
    folder: Path, when: str, rows: list[dict[str, object]], policies: str | None = None
) -> AsyncIterator[World]:
    """A world with these issuers from the start, or from now on."""
    said = {"issuers": rows, **({} if policies is None else {"policies": policies})}
    async with changeable(folder, **(said if when == "from the start" else {})) as it:
        if when == "while it runs":
            # What was good until now has to be looked at again.
            assert (await ask_as(it, it.stage.private_key)).status == 200
            say(it, **said)
            await it.gateway.reloading.look_again()
        yield it


@WHEN
async def test_issuer(tmp_path: Path, when: str) -> None:
    of_other = policies_with(tmp_path / "of-other", ISSUER, OTHER)
    async with with_issuers(tmp_path, when, issuer(issuer=OTHER), of_other) as it:
        assert (await ask_as(it, it.stage.private_key, iss=OTHER)).status == 200
        assert (await ask_as(it, it.stage.private_key)).problem == "token-invalid"


@WHEN
async def test_audience(tmp_path: Path, when: str) -> None:
    async with with_issuers(tmp_path, when, issuer(audience="another")) as it:
        assert (await ask_as(it, it.stage.private_key, aud="another")).status == 200
        assert (await ask_as(it, it.stage.private_key)).problem == "token-invalid"


@WHEN
async def test_algorithms(tmp_path: Path, when: str) -> None:
    """A bare RSA key fits six algorithms; the issuer has one of them."""
    private, jwks = new_key("PS256")
    [members] = json.loads(jwks)["keys"]
    (tmp_path / "rsa.json").write_text(json.dumps({"keys": [{n: members[n] for n in ("kty", "n", "e")}]}))
    async with with_issuers(tmp_path, when, issuer(algorithms=["PS256"], jwks="rsa.json")) as it:
        assert (await ask_as(it, private, "PS256")).status == 200
        assert (await ask_as(it, private, "RS256")).problem == "token-invalid"


@WHEN
async def test_jwks(tmp_path: Path, when: str) -> None:
    private, jwks = new_key("ES256")
    (tmp_path / "other.json").write_bytes(jwks)
    async with with_issuers(tmp_path, when, issuer(jwks="other.json")) as it:
        assert (await ask_as(it, private)).status == 200
        assert (await ask_as(it, it.stage.private_key)).problem == "token-invalid"


@WHEN
async def test_secret_file(tmp_path: Path, when: str) -> None:
    secret = b"a secret of thirty-two bytes, or more"
    (tmp_path / "secret").write_bytes(secret)
    shared = issuer(algorithms=["HS256"], jwks=None, secret_file="secret")
    async with with_issuers(tmp_path, when, shared) as it:
        assert (await ask_as(it, secret, "HS256")).status == 200
        assert (await ask_as(it, secret[::-1], "HS256")).problem == "token-invalid"
        assert (await ask_as(it, it.stage.private_key)).problem == "token-invalid"
        # And so is a change of the secret itself.
        (tmp_path / "secret").write_bytes(secret[::-1])
        await it.gateway.reloading.look_again()
        assert (await ask_as(it, secret[::-1], "HS256")).status == 200
        assert (await ask_as(it, secret, "HS256")).problem == "token-invalid"


@WHEN
@pytest.mark.parametrize(("leeway_s", "problem"), [(0, "token-expired"), (60, None)])
async def test_leeway_s(tmp_path: Path, leeway_s: int, problem: str | None, when: str) -> None:
    async with with_issuers(tmp_path, when, issuer(leeway_s=leeway_s)) as it:
        expired = int(it.stage.wall()) - 20
        assert (await ask_as(it, it.stage.private_key, exp=expired)).problem == problem


@WHEN
async def test_token_type(tmp_path: Path, when: str) -> None:
    async with with_issuers(tmp_path, when, issuer(token_type="at+jwt")) as it:
        assert (await ask_as(it, it.stage.private_key)).problem == "token-invalid"


@WHEN
async def test_client_claim(tmp_path: Path, when: str) -> None:
    async with with_issuers(tmp_path, when, issuer(client_claim="azp")) as it:
        assert (await ask_as(it, it.stage.private_key, azp="bff")).status == 200
        assert (await ask_as(it, it.stage.private_key, azp="partner")).problem == "no-client"
        assert (await ask_as(it, it.stage.private_key)).problem == "token-invalid"


@WHEN
@pytest.mark.parametrize("how", ["jwks_url", "oidc_discovery"])
async def test_keys_that_are_fetched(tmp_path: Path, how: str, when: str) -> None:
    """By whom, with what, and how often; what comes of that is tested where keys are fetched."""
    async with provider(tmp_path / "tls") as theirs:
        theirs.wants = "the-fetchers-token"
        (tmp_path / "bearer").write_text(theirs.wants)
        of_theirs = policies_with(tmp_path / "of-theirs", ISSUER, theirs.issuer)
        rows = issuer(
            issuer=theirs.issuer,
            jwks=None,
            **{how: theirs.jwks_url if how == "jwks_url" else True},
            ca_file=f"tls/{CA_FILE}",
            bearer_token_file="bearer",
            refresh_s=70,
            cooldown_s=7,
            max_stale_s=700,
        )
        async with with_issuers(tmp_path, when, rows, of_theirs) as it:
            token = theirs.token()
            it.tokens.add(token)
            asked = {"authorization": f"Bearer {token}"}
            assert (await it.ask("GET", account_path(), asked, subject=None)).status == 200
            assert theirs.asked[DISCOVERY] == (how == "oidc_discovery")
            [keys] = it.gateway._key_sources.remotes.values()
            assert (keys._refresh_s, keys._cooldown_s, keys._max_stale_s) == (70, 7, 700)


@WHEN
async def test_the_way_to_keys(tmp_path: Path, when: str) -> None:
    async with provider() as theirs, proxying() as proxy:
        of_theirs = policies_with(tmp_path / "of-theirs", ISSUER, theirs.issuer)
        rows = issuer(issuer=theirs.issuer, jwks=None, jwks_url=theirs.jwks_url, proxy=proxy.url)
        async with with_issuers(tmp_path, when, rows, of_theirs) as it:
            token = theirs.token()
            it.tokens.add(token)
            asked = {"authorization": f"Bearer {token}"}
            assert (await it.ask("GET", account_path(), asked, subject=None)).status == 200
            assert len(proxy.heads) == theirs.fetches == 1
