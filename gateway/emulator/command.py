"""The emulator as a command: listens, tells what comes, and shows the counts when it is interrupted."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time

import uvloop

from gateway.emulator.config import EmulatorConfig
from gateway.emulator.server import serve
from gateway.emulator.service import Counts, Emulator

_SUMMARY_EVERY_S = 10.0


def run(host: str, port: int, config: EmulatorConfig) -> None:
    """Serve until SIGINT or SIGTERM; the address comes first on standard output, the counts last."""
    uvloop.run(_run(host, port, config))


async def _run(host: str, port: int, config: EmulatorConfig) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    emulator = Emulator(config, time.time)
    server = await serve(emulator, host, port)
    print(f"Server Chat API emulator at {server.url}, accounts {', '.join(config.accounts)}", flush=True)
    while not stop.is_set():
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), _SUMMARY_EVERY_S)
        print(summary(emulator), flush=True)
    await server.close()
    print(table(emulator.counts()), flush=True)


def summary(emulator: Emulator) -> str:
    """Chats and requests in one line."""
    states = emulator.chat_states()
    chats = ", ".join(f"{states[state]} {state}" for state in ("waiting", "chatting", "ended"))
    return f"{emulator.counts().total()} requests; chats: {chats}"


def table(counts: Counts) -> str:
    """The totals, a resource a line."""
    totals = counts.totals()
    width = max(map(len, totals), default=0)
    return "\n".join(f"{resource:<{width}}  {count:>9}" for resource, count in totals.items())
