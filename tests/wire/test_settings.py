"""Each setting, changed: what a client of the running gateway sees of it.

Those that are not here are seen changing where their matter is tested.
"""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

import pytest

from gateway.app import Gateway, configure, running
from gateway.demo.stage import AUDIENCE, ISSUER, set_stage
from gateway.emulator import EmulatorConfig, Fault
from gateway.identity.development import kid_of, mint, new_key
from gateway.observe.logs import logger
from tests.support import (
    APP_KEY,
    FRESH_S,
    PUBLIC_URL,
    Response,
    Wire,
    World,
    account_path,
    chat_path,
    links_of,
    policies_with,
    short_lived,
    until,
    world,
)

pytestmark = pytest.mark.anyio

LINK_HOST = "chat.elsewhere.example"


async def of_a_pause(it: World) -> object:
    """The pause that a client is told, of the four seconds that the upstream wants."""
    it.emulator.fail(Fault(status=429, retry_after="4"))
    return (await it.get(account_path())).header("retry-after")


async def of_a_long_answer(it: World) -> object:
    """Whether an answer of over a megabyte is kept."""
    target = chat_path(it.chat(), "/info")
    it.emulator.fail(Fault(body=json.dumps({"info": {"state": "ended", "pad": "x" * 1_100_000}}).encode()))
    await it.get(target)
    return is_hit(await it.get(target))


async def of_a_long_body(it: World) -> object:
    """The status of a write of over a kilobyte."""
    said = {"event": {"@type": "line", "text": "x" * 1024}}
    return (await it.write("POST", chat_path(it.chat(), "/events"), said)).status


async def of_no_accept(it: World) -> object:
    """In what somebody is answered who names no representation."""
    answers = [await it.get(account_path(rest)) for rest in ("/chat/availability", "/nothing")]
    return [answer.header("content-type") for answer in answers]


async def of_links(it: World) -> object:
    """Where the links of the account's base document lead."""
    document = (await it.get(account_path())).json()
    return {href.partition("/api/")[0] for _, href in links_of(document)}


def is_hit(response: Response) -> bool:
    """Whether an answer was there already, fresh or stale."""
    return "; hit" in (response.header("cache-status") or "")


#: setting → another value, what to look at, what is seen with the default and with that value.
SEEN: Mapping[str, tuple[str, Callable[[World], Awaitable[object]], object, object]] = {
    "upstream.max_pause_ms": ("1000", of_a_pause, "4", "1"),
    "cache.max_bytes": ("1048576", of_a_long_answer, True, False),
    "max_body_bytes": ("1024", of_a_long_body, 201, 413),
    "default_representation": (
        "xml",
        of_no_accept,
        ["application/json", "application/problem+json"],
        ["application/xml", "application/problem+xml"],
    ),
    "link_hosts": (f'["{LINK_HOST}"]', of_links, {f"https://{LINK_HOST}"}, {PUBLIC_URL}),
}


@pytest.mark.parametrize("setting", SEEN)
async def test_a_change_is_seen(tmp_path: Path, setting: str) -> None:
    value, look, usual, changed = SEEN[setting]
    config = EmulatorConfig(app_key=APP_KEY, link_base=f"https://{LINK_HOST}")
    environ = {setting.upper().replace(".", "__"): value}
    for name, given, expected in (("usual", {}, usual), ("changed", environ, changed)):
        folder = tmp_path / name
        folder.mkdir()
        async with world(folder, emulator=config, environ=given) as it:
            assert await look(it) == expected


@pytest.mark.parametrize(("stale_after_ms", "waits"), [("100", False), ("4000", True)])
async def test_stale_after_ms(tmp_path: Path, stale_after_ms: str, waits: bool) -> None:
    environ = short_lived(tmp_path) | {"UPSTREAM__STALE_AFTER_MS": stale_after_ms}
    async with world(tmp_path, environ=environ) as it:
        target = chat_path(it.chat(), "/info")
        await it.get(target)
        await asyncio.sleep(FRESH_S)
        it.emulator.fail(Fault(delay_s=0.6))
        assert is_hit(await it.get(target)) != waits


