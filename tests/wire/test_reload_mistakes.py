"""Where there is a mistake nothing changes, nor while somebody still writes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from gateway.config.load import Loaded, load
from gateway.config.settings import Settings
from gateway.configuration import Configuration, configure, fingerprint
from gateway.demo.stage import AUDIENCE, ISSUER
from gateway.identity.development import new_key
from tests.reloading import (
    MISTAKES,
    NEXT,
    PARTNER,
    Snapshot,
    as_signed_by,
    change_policies,
    change_token,
    changeable,
    edit,
    metric,
    of,
    of_an_info,
    of_the_token,
    operator,
    reload,
    reload_state,
    same,
    say,
    whole,
)
from tests.support import (
    account_path,
    chat_path,
    leaks,
)

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("name", MISTAKES)
async def test_a_mistake_keeps_all_as_it_is_until_it_is_mended(tmp_path: Path, name: str) -> None:
    make, file, words = MISTAKES[name]
    async with changeable(tmp_path) as it:
        before, chat = whole(it), it.chat()
        sound = Snapshot.of(tmp_path)
        # Along with the mistake much changes that is sound; none of it may take effect.
        change_token(it)
        change_policies(it)
        of(it, "app-key").write_text(NEXT)
        if file == "admin-token":
            of(it, "admin-token").unlink()
        make(tmp_path)

        for _ in range(3):
            await it.gateway.reloading.look_again()
        answer = await reload(it)
        assert answer.status == 409
        [*mistakes] = answer.json()["mistakes"]
        assert any(words in mistake for mistake in mistakes), mistakes
        assert answer.json()["changed"] is False
        assert same(whole(it), before)
        assert (await it.get(chat_path(chat, "/info"))).status == 200
        assert await of_the_token(it) == [200, 401]
        state = await reload_state(it)
        assert (state["ok"], state["mistakes"]) == (False, mistakes)
        assert (await metric(it, "reload_failures_total"), await metric(it, "reload_failed")) == (1, 1)
        [told] = [line for line in it.lines() if line["event"] == "configuration refused"]
        assert (told["level"], told["mistakes"]) == ("error", mistakes)
        assert not leaks(it.log.getvalue().encode(), NEXT)
        assert not leaks(answer.body, NEXT)

        sound.put_back()
        await it.gateway.reloading.look_again()
        assert (await reload_state(it))["mistakes"] == []
        assert (await metric(it, "reload_failures_total"), await metric(it, "reload_failed")) == (1, 0)
        assert [line["event"] for line in it.lines()].count("configuration changed") == 1
        # And nothing has changed by all that.
        assert same(whole(it), before)


async def test_what_was_sound_takes_effect_once_the_mistake_is_mended(tmp_path: Path) -> None:
    async with changeable(tmp_path) as it:
        sound = Snapshot.of(tmp_path)
        change_token(it)
        change_policies(it)
        of(it, "jwks.json").write_text("{}")
        await it.gateway.reloading.look_again()
        assert (await of_an_info(it), await of_the_token(it)) == (200, [200, 401])
        sound.put_back("jwks.json")
        await it.gateway.reloading.look_again()
        assert (await of_an_info(it), await of_the_token(it)) == ("action-denied", [401, 200])


async def test_another_mistake_is_told_anew(tmp_path: Path) -> None:
    async with changeable(tmp_path) as it:
        for text in ("clients: [", "clients: [", "clients: {}", "clients: ["):
            of(it, PARTNER).write_text(text)
            await it.gateway.reloading.look_again()
        assert [line["event"] for line in it.lines()].count("configuration refused") == 3
        assert await metric(it, "reload_failures_total") == 3


async def test_a_file_that_was_not_known_mends_a_mistake(tmp_path: Path) -> None:
    """Nothing that was looked at before changes: the settings in force do not name it."""
    async with changeable(tmp_path) as it:
        row = {"issuer": ISSUER, "audience": AUDIENCE, "algorithms": ["ES256"], "jwks": "other.json"}
        say(it, issuers=[row])
        await it.gateway.reloading.look_again()
        assert not (await reload_state(it))["ok"]
        private, jwks = new_key("ES256")
        of(it, "other.json").write_bytes(jwks)
        await it.gateway.reloading.look_again()
        assert (await reload_state(it))["ok"]
        assert (await as_signed_by(it, private)).status == 200
        # And from now on it is looked at.
        of(it, "other.json").write_bytes(new_key("ES256")[1])
        await it.gateway.reloading.look_again()
        assert (await as_signed_by(it, private)).problem == "token-invalid"


async def test_a_folder_that_vanishes_while_it_is_looked_at_is_a_mistake_and_no_crash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kubelet removes what a link led to until now; whoever is reading there finds nothing."""
    async with changeable(tmp_path) as it:
        rglob = Path.rglob

        def vanishing(folder: Path, pattern: str) -> Any:
            if folder.name != "policies":
                return rglob(folder, pattern)
            raise FileNotFoundError(2, "No such file or directory", str(folder))

        monkeypatch.setattr(Path, "rglob", vanishing)
        await it.gateway.reloading.look_again()
        assert (await reload(it)).status == 200
        assert await of_an_info(it) == 200


