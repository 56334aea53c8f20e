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
        self.owners = len(OWNERS)
        self.left: list[int] = []
        self.expected_left: list[int] = []
        self.shares = Shares[int, int](MAX_BYTES, lambda: self.owners, self.left.append)
        self.model: list[tuple[str, int, int, int]] = []  # owner, key, value, weight; oldest first
        self.values = iter(range(10**9))

    @rule(owner=st.sampled_from(OWNERS), key=KEYS, weight=st.integers(1, 25))
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

    @rule(owners=st.integers(0, 4))
    def share_with(self, owners: int) -> None:
        self.owners = owners

    def append(self, owner: str, key: int, value: int, weight: int) -> None:
        most = MAX_BYTES // max(1, self.owners)
        if weight > most:
            return
        self.model.append((owner, key, value, weight))
        mine = [row for row in self.model if row[0] == owner]
        while sum(row[3] for row in mine) > most:
            self.leave([mine.pop(0)])

    def leave(self, rows: list[tuple[str, int, int, int]]) -> None:
        for row in rows:
            self.model.remove(row)
            self.expected_left.append(row[2])

    @invariant()
    def is_as_the_model(self) -> None:
        assert {key: self.shares.get(key) for key in range(13)} == {
            **dict.fromkeys(range(13)),
            **{row[1]: row[2] for row in self.model},
        }
        assert len(self.shares) == len(self.model)
        assert self.shares.weight == sum(row[3] for row in self.model)
        assert self.left == self.expected_left


TestShares = Model.TestCase
TestShares.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)


def test_a_value_larger_than_a_share_is_not_kept_and_costs_nobody_anything() -> None:
    shares = Shares[str, str](100, lambda: 2)
    shares.put("partner", "one", "kept", 10)
    shares.put("bff", "another", "kept", 10)
    shares.put("bff", "large", "not kept", 51)
    assert (shares.get("large"), shares.get("one"), shares.get("another"), shares.weight) == (
        None,
        "kept",
        "kept",
        20,
    )


def test_what_is_too_large_takes_the_place_of_nothing_old() -> None:
    shares = Shares[str, str](100)
    shares.put("bff", "key", "old", 10)
    shares.put("bff", "key", "new", 101)
    assert (shares.get("key"), len(shares)) == (None, 0)
