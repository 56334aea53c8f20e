"""redis-py is an extra: without it the gateway works, and says what is missing where it is asked to share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.processes import line_of, started, status_of
from tests.support import staged


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    """For processes that cannot import it."""
    folder = tmp_path / "site"
    folder.mkdir()
    # Python runs this first, and takes a module that is None for one that is not there.
    folder.joinpath("sitecustomize.py").write_text("import sys\nsys.modules['redis'] = None\n")
    return {"PYTHONPATH": str(folder)}


def test_it_serves_without(tmp_path: Path, environ: dict[str, str]) -> None:
    with started("serve", "--config", str(staged(tmp_path).config), environ=environ) as process:
        said = line_of(process)
        assert said["event"] == "listening"
        assert status_of(said["public"], "/api/account/123") == 401
        assert status_of(said["private"], "/readyz") == 200


@pytest.mark.parametrize("command", ["serve", "check"])
def test_it_says_what_is_missing(tmp_path: Path, environ: dict[str, str], command: str) -> None:
    config = staged(tmp_path, redis_url="redis://127.0.0.1:1").config
    with started(command, "--config", str(config), environ=environ) as process:
        out, err = process.communicate(timeout=15)
    assert process.returncode == 1
    (line,) = (out + err).splitlines()
    assert "redis_url: expected the extra `redis` to be installed (pip install 'chat-gateway[redis]')" in line
