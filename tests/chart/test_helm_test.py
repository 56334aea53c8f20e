"""What `helm test` runs, run: beside a gateway, and without one."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.chart.mounting import mount
from tests.chart.rendering import Json, objects, of_kind, profile
from tests.support import world

pytestmark = pytest.mark.anyio

DOCKERFILE = Path(__file__).parents[2] / "Dockerfile"
NOWHERE = "127.0.0.1:1"


def containers() -> Mapping[str, Json]:
    pod = of_kind(objects(profile("minimal")), "Pod")["spec"]
    return {each["name"]: each for each in pod["containers"]}


def arguments(container: Json, folder: Path, public: str) -> list[str]:
    """What the container runs, on this machine: another Python, another folder, other addresses."""
    command = container.get("command", ["/opt/chat-gateway/bin/python", "-m", "gateway"])
    words = [sys.executable, *command[1:], *container.get("args", ())]
    places = {"/etc/chat-gateway": str(folder), "http://chat-gateway:80": f"http://{public}"}
    return [re.sub("|".join(places), lambda found: places[found[0]], word) for word in words]


async def run(name: str, folder: Path, public: str, private: str) -> tuple[int | None, str]:
    """Its exit code, and what it says."""
    container = containers()[name]
    said = {each["name"]: private for each in container.get("env", ())}
    journal = {"CHAT_GATEWAY_REVOCATIONS__JOURNAL": str(folder.parent / "journal")}
    process = await asyncio.create_subprocess_exec(
        *arguments(container, folder, public),
        env={**os.environ, **journal, **said},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    return process.returncode, output.decode()


async def test_all_is_well_beside_a_gateway(tmp_path: Path) -> None:
    folder = tmp_path / "mounted"
    mount(profile("minimal"), folder)
    async with world(tmp_path) as it:
        public, private = ("{}:{}".format(*at) for at in (it.addresses.public, it.addresses.private))
        outcomes = await asyncio.gather(*(run(name, folder, public, private) for name in containers()))
    assert [code for code, _ in outcomes] == [0, 0, 0], outcomes
    assert outcomes[0][1].startswith("ok: 1 account, 1 issuer, 1 client")


async def test_what_is_wrong_is_told(tmp_path: Path) -> None:
    folder = tmp_path / "mounted"
    mount(profile("minimal"), folder)
    (folder / "policies" / "clients" / "internal.yaml").write_text("clients: {}\n")
    async with await asyncio.start_server(_anybody, "127.0.0.1", 0) as other:
        public = "{}:{}".format(*other.sockets[0].getsockname()[:2])
        outcomes = await asyncio.gather(*(run(name, folder, public, NOWHERE) for name in containers()))
    assert all(code for code, _ in outcomes)
    assert "policies/clients/internal.yaml:1: clients: expected" in outcomes[0][1]
    assert f"the private listener at {NOWHERE}" in outcomes[1][1]
    assert "expected 401 without a token, got 404" in outcomes[2][1]


async def _anybody(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
    writer.close()


def test_the_image_has_what_the_pods_run() -> None:
    # Beside this program stands the Python that runs it.
    assert 'ENTRYPOINT ["/opt/chat-gateway/bin/chat-gateway"' in DOCKERFILE.read_text()
    assert containers()["public-port"]["command"][0] == "/opt/chat-gateway/bin/python"
