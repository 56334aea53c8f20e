"""The demo's story: set the stage, start emulator and gateway, let clients poll, say what happened."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import resource
import secrets
import signal
import tempfile
import time
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import uvloop
from rich.console import Console

from gateway.demo.acts import Stand, perform
from gateway.demo.children import Child, child, free_ports
from gateway.demo.drive import Drive, Poller, start_chats
from gateway.demo.evidence import Evidence
from gateway.demo.figures import COLLAPSED, HIT, MISS, STALE, Figures, Tally
from gateway.demo.screen import acts_told, curl_lines, explanation, operator_lines, say, showing
from gateway.demo.stage import ACCOUNT, Stage, set_stage
from gateway.demo.wire import Client, request

#: The clients of the shipped policies.
CLIENTS = ("bff", "internal", "partner")
UPSTREAM_LATENCY_MS = 120
TOKEN_LIFETIME_S = 24 * 3600.0
INTERRUPTED = 128 + signal.SIGINT
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass(frozen=True, slots=True)
class Plan:
    """What was asked for on the command line."""

    clients: int
    chats: int
    seconds: int
    once: bool
    as_json: bool


def run(plan: Plan, console: Console) -> int:
    """The whole demo. Returns the exit code: 1 if there were errors. Raises DidNotStart and Broken."""
    _allow_many_connections()
    return uvloop.run(_until_signalled(_perform(plan, console)))


def _allow_many_connections() -> None:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


async def _until_signalled(work: Coroutine[None, None, int]) -> int:
    """Cancel the work at the first signal; further ones change nothing, so that it can clean up."""
    task = asyncio.ensure_future(work)
    loop = asyncio.get_running_loop()

    def on_signal() -> None:
        for number in _SIGNALS:
            loop.add_signal_handler(number, lambda: None)
        task.cancel()

    for number in _SIGNALS:
        loop.add_signal_handler(number, on_signal)
    try:
        return await task
    except asyncio.CancelledError:
        return INTERRUPTED


async def _perform(plan: Plan, console: Console) -> int:
    with _theatre() as theatre:
        await theatre.open()
        evidence = Evidence(theatre.app_key.encode(), theatre.public_url)
        token = theatre.stage.token("bff", TOKEN_LIFETIME_S)
        chats = await start_chats(theatre.public_url, ACCOUNT, token, plan.chats, evidence)
        say(console, curl_lines(theatre.public_url, theatre.upstream_url, chats[0], token))
        admin_url = f"http://127.0.0.1:{theatre.admin_port}"
        partner = theatre.stage.token("partner", TOKEN_LIFETIME_S)
        say(console, operator_lines(admin_url, theatre.stage.admin_token, chats[0], partner) + "\n")
        figures = await _drive(theatre, plan, chats, evidence, console)
        acts = await perform(Stand(theatre.stage, chats[0], theatre.admin_port))
        if plan.as_json:
            said = dataclasses.asdict(figures) | {"acts": dataclasses.asdict(acts)}
            print(json.dumps(said), flush=True)
        say(console, "\n" + explanation(figures) + "\n\n" + acts_told(acts))
        if not plan.once:
            say(console, "\nGateway and emulator keep running for the lines above. Ctrl-C ends them.")
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.Event().wait()
        return 1 if figures.errors or acts.errors else 0


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
def _theatre() -> Iterator[Theatre]:
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


async def _drive(
    theatre: Theatre, plan: Plan, chats: list[str], evidence: Evidence, console: Console
) -> Figures:
    tally = Tally()
    drive = Drive(tally, evidence, time.monotonic, time.time)
    pollers = list(_cast(plan, theatre.stage, chats))

    async def look() -> Figures:
        return _figures(plan, tally, evidence, drive.seconds, await theatre.counts())

    await theatre.reset_counts()
    with showing(console) as show:
        polling = asyncio.create_task(drive.run(pollers, plan.seconds))
        try:
            while not (await asyncio.wait([polling], timeout=0.5 if console.is_terminal else 1.0))[0]:
                show(await look())
        finally:
            polling.cancel()
            await asyncio.wait([polling])
        await polling
        evidence.take_log(theatre.gateway.log.read_bytes())
        figures = await look()
        show(figures)
    return figures


def _cast(plan: Plan, stage: Stage, chats: list[str]) -> Iterator[Poller]:
    """Clients of every kind for each chat, each with a token of its own, their phases spread evenly."""
    for index in range(plan.clients):
        rank, chat = divmod(index, plan.chats)
        together = (plan.clients - chat - 1) // plan.chats + 1
        name = CLIENTS[rank % len(CLIENTS)]
        token = stage.token(name, TOKEN_LIFETIME_S, jti=str(index))
        yield Poller(index, name, token, chats[chat], (rank + chat / plan.chats) / together)


def _figures(plan: Plan, tally: Tally, evidence: Evidence, seconds: float, counts: dict[str, int]) -> Figures:
    polls, asked = tally.polls.total(), counts.get("info", 0)
    kinds = {**tally.errors, **evidence.errors}
    return Figures(
        client_requests=polls + tally.writes,
        upstream_info_requests=asked,
        chats=plan.chats,
        seconds=round(seconds, 1),
        latency_p99_ms=tally.latency.percentile_ms(99),
        age_p99_ms=tally.age.percentile_ms(99),
        errors=sum(kinds.values()),
        clients=plan.clients,
        hits=tally.polls[HIT],
        stale=tally.polls[STALE],
        collapsed=tally.polls[COLLAPSED],
        misses=tally.polls[MISS],
        writes=tally.writes,
        upstream_requests=sum(counts.values()),
        upstream_info_requests_per_chat_and_second=round(asked / (plan.chats * max(seconds, 1.0)), 2),
        share_saved=round(1 - asked / max(polls, 1), 3),
        latency_p50_ms=tally.latency.percentile_ms(50),
        age_p50_ms=tally.age.percentile_ms(50),
        responses=evidence.responses,
        response_bytes=evidence.bytes,
        app_key_seen=evidence.keys_seen,
        app_key_seen_in_logs=evidence.keys_in_log,
        links=evidence.links,
        foreign_links=evidence.foreign_links,
        error_kinds=kinds,
    )
