"""The commands.

Each imports what it needs when it runs, so that `--version` and `--help` answer at once.
Exit codes: 0 done, 1 refused or failed (a sentence on standard error says why), 2 a wrong command line,
130 interrupted (Ctrl-C, SIGTERM or SIGHUP).
"""

# ruff: noqa: PLC0415, PLR0917 - imports inside commands, see above; and each parameter is an option

from __future__ import annotations

import json
import os
import socket
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

import gateway

if TYPE_CHECKING:
    from gateway.app import Configuration

app = typer.Typer(
    help="A reverse proxy and caching gateway in front of LivePerson's Server Chat API.",
    no_args_is_help=True,
    add_completion=False,
    # They would print the values of variables, and some of those are secrets.
    pretty_exceptions_enable=False,
)
token = typer.Typer(help="Tokens for development.", no_args_is_help=True)
keys = typer.Typer(help="Keys for development.", no_args_is_help=True)
app.add_typer(token, name="token")
app.add_typer(keys, name="keys")

ConfigOption = Annotated[Path, typer.Option("--config", help="Path of gateway.yaml.")]


def main() -> None:
    """The command `chat-gateway`."""
    app()


def _fail(message: object) -> NoReturn:
    typer.echo(message, err=True)
    raise typer.Exit(1)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"chat-gateway {gateway.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_show_version, help="Show the version.")
    ] = False,
) -> None:
    pass


@app.command()
def serve(config: ConfigOption) -> None:
    """Run the gateway until SIGTERM or Ctrl-C. Logs go to standard error."""
    import uvloop

    from gateway.app import Misconfigured, configure
    from gateway.edge.server import CannotListen

    try:
        uvloop.run(_serve(configure(config, os.environ)))
    except (Misconfigured, CannotListen) as error:
        _fail(error)


async def _serve(configuration: Configuration) -> None:
    from gateway.app import Gateway, collect_seldom, running
    from gateway.config.settings import Address
    from gateway.edge.server import until_signalled
    from gateway.observe.logs import logger

    log = logger(configuration.settings.log_level)
    for warning in configuration.warnings:
        log.warning("configuration", warning=warning)
    wired = Gateway(configuration, log=log)
    collect_seldom()
    async with running(wired) as addresses:
        log.info(
            "listening", public=str(Address(*addresses.public)), private=str(Address(*addresses.private))
        )
        await until_signalled()
    log.info("stopped")


@app.command()
def check(config: ConfigOption) -> None:
    """Say all that is wrong with the configuration and its policies."""
    from gateway.app import Misconfigured, configure

    try:
        configuration = configure(config, os.environ)
    except Misconfigured as refused:
        typer.echo(refused)
        raise typer.Exit(1) from None
    for warning in configuration.warnings:
        typer.echo(warning)
    settings, policies = configuration.settings, configuration.policies
    counts = (
        _counted(len(settings.accounts), "account"),
        _counted(len(settings.issuers), "issuer"),
        _counted(len(policies.clients), "client"),
        _counted(len(policies.resources), "resource"),
    )
    typer.echo(f"ok: {', '.join(counts)}")


def _counted(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


@app.command()
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
        _fail(f"the demo failed: {error}")
    raise typer.Exit(code)


@app.command()
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
        app_key=EmulatorConfig().app_key if app_key_file is None else _read(app_key_file).decode().strip(),
        accounts=tuple(account or ["123"]),
        chat_timeout_s=chat_timeout_s,
        latency_s=latency_ms / 1000,
        agent=AgentScript() if agents else None,
    )
    try:
        run(host, port, config)
    except OSError as error:
        _fail(f"cannot listen on {host}:{port}: {_reason(error)}")


def _reason(error: OSError) -> str:
    """Why, in the system's words: event loops put the address before them."""
    # Resolvers have codes of their own.
    if error.errno is None or isinstance(error, socket.gaierror):
        return error.strerror or str(error)
    return os.strerror(error.errno)


@token.command()
def mint(
    key: Annotated[Path, typer.Option(help="Private key in PEM; for HS256 the file of the secret.")],
    issuer: Annotated[str, typer.Option(help="The claim iss.")],
    subject: Annotated[str, typer.Option(help="The claim sub.")],
    audience: Annotated[str, typer.Option(help="The claim aud.")] = "chat-gateway",
    lifetime: Annotated[int, typer.Option(help="Seconds until it expires; negative: since.")] = 3600,
    algorithm: Annotated[str, typer.Option(help="How to sign; must fit the key.")] = "RS256",
    claim: Annotated[
        list[str] | None, typer.Option(help="A further claim, name=value; JSON values are taken as such.")
    ] = None,
) -> None:
    """Make a token. FOR DEVELOPMENT KEYS ONLY: in production, tokens come from the identity provider."""
    from gateway.identity.development import kid_of
    from gateway.identity.development import mint as sign

    now = int(time.time())
    claims: dict[str, object] = {
        "iss": issuer,
        "aud": audience,
        "sub": subject,
        "iat": now,
        "exp": now + lifetime,
    }
    material = _read(key)
    try:
        kid = None if algorithm.startswith("HS") else kid_of(material)
        typer.echo(sign(material, algorithm, kid, claims | dict(map(_read_claim, claim or ()))))
    except ValueError as error:
        _fail(error)


@token.command()
def inspect(
    source: Annotated[
        str, typer.Argument(metavar="[TOKEN|-]", help="The token, or - to read it from standard input.")
    ] = "-",
) -> None:
    """Show what a token claims, without verifying it."""
    from gateway.identity.development import inspect as read

    said = read(sys.stdin.read() if source == "-" else source)
    typer.echo(said)
    if said.faults:
        raise typer.Exit(1)


@keys.command()
def new(
    folder: Annotated[Path, typer.Option(help="Where to write private.pem and jwks.json; made if needed.")],
    algorithm: Annotated[str, typer.Option(help="What the key is for.")] = "RS256",
) -> None:
    """Make a key pair for development: private.pem to mint tokens, jwks.json for the gateway."""
    from gateway.identity.development import write_key_pair

    try:
        folder.mkdir(parents=True, exist_ok=True)
        paths = write_key_pair(folder, algorithm)
    except (ValueError, OSError) as error:
        _fail(error)
    for path in paths:
        typer.echo(path)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        _fail(f"{path}: expected a readable file, got: {error.strerror}")


def _read_claim(said: str) -> tuple[str, object]:
    name, equals, value = said.partition("=")
    if not name or not equals:
        raise ValueError(f"claim: expected name=value, got {said!r}")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value
