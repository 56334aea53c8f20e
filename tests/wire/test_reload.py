"""What a running gateway reads again, and when: all at once, and nothing else."""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from gateway.config.settings import AT_START
from gateway.demo.stage import AUDIENCE, ISSUER
from gateway.emulator import EmulatorConfig
from gateway.identity.keys import Key
from tests.identity_provider import CA_FILE, FAILURES, certified, provider
from tests.reloading import (
    BFF,
    NEXT,
    OTHER_TOKEN,
    PARTNER,
    SELDOM_S,
    Snapshot,
    change_app_key,
    change_keys,
    change_policies,
    change_resources,
    change_settings,
    change_token,
    changeable,
    edit,
    of,
    of_an_info,
    of_the_token,
    reload,
    reload_state,
    revoke,
    same,
    say,
    whole,
)
from tests.support import (
    APP_KEY,
    World,
    account_path,
    chat_path,
    leaks,
    policies_with,
    staged,
)

pytestmark = pytest.mark.anyio


async def by_the_poll(it: World) -> None:
    await it.gateway.reloading.look_again()


async def by_the_call(it: World) -> None:
    response = await reload(it)
    assert (response.status, response.json()) == (
        200,
        {"changed": True, "mistakes": [], "needs_restart": []},
    )


Way = Callable[[World], Awaitable[None]]
WAYS: Mapping[str, Way] = {"poll": by_the_poll, "call": by_the_call}


