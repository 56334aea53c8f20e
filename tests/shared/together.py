"""Several replicas on virtual time: simulations before one emulator, with a Redis between them that may fail.

Each replica has a way of its own to Redis. On it commands and messages take their time, and are lost where a
test says so.
"""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import Callable, Sequence
from typing import Any

from gateway.core.freshness import Failed
from gateway.core.messages import Chat, Key
from gateway.core.policy import Policies
from gateway.emulator import EmulatorConfig
from gateway.shared.commands import Raised, RedisCommands
from gateway.shared.leases import SharedFlights
from gateway.shared.names import Names
from gateway.shared.records import Records
from gateway.shared.replicas import BEAT_S, Heard, Membership, Said
from gateway.shared.scripts import Reply, Script, Word
from tests.shared.model import Model
from tests.simulation import EPOCH, EmulatedUpstream, Simulation

DEADLINE_S = 0.040
LEASE_S = 1.0
#: As `gateway.cluster` has it: longer than a leader may wait for its turn and for its answer.
LONGEST_S = 10.5
#: From one end to the other.
USUAL_S = 0.001


class Way:
    """The way from one replica to Redis, as its runner. `delay_s` is asked for each command and message."""

    def __init__(self, redis: Model) -> None:
        self.redis = redis
        self.delay_s: Callable[[], float] = lambda: USUAL_S
        self.is_cut = False
        #: How many of the next messages are lost, without anybody noticing.
        self.losing = 0
        self._last_at = 0.0

    async def run(self, script: Script, keys: Sequence[str], args: Sequence[Word]) -> Reply | None:
        there_s, back_s = self.delay_s(), self.delay_s()
        running = asyncio.ensure_future(self._run(there_s, back_s, script, keys, args))
        await asyncio.wait((running,), timeout=DEADLINE_S)
        # A command is never taken back: it may still be carried out.
        return running.result() if running.done() else None

    async def _run(
        self, there_s: float, back_s: float, script: Script, keys: Sequence[str], args: Sequence[Word]
    ) -> Reply | None:
        await asyncio.sleep(there_s)
        reply = None if self.is_cut else await self.redis.run(script, keys, args)
        await asyncio.sleep(back_s)
        return self._arrived(reply)

    def _arrived(self, reply: Reply | None) -> Reply | None:
        return None if self.is_cut else reply

    def hear(self, channel: str, heard: Callable[[bytes], None]) -> None:
        self.redis.subscribe(channel, lambda message: self._carry(message, heard))

    def _carry(self, message: bytes, heard: Callable[[bytes], None]) -> None:
        if self.is_cut:
            return
        if self.losing:
            self.losing -= 1
            return
        loop = asyncio.get_running_loop()
        # In the order in which they were sent.
        self._last_at = max(self._last_at, loop.time() + self.delay_s())
        loop.call_at(self._last_at, lambda: None if self.is_cut else heard(message))


class Replica:
    """One simulation among others, wired as `gateway.cluster` wires a gateway."""

    def __init__(self, number: int, redis: Model, upstream: EmulatedUpstream, **said: Any) -> None:
        self.way = Way(redis)
        self.name = f"replica-{number}"
        self.is_alive = True
        names = Names("test")
        commands = _Counting(self, self.way, names, self.name, lease_s=LEASE_S, first_lease_s=4 * DEADLINE_S)
        heard = Heard(self._written, self._purged, self._missed, self._landed, lambda _: None, lambda _: None)
        tokens = itertools.count()
        # Redis has a clock of its own.
        self.members = Membership(self.name, commands, heard, self._now)
        self.members.connected()
        self.flights = SharedFlights(
            commands,
            Records(None, os.urandom),
            self.members,
            common=lambda: b"",
            believe=self._believe,
            new_token=lambda: f"{number}-{next(tokens)}",
            now=self._now,
            lease_s=LEASE_S,
            longest_s=LONGEST_S,
        )
        for channel in (names.all, names.inbox(self.name)):
            self.way.hear(channel, self.members.hear)
        #: How many writes of this replica's the others were told of.
        self.raised = 0
        self.world = Simulation(upstream=upstream, replicas=lambda _: self.flights, **said)
        self._beating = asyncio.create_task(self._beat())

    def _now(self) -> float:
        return asyncio.get_running_loop().time()

    def _written(self, chat: Chat) -> None:
        self.world.exchange.written(chat)
        self.flights.written(chat)

    def _purged(self, account: str | None) -> None:
        self.world.exchange.purged(account)
        self.flights.purged()

    def _missed(self) -> None:
        self.world.exchange.missed()

    def _landed(self, said: Said) -> None:
        self.flights.landed(said)

    def _believe(self, account: str, key: Key, whose: str, failed: Failed) -> Failed:
        return self.world.exchange.believe(account, key, whose, failed)

    async def _beat(self) -> None:
        while True:
            await self.members.beat()
            await asyncio.sleep(BEAT_S)

    def cut(self) -> None:
        """Between this replica and Redis nothing passes any more, and both know."""
        self.way.is_cut = True
        self.members.lost()
        self.flights.lost()

    def mend(self) -> None:
        self.way.is_cut = False
        self.members.connected()

    async def die(self) -> None:
        """From one moment to the next, as by SIGKILL: nobody is told anything."""
        self.is_alive = False
        self.way.is_cut = True
        self._beating.cancel()
        await self.world.exchange.flights.drain(0)

    async def end(self) -> None:
        self._beating.cancel()
        await asyncio.wait((self._beating,))


class _Counting(RedisCommands):
    def __init__(self, replica: Replica, *args: Any, **said: Any) -> None:
        super().__init__(*args, **said)
        self._of = replica

    async def raised(self, account: str, chat_id: str) -> Raised | None:
        raised = await super().raised(account, chat_id)
        self._of.raised += raised is not None
        return raised


class Together:
    """A cluster: `replicas` before one emulator."""

    def __init__(
        self,
        count: int,
        *,
        policies: Policies | None = None,
        config: EmulatorConfig | None = None,
        **said: Any,
    ) -> None:
        self.redis = Model(lambda: EPOCH + 7.25 + asyncio.get_running_loop().time())
        first = Simulation(config=config)
        self.emulator, self.upstream, self.clock = first.emulator, first.upstream, first.clock
        self.replicas = [
            Replica(number, self.redis, self.upstream, policies=policies, **said) for number in range(count)
        ]

    async def begin(self) -> None:
        """Until all have beaten and are whole."""
        await asyncio.sleep(0.1)
        assert all(replica.members.whole for replica in self.replicas)

    def living(self) -> list[Replica]:
        return [replica for replica in self.replicas if replica.is_alive]

    async def end(self) -> None:
        """Let all land, and see that nothing is left of it."""
        await asyncio.sleep(20.0)
        for replica in self.replicas:
            await replica.end()
            assert len(replica.world.exchange.flights) == 0
            assert replica.world.metrics.crashes == 0
        await asyncio.sleep(1.0)
        assert asyncio.all_tasks() == {asyncio.current_task()}


def ways(together: Together, delay_s: Callable[[], float]) -> None:
    for replica in together.replicas:
        replica.way.delay_s = delay_s
