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

    __slots__ = ("newest", "owner", "weight")

    def __init__(self, owner: str) -> None:
        self.owner = owner
        self.newest: _Held[K, V] | None = None
        self.weight = 0


def _nothing(_: object) -> None:
    """For a value that nobody misses."""


class Shares(Generic[K, V]):
    """Values under keys, bounded by the sum of their weights.

    While there is room anybody may have it. When there is none, those make it who hold more than their share,
    which is the same for all who hold anything: so nobody within his share ever loses something to another.
    Whoever puts a value is its owner from then on. Each value that leaves, but for one that is put again, is
    told to `gone`.
    """

    def __init__(self, max_bytes: int, gone: Callable[[V], None] = _nothing) -> None:
        self._max_bytes = max_bytes
        self._gone = gone
        #: To read only, and only where a call more is too much.
        self.held: dict[K, _Held[K, V]] = {}
        self._shares: dict[str, _Share[K, V]] = {}
        self._weight = 0
        #: How many values had to make room for others.
        self.evictions = 0

    def __len__(self) -> int:
        return len(self.held)

    @property
    def weight(self) -> int:
        """The sum of all weights."""
        return self._weight

    def get(self, key: K) -> V | None:
        held = self.held.get(key)
        return None if held is None else held.value

    def put(self, owner: str, key: K, value: V, weight: int) -> None:
        """Keep a value as the owner's newest. One that is larger than the whole table is not kept."""
        old = self._taken(key)
        if old is not None and old is not value:
            self._gone(old)
        if weight > self._max_bytes:
            self._gone(value)
            return
        share = self._shares.get(owner)
        if share is None:
            share = self._shares[owner] = _Share(owner)
        share.newest = self.held[key] = _Held(share, key, value, weight)
        share.weight += weight
        self._weight += weight
        while self._weight > self._max_bytes:
            self._make_room(share)

    def _make_room(self, share: _Share[K, V]) -> None:
        """Let go the oldest of somebody who holds more than his share: of this one, or whoever has most."""
        if share.weight * len(self._shares) <= self._max_bytes:
            share = max(self._shares.values(), key=lambda other: other.weight)
        if share.newest is not None:
            self.evictions += 1
            self.pop(share.newest.after.key)

    def pop(self, key: K) -> None:
        """Let a value go, if it is there."""
        value = self._taken(key)
        if value is not None:
            self._gone(value)

    def prune(self, owner: str, is_over: Callable[[V], bool]) -> None:
        """Let go an owner's oldest values as far as they are over."""
        share = self._shares.get(owner)
        while share is not None and share.newest is not None and is_over(share.newest.after.value):
            self.pop(share.newest.after.key)

    def _taken(self, key: K) -> V | None:
        held = self.held.pop(key, None)
        if held is None:
            return None
        share = held.share
        share.weight -= held.weight
        self._weight -= held.weight
        held.before.after = held.after
        held.after.before = held.before
        if share.newest is held:
            share.newest = None if held.before is held else held.before
            if share.newest is None:
                del self._shares[share.owner]
        return held.value
