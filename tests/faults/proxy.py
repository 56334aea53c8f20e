"""A TCP proxy that does to connections what networks do. It knows bytes and times, and nothing of HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import enum
import random
import socket
import struct
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import assert_never

HOST = "127.0.0.1"
#: How long bytes get to be read before the connection is reset behind them.
_FLUSH_S = 0.01
#: How much is read before it is passed on.
_HELD_BYTES = 4_096


class Door(enum.Enum):
    """What becomes of whoever connects: let in, told that nobody listens, or never told anything."""

    OPEN = "open"
    SHUT = "shut"
    BLACK_HOLE = "black hole"


class End(enum.Enum):
    """What happens when as many bytes have passed as may.

    RESET and CLOSE end both directions. HALF_CLOSE and SILENCE end one; what else comes in it is swallowed.
    """

    RESET = "reset"
    CLOSE = "close"
    HALF_CLOSE = "half-close"
    SILENCE = "silence"


@dataclass(frozen=True, slots=True)
class Way:
    """What happens to the bytes of one direction; what is left out changes nothing.

    What comes is late by `latency_s` and up to `jitter_s` more. It passes in pieces of `piece_bytes`, each of
    which takes `every_s`: a drip, or a bandwidth. Once `passes` bytes have passed comes the `end`.
    """

    latency_s: float = 0.0
    jitter_s: float = 0.0
    piece_bytes: int = _HELD_BYTES
    every_s: float = 0.0
    passes: int | None = None
    end: End = End.RESET


CLEAR = Way()


@dataclass(frozen=True, slots=True)
class Fault:
    """What goes wrong between two ends: `up` is towards the one that was connected to.

    Bytes count from when the fault began, also on connections that are older. `at_once`, RESET or CLOSE, ends
    new connections before a byte has passed. `times` is how many connections it strikes, those on which
    something happens first; None strikes all.
    """

    up: Way = CLEAR
    down: Way = CLEAR
    door: Door = Door.OPEN
    at_once: End | None = None
    times: int | None = None


NONE = Fault()

#: Told of each piece before anything happens to it: the connection's number, whether it goes up, the bytes.
Tap = Callable[[int, bool, bytes], None]


class Proxy:
    """A listening proxy; `target` is where it connects to, and may be set before the first connection."""

    def __init__(self, target: tuple[str, int], tap: Tap, seed: int) -> None:
        self.target = target
        self.tap = tap
        self.chance = random.Random(seed)
        self.port = 0
        self.links: dict[asyncio.Task[None], _Link] = {}
        #: How many connections were ever made.
        self.connected = 0
        self.fault = NONE
        #: Which fault that is, for connections that are older.
        self.era = 0
        self._to_strike: int | None = None
        self._listener = contextlib.AsyncExitStack()

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"

    async def inject(self, fault: Fault) -> None:
        """From now on this goes wrong, and nothing else."""
        before, self.fault = self.fault, fault
        self.era += 1
        self._to_strike = fault.times
        if fault.door is not before.door:
            await self._listener.aclose()
            match fault.door:
                case Door.OPEN:
                    await self.listen()
                case Door.BLACK_HOLE:
                    self._swallow()
                case Door.SHUT:
                    pass  # nobody listens
                case _:
                    assert_never(fault.door)

    def strikes(self) -> bool:
        """Whether the fault is for one connection more."""
        if self._to_strike is None:
            return True
        self._to_strike -= 1
        return self._to_strike >= 0

    async def close_idle(self) -> None:
        """Close the connections as a server does that has had enough of them; wait until all are closed."""
        for link in self.links.values():
            link.hang_up()
        while self.links:
            await asyncio.wait(set(self.links))

    async def listen(self) -> None:
        server = await asyncio.start_server(self._accept, HOST, self.port, limit=_HELD_BYTES)
        self.port = server.sockets[0].getsockname()[1]
        self._listener.callback(server.close)

    def _swallow(self) -> None:
        """A queue of one, which is full: Linux throws away what else is sent there."""
        listener = socket.create_server((HOST, self.port), backlog=0)
        self._listener.callback(listener.close)
        for _ in range(2):
            waiting = socket.socket()
            self._listener.callback(waiting.close)
            waiting.setblocking(False)
            waiting.connect_ex((HOST, self.port))

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connected += 1
        link = _Link(self, self.connected, reader, writer)
        task = asyncio.create_task(link.run())
        self.links[task] = link
        task.add_done_callback(self.links.pop)

    async def close(self) -> None:
        """Cut everything."""
        await self._listener.aclose()
        for task in self.links:
            task.cancel()
        await asyncio.gather(*self.links, return_exceptions=True)


@contextlib.asynccontextmanager
async def proxy(
    target: tuple[str, int] = ("", 0), tap: Tap = lambda *_: None, seed: int = 1
) -> AsyncIterator[Proxy]:
    """A proxy that listens on a free port while the block runs."""
    it = Proxy(target, tap, seed)
    await it.listen()
    try:
        yield it
    finally:
        await it.close()


class _Link:
    """One connection: two sockets, and a pump for each direction."""

    def __init__(
        self, owner: Proxy, number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._owner = owner
        self._number = number
        self._near = (reader, writer)
        self._writers = [writer]
        self._era = -1
        self._fault = NONE
        #: How much has passed since the fault began, up and down, and where nothing ever passes again: TCP
        #: loses no bytes in the middle.
        self._passed = {True: 0, False: 0}
        self._over: set[bool] = set()

    def hang_up(self) -> None:
        """Say to the side that connected that nothing more comes."""
        if not self._near[1].is_closing():
            self._over.add(False)
            self._near[1].write_eof()

    async def run(self) -> None:
        """Carry bytes both ways until both sides are through, or the fault ends it."""
        self._look()
        if self._fault.at_once is not None:
            await self._end(self._fault.at_once, self._near[1], up=False)
            return
        try:
            far = await asyncio.open_connection(*self._owner.target, limit=_HELD_BYTES)
            self._writers.append(far[1])
            for writer in self._writers:
                # What a slow reader leaves is to wait with its sender, and not here.
                writer.transport.set_write_buffer_limits(high=0)
            async with asyncio.TaskGroup() as pumps:
                pumps.create_task(self._pump(self._near[0], far[1], up=True))
                pumps.create_task(self._pump(far[0], self._near[1], up=False))
        except* OSError:
            self._reset()  # one side was reset, or is not there: the other hears the like
        finally:
            self._close()

    def _look(self) -> None:
        """A fault strikes a connection when that is made, or when bytes first move on it."""
        if self._era != self._owner.era:
            self._era = self._owner.era
            self._fault = self._owner.fault if self._owner.strikes() else NONE
            self._passed = {True: 0, False: 0}

    def _way(self, *, up: bool) -> Way:
        self._look()
        return self._fault.up if up else self._fault.down

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, up: bool) -> None:
        while data := await reader.read(_HELD_BYTES):
            self._owner.tap(self._number, up, data)
            way = self._way(up=up)
            if way.latency_s or way.jitter_s:
                await asyncio.sleep(way.latency_s + way.jitter_s * self._owner.chance.random())
            while data and up not in self._over and not writer.is_closing():
                way = self._way(up=up)
                await self._pass(data[: way.piece_bytes], way, writer, up=up)
                data = data[way.piece_bytes :]
        if self._over:
            self._close()  # nobody would ever hear of this end
        elif not writer.is_closing():
            writer.write_eof()

    async def _pass(self, piece: bytes, way: Way, writer: asyncio.StreamWriter, *, up: bool) -> None:
        room = len(piece) if way.passes is None else way.passes - self._passed[up]
        self._passed[up] += len(piece)
        if way.every_s:
            await asyncio.sleep(way.every_s)
        if room > 0 and up not in self._over and not writer.is_closing():
            writer.write(piece[:room])
            await writer.drain()
        if way.passes is not None and self._passed[up] >= way.passes:
            await self._end(way.end, writer, up=up)

    async def _end(self, end: End, writer: asyncio.StreamWriter, *, up: bool) -> None:
        match end:
            case End.RESET:
                await asyncio.sleep(_FLUSH_S)
                self._reset()
            case End.CLOSE:
                self._close()
            case End.HALF_CLOSE:
                if up not in self._over and not writer.is_closing():
                    writer.write_eof()
                self._over.add(up)
            case End.SILENCE:
                self._over.add(up)
            case _:
                assert_never(end)

    def _close(self) -> None:
        for writer in self._writers:
            writer.close()

    def _reset(self) -> None:
        for writer in self._writers:
            if not writer.is_closing():
                # Closing with a linger of zero seconds is what makes TCP send RST and not FIN.
                connected = writer.get_extra_info("socket")
                connected.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                writer.transport.abort()
