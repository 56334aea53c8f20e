"""What callers say of their traces is written into no log: nobody has asked them who they are yet."""

from __future__ import annotations

import pytest

from gateway.observe.traces import Traces
from tests.support import World

pytestmark = pytest.mark.anyio

TRACEPARENT = b"00-" + b"a" * 32 + b"-" + b"b" * 16 + b"-01"


@pytest.mark.parametrize(
    "tracestate",
    [b"4111 1111 \x9b31m", b"a" * 9_000, b",".join(b"k%d=v" % number for number in range(40))],
    ids=["words", "long", "many"],
)
async def test_what_callers_say_of_their_traces_is_not_logged(here: World, tracestate: bytes) -> None:
    before = here.log.getvalue()
    assert Traces.wants({b"traceparent": TRACEPARENT, b"tracestate": tracestate})
    assert here.log.getvalue() == before
