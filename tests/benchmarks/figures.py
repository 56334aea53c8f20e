"""Results as values, and the little arithmetic there is."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

Figure = float | int | str | None


@dataclass(frozen=True, slots=True)
class Goal:
    """What a figure should be: at least or at most a bound. `got` None was not measured."""

    what: str
    sign: str
    bound: float
    got: float | None

    @property
    def met(self) -> bool | None:
        """None where it was not measured."""
        if self.got is None:
            return None
        return self.got >= self.bound if self.sign == "≥" else self.got <= self.bound


@dataclass(frozen=True, slots=True)
class Result:
    """What a workload came to: a row for each server or step, the goals, and what has to be known of it."""

    title: str
    rows: Mapping[str, Mapping[str, Figure]]
    goals: Sequence[Goal] = ()
    notes: Sequence[str] = ()

    def document(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self) | {"goals": [asdict(goal) | {"met": goal.met} for goal in self.goals]}


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that this share of them does not exceed; not a number where there is none."""
    if not values:
        return math.nan
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """The median over rounds of what one did for each one of the other: drift of the machine cancels out."""
    pairs = zip(ours, theirs, strict=True)
    return statistics.median(own / other if other else math.inf for own, other in pairs)


def rounded(value: float, digits: int = 3) -> float | None:
    """A figure with as many digits as it is worth; None for what is no number, since JSON has none."""
    if value == 0 or not math.isfinite(value):
        return 0.0 if value == 0 else None
    return round(value, max(0, digits - 1 - math.floor(math.log10(abs(value)))))
