"""What stands in for an upstream that is unwell, how it is marked, and how often the upstream is asked."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator

import pytest

from tests.faults.ground import INFO, KINDS, LINE, STALE_AFTER_S, Ground, Kind, ground
from tests.faults.upstream_faults import CASES
from tests.support import FRESH_S, Response

pytestmark = pytest.mark.anyio

FAILING = {name: case for name, case in CASES.items() if case.problem is not None}


@pytest.fixture(scope="module")
async def there(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Ground]:
    async with ground(tmp_path_factory.mktemp("world"), short=True) as it:
        yield it


async def with_an_answer(there: Ground, kind: Kind) -> tuple[str, Response]:
    """A chat, and what is kept of it."""
    await there.start_over()
    chat = there.chat()
    response = await there.ask(kind, chat)
    assert response.status == 200
    await there.back.close_idle()
    return chat, response


def ttl(response: Response) -> int:
    """How long the answer is still fresh, in seconds."""
    found = re.search("; hit; ttl=(-?[0-9]+)", response.header("cache-status") or "")
    assert found, response.headers
    return int(found[1])


@pytest.mark.parametrize("kind", ["info", "info in XML"])
@pytest.mark.parametrize("name", FAILING)
async def test_a_stale_answer_stands_in_and_says_so(there: Ground, name: str, kind: str) -> None:
    case, asked = FAILING[name], KINDS[kind]
    chat, before = await with_an_answer(there, asked)
    await asyncio.sleep(FRESH_S)
    await there.back.inject(case.fault)
    connected, counted = there.back.connected, len(there.ledger.asked)
    began = asyncio.get_running_loop().time()
    stale = [await there.ask(asked, chat) for _ in range(5)]
    took_s = asyncio.get_running_loop().time() - began
    for response in stale:
        assert (response.status, response.body) == (200, before.body)
        assert response.header("etag") == before.header("etag")
        assert ttl(response) < 0
    # Steps of 250 ms, 500 ms, ...: one flight before the first ends, one in each.
    assert len(there.ledger.asked) - counted <= 1 + took_s / STALE_AFTER_S
    assert there.back.connected - connected <= 1 + took_s / STALE_AFTER_S
    await there.it.flights_landed()
    # With its flight failed the target is held back, and the failure has a name.
    held = await there.ask(asked, chat)
    assert ttl(held) < 0
    assert (held.header("cache-status") or "").endswith(f"; detail={case.problem}")
    await there.is_healed()


@pytest.mark.parametrize("name", FAILING)
async def test_what_is_fresh_needs_no_upstream(there: Ground, name: str) -> None:
    chat, before = await with_an_answer(there, INFO)
    await there.back.inject(FAILING[name].fault)
    response = await there.ask(INFO, chat)
    assert (response.status, response.body) == (200, before.body)
    await there.is_healed()


@pytest.mark.parametrize("name", FAILING)
async def test_nothing_older_than_a_write_stands_in_however_that_went(there: Ground, name: str) -> None:
    chat, _ = await with_an_answer(there, INFO)
    await there.back.inject(FAILING[name].fault)
    assert (await there.ask(LINE, chat)).problem == FAILING[name].problem
    assert (await there.ask(INFO, chat)).problem == FAILING[name].problem
    await there.is_healed()


@pytest.mark.parametrize("name", ["reset after 0 of the answer", "silence after 0 of the answer", "refused"])
async def test_the_upstream_is_asked_once_a_step_and_its_first_answer_ends_it(
    there: Ground, name: str
) -> None:
    chat, before = await with_an_answer(there, INFO)
    await asyncio.sleep(FRESH_S)
    await there.back.inject(FAILING[name].fault)
    assert (await there.ask(INFO, chat)).body == before.body
    await there.is_healed()
    async with asyncio.timeout(2.0):
        while (response := await there.ask(INFO, chat)).body == before.body:
            assert ttl(response) < 0
    counted = len(there.ledger.asked)
    there.check(INFO, chat, response)
    assert len([one for one in there.ledger.of(INFO, chat) if one.head]) <= 3, counted
    await there.is_healed()
