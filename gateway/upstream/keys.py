"""Application keys: what they may show, and the files they come from."""

from __future__ import annotations

import html
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

from gateway.core.messages import Answer

_KEY = re.compile(r"[!-~]{1,256}")


@dataclass(frozen=True, slots=True)
class AppKey:
    """An application key. It shows itself to nobody but to who asks for `authorization`."""

    _value: str = field(repr=False)
    _spellings: tuple[bytes, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        # Once, for each answer is looked through for them.
        object.__setattr__(self, "_spellings", _spelled(self._value))

    def __str__(self) -> str:
        return "[appKey]"

    def authorization(self) -> bytes:
        """The value of the Authorization field (the vendor's own scheme)."""
        return b"LivePerson appKey=" + self._value.encode()

    def blanked(self, answer: Answer) -> Answer:
        """The answer without the key, should the upstream have repeated it: errors echo requests."""
        values = b"\n".join([value for _, value in answer.headers])
        for spelling in self._spellings:
            if spelling in answer.body or spelling in values:
                answer = _without(answer, spelling)
        return answer


def _without(answer: Answer, spelling: bytes) -> Answer:
    stars = b"*" * len(spelling)
    head = tuple((name, value.replace(spelling, stars)) for name, value in answer.headers)
    return Answer(answer.status, head, answer.body.replace(spelling, stars))


def _spelled(value: str) -> tuple[bytes, ...]:
    """A key as it is, and as URLs, JSON and XML may spell it."""
    encoded = quote(value, safe="")
    lower = re.sub("%..", lambda escape: escape[0].lower(), encoded)
    escaped = json.dumps(value)[1:-1]
    spelled = {value, encoded, lower, escaped, escaped.replace("/", "\\/"), html.escape(value)}
    return tuple(spelling.encode() for spelling in spelled)


class AppKeys:
    """The keys of one account: the one in use, and where there is a second file, the one to come.

    Raises ValueError when a file holds no key.
    """

    def __init__(self, files: tuple[Path, ...]) -> None:
        self._read = tuple(_read(file) for file in files)
        self._keys = self._read

    def in_order(self) -> tuple[AppKey, ...]:
        """The keys to try, the one that worked last first."""
        return self._keys

    def prefer(self, key: AppKey) -> None:
        """Put the key first that worked where the other was refused."""
        if key in self._keys:
            self._keys = (key, *(other for other in self._keys if other != key))

    def adopt(self, read: AppKeys) -> bool:
        """Take over what was read anew; whether it is something else.

        Where it is not, what worked last stays first.
        """
        if read._read == self._read:
            return False
        self._read = self._keys = read._read
        return True


def _read(file: Path) -> AppKey:
    try:
        with file.open("rb") as opened:
            text = opened.read(1024).decode("ascii", "replace").removesuffix("\n").removesuffix("\r")
    except OSError as error:
        raise ValueError(f"{file}: expected a readable file, got: {error.strerror}") from None
    if not _KEY.fullmatch(text):
        raise ValueError(f"{file}: expected one line with a key, got something else")
    return AppKey(text)