async def test_revocations_that_are_wrong_are_told_and_hold_nothing_else_back(tmp_path: Path) -> None:
    """Each record is one more refusal: the old ones stay, and a change of policies does not wait for them."""
    (tmp_path / "revoked").write_text(json.dumps({"client": "partner"}) + "\n")
    async with changeable(tmp_path, revocations={"file": "revoked"}) as it:
        of(it, "revoked").write_text("{}\n")
        change_policies(it)
        answer = await reload(it)
        assert answer.status == 409
        assert "revoked" in str(answer.json()["mistakes"])
        state = await reload_state(it)
        assert (state["ok"], state["mistakes"]) == (False, answer.json()["mistakes"])
        assert await of_an_info(it) == "action-denied"
        refused = await it.ask("GET", account_path(), subject="partner")
        assert refused.problem == "token-revoked"
        assert (await reload(it)).status == 409
        assert [line["event"] for line in it.lines()].count("revocations refused") == 1
        of(it, "revoked").write_text("")
        assert (await reload(it)).json() == {"changed": True, "mistakes": [], "needs_restart": []}
        assert (await reload_state(it))["ok"]


# -- while somebody writes ----------------------------------------------------------------------------------


async def test_what_changes_while_it_is_read_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client moves from one file to the other just as both are read: it is in force all the time."""
    async with changeable(tmp_path) as it:
        clients = tmp_path / "policies" / "clients"
        partner, bff = (clients / "partner.yaml").read_text(), (clients / "bff.yaml").read_text()
        moved = bff + partner[partner.index("  partner:") :]

        def swap_in_between(path: Path, environ: Mapping[str, str]) -> Configuration:
            (clients / "partner.yaml").unlink(missing_ok=True)
            read = configure(path, environ)
            (clients / "bff.yaml").write_text(moved)
            return read

        monkeypatch.setattr("gateway.reloading.configure", swap_in_between)
        assert (await reload(it)).status == 200
        assert [client.name for client in it.gateway.configuration.policies.clients].count("partner") == 1
        assert (await it.ask("GET", chat_path(it.chat(), "/info"), subject="partner")).status == 200


async def test_files_that_never_come_to_rest_change_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with changeable(tmp_path) as it:
        before = it.gateway.configuration
        notes = iter(range(1_000_000))
        say_nothing = "# {}\nclients:\n  other: {{match: {{iss: 'https://issuer.example', sub: other}}, "
        say_nothing += "accounts: '*', allow: [info]}}\n"

        def restless(path: Path, environ: Mapping[str, str]) -> Configuration:
            read = configure(path, environ)
            (tmp_path / "policies" / "clients" / "note.yaml").write_text(say_nothing.format(next(notes)))
            return read

        monkeypatch.setattr("gateway.reloading.configure", restless)
        response = await reload(it)
        assert response.status == 409
        assert "expected them to stay while they are read" in str(response.json()["mistakes"])
        assert it.gateway.configuration is before
        monkeypatch.undo()
        (tmp_path / "policies" / "clients" / "note.yaml").unlink()
        assert (await reload(it)).status == 200


async def test_half_a_file_waits_for_its_other_half(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The half is sound by itself, and shows a partner all there is."""
    async with changeable(tmp_path) as it:
        file = tmp_path / "policies" / "clients" / "partner.yaml"
        whole = file.read_text()
        file.write_text(whole[: whole.index("    # Beats allow")])
        looks = iter(range(100))

        def finished_in_time(path: Path, settings: Settings, revocations: Path | None) -> bytes:
            # Has it changed? Twice: is it at rest? Then it is read.
            if next(looks) == 3:
                file.write_text(whole)
            return fingerprint(path, settings, revocations)

        monkeypatch.setattr("gateway.reloading.fingerprint", finished_in_time)
        await it.gateway.reloading.look_again()
        response = await it.ask("GET", chat_path(it.chat(), "/info"), subject="partner")
        assert "visitorName" not in response.json()["info"]


async def test_what_is_revoked_while_files_are_read_is_revoked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "revoked").write_text("")
    async with changeable(tmp_path, revocations={"file": "revoked"}) as it:

        def meanwhile(path: Path, environ: Mapping[str, str]) -> Configuration:
            (tmp_path / "revoked").write_text('{"client": "partner"}\n')
            return configure(path, environ)

        monkeypatch.setattr("gateway.reloading.configure", meanwhile)
        edit(tmp_path / "policies" / "clients" / "bff.yaml", "priority: high", "priority: normal")
        await it.gateway.reloading.look_again()
        response = await it.ask("GET", chat_path(it.chat(), "/info"), subject="partner")
        assert response.problem == "token-revoked"


async def test_a_folder_of_clients_may_be_a_link(tmp_path: Path) -> None:
    async with changeable(tmp_path) as it:
        clients = tmp_path / "policies" / "clients"
        clients.rename(tmp_path / "elsewhere")
        clients.symlink_to(tmp_path / "elsewhere")
        await it.gateway.reloading.look_again()
        edit(tmp_path / "elsewhere" / "partner.yaml", "allow: [chat:read]", "allow: [info]")
        await it.gateway.reloading.look_again()
        events = chat_path(it.chat(), "/events")
        assert (await it.ask("GET", events, subject="partner")).problem == "action-denied"


async def test_an_admin_token_that_is_half_written_opens_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was sound when it was checked, and is empty when it is read."""
    async with changeable(tmp_path) as it:
        file = tmp_path / "admin-token"

        def emptied(path: Path, environ: Mapping[str, str]) -> Loaded:
            loaded = load(path, environ)
            file.write_text("")
            return loaded

        monkeypatch.setattr("gateway.configuration.load", emptied)
        assert (await reload(it)).status == 409
        assert (await operator(it, "GET", "/usage", token=" ")).status == 401
        assert (await operator(it, "GET", "/usage")).status == 200
