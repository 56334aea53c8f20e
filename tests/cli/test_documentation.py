"""docs/commands.md has a section for each command with its options and no others, and each exit code."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from gateway.cli import app
from gateway.cli.common import NO

TEXT = (Path(__file__).parents[2] / "docs" / "commands.md").read_text()


def commands(command: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Each command that does something, with its whole name."""
    inner = getattr(command, "commands", None)
    if inner is None:
        yield name.strip(), command
        return
    for word, sub in inner.items():
        yield from commands(sub, f"{name} {word}")


ALL = dict(commands(get_command(app)))


def section(name: str) -> str:
    """From its heading to the next of that rank."""
    return TEXT.split(f"\n## {name}\n")[1].split("\n## ")[0]


def options(command: Any) -> set[str]:
    """The names that tell: of a switch with two sides, the one that is not the default."""
    said = set()
    for parameter in command.params:
        if parameter.param_type_name == "option" and parameter.name != "help":
            two_sided = parameter.secondary_opts and parameter.default
            said.add((parameter.secondary_opts if two_sided else parameter.opts)[0])
    return said


def test_each_command_has_a_section_and_no_other_has() -> None:
    assert set(re.findall(r"^## (.*)$", TEXT, re.MULTILINE)) == {*ALL, "--version"}


@pytest.mark.parametrize("name", ALL)
def test_each_option_is_documented_and_no_other(name: str) -> None:
    # Curl's own are none of ours.
    said = "\n".join(line for line in section(name).splitlines() if "curl" not in line)
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", said)) == options(ALL[name])


@pytest.mark.parametrize("name", [name for name, command in ALL.items() if len(options(command)) > 3])
def test_the_default_of_an_option_is_documented(name: str) -> None:
    rows = {
        row.split("`")[1]: row.split(" | ") for row in re.findall(r"^\| `--.*$", section(name), re.MULTILINE)
    }
    for parameter in ALL[name].params:
        flag = parameter.opts[0]
        if flag in rows and isinstance(parameter.default, str | int) and not parameter.is_flag:
            assert rows[flag][1].startswith(str(parameter.default)), flag


def test_each_exit_code_is_documented() -> None:
    codes = re.findall(r"^\| (\d+) \|", TEXT, re.MULTILINE)
    assert codes == ["0", "1", "2", str(NO), "130"]
