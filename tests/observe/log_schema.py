"""What docs/logs.md says of log lines, as a check that any test can put its lines to."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

PAGE = (Path(__file__).parents[2] / "docs" / "logs.md").read_text()
#: Sections of events that happen at every turn; the rest have a row each in the last section.
SECTIONS = ("request", "upstream failed", "stream closed", "crashed", "server")


def _is_texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(part, str) for part in value)


def _is_decisions(value: object) -> bool:
    return isinstance(value, list) and all(
        set(part) == {"client", "outcome", "rule"} and _is_texts(list(part.values())) for part in value
    )


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


#: The types that the page speaks of.
TYPES: Mapping[str, Callable[[Any], bool]] = {
    "text": lambda value: isinstance(value, str),
    "text or null": lambda value: value is None or isinstance(value, str),
    "whole number": _is_whole,
    "whole number or null": lambda value: value is None or _is_whole(value),
    "number": lambda value: _is_whole(value) or isinstance(value, float),
    "true or false": lambda value: isinstance(value, bool),
    "true": lambda value: value is True,
    "list of texts": _is_texts,
    "list of decisions": _is_decisions,
}

#: name → (type, is it always present)
Fields = dict[str, tuple[str, bool]]


def _section(name: str) -> str:
    return PAGE.split(f"\n## {name}\n")[1].split("\n## ")[0]


def _fields(section: str) -> Fields:
    rows = re.findall(r"^\| `(\w+)` \| ([^|]+) \| ([^|]+) \|", _section(section), re.MULTILINE)
    return {name: (kind, present == "always") for name, kind, present in rows}


@cache
def _own() -> dict[str, Fields]:
    """The events of the gateway itself."""
    rows = re.findall(r"^\| `([\w ]+)` \| \w+ \| ([^|]*)\|", _section("The gateway itself"), re.MULTILINE)
    return {
        event: {
            name: (kind.strip(), not condition)
            for name, kind, condition in re.findall(r"`(\w+)` ([^,|(]+)(\(with [^)]+\))?", fields)
        }
        for event, fields in rows
    }


def events() -> list[str]:
    return [*SECTIONS, *_own()]


@cache
def documented(event: str) -> Fields:
    """The fields of an event's lines."""
    return _fields("Every line") | (_fields(event) if event in SECTIONS else _own()[event])


def mistakes_of(line: Mapping[str, Any]) -> list[str]:
    """Where a line is not what the page says."""
    if line.get("event") not in events():
        return [f"event {line.get('event')} is not documented"]
    fields = documented(line["event"])
    unknown = [f"{name} is not documented" for name in line.keys() - fields.keys()]
    missing = [f"{name} is missing" for name, (_, always) in fields.items() if always and name not in line]
    wrong = [
        f"{name} is no {fields[name][0]}"
        for name in line.keys() & fields.keys()
        if not TYPES[fields[name][0]](line[name])
    ]
    return unknown + missing + wrong
