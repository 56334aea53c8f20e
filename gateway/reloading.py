"""What is read again while the gateway runs: files and revocations, and what operators are told of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from structlog.typing import FilteringBoundLogger

from gateway.config.settings import Settings, needs_restart
from gateway.configuration import Configuration, Misconfigured, configure, fingerprint
from gateway.identity.records import RevocationsError
from gateway.identity.revocations import Revocations
from gateway.observe.metrics import Reloads

#: Files that stay the same for so long are not being written; and how often that is waited for.
REST_S = 0.05
REST_LOOKS = 20


@dataclass(frozen=True, slots=True)
class Reloaded:
    """How a reload went: whether anything changed, what was wrong, and what takes a restart."""

    changed: bool = False
    mistakes: tuple[str, ...] = ()
    needs_restart: tuple[str, ...] = ()


class House(Protocol):
    """Whose configuration it is. `adopt` tells whether what was read is something new."""

    at_start: Settings

    @property
    def configuration(self) -> Configuration: ...
    @property
    def settings(self) -> Settings: ...
    async def adopt(self, read: Configuration) -> bool: ...


class Reloading:
    """Where the configuration came from, and how reading it again went."""

    def __init__(
        self,
        house: House,
        *,
        path: Path,
        environ: Mapping[str, str],
        revocations: Revocations,
        log: FilteringBoundLogger,
        wall: Callable[[], float],
    ) -> None:
        self._house = house
        self._path = path
        self._environ = environ
        self._revocations = revocations
        self._log = log
        self._wall = wall
        self._at_start = house.at_start
        self._told = Reloads(wall(), policies_version=house.configuration.policies.version)
        self._mistakes: tuple[str, ...] = ()
        self._unfit_revocations: tuple[str, ...] = ()
        self._seen: bytes | None = None
        self._reloading = asyncio.Lock()

    def told(self) -> Reloads:
        """For metrics."""
        return replace(self._told, failed=self._told.failed or bool(self._unfit_revocations))

    def status(self) -> Mapping[str, object]:
        """Ready for JSON."""
        reloads = self._told
        return {
            "ok": not reloads.failed and not self._unfit_revocations,
            "succeeded_at": int(reloads.succeeded_at),
            "mistakes": self._all_wrong(),
            "needs_restart": needs_restart(self._at_start, self._house.settings),
        }

    async def look_again(self) -> None:
        """Look at all files; what changed takes effect, what is unfit is logged and refused."""
        # What a mistake was about may be mended by a file that is not known yet.
        if self._told.failed or await self._fingerprint(self._house.settings) != self._seen:
            await self.reload()

    async def reload(self) -> Reloaded:
        """Read everything again; what is sound takes effect as a whole, a mistake leaves all as it is."""
        async with self._reloading:
            await self._at_rest()
            revoked = await self._read_revocations()
            changed = await self._read_again()
            # What was written since then is in the fingerprint by now, and no later look would find it.
            revoked |= await self._read_revocations()
            return Reloaded(
                revoked or changed, self._all_wrong(), needs_restart(self._at_start, self._house.settings)
            )

    async def _at_rest(self) -> None:
        """Wait while somebody writes: half a file may be sound, and half of several files as well."""
        seen = await self._fingerprint(self._house.settings)
        for _ in range(REST_LOOKS):
            await asyncio.sleep(REST_S)
            before, seen = seen, await self._fingerprint(self._house.settings)
            if seen == before:
                return

    async def _fingerprint(self, settings: Settings) -> bytes:
        # Which file of revocations is in force was settled at the start.
        return await asyncio.to_thread(fingerprint, self._path, settings, self._at_start.revocations.file)

    def _all_wrong(self) -> tuple[str, ...]:
        """All that is wrong with the files as they are now."""
        return (*self._mistakes, *self._unfit_revocations)

    async def _read_revocations(self) -> bool:
        """They hold nothing else back, and nothing else holds them back. Whether they changed."""
        outcome = await asyncio.to_thread(self._revocations.refresh)
        if isinstance(outcome, RevocationsError):
            self._unfit_revocations = tuple(f"revocations: {fault}" for fault in outcome.faults)
            self._log.error("revocations refused", faults=outcome.faults)
            self._told = replace(self._told, failures=self._told.failures + 1)
            return False
        if outcome is None:
            return False
        self._unfit_revocations = ()
        self._log.info("revocations changed", in_force=outcome)
        return True

    async def _read_again(self) -> bool:
        """Adopt what is read, if the files stayed what they were. Whether it is something new."""
        settings = self._house.settings
        for _ in range(REST_LOOKS):
            seen = await self._fingerprint(settings)
            try:
                read = await asyncio.to_thread(configure, self._path, self._environ)
            except Misconfigured as refused:
                self._refused(refused.mistakes)
                return False
            # Other settings may name other files, and those may have changed since they were read.
            is_whole = read.settings == settings and await self._fingerprint(settings) == seen
            settings = read.settings
            if is_whole:
                changed = await self._house.adopt(read)
                self._seen = seen
                self._adopted(read, changed=changed)
                return changed
        self._refused(("the files: expected them to stay while they are read, got changes",))
        return False

    def _refused(self, mistakes: tuple[str, ...]) -> None:
        if mistakes != self._mistakes:
            self._log.error("configuration refused", mistakes=mistakes)
            self._told = replace(self._told, failures=self._told.failures + 1)
        self._mistakes = mistakes
        self._told = replace(self._told, failed=True)

    def _adopted(self, read: Configuration, *, changed: bool) -> None:
        if changed or self._told.failed:
            self._log.info(
                "configuration changed",
                policies_version=self._house.configuration.policies.version,
                warnings=read.warnings,
                needs_restart=needs_restart(self._at_start, read.settings),
            )
        self._mistakes = ()
        self._told = replace(
            self._told,
            succeeded_at=self._wall(),
            failed=False,
            policies_version=self._house.configuration.policies.version,
        )
