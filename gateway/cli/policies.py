"""`policy test` and `policy diff`: what policies mean, before they are in force."""

# ruff: noqa: PLC0415 - imports inside commands, see gateway.cli

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gateway.cli.common import NO, counted

if TYPE_CHECKING:
    from gateway.config.settings import Settings
    from gateway.core.policy import Policies

app = typer.Typer(help="Try policies before they are in force.", no_args_is_help=True)


@app.command("test")
def run(
    config: Annotated[
        Path | None, typer.Option(help="Path of gateway.yaml: its policies, accounts and issuers.")
    ] = None,
    policies: Annotated[
        Path | None, typer.Option(help="Folder of policies, for any accounts and issuers.")
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Take warnings for failures.")] = False,
) -> None:
    """Run the tests that stand beside the policies (tests/*.yaml)."""
    from gateway.config.policy_tests import read_tests, run_tests

    read = _read(config, policies)
    tests, mistakes = read_tests(read.folder, read.shown_as)
    _tell(mistakes)
    if any(mistake.severity == "error" for mistake in mistakes):
        raise typer.Exit(1)
    ran = run_tests(tests, read.policies, read.settings, read.shown_as)
    _tell((*ran.failures, *ran.untouched))
    failed = len({(failure.file, failure.key) for failure in ran.failures})
    if failed:
        typer.echo(f"failed: {failed} of {counted(len(tests), 'test')}")
        raise typer.Exit(1)
    warnings = len(mistakes) + len(ran.untouched)
    if strict and warnings:
        typer.echo(f"failed: {counted(warnings, 'warning')}")
        raise typer.Exit(1)
    typer.echo(f"ok: {counted(len(tests), 'test')}")


@app.command()
def diff(
    old: Annotated[Path, typer.Argument(help="Folder of policies as they are.")],
    new: Annotated[Path, typer.Argument(help="Folder of policies as they shall be.")],
    exit_code: Annotated[
        bool, typer.Option("--exit-code", help=f"Exit with {NO} where there are changes.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Say whose requests end otherwise under other policies, and what else is written differently."""
    from gateway.config.changes import changes

    found = changes(_of_folder(old).policies, _of_folder(new).policies)
    if as_json:
        typer.echo(json.dumps(asdict(found), indent=2))
    else:
        _tell(found.lines or ("no changes",))
    if exit_code and found.lines:
        raise typer.Exit(NO)


@dataclass(frozen=True, slots=True)
class _Read:
    """Policies and where they came from. Without settings nobody knows accounts and issuers."""

    policies: Policies
    folder: Path
    shown_as: str
    settings: Settings | None = None


def _read(config: Path | None, folder: Path | None) -> _Read:
    if config is not None and folder is None:
        return _of_settings(config)
    if folder is not None and config is None:
        return _of_folder(folder)
    got = "neither" if config is None else "both"
    raise typer.BadParameter(f"expected either --config or --policies, got {got}")


def _of_settings(config: Path) -> _Read:
    from gateway.config.load import load

    loaded = load(config, os.environ)
    if loaded.settings is None or loaded.policies is None:
        _tell(loaded.mistakes)
        raise typer.Exit(1)
    folder = loaded.settings.policies
    return _Read(loaded.policies, folder, os.path.relpath(folder, config.parent) + "/", loaded.settings)


def _of_folder(folder: Path) -> _Read:
    from gateway.config.policies import load_policies

    shown_as = f"{folder}/"
    policies, mistakes = load_policies(folder, None, None, version=1, shown_as=shown_as)
    if policies is None:
        _tell(mistakes)
        raise typer.Exit(1)
    return _Read(policies, folder, shown_as)


def _tell(lines: Iterable[object]) -> None:
    for line in lines:
        typer.echo(line)
