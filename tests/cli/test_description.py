"""`openapi`."""

from __future__ import annotations

import json
from pathlib import Path

from typer.testing import CliRunner, Result

from gateway.cli import app
from tests.support import PUBLIC_URL, staged


def run(config: Path) -> Result:
    return CliRunner().invoke(app, ["openapi", "--config", str(config)])


def test_it_describes_this_gateway(tmp_path: Path) -> None:
    result = run(staged(tmp_path, push={"max_wait_s": 7}).config)
    assert result.exit_code == 0
    said = json.loads(result.stdout)
    assert said["servers"] == [{"url": PUBLIC_URL}]
    assert "at most 7 seconds" in said["components"]["parameters"]["Prefer"]["description"]
    assert "/api/account/{account}/chat/{chat}/info" in said["paths"]


def test_a_mistake_is_told(tmp_path: Path) -> None:
    config = staged(tmp_path, drain_s=-1).config
    result = run(config)
    assert result.exit_code == 1
    assert "drain_s: expected a whole number" in result.stderr
