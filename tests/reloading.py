"""A world whose files change while it runs, the operator who changes them, and the mistakes that are made."""

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
import yaml

from gateway.demo.stage import ACCOUNT, AUDIENCE, ISSUER
from gateway.identity.development import kid_of, mint, new_key
from gateway.parts import access
from tests.support import APP_KEY, Response, Wire, World, account_path, chat_path, world

#: So seldom that nobody but the test looks at the files.
SELDOM_S = 3600
#: Another appKey, and another token of the operators.
NEXT = "n3xt/99b1+27d4e6a0c583f1aa=~"
OTHER_TOKEN = "another-token-of-theirs"
#: For what has to be the same whether it was said at first or later.
WHEN = pytest.mark.parametrize("when", ["from the start", "while it runs"])


@contextlib.asynccontextmanager
async def changeable(folder: Path, **options: Any) -> AsyncIterator[World]:
    """A world, as `tests.support.world` makes it, that looks at its files only when it is told to."""
    admin = {"token_file": "admin-token", "hosts": ["gateway.test"]}
    async with world(folder, **{"admin": admin, "reload_s": SELDOM_S, **options}) as it:
        # The first look reads everything, as nothing was looked at before.
        await it.gateway.reloading.look_again()
        yield it
    assert it.stage.admin_token not in it.log.getvalue()


async def operator(it: World, method: str, path: str, token: str | None = None) -> Response:
    """One call of the private listener, with the token that it had at the start, or another."""
    wire = Wire(*await asyncio.open_connection(*it.addresses.private), it.received)
    fields = {"authorization": f"Bearer {token or it.stage.admin_token}", "content-type": "application/json"}
    try:
        return await wire.ask(method, path, fields, b"{}" if method == "POST" else b"")
    finally:
        await wire.close()


async def reload(it: World) -> Response:
    """POST /reload."""
    return await operator(it, "POST", "/reload")


async def reload_state(it: World) -> dict[str, Any]:
    """What `/readyz?verbose` says of reloads."""
    said: dict[str, Any] = (await operator(it, "GET", "/readyz?verbose")).json()["reload"]
    return said


async def metric(it: World, name: str) -> float:
    """A family's one value."""
    text = (await it.admin("/metrics")).body.decode()
    [value] = [line.split()[1] for line in text.splitlines() if line.startswith(f"chat_gateway_{name} ")]
    return float(value)


def say(it: World, **settings: object) -> None:
    """Write these into `gateway.yaml`; None leaves a setting out."""
    said = yaml.safe_load(it.stage.config.read_text()) | settings
    kept = {name: value for name, value in said.items() if value is not None}
    it.stage.config.write_text(yaml.safe_dump(kept, sort_keys=False))


