"""Everything that files and environment say, read in one go: settings, policies, keys.

Nothing here is live: a reload makes a second `Configuration` beside the first, and `gateway.app` swaps them.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from gateway.config.load import Loaded, load
from gateway.config.mistakes import Mistake, tidy
from gateway.config.settings import Account, Settings, Tls
from gateway.config.tracing import tracing_mistakes
from gateway.core.policy import Policies
from gateway.identity.keysets import KeyFile, KeySetError
from gateway.identity.records import faults_in_file, faults_in_journal
from gateway.upstream.keys import AppKeys


@dataclass(frozen=True, slots=True)
class Configuration:
    """What a gateway is made of.

    `key_files` has the keys of each issuer that has them in a file, by its name; `app_keys` those of each
    account. `authorities` are the certificates of those who vouch for the upstream, in PEM, None for the
    system's; `certificates` those that the listeners show. `warnings` are for the operator to see.
    """

    settings: Settings
    policies: Policies
    key_files: Mapping[str, KeyFile]
    app_keys: Mapping[str, AppKeys]
    admin_token: bytes | None = field(repr=False, default=None)
    authorities: bytes | None = field(repr=False, default=None)
    certificates: tuple[bytes, ...] = field(repr=False, default=())
    warnings: tuple[str, ...] = ()


class Misconfigured(Exception):
    """The configuration was refused; `mistakes` has a line for each thing that is wrong with it."""

    def __init__(self, mistakes: tuple[str, ...]) -> None:
        self.mistakes = mistakes
        super().__init__("\n".join(mistakes))


def configure(path: Path, environ: Mapping[str, str], *, starting: bool = False) -> Configuration:
    """All that the file at `path` and the environment say. Raises Misconfigured with every mistake.

    Before a start the records of revocations must be fit as well. While a gateway runs they hold nothing
    else back, and `gateway.app` reads them apart.
    """
    loaded = load(path, environ)
    key_files, faults = _read_keys(loaded)
    faults += tracing_mistakes(environ)
    told = tidy([*loaded.mistakes, *faults])
    # They are about lines, and stay in the order of those.
    unfit = tuple(_unfit_revocations(loaded)) if starting else ()
    lines = tuple(map(str, (*told, *unfit)))
    settings = loaded.settings
    if settings is None or loaded.policies is None or faults or unfit:
        raise Misconfigured(lines)
    try:
        app_keys = {name: AppKeys(_key_files(said)) for name, said in settings.accounts.items()}
        admin_token = _admin_token(settings.admin.token_file)
        ca_file = settings.upstream.ca_file
        authorities = None if ca_file is None else ca_file.read_bytes()
        certificates = tuple(tls.certificate_file.read_bytes() for tls in _listeners_tls(settings))
    except (OSError, ValueError) as error:
        # They were there a moment ago.
        raise Misconfigured((str(error),)) from None
    return Configuration(
        settings, loaded.policies, key_files, app_keys, admin_token, authorities, certificates, lines
    )


def _read_keys(loaded: Loaded) -> tuple[dict[str, KeyFile], list[Mistake]]:
    """The key file of each issuer that has one, and what is wrong with those that are unfit."""
    key_files: dict[str, KeyFile] = {}
    faults: list[Mistake] = []
    for index, issuer in loaded.issuers.items():
        kind: Literal["keys", "secret"] = "keys" if issuer.jwks else "secret"
        path = issuer.jwks or issuer.secret_file
        if path is None:
            continue
        try:
            key_files[issuer.issuer] = KeyFile(path, frozenset(issuer.algorithms), kind)
        except KeySetError as error:
            setting = ("issuers", index, "jwks" if issuer.jwks else "secret_file")
            # The place of the setting says which file it is.
            faults += (loaded.mistake(setting, fault.removeprefix(f"{path}: ")) for fault in error.faults)
    return key_files, faults


def _unfit_revocations(loaded: Loaded) -> Iterator[Mistake]:
    said = loaded.revocations
    for setting, path, faults_in in (
        ("file", said.file, faults_in_file),
        ("journal", said.journal, faults_in_journal),
    ):
        if path is not None:
            for fault in faults_in(path):
                # As editors take it: `revoked:3: …`.
                yield loaded.mistake(("revocations", setting), fault.removeprefix(f"{path.parent}/"))


def _key_files(account: Account) -> tuple[Path, ...]:
    following = account.next_app_key_file
    return (account.app_key_file,) if following is None else (account.app_key_file, following)


def _admin_token(path: Path | None) -> bytes | None:
    """The token of the private listener. What was fit when it was checked may be half written by now."""
    if path is None:
        return None
    found = _ADMIN_TOKEN.fullmatch(path.read_bytes())
    if found is None:
        raise ValueError(f"{path}: expected one line of 16 to 256 printable characters, got something else")
    return found[1]


_ADMIN_TOKEN = re.compile(rb"([!-~]{16,256})\r?\n?")


def fingerprint(path: Path, settings: Settings, revocations: Path | None) -> bytes:
    """A digest over the content of every file that a configuration comes from, and of this one.

    Content, not times: a mounted volume changes by swapping a symlink.
    """
    digest = hashlib.sha256()
    for file in (path, *_policy_files(settings.policies), *_named(settings), revocations):
        if file is not None:
            digest.update(b"\0%s\0" % bytes(file))
            digest.update(_content(file))
    return digest.digest()


def _policy_files(folder: Path) -> Iterable[Path]:
    """Those that are read; either folder may be a link to one elsewhere."""
    try:
        clients = sorted(file for file in (folder / "clients").iterdir() if file.suffix == ".yaml")
    except OSError:  # a volume is swapped in just this moment
        clients = []
    return (folder / "resources.yaml", *clients)


def _named(settings: Settings) -> Iterator[Path]:
    for account in settings.accounts.values():
        yield from _key_files(account)
    for issuer in settings.issuers:
        yield from filter(None, (issuer.jwks, issuer.secret_file, issuer.ca_file))
    for tls in _listeners_tls(settings):
        yield from (tls.certificate_file, tls.key_file)
    yield from filter(None, (settings.upstream.ca_file, settings.admin.token_file))


def _listeners_tls(settings: Settings) -> Iterator[Tls]:
    return (tls for tls in (settings.tls, settings.admin_tls) if tls is not None)


def _content(file: Path) -> bytes:
    try:
        return hashlib.sha256(file.read_bytes()).digest()
    except OSError as error:
        return f"{error.errno}".encode()
