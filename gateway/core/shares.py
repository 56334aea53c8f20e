"""A bounded table for many: each owner has its share of the bytes, and pushes out only what is its own."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class _Held(Generic[K, V]):
    """A value, and its place in its owner's ring, oldest to newest."""

    __slots__ = ("after", "before", "key", "share", "value", "weight")

    def __init__(self, share: _Share[K, V], key: K, value: V, weight: int) -> None:
        self.share = share
        self.key = key
        self.value = value
        self.weight = weight
        newest = share.newest
        self.before: _Held[K, V] = newest or self
        self.after: _Held[K, V] = newest.after if newest else self
        self.before.after = self.after.before = self


class _Share(Generic[K, V]):
    """What one owner holds: a ring, so that taking one out never costs more for many."""

    __slots__ = ("newest", "weight")

    def __init__(self) -> None:
        self.newest: _Held[K, V] | None = None
        self.weight = 0

    @property
    def oldest(self) -> _Held[K, V] | None:
        return None if self.newest is None else self.newest.after


def _nothing(_: object) -> None:
    """For a value that nobody misses."""


class Shares(Generic[K, V]):
    """Values under keys. An owner holds at most `max_bytes` / `owners()`, as their weights say.

    Whoever puts a value is its owner from then on. Each value that leaves, but for one that is put again, is
    told to `gone`.
    """

    def __init__(
        self, max_bytes: int, owners: Callable[[], int] = lambda: 1, gone: Callable[[V], None] = _nothing
    ) -> None:
        self._max_bytes = max_bytes
        self._owners = owners
        self._gone = gone
        self._held: dict[K, _Held[K, V]] = {}
        self._shares: dict[str, _Share[K, V]] = {}

    def __len__(self) -> int:
        return len(self._held)

    @property
    def weight(self) -> int:
        """The sum of all weights."""
        return sum(share.weight for share in self._shares.values())

    def get(self, key: K) -> V | None:
        held = self._held.get(key)
        return None if held is None else held.value

    def put(self, owner: str, key: K, value: V, weight: int) -> None:
        """Keep a value as the owner's newest, at the cost of its oldest.

        One that is larger than the whole share is not kept.
        """
        old = self._taken(key)
        if old is not None and old is not value:
            self._gone(old)
        most = self._max_bytes // max(1, self._owners())
        if weight > most:
            return
        share = self._shares.get(owner)
        if share is None:
            share = self._shares[owner] = _Share()
        share.newest = self._held[key] = _Held(share, key, value, weight)
        share.weight += weight
        while share.weight > most and share.oldest is not None:
            self.pop(share.oldest.key)

    def pop(self, key: K) -> None:
        """Let a value go, if it is there."""
        value = self._taken(key)
        if value is not None:
            self._gone(value)

    def prune(self, owner: str, is_over: Callable[[V], bool]) -> None:
        """Let go an owner's oldest values as far as they are over."""
        share = self._shares.get(owner)
        while share is not None and (oldest := share.oldest) is not None and is_over(oldest.value):
            self.pop(oldest.key)

    def _taken(self, key: K) -> V | None:
        held = self._held.pop(key, None)
        if held is None:
            return None
        share = held.share
        share.weight -= held.weight
        held.before.after = held.after
        held.after.before = held.before
        if share.newest is held:
            share.newest = None if held.before is held else held.before
        return held.value
