"""Faults between a client and the gateway: they are its own, and nobody else's."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from tests.faults.ground import DEADLINE_S, INFO, KINDS, LINE, SLACK_S, Ground, Kind, ground
from tests.faults.proxy import HOST, End, Fault, Way
from tests.support import until

pytestmark = pytest.mark.anyio

READ_AND_WRITE = pytest.mark.parametrize("kind", [INFO, LINE], ids=["info", "line"])
ENDS = pytest.mark.parametrize("end", list(End))
#: After that a client that is left without an answer hangs up.
PATIENCE_S = 0.15


@pytest.fixture(scope="module")
async def there(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Ground]:
    async with ground(tmp_path_factory.mktemp("world")) as it:
        yield it


async def heard(there: Ground, kind: Kind, chat: str) -> bytes:
    """All that a client gets that asks once and then has little patience."""
    token = there.it.token()
    reader, writer = await asyncio.open_connection(HOST, there.front.port)
    got = b""
    try:
        writer.write(kind.message(chat, token))
        async with asyncio.timeout(PATIENCE_S):
            while data := await reader.read(65_536):
                got += data
    except (TimeoutError, ConnectionError):
        pass
    finally:
        writer.transport.abort()
    there.it.received.append(got)
    return got


async def all_is_well(there: Ground, kind: Kind) -> None:
    """The gateway has let go of who is gone, and others get their answers."""
    await until(lambda: not there.front.links)
    await there.is_healed()
    chat = there.chat()
    there.check(kind, chat, await there.ask(kind, chat))


@READ_AND_WRITE
@pytest.mark.parametrize(
    "fault",
    [
        Fault(up=Way(latency_s=0.02, jitter_s=0.02), down=Way(latency_s=0.02, jitter_s=0.02)),
        Fault(up=Way(piece_bytes=10, every_s=0.001)),
        Fault(down=Way(piece_bytes=20, every_s=0.001)),
        Fault(up=Way(piece_bytes=100, every_s=0.005), down=Way(piece_bytes=200, every_s=0.005)),
    ],
)
async def test_a_slow_way_brings_the_same_bytes(there: Ground, fault: Fault, kind: Kind) -> None:
    await there.start_over()
    await there.front.inject(fault)
    chat = there.chat()
    there.check(kind, chat, await there.ask(kind, chat, there.front.port))
    assert len(there.ledger.asked) == 1
    await all_is_well(there, kind)


@READ_AND_WRITE
@ENDS
@pytest.mark.parametrize("missing", [-1, 0, 1, 50])
async def test_half_a_question_is_none(there: Ground, end: End, kind: Kind, missing: int) -> None:
    await there.start_over()
    chat = there.chat()
    # -1: so much of it as is no head yet.
    passes = 20 if missing < 0 else len(kind.message(chat, there.it.token())) - max(1, missing)
    await there.front.inject(Fault(up=Way(passes=passes, end=end)))
    got = await heard(there, kind, chat)
    assert not got or got.startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 408 ")), got
    assert not there.ledger.asked
    await all_is_well(there, kind)


@READ_AND_WRITE
@ENDS
@pytest.mark.parametrize("passes", [0, 1, 40, 200])
async def test_half_an_answer_is_the_beginning_of_the_right_one(
    there: Ground, end: End, kind: Kind, passes: int
) -> None:
    await there.start_over()
    await there.front.inject(Fault(down=Way(passes=passes, end=end)))
    chat = there.chat()
    got = await heard(there, kind, chat)
    assert len(got) == passes
    assert (b"HTTP/1.1 200 OK\r\n" if kind.is_read else b"HTTP/1.1 201 Created\r\n").startswith(got[:15])
    await there.it.flights_landed()
    assert len(there.ledger.asked) == there.it.upstream_requests() == 1
    await all_is_well(there, kind)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("end", [End.RESET, End.CLOSE])
async def test_what_is_asked_is_carried_through_without_its_client(
    there: Ground, end: End, kind: str
) -> None:
    asked = KINDS[kind]
    await there.start_over()
    chat = there.chat()
    # The answer is on its way when the client goes.
    await there.back.inject(Fault(down=Way(latency_s=DEADLINE_S / 4)))
    await there.front.inject(Fault(up=Way(passes=len(asked.message(chat, there.it.token())), end=end)))
    assert await heard(there, asked, chat) == b""
    await until(lambda: not there.front.links)
    await there.it.flights_landed()
    assert len(there.ledger.asked) == there.it.upstream_requests() == 1
    assert there.ledger.asked[0].head
    if asked.kept:
        assert "; hit; ttl=" in ((await there.ask(asked, chat)).header("cache-status") or "")
    await all_is_well(there, asked)


@READ_AND_WRITE
async def test_who_has_said_all_and_shuts_that_way_gets_an_answer(there: Ground, kind: Kind) -> None:
    await there.start_over()
    chat = there.chat()
    await there.back.inject(Fault(down=Way(latency_s=DEADLINE_S / 5)))
    whole = len(kind.message(chat, there.it.token()))
    await there.front.inject(Fault(up=Way(passes=whole, end=End.HALF_CLOSE)))
    there.check(kind, chat, await there.ask(kind, chat, there.front.port))
    await all_is_well(there, kind)


@pytest.mark.parametrize("end", [End.RESET, End.CLOSE, End.SILENCE])
async def test_others_who_wait_for_the_same_dont_notice(there: Ground, end: End) -> None:
    await there.start_over()
    chat = there.chat()
    await there.back.inject(Fault(down=Way(latency_s=DEADLINE_S / 5)))
    whole = len(INFO.message(chat, there.it.token()))
    await there.front.inject(Fault(up=Way(passes=whole, end=end), down=Way(passes=0, end=end)))
    async with asyncio.timeout(DEADLINE_S + SLACK_S):
        leaving = asyncio.gather(*(heard(there, INFO, chat) for _ in range(5)))
        staying = await asyncio.gather(*(there.ask(INFO, chat) for _ in range(5)))
        assert await leaving == [b""] * 5
    for response in staying:
        there.check(INFO, chat, response)
    assert len(there.ledger.asked) == 1
    await all_is_well(there, INFO)
