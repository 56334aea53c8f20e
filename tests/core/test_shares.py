"""A bounded table for many: nobody pushes out what is another's, and nothing is lost or leaves unsaid."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from gateway.core.shares import Shares

OWNERS = ("bff", "partner", "internal")
MAX_BYTES = 60
KEYS = st.integers(0, 12)


class Model(RuleBasedStateMachine):
    """Beside a table as slow and plain as can be."""

    def __init__(self) -> None:
        super().__init__()
        self.left: list[int] = []
        self.expected_left: list[int] = []
        self.shares = Shares[int, int](MAX_BYTES, self.left.append)
        self.model: list[tuple[str, int, int, int]] = []  # owner, key, value, weight; oldest first
        self.coming: list[str] = []  # the owners who hold anything, in the order in which they began to
        self.values = iter(range(10**9))

    @rule(owner=st.sampled_from(OWNERS), key=KEYS, weight=st.integers(1, 25) | st.just(61))
    def put(self, owner: str, key: int, weight: int) -> None:
        value = next(self.values)
        self.shares.put(owner, key, value, weight)
        self.leave([row for row in self.model if row[1] == key])
        self.append(owner, key, value, weight)

    @rule(key=KEYS, owner=st.sampled_from(OWNERS))
    def put_again(self, key: int, owner: str) -> None:
        value = self.shares.get(key)
        if value is not None:
            self.shares.put(owner, key, value, 1)
            self.model = [row for row in self.model if row[1] != key]
            self.come_and_go()
            self.append(owner, key, value, 1)

    @rule(key=KEYS)
    def pop(self, key: int) -> None:
        self.shares.pop(key)
        self.leave([row for row in self.model if row[1] == key])

    @rule(owner=st.sampled_from(OWNERS), before=st.integers(0, 60))
    def prune(self, owner: str, before: int) -> None:
        self.shares.prune(owner, lambda value: value < before)
        for row in [row for row in self.model if row[0] == owner]:
            if row[2] >= before:
                break
            self.leave([row])

    def append(self, owner: str, key: int, value: int, weight: int) -> None:
        if weight > MAX_BYTES:
            self.expected_left.append(value)
            return
        self.model.append((owner, key, value, weight))
        self.come_and_go()
        while sum(row[3] for row in self.model) > MAX_BYTES:
            share = MAX_BYTES / len(self.coming)
            who = owner if self.weight(owner) > share else max(self.coming, key=self.weight)
            assert self.weight(who) > share, "nobody within his share loses anything"
            self.leave(self.of(who)[:1])

    def weight(self, owner: str) -> int:
        return sum(row[3] for row in self.of(owner))

    def come_and_go(self) -> None:
        self.coming = [owner for owner in self.coming if self.of(owner)]
        self.coming += [owner for owner in OWNERS if self.of(owner) and owner not in self.coming]

    def of(self, owner: str) -> list[tuple[str, int, int, int]]:
        return [row for row in self.model if row[0] == owner]

    def leave(self, rows: list[tuple[str, int, int, int]]) -> None:
        for row in rows:
            self.model.remove(row)
            self.expected_left.append(row[2])
        self.come_and_go()

    @invariant()
    def is_as_the_model(self) -> None:
        assert {key: self.shares.get(key) for key in range(13)} == {
            **dict.fromkeys(range(13)),
            **{row[1]: row[2] for row in self.model},
        }
        assert len(self.shares) == len(self.model)
        assert self.shares.weight == sum(row[3] for row in self.model) <= MAX_BYTES
        assert self.left == self.expected_left


TestShares = Model.TestCase
TestShares.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)


def test_a_value_larger_than_the_table_is_not_kept_and_costs_nobody_anything() -> None:
    shares = Shares[str, str](100)
    shares.put("partner", "one", "kept", 10)
    shares.put("bff", "another", "kept", 10)
    shares.put("bff", "large", "not kept", 101)
    assert [shares.get(key) for key in ("one", "another", "large")] == ["kept", "kept", None]
    assert shares.weight == 20


def test_what_is_too_large_takes_the_place_of_nothing_old() -> None:
    shares = Shares[str, str](100)
    shares.put("bff", "key", "old", 10)
    shares.put("bff", "key", "new", 101)
    assert (shares.get("key"), len(shares)) == (None, 0)


def test_one_alone_may_have_it_all_until_somebody_comes() -> None:
    shares = Shares[int, str](100)
    for number in range(20):
        shares.put("bff", number, "bff's", 10)
    assert shares.weight == 100
    for number in range(100, 120):
        shares.put("partner", number, "partner's", 10)
    kept = [value for held in shares.held.values() if (value := held.value)]
    assert (kept.count("bff's"), kept.count("partner's")) == (5, 5)
    assert [key for key in range(20) if shares.get(key)] == [15, 16, 17, 18, 19]
