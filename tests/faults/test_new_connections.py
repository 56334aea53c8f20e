"""Each fault on the way upstream, for each kind of request, over a connection that is made for it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.faults.ground import KINDS, Ground, ground
from tests.faults.upstream_faults import CASES

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
async def there(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Ground]:
    async with ground(tmp_path_factory.mktemp("world")) as it:
        yield it


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", CASES)
async def test_a_fault_ends_in_an_answer_or_in_a_problem(there: Ground, name: str, kind: str) -> None:
    case, asked = CASES[name], KINDS[kind]
    await there.start_over()
    chat = there.chat()
    await there.back.inject(case.fault)
    response = await there.ask(asked, chat)
    assert response.problem == case.problem
    if case.problem is None:
        there.check(asked, chat, response)
    assert len(there.ledger.asked) == case.asks
    if case.hears is not None:
        assert there.it.upstream_requests() == case.hears
    await there.is_healed()
