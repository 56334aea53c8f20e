"""`explain`, `usage`, `revoke`, `reload`: what is asked of a gateway, mostly of one that runs."""

# ruff: noqa: PLC0415, PLR0917 - imports inside commands, see gateway.cli; and each parameter is an option

from __future__ import annotations

import asyncio
import datetime as dt
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from gateway.cli.common import CALLED_AT, NO, ConfigOption, content_of, fail

if TYPE_CHECKING:
    from gateway.config.settings import Settings
    from gateway.configuration import Configuration


# -- explain -----------------------------------------------------------------------------------------------


def explain(
    method: Annotated[str, typer.Argument(help="GET, HEAD, POST or PUT.")],
    path: Annotated[str, typer.Argument(help="Path and query, as /api/account/123/chat/ID/info.")],
    config: ConfigOption,
    token: Annotated[str | None, typer.Option(help="The token; - reads it from standard input.")] = None,
    claims: Annotated[
        str | None, typer.Option(help="In place of a token: the claims of one that was verified, as JSON.")
    ] = None,
    accept: Annotated[str | None, typer.Option(help="The field Accept.")] = None,
    header: Annotated[
        list[str] | None, typer.Option(help="A further field, 'Name: value'; may be repeated.")
    ] = None,
    body: Annotated[Path | None, typer.Option(help="File with the body.")] = None,
    live: Annotated[
        bool, typer.Option("--live", help="Ask the running gateway: what it keeps and has counted matters.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Say what would become of a request, step by step and by which rule. Nothing is done or counted."""
    said: dict[str, object] = {
        "method": method,
        "path": path,
        "headers": _fields(accept, header or ()),
        **_caller(token, claims),
        **({} if body is None else {"body": _text_of(body)}),
    }
    document = _asked(config, "POST", "/explain", said) if live else _explained_here(config, said)
    typer.echo(json.dumps(document, indent=2) if as_json else "\n".join(_explanation(document)))
    if not _is_answered(document):
        raise typer.Exit(NO)


def _caller(token: str | None, claims: str | None) -> dict[str, object]:
    if token is not None and claims is None:
        return {"token": _from_stdin() if token == "-" else token}  # noqa: S105 - a hyphen
    if claims is None or token is not None:
        got = "neither" if token is None else "both"
        raise typer.BadParameter(f"expected either --token or --claims, got {got}")
    try:
        said = json.loads(claims)
    except (ValueError, RecursionError):
        said = None
    if not isinstance(said, dict):
        raise typer.BadParameter("--claims: expected a JSON object, got something else")
    return {"claims": said}


def _from_stdin() -> str:
    # What is no ASCII is no token, and is to be told so like any other.
    return sys.stdin.buffer.read().decode("ascii", "replace").strip()


def _fields(accept: str | None, headers: Iterable[str]) -> dict[str, str]:
    fields = {} if accept is None else {"accept": accept}
    for header in headers:
        name, colon, value = header.partition(":")
        name = name.strip().lower()
        if not name or not colon:
            raise typer.BadParameter(f"--header: expected 'Name: value', got {header!r}")
        if name in fields:
            raise typer.BadParameter(f"--header: expected each field once, got {name} again")
        fields[name] = value.strip()
    return fields


def _text_of(path: Path) -> str:
    try:
        return content_of(path).decode()
    except UnicodeDecodeError:
        fail(f"{path}: expected UTF-8, got something else")


def _explained_here(config: Path, said: Mapping[str, object]) -> Any:
    """By a gateway of the same configuration that has just started, and answers nobody else."""
    from gateway.configuration import Misconfigured, configure

    with tempfile.TemporaryDirectory() as scratch:
        try:
            configuration = _apart(configure(config, os.environ), Path(scratch))
            status, document = asyncio.run(_explained_by(configuration, config, said))
        except Misconfigured as refused:
            fail(refused)
    return answered(status, document)


def _apart(configuration: Configuration, scratch: Path) -> Configuration:
    """With a copy of the journal of revocations: only the running gateway may open its own."""
    from dataclasses import replace

    settings = configuration.settings
    journal = settings.revocations.journal
    if journal is None:
        return configuration
    copy = scratch / "journal"
    if journal.exists():
        shutil.copyfile(journal, copy)
    revocations = settings.revocations.model_copy(update={"journal": copy})
    return replace(configuration, settings=settings.model_copy(update={"revocations": revocations}))


async def _explained_by(
    configuration: Configuration, config: Path, said: Mapping[str, object]
) -> tuple[int, object]:
    from gateway.app import Gateway
    from gateway.observe.logs import logger

    wired = Gateway(configuration, config, os.environ, log=logger("error", sys.stderr))
    await wired.begin()
    try:
        return await wired.operations.explain(said)
    finally:
        await wired.end()


def _explanation(document: Mapping[str, Any]) -> list[str]:
    key, sent = document["cache_key"], document["upstream_request"]
    ends = {
        "outcome": document["outcome"],
        "client": document["client"],
        "rule": document["rule"],
        "key": key and f"{key['path']}?{key['query']} as {key['representation']}",
        "upstream": sent and f"{sent['method']} {sent['target']}, account {sent['account']}",
    }
    rows = [(step["step"], step["says"]) for step in document["steps"]]
    rows += [("", ""), *((name, said or "none") for name, said in ends.items())]
    if sent:
        rows += [("", f"{name}: {value}") for name, value in sent["headers"].items()]
    return [f"{name:<9}{said}".rstrip() for name, said in rows]


def _is_answered(document: Mapping[str, Any]) -> bool:
    from gateway.core.replies import How

    return document["outcome"] in {how.value for how in How}


# -- what only the running gateway knows -------------------------------------------------------------------


def usage(
    config: ConfigOption,
    day: Annotated[str | None, typer.Option(help="Only this UTC day, YYYY-MM-DD.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON list.")] = False,
) -> None:
    """Show who used the running gateway how much, by UTC day."""
    if day is not None:
        day = _date(day)
    rows = [row for row in _asked(config, "GET", "/usage") if day in {None, row["day"]}]
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
    elif rows:
        typer.echo("\n".join(_aligned([list(rows[0]), *([str(v) for v in row.values()] for row in rows)])))
    else:
        typer.echo("nobody used it" + (f" on {day}" if day else " yet"))


def _date(day: str) -> str:
    try:
        return dt.date.fromisoformat(day).isoformat()
    except ValueError:
        raise typer.BadParameter(f"--day: expected YYYY-MM-DD, got {day!r}") from None


def _aligned(rows: Sequence[Sequence[str]]) -> Iterable[str]:
    """A table: texts to the left, and numbers, which come after them, to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = zip(row, widths, strict=True)
        yield "  ".join(
            cell.ljust(width) if index < 2 else cell.rjust(width) for index, (cell, width) in enumerate(cells)
        )


def revoke(
    config: ConfigOption,
    jti: Annotated[str | None, typer.Option(help="The token with this id.")] = None,
    sub: Annotated[str | None, typer.Option(help="All tokens of this subject.")] = None,
    client: Annotated[str | None, typer.Option(help="This client, with all its tokens.")] = None,
    issuer: Annotated[str | None, typer.Option(help="Whose token or subject it is.")] = None,
    until: Annotated[
        str | None, typer.Option(help="When it ends: epoch seconds, or 2026-01-31T12:00:00Z; else never.")
    ] = None,
    note: Annotated[str | None, typer.Option(help="For people who read the journal.")] = None,
    withdraw: Annotated[bool, typer.Option("--withdraw", help="Take the revocation back.")] = False,
) -> None:
    """Revoke a token, a subject or a client of the running gateway, at once."""
    kinds = {"jti": jti, "sub": sub, "client": client}
    named = {kind: name for kind, name in kinds.items() if name is not None}
    if len(named) != 1:
        got = " and ".join(f"--{kind}" for kind in named) or "none"
        raise typer.BadParameter(f"expected one of --jti, --sub and --client, got {got}")
    optional = {
        "issuer": issuer,
        "until": None if until is None else _epoch(until),
        "note": note,
        "withdrawn": withdraw or None,
    }
    said = named | {member: value for member, value in optional.items() if value is not None}
    for warning in _asked(config, "POST", "/revocations", said).get("warnings", ()):
        typer.echo(f"warning: {warning}", err=True)
    ((kind, name),) = named.items()
    typer.echo(f"{'withdrawn' if withdraw else 'revoked'}: {kind} {name}")


def _epoch(until: str) -> int:
    if until.isascii() and until.isdecimal():
        return int(until)
    try:
        when = dt.datetime.fromisoformat(until)
    except ValueError:
        when = None
    if when is None or when.tzinfo is None:
        expected = "expected epoch seconds, or date and time with a zone"
        raise typer.BadParameter(f"--until: {expected}, as 2026-01-31T12:00:00Z, got {until!r}")
    return int(when.timestamp())


def reload(config: ConfigOption) -> None:
    """Have the running gateway read its configuration again, now."""
    said = _asked(config, "POST", "/reload", {})
    for name in said["needs_restart"]:
        typer.echo(f"takes a restart: {name}")
    typer.echo("reloaded" if said["changed"] else "nothing has changed since it was last read")


def _asked(config: Path, method: str, path: str, said: object = None) -> Any:
    """What the running gateway's private listener answers, or the end of the command."""
    from gateway.admin.client import CallFailed, call

    listener = private_listener(config)
    try:
        status, answer = call(
            listener.at, listener.token, method, path, said, certificate_file=listener.certificate_file
        )
    except CallFailed as error:
        fail(error)
    return answered(status, answer, listener.name)


class PrivateListener(NamedTuple):
    """Where a gateway's private listener is, what it is called, and how to get in."""

    at: tuple[str, int]
    name: str
    token: str
    certificate_file: Path | None


def private_listener(config: Path) -> PrivateListener:
    """That of the gateway of this configuration, or the end of the command."""
    settings = _settings(config)
    address = settings.admin_listen
    if address.port == 0:
        fail("admin_listen: expected the port that the gateway listens on, got 0, which is any free one")
    if settings.admin.token_file is None:
        fail("admin.token_file: expected the file with the private listener's token, got none")
    token = content_of(settings.admin.token_file).decode("latin-1").rstrip("\r\n")
    at = CALLED_AT.get(address.host, address.host), address.port
    certificate_file = None if settings.admin_tls is None else settings.admin_tls.certificate_file
    return PrivateListener(at, f"the private listener at {address}", token, certificate_file)


def _settings(config: Path) -> Settings:
    """The settings alone: whoever revokes or reloads may have a mistake in the policies."""
    from gateway.config.load import load

    loaded = load(config, os.environ)
    if loaded.settings is None:
        fail("\n".join(str(mistake) for mistake in loaded.mistakes if mistake.severity == "error"))
    return loaded.settings


def answered(status: int, answer: object, where: str = "") -> Any:
    """A good answer; or the end of the command, with the sentences of a bad one."""
    if status >= 300:
        said = answer if isinstance(answer, dict) else {}
        # What is wrong with the question or the record; with the files; with the call.
        sentences = said.get("faults") or said.get("mistakes")
        refusal = f"{where} answered {status}: {said.get('error', 'it did not say why')}"
        fail("\n".join(sentences or [refusal]))
    return answer
