"""Whose fault an upstream answer is: the table, row by row, and that it has no holes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.faults import Asked, Verdict, judge

ANY = tuple(Asked)
READ, WRITE, START = (Asked.READ,), (Asked.WRITE,), (Asked.START,)
QUESTION = (Asked.QUESTION,)
READS, SENT = READ + QUESTION, WRITE + START


@pytest.mark.parametrize(
    ("asked", "status", "code", "verdict"),
    [
        (ANY, 200, None, Verdict.GOOD),
        (ANY, 201, None, Verdict.GOOD),
        (ANY, 299, None, Verdict.GOOD),
        (READS, 204, None, Verdict.UNUSABLE),
        (SENT, 204, None, Verdict.GOOD),
        (READS, 206, None, Verdict.UNUSABLE),
        (SENT, 206, None, Verdict.GOOD),
        (ANY, 301, None, Verdict.REDIRECT),
        (ANY, 304, None, Verdict.REDIRECT),
        (ANY, 307, None, Verdict.REDIRECT),
        (ANY, 404, 12, Verdict.GONE),
        (ANY, 404, 28, Verdict.CALLERS),
        (ANY, 404, None, Verdict.CALLERS),
        (ANY, 410, 12, Verdict.CALLERS),
        (ANY, 429, None, Verdict.THROTTLED),
        (ANY, 429, 12, Verdict.THROTTLED),
        (ANY, 408, None, Verdict.UPSTREAMS),
        # A read is built by the gateway alone: what is bad about it is the key.
        (READ, 400, 5, Verdict.OUR_KEY),
        # Unless it has words of the caller's: "serviceQueue needs maxWaitTime".
        (QUESTION, 400, 5, Verdict.CALLERS),
        (READS, 401, 10, Verdict.OUR_KEY),
        (READS, 401, None, Verdict.OUR_KEY),
        (READ, 400, 28, Verdict.CALLERS),
        (READ, 400, None, Verdict.CALLERS),
        # A write carries what the caller said: "Cannot add line while not in chat", "Invalid User".
        (SENT, 400, 5, Verdict.CALLERS),
        (START, 401, 10, Verdict.CALLERS),
        (WRITE, 401, 10, Verdict.OUR_KEY),
        (SENT, 401, None, Verdict.OUR_KEY),
        (SENT, 401, 5, Verdict.OUR_KEY),
        (ANY, 403, None, Verdict.OUR_KEY),
        (ANY, 407, None, Verdict.OUR_KEY),
        (ANY, 409, None, Verdict.CALLERS),
        (ANY, 418, None, Verdict.CALLERS),
        (ANY, 499, None, Verdict.CALLERS),
        (ANY, 500, None, Verdict.UPSTREAMS),
        (ANY, 500, 20, Verdict.UPSTREAMS),
        (ANY, 500, 12, Verdict.UPSTREAMS),
        (ANY, 503, None, Verdict.UPSTREAMS),
        (ANY, 101, None, Verdict.UPSTREAMS),
        (ANY, 999, None, Verdict.UPSTREAMS),
        (ANY, 0, None, Verdict.UPSTREAMS),
    ],
)
def test_whose_fault_it_is(asked: tuple[Asked, ...], status: int, code: int | None, verdict: Verdict) -> None:
    for kind in asked:
        assert judge(kind, status, code) is verdict


@given(asked=st.sampled_from(Asked), status=st.integers(), code=st.none() | st.integers())
def test_every_answer_has_a_verdict_and_only_2xx_are_good(
    asked: Asked, status: int, code: int | None
) -> None:
    verdict = judge(asked, status, code)
    assert verdict is not Verdict.GOOD or 200 <= status < 300
    assert verdict not in {Verdict.CALLERS, Verdict.GONE} or 400 <= status < 500
