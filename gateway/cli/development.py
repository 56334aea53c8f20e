"""Keys and tokens for development."""

# ruff: noqa: PLC0415, PLR0917 - imports inside commands, see gateway.cli; and each parameter is an option

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from gateway.cli.common import content_of, fail

token = typer.Typer(help="Tokens for development.", no_args_is_help=True)
keys = typer.Typer(help="Keys for development.", no_args_is_help=True)


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
    material = content_of(key)
    try:
        kid = None if algorithm.startswith("HS") else kid_of(material)
        typer.echo(sign(material, algorithm, kid, claims | dict(map(_read_claim, claim or ()))))
    except ValueError as error:
        fail(error)


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
        fail(error)
    for path in paths:
        typer.echo(path)


def _read_claim(said: str) -> tuple[str, object]:
    name, equals, value = said.partition("=")
    if not name or not equals:
        raise ValueError(f"claim: expected name=value, got {said!r}")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value
