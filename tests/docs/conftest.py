"""How the example clients are run here."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Sequence

import pytest

from tests.docs.clients import CLIENTS, LANGUAGES


@pytest.fixture(scope="module")
def commands(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Sequence[str]]:
    """How each client is run, if it can be run here."""
    found = {"python": [sys.executable, str(CLIENTS / "python" / "chat_gateway.py")]}
    if shutil.which("curl") and shutil.which("bash"):
        found["curl"] = ["bash", str(CLIENTS / "curl.sh")]
    esbuild, node = shutil.which("esbuild"), shutil.which("node")
    if esbuild and node:
        script = tmp_path_factory.mktemp("typescript") / "main.js"
        source = str(CLIENTS / "typescript" / "main.ts")
        bundle = [
            esbuild,
            "--bundle",
            "--platform=node",
            "--log-level=warning",
            f"--outfile={script}",
            source,
        ]
        subprocess.run(bundle, check=True)  # noqa: S603 - found by its name above
        found["typescript"] = [node, str(script)]
    return dict(found)


@pytest.fixture(params=LANGUAGES)
def command(request: pytest.FixtureRequest, commands: dict[str, Sequence[str]]) -> Sequence[str]:
    if request.param not in commands:
        pytest.skip(f"expected what runs the {request.param} client to be installed")
    return commands[request.param]