#: What changes → how, what to look at, what is seen before and after.
CHANGES: Mapping[
    str, tuple[Callable[[World], None], Callable[[World], Awaitable[object]], object, object]
] = {
    "a client": (change_policies, of_an_info, 200, "action-denied"),
    "a resource": (change_resources, of_an_info, 200, "unknown-resource"),
    "a key file": (change_keys, of_an_info, 200, "token-invalid"),
    "an appKey": (change_app_key, of_an_info, 200, 200),
    "gateway.yaml": (change_settings, of_an_info, 200, "token-invalid"),
    "the operators' token": (change_token, of_the_token, [200, 401], [401, 200]),
    "the revocations": (revoke, of_an_info, 200, "token-revoked"),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("what", CHANGES)
async def test_a_change_takes_effect_at_once_and_not_before(tmp_path: Path, what: str, way: str) -> None:
    change, look, before, after = CHANGES[what]
    (tmp_path / "revoked").touch()
    config = EmulatorConfig(app_key=APP_KEY)
    async with changeable(tmp_path, emulator=config, revocations={"file": "revoked"}) as it:
        assert await look(it) == before
        change(it)
        assert await look(it) == (before if what != "an appKey" else "key-refused")
        await WAYS[way](it)
        assert await look(it) == after
        assert not leaks(it.log.getvalue().encode(), NEXT)


async def test_an_appkey_file_and_the_next_one_can_be_swapped(tmp_path: Path) -> None:
    """Writes are never repeated, so they must go with the first key from the very first."""
    (tmp_path / "next-key").write_text(NEXT)
    environ = {"ACCOUNTS__123__NEXT_APP_KEY_FILE": "next-key"}
    async with changeable(tmp_path, environ=environ) as it:
        of(it, "app-key").write_text(NEXT)
        of(it, "next-key").write_text(APP_KEY)
        it.emulator.app_keys = (NEXT,)
        await it.gateway.reloading.look_again()
        said = await it.write("PUT", chat_path(it.chat(), "/info/visitorName"), {"visitorName": "Zoe"})
        assert (said.status, it.upstream_requests()) == (201, 1)


async def test_a_mounted_volume_swaps_a_link(tmp_path: Path) -> None:
    """As kubelet does: files are links into `..data`, which is a link to a folder, and is replaced whole."""
    async with changeable(tmp_path) as it:
        for file in ("jwks.json", "app-key", "admin-token", "policies"):
            (tmp_path / "..first").mkdir(exist_ok=True)
            of(it, file).rename(tmp_path / "..first" / file)
            of(it, file).symlink_to(Path("..data", file))
        (tmp_path / "..data").symlink_to("..first")
        version = it.gateway._state.policies.version
        await it.gateway.reloading.look_again()
        assert (await of_an_info(it), it.gateway._state.policies.version) == (200, version)

        second = tmp_path / "..second"
        shutil.copytree(tmp_path / "..first", second)
        edit(second / "policies/clients/bff.yaml", "chat:read, ", "")
        (tmp_path / "..data.new").symlink_to("..second")
        (tmp_path / "..data.new").rename(tmp_path / "..data")
        await it.gateway.reloading.look_again()
        assert await of_an_info(it) == "action-denied"


async def test_the_ca_of_an_issuer_is_read_at_each_fetch(tmp_path: Path) -> None:
    """Nobody fetches for a new CA alone; the first token that needs a key does."""
    async with provider(tmp_path / "tls") as issuer:
        right = (tmp_path / "tls" / CA_FILE).read_bytes()
        certified(tmp_path / "of-another")
        of_another = tmp_path / "of-another" / CA_FILE
        fetched = {"jwks_url": issuer.jwks_url, "ca_file": str(of_another), "cooldown_s": 1}
        row = {"issuer": issuer.issuer, "audience": AUDIENCE, "algorithms": ["ES256"], **fetched}
        environ = {"POLICIES": policies_with(tmp_path / "theirs", ISSUER, issuer.issuer)}
        async with changeable(tmp_path, environ=environ, issuers=[row]) as it:
            token = issuer.token()
            it.tokens.add(token)
            asked = {"authorization": f"Bearer {token}"}
            assert (await it.ask("GET", account_path(), asked, subject=None)).problem == "keys-unavailable"
            of_another.write_bytes(right)
            await it.gateway.reloading.look_again()
            async with asyncio.timeout(10):
                # Its cooldown is a second.
                while (await it.ask("GET", account_path(), asked, subject=None)).status != 200:  # noqa: ASYNC110
                    await asyncio.sleep(0.1)
            # What is no certificate is a mistake like any other.
            of_another.write_text("nothing of the kind")
            assert "ca_file" in str((await reload(it)).json()["mistakes"])


# -- what does not change ----------------------------------------------------------------------------------


@pytest.fixture
def verified(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A line for each signature that is verified."""
    verifies, lines = Key.verifies, list[str]()

    def counted(key: Key, algorithm: str, signed: bytes, signature: bytes) -> bool:
        lines.append(algorithm)
        return verifies(key, algorithm, signed, signature)

    monkeypatch.setattr(Key, "verifies", counted)
    return lines


async def test_the_same_content_changes_nothing(tmp_path: Path, verified: list[str]) -> None:
    async with changeable(tmp_path) as it, it.wire() as wire:
        asked, target = it.bearer(), chat_path(it.chat(), "/info")
        assert (await wire.ask("GET", target, asked)).status == 200
        before = whole(it)
        for file, content in Snapshot.of(tmp_path).files.items():
            file.unlink()
            file.write_bytes(content)
        # YAML says the same in many ways.
        edit(of(it, BFF), "clients:", "# Nobody reads this.\nclients:")
        await it.gateway.reloading.look_again()
        assert (await reload(it)).json()["changed"] is False
        assert same(whole(it), before)
        assert "hit" in ((await wire.ask("GET", target, asked)).header("cache-status") or "")
        assert (verified, it.upstream_requests()) == (["ES256"], 1)
        assert "configuration changed" not in it.log.getvalue()


async def test_a_change_of_policies_verifies_nothing_again(tmp_path: Path, verified: list[str]) -> None:
    async with changeable(tmp_path) as it, it.wire() as wire:
        asked, chat = it.bearer(), it.chat()
        assert (await wire.ask("GET", chat_path(chat, "/info"), asked)).status == 200
        edit(of(it, BFF), "chat:read, ", "")
        await it.gateway.reloading.look_again()
        assert (await wire.ask("GET", chat_path(chat, "/info"), asked)).problem == "action-denied"
        say(it, max_body_bytes=2048)
        of(it, "app-key").write_text(NEXT)
        of(it, "admin-token").write_text(OTHER_TOKEN)
        await it.gateway.reloading.look_again()
        assert (await wire.ask("GET", chat_path(chat, "/info"), asked)).problem == "action-denied"
        assert verified == ["ES256"]


async def test_entries_live_through_a_change_of_policies(tmp_path: Path) -> None:
    async with changeable(tmp_path) as it:
        target = chat_path(it.chat(), "/info")
        assert (await it.get(target)).status == 200
        edit(of(it, PARTNER), "deny: [exitSurvey]", "deny: [exitSurvey, events]")
        say(it, max_body_bytes=2048)
        await it.gateway.reloading.look_again()
        assert "hit" in ((await it.get(target)).header("cache-status") or "")
        assert it.upstream_requests() == 1


GOOD_FILES = Path(__file__).parents[1] / "config" / "good"
CERTIFIED = {"certificate_file": str(GOOD_FILES / "server.pem"), "key_file": str(GOOD_FILES / "server.key")}

#: A setting that is read at the start only → another value.
LATER: Mapping[str, object] = {
    "listen": "127.0.0.1:1",
    "tls": CERTIFIED,
    "admin_listen": "127.0.0.1:2",
    "admin_tls": CERTIFIED,
    "edge": {"head_ms": 700},
    "revocations": {"journal": "journal"},
    "upstream.deadline_ms": 3000,
    "upstream.max_connections": 1,
    "upstream.max_answer_bytes": 65_536,
    "upstream.proxy": "http://egress.example:3128",
    "cache": {"max_bytes": 1_048_576},
    "memory": {"tokens_bytes": 1_048_576},
    "redis_url": "redis://127.0.0.1:1/0",
    "redis": {"lease_ms": 2_000},
    "short_cut": False,
    "drain_delay_s": 1,
    "drain_s": 1,
    "log_level": "error",
    "log_one_hit_in": 7,
}


@pytest.mark.parametrize("setting", LATER)
async def test_what_takes_a_restart_is_named_and_waits_for_it(tmp_path: Path, setting: str) -> None:
    section, _, name = setting.partition(".")
    async with changeable(tmp_path) as it:
        at_start, as_before = it.gateway.at_start, Snapshot.of(tmp_path)
        say(it, **{section: {name: LATER[setting]} if name else LATER[setting]}, max_body_bytes=2048)
        answer = await reload(it)
        assert (answer.status, answer.json()["needs_restart"]) == (200, [setting])
        # What has changed with it takes effect.
        said = {"event": {"@type": "line", "text": "x" * 2048}}
        assert (await it.write("POST", chat_path(it.chat(), "/events"), said)).status == 413
        assert (await reload_state(it))["needs_restart"] == [setting]
        assert it.gateway.at_start is at_start
        [told] = [line for line in it.lines() if line["event"] == "configuration changed"]
        assert told["needs_restart"] == [setting]
        # It is named for as long as it waits, and not when it is taken back.
        assert (await reload(it)).json()["needs_restart"] == [setting]
        as_before.put_back()
        assert (await reload(it)).json()["needs_restart"] == []


def test_all_that_takes_a_restart_is_here() -> None:
    assert tuple(LATER) == AT_START


# -- as a process ------------------------------------------------------------------------------------------


def test_sighup_has_everything_read_again(tmp_path: Path) -> None:
    stage = staged(tmp_path, reload_s=SELDOM_S, drain_delay_s=0)
    command = [sys.executable, "-m", "gateway", "serve", "--config", str(stage.config)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:  # noqa: S603 - our own
        try:

            def line() -> dict[str, Any]:
                assert process.stderr is not None
                said: dict[str, Any] = json.loads(process.stderr.readline())
                return said

            assert line()["event"] == "listening"
            edit(tmp_path / PARTNER, "deny: [exitSurvey]", "deny: [exitSurvey, events]")
            process.send_signal(signal.SIGHUP)
            told = line()
            assert (told["event"], told["policies_version"]) == ("configuration changed", 2)
            edit(tmp_path / PARTNER, "deny:", "denny:")
            process.send_signal(signal.SIGHUP)
            told = line()
            assert told["event"] == "configuration refused"
            assert "clients.partner.denny" in str(told["mistakes"])
            process.send_signal(signal.SIGINT)
            assert [line()["event"], line()["event"]] == ["ending", "stopped"]
            assert process.wait(10) == 0
        finally:
            process.kill()


async def test_what_tokens_must_say_changes_and_the_keys_stay(tmp_path: Path) -> None:
    async with provider() as idp:
        sources = ((ISSUER, {"jwks": "jwks.json"}), (idp.issuer, {"jwks_url": idp.jwks_url}))
        issuers = [
            {"issuer": issuer, "audience": AUDIENCE, "algorithms": ["ES256"], **source}
            for issuer, source in sources
        ]
        async with changeable(tmp_path, issuers=issuers) as it:
            fetched = idp.fetches
            idp.behaviour = FAILURES["down"]
            config = yaml.safe_load(it.stage.config.read_text())
            config["issuers"][1] |= {"leeway_s": 30, "refresh_s": 600, "max_stale_s": 3600, "cooldown_s": 20}
            it.stage.config.write_text(yaml.safe_dump(config))
            assert (await reload(it)).json()["changed"] is True
            # The provider was not needed, and its tokens are as good as before.
            assert idp.fetches == fetched
            assert it.gateway._key_sources.remotes[idp.issuer].current is not None
