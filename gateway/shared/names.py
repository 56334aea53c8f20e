"""What keys, channels and fields are called in Redis.

All begin with the operator's prefix and the format's number: what is written in another format is never read.
"""

from __future__ import annotations

import hashlib
from typing import NamedTuple

from gateway.core.messages import Chat, Key
from gateway.core.paths import Target

#: To be raised with every change of what is kept, by any script or by `records`.
FORMAT = 1
#: Revocations have a format of their own: it would not do to forget them with the rest.
REVOCATIONS_FORMAT = 1


class Place(NamedTuple):
    """Where replicas keep the entry of a target, and who fetches it: a field of its chat."""

    chat: str
    field: str


class Names:
    """The names under one prefix."""

    def __init__(self, prefix: str) -> None:
        self._before = f"{prefix}:{FORMAT}:"
        self.replicas = self._before + "replicas"
        self.writes = self._before + "writes"
        self.revocations = f"{prefix}:revocations:{REVOCATIONS_FORMAT}"
        self.revocations_version = self.revocations + ":version"
        self.revocations_order = self.revocations + ":order"
        self.revocations_over = self.revocations + ":over"
        #: The channel that every replica hears.
        self.all = self._before + "all"

    def chat(self, chat: str) -> str:
        return f"{self._before}chat:{chat}"

    def limits(self, client: str) -> str:
        return f"{self._before}limits:{client}"

    def day(self, number: int) -> str:
        return f"{self._before}day:{number}"

    def replicas_of_day(self, number: int) -> str:
        return f"{self.day(number)}:replicas"

    def inbox(self, replica: str) -> str:
        """The channel that one replica hears."""
        return f"{self._before}to:{replica}"


def place_of(target: Target, common: bytes) -> Place:
    """The place of a target. `common` is what replicas have in common that believe each other's entries."""
    path, _, _ = target.key
    chat = _digest(path.encode(), 16) if target.chat is None else chat_of(target.chat)
    return Place(chat, field_of(target.key, common))


def chat_of(chat: Chat) -> str:
    return _digest(f"{chat.account}/{chat.id}".encode(), 16)


def field_of(key: Key, common: bytes) -> str:
    path, query, representation = key
    # Neither has a line break, however it was spelled.
    return _digest(common + f"\n{path}\n{query}\n{representation.value}".encode(), 8)


def _digest(content: bytes, size: int) -> str:
    return hashlib.blake2b(content, digest_size=size).hexdigest()
