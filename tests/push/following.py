"""Streams on virtual time: a road with a hub, over the emulator, and ends of streams that remember."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, replace
from typing import Any

from gateway.core.limits import Limits
from gateway.core.policy import Policies, Streaming
from gateway.core.push import Stream
from gateway.core.replies import Reply
from gateway.observe.logs import logger
from gateway.observe.observer import Observer
from gateway.push.hub import Hub
from tests.simulation import Simulation, cache_rule, chat_path, shipped

STREAM = "text/event-stream"
HEARTBEAT_S = 5.0


@dataclass(frozen=True)
class Message:
    """One server-sent event, as a browser would see it."""

    at: float
    event: str
    data: str
    id: str | None = None
    retry: str | None = None

    @property
    def json(self) -> Any:
        return json.loads(self.data)


class Reader:
    """The edge's end of a stream. Whoever `breaks` raises at every message."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.heartbeats: list[float] = []
        self.is_open = True
        self.breaks = False
        self.stream: Stream | None = None

    def write(self, message: bytes) -> None:
        assert self.is_open, "written to a stream that has ended"
        if self.breaks:
            raise ZeroDivisionError
        now = asyncio.get_running_loop().time()
        for block in message.decode().split("\n\n")[:-1]:
            if block == ":":
                self.heartbeats.append(now)
            else:
                self.messages.append(_read(block, now))

    def close(self) -> None:
        self.is_open = False

    def leave(self) -> None:
        """The client hangs up."""
        self.is_open = False
        assert self.stream is not None
        self.stream.lost()

    def told(self, event: str) -> list[Message]:
        return [message for message in self.messages if message.event == event]

    @property
    def events(self) -> list[str]:
        return [message.event for message in self.messages]

    @property
    def names(self) -> list[str]:
        """The visitor's names in the infos it was told."""
        return [message.json["info"]["visitorName"] for message in self.told("info")]

    @property
    def lines(self) -> list[tuple[int, str | None]]:
        """The number of each event it was told, and its text."""
        return [(int(message.id or -1), message.json.get("text")) for message in self.told("event")]


def _read(block: str, now: float) -> Message:
    fields: dict[str, str] = {}
    data: list[str] = []
    for line in block.split("\n"):
        name, _, value = line.partition(": ")
        if name == "data":
            data.append(value)
        else:
            fields[name] = value
    return Message(now, fields["event"], "\n".join(data), fields.get("id"), fields.get("retry"))


def streaming(policies: Policies | None = None, ttl_s: float = 1.0, **limits: Any) -> Policies:
    """The policies with streams of info and events, and these limits for every client."""
    found = policies or shipped()
    kinds = {"info": Streaming.CHANGES, "events": Streaming.EVENTS}
    resources = (
        replace(resource, stream=kinds[resource.name], cache=cache_rule(ttl_s))
        if resource.name in kinds
        else resource
        for resource in found.resources
    )
    clients = (replace(client, limits=Limits(**limits)) for client in found.clients)
    return replace(found, resources=tuple(resources), clients=tuple(clients))


def hub_of(sim: Simulation) -> Hub:
    """A hub for that road, which tells it what lands."""
    hub = Hub(
        sim.exchange,
        state=lambda: sim.state,
        clock=sim.clock,
        limiter=sim.limiter,
        observer=Observer(sim.metrics, logger("info", sim.log, sim.clock.wall), sim.usage),
        heartbeat_s=lambda: HEARTBEAT_S,
        random=lambda: 0.5,
    )
    sim.exchange.watchers = hub
    return hub


class Following(Simulation):
    """A simulation with a hub. Make it inside `simulate`."""

    def __init__(self, policies: Policies | None = None, **more: Any) -> None:
        super().__init__(policies=policies or streaming(), **more)
        self.hub = hub_of(self)
        self.exchange._max_wait_s = lambda: 30

    async def follow(self, chat: str, rest: str = "/info", query: str = "", **more: Any) -> Reader:
        """A stream that has begun."""
        reply, reader = await self.open(chat, rest, query, **more)
        assert (reply.status, reply.stream is None) == (200, False), reply
        return reader

    async def open(
        self, chat: str, rest: str = "/info", query: str = "", **more: Any
    ) -> tuple[Reply, Reader]:
        """A request for a stream; if one comes, it begins."""
        reader = Reader()
        reply = await self.ask("GET", chat_path(chat, rest), query, accept=STREAM, **more)
        if reply.stream is not None:
            reader.stream = reply.stream
            reply.stream.begin(reader)
        return reply, reader

    async def wait(self, chat: str, rest: str = "/info", query: str = "", **fields: Any) -> Reply:
        """A long poll of 20 seconds."""
        return await self.ask("GET", chat_path(chat, rest), query, prefer="wait=20", **fields)

    def polls(self) -> int:
        """How many requests have left for the upstream."""
        return len(self.upstream.sent)

    async def ended(self) -> None:
        """Nobody watches any more, and nothing is left of it: no task, no place taken."""
        await self.settle()
        assert self.hub.watches() == ()
        assert not any(self.metrics.streams.values())
        before = self.polls()
        await asyncio.sleep(60)
        assert self.polls() == before
