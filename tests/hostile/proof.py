"""What a run of the oracle has to show."""

from __future__ import annotations

import itertools
from pathlib import Path

from tests.hostile.mutators import KINDS
from tests.hostile.oracle import Tally, judging

CASES = 2_800
#: A kind that reaches an outcome less often than this doesn't test it.
LEAST_SHARE = 0.03


async def proven(folder: Path, seed: int) -> None:
    """Nothing was wrong, and every kind reached what it is there for."""
    async with judging(folder, seed) as oracle:
        tally = await oracle.run(itertools.islice(itertools.count(1), CASES))
    assert not tally.wrong, "\n".join(tally.wrong[:5])
    assert tally.cases == CASES
    assert not too_rare(tally), too_rare(tally)


def too_rare(tally: Tally) -> list[str]:
    """Outcomes that a kind is there for and hardly reached."""
    return [
        f"{name}: {outcome} {tally.share(name, outcome):.1%}"
        for name, (_, outcomes) in KINDS.items()
        for outcome in outcomes
        if tally.share(name, outcome) < LEAST_SHARE
    ]
