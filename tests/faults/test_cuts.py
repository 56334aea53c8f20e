"""Connections upstream that end at one byte after another, of the question and of the answer."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator

import pytest

from tests.faults.ground import INFO, LINE, Ground, Kind, ground
from tests.faults.proxy import End, Fault, Way

pytestmark = pytest.mark.anyio

#: How many bytes are tried of each message, beside its first two and its last two.
SAMPLE = 25


@pytest.fixture(scope="module")
async def there(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Ground]:
    async with ground(tmp_path_factory.mktemp("world")) as it:
        yield it


async def lengths(there: Ground, kind: Kind) -> tuple[int, int]:
    """How long question and answer are, for a chat with an id as long as any other's."""
    await there.start_over()
    chat = there.chat()
    await there.ask(kind, chat)
    [asked] = there.ledger.of(kind, chat)
    return len(asked.question), len(asked.head) + len(asked.body)


def tried(length: int, seed: str) -> list[int]:
    return sorted({0, 1, length - 2, length - 1, *random.Random(seed).sample(range(length), SAMPLE)})


@pytest.mark.parametrize("kind", [INFO, LINE], ids=["info", "line"])
@pytest.mark.parametrize("end", [End.RESET, End.CLOSE, End.HALF_CLOSE])
async def test_an_answer_that_is_cut_is_no_answer(there: Ground, end: End, kind: Kind) -> None:
    _, length = await lengths(there, kind)
    for passes in tried(length, f"{end} {kind}"):
        await there.start_over()
        await there.back.inject(Fault(down=Way(passes=passes, end=end)))
        response = await there.ask(kind, there.chat())
        assert (response.status, response.problem) == (502, "upstream-reset"), passes
        assert len(there.ledger.asked) == there.it.upstream_requests() == 1
        await there.is_healed()


@pytest.mark.parametrize("kind", [INFO, LINE], ids=["info", "line"])
@pytest.mark.parametrize("end", [End.RESET, End.CLOSE, End.HALF_CLOSE])
async def test_a_question_that_is_cut_is_not_asked_again(there: Ground, end: End, kind: Kind) -> None:
    length, _ = await lengths(there, kind)
    for passes in tried(length, f"{end} {kind}"):
        await there.start_over()
        await there.back.inject(Fault(up=Way(passes=passes, end=end)))
        response = await there.ask(kind, there.chat())
        assert (response.status, response.problem) == (502, "upstream-reset"), passes
        assert len(there.ledger.asked) == 1
        assert there.it.upstream_requests() == 0
        await there.is_healed()


@pytest.mark.parametrize("end", [End.RESET, End.CLOSE, End.HALF_CLOSE])
async def test_what_ends_behind_a_whole_answer_is_none_the_worse(there: Ground, end: End) -> None:
    _, length = await lengths(there, INFO)
    await there.start_over()
    await there.back.inject(Fault(down=Way(passes=length, end=end)))
    chat = there.chat()
    there.check(INFO, chat, await there.ask(INFO, chat))
    await there.is_healed()
