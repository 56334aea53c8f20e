"""The store of one process: bounded tables, nothing shared.

Entries are bounded by bytes, shared fairly by clients: an entry is its who had it fetched last.
Generations are a fixed table of counters by hash of the chat: nothing is evicted, so no counter is ever
reused; two chats that share a counter only cost each other a fetch.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable

from gateway.core.answers import MAX_VIEWS
from gateway.core.freshness import Contact, Entry
from gateway.core.messages import Chat, Key
from gateway.core.paths import PREFIX
from gateway.core.places import Armed, Place
from gateway.core.shares import Shares
from gateway.core.views import FULL, View

GENERATIONS = 65_536
CONTACTS = 100_000

#: What is kept of an entry besides its key and body, its chat's contact included, and of each view that is
#: another body; measured by `python -m tests.benchmarks.memory`, and some more.
ENTRY_OVERHEAD_BYTES = 3_200
VIEW_OVERHEAD_BYTES = 1_200


class _Kept:
    """What is kept under a key: the newest entry, and the places of its views, which outlive it."""

    __slots__ = ("entry", "places")

    def __init__(self, entry: Entry) -> None:
        self.entry = entry
        self.places: dict[View, Place] = {}

    def place(self, view: View) -> Place:
        place = self.places.get(view)
        if place is None:
            if len(self.places) > MAX_VIEWS:
                # An armed place holds on to a body. One that is not is missed least.
                cut = (of for of in self.places if of != FULL)
                self.places.pop(min(cut, key=lambda of: self.places[of].armed is not None)).armed = None
            place = self.places[view] = Place()
        return place

    def disarm(self) -> None:
        for place in self.places.values():
            place.armed = None


class MemoryStore:
    """Entries, generations and contacts in this process. `now` is the road's monotonic clock.

    `views` is how many views there are besides the whole: an entry may come to hold a body for each.
    """

    def __init__(
        self,
        max_bytes: int,
        now: Callable[[], float],
        views: Callable[[], int] = lambda: 0,
    ) -> None:
        self._now = now
        self._views = views
        self._entries: Shares[Key, _Kept] = Shares(max_bytes, _Kept.disarm)
        self._generations = [0] * GENERATIONS
        self._raised = 0
        #: How often an account was purged, and everything.
        self._purges: Counter[str] = Counter()
        self._purged = 0
        self._contacts: Shares[Chat, Contact] = Shares(CONTACTS)
        #: What stands armed, by the counters of the chats.
        self._armed: defaultdict[int, list[Place]] = defaultdict(list)

    @property
    def weight(self) -> int:
        """How many bytes of its room are taken."""
        return self._entries.weight

    def counts(self) -> dict[str, int]:
        """How many there are of each kind. Slots are those that stand armed."""
        places = {place for places in self._armed.values() for place in places}
        return {
            "entries": len(self._entries),
            "contacts": len(self._contacts),
            "slots": sum(place.armed is not None for place in places),
        }

    def evictions(self) -> dict[str, int]:
        """How many of each kind had to make room for others."""
        return {"entries": self._entries.evictions, "contacts": self._contacts.evictions}

    def get(self, key: Key) -> Entry | None:
        """The entry, as long as it may be served at all."""
        kept = self._entries.get(key)
        return None if kept is None or kept.entry.stale_until <= self._now() else kept.entry

    def put(self, key: Key, entry: Entry, owner: str) -> None:
        """Keep an entry. One that is larger than the whole store is not kept."""
        kept = self._entries.get(key)
        if kept is None:
            kept = _Kept(entry)
        else:
            kept.entry = entry
            kept.disarm()
        now = self._now()
        self._entries.prune(owner, lambda oldest: oldest.entry.stale_until <= now)
        self._entries.put(owner, key, kept, self._weight(key, entry))

    def _weight(self, key: Key, entry: Entry) -> int:
        path, query, _ = key
        body = len(entry.answer.body)
        # The whole shares its body with the entry.
        views = min(self._views(), MAX_VIEWS) * (VIEW_OVERHEAD_BYTES + body)
        return ENTRY_OVERHEAD_BYTES + len(path) + len(query) + body + views

    def generation(self, chat: Chat) -> int:
        return self._raised + self._generations[_index(chat)]

    def purges(self, account: str) -> int:
        return self._purged + self._purges[account]

    def purge(self, account: str | None, chat: Chat | None = None) -> int:
        """Let go what is kept of the chat, else of the account, else of all; how many entries that was.

        What is on its way belongs to a generation that is no more.
        """
        if chat is not None:
            self.raise_generation(chat)
            return self._drop(f"{PREFIX}{chat.account}/chat/{chat.id}")
        if account is None:
            self._purged += 1
        else:
            self._purges[account] += 1
        self._disarm_all()
        return self._drop(PREFIX if account is None else PREFIX + account)

    def _drop(self, below: str) -> int:
        dropped = [key for key in self._entries.held if f"{key[0]}/".startswith(below.rstrip("/") + "/")]
        for key in dropped:
            self._entries.pop(key)
        return len(dropped)

    def raise_all(self) -> None:
        """Any chat may have been written to."""
        self._raised += 1
        self._disarm_all()

    def _disarm_all(self) -> None:
        for places in self._armed.values():
            for place in places:
                place.armed = None
        self._armed.clear()

    def raise_generation(self, chat: Chat) -> None:
        self._generations[_index(chat)] += 1
        self.disarm(chat)

    def contact(self, chat: Chat) -> Contact | None:
        return self._contacts.get(chat)

    def touch(self, chat: Chat, contact: Contact) -> None:
        self._contacts.put("", chat, contact, 1)
        self.disarm(chat)

    # -- the short cut's ----------------------------------------------------------------------------------

    def place(self, key: Key, view: View) -> Place | None:
        """Where the slot of that view may stand ready; None if nothing is kept under the key."""
        kept = self._entries.get(key)
        return None if kept is None else kept.place(view)

    def arm(self, place: Place, armed: Armed) -> None:
        """From now on that slot is what is served, until something is learned of its chat."""
        if place.armed is None:
            self._armed[_index(armed.chat)].append(place)
        place.armed = armed

    def disarm(self, chat: Chat | None) -> None:
        """Something was learned of the chat: whatever it was, only the road can tell what it means."""
        for place in self._armed.pop(_index(chat), ()):
            place.armed = None


def _index(chat: Chat | None) -> int:
    # Python's hash has a secret for each process: nobody can look for a chat that shares another's counter.
    return 0 if chat is None else hash(chat) % GENERATIONS
