"""The one way in: a file and the environment in; settings and policies out, or every mistake at once."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from gateway.config.checking import check
from gateway.config.documents import read_file
from gateway.config.environment import overlay
from gateway.config.mistakes import Mistake, tidy
from gateway.config.policies import load_policies
from gateway.config.settings import DEFAULT_POLICIES, Settings, is_folder
from gateway.core.policy import Policies


@dataclass(frozen=True, slots=True)
class Loaded:
    """What was read. Neither value is None unless there is a mistake that is more than a warning."""

    settings: Settings | None
    policies: Policies | None
    mistakes: tuple[Mistake, ...]


def load(path: Path, environ: Mapping[str, str]) -> Loaded:
    """Read `gateway.yaml`, the variables `CHAT_GATEWAY_...` over it, and the policies it names.

    The policies are read also where the settings are wrong, as far as they can be. Raises nothing.
    """
    document, mistakes = read_file(path, path.name)
    if document.data is None and mistakes:
        return Loaded(None, None, tidy(mistakes))
    document, more = overlay(document, environ)
    checked = check(Settings, document, (), {"folder": path.parent})
    policies, others = _policies(document.data, path.parent)
    mistakes += more
    if isinstance(checked, list):
        return Loaded(None, policies, tidy([*mistakes, *checked, *others]))
    return Loaded(None if mistakes else checked, policies, tidy([*mistakes, *others]))


def _policies(data: object, folder: Path) -> tuple[Policies | None, tuple[Mistake, ...]]:
    """The policies that settings name, of which nobody knows yet whether they are right."""
    settings = data if isinstance(data, dict) else {}
    name, accounts, issuers = (settings.get(key) for key in ("policies", "accounts", "issuers"))
    name = DEFAULT_POLICIES if name is None else name
    if not (isinstance(accounts, dict) and isinstance(issuers, list) and is_folder(folder, name)):
        return None, ()
    return load_policies(
        folder / name,
        accounts=frozenset(accounts),
        issuers=frozenset(_issuers(issuers)),
        version=1,
        shown_as=os.path.relpath(folder / name, folder) + "/",
    )


def _issuers(rows: list[object]) -> Iterator[str]:
    for row in rows:
        name = row.get("issuer") if isinstance(row, dict) else None
        if isinstance(name, str):
            yield name
