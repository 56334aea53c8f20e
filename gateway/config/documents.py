"""Strict YAML: plain data, and the line of every key.

YAML is read for its comments and its indentation only. What lets one text mean two things is refused:
doubled keys, anchors, aliases, tags, and words that YAML 1.1 takes for something else than they look like
(`yes`, `0123`, `12:30:00`, dates). Sizes and depths are bounded. The reader never raises.
"""

from __future__ import annotations

import re
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from gateway.config.mistakes import KeyPath, Mistake, dotted, quoted, shown

MAX_BYTES = 1_000_000
MAX_DEPTH = 16

# libyaml's parser where PyYAML was built with it; the events are the same.
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_RESOLVER: Any = yaml.resolver.Resolver()
_STR = "tag:yaml.org,2002:str"

#: The only spellings of plain scalars that are no text. 18 digits fit 64 bits.
_PLAIN = (
    (re.compile(r"|~|null"), lambda _: None),
    (re.compile(r"true|false"), lambda text: text == "true"),
    (re.compile(r"-?(0|[1-9][0-9]{0,17})"), int),
    (re.compile(r"-?(0|[1-9][0-9]{0,17})\.[0-9]{1,18}"), float),
)


@dataclass(frozen=True, slots=True)
class Document:
    """Plain data (maps, lists, text, numbers, true, false, None) and where each part of it was written.

    `data` is None if the text was not well-formed. `origins` gives (file, line) for each path.
    """

    data: object
    origins: Mapping[KeyPath, tuple[str, int]]

    def where(self, path: KeyPath) -> tuple[str, int]:
        """The file and line of the deepest part of a path that was written at all."""
        while path not in self.origins:
            path = path[:-1]
        return self.origins[path]

    def mistake(self, path: KeyPath, expected: str, got: str) -> Mistake:
        file, line = self.where(path)
        return Mistake(file, line, dotted(path), expected, got)


def read_file(path: Path, name: str) -> tuple[Document, list[Mistake]]:
    """Read a file that messages shall call `name`."""
    content = content_of(path, MAX_BYTES)
    if isinstance(content, str):
        return _nothing(name), [Mistake(name, 0, "", "a readable file", content)]
    return read(content, name)


def content_of(path: Path, max_bytes: int) -> bytes | str:
    """What a regular file holds, or why it can't be read, in words for "got"."""
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):
            return "a folder" if stat.S_ISDIR(mode) else "something that is no file"
        with path.open("rb") as file:
            content = file.read(max_bytes + 1)
    except (OSError, ValueError) as error:
        return reason_of(error)
    return content if len(content) <= max_bytes else f"more than {max_bytes} bytes"


def reason_of(error: OSError | ValueError) -> str:
    """Why there is no such file or folder, without its path."""
    return (getattr(error, "strerror", None) or "an impossible name").lower()


def read(content: bytes, name: str) -> tuple[Document, list[Mistake]]:
    """Read a document; what could be read is handed out next to the mistakes."""
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        return _nothing(name), [Mistake(name, line, "", "UTF-8", f"the byte {content[error.start]:#04x}")]
    reader = _Reader(name)
    try:
        data = reader.document(yaml.parse(text, Loader=_LOADER))
    except _TooDeepError:
        return _nothing(name), reader.mistakes
    except yaml.YAMLError as error:
        return _nothing(name), [*reader.mistakes, _malformed(name, text, error)]
    return Document(data, reader.origins), reader.mistakes


def plain(text: str) -> object:
    """The value of an unquoted scalar.

    Raises ValueError if YAML 1.1 takes it for something that it does not look like here.
    """
    for spelling, value in _PLAIN:
        if spelling.fullmatch(text):
            return value(text)
    tag: str = _RESOLVER.resolve(yaml.ScalarNode, text, (True, False))
    if tag != _STR:
        raise ValueError
    return text


def _nothing(name: str) -> Document:
    return Document(None, {(): (name, 1)})


