"""A world whose files change while it runs, and the operator who changes them."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.support import Response, Wire, World, world

#: So seldom that nobody but the test looks at the files.
SELDOM_S = 3600


@contextlib.asynccontextmanager
async def changeable(folder: Path, **options: Any) -> AsyncIterator[World]:
    """A world, as `tests.support.world` makes it, that looks at its files only when it is told to."""
    admin = {"token_file": "admin-token", "hosts": ["gateway.test"]}
    async with world(folder, **{"admin": admin, "reload_s": SELDOM_S, **options}) as it:
        # The first look reads everything, as nothing was looked at before.
        await it.gateway.look_again()
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
