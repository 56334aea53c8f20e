"""What the road may expect of a store, and what this one bounds."""

from __future__ import annotations

import abc
import itertools
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.answers import MAX_VIEWS
from gateway.core.freshness import Contact, Entry
from gateway.core.messages import Answer, Chat, Key, Representation
from gateway.core.places import Armed
from gateway.core.views import FULL, Slot, View
from gateway.ports import Store
from gateway.stores.memory import (
    CONTACTS,
    ENTRY_OVERHEAD_BYTES,
    GENERATIONS,
    VIEW_OVERHEAD_BYTES,
    MemoryStore,
)

ROOM = 1_000_000
CHAT, OTHER = Chat("123", "H1-1"), Chat("123", "H1-2")


class HandClock:
    """Monotonic seconds that pass when told."""

    def __init__(self) -> None:
        self.at = 1000.0

    def __call__(self) -> float:
        return self.at


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


def key(name: str = "/info", representation: Representation = Representation.JSON) -> Key:
    return ("123", name, representation)


def entry(body_bytes: int = 0, stale_until: float = 1010.0) -> Entry:
    answer = Answer(200, (), b"x" * body_bytes)
    return Entry(
        answer, (0, 0), sent_at=1000.0, refresh_at=1001.0, fresh_until=1002.0, stale_until=stale_until
    )


def weight(name: str, body_bytes: int = 0, views: int = 0) -> int:
    """What such an entry weighs under such a key."""
    named = len("123" + name)
    return ENTRY_OVERHEAD_BYTES + named + body_bytes + views * (VIEW_OVERHEAD_BYTES + body_bytes)


class StoreContract(abc.ABC):
    """For every implementation of the port `Store`."""

    @abc.abstractmethod
    def make(self, max_bytes: int, now: HandClock) -> Store: ...

    @pytest.fixture
    def store(self, clock: HandClock) -> Store:
        return self.make(ROOM, clock)

    def test_an_entry_is_found_under_its_key_alone(self, store: Store) -> None:
        kept = entry()
        store.put(key(), kept, "bff")
        assert store.get(key()) is kept
        for unlike in (key("/events"), key(representation=Representation.XML), ("456", *key()[1:])):
            assert store.get(unlike) is None

    def test_the_later_entry_takes_the_place(self, store: Store) -> None:
        store.put(key(), entry(), "bff")
        store.put(key(), later := entry(), "bff")
        assert store.get(key()) is later

    def test_an_entry_leaves_when_it_may_not_even_be_stale(self, store: Store, clock: HandClock) -> None:
        store.put(key(), entry(stale_until=1010.0), "bff")
        clock.at = 1009.999
        assert store.get(key()) is not None
        clock.at = 1010.0
        assert store.get(key()) is None

    @given(
        raised=st.lists(st.sampled_from(["a", "b", "c"])),
        touched=st.lists(st.sampled_from(["a", "b", "c"])),
    )
    def test_a_generation_rises_with_each_write_and_never_falls(
        self, raised: list[str], touched: list[str]
    ) -> None:
        store = self.make(ROOM, HandClock())
        for chat in raised:
            before = {name: store.generation(Chat("123", name)) for name in "abc"}
            store.raise_generation(Chat("123", chat))
            for name in touched:
                store.touch(Chat("123", name), Contact(1000.0))
            assert store.generation(Chat("123", chat)) > before[chat]
            assert all(store.generation(Chat("123", name)) >= least for name, least in before.items())

    def test_no_crowd_makes_a_generation_be_forgotten(self, store: Store) -> None:
        for _ in range(3):
            store.raise_generation(CHAT)
        for number in range(2 * GENERATIONS):
            store.raise_generation(Chat("123", str(number)))
        assert store.generation(CHAT) >= 3

    @pytest.mark.parametrize(
        ("account", "chat", "left"),
        [
            ("123", CHAT, {"a1", "b1", "b"}),
            ("123", None, {"b1", "b"}),
            ("12", None, {"a", "a1", "b1", "b"}),
            (None, None, set()),
        ],
    )
    def test_what_is_purged_is_gone_and_of_no_generation_any_more(
        self, store: Store, account: str | None, chat: Chat | None, left: set[str]
    ) -> None:
        beside = Chat("123", CHAT.id + "1")
        paths = {
            "a": f"/api/account/123/chat/{CHAT.id}/info",
            "a1": f"/api/account/123/chat/{beside.id}/info",
            "b1": f"/api/account/1234/chat/{CHAT.id}/info",
            "b": "/api/account/456/chat/availability",
        }
        keys = {name: (path, "v=1", Representation.JSON) for name, path in paths.items()}
        for held in keys.values():
            store.put(held, entry(), "bff")
        purges, writes = store.purges("123"), store.generation(CHAT)
        assert store.purge(account, chat) == len(keys) - len(left)
        assert {name for name, held in keys.items() if store.get(held) is not None} == left
        raised = (store.purges("123") > purges, store.generation(CHAT) > writes)
        assert raised == (account != "12" and chat is None, chat is not None)

    def test_a_chat_is_of_its_account(self, store: Store) -> None:
        elsewhere = Chat("456", CHAT.id)
        store.raise_generation(CHAT)
        store.touch(CHAT, Contact(1000.0))
        assert store.generation(elsewhere) == 0
        assert store.contact(elsewhere) is None

    def test_the_last_contact_is_known(self, store: Store) -> None:
        assert store.contact(CHAT) is None
        store.touch(CHAT, Contact(1000.0))
        store.touch(CHAT, last := Contact(1001.0, 20.0, "chatting"))
        assert store.contact(CHAT) == last
        assert store.contact(OTHER) is None


