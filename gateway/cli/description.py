"""`openapi`: what a gateway's public surface looks like."""

# ruff: noqa: PLC0415 - imports inside commands, see gateway.cli

from __future__ import annotations

import json
import os

import typer

from gateway.cli.common import ConfigOption, fail


def openapi(config: ConfigOption) -> None:
    """Print the OpenAPI 3.1 description of a gateway with this configuration."""
    from gateway.config.load import load
    from gateway.openapi.document import document

    loaded = load(config, os.environ)
    if loaded.settings is None or loaded.policies is None:
        fail("\n".join(str(mistake) for mistake in loaded.mistakes if mistake.severity == "error"))
    settings = loaded.settings
    said = document(loaded.policies, settings.public_url, settings.push.max_wait_s)
    typer.echo(json.dumps(said, indent=2, ensure_ascii=False))
