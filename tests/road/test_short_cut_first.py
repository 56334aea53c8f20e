"""The short cut changes nothing but the speed; the other half is in another file, for another process."""

from __future__ import annotations

from tests.road.all_traffic import proven


def test_the_short_cut_changes_nothing_but_the_speed() -> None:
    proven("first")