class TestMemoryStore(StoreContract):
    def make(self, max_bytes: int, now: HandClock) -> MemoryStore:
        return MemoryStore(max_bytes, now)

    @pytest.mark.parametrize(("body_bytes", "is_kept"), [(0, True), (100, True), (101, False)])
    def test_what_is_larger_than_the_whole_store_is_not_kept(
        self, clock: HandClock, body_bytes: int, is_kept: bool
    ) -> None:
        store = self.make(weight("/info", 100), clock)
        store.put(key(), entry(body_bytes), "bff")
        assert (store.get(key()) is not None) == is_kept

    @given(bodies=st.lists(st.integers(0, 12_000), min_size=1, max_size=30))
    def test_no_more_is_kept_than_there_is_room(self, bodies: list[int]) -> None:
        room = 10_000
        store = self.make(room, HandClock())
        for number, body_bytes in enumerate(bodies):
            store.put(key(str(number)), entry(body_bytes), "bff")
            kept = [found for index in range(number + 1) if (found := store.get(key(str(index))))]
            assert sum(ENTRY_OVERHEAD_BYTES + len(one.answer.body) for one in kept) <= room
            assert (store.get(key(str(number))) is not None) == (weight(str(number), body_bytes) <= room)
            assert store.weight <= room

    def test_what_was_heard_longest_ago_makes_room(self, clock: HandClock) -> None:
        store = self.make(3 * weight("a"), clock)
        for name in "abc":
            store.put(key(name), entry(), "bff")
        store.put(key("a"), entry(), "bff")
        store.put(key("d"), entry(), "bff")
        assert [name for name in "abcd" if store.get(key(name))] == ["a", "c", "d"]

    def test_chats_that_share_a_counter_only_share_it(self, store: Store) -> None:
        store.raise_generation(CHAT)
        ids = (Chat("123", str(number)) for number in itertools.count())
        sharer = next(chat for chat in ids if store.generation(chat))
        store.raise_generation(sharer)
        assert store.generation(CHAT) == store.generation(sharer) == 2
        assert store.generation(OTHER) == 0
        store.touch(sharer, Contact(1000.0))
        assert store.contact(CHAT) is None

    def test_contacts_are_bounded_and_the_oldest_goes(self, store: Store) -> None:
        contact = Contact(1000.0)
        chats = [Chat("123", str(number)) for number in range(CONTACTS + 1)]
        for chat in chats:
            store.touch(chat, contact)
        assert [chat for chat in chats if store.contact(chat) is None] == [chats[0]]


def test_a_place_that_makes_room_for_another_view_is_disarmed(clock: HandClock) -> None:
    store = MemoryStore(ROOM, clock)
    store.put(key(), entry(), "bff")
    places = []
    for number in range(MAX_VIEWS + 2):
        place = store.place(key(), View(show=frozenset({str(number)})))
        assert place is not None
        store.arm(place, Armed(Slot(200, b"", b"", None), 1001.0, 1000.0, 1002.0, CHAT))
        places.append(place)
    assert [place.armed is None for place in places] == [True] + [False] * (MAX_VIEWS + 1)


@pytest.mark.parametrize(("views", "kept"), [(0, 0), (1, 1), (4, 4), (300, 4)])
def test_an_entry_weighs_as_much_as_its_views_may_come_to(clock: HandClock, views: int, kept: int) -> None:
    size = 10_000
    room = 3 * weight("/0", size, kept)
    store = MemoryStore(room, clock, lambda: views)
    for number in range(10):
        store.put(key(f"/{number}"), entry(size), "bff")
    assert [number for number in range(10) if store.get(key(f"/{number}"))] == [7, 8, 9]


@pytest.mark.parametrize(
    "learn",
    [
        lambda store: store.put(key(), entry(), "bff"),
        lambda store: store.raise_generation(CHAT),
        lambda store: store.touch(CHAT, Contact(1000.0)),
        lambda store: store.disarm(CHAT),
        lambda store: [store.put(key(str(number)), entry(), "bff") for number in range(10)],
    ],
    ids=["another answer", "a write", "a contact", "a landing", "no room"],
)
def test_whatever_is_learned_of_a_chat_disarms_its_places(
    clock: HandClock, learn: Callable[[MemoryStore], object]
) -> None:
    store = MemoryStore(5 * ENTRY_OVERHEAD_BYTES, clock)
    store.put(key(), entry(), "bff")
    place = store.place(key(), FULL)
    assert place is not None
    slot = Slot(200, b"", b"", None)
    for _ in range(2):
        store.arm(place, Armed(slot, 1001.0, 1000.0, 1002.0, CHAT))
    learn(store)
    assert place.armed is None


def test_many_views_cost_each_other_no_place_that_is_armed_and_never_the_wholes(clock: HandClock) -> None:
    store = MemoryStore(ROOM, clock)
    store.put(key(), entry(), "bff")
    views = [FULL, *(View(hide=frozenset({str(number)})) for number in range(MAX_VIEWS))]
    armed = Armed(Slot(200, b"", b"", None), 1001.0, 1000.0, 1002.0, CHAT)
    places = [store.place(key(), view) for view in views]
    assert None not in places
    for place in (places[0], *places[2:]):
        assert place is not None
        store.arm(place, armed)
    store.place(key(), View(show=frozenset({"state"})))
    assert store.place(key(), FULL) is places[0]
    kept = [place.armed is armed for place in places if place is not None]
    assert kept == [True, False, *[True] * (MAX_VIEWS - 1)]
