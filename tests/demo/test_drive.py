"""What the polling clients make of what they get, from a server that answers as the test says."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence

import pytest

from gateway.demo.drive import Drive, Poller, start_chats
from gateway.demo.evidence import Evidence
from gateway.demo.figures import HIT, OTHER, Tally
from gateway.demo.wire import Broken

KEY = b"721c0123456789abcdef0123456789ab"
#: Half past midnight UTC, and half a second.
STAMP, WALL = b"1970-01-01T01:30:00.500+01:00", 1800.5


def answer(body: bytes, status: int = 200, head: bytes = b"cache-status: chat-gateway; hit\r\n") -> bytes:
    return b"HTTP/1.1 %d X\r\n%bcontent-length: %d\r\n\r\n%b" % (status, head, len(body), body)


def info(state: bytes = b"chatting") -> bytes:
    return answer(b'{"info":{"lastUpdate":"' + STAMP + b'","state":"' + state + b'"}}')


class Run:
    """One client polls a server that gives these answers in turn; what was asked, and what came of it."""

    def __init__(self, answers: Sequence[bytes], *, name: str = "bff", number: int = 1) -> None:
        self.asked: list[bytes] = []
        self.tally = Tally()
        self.evidence = Evidence(KEY, "http://127.0.0.1")
        self._answers = iter(answers)
        # Each look at the clock takes a second: the first poll is inside the warm-up or behind it.
        self._ticks = itertools.count(step=1.5)
        asyncio.run(self._run(name, number))

    async def _run(self, name: str, number: int) -> None:
        async with await asyncio.start_server(self._serve, "127.0.0.1", 0) as server:
            url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/api/account/123/chat/H1-2K3"
            poller = Poller(number, name, "token", url, 0.0)
            drive = Drive(self.tally, self.evidence, lambda: next(self._ticks), lambda: WALL + 2)
            await drive.run([poller], 1.0)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            for said in self._answers:
                self.asked.append((await reader.readuntil(b"\r\n\r\n")).partition(b" HTTP")[0])
                writer.write(said)
        except asyncio.IncompleteReadError:
            pass
        finally:
            writer.close()


def test_a_poll() -> None:
    run = Run([info()])
    assert run.asked == [b"GET /api/account/123/chat/H1-2K3/info"]
    assert run.tally.polls == {HIT: 1}
    assert run.tally.errors == {}
    assert run.tally.latency.percentile_ms(100) == 1500.0
    # The wall says 2 s after the stamp, 1.5 s after the answer came.
    assert run.tally.age.percentile_ms(100) == 500.0


@pytest.mark.parametrize(
    ("said", "error"),
    [
        (answer(b"{}", 502), "status 502"),
        (answer(b"{}"), "info without lastUpdate"),
        (b"", "connection closed"),
        (b"what\r\n\r\n", "no HTTP"),
    ],
)
def test_what_is_an_error(said: bytes, error: str) -> None:
    run = Run([said])
    assert run.tally.errors == {error: 1}
    assert run.tally.polls.total() == 1
    assert run.tally.age.percentile_ms(100) is None


def test_a_failed_poll_has_no_outcome() -> None:
    assert Run([answer(b"{}", 502)]).tally.polls == {OTHER: 1}


@pytest.mark.parametrize("number", [0, 150])
def test_who_may_write_does_so_now_and_then(number: int) -> None:
    run = Run([info(), answer(b"", 201)], number=number)
    assert run.asked[1:] == [b"PUT /api/account/123/chat/H1-2K3/info/visitorName"]
    assert run.tally.writes == 1


@pytest.mark.parametrize(
    ("number", "chatting", "line"),
    [
        (0, True, b"PUT /c/info/visitorName HTTP/1.1"),
        (1, True, b"PUT /c/info/visitorTyping HTTP/1.1"),
        (2, True, b"POST /c/events HTTP/1.1"),
        (1, False, b"PUT /c/info/visitorName HTTP/1.1"),
        (2, False, b"PUT /c/info/visitorName HTTP/1.1"),
    ],
)
def test_writes_that_need_an_agent_wait_for_one(number: int, chatting: bool, line: bytes) -> None:
    said = Poller(number, "bff", "token", "http://h/c", 0.0).write(chatting)
    assert said.partition(b"\r\n")[0] == line


@pytest.mark.parametrize(("name", "number"), [("partner", 0), ("internal", 150), ("bff", 149)])
def test_others_do_not_write(name: str, number: int) -> None:
    run = Run([info(), answer(b"", 201)], name=name, number=number)
    assert len(run.asked) == 1
    assert run.tally.writes == 0


def test_a_key_in_an_answer_is_seen() -> None:
    assert Run([answer(KEY, 404)]).evidence.keys_seen == 1


def test_chats_that_cannot_be_started() -> None:
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer(b"", 403))
        writer.close()
        await writer.wait_closed()

    async def scenario() -> None:
        async with await asyncio.start_server(refuse, "127.0.0.1", 0) as server:
            url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            with pytest.raises(Broken, match="status 403"):
                await start_chats(url, "123", "token", 1, Evidence(KEY, url))

    asyncio.run(scenario())
