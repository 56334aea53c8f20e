"""Application keys: what they may show, and the files they come from."""

from __future__ import annotations

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

    def __str__(self) -> str:
        return "[appKey]"

    def authorization(self) -> bytes:
        """The value of the Authorization field (the vendor's own scheme)."""
        return b"LivePerson appKey=" + self._value.encode()

    def blanked(self, answer: Answer) -> Answer:
        """The answer without the key, should the upstream have repeated it: errors echo requests."""
        for spelling in {self._value.encode(), quote(self._value, safe="").encode()}:
            stars = b"*" * len(spelling)
            if spelling in answer.body or any(spelling in value for _, value in answer.headers):
                head = tuple((name, value.replace(spelling, stars)) for name, value in answer.headers)
                answer = Answer(answer.status, head, answer.body.replace(spelling, stars))
        return answer


class AppKeys:
    """The keys of one account: the one in use, and where there is a second file, the one to come.

    Raises ValueError when a file holds no key at the start; later the last good key stays.
    """

    def __init__(self, files: tuple[Path, ...]) -> None:
        self._files = files
        self._keys = tuple(_read(file) for file in files)
        self._fault: str | None = None

    def in_order(self) -> tuple[AppKey, ...]:
        """The keys to try, the one that worked last first."""
        return self._keys

    def prefer(self, key: AppKey) -> None:
        """Put the key first that worked where the other was refused."""
        if key in self._keys:
            self._keys = (key, *(other for other in self._keys if other != key))

    def refresh(self) -> tuple[AppKey, ...] | ValueError | None:
        """Read the files again: the keys where one changed, or what is wrong (told once), or None. Blocks."""
        try:
            keys = tuple(_read(file) for file in self._files)
        except ValueError as error:
            is_news, self._fault = str(error) != self._fault, str(error)
            return error if is_news else None
        self._fault = None
        if set(keys) == set(self._keys):
            return None
        self._keys = keys
        return keys


def _read(file: Path) -> AppKey:
    try:
        with file.open("rb") as opened:
            text = opened.read(1024).decode("ascii", "replace").removesuffix("\n").removesuffix("\r")
    except OSError as error:
        raise ValueError(f"{file}: expected a readable file, got: {error.strerror}") from None
    if not _KEY.fullmatch(text):
        raise ValueError(f"{file}: expected one line with a key, got something else")
    return AppKey(text)
