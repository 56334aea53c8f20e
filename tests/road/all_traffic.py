"""Schedules with all that clients, operators, agents and the upstream may do, in any order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from hypothesis import given, seed, settings
from hypothesis import strategies as st

from gateway.core.limits import DAY_S
from tests.road.two_worlds import (
    ACTS,
    CLIENTS,
    HARMLESS,
    OTHERWISE,
    PLACES,
    SPELLINGS,
    SUBJECTS,
    WRITES,
    Ask,
    Do,
    Options,
    Send,
    Step,
    When,
    both,
)
from tests.simulation import EPOCH

TIMES = [0.0, 0.0, 0.0, 1e-6, 0.01, 0.05, 0.1, 0.13, 0.2, 0.3, 0.5, 0.7, 1.0, 2.5, 9.0]
LATER = st.builds(When, st.sampled_from(TIMES)) | st.builds(
    When,
    st.sampled_from([0.0, 0.0, -1e-6, 1e-6, 0.02]),
    st.sampled_from(["refresh"] * 4 + ["fresh"] * 3 + ["stale", "second", "second", "expiry"]),
)
REGULARS = st.builds(
    Ask,
    st.sampled_from([*SUBJECTS, "bff", "partner"]),
    st.sampled_from([0] * 5 + [1, 2]),
    st.sampled_from(["info"] * 8 + ["info.json", "events", "name", "account"]),
    st.sampled_from([""] * 6 + ["?v=1&NC=true", "?NC=true&v=1"]),
    accept=st.sampled_from(["application/json"] * 4 + ["application/xml", "*/*"]),
    more=st.lists(st.sampled_from(HARMLESS), max_size=1).map(tuple),
)
NO_MORE = st.just(())
VARIANTS: Mapping[str, st.SearchStrategy[Any]] = {
    "more": st.lists(st.sampled_from(HARMLESS), max_size=2).map(tuple),
    "resource": st.sampled_from([*PLACES, "account"]),
    "query": st.sampled_from(["?v=1&NC=true", "?_={n}", "?cb=2", "?appKey=x", "?x=1", "?"]),
    "accept": st.sampled_from(["application/xml", "*/*", "text/html", "", None]),
    "subject": st.sampled_from([*SUBJECTS, "stranger", None]),
    "chat": st.sampled_from([0, 1, 2]),
    "method": st.sampled_from(["HEAD", "OPTIONS", "POST", *WRITES, *["rename"] * 4]),
    "spelling": st.sampled_from(sorted(SPELLINGS)),
}
REGULAR = st.sampled_from(range(6))
ODD = {**VARIANTS, "otherwise": st.sampled_from(OTHERWISE)}
PLAIN = st.tuples(REGULAR, st.just(""), st.none())
#: What one of the regulars asks, and what is other than usual about it. Made once: a strategy costs more to
#: make than to draw from.
ASKS = st.one_of(
    *[PLAIN] * 12,
    *(st.tuples(REGULAR, st.just(name), ODD[name]) for name in ("otherwise", "otherwise", *VARIANTS)),
)
SENDS = st.tuples(
    st.one_of(
        *[st.tuples(PLAIN)] * 2,
        st.tuples(ASKS),
        st.lists(ASKS, min_size=2, max_size=5).map(tuple),
    ),
    LATER,
    st.sampled_from([0, 0, 1, 2]),
    st.one_of(*[NO_MORE] * 5, st.lists(st.floats(0, 1), min_size=1, max_size=3).map(tuple)),
    st.sampled_from([1, 3, 20, 50]),
    st.one_of(*[st.builds(When, st.sampled_from([0.0, 0.013, 0.04, 0.07, 0.11, 0.3]))] * 5, LATER),
)
DOS = st.builds(Do, st.sampled_from([*ACTS]), LATER)
OPTIONS = st.builds(
    Options,
    # The second ends before midnight.
    st.sampled_from([0.0, 0.3, DAY_S - EPOCH % DAY_S - 1.75]),
    st.sampled_from([64 * 1024 * 1024, 64 * 1024 * 1024, 40_000]),
    st.sampled_from([16 * 1024 * 1024, 16 * 1024 * 1024, 100_000]),
    st.sampled_from([0.12, 0.12, 0.01, 0.35]),
    st.booleans(),
)
STEPS = st.lists(st.one_of(SENDS, SENDS, SENDS, DOS), min_size=5, max_size=20)


@st.composite
def schedules(draw: st.DrawFn) -> tuple[Options, list[Step]]:
    """Some regulars who poll and poll, and whatever happens around them."""
    regulars = draw(st.lists(REGULARS, min_size=1, max_size=3))

    def asked(regular: int, name: str = "", value: Any = None) -> Ask:
        ask = regulars[regular % len(regulars)]
        if name == "otherwise":
            return replace(ask, more=(*ask.more, value))
        return replace(ask, **{name: value}) if name else ask

    def step(drawn: Any) -> Step:
        if isinstance(drawn, Do):
            return drawn
        asks, *rest = drawn
        return Send(tuple(asked(*each) for each in asks), *rest)

    warm: list[Step] = [Send((asked(draw(REGULAR)),)), Send((asked(draw(REGULAR)),), When(0.4), times=3)]
    return draw(OPTIONS), warm + [step(each) for each in draw(STEPS)]


#: What is drawn next is much like what was drawn before: of many short runs each begins anew.
RUNS = 10


def proven(half: str) -> None:
    """Half of three times as many schedules as there are examples; each half has its own."""
    told: Counter[str] = Counter()

    def same(schedule: tuple[Options, list[Step]]) -> None:
        both(*schedule, told)

    some = settings(max_examples=3 * settings().max_examples // (2 * RUNS))
    for run in range(RUNS):
        test = some(given(schedules())(same))
        # Left alone, the ordinary run draws by the source of `same`, which is that of all runs.
        (seed(f"{half} {run}")(test) if settings().derandomize else test)()
    # Or it would prove nothing.
    assert min(told[way] for way in ("recall", "answer")) > 500, told
    assert min(told[each] for each in ("200", "304", "404", "after refresh", "pipelined", "limited")) > 100, (
        told
    )
    assert min(told[f"of {each.name}"] for each in CLIENTS) > 10, told
