"""The demo's own HTTP client."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from gateway.demo.wire import Broken, Client, Response, read, request

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nCache-Status: chat-gateway; hit\r\n\r\nhello"
Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def over_a_socket(handler: Handler, scenario: Callable[[Client], Awaitable[None]]) -> None:
    """A client and a server that handles each connection so."""

    handling: set[asyncio.Task[None]] = set()

    async def closing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        handling.add(task)
        try:
            await handler(reader, writer)
        except asyncio.IncompleteReadError:
            pass
        finally:
            writer.close()

    async def run() -> None:
        async with await asyncio.start_server(closing, "127.0.0.1", 0) as server:
            client = Client(*server.sockets[0].getsockname())
            try:
                await scenario(client)
            finally:
                client.close()
            # The loop would cancel who has not noticed yet, and complain of it.
            await asyncio.gather(*handling)

    asyncio.run(run())


def test_an_answer_in_pieces_is_read_when_it_is_complete() -> None:
    assert [read(OK[:length], 1.0) for length in range(len(OK))] == [None] * len(OK)
    found = read(OK, 1.0)
    assert found == Response(200, OK.partition(b"\r\n\r\n")[0] + b"\r\n", b"hello", 1.0)
    assert found is not None
    assert found.header("cache-status") == "chat-gateway; hit"
    assert found.header("age") == ""


@pytest.mark.parametrize("status", [b"204 No Content", b"304 Not Modified"])
def test_some_answers_have_no_body(status: bytes) -> None:
    found = read(b"HTTP/1.1 " + status + b"\r\netag: x\r\n\r\n", 1.0)
    assert found is not None
    assert found.body == b""


@pytest.mark.parametrize(
    "received",
    [
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nab",
        b"hello\r\n\r\n",
        b"HTTP/1.1 many\r\n\r\n",
    ],
)
def test_what_is_no_answer(received: bytes) -> None:
    with pytest.raises(Broken):
        read(received, 1.0)


def test_a_request_is_written_in_one_piece() -> None:
    assert request("PUT", "h:1", "/a", {"Accept": "x/y"}, b"{}") == (
        b"PUT /a HTTP/1.1\r\nHost: h:1\r\nAccept: x/y\r\n"
        b"Content-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
    )


def test_one_connection_serves_many_requests_and_is_opened_again_when_lost() -> None:
    connections = 0

    async def two_answers(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        for _ in range(2):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(OK)
        await reader.readuntil(b"\r\n\r\n")

    async def scenario(client: Client) -> None:
        ask = request("GET", "h", "/")
        for _ in range(2):
            assert (await client.ask(ask)).body == b"hello"
        with pytest.raises(Broken, match="connection closed"):
            await client.ask(ask)
        assert (await client.ask(ask)).body == b"hello"
        assert connections == 2

    over_a_socket(two_answers, scenario)


@pytest.mark.parametrize("said", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello", b"what\r\n\r\n"])
def test_a_broken_answer_is_told(said: bytes) -> None:
    async def broken(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(said)

    async def scenario(client: Client) -> None:
        with pytest.raises(Broken):
            await client.ask(request("GET", "h", "/"))

    over_a_socket(broken, scenario)


def test_nobody_listens() -> None:
    async def scenario() -> None:
        with pytest.raises(Broken, match="no connection"):
            await Client("127.0.0.1", 1).ask(b"")

    asyncio.run(scenario())
