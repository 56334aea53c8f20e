"""The demo's story: set the stage, start emulator and gateway, let clients poll, say what happened."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import resource
import signal
import time
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass

import uvloop
from rich.console import Console

from gateway.demo.acts import Stand, perform
from gateway.demo.drive import Drive, Poller, start_chats
from gateway.demo.evidence import Evidence
from gateway.demo.figures import COLLAPSED, HIT, MISS, STALE, Figures, Tally
from gateway.demo.replicas import play
from gateway.demo.screen import (
    acts_told,
    curl_lines,
    explanation,
    operator_lines,
    replicas_told,
    say,
    showing,
    streams_told,
)
from gateway.demo.stage import ACCOUNT, Stage
from gateway.demo.streams import watch
from gateway.demo.theatre import Theatre, theatre

#: The clients of the shipped policies.
CLIENTS = ("bff", "internal", "partner")
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
    with theatre() as house:
        await house.open()
        evidence = Evidence(house.app_key.encode(), house.public_url)
        token = house.stage.token("bff", TOKEN_LIFETIME_S)
        chats = await start_chats(house.public_url, ACCOUNT, token, plan.chats, evidence)
        say(console, curl_lines(house.public_url, house.upstream_url, chats[0], token))
        admin_url = f"http://127.0.0.1:{house.admin_port}"
        partner = house.stage.token("partner", TOKEN_LIFETIME_S)
        say(console, operator_lines(admin_url, house.stage.admin_token, chats[0], partner) + "\n")
        figures = await _drive(house, plan, chats, evidence, console)
        acts = await perform(Stand(house.stage, chats[0], house.admin_port))
        say(console, "\n" + explanation(figures) + "\n\n" + acts_told(acts) + "\n")
        followed = await watch(house, chats[0])
        say(console, streams_told(followed) + "\n")
        replicas = await play(house, chats, lambda text: say(console, text))
        say(console, replicas_told(replicas))
        if plan.as_json:
            told = {
                "acts": dataclasses.asdict(acts),
                "streams": dataclasses.asdict(followed),
                "replicas": dataclasses.asdict(replicas),
            }
            print(json.dumps(dataclasses.asdict(figures) | told), flush=True)
        if not plan.once:
            say(console, "\nGateway and emulator keep running for the lines above. Ctrl-C ends them.")
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.Event().wait()
        return 1 if figures.errors or acts.errors or followed.errors or replicas.errors else 0


async def _drive(
    house: Theatre, plan: Plan, chats: list[str], evidence: Evidence, console: Console
) -> Figures:
    tally = Tally()
    drive = Drive(tally, evidence, time.monotonic, time.time)
    pollers = list(_cast(plan, house.stage, chats))

    async def look() -> Figures:
        return _figures(plan, tally, evidence, drive.seconds, await house.counts())

    await house.reset_counts()
    with showing(console) as show:
        polling = asyncio.create_task(drive.run(pollers, plan.seconds))
        try:
            while not (await asyncio.wait([polling], timeout=0.5 if console.is_terminal else 1.0))[0]:
                show(await look())
        finally:
            polling.cancel()
            await asyncio.wait([polling])
        await polling
        evidence.take_log(house.gateway.log.read_bytes())
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
