"""The commands.

Each imports what it needs when it runs, so that `--version` and `--help` answer at once.
Exit codes: 0 done, 1 refused or failed (a sentence on standard error says why), 2 a wrong command line,
3 a question was answered with no (`explain`: refused; `policy diff --exit-code`: changes),
130 interrupted (Ctrl-C, SIGTERM or SIGHUP).
"""

from __future__ import annotations

from typing import Annotated

import typer

import gateway
from gateway.cli import description, development, health, operating, policies, servers, top

app = typer.Typer(
    help="A reverse proxy and caching gateway in front of LivePerson's Server Chat API.",
    no_args_is_help=True,
    add_completion=False,
    # They would print the values of variables, and some of those are secrets.
    pretty_exceptions_enable=False,
)
app.command()(servers.serve)
app.command()(servers.check)
app.command()(operating.explain)
app.command()(operating.usage)
app.command()(top.top)
app.command()(operating.revoke)
app.command()(operating.reload)
app.command()(health.healthcheck)
app.add_typer(policies.app, name="policy")
app.command()(description.openapi)
app.command()(servers.demo)
app.command()(servers.emulator)
app.add_typer(development.token, name="token")
app.add_typer(development.keys, name="keys")


def main() -> None:
    """The command `chat-gateway`."""
    app()


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
