"""Each fault on the way upstream, for each kind of request, over a connection that was used before.

That is the one case in which a request is sent a second time: a read, and only if the connection closes
before the whole head of an answer.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from tests.faults.ground import KINDS, Ground, Kind, ground
from tests.faults.proxy import Fault
from tests.faults.upstream_faults import AT_THE_DOOR, CASES, Case

pytestmark = pytest.mark.anyio

STRIKING = {name: case for name, case in CASES.items() if name not in AT_THE_DOOR}


@pytest.fixture(scope="module")
async def there(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Ground]:
    async with ground(tmp_path_factory.mktemp("world")) as it:
        yield it


async def is_repeated(there: Ground, case: Case, kind: Kind) -> bool:
    """Whether the rule says so; how long the head is, a good answer about another chat tells."""
    chat = there.chat()
    # A busy machine may not get that far within the deadline.
    while (await there.ask(kind, chat)).problem == "upstream-timeout":
        chat = there.chat()
    [good] = there.ledger.of(kind, chat)
    return kind.is_read and case.cuts_before_head(len(good.head))


async def over_a_kept_connection(there: Ground, kind: Kind, chat: str, fault: Fault) -> str | None:
    """The problem that comes of it."""
    await there.start_over()
    await there.warm()
    await there.back.inject(fault)
    response = await there.ask(kind, chat)
    if response.problem is None:
        there.check(kind, chat, response)
    return response.problem


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", STRIKING)
async def test_a_fault_that_lasts(there: Ground, name: str, kind: str) -> None:
    case, asked = STRIKING[name], KINDS[kind]
    await there.start_over()
    times = 2 if await is_repeated(there, case, asked) else 1
    assert await over_a_kept_connection(there, asked, there.chat(), case.fault) == case.problem
    assert len(there.ledger.asked) == times * case.asks
    if case.hears is not None:
        assert there.it.upstream_requests() == times * case.hears
    await there.is_healed()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", [name for name in STRIKING if STRIKING[name].problem == "upstream-reset"])
async def test_a_fault_of_one_connection(there: Ground, name: str, kind: str) -> None:
    case, asked = STRIKING[name], KINDS[kind]
    await there.start_over()
    repeated = await is_repeated(there, case, asked)
    once = replace(case.fault, times=1)
    problem = await over_a_kept_connection(there, asked, there.chat(), once)
    assert problem == (None if repeated else case.problem)
    assert len(there.ledger.asked) == 1 + repeated
    assert there.it.upstream_requests() == bool(case.hears) + repeated
    await there.is_healed()


@pytest.mark.parametrize("name", sorted(AT_THE_DOOR))
async def test_a_kept_connection_does_without_the_door(there: Ground, name: str) -> None:
    kind = KINDS["info"]
    assert await over_a_kept_connection(there, kind, there.chat(), CASES[name].fault) is None
    await there.is_healed()
