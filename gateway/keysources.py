"""Where each issuer's keys come from: files as they were last read, URLs as they were last fetched."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from structlog.typing import FilteringBoundLogger

from gateway.config.settings import Issuer as IssuerSettings
from gateway.configuration import Configuration
from gateway.identity.fetching import Fetcher, Unfetched
from gateway.identity.keysets import KeyFile, KeySet, KeySetError
from gateway.identity.remote import RemoteKeys
from gateway.identity.tokens import Issuer, KeySource


@dataclass(frozen=True, slots=True)
class Sources:
    """The issuers of one configuration with their keys; those in files as that configuration read them."""

    issuers: tuple[Issuer, ...]
    remotes: Mapping[str, RemoteKeys]
    key_files: Mapping[str, KeyFile]


class KeySources:
    """Keeps a source over a reload where nothing about it changed, and the remote ones fresh.

    `changed` is called in the step in which a source that is in force has other keys, or none any more.
    """

    def __init__(
        self,
        log: FilteringBoundLogger,
        crashed: Callable[[Exception], None],
        now: Callable[[], float],
        random: Callable[[], float],
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        self._log = log
        self._crashed = crashed
        self._now = now
        self._random = random
        self._changed = changed
        self._rows: dict[str, IssuerSettings] = {}
        self._kept: dict[str, KeySource] = {}
        self._tasks: dict[RemoteKeys, asyncio.Task[None]] = {}
        self.remotes: Mapping[str, RemoteKeys] = {}

    def prepare(self, configuration: Configuration) -> Sources:
        """The issuers of a configuration. Nothing that is in force changes by this."""
        sources = {
            row.issuer: self._source(row, configuration.key_files) for row in configuration.settings.issuers
        }
        remotes = {name: source for name, source in sources.items() if isinstance(source, RemoteKeys)}
        issuers = tuple(_issuer(row, sources[row.issuer]) for row in configuration.settings.issuers)
        return Sources(issuers, remotes, configuration.key_files)

    def _source(self, row: IssuerSettings, key_files: Mapping[str, KeyFile]) -> KeySource:
        kept = self._kept.get(row.issuer)
        if kept is not None and _source_of(self._rows[row.issuer]) == _source_of(row):
            return kept
        return key_files[row.issuer] if row.issuer in key_files else self._remote(row)

    def _remote(self, row: IssuerSettings) -> RemoteKeys:
        def tell(outcome: KeySet | Exception) -> None:
            match outcome:
                case KeySet():
                    self._log.info(
                        "keys fetched", issuer=row.issuer, keys=len(outcome.keys), left_out=outcome.left_out
                    )
                case Unfetched() | KeySetError():
                    self._log.error("keys not fetched", issuer=row.issuer, faults=str(outcome).splitlines())
                case _:
                    self._crashed(outcome)

        return RemoteKeys(
            row.issuer,
            row.jwks_url,
            frozenset(row.algorithms),
            Fetcher(row.ca_file, row.bearer_token_file, proxy=row.proxy),
            now=self._now,
            random=self._random,
            tell=tell,
            changed=self._changed,
            refresh_s=row.refresh_s,
            cooldown_s=row.cooldown_s,
            max_stale_s=row.max_stale_s,
        )

    async def warm(self, sources: Sources) -> None:
        """Start fetching what is not fetched yet, and wait for it, but not for long."""
        new = [remote for remote in sources.remotes.values() if remote not in self._tasks]
        for remote in new:
            self._tasks[remote] = asyncio.create_task(remote.keep_fresh())
        await asyncio.gather(*(remote.renew() for remote in new))

    def adopt(self, sources: Sources, rows: tuple[IssuerSettings, ...]) -> bool:
        """From now on these are in force. Returns whether the keys of a file are others than before."""
        self._rows = {row.issuer: row for row in rows}
        self._kept = {issuer.issuer: issuer.keys for issuer in sources.issuers}
        self.remotes = sources.remotes
        for name, remote in sources.remotes.items():
            row = self._rows[name]
            remote.go_by(refresh_s=row.refresh_s, cooldown_s=row.cooldown_s, max_stale_s=row.max_stale_s)
        for remote in set(self._tasks) - set(sources.remotes.values()):
            self._tasks.pop(remote).cancel()
        changed = False
        for name, read in sources.key_files.items():
            kept = self._kept[name]
            if isinstance(kept, KeyFile) and kept is not read and kept.adopt(read):
                changed = True
                self._changed()
        return changed

    async def close(self) -> None:
        """Fetch nothing more."""
        for task in self._tasks.values():
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks.values())
        self._tasks.clear()


def _source_of(row: IssuerSettings) -> object:
    """What decides where keys come from, and which; not how often, nor what tokens must say."""
    return row.model_dump(exclude=_BESIDE)


_BESIDE = {"audience", "leeway_s", "token_type", "client_claim", "refresh_s", "cooldown_s", "max_stale_s"}


def _issuer(row: IssuerSettings, source: KeySource) -> Issuer:
    return Issuer(
        row.issuer,
        row.audience,
        frozenset(row.algorithms),
        source,
        row.leeway_s,
        None if row.token_type == "any" else row.token_type,  # noqa: S105 - no password
        row.client_claim,
    )
