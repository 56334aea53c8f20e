"""What happens in Redis: each script is one atomic step, and all have `common.lua` before them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Protocol, TypeAlias

#: What is said to a script, and what it says.
Word: TypeAlias = bytes | str | int
Reply: TypeAlias = bytes | int | list["Reply"]


@dataclass(frozen=True, slots=True)
class Script:
    """The text of a script, and its SHA-1 by which Redis knows it."""

    name: str
    text: str
    sha: str


class Runner(Protocol):
    """Who has Redis run scripts. None: nobody has answered, and whether it was run is not known."""

    async def run(self, script: Script, keys: Sequence[str], args: Sequence[Word]) -> Reply | None: ...


def script(name: str) -> Script:
    text = _text("common") + _text(name)
    # As Redis does it: EVALSHA takes nothing else.
    return Script(name, text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())


def _text(name: str) -> str:
    return (files("gateway.shared") / "lua" / f"{name}.lua").read_text(encoding="utf-8")
