"""Connections to Redis, and what it means that one fails.

Only this file and its neighbour `pipe` know redis-py. They take its connections, with handshake and parser,
and not its client, which repeats commands by itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import math
import re
import socket
import ssl
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from redis import exceptions
from redis.asyncio.connection import Connection, SSLConnection
from redis.asyncio.sentinel import MasterNotFoundError

from gateway.shared.scripts import Reply

Address: TypeAlias = tuple[str, int]
#: What connecting, sending and reading may raise; `failure` tells what it means. Of a reply that is none
#: redis-py's own parser, where hiredis is not installed, says ValueError.
FAILURES = (exceptions.RedisError, OSError, TimeoutError, ValueError)

#: From the first packet to the end of the handshake: five round trips, with TLS and a password.
CONNECT_S = 1.0
#: Then the next Sentinel is asked.
SENTINEL_S = 0.25
#: For the kernel, where it knows these: when to end a connection whose peer went without a word.
_GONE_AFTER = {
    getattr(socket, option): value
    for option, value in {
        "TCP_KEEPIDLE": 5,
        "TCP_KEEPINTVL": 2,
        "TCP_KEEPCNT": 3,
        "TCP_USER_TIMEOUT": 10_000,
    }.items()
    if hasattr(socket, option)
}


@dataclass(frozen=True, slots=True)
class Place:
    """What to connect to: the only address, or those of the Sentinels that know `sentinel`, a master's name.

    User and password are said to Redis, the others to Sentinels. The files are for TLS: whom to trust, if not
    whom the system trusts, and a certificate of one's own with its key.
    """

    addresses: tuple[Address, ...]
    sentinel: str | None = None
    database: int = 0
    tls: bool = False
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    sentinel_username: str | None = None
    sentinel_password: str | None = field(default=None, repr=False)
    ca_file: str | None = None
    certificate_file: str | None = None
    key_file: str | None = None

    def __str__(self) -> str:
        return ",".join(
            f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in self.addresses
        )


class Kind(enum.Enum):
    """How a command fails. SICK: the server says so itself. ERROR: it is the key's or the caller's own."""

    TIMEOUT = "timeout"
    REFUSED = "refused"
    SICK = "sick"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Failed:
    """How a command failed, and a fixed word for it: servers' own words may hold anything."""

    kind: Kind
    word: str


LATE = Failed(Kind.TIMEOUT, "timeout")
LOST = Failed(Kind.REFUSED, "reset")
MOVED = Failed(Kind.REFUSED, "moved")
READ_ONLY = Failed(Kind.SICK, "read-only")
NO_SCRIPT = Failed(Kind.ERROR, "no-script")
#: By the first word of an error reply (https://redis.io/docs/latest/develop/reference/protocol-spec).
_CODES = {
    "READONLY": READ_ONLY,
    "OOM": Failed(Kind.SICK, "out-of-memory"),
    "LOADING": Failed(Kind.SICK, "loading"),
    "MISCONF": Failed(Kind.SICK, "misconfigured"),
    "MASTERDOWN": Failed(Kind.SICK, "master-down"),
    "NOREPLICAS": Failed(Kind.SICK, "no-replicas"),
    "CLUSTERDOWN": Failed(Kind.SICK, "cluster-down"),
    "BUSY": Failed(Kind.SICK, "busy"),
    "NOSCRIPT": NO_SCRIPT,
    "WRONGTYPE": Failed(Kind.ERROR, "wrong-type"),
    "NOPERM": Failed(Kind.ERROR, "forbidden"),
}
#: Redis 6.2 says first where in a script it happened: `Error running script (…): @user_script: 1: -OOM …`.
_CODE = re.compile(r"(?:^|: -?)([A-Z]+)\b")
_FORBIDDEN_IN_A_SCRIPT = "The user executing the script can't"