def _malformed(name: str, text: str, error: yaml.YAMLError) -> Mistake:
    mark = getattr(error, "problem_mark", None)
    position = getattr(error, "position", 0)
    line = mark.line + 1 if mark else text.count("\n", 0, position or 0) + 1
    problem = getattr(error, "problem", None) or getattr(error, "reason", None) or "an error"
    return Mistake(name, line, "", "well-formed YAML", f"this: {problem}")


class _TooDeepError(Exception):
    pass


@dataclass(slots=True)
class _Reader:
    """Walks the parser's events once, keeping the first of doubled keys and going on after mistakes."""

    name: str
    origins: dict[KeyPath, tuple[str, int]] = field(default_factory=dict)
    mistakes: list[Mistake] = field(default_factory=list)

    def document(self, events: Iterator[Any]) -> object:
        self.origins[()] = (self.name, 1)
        data: object = None
        seen = False
        for event in events:
            if isinstance(event, yaml.DocumentStartEvent):
                if seen:
                    self._refuse((), event, "one document", "a second one")
                    break
                seen = True
                data = self._node(next(events), events, ())
        return data

    def _node(self, event: Any, events: Iterator[Any], path: KeyPath) -> object:
        if len(path) > MAX_DEPTH:
            self._refuse(path[:1], event, f"at most {MAX_DEPTH} levels", "more")
            raise _TooDeepError
        if isinstance(event, yaml.AliasEvent):
            self._refuse(path, event, "a value written out", f"the alias {quoted('*' + str(event.anchor))}")
            return None
        if event.anchor is not None:
            self._refuse(path, event, "no anchor", quoted("&" + str(event.anchor)))
        if event.tag is not None:
            self._refuse(path, event, "no tag", quoted(str(event.tag)))
        if isinstance(event, yaml.ScalarEvent):
            return self._scalar(event, path)
        if isinstance(event, yaml.SequenceStartEvent):
            return self._list(events, path)
        return self._map(events, path)

    def _list(self, events: Iterator[Any], path: KeyPath) -> list[object]:
        items: list[object] = []
        while not isinstance(event := next(events), yaml.SequenceEndEvent):
            here = (*path, len(items))
            self.origins[here] = self._place(event)
            items.append(self._node(event, events, here))
        return items

    def _map(self, events: Iterator[Any], path: KeyPath) -> dict[str, object]:
        entries: dict[str, object] = {}
        while not isinstance(event := next(events), yaml.MappingEndEvent):
            key = self._key(event, events, path)
            here = (*path, key)
            if key in entries:
                first = self.origins[here][1]
                self._refuse(here, event, "each key once", f"it again (first on line {first})")
                # Read for nothing but its end.
                _Reader(self.name)._node(next(events), events, here)  # noqa: SLF001 - its own class
                continue
            self.origins[here] = self._place(event)
            entries[key] = self._node(next(events), events, here)
        return entries

    def _key(self, event: Any, events: Iterator[Any], path: KeyPath) -> str:
        """The text of a key. One that is no text is refused, and read as if it had been quoted."""
        if not isinstance(event, yaml.ScalarEvent):
            self._refuse(path, event, "a text as key", "something else")
            self._node(event, events, path)
            return "?"
        value = event.value
        if event.anchor is not None or event.tag is not None:
            self._refuse((*path, value), event, "a plain key", "one with an anchor or a tag")
        if event.implicit[0] and not _is_text(value):
            short = value[:60]
            self._refuse(
                (*path, value), event, f'a text as key, in quotes ("{short}":)', f"{short} without quotes"
            )
        return str(value)

    def _scalar(self, event: Any, path: KeyPath) -> object:
        if not event.implicit[0]:
            return event.value
        try:
            return plain(event.value)
        except ValueError:
            expected = "true, false, a decimal number, or a text in quotes"
            self._refuse(path, event, expected, f"{shown(path, event.value)} without quotes")
            return event.value

    def _place(self, event: Any) -> tuple[str, int]:
        return self.name, event.start_mark.line + 1

    def _refuse(self, path: KeyPath, event: Any, expected: str, got: str) -> None:
        self.mistakes.append(Mistake(*self._place(event), dotted(path), expected, got))


def _is_text(text: str) -> bool:
    try:
        return isinstance(plain(text), str)
    except ValueError:
        return False
