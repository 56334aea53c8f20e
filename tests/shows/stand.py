"""What the shows stand on: emulator and gateway as processes of their own, and the emulator's handles."""

from __future__ import annotations

import contextlib
import json
import math
import tempfile
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gateway.demo.children import child, free_ports
from gateway.demo.stage import ACCOUNT, set_stage
from gateway.demo.wire import Client, request

HOST = "127.0.0.1"
UPSTREAM_S = 0.120
#: Clients that would be at as many addresses.
ALL_FROM_ONE_PEER = {"max_connections_per_peer": 10_000}
APP_KEY = "e0000000000000000000000000000001"


@dataclass(frozen=True, slots=True)
class Stand:
    """Where gateway and emulator listen; `token` makes another token each time it is called.

    It may be told for which client; for bff, if it is not.
    """

    gateway: int
    emulator: int
    token: Callable[..., str]

    async def control(self, method: str, path: str, said: object = None) -> Any:
        """Use one of the emulator's handles (see gateway/emulator/control.py)."""
        client = Client(HOST, self.emulator)
        body = b"" if said is None else json.dumps(said).encode()
        response = await client.ask(request(method, HOST, f"/_emulator/{path}", body=body))
        client.close()
        assert response.status == 200, response.body
        return json.loads(response.body)

    async def chat(self) -> str:
        """A new chat that an agent has accepted."""
        [chat] = (await self.control("POST", "chats", {"accept": True}))["ids"]
        return str(chat)

    async def upstream_requests(self) -> int:
        return sum((await self.control("GET", "counts"))["totals"].values())


def asking(path: str, token: str, accept: str = "application/json") -> bytes:
    """The bytes of a read. The id is the same for all, so that equal answers are equal bytes."""
    fields = {"Authorization": f"Bearer {token}", "Accept": accept, "X-Request-ID": "show"}
    return request("GET", HOST, path, fields)


def info_path(chat: str) -> str:
    return f"/api/account/{ACCOUNT}/chat/{chat}/info"


@contextlib.asynccontextmanager
async def two_processes(**settings: Any) -> AsyncIterator[Stand]:
    """Emulator (`UPSTREAM_S` slow) and gateway as they are shipped, each in its process.

    `settings` go into `gateway.yaml` as they are.
    """
    public, private, upstream = free_ports(3)
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as children:
        folder = Path(name)
        stage = set_stage(
            folder,
            listen=f"{HOST}:{public}",
            admin_listen=f"{HOST}:{private}",
            public_url=f"http://{HOST}:{public}",
            upstream_url=f"http://{HOST}:{upstream}",
            app_key=APP_KEY,
            algorithm="RS256",  # what most issuers sign with
            **{"edge": ALL_FROM_ONE_PEER, **settings},
        )
        emulating = f"emulator --port {upstream} --latency-ms {UPSTREAM_S * 1000:.0f} --no-agents"
        key = ("--app-key-file", str(folder / "app-key"))
        emulator = children.enter_context(child([*emulating.split(), *key], folder / "emulator.log"))
        gateway = children.enter_context(
            child(["serve", "--config", str(stage.config)], folder / "gateway.log")
        )
        await emulator.listening(upstream)
        await gateway.listening(public)
        numbers = iter(range(10**9))

        def token(subject: str = "bff") -> str:
            return stage.token(subject, jti=str(next(numbers)))

        yield Stand(public, upstream, token)


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that this share of them does not exceed."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]
