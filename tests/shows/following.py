"""Clients that follow a chat, and come back."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from gateway.demo.following import Follower, Message, follow, following
from tests.shows.stand import HOST

#: As the browsers have it, where nobody says otherwise.
RETRY_S = 1.0


@dataclass
class Reader:
    """A client that comes back, with the id of the last message it had, until it is told the end."""

    port: int
    path: str
    token: str
    messages: list[Message] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)
    over: bool = False
    follower: Follower | None = None

    async def run(self) -> None:
        retry_s = RETRY_S
        while not self.over:
            last = next((message.id for message in reversed(self.messages) if message.id), None)
            try:
                self.follower = await follow(
                    HOST, self.port, following(HOST, self.path, self.token, last), self._hear
                )
            except OSError:
                await asyncio.sleep(0.1)
                continue
            await self.follower.ended
            self.statuses.append(self.follower.status)
            retry_s = self.follower.retry_s or retry_s
            if not self.over:
                await asyncio.sleep(retry_s)

    def _hear(self, message: Message) -> None:
        self.messages.append(message)
        self.over = self.over or message.kind == "ended"

    def leave(self) -> None:
        self.over = True
        if self.follower is not None:
            self.follower.transport.abort()
