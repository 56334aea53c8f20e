"""Emulator and gateway on this machine, while the demo runs."""

from __future__ import annotations

import contextlib
import json
import secrets
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from gateway.demo.children import Child, child, free_ports
from gateway.demo.stage import Stage, set_stage
from gateway.demo.wire import Client, request

UPSTREAM_LATENCY_MS = 120


@dataclass(frozen=True, slots=True)
class Theatre:
    """Emulator and gateway, started, and where they are."""

    public_url: str
    upstream_url: str
    admin_port: int
    app_key: str = field(repr=False)
    stage: Stage
    emulator: Child
    gateway: Child
    control: Client

    async def open(self) -> None:
        """Wait until both listen. Raises DidNotStart."""
        await self.emulator.listening(int(self.upstream_url.rpartition(":")[2]))
        await self.gateway.listening(int(self.public_url.rpartition(":")[2]))

    async def reset_counts(self) -> None:
        """Let the emulator count from zero."""
        await self.control.ask(request("POST", "emulator", "/_emulator/reset"))

    async def counts(self) -> dict[str, int]:
        """The emulator's own count, by resource."""
        response = await self.control.ask(request("GET", "emulator", "/_emulator/counts"))
        totals: dict[str, int] = json.loads(response.body)["totals"]
        return totals


@contextlib.contextmanager
def theatre() -> Iterator[Theatre]:
    """Keys, configuration and two processes, none of which is left after the block."""
    port, admin_port, upstream_port = free_ports(3)
    public_url, upstream_url = f"http://127.0.0.1:{port}", f"http://127.0.0.1:{upstream_port}"
    app_key = secrets.token_hex(16)
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="chat-gateway-demo-")))
        stage = set_stage(
            folder,
            listen=f"127.0.0.1:{port}",
            admin_listen=f"127.0.0.1:{admin_port}",
            public_url=public_url,
            upstream_url=upstream_url,
            app_key=app_key,
            from_info=True,
            drain_delay_s=0,
            drain_s=1,
        )
        emulate = ["emulator", "--port", str(upstream_port), "--latency-ms", str(UPSTREAM_LATENCY_MS)]
        emulate += ["--app-key-file", str(folder / "app-key")]
        emulator = stack.enter_context(child(emulate, folder / "emulator.log"))
        serve = ["serve", "--config", str(stage.config)]
        gateway = stack.enter_context(child(serve, folder / "gateway.log"))
        control = Client("127.0.0.1", upstream_port)
        stack.callback(control.close)
        yield Theatre(public_url, upstream_url, admin_port, app_key, stage, emulator, gateway, control)
