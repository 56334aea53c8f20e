"""The connection on which messages come."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable

from redis.asyncio.connection import Connection

from gateway.shared.connections import CONNECT_S, FAILURES, LATE, MOVED, Address, Failed, failure

#: Pauses before connecting again: the first, and the longest. Each takes up to as long again by chance.
FIRST_PAUSE_S = 0.05
LAST_PAUSE_S = 0.5
#: After so long without a word the server is asked for one, and the third time it is given up on.
QUIET_S = 0.5
MOST_QUIET = 3


class Subscription:
    """Hears what is published on some channels, on a connection that is made anew for ever.

    `heard` is called for each message, in order. `changed` is called with None when it begins to hear, and
    with the reason when it has ended or could not connect. `jitter` gives numbers from 0 to 1.
    """

    def __init__(
        self,
        connect: Callable[[], Awaitable[Connection]],
        channels: tuple[str, ...],
        heard: Callable[[bytes], None],
        changed: Callable[[Failed | None], None],
        jitter: Callable[[], float],
    ) -> None:
        self.begun = asyncio.Event()
        #: Where messages come from; None while none come.
        self.address: Address | None = None
        self._connect = connect
        self._channels = channels
        self._heard = heard
        self._changed = changed
        self._jitter = jitter
        self._has_moved = False

    def move(self) -> None:
        """Connect anew, within `QUIET_S`: the server is not the one to hear any more."""
        self._has_moved = True

    async def run(self) -> None:
        """Hear until cancelled."""
        pause_s = FIRST_PAUSE_S
        while True:
            why = await self._once()
            pause_s = FIRST_PAUSE_S if self.begun.is_set() else min(pause_s * 2, LAST_PAUSE_S)
            self.begun.clear()
            self.address = None
            self._changed(why)
            await asyncio.sleep(pause_s * (1 + self._jitter()))

    async def _once(self) -> Failed:
        """Connect and hear, until that fails."""
        self._has_moved = False
        try:
            connection = await self._connect()
            try:
                await self._subscribe(connection)
                await self._listen(connection)
            finally:
                await connection.disconnect(nowait=True)
        except FAILURES as error:
            return failure(error)
        return MOVED if self._has_moved else LATE

    async def _subscribe(self, connection: Connection) -> None:
        async with asyncio.timeout(CONNECT_S):
            await connection.send_command("SUBSCRIBE", *self._channels)
            for _ in self._channels:
                await connection.read_response(timeout=math.inf)
        self.address = connection.host, connection.port
        self.begun.set()
        self._changed(None)

    async def _listen(self, connection: Connection) -> None:
        loop = asyncio.get_running_loop()
        quiet = 0
        while quiet < MOST_QUIET and not self._has_moved:
            match await connection.read_response(timeout=QUIET_S):
                case None:
                    quiet += 1
                    await connection.send_command("PING")
                case [b"message", _, bytes(payload)]:
                    quiet = 0
                    # Its own step of the loop: a mistake in there ends no connection.
                    loop.call_soon(self._heard, payload)
                case _:
                    quiet = 0  # the answer to a PING
