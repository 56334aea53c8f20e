"""One of several replicas: what they share through Redis, wired. Without `redis_url` there is none of it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import secrets
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any

from structlog.typing import FilteringBoundLogger

from gateway.config.addresses import RedisPlace
from gateway.config.settings import Redis, Settings, sealing_key
from gateway.configuration import Misconfigured
from gateway.core.freshness import Failed
from gateway.core.messages import Chat, Key
from gateway.exchange import Exchange
from gateway.identity.revocations import Revocations
from gateway.observe.metrics import Shared
from gateway.observe.usage import Usage
from gateway.ports import Clock
from gateway.shared.commands import RedisCommands
from gateway.shared.connections import Place
from gateway.shared.leases import Role, SharedFlights
from gateway.shared.limits import Alone, SharedLimiter
from gateway.shared.link import Link
from gateway.shared.names import Names
from gateway.shared.records import Records
from gateway.shared.replicas import BEAT_S, Heard, Membership, Said
from gateway.shared.revocations import SharedRevocations
from gateway.shared.tallies import SYNC_S, Tallies
from gateway.stores.limits import MemoryLimiter
from gateway.stores.memory import MemoryStore

#: How much longer than a flight of its own a replica follows another's: for the queue, and the way there.
SPARE_S = 5.5
#: How many deadlines a lease is for before it is renewed. Who has asked for it knows within one.
FIRST_LEASE = 4
#: How long a start waits for what is revoked, and a stop to say farewell.
PATIENCE_S = 2.0
RETRY_S = 0.05


#: Whoever carries out work that nobody waits for, and says so if it crashes.
Safely = Callable[[Callable[[], Awaitable[object]]], Coroutine[Any, Any, None]]


class Cluster:
    """A replica's part of what is shared. `digest` names what replicas must have in common to share entries.

    Raises Misconfigured.
    """

    def __init__(
        self,
        where: RedisPlace,
        settings: Settings,
        *,
        digest: Callable[[], str],
        clock: Clock,
        log: FilteringBoundLogger,
        store: MemoryStore,
        limiter: MemoryLimiter,
        usage: Usage,
        revocations: Revocations,
        safely: Safely,
    ) -> None:
        said, records = settings.redis, _records(settings.redis)
        # New for each process: what it counts is numbered from the beginning.
        name, names = secrets.token_hex(8), Names(said.prefix)
        self._store = store
        self._divided = limiter
        self._noted = revocations
        self._clock = clock
        self._safely = safely
        self._exchange: Exchange | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._link = Link(
            _place(where, said),
            deadline_s=said.deadline_ms / 1000,
            now=clock.now,
            jitter=random.random,
            channels=(names.all, names.inbox(name)),
            heard=self._hear,
            changed=self._changed,
            log=log,
        )
        self._commands = RedisCommands(
            self._link,
            names,
            name,
            lease_s=said.lease_ms / 1000,
            first_lease_s=FIRST_LEASE * said.deadline_ms / 1000,
        )
        heard = Heard(self._written, self._purged, self._missed, self._landed, self._living, self._revoked)
        self._members = Membership(name, self._commands, heard, clock.now)
        self._link.probe = self._members.beat
        self.flights = SharedFlights(
            self._commands,
            records,
            self._members,
            common=lambda: digest().encode() + records.key_id,
            believe=self._believe,
            new_token=lambda: secrets.token_hex(8),
            now=clock.now,
            lease_s=said.lease_ms / 1000,
            longest_s=settings.upstream.deadline_ms / 1000 + SPARE_S,
        )
        self.limiter = SharedLimiter(limiter, self._commands, Alone(said.exact_limits_alone))
        self._tallies = Tallies(self._commands, {"usage": usage, "quota": limiter}, clock.wall)
        self._revocations = SharedRevocations(self._commands, revocations)
        revocations.tell = self._revocations.publish

    @property
    def living(self) -> int:
        """How many replicas there are, this one included."""
        return self._members.living

    def join(self, exchange: Exchange) -> None:
        """The road that hears what others say. Before `begin`."""
        self._exchange = exchange

    @property
    def _road(self) -> Exchange:
        assert self._exchange is not None  # noqa: S101 - it has joined
        return self._exchange

    # -- what is heard: none of it waits --------------------------------------------------------------------

    def _hear(self, payload: bytes) -> None:
        self._members.hear(payload)

    def _changed(self) -> None:
        self._revocations.forget()
        if self._link.up and self._link.subscribed:
            self._members.connected()
            self._start(self._members.beat())
            self._start(self._safely(self.flights.tell_untold))
        else:
            self._members.lost()
            self.flights.lost()

    def _written(self, chat: Chat) -> None:
        self._road.written(chat)
        self.flights.written(chat)

    def _purged(self, account: str | None) -> None:
        self._road.purged(account)
        self.flights.purged()

    def _missed(self) -> None:
        self._road.missed()
        self._revocations.forget()

    def _believe(self, account: str, key: Key, whose: str, failed: Failed) -> Failed:
        return self._road.believe(account, key, whose, failed)

    def _landed(self, said: Said) -> None:
        self.flights.landed(said)

    def _living(self, replicas: int) -> None:
        self._divided.divide(replicas)

    def _revoked(self, version: int) -> None:
        self._start(self._safely(lambda: self._revocations.learn(version)))

    # -- what is seen ---------------------------------------------------------------------------------------

    def seen(self) -> Shared:
        """For metrics."""
        health, counts = self._link.health(), self._members.counts
        return Shared(
            up=health.up,
            whole=self._members.whole,
            replicas=self.living,
            commands={
                (name, "ok" if answered else "none"): count
                for (name, answered), count in self._commands.outcomes.items()
            },
            failures=health.failures,
            flights={role.value: self.flights.roles[role] for role in Role},
            silent_replicas=counts.silent,
            missed_messages=counts.missed,
            foreign=counts.foreign + self._noted.foreign,
        )

    def status(self) -> Mapping[str, object]:
        """For who asks whether the gateway is well."""
        health = self._link.health()
        return {
            "up": health.up,
            "whole": self._members.whole,
            "replicas": self.living,
            "since_s": round(self._clock.now() - health.since, 1),
            "last_error": health.last_error,
        }

    # -- life -----------------------------------------------------------------------------------------------

    async def begin(self) -> None:
        """Connect, and learn what is revoked. Redis may come later, and the rest with it."""
        await self._link.begin()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE_S):
                await self._catch_up()
        self._start(self._every(BEAT_S, self._beat))
        self._start(self._every(SYNC_S, self._tallies.sync))

    async def _catch_up(self) -> None:
        beat = await self._members.beat()
        while beat is None:
            await asyncio.sleep(RETRY_S)
            beat = await self._members.beat()
        await self._revocations.learn(beat.revocations)
        await self._tallies.sync()

    async def _beat(self) -> None:
        # While Redis is away the link sees by itself when it is back.
        if self._link.up:
            await self._members.beat()

    async def _every(self, period_s: float, work: Callable[[], Awaitable[object]]) -> None:
        while True:
            await self._safely(work)
            await asyncio.sleep(period_s)

    async def end(self) -> None:
        """Tell what was counted, and that nobody is to wait for this replica."""
        for task in self._tasks:
            task.cancel()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE_S):
                await self._tallies.sync()
                await self._members.leave()
        await self._link.close()

    def _start(self, work: Coroutine[Any, Any, Any]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _place(where: RedisPlace, said: Redis) -> Place:
    return Place(
        addresses=tuple((address.host, address.port) for address in where.addresses),
        sentinel=where.master,
        database=where.database,
        tls=where.tls,
        username=said.username,
        password=_secret(said.password_file),
        sentinel_username=said.sentinel_username,
        sentinel_password=_secret(said.sentinel_password_file),
        ca_file=_named(said.ca_file),
        certificate_file=_named(said.certificate_file),
        key_file=_named(said.key_file),
    )


def _secret(file: Path | None) -> str | None:
    try:
        return None if file is None else file.read_text().strip()
    except (OSError, ValueError):
        # It was fit a moment ago.
        raise Misconfigured((f"{file}: expected a file that can be read, got another",)) from None


def _named(file: Path | None) -> str | None:
    return None if file is None else str(file)


def _records(said: Redis) -> Records:
    file = said.encryption_key_file
    try:
        return Records(None if file is None else sealing_key(file), os.urandom)
    except (OSError, ValueError):
        raise Misconfigured((f"{file}: expected a file that can be read, got another",)) from None
