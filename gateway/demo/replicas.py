"""Two gateways that share what they know through Redis: what they ask, who reads what, and Redis killed."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

from gateway.demo.children import Child, DidNotStart, child, free_ports
from gateway.demo.drive import Drive, Poller
from gateway.demo.evidence import Evidence
from gateway.demo.figures import Tally
from gateway.demo.theatre import Theatre
from gateway.demo.wire import Client, request

HOST = "127.0.0.1"
SERVERS = ("redis-server", "valkey-server")
CLIENTS = 80
#: At most. So few that each replica would ask for each of them by itself.
CHATS = 4
TOGETHER_S = 3.0
#: Polling goes on for so long in all while Redis is killed, and so much of that before.
KILLING_S = 1.5
BEFORE_S = 0.3
#: Longer than usual: Redis shares its cores with all the others.
DEADLINE_MS = 250
#: Two replicas know of each other after a beat or two.
MEETING_S = 10.0


@dataclass(frozen=True, slots=True)
class LeftOut:
    """Why there was nothing to see."""

    left_out: str
    errors: int = 0


@dataclass(frozen=True, slots=True)
class Together:
    """What happened. `seconds` and what the upstream was asked leave out the writes, and what came after."""

    clients: int
    chats: int
    seconds: float
    polls: int
    upstream_info_requests: int
    upstream_info_requests_per_chat_and_second: float
    writes: int
    writes_read_at_once: int
    polls_without_redis: int
    errors: int
    error_kinds: dict[str, int]


def find_server(path: str | None = None) -> str | LeftOut:
    """The program of a Redis or Valkey: beside the interpreter, or on the `PATH`."""
    if find_spec("redis") is None:
        return LeftOut("the extra redis is not installed")
    if path is None:
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    found = (shutil.which(name, path=path) for name in SERVERS)
    return next(filter(None, found), None) or LeftOut(f"there is no {' or '.join(SERVERS)}")


async def play(theatre: Theatre, chats: Sequence[str], tell: Callable[[str], None]) -> Together | LeftOut:
    """All of it, if there is a server to share through. Raises DidNotStart and Broken."""
    server = find_server()
    if isinstance(server, LeftOut):
        return server
    with _cluster(theatre, server) as cluster:
        await cluster.meet()
        first, second = (f"http://{HOST}:{replica.port}" for replica in cluster.replicas)
        tell(f"Two more gateways, {first} and {second}, share what they know through {cluster.redis_url}.")
        return await _play(theatre, cluster, [urlsplit(chat).path for chat in chats[:CHATS]])


async def _play(theatre: Theatre, cluster: _Cluster, paths: Sequence[str]) -> Together:
    tally, evidence = Tally(), Evidence(theatre.app_key.encode(), theatre.public_url)
    pollers = list(_cast(theatre, cluster, paths))
    drive = Drive(tally, evidence, time.monotonic, time.time)
    await theatre.reset_counts()
    await drive.run(pollers, TOGETHER_S)
    polls, asked = tally.polls.total(), (await theatre.counts()).get("info", 0)
    writes = [_is_read_at_once(theatre, cluster, path, number) for number, path in enumerate(paths)]
    read = sum(await asyncio.gather(*writes))
    again = Drive(tally, evidence, time.monotonic, time.time)
    _, before = await asyncio.gather(again.run(pollers, KILLING_S), _kill(cluster.redis, tally))
    for replica in cluster.replicas:
        evidence.take_log(replica.process.log.read_bytes())
    unread = {"write that was not read": len(paths) - read} if read < len(paths) else {}
    kinds = {**tally.errors, **evidence.errors, **unread}
    return Together(
        clients=len(pollers),
        chats=len(paths),
        seconds=round(drive.seconds, 1),
        polls=polls,
        upstream_info_requests=asked,
        upstream_info_requests_per_chat_and_second=round(asked / (len(paths) * drive.seconds), 2),
        writes=len(paths),
        writes_read_at_once=read,
        polls_without_redis=tally.polls.total() - before,
        errors=sum(kinds.values()),
        error_kinds=kinds,
    )


@dataclass(frozen=True, slots=True)
class _Replica:
    port: int
    admin_port: int
    process: Child


@dataclass(frozen=True, slots=True)
class _Cluster:
    redis_port: int
    redis: Child
    replicas: Sequence[_Replica]
    admin_token: str

    @property
    def redis_url(self) -> str:
        return _url(self.redis_port)

    async def meet(self) -> None:
        """Wait until both listen and know each other. Raises DidNotStart and Broken."""
        await self.redis.listening(self.redis_port)
        for replica in self.replicas:
            await replica.process.listening(replica.admin_port)
        deadline = asyncio.get_running_loop().time() + MEETING_S
        while not all(await asyncio.gather(*map(self._knows_both, self.replicas))):
            if asyncio.get_running_loop().time() > deadline:
                raise DidNotStart(f"two replicas did not find each other through {self.redis_url}")
            await asyncio.sleep(0.1)

    async def _knows_both(self, replica: _Replica) -> bool:
        headers = {"Authorization": f"Bearer {self.admin_token}"}
        with contextlib.closing(Client(HOST, replica.admin_port)) as client:
            response = await client.ask(request("GET", HOST, "/readyz?verbose", headers))
        shared = json.loads(response.body)["shared"]
        return bool(shared["whole"]) and shared["replicas"] == len(self.replicas)


def _url(redis_port: int) -> str:
    return f"redis://{HOST}:{redis_port}/0"


@contextlib.contextmanager
def _cluster(theatre: Theatre, server: str) -> Iterator[_Cluster]:
    """A server that keeps nothing, and two gateways before the theatre's emulator; none is left after it."""
    stage, folder = theatre.stage, theatre.stage.config.parent
    redis_port, *ports = free_ports(5)
    keep_nothing = ["--save", "", "--appendonly", "no", "--dir", str(folder)]
    run = [server, "--bind", HOST, "--port", str(redis_port), *keep_nothing]
    with contextlib.ExitStack() as stack:
        redis = stack.enter_context(child(run, folder / "redis.log", program=()))
        replicas = []
        for port, admin_port in zip(ports[::2], ports[1::2], strict=True):
            config = stage.configure(
                f"{port}.yaml",
                listen=f"{HOST}:{port}",
                admin_listen=f"{HOST}:{admin_port}",
                revocations={"journal": f"{port}.jsonl"},
                redis_url=_url(redis_port),
                redis={"deadline_ms": DEADLINE_MS},
            )
            serving = child(["serve", "--config", str(config)], folder / f"{port}.log")
            replicas.append(_Replica(port, admin_port, stack.enter_context(serving)))
        yield _Cluster(redis_port, redis, replicas, stage.admin_token)


