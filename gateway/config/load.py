"""The one way in: a file and the environment in; settings and policies out, or every mistake at once."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from gateway.config.checking import check
from gateway.config.documents import Document, read_file
from gateway.config.doubts import doubts_of_settings
from gateway.config.environment import overlay
from gateway.config.mistakes import KeyPath, Mistake, dotted, quoted, tidy
from gateway.config.policies import load_policies
from gateway.config.settings import DEFAULT_POLICIES, Issuer, Revocations, Settings, is_folder
from gateway.core.policy import Policies


@dataclass(frozen=True, slots=True)
class Loaded:
    """What was read. Settings or policies are None only if a mistake is more than a warning.

    `issuers` has each issuer that is right by itself, by its index, also where the settings are wrong; and
    `revocations` names its files, if that is right by itself.
    """

    settings: Settings | None
    policies: Policies | None
    mistakes: tuple[Mistake, ...]
    issuers: Mapping[int, Issuer]
    revocations: Revocations
    document: Document = field(repr=False)

    def mistake(self, path: KeyPath, sentence: str) -> Mistake:
        """A mistake in what the setting at `path` leads to, with the place of the setting."""
        file, line = self.document.where(path)
        return Mistake(file, line, dotted(path), sentence=sentence)


def load(path: Path, environ: Mapping[str, str]) -> Loaded:
    """Read `gateway.yaml`, the variables `CHAT_GATEWAY_...` over it, and the policies it names.

    The policies are read also where the settings are wrong, as far as they can be. Raises nothing.
    """
    document, mistakes = read_file(path, path.name)
    if document.data is None and mistakes:
        return Loaded(None, None, tidy(mistakes), {}, Revocations(), document)
    document, more = overlay(document, environ)
    context = {"folder": path.parent}
    settings = check(Settings, document, (), context)
    mistakes += [*more, *(settings if isinstance(settings, list) else ()), *_doubled_issuers(document)]
    issuers = {
        index: issuer
        for index in range(len(_rows(document)))
        if isinstance(issuer := check(Issuer, document, ("issuers", index), context), Issuer)
    }
    policies, others = _policies(document, path.parent)
    sound = None if mistakes or isinstance(settings, list) else settings
    revocations = _revocations(document, context)
    doubts = () if sound is None else doubts_of_settings(sound, document)
    return Loaded(sound, policies, tidy([*mistakes, *others, *doubts]), issuers, revocations, document)


def _section(document: Document, key: str) -> object:
    """A setting of which nobody knows yet whether it is right."""
    return document.data.get(key) if isinstance(document.data, dict) else None


def _revocations(document: Document, context: Mapping[str, object]) -> Revocations:
    if _section(document, "revocations") is None:
        return Revocations()
    said = check(Revocations, document, ("revocations",), context)
    return said if isinstance(said, Revocations) else Revocations()


def _rows(document: Document) -> list[object]:
    rows = _section(document, "issuers")
    return rows if isinstance(rows, list) else []


def _issuer_names(document: Document) -> list[str | None]:
    """The name of each issuer, None for one without."""
    names = (row.get("issuer") if isinstance(row, dict) else None for row in _rows(document))
    return [name if isinstance(name, str) else None for name in names]


def _doubled_issuers(document: Document) -> Iterator[Mistake]:
    names = _issuer_names(document)
    for index, name in enumerate(names):
        if name is not None and name in names[:index]:
            expected = f"each issuer once (first in issuers.{names.index(name)})"
            yield document.mistake(("issuers", index, "issuer"), expected, quoted(name))


def _policies(document: Document, folder: Path) -> tuple[Policies | None, tuple[Mistake, ...]]:
    """The policies that the settings name."""
    name = _section(document, "policies")
    name = DEFAULT_POLICIES if name is None else name
    if not is_folder(folder, name):
        return None, ()
    accounts, issuers = _section(document, "accounts"), _issuer_names(document)
    named_by = {
        issuer: claim
        for issuer, row in zip(issuers, _rows(document), strict=True)
        if issuer is not None and isinstance(row, dict) and isinstance(claim := row.get("client_claim"), str)
    }
    return load_policies(
        folder / str(name),
        accounts=frozenset(accounts) if isinstance(accounts, dict) else None,
        issuers=frozenset(filter(None, issuers)) if issuers and None not in issuers else None,
        version=1,
        named_by=named_by,
        shares=_section(document, "redis_url") is not None,
        shown_as=os.path.relpath(folder / str(name), folder) + "/",
    )
