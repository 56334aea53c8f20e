"""Each setting, changed: what is seen of it, and that what can change while the gateway runs does so.

Those that are not here are seen changing where their matter is tested; `NAMED` says where.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from pathlib import Path
from typing import get_args

import pytest
from pydantic import BaseModel

from gateway.app import Gateway, running
from gateway.config.settings import AT_START, Settings
from gateway.configuration import configure
from gateway.demo.stage import ACCOUNT
from gateway.emulator import EmulatorConfig, Fault
from gateway.identity.development import new_key
from gateway.observe.logs import logger
from gateway.parts import pace
from tests.reloading import NEXT, OTHER_TOKEN, WHEN, changeable, operator, say
from tests.support import (
    APP_KEY,
    FRESH_S,
    PUBLIC_URL,
    UNHURRIED,
    Response,
    Wire,
    World,
    account_path,
    chat_path,
    links_of,
    message,
    policies_with,
    short_lived,
    staged,
    until,
    world,
)

pytestmark = pytest.mark.anyio

#: Of what is bounded by bytes.
LEAST_BYTES = 1_048_576
#: Where the emulator's links lead, as the vendor's do.
VENDOR = EmulatorConfig().link_base


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


async def of_another_session(it: World) -> object:
    """Whether an info is refused that says it is of another session."""
    chat = it.chat()
    it.emulator.fail(Fault(body=b'{"info": {"state": "chatting", "chatSessionKey": "another"}}'))
    return (await it.get(chat_path(chat, "/info"))).problem


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


async def of_a_resource(it: World) -> object:
    """Whether there is an exit survey."""
    return (await it.get(chat_path(it.chat(), "/exitSurvey"))).problem


async def of_the_next_key(it: World) -> object:
    """What a read gets when the upstream takes another key only."""
    it.emulator.app_keys = (NEXT,)
    return (await it.get(account_path())).problem


async def of_another_token(it: World) -> object:
    """What the private listener says to somebody with another token."""
    return (await operator(it, "GET", "/usage", OTHER_TOKEN)).status


async def of_metrics(it: World) -> object:
    """Whether anybody may read the metrics."""
    return (await it.admin("/metrics")).status


async def of_a_name(it: World) -> object:
    """What the private listener says when it is called by a name."""
    return (await operator(it, "GET", "/usage")).status


async def of_bad_tokens(it: World) -> object:
    """How many bad tokens are looked at before a peer has to wait, and for how long."""
    async with it.wire() as wire:
        for count in range(100):
            response = await wire.ask("GET", account_path(), {"authorization": f"Bearer a.b.{count}"})
            if response.status == 429:
                return count, response.header("retry-after")
    return None


async def of_a_visitor(it: World) -> object:
    """Which of two hops the vendor hears of as the visitor."""
    fields = {"content-type": "application/json", "x-forwarded-for": "203.0.113.8, 203.0.113.9"}
    await it.ask("POST", account_path("/chat/request"), fields, b'{"request": {}}')
    return json.loads(it.emulator.recorded[-1].partition(b"\r\n\r\n")[2])["request"]["visitorIp"]


async def of_an_origin(it: World) -> object:
    """What a page of the site is told."""
    return (await it.get(account_path(), origin=SITE)).header("access-control-allow-origin")


async def of_a_preflight(it: World) -> object:
    """For how long a browser may remember a preflight."""
    fields = {"origin": SITE, "access-control-request-method": "GET"}
    return (await it.ask("OPTIONS", account_path(), fields, subject=None)).header("access-control-max-age")


def of_many_tokens(kind: str) -> Callable[[World], Awaitable[object]]:
    """Whether more is kept of many long tokens than the least that may be set."""

    async def look(it: World) -> object:
        chat = it.chat()
        it.emulator.end(chat)
        async with it.wire() as wire:
            for number in range(220):
                token = it.bearer(jti=str(number), pad="x" * 5000)
                for _ in range(2):
                    assert (
                        await wire.ask("GET", chat_path(chat, "/info"), {**token, "accept": "*/*"})
                    ).status == 200
        return (await kept(it))[kind] > LEAST_BYTES

    return look


async def of_the_short_cut(it: World) -> object:
    """Whether grants are kept for it; the answers are the same."""
    chat = it.chat()
    it.emulator.end(chat)
    fields = {**it.bearer(), "accept": "application/json"}
    async with it.wire() as wire:
        answers = [await wire.ask("GET", chat_path(chat, "/info"), fields) for _ in range(4)]
    assert [is_hit(answer) for answer in answers] == [False, True, True, True]
    assert len({answer.body for answer in answers}) == 1
    assert (it.gateway.short_cut is None) == ("grants" not in await kept(it))
    return "grants" in await kept(it)


async def kept(it: World) -> dict[str, float]:
    """The bytes that are kept, by kind."""
    text = (await it.admin("/metrics")).body.decode()
    found = re.findall(r'^chat_gateway_kept_bytes\{kind="(\w+)"\} (\S+)$', text, re.MULTILINE)
    return {kind: float(taken) for kind, taken in found}


def of_the_pace(name: str) -> Callable[[World], Awaitable[object]]:
    """What the budget of the account is measured by; what comes of it, its own tests see."""

    async def look(it: World) -> object:
        return getattr(pace(it.gateway.settings, ACCOUNT), name)

    return look


def of_the_overload(name: str) -> Callable[[World], Awaitable[object]]:
    """From when on requests are refused; whose are, its own tests see."""

    async def look(it: World) -> object:
        return getattr(it.gateway.overload._bounds(), name)

    return look


def of_a_head(rest: str = "", **fields: str) -> Callable[[World], Awaitable[object]]:
    """What a client is answered who has these in its head."""

    async def look(it: World) -> object:
        return (await it.get(account_path() + rest, **fields)).status

    return look


def of_what_is_sent(data: bytes) -> Callable[[World], Awaitable[object]]:
    """What a client hears, in twice the time that is set, who sends this and no more."""

    async def look(it: World) -> object:
        bearer = it.bearer()["authorization"].encode()
        async with it.wire() as wire:
            await wire.send(data.replace(b"TOKEN", bearer))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(2 * SOON_MS / 1000):
                    said = await wire.until_closed()
                    return said[9:12] or "nothing more"
        return None

    return look


async def of_a_reader(it: World) -> object:
    """Whether a client gets all of a long answer that takes nothing of it at first."""
    pad = "x" * 7_000_000
    it.emulator.fail(Fault(body=json.dumps({"pad": pad}).encode()))
    async with it.wire() as wire:
        await wire.send(message("GET", account_path(), it.bearer()))
        await until(lambda: it.upstream_requests() == 1)
        await asyncio.sleep(4 * SOON_MS / 1000)
        try:
            return (await wire.response()).json() == {"pad": pad}
        except (asyncio.IncompleteReadError, ConnectionResetError):
            return False


async def of_two_connections(it: World) -> object:
    """What a client is told on a second connection."""
    async with it.wire():
        return (await it.get(account_path())).status


SITE = "https://site.example"
#: What is waited for where a deadline is set; many times that where none is.
SOON_MS = 150
HALF_A_HEAD = f"GET {account_path()} HTTP/1.1\r\nhost: gateway".encode()
HALF_A_BODY = (
    f"POST {account_path('/chat/request')} HTTP/1.1\r\nhost: gateway.test\r\nauthorization: TOKEN\r\n"
    "x-forwarded-for: 203.0.113.9\r\ncontent-type: application/json\r\ncontent-length: 10\r\n\r\n{"
).encode()
ADMIN = {"token_file": "admin-token", "hosts": ["gateway.test"]}
#: Stands in for the emulator's address where nobody knows it yet.
UPSTREAM = "(the emulator)"
CORS = {"origins": [SITE], "max_age_s": 600}


def account(**said: object) -> dict[str, object]:
    """`accounts` as the stage has it, and this."""
    return {ACCOUNT: {"upstream": UPSTREAM, "app_key_file": "app-key", **said}}


Seen = tuple[dict[str, object], Callable[[World], Awaitable[object]], object, object]

#: A budget's setting → as the budget knows it, what it is then, what is written, and what it is with that.
PACES = {
    "per_second": ("per_s", 200, 7, 7),
    "burst": ("burst", 50, 7, 7),
    "in_flight": ("in_flight", 100, 7, 7),
    "queue": ("queue", 50, 7, 7),
    "wait_ms": ("wait_s", 1.0, 700, 0.7),
    "reserve_percent": ("reserve", 0.2, 70, 0.7),
}

#: setting → what is written for it, what to look at, what is seen without and with it.
LIVE: Mapping[str, Seen] = {
    "admin.token_file": ({"admin": {**ADMIN, "token_file": "other-token"}}, of_another_token, 401, 200),
    "admin.open_metrics": ({"admin": {**ADMIN, "open_metrics": False}}, of_metrics, 200, 401),
    "admin.hosts": ({"admin": {**ADMIN, "hosts": []}}, of_a_name, 200, 421),
    "public_url": (
        {"public_url": "https://moved.example/a"},
        of_links,
        {PUBLIC_URL},
        {"https://moved.example/a"},
    ),
    "policies": ({"policies": "elsewhere"}, of_a_resource, None, "unknown-resource"),
    "accounts.<id>.app_key_file": (
        {"accounts": account(app_key_file="next-key")},
        of_the_next_key,
        "key-refused",
        None,
    ),
    "accounts.<id>.next_app_key_file": (
        {"accounts": account(next_app_key_file="next-key")},
        of_the_next_key,
        "key-refused",
        None,
    ),
    "failed_tokens.per_minute": (
        {"failed_tokens": {"per_minute": 1}},
        of_bad_tokens,
        (60, "1"),
        (60, "60"),
    ),
    "failed_tokens.burst": ({"failed_tokens": {"burst": 2}}, of_bad_tokens, (60, "1"), (2, "1")),
    "trusted_proxies": (
        {"trusted_proxies": ["127.0.0.0/8"]},
        of_a_visitor,
        "203.0.113.9",
        "203.0.113.8",
    ),
    "link_hosts": ({"link_hosts": []}, of_links, {PUBLIC_URL}, {VENDOR}),
    "upstream.refuse_other_session_key": (
        {"upstream": {"refuse_other_session_key": True}},
        of_another_session,
        None,
        "upstream-mismatch",
    ),
    "upstream.max_pause_ms": ({"upstream": {"max_pause_ms": 1000}}, of_a_pause, "4", "1"),
    "overload.max_requests": (
        {"overload": {"max_requests": 70}},
        of_the_overload("max_requests"),
        4000,
        70,
    ),
    "overload.lag_ms": (
        {"overload": {"lag_ms": 70}},
        of_the_overload("lag_s"),
        UNHURRIED["lag_ms"] / 1000,
        0.07,
    ),
    "max_body_bytes": ({"max_body_bytes": 1024}, of_a_long_body, 201, 413),
    "default_representation": (
        {"default_representation": "xml"},
        of_no_accept,
        ["application/json", "application/problem+json"],
        ["application/xml", "application/problem+xml"],
    ),
    "cors.origins": ({"cors": CORS}, of_an_origin, None, SITE),
    "cors.max_age_s": ({"cors": {**CORS, "max_age_s": 7}}, of_a_preflight, None, "7"),
    **{
        f"budget.{name}": ({"budget": {name: said}}, of_the_pace(known_as), usual, then)
        for name, (known_as, usual, said, then) in PACES.items()
    },
    **{
        f"accounts.<id>.budget.{name}": (
            {"accounts": account(budget={name: said})},
            of_the_pace(known_as),
            usual,
            then,
        )
        for name, (known_as, usual, said, then) in PACES.items()
    },
}
#: Likewise, for what takes a restart.
AT_THE_START: Mapping[str, Seen] = {
    "edge.max_head_bytes": ({"edge": {"max_head_bytes": 1024}}, of_a_head(x="x" * 1024), 200, 431),
    "edge.max_fields": (
        {"edge": {"max_fields": 10}},
        of_a_head(**{f"x_{number}": "x" for number in range(10)}),
        200,
        431,
    ),
    "edge.max_target_bytes": ({"edge": {"max_target_bytes": 256}}, of_a_head("?_=" + "1" * 256), 200, 414),
    "edge.head_ms": ({"edge": {"head_ms": SOON_MS}}, of_what_is_sent(HALF_A_HEAD), None, b"408"),
    "edge.body_ms": ({"edge": {"body_ms": SOON_MS}}, of_what_is_sent(HALF_A_BODY), None, b"408"),
    "edge.idle_ms": ({"edge": {"idle_ms": SOON_MS}}, of_what_is_sent(b""), None, "nothing more"),
    "edge.send_ms": ({"edge": {"send_ms": SOON_MS}}, of_a_reader, True, False),
    **{
        f"edge.{name}": ({"edge": {name: 1}}, of_two_connections, 200, 503)
        for name in ("max_connections", "max_connections_per_peer")
    },
    "cache.max_bytes": ({"cache": {"max_bytes": LEAST_BYTES}}, of_a_long_answer, True, False),
    **{
        f"memory.{kind}_bytes": (
            {"memory": {f"{kind}_bytes": LEAST_BYTES}},
            of_many_tokens(kind),
            True,
            False,
        )
        for kind in ("tokens", "grants")
    },
    "short_cut": ({"short_cut": False}, of_the_short_cut, True, False),
}


@contextlib.asynccontextmanager
async def a_world(folder: Path, when: str, said: Mapping[str, object]) -> AsyncIterator[World]:
    """A world in which this is said never, from the start, or while it runs."""
    (folder / "next-key").write_text(NEXT)
    (folder / "other-token").write_text(OTHER_TOKEN)
    if "policies" in said:
        policies_with(folder / "elsewhere", "/exitSurvey", "/farewell")
    config = EmulatorConfig(app_key=APP_KEY, record=1)
    first = said if when == "from the start" else {}
    async with changeable(folder, emulator=config, **{"admin": ADMIN, **first}) as it:
        if when == "while it runs":
            say(it, **json.loads(json.dumps(said).replace(UPSTREAM, it.server.url)))
            await it.gateway.reloading.look_again()
        yield it


@pytest.mark.parametrize(
    ("setting", "when"),
    [
        *((name, when) for name in LIVE for when in ("never", "while it runs")),
        *((name, when) for name in AT_THE_START for when in ("never", "from the start", "while it runs")),
    ],
)
async def test_a_change_is_seen(tmp_path: Path, setting: str, when: str) -> None:
    said, look, usual, changed = {**LIVE, **AT_THE_START}[setting]
    takes_effect = when == "from the start" or (when == "while it runs" and setting in LIVE)
    async with a_world(tmp_path, when, said) as it:
        assert await look(it) == (changed if takes_effect else usual)


@WHEN
@pytest.mark.parametrize(("stale_after_ms", "waits"), [(100, False), (4000, True)])
async def test_stale_after_ms(tmp_path: Path, stale_after_ms: int, waits: bool, when: str) -> None:
    environ = short_lived(tmp_path)
    if when == "from the start":
        environ["UPSTREAM__STALE_AFTER_MS"] = str(stale_after_ms)
    async with changeable(tmp_path, environ=environ) as it:
        if when == "while it runs":
            say(it, upstream={"stale_after_ms": stale_after_ms})
            await it.gateway.reloading.look_again()
        target = chat_path(it.chat(), "/info")
        await it.get(target)
        await asyncio.sleep(FRESH_S)
        it.emulator.fail(Fault(delay_s=0.6))
        assert is_hit(await it.get(target)) != waits


@WHEN
async def test_max_body_bytes_of_one_resource(tmp_path: Path, when: str) -> None:
    """`resources.yaml` may narrow what the setting allows; what it says of events is said of no other."""
    methods = "    methods: {GET: chat:read, POST: chat:write}\n"
    narrow = policies_with(tmp_path / "narrow", methods, f"{methods}    max_body_bytes: 1024\n")
    async with a_world(tmp_path, when, {"policies": narrow}) as it:
        assert await of_a_long_body(it) == 413
        other = await it.write("POST", account_path("/chat/request"), {"request": {"pad": "x" * 1024}})
        assert other.status == 201


async def test_reload_s(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """These seconds are over when the test says so; nobody but this setting waits for them."""
    sleep = asyncio.sleep
    over: dict[float, asyncio.Queue[None]] = {seconds: asyncio.Queue() for seconds in (7, 8)}

    async def sleep_by_hand(seconds: float) -> None:
        await (over[seconds].get() if seconds in over else sleep(seconds))

    monkeypatch.setattr(asyncio, "sleep", sleep_by_hand)
    async with world(tmp_path, reload_s=7) as it:
        (tmp_path / "jwks.json").write_bytes(new_key("ES256")[1])
        say(it, reload_s=8)
        assert (await it.get(account_path())).status == 200
        over[7].put_nowait(None)
        await until(lambda: "configuration changed" in it.log.getvalue())
        assert (await it.get(account_path())).problem == "token-invalid"
        # And from then on the new pause counts.
        (tmp_path / "jwks.json").write_text("{}")
        over[7].put_nowait(None)
        over[8].put_nowait(None)
        await until(lambda: "configuration refused" in it.log.getvalue())
        assert (over[7].qsize(), over[8].qsize()) == (1, 0)


@pytest.mark.parametrize(("level", "events"), [("info", ["request"]), ("warning", [])])
async def test_log_level(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, level: str, events: list[str]
) -> None:
    log = io.StringIO()
    monkeypatch.setattr("gateway.app.logger", lambda named, **more: logger(named, log, **more))
    stage = staged(tmp_path)
    environ = {"CHAT_GATEWAY_LOG_LEVEL": level}
    gateway = Gateway(configure(stage.config, environ), stage.config, environ)
    async with running(gateway) as addresses:
        wire = Wire(*await asyncio.open_connection(*addresses.public), [])
        assert (await wire.ask("GET", account_path())).status == 401
        await wire.close()
    assert [json.loads(line)["event"] for line in log.getvalue().splitlines()] == events


# -- all of them -----------------------------------------------------------------------------------------

#: Settings whose change is seen by a test with a name of its own: here, or in the file that is named.
NAMED: Mapping[str, str] = {
    "listen": "tests/edge/test_server.py",
    "admin_listen": "tests/edge/test_server.py",
    "accounts.<id>.upstream": "tests/wire/test_reload_moves.py",
    "accounts.<id>.discover": "tests/wire/test_settings_of_ways.py",
    "accounts.<id>.allow_plain_http": "tests/wire/test_discovery.py",
    **{
        f"issuers[].{name}": "tests/wire/test_settings_of_issuers.py"
        for name in (
            *("issuer", "audience", "algorithms", "jwks", "jwks_url", "oidc_discovery", "secret_file"),
            *("ca_file", "bearer_token_file", "refresh_s", "cooldown_s", "max_stale_s"),
            *("proxy", "token_type", "client_claim", "leeway_s"),
        )
    },
    **{
        f"{section}.{name}": "tests/wire/test_settings_of_ways.py"
        for section in ("tls", "admin_tls")
        for name in ("certificate_file", "key_file")
    },
    "revocations.file": "tests/wire/test_reload.py",
    "revocations.journal": "tests/identity/test_revocations.py",
    "discovery.url": "tests/wire/test_settings_of_ways.py",
    "discovery.allowed_domains": "tests/wire/test_settings_of_ways.py",
    "upstream.ca_file": "tests/wire/test_settings_of_ways.py",
    "upstream.proxy": "tests/wire/test_settings_of_ways.py",
    "upstream.deadline_ms": "tests/wire/test_sick_upstream.py",
    "upstream.stale_after_ms": "tests/wire/test_settings.py",
    "upstream.max_connections": "tests/shows/cancel.py",
    "upstream.max_answer_bytes": "tests/wire/test_sick_upstream.py",
    "redis_url": "tests/wire/test_replicas.py",
    **{
        f"redis.{name}": "tests/shared/test_link.py"
        for name in ("username", "sentinel_username", "ca_file", "certificate_file", "key_file")
    },
    **{
        f"redis.{name}": "tests/wire/test_replicas.py"
        for name in (
            *("password_file", "encryption_key_file", "prefix", "deadline_ms", "lease_ms"),
            "exact_limits_alone",
        )
    },
    "redis.sentinel_password_file": "tests/wire/test_replica_processes.py",
    "reload_s": "tests/wire/test_settings.py",
    "drain_delay_s": "tests/wire/test_end.py",
    "drain_s": "tests/edge/test_server.py",
    "log_level": "tests/wire/test_settings.py",
    "log_one_hit_in": "tests/observe/test_process.py",
    **{f"push.{name}": "tests/wire/test_streams.py" for name in ("heartbeat_ms", "send_ms", "max_wait_s")},
}


def settings_of(model: type[BaseModel], before: str = "") -> Iterator[str]:
    """The name of each setting, as docs/configuration.md has it."""
    for name, said in model.model_fields.items():
        inner = _model_in(said.annotation)
        if inner is None:
            yield before + name
        else:
            around = {"accounts": ".<id>", "issuers": "[]"}.get(name, "")
            yield from settings_of(inner, f"{before}{name}{around}.")


def _model_in(annotation: object) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for part in get_args(annotation) if (found := _model_in(part))), None)


def test_every_setting_is_seen_to_change() -> None:
    assert sorted([*LIVE, *AT_THE_START, *NAMED]) == sorted(settings_of(Settings))
    root = Path(__file__).parents[2]
    for setting, file in NAMED.items():
        name = setting.rpartition(".")[2]
        assert re.search(rf"\b{name}\b|{name.upper()}", (root / file).read_text()), setting


def test_what_changes_while_it_runs_is_what_the_settings_say() -> None:
    def is_at_start(name: str) -> bool:
        return any(name == start or name.startswith(f"{start}.") for start in AT_START)

    assert not [name for name in LIVE if is_at_start(name)]
    assert all(map(is_at_start, AT_THE_START))
