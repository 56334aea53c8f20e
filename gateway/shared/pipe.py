"""Many commands at once on one connection. Replies come in the order of the commands, so none goes astray.

Who asks never touches the connection, and so may leave at any time: the reply is read all the same. Where
that was not so, it has gone to whoever came next (https://github.com/redis/redis-py/issues/2665).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable

from redis.asyncio.connection import Connection
from redis.exceptions import InvalidResponse

from gateway.shared.connections import FAILURES, LOST, Address, Failed, failure, read
from gateway.shared.scripts import Reply

Outcome = Reply | Failed


class Command:
    """A command on its way. It is settled once, by its reply, by its deadline, or by the end of its pipe."""

    __slots__ = ("answer", "data", "excuses", "is_sent", "is_settled", "timer", "until")

    def __init__(self, data: bytes, answer: asyncio.Future[Outcome], until: float) -> None:
        self.data = data
        self.until = until
        self.answer = answer
        self.timer: asyncio.TimerHandle | None = None
        self.is_sent = False
        self.is_settled = False
        self.excuses = 0

    def settle(self, outcome: Outcome) -> bool:
        """Whether it was not settled before."""
        if self.is_settled:
            return False
        self.is_settled = True
        if not self.answer.done():
            self.answer.set_result(outcome)
        return True

    def over(self) -> None:
        """Nothing more will happen to it."""
        if self.timer is not None:
            self.timer.cancel()


class Pipe:
    """One connection, from connecting to its end. `answered` is told of each reply, `ended` of the end."""

    def __init__(
        self,
        connect: Callable[[], Awaitable[Connection]],
        answered: Callable[[Command, Outcome], None],
        ended: Callable[[Pipe, Failed], None],
    ) -> None:
        #: Set once it has connected, or could not.
        self.tried = asyncio.Event()
        #: Where it leads; None before it does.
        self.address: Address | None = None
        self._connect = connect
        self._answered = answered
        self._ended = ended
        self._is_open = True
        self._unsent: list[Command] = []
        self._sent: deque[Command] = deque()
        self._more = asyncio.Event()
        self.task = asyncio.create_task(self._run())

    def put(self, command: Command) -> None:
        self._unsent.append(command)
        self._more.set()

    def commands(self) -> Iterable[Command]:
        """All that have no reply yet."""
        return [*self._sent, *self._unsent]

    def drop(self, why: Failed) -> None:
        """End it now."""
        self._end(why)
        self.task.cancel()

    def _end(self, why: Failed) -> None:
        if self._is_open:
            self._is_open = False
            self.tried.set()
            self._ended(self, why)

    async def _run(self) -> None:
        why = LOST
        try:
            connection = await self._connect()
            try:
                self.address = connection.host, connection.port
                self.tried.set()
                await self._carry(connection)
            finally:
                await connection.disconnect(nowait=True)
        except FAILURES as error:
            why = failure(error)
        finally:
            self._end(why)

    async def _carry(self, connection: Connection) -> None:
        """Write and read, until either fails."""
        tasks = [asyncio.create_task(self._write(connection)), asyncio.create_task(self._read(connection))]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _write(self, connection: Connection) -> None:
        while True:
            await self._more.wait()
            self._more.clear()
            batch = self._wanted()
            if not connection.is_connected:
                return  # or redis-py would connect again
            if batch:
                self._sent.extend(batch)
                await connection.send_packed_command([command.data for command in batch], check_health=False)

    def _wanted(self) -> list[Command]:
        """What is to be sent: not what has been given up on while there was no connection."""
        batch = []
        for command in self._unsent:
            if command.answer.done():
                command.over()
            else:
                command.is_sent = True
                batch.append(command)
        self._unsent.clear()
        return batch

    async def _read(self, connection: Connection) -> None:
        while True:
            outcome = await read(connection)
            if not self._sent:
                raise InvalidResponse("a reply to nothing")
            command = self._sent.popleft()
            command.over()
            self._answered(command, outcome)
