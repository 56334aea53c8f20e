"""One mistake in what an operator wrote, in words: what, where, expected, got."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

#: Where a value stands: the keys and indices from the top of its document.
KeyPath = tuple[str | int, ...]

_SHOWN = 60
_PLAIN_KEY = re.compile(r"[A-Za-z0-9_{}/:*.-]{1,60}")
_SECRET_KEY = re.compile(r"(?!.*_bytes\Z).*(?:key|secret|password|token)", re.IGNORECASE)


@dataclass(frozen=True, slots=True, order=True)
class Mistake:
    """A mistake and its place; sorted by file, then line. Line 0 stands for no line at all.

    `got` is made by `shown`, which repeats no secret. A `sentence` stands in for `expected` and `got`.
    """

    file: str
    line: int
    key: str
    expected: str = ""
    got: str = ""
    sentence: str = field(default="", kw_only=True)
    severity: Literal["error", "warning"] = field(default="error", kw_only=True)

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else self.file
        parts = [place, "warning" if self.severity == "warning" else "", self.key]
        said = self.sentence or f"expected {self.expected}, got {self.got}"
        return ": ".join(part for part in (*parts, said) if part)


def tidy(mistakes: Iterable[Mistake]) -> tuple[Mistake, ...]:
    """Mistakes in the order of their places, and of several errors in one place the first that was found.

    Sentences about what a place leads to are all kept.
    """
    first: dict[object, Mistake] = {}
    for mistake in mistakes:
        place = (mistake.file, mistake.line, mistake.key, mistake.sentence)
        first.setdefault(place if mistake.severity == "error" else mistake, mistake)
    return tuple(sorted(first.values()))


def dotted(path: KeyPath) -> str:
    """A path as one word, safe to print: `accounts.123.upstream`."""
    return ".".join(_step(str(step)) for step in path)


def shown(path: KeyPath, value: object) -> str:
    """A value as a message may repeat it: shortened, on one line, without anything that may be a secret.

    Keys that speak of secrets hide their values: somebody will write the secret where its file belongs.
    """
    match value:
        case None:
            return "nothing"
        case bool():
            return str(value).lower()
        case dict():
            return "a map"
        case list():
            return "a list"
    if any(_SECRET_KEY.search(str(step)) for step in path[-1:]):
        return "something that is not shown"
    return quoted(value) if isinstance(value, str) else str(value)


def quoted(text: str) -> str:
    """A text in quotes, shortened and on one line; user info and query of a URL are left out."""
    public = re.sub(r"\?.*", "?...", re.sub(r"//[^/]*@", "//...@", text, flags=re.DOTALL), flags=re.DOTALL)
    return repr(public if len(public) <= _SHOWN else public[:_SHOWN] + "...")


def _step(text: str) -> str:
    return text if _PLAIN_KEY.fullmatch(text) else quoted(text)
