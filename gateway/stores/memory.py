"""The store of one process: bounded tables, nothing shared.

Entries are bounded by bytes and leave when they may not even be served stale any more. Generations are a
fixed table of counters by hash of the chat: nothing is evicted, so no counter is ever reused; two chats
that share a counter only cost each other a fetch.
"""

from __future__ import annotations

from collections.abc import Callable

from cachetools import LRUCache, TLRUCache

from gateway.core.answers import MAX_VIEWS
from gateway.core.freshness import Contact, Entry
from gateway.core.messages import Chat, Key

GENERATIONS = 65_536
CONTACTS = 100_000

#: What an entry weighs besides its body: key, dataclasses, headers and table slots, measured generously.
ENTRY_OVERHEAD_BYTES = 2_000


def _expiry(_key: Key, entry: Entry, _now: float) -> float:
    return entry.stale_until


class MemoryStore:
    """Entries, generations and contacts in this process. `now` is the road's monotonic clock.

    `views` is how many views there are besides the whole: an entry may come to hold a body for each.
    """

    def __init__(
        self, max_bytes: int, now: Callable[[], float], views: Callable[[], int] = lambda: 0
    ) -> None:
        self._views = views
        self._entries: TLRUCache[Key, Entry] = TLRUCache(
            max_bytes, ttu=_expiry, timer=now, getsizeof=self._weight
        )
        self._generations = [0] * GENERATIONS
        self._contacts: LRUCache[Chat, Contact] = LRUCache(CONTACTS)

    def get(self, key: Key) -> Entry | None:
        """The entry, as long as it may be served at all."""
        entry: Entry | None = self._entries.get(key)
        return entry

    def put(self, key: Key, entry: Entry) -> None:
        """Keep an entry. One that is larger than the whole store is not kept."""
        if self._weight(entry) <= self._entries.maxsize:
            self._entries[key] = entry

    def _weight(self, entry: Entry) -> int:
        # The whole shares its body with the entry.
        return ENTRY_OVERHEAD_BYTES + len(entry.answer.body) * (1 + min(self._views(), MAX_VIEWS))

    def generation(self, chat: Chat) -> int:
        return self._generations[_index(chat)]

    def raise_generation(self, chat: Chat) -> None:
        self._generations[_index(chat)] += 1

    def contact(self, chat: Chat) -> Contact | None:
        contact: Contact | None = self._contacts.get(chat)
        return contact

    def touch(self, chat: Chat, contact: Contact) -> None:
        self._contacts[chat] = contact


def _index(chat: Chat) -> int:
    # Python's hash has a secret for each process: nobody can look for a chat that shares another's counter.
    return hash((chat.account, chat.id)) % GENERATIONS