def edit(file: Path, old: str, new: str) -> None:
    """Change a file's text."""
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All files of a folder, to be put back."""

    folder: Path
    files: dict[Path, bytes]

    @classmethod
    def of(cls, folder: Path) -> Snapshot:
        return cls(folder, {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()})

    def put_back(self, *files: str) -> None:
        """These files, or all, as they were."""
        wanted = {self.folder / file for file in files} or set(self.files)
        for file in wanted:
            if file.is_dir():
                shutil.rmtree(file)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(self.files[file])


# -- what is changed, and what is seen of it -----------------------------------------------------------------


def of(it: World, file: str) -> Path:
    return it.stage.config.parent / file


async def of_an_info(it: World) -> object:
    response = await it.get(chat_path(it.chat(), "/info"))
    return response.problem or response.status


async def of_the_token(it: World) -> object:
    tokens = (it.stage.admin_token, OTHER_TOKEN)
    return [(await operator(it, "GET", "/usage", token)).status for token in tokens]


def change_policies(it: World) -> None:
    edit(of(it, "policies/clients/bff.yaml"), "chat:read, ", "")


def change_resources(it: World) -> None:
    edit(of(it, "policies/resources.yaml"), "path: chat/{chat}/info\n", "path: chat/{chat}/information\n")


def change_keys(it: World) -> None:
    of(it, "jwks.json").write_bytes(new_key("ES256")[1])


def change_app_key(it: World) -> None:
    it.emulator.app_keys = (NEXT,)
    of(it, "app-key").write_text(NEXT)


def change_settings(it: World) -> None:
    say(it, issuers=[{"issuer": ISSUER, "audience": "other", "algorithms": ["ES256"], "jwks": "jwks.json"}])


def change_token(it: World) -> None:
    of(it, "admin-token").write_text(OTHER_TOKEN)


def revoke(it: World) -> None:
    of(it, "revoked").write_text(json.dumps({"client": "bff"}) + "\n")


# -- mistakes ----------------------------------------------------------------------------------------------


def written(file: str, text: str) -> Callable[[Path], object]:
    return lambda folder: (folder / file).write_text(text)


def gone(name: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).rename(folder / f"{name}.gone")


def changed(file: str, old: str, new: str) -> Callable[[Path], object]:
    return lambda folder: edit(folder / file, old, new)


BFF, PARTNER = "policies/clients/bff.yaml", "policies/clients/partner.yaml"

#: name → how it is made, the file that has it, what is said of it.
MISTAKES: Mapping[str, tuple[Callable[[Path], object], str, str]] = {
    "policies that are no YAML": (written(PARTNER, "clients: [\n"), PARTNER, f"{PARTNER}:"),
    "half a file": (changed(PARTNER, "allow: [chat:read]", "allow: [chat:"), PARTNER, f"{PARTNER}:"),
    "an unknown key of a client": (changed(PARTNER, "deny:", "denny:"), PARTNER, "clients.partner.denny"),
    "an unknown action": (changed(PARTNER, "allow: [chat:read]", "allow: [chat:raed]"), PARTNER, "chat:raed"),
    "a client twice": (
        changed(PARTNER, "  partner:\n", "  bff:\n"),
        PARTNER,
        "expected each client once",
    ),
    "a resource that may not be": (
        changed("policies/resources.yaml", "path: chat/{chat}/info\n", "path: hcp/js2rest\n"),
        "policies/resources.yaml",
        "resources.info.path",
    ),
    "no resources": (gone("policies/resources.yaml"), "policies/resources.yaml", "resources.yaml"),
    "no policies": (gone("policies"), "", "policies: expected the path of a folder"),
    "no keys": (gone("jwks.json"), "jwks.json", "issuers.0.jwks"),
    "unfit keys": (
        written("jwks.json", '{"keys": []}'),
        "jwks.json",
        "issuers.0.jwks: expected 1 to 100 keys",
    ),
    "no appKey": (gone("app-key"), "app-key", "accounts.123.app_key_file"),
    "an unfit appKey": (written("app-key", f"{APP_KEY} {NEXT}"), "app-key", "accounts.123.app_key_file"),
    "an empty appKey": (written("app-key", ""), "app-key", "accounts.123.app_key_file"),
    "a short token": (written("admin-token", "short"), "admin-token", "admin.token_file"),
    "no gateway.yaml": (gone("gateway.yaml"), "gateway.yaml", "gateway.yaml"),
    "gateway.yaml that is no YAML": (
        written("gateway.yaml", "public_url: ["),
        "gateway.yaml",
        "gateway.yaml:",
    ),
    "an unknown setting": (
        changed("gateway.yaml", "public_url:", "nothing_known: 1\npublic_url:"),
        "gateway.yaml",
        "nothing_known",
    ),
    "an account that nobody can reach": (
        changed("gateway.yaml", "upstream: http://", "upstream: ftp://"),
        "gateway.yaml",
        "accounts.123.upstream",
    ),
}


# -- all of it ---------------------------------------------------------------------------------------------


def whole(it: World) -> list[object]:
    """Everything that a reload may change, as the very objects."""
    gateway = it.gateway
    keys = [issuer.keys.current for issuer in gateway._verifier._issuers.values()]
    upstream = gateway._state.upstream
    return [
        gateway._state,
        gateway.settings,
        gateway._web_config,
        access(gateway.configuration).token,
        *keys,
        upstream._accounts.keys(ACCOUNT).in_order(),  # type: ignore[attr-defined]
    ]


def same(one: list[object], other: list[object]) -> bool:
    return len(one) == len(other) and all(a is b for a, b in zip(one, other, strict=True))


async def as_signed_by(it: World, private: bytes, **said: object) -> Response:
    """What somebody gets for a token that is signed with this key."""
    claims = {"iss": ISSUER, "aud": AUDIENCE, "sub": "bff", "exp": int(time.time()) + 600} | said
    token = mint(private, "ES256", kid_of(private), claims)
    it.tokens.add(token)
    return await it.ask("GET", account_path(), {"authorization": f"Bearer {token}"}, subject=None)


def add_account(it: World) -> dict[str, object]:
    return {
        ACCOUNT: {"upstream": it.server.url, "app_key_file": "app-key"},
        "456": {"upstream": it.server.url, "app_key_file": "app-key"},
    }


def move_away(it: World) -> None:
    """The account goes, and another comes."""
    accounts = add_account(it)
    del accounts[ACCOUNT]
    say(it, accounts=accounts)
