"""Where commands are tried: in memory and on real servers, all on a clock that the tests turn."""

from __future__ import annotations

import contextlib
import functools
import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, Protocol

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from gateway.shared.commands import RedisCommands
from gateway.shared.names import Names
from gateway.shared.scripts import Reply, Runner, Script, Word
from tests.shared.model import Model
from tests.shared.servers import VERSIONS, Server, Version, redis_server

NAMES = Names("p")
#: A moment with microseconds, an hour before midnight.
BEGIN_US = 1_800_054_000_123_456
SITES = [pytest.param("model"), *VERSIONS]

#: What scripts ask of the server, and what they are told: its clock, its name, and not to forget while
#: the clock stands.
_ASKED = {
    """  local time = redis.call('TIME')
  return time[1] * 1000000 + time[2]
""": "  return tonumber(redis.call('GET', 'test:now'))\n",
    """  local info = redis.pcall('INFO', 'server')
  return type(info) == 'string' and string.match(info, 'run_id:(%x%x%x%x%x%x%x%x)') or '-'
""": "  return redis.call('GET', 'test:server')\n",
    "redis.call('PEXPIRE', key, ms)": "redis.call('PEXPIRE', key, ms * 1000)",
}


class Site(Protocol):
    """A place where commands are run. `us` is its clock, `server` its name."""

    us: int
    server: str

    @property
    def runner(self) -> Runner: ...
    def empty(self) -> None: ...
    def said(self) -> list[tuple[str, bytes]]:
        """What was published since this was asked last, and where."""


class ModelSite:
    """In memory."""

    def __init__(self) -> None:
        self.us = BEGIN_US
        self.runner = Model(lambda: self.us / 1_000_000)
        self._said: list[tuple[str, bytes]] = []
        for channel in (NAMES.all, *map(NAMES.inbox, "abc")):
            self.runner.subscribe(channel, self._hearing(channel))

    @property
    def server(self) -> str:
        return self.runner.server

    @server.setter
    def server(self, name: str) -> None:
        self.runner.server = name

    def _hearing(self, channel: str) -> Callable[[bytes], None]:
        return lambda message: self._said.append((channel, message))

    def empty(self) -> None:
        self.runner.empty()

    def said(self) -> list[tuple[str, bytes]]:
        said, self._said = self._said, []
        return said


class _Client(Protocol):
    """What of redis-py is used here; it has no types for it."""

    def execute_command(self, *args: Word) -> Any: ...
    def pubsub(self) -> Any: ...
    def close(self) -> None: ...


class RedisSite:
    """On a real server."""

    def __init__(self, server: Server) -> None:
        self.us = BEGIN_US
        self.server = "0a1b2c3d"
        self.client = client(server)
        self._listener = self.client.pubsub()
        self._listener.subscribe(NAMES.all, *map(NAMES.inbox, "abc"))

    @property
    def runner(self) -> Runner:
        return self

    async def run(self, script: Script, keys: Sequence[str], args: Sequence[Word]) -> Reply | None:
        self.client.execute_command("MSET", "test:now", self.us, "test:server", self.server)
        reply: Reply = run(self.client, turned(script), keys, args)
        return reply

    def empty(self) -> None:
        self.client.execute_command("FLUSHALL")

    def said(self) -> list[tuple[str, bytes]]:
        self.client.execute_command("PUBLISH", NAMES.inbox("c"), b"that is all")
        said: list[tuple[str, bytes]] = []
        while not said or said[-1][1] != b"that is all":
            message = self._listener.get_message(ignore_subscribe_messages=True, timeout=5.0)
            if message is not None:
                said.append((message["channel"].decode(), message["data"]))
        return said[:-1]

    def close(self) -> None:
        self._listener.close()
        self.client.close()


def client(server: Server) -> _Client:
    """Whose answers are as the server gives them."""
    it: Any = redis.Redis(*server.address, socket_timeout=5.0, retry=Retry(NoBackoff(), 0), protocol=2)
    it.response_callbacks.clear()
    connected: _Client = it
    return connected


def run(connected: _Client, script: Script, keys: Sequence[str], args: Sequence[Word]) -> Any:
    with contextlib.suppress(redis.exceptions.NoScriptError):
        return connected.execute_command("EVALSHA", script.sha, len(keys), *keys, *args)
    return connected.execute_command("EVAL", script.text, len(keys), *keys, *args)


@functools.cache
def turned(script: Script) -> Script:
    """The script on a clock that tests turn."""
    text = script.text
    for asked, told in _ASKED.items():
        assert text.count(asked) == 1, f"common.lua asks the server otherwise: {asked}"
        text = text.replace(asked, told)
    return replace(script, text=text, sha=hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())


@contextlib.contextmanager
def site_of(version: Literal["model"] | Version, folder: Path) -> Iterator[Site]:
    if version == "model":
        yield ModelSite()
        return
    with redis_server(folder, version=version) as server:
        site = RedisSite(server)
        try:
            yield site
        finally:
            site.close()


def commands(site: Site, replica: str = "a", *, lease_s: float = 1.0) -> RedisCommands:
    return RedisCommands(site.runner, NAMES, replica, lease_s=lease_s)
