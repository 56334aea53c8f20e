"""What docs/api.md has people type does what it says."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.core.paths import DESCRIPTION
from gateway.demo.stage import ACCOUNT
from tests.openapi.ground import Ground, ground
from tests.support import PATIENCE_S

PAGE = (Path(__file__).parents[2] / "docs" / "api.md").read_text()
#: Those that are to be typed, with the lines they go on for.
TYPED = [
    re.sub(r"\\\n *", "", found)
    for found in re.findall(r"^    (?:\$ )?(curl (?:.*\\\n)*.*)$", PAGE, re.MULTILINE)
]


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    with ground(tmp_path_factory.mktemp("ground")) as it:
        yield it


@pytest.mark.skipif(shutil.which("curl") is None, reason="expected curl to be installed")
@pytest.mark.parametrize("typed", TYPED)
def test_what_is_typed_works(here: Ground, typed: str) -> None:
    base = f"{here.url}/api/account/{ACCOUNT}"
    said = {"TOKEN": here.token, "BASE": base, "CHAT": f"{base}/chat/{here.chat()}"}
    # A stream would go on.
    patience_s = 1 if "event-stream" in typed else PATIENCE_S
    command = (
        f"{typed} --silent --output /dev/null --max-time {patience_s} "
        "--write-out '%{http_code} %{content_type}'"
    )
    ran = subprocess.run(  # noqa: S603 - our own page
        ["bash", "-c", command],  # noqa: S607 - wherever it is
        capture_output=True,
        text=True,
        env={**os.environ, **said, "no_proxy": "*"},
        check=False,
    )
    status, _, content_type = ran.stdout.partition(" ")
    assert status == ("201" if " -d " in typed else "200")
    assert content_type.startswith("text/event-stream") is ("event-stream" in typed)


def test_there_is_something_to_type() -> None:
    assert len(TYPED) > 5
    assert f"GET {DESCRIPTION}" in PAGE