def failure(error: BaseException) -> Failed:
    """What one of FAILURES means."""
    match error:
        case exceptions.AuthenticationError():
            return Failed(Kind.REFUSED, "authentication")
        case exceptions.ResponseError() | exceptions.BusyLoadingError():
            return _said(error)
        case MasterNotFoundError():
            return Failed(Kind.REFUSED, "no-master")
        case exceptions.InvalidResponse() | ValueError():
            return Failed(Kind.REFUSED, "protocol")
        case TimeoutError() | exceptions.TimeoutError():
            return LATE
        case _:
            # redis-py raises its own in place of what happened.
            return Failed(Kind.REFUSED, _happened(error.__context__ or error))


def _said(error: exceptions.RedisError) -> Failed:
    said = str(error)
    if _FORBIDDEN_IN_A_SCRIPT in said:
        return _CODES["NOPERM"]
    found = [_CODES[code] for code in (error.status_code, *_CODE.findall(said)) if code in _CODES]
    return found[0] if found else Failed(Kind.ERROR, "other")


def _happened(error: BaseException) -> str:
    match error:
        case ssl.SSLError():
            return "tls"
        case socket.gaierror():
            return "unresolved"
        case ConnectionRefusedError():
            return "refused"
        case _:
            return "reset"


class Connector:
    """Connects to a place."""

    def __init__(self, place: Place) -> None:
        self._place = place
        #: A Sentinel that did not answer is asked last from then on.
        self._addresses = list(place.addresses)
        # Made once, as it takes milliseconds. redis-py's would trust whom the system trusts beside `ca_file`.
        self._tls = _context(place) if place.tls else None

    async def connect(self) -> Connection:
        """A connection that is ready for commands. Raises FAILURES."""
        async with asyncio.timeout(CONNECT_S):
            place = self._place
            said = {"username": place.username, "password": place.password, "db": place.database}
            return await self._connected(await self.master(), said)

    async def master(self) -> Address:
        """Where to connect to. Sentinels are asked one after another. Raises MasterNotFoundError."""
        if self._place.sentinel is None:
            return self._addresses[0]
        for address in tuple(self._addresses):
            with contextlib.suppress(*FAILURES):
                async with asyncio.timeout(SENTINEL_S):
                    return await self._ask(address, self._place.sentinel)
            self._addresses.remove(address)
            self._addresses.append(address)
        raise MasterNotFoundError

    async def _ask(self, sentinel: Address, name: str) -> Address:
        said = {"username": self._place.sentinel_username, "password": self._place.sentinel_password}
        connection = await self._connected(sentinel, said)
        try:
            await connection.send_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", name)
            match await connection.read_response():
                case [bytes(host), bytes(port)] if port.isdigit():
                    return host.decode(errors="replace"), int(port)
                case _:
                    raise MasterNotFoundError
        finally:
            await connection.disconnect(nowait=True)

    async def _connected(self, address: Address, said: dict[str, Any]) -> Connection:
        connection = self._made(host=address[0], port=address[1], **said)
        try:
            await connection.connect()  # type: ignore[no-untyped-call]  # redis-py's has no types
        except BaseException:
            await connection.disconnect(nowait=True)
            raise
        return connection

    def _made(self, **said: Any) -> Connection:
        # In RESP2 messages come as ordinary replies. Without a driver there is no CLIENT SETINFO, and without
        # a timeout of redis-py's no task for each command.
        said |= {"protocol": 2, "driver_info": None, "socket_timeout": None, "socket_connect_timeout": None}
        said |= {"socket_keepalive_options": _GONE_AFTER}
        if self._tls is None:
            return Connection(**said)
        connection = SSLConnection(**said)
        connection.ssl_context.context = self._tls
        return connection


def _context(place: Place) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=place.ca_file)
    if place.certificate_file is not None:
        context.load_cert_chain(place.certificate_file, place.key_file)
    return context


async def read(connection: Connection) -> Reply | Failed:
    """The next reply. Raises FAILURES where the connection has ended."""
    try:
        reply: Reply = await connection.read_response(timeout=math.inf)
    except exceptions.ResponseError as error:
        return _said(error)
    return reply


def packed(words: Sequence[bytes | str | int]) -> bytes:
    """A command as Redis reads it."""
    parts = [b"*%d\r\n" % len(words)]
    for word in words:
        data = word if isinstance(word, bytes) else str(word).encode()
        parts += (b"$%d\r\n" % len(data), data, b"\r\n")
    return b"".join(parts)
