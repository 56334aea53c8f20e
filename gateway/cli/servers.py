"""`serve` and `check`, and the servers for a machine of one's own."""

# ruff: noqa: PLC0415, PLR0917 - imports inside commands, see gateway.cli; and each parameter is an option

from __future__ import annotations

import asyncio
import os
import signal
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gateway.cli.common import ConfigOption, content_of, counted, fail
from gateway.cli.process import (
    RESERVE,
    allow_open_files,
    end_at_signals,
    fill_standard_streams,
    signalled,
    too_few_open_files,
)

if TYPE_CHECKING:
    from gateway.app import Gateway
    from gateway.configuration import Configuration


def serve(config: ConfigOption) -> None:
    """Run the gateway until SIGTERM or Ctrl-C; SIGHUP has it read its files again. It logs to stderr."""
    # Until it listens there is nothing to end gently.
    end_at_signals()
    fill_standard_streams()
    import uvloop

    from gateway.configuration import Misconfigured, configure
    from gateway.edge.server import CannotListen

    limit = allow_open_files()
    if limit < RESERVE:
        fail(f"expected a limit of open files of at least {RESERVE}, got {limit}")
    try:
        uvloop.run(_serve(configure(config, os.environ, starting=True), config, limit))
    except (Misconfigured, CannotListen) as error:
        fail(error)


async def _serve(configuration: Configuration, path: Path, limit: int) -> None:
    from gateway.app import Gateway, collect_seldom, running
    from gateway.config.addresses import Address
    from gateway.edge.server import GRACE_S
    from gateway.observe.logs import logger

    settings = configuration.settings
    log = logger(settings.log_level)
    for warning in (*configuration.warnings, *too_few_open_files(settings, limit)):
        log.warning("configuration", warning=warning)
    wired = Gateway(configuration, path, os.environ, log=log)
    collect_seldom()
    _reload_on_hangup(wired)
    async with running(wired) as addresses:
        told = signalled()
        log.info(
            "listening", public=str(Address(*addresses.public)), private=str(Address(*addresses.private))
        )
        number = await told
        # Balancers take a while to see that it is not ready. Whoever presses Ctrl-C is not behind one.
        delay_s = settings.drain_delay_s if number is signal.SIGTERM else 0
        wired.ready = False
        addresses.retire()
        log.info("ending", signal=number.name, at_most_s=delay_s + settings.drain_s + GRACE_S)
        await asyncio.sleep(delay_s)
    log.info("stopped")


def _reload_on_hangup(wired: Gateway) -> None:
    """Have SIGHUP read everything again; the gateway itself logs what comes of it."""
    # The loop keeps no task alive.
    reloads: set[asyncio.Task[None]] = set()

    def reload() -> None:
        task = asyncio.create_task(wired.safely(wired.reloading.reload))
        reloads.add(task)
        task.add_done_callback(reloads.discard)

    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, reload)


def check(config: ConfigOption) -> None:
    """Say all that is wrong with the configuration and its policies."""
    from gateway.configuration import Misconfigured, configure

    try:
        configuration = configure(config, os.environ, starting=True)
    except Misconfigured as refused:
        typer.echo(refused)
        raise typer.Exit(1) from None
    settings, policies = configuration.settings, configuration.policies
    for warning in (*configuration.warnings, *too_few_open_files(settings, allow_open_files())):
        typer.echo(warning)
    counts = (
        counted(len(settings.accounts), "account"),
        counted(len(settings.issuers), "issuer"),
        counted(len(policies.clients), "client"),
        *((counted(len(policies.shadows), "shadow"),) if policies.shadows else ()),
        counted(len(policies.resources), "resource"),
    )
    typer.echo(f"ok: {', '.join(counts)}")


def demo(
    once: Annotated[bool, typer.Option("--once", help="End after the summary.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the summary as one JSON object, and nothing else.")
    ] = False,
    clients: Annotated[int, typer.Option(min=1, help="Clients that poll, each once a second.")] = 300,
    chats: Annotated[int, typer.Option(min=1, help="Chats they poll; at most one a client.")] = 40,
    seconds: Annotated[int, typer.Option(min=2, help="For how long they poll.")] = 10,
) -> None:
    """Run an emulated chat service, a gateway and polling clients on this machine, and show what happens."""
    from rich.console import Console

    from gateway.demo.children import DidNotStart
    from gateway.demo.run import Plan, run
    from gateway.demo.wire import Broken

    plan = Plan(clients, min(chats, clients), seconds, once, as_json)
    try:
        code = run(plan, Console(quiet=as_json))
    except (DidNotStart, Broken) as error:
        fail(f"the demo failed: {error}")
    raise typer.Exit(code)


def emulator(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 is any free one.")] = 9100,
    seed: Annotated[int, typer.Option(help="Decides ids and the agents' pauses.")] = 1,
    latency_ms: Annotated[int, typer.Option(min=0, help="Delay of every answer.")] = 0,
    app_key_file: Annotated[
        Path | None, typer.Option(help="File with the appKey that callers need; a built-in one without it.")
    ] = None,
    account: Annotated[list[str] | None, typer.Option(help="Account id; may be repeated.")] = None,
    chat_timeout_s: Annotated[int, typer.Option(min=1, help="A chat dies this long after a request.")] = 40,
    agents: Annotated[bool, typer.Option(help="Whether agents accept chats and talk.")] = True,
) -> None:
    """Run the Server Chat API, emulated, until SIGTERM or Ctrl-C."""
    from gateway.emulator import AgentScript, EmulatorConfig
    from gateway.emulator.command import run

    config = EmulatorConfig(
        seed=seed,
        app_key=EmulatorConfig().app_key
        if app_key_file is None
        else content_of(app_key_file).decode().strip(),
        accounts=tuple(account or ["123"]),
        chat_timeout_s=chat_timeout_s,
        latency_s=latency_ms / 1000,
        agent=AgentScript() if agents else None,
    )
    try:
        run(host, port, config)
    except OSError as error:
        fail(f"cannot listen on {host}:{port}: {_reason(error)}")


def _reason(error: OSError) -> str:
    """Why, in the system's words: event loops put the address before them."""
    # Resolvers have codes of their own.
    if error.errno is None or isinstance(error, socket.gaierror):
        return error.strerror or str(error)
    return os.strerror(error.errno)