async def test_reload_s(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The seventh second comes when the test says so; nobody but this setting waits for it."""
    sleep, seconds_over = asyncio.sleep, asyncio.Queue[None]()

    async def sleep_by_hand(seconds: float) -> None:
        await (seconds_over.get() if seconds == 7 else sleep(seconds))

    monkeypatch.setattr(asyncio, "sleep", sleep_by_hand)
    async with world(tmp_path, environ={"RELOAD_S": "7"}) as it:
        (tmp_path / "jwks.json").write_bytes(new_key("ES256")[1])
        assert (await it.get(account_path())).status == 200
        seconds_over.put_nowait(None)
        await until(seconds_over.empty)
        await until(lambda: "keys changed" in it.log.getvalue())
        assert (await it.get(account_path())).problem == "token-invalid"


@pytest.mark.parametrize(("level", "events"), [("info", ["request"]), ("warning", [])])
async def test_log_level(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, level: str, events: list[str]
) -> None:
    log = io.StringIO()
    monkeypatch.setattr("gateway.app.logger", lambda named: logger(named, log))
    stage = set_stage(
        tmp_path,
        listen="127.0.0.1:0",
        admin_listen="127.0.0.1:0",
        public_url=PUBLIC_URL,
        upstream="http://127.0.0.1:1",
        app_key=APP_KEY,
    )
    gateway = Gateway(configure(stage.config, {"CHAT_GATEWAY_LOG_LEVEL": level}))
    async with running(gateway) as addresses:
        wire = Wire(*await asyncio.open_connection(*addresses.public), [])
        assert (await wire.ask("GET", account_path())).status == 401
        await wire.close()
    assert [json.loads(line)["event"] for line in log.getvalue().splitlines()] == events


async def test_policies(tmp_path: Path) -> None:
    elsewhere = policies_with(tmp_path / "elsewhere", "/exitSurvey", "/farewell")
    async with world(tmp_path, environ={"POLICIES": elsewhere}) as it:
        assert (await it.get(chat_path(it.chat(), "/exitSurvey"))).problem == "unknown-resource"


# -- issuers -------------------------------------------------------------------------------------------

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


async def test_issuer(tmp_path: Path) -> None:
    of_other = policies_with(tmp_path / "of-other", ISSUER, OTHER)
    async with world(tmp_path, environ={"POLICIES": of_other}, issuers=issuer(issuer=OTHER)) as it:
        assert (await ask_as(it, it.stage.private_key, iss=OTHER)).status == 200
        assert (await ask_as(it, it.stage.private_key)).problem == "token-invalid"


async def test_audience(tmp_path: Path) -> None:
    async with world(tmp_path, issuers=issuer(audience="another")) as it:
        assert (await ask_as(it, it.stage.private_key, aud="another")).status == 200
        assert (await ask_as(it, it.stage.private_key)).problem == "token-invalid"


async def test_algorithms(tmp_path: Path) -> None:
    """A bare RSA key fits six algorithms; the issuer has one of them."""
    private, jwks = new_key("PS256")
    [members] = json.loads(jwks)["keys"]
    (tmp_path / "rsa.json").write_text(json.dumps({"keys": [{n: members[n] for n in ("kty", "n", "e")}]}))
    async with world(tmp_path, issuers=issuer(algorithms=["PS256"], jwks="rsa.json")) as it:
        assert (await ask_as(it, private, "PS256")).status == 200
        assert (await ask_as(it, private, "RS256")).problem == "token-invalid"


async def test_jwks(tmp_path: Path) -> None:
    private, jwks = new_key("ES256")
    (tmp_path / "other.json").write_bytes(jwks)
    async with world(tmp_path, issuers=issuer(jwks="other.json")) as it:
        assert (await ask_as(it, private)).status == 200
        assert (await ask_as(it, it.stage.private_key)).problem == "token-invalid"


async def test_secret_file(tmp_path: Path) -> None:
    secret = b"a secret of thirty-two bytes, or more"
    (tmp_path / "secret").write_bytes(secret)
    shared = issuer(algorithms=["HS256"], jwks=None, secret_file="secret")
    async with world(tmp_path, issuers=shared) as it:
        assert (await ask_as(it, secret, "HS256")).status == 200
        assert (await ask_as(it, secret[::-1], "HS256")).problem == "token-invalid"
        assert (await ask_as(it, it.stage.private_key)).problem == "token-invalid"


@pytest.mark.parametrize(("leeway_s", "problem"), [(0, "token-expired"), (60, None)])
async def test_leeway_s(tmp_path: Path, leeway_s: int, problem: str | None) -> None:
    async with world(tmp_path, issuers=issuer(leeway_s=leeway_s)) as it:
        expired = int(it.stage.wall()) - 20
        assert (await ask_as(it, it.stage.private_key, exp=expired)).problem == problem
