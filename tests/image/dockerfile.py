"""The Dockerfile, taken apart."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

CHECKOUT = Path(__file__).parents[2]
DOCKERFILE = CHECKOUT / "Dockerfile"


@dataclass(frozen=True, slots=True)
class Stage:
    """What is between two FROM: each instruction's word, in capitals, and the rest of it on one line."""

    base: str
    name: str | None
    instructions: tuple[tuple[str, str], ...]

    def said(self, word: str) -> list[str]:
        """What the instructions of that word say, in their order."""
        return [rest for said, rest in self.instructions if said == word]

    def environ(self) -> Mapping[str, str]:
        """The variables that it sets."""
        return dict(re.findall(r"(\w+)=(\S+)", " ".join(self.said("ENV"))))

    def copied(self) -> list[str]:
        """What comes from the builder's folder."""
        return [
            source
            for rest in self.said("COPY")
            if not rest.startswith("--from=")
            for source in rest.split()[:-1]
        ]


def read(text: str) -> tuple[Mapping[str, str], tuple[Stage, ...]]:
    """The arguments that stand before all stages, with their defaults, and the stages."""
    arguments: dict[str, str] = {}
    stages: list[Stage] = []
    for word, rest in _instructions(text):
        if word == "FROM":
            base, _, name = rest.partition(" AS ")
            stages.append(Stage(base, name or None, ()))
        elif stages:
            last = stages[-1]
            stages[-1] = Stage(last.base, last.name, (*last.instructions, (word, rest)))
        else:
            name, _, default = rest.partition("=")
            arguments[name] = default
    return arguments, tuple(stages)


def _instructions(text: str) -> Iterator[tuple[str, str]]:
    bare = re.sub(r"^\s*#.*\n", "", text, flags=re.MULTILINE)
    for line in re.sub(r"\\\n\s*", "", bare).splitlines():
        if line:
            word, _, rest = line.partition(" ")
            yield word.upper(), rest


def is_exec(said: str) -> bool:
    """Whether that needs no shell: a list of words, as JSON."""
    try:
        words = json.loads(said)
    except ValueError:
        return False
    return isinstance(words, list) and all(isinstance(word, str) for word in words)
