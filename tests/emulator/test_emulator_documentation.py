"""docs/commands.md tells of every handle, every member of a fault and every switch, and of no other."""

from __future__ import annotations

import dataclasses
import json
import re
import shlex
from pathlib import Path
from urllib.parse import urlsplit

import typer

from gateway.cli import app
from gateway.emulator import Dialect, Emulator, EmulatorConfig, EmulatorRequest
from gateway.emulator.control import ACTIONS, CHAT_ACTIONS, FAULT_MEMBERS, handle

TEXT = (Path(__file__).parents[2] / "docs" / "commands.md").read_text().split("\n## emulator\n")[1]
HANDLES, SWITCHES = TEXT.split("\n### Handles\n")[1].split("\n## ")[0].split("\n### In Python only\n")


def first_column(text: str, heading: str) -> list[str]:
    table = text.split(f"| {heading} |")[1].split("\n\n", 1)[0]
    return re.findall(r"^\| `([^`]+)`", table, re.MULTILINE)


def names(text: str) -> list[str]:
    return re.findall(r"`([a-z_]+)`", text)


def test_every_handle() -> None:
    chats = [f"{method} chats/{{id}}/{rest}".rstrip("/") for method, rest in CHAT_ACTIONS]
    assert first_column(HANDLES, "handle") == [*(" ".join(key) for key in ACTIONS), *chats]


def test_every_member_of_a_fault() -> None:
    assert first_column(HANDLES, "member") == list(FAULT_MEMBERS)


def test_the_line_to_paste() -> None:
    said, answered = re.findall(r"^    \$ (curl .*)\n    (.*)$", HANDLES, re.MULTILINE)[0]
    *_, method, _, body, url = shlex.split(said)
    target = urlsplit(url).path.encode()
    emulator = Emulator(EmulatorConfig(), lambda: 0.0)
    assert handle(emulator, EmulatorRequest(method, target, body=body.encode())).body == answered.encode()
    chat = emulator.start_chat("123")
    target = f"/api/account/123/chat/{chat}/info?v=1&appKey={EmulatorConfig().app_key}".encode()
    statuses = [emulator.handle(EmulatorRequest("GET", target)).status for _ in range(3)]
    assert statuses == [503, 503, 200]
    assert json.loads(body)["times"] == 2


def test_every_switch_that_is_in_python_only() -> None:
    _, dialect, config = SWITCHES.split("\n- ")
    assert names(dialect) == [field.name for field in dataclasses.fields(Dialect)]
    command = typer.main.get_group(app).commands["emulator"]
    options = {str(option.name) for option in command.params}
    # Named otherwise on the command line; and the two that the sentences speak of themselves.
    told = options | {"app_key", "accounts", "latency_s", "agent", "dialect"}
    fields = [field.name for field in dataclasses.fields(EmulatorConfig)]
    assert names(config.partition(", and")[0]) == [name for name in fields if name not in told]