def _cast(theatre: Theatre, cluster: _Cluster, paths: Sequence[str]) -> Iterator[Poller]:
    """Clients that poll each chat through either replica, their phases spread evenly."""
    for index in range(CLIENTS):
        rank, chat = divmod(index, len(paths))
        port = cluster.replicas[rank % len(cluster.replicas)].port
        token = theatre.stage.token("internal", jti=str(index))
        yield Poller(index, "internal", token, f"http://{HOST}:{port}{paths[chat]}", index / CLIENTS)


async def _is_read_at_once(theatre: Theatre, cluster: _Cluster, path: str, number: int) -> bool:
    """Write through one replica, and read through the other, which has kept what was there before."""
    headers = {"Authorization": f"Bearer {theatre.stage.token()}", "Accept": "application/json"}
    name = f"Visitor {number} of two replicas"
    body = json.dumps({"visitorName": name}).encode()
    here, there = (cluster.replicas[(number + other) % 2].port for other in (0, 1))
    with contextlib.closing(Client(HOST, here)) as writer, contextlib.closing(Client(HOST, there)) as reader:
        read = request("GET", HOST, f"{path}/info", headers)
        before = await reader.ask(read)
        await writer.ask(request("PUT", HOST, f"{path}/info/visitorName", headers, body))
        after = await reader.ask(read)
    return before.status == 200 and name.encode() not in before.body and name.encode() in after.body


async def _kill(redis: Child, tally: Tally) -> int:
    """Kill it while clients poll. Returns how many polls there had been."""
    await asyncio.sleep(BEFORE_S)
    redis.kill()
    return tally.polls.total()
