"""The emulator behind real sockets: framing, the ways an answer fails to arrive, and the control paths."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from gateway.emulator import (
    Drip,
    Drop,
    Emulator,
    EmulatorConfig,
    EmulatorServer,
    Fault,
    Hang,
    Reset,
    Truncate,
    serve,
)
from gateway.emulator.control import read_fault

pytestmark = pytest.mark.anyio
KEY = EmulatorConfig().app_key


@pytest.fixture(params=[False, True], ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    return "asyncio", {"use_uvloop": request.param}


@pytest.fixture
async def server() -> AsyncIterator[EmulatorServer]:
    server = await serve(Emulator(EmulatorConfig(record=5), time.time))
    yield server
    await server.close()


class Caller:
    """One raw connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    def send(self, target: str, method: str = "GET", body: bytes = b"", extra: str = "") -> None:
        head = f"{method} {target} HTTP/1.1\r\nHost: emulator\r\nAuthorization: LivePerson appKey={KEY}\r\n"
        self.writer.write(f"{head}{extra}Content-Length: {len(body)}\r\n\r\n".encode() + body)

    async def receive(self, *, body: bool = True) -> tuple[int, str, bytes]:
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode()
        length = re.search(r"content-length: ([0-9]+)", head)
        size = int(length[1]) if length and body else 0
        return int(head.split()[1]), head, await self.reader.readexactly(size)

    async def ask(self, target: str, method: str = "GET", body: bytes = b"") -> tuple[int, str, bytes]:
        self.send(target, method, body)
        return await self.receive()

    async def control(self, path: str, method: str = "GET", said: object = None) -> Any:
        body = b"" if said is None else json.dumps(said).encode()
        status, _, answer = await self.ask(f"/_emulator/{path}", method, body)
        assert status == 200, answer
        return json.loads(answer)


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110  what is awaited has no event
            await asyncio.sleep(0)


@pytest.fixture
async def caller(server: EmulatorServer) -> AsyncIterator[Caller]:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    yield Caller(reader, writer)
    writer.transport.abort()


@pytest.fixture
def info(server: EmulatorServer) -> str:
    return f"/api/account/123/chat/{server.emulator.start_chat('123')}/info.json?v=1"


async def test_it_listens_on_loopback_and_says_where(server: EmulatorServer) -> None:
    assert server.url == f"http://127.0.0.1:{server.port}"


async def test_a_connection_is_kept_and_serves_many(
    server: EmulatorServer, caller: Caller, info: str
) -> None:
    for _ in range(3):
        status, head, body = await caller.ask(info)
        assert (status, json.loads(body)["info"]["state"]) == (200, "waiting")
        assert "connection: close" not in head
    assert len(server.connections) == 1


async def test_pipelined_requests_are_answered_in_order(
    server: EmulatorServer, caller: Caller, info: str
) -> None:
    server.emulator.fail(Fault(delay_s=0.05, resource="info"))
    for target in (info, "/one", info, "/two"):
        caller.send(target)
    answers = [await caller.receive() for _ in range(4)]
    assert [answer[0] for answer in answers] == [200, 404, 200, 404]
    assert [b"/one" in answers[1][2], b"/two" in answers[3][2]] == [True, True]


async def test_connection_close_is_obeyed(caller: Caller, info: str) -> None:
    caller.send(info, extra="Connection: close\r\n")
    status, head, _ = await caller.receive()
    assert (status, "connection: close" in head, await caller.reader.read()) == (200, True, b"")


async def test_a_body_may_come_in_pieces_and_chunked(server: EmulatorServer, caller: Caller) -> None:
    head = f"POST /api/account/123/chat/request?v=1 HTTP/1.1\r\nAuthorization: LivePerson appKey={KEY}\r\n"
    for piece in (
        head,
        "Transfer-Encoding: chunked\r\n\r\n",
        '6\r\n{"requ\r\n',
        '8\r\nest":{}}\r\n',
        "0\r\n\r\n",
    ):
        caller.writer.write(piece.encode())
        await caller.writer.drain()
    assert (await caller.receive())[0] == 201
    assert server.emulator.chat_states() == {"waiting": 1}


async def test_head_gets_a_length_but_no_body(caller: Caller, info: str) -> None:
    caller.send(info, "HEAD")
    status, head, _ = await caller.receive(body=False)
    assert (status, "content-length: 0" in head) == (405, False)
    assert (await caller.ask(info))[0] == 200


@pytest.mark.parametrize("garbage", [b"nonsense\r\n\r\n", b"GET / HTTP/1.1\r\nbad header\r\n\r\n"])
async def test_what_is_no_http_is_400_and_closed(caller: Caller, garbage: bytes) -> None:
    caller.writer.write(garbage)
    assert (await caller.reader.read()).startswith(b"HTTP/1.1 400 ")


async def test_a_wish_to_upgrade_is_ignored(caller: Caller, info: str) -> None:
    caller.send(info, extra="Connection: upgrade\r\nUpgrade: h2c\r\n")
    assert (await caller.receive())[0] == 200


async def test_raw_requests_are_kept_for_the_record(
    server: EmulatorServer, caller: Caller, info: str
) -> None:
    caller.send(info, extra="X-Odd:   kept  \r\n")
    await caller.receive()
    assert server.emulator.saw(b"\r\nX-Odd:   kept  \r\n")
    for _ in range(5):
        await caller.ask(info)
    assert not server.emulator.saw(b"X-Odd")
    assert len(server.emulator.recorded) == 5


# Ways to fail.


async def test_slow(server: EmulatorServer, caller: Caller, info: str) -> None:
    server.emulator.fail(Fault(delay_s=0.05))
    before = time.monotonic()
    assert (await caller.ask(info))[0] == 200
    assert time.monotonic() - before >= 0.05


async def test_default_latency(info: str) -> None:
    server = await serve(Emulator(EmulatorConfig(latency_s=0.05), time.time))
    caller = Caller(*await asyncio.open_connection("127.0.0.1", server.port))
    before = time.monotonic()
    assert (await caller.ask(info))[0] == 404
    assert time.monotonic() - before >= 0.05
    caller.writer.transport.abort()
    await server.close()


async def test_drop_closes_without_a_byte(server: EmulatorServer, caller: Caller, info: str) -> None:
    server.emulator.fail(Fault(delivery=Drop()))
    caller.send(info)
    assert await caller.reader.read() == b""


async def test_reset_before_any_byte(server: EmulatorServer, caller: Caller, info: str) -> None:
    server.emulator.fail(Fault(delivery=Reset()))
    caller.send(info)
    with pytest.raises(ConnectionResetError):
        await caller.reader.read()


async def test_reset_after_some_bytes(server: EmulatorServer, caller: Caller, info: str) -> None:
    server.emulator.fail(Fault(delivery=Reset(after_bytes=12)))
    caller.send(info)
    assert await caller.reader.readexactly(12) == b"HTTP/1.1 200"
    with pytest.raises(ConnectionResetError):
        await caller.reader.read()


async def test_truncate_promises_more_than_it_sends(
    server: EmulatorServer, caller: Caller, info: str
) -> None:
    server.emulator.fail(Fault(delivery=Truncate(keep_bytes=10)))
    caller.send(info)
    head, _, body = (await caller.reader.read()).partition(b"\r\n\r\n")
    length = re.search(rb"content-length: ([0-9]+)", head)
    assert length is not None
    assert (len(body), int(length[1]) > 1000) == (10, True)


async def test_drip_sends_a_few_bytes_at_a_time(server: EmulatorServer, caller: Caller, info: str) -> None:
    server.emulator.fail(Fault(delivery=Drip(chunk_bytes=300, every_s=0.02)))
    before = time.monotonic()
    status, head, body = await caller.ask(info)
    assert (status, json.loads(body)["info"]["state"]) == (200, "waiting")
    assert time.monotonic() - before >= (len(head) + len(body)) // 300 * 0.02
    assert (await caller.ask(info))[0] == 200


async def test_hang_sends_nothing_until_the_caller_leaves(
    server: EmulatorServer, caller: Caller, info: str
) -> None:
    server.emulator.fail(Fault(delivery=Hang()))
    caller.send(info)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(caller.reader.read(1), 0.05)
    assert len(server.connections) == 1
    caller.writer.close()
    await until(lambda: not server.connections)


async def test_a_caller_who_leaves_takes_his_answer_along(
    server: EmulatorServer, caller: Caller, info: str
) -> None:
    server.emulator.fail(Fault(delay_s=60))
    caller.send(info)
    await until(lambda: server.emulator.counts().total("info"))
    (connection,) = server.connections
    caller.writer.close()
    await until(lambda: not server.connections)
    assert connection._timer is not None
    assert connection._timer.cancelled()


async def test_a_fault_may_frame_its_answer_itself(server: EmulatorServer, caller: Caller, info: str) -> None:
    chunked = Fault(headers=((b"transfer-encoding", b"chunked"),), body=b"1\r\nx\r\n0\r\n\r\n")
    server.emulator.fail(chunked, Fault(status=204), Fault(status=799))
    caller.send(info)
    head = await caller.reader.readuntil(b"\r\n\r\n")
    assert (b"content-length" in head, await caller.reader.readexactly(11)) == (False, b"1\r\nx\r\n0\r\n\r\n")
    assert "content-length" not in (await caller.ask(info))[1]
    assert (await caller.ask(info))[0] == 799


# Control.


async def test_control_starts_drives_shows_and_counts_chats(caller: Caller) -> None:
    started = await caller.control(
        "chats", "POST", {"account": "123", "count": 3, "fields": {"skill": "Support"}}
    )
    one, two, _ = started["ids"]
    for path, said in [
        ("accept", None),
        ("typing", {"typing": True}),
        ("line", {"text": "hi"}),
        ("end", None),
    ]:
        await caller.control(f"chats/{one}/{path}", "POST", said)
    shown = await caller.control(f"chats/{one}")
    assert (shown["state"], shown["skill"], shown["agent"]) == ("ended", "Support", "Natalie")
    assert "hi" in [event["fields"].get("text") for event in shown["events"]]
    for _ in range(2):
        await caller.ask(f"/api/account/123/chat/{two}/info?v=1")
    counts = await caller.control("counts")
    assert counts == {
        "totals": {"info": 2},
        "requests": [{"account": "123", "chat": two, "resource": "info", "method": "GET", "count": 2}],
    }
    await caller.control("reset", "POST")
    assert (await caller.control("counts"))["totals"] == {}


async def test_control_accepts_chats_at_once_and_can_stop_typing(
    server: EmulatorServer, caller: Caller
) -> None:
    (chat,) = (await caller.control("chats", "POST", {"accept": True}))["ids"]
    await caller.control(f"chats/{chat}/typing", "POST")
    assert server.emulator.chat(chat).agent_typing == "typing"
    await caller.control(f"chats/{chat}/typing", "POST", {"typing": False})
    assert server.emulator.chat(chat).agent_typing == "not-typing"


async def test_control_sets_and_clears_faults(caller: Caller, info: str) -> None:
    await caller.control("faults", "POST", [{"status": 503, "code": 20, "retry_after": "1"}, {"status": 500}])
    status, head, body = await caller.ask(info)
    assert (status, "retry-after: 1" in head, json.loads(body)["error"]["internalCode"]) == (503, True, 20)
    await caller.control("faults", "DELETE")
    assert (await caller.ask(info))[0] == 200


@pytest.mark.parametrize(
    ("said", "fault"),
    [
        (
            {"hang": True, "resource": "info", "times": None},
            Fault(delivery=Hang(), resource="info", times=None),
        ),
        ({"drop": True, "applies": False}, Fault(delivery=Drop(), applies=False)),
        ({"hang": False}, Fault()),
        ({"drop": False, "applies": None}, Fault()),
        ({"reset_after": 3}, Fault(delivery=Reset(3))),
        ({"drip": {"chunk_bytes": 2, "every_s": 0.5}}, Fault(delivery=Drip(2, 0.5))),
        ({"truncate_to": 4}, Fault(delivery=Truncate(4))),
        ({"body": "é", "headers": {"ETag": 1}}, Fault(body="é".encode(), headers=((b"etag", b"1"),))),
        ({"gzip": True, "delay_s": 1.5}, Fault(gzip=True, delay_s=1.5)),
    ],
)
def test_faults_as_json(said: dict[str, Any], fault: Fault) -> None:
    assert read_fault(said) == fault


@pytest.mark.parametrize(
    ("request_line", "body", "status", "error"),
    [
        ("GET nothing", b"", 400, "expected a method and path of the emulator's control"),
        ("PUT counts", b"", 400, "expected a method and path of the emulator's control"),
        ("POST chats/H1/nothing", b"", 400, "expected a method and path of the emulator's control"),
        ("POST chats/H1/accept", b"", 404, "got 'H1'"),
        ("POST chats", b"{", 400, 'body: expected JSON, got the text "{"'),
        ("POST faults", b"status=500", 400, 'body: expected JSON, got the text "status=500"'),
        ("POST faults", b"x" * 99, 400, '"' + "x" * 59 + "..."),
        ("POST faults", b"\xff", 400, "body: expected JSON, got the text "),
        ("POST faults", b"[" * 100_000, 400, "body: expected JSON, got the text "),
        ("POST faults", b'"no"', 400, 'fault: expected a JSON object, got "no"'),
        ("POST faults", b'{"headers":[]}', 400, "headers: expected a JSON object, got []"),
        ("POST chats", b"[]", 400, "body: expected a JSON object, got []"),
        ("POST chats", b'{"account":123}', 400, "account: expected a string, got 123"),
        ("POST chats", b'{"accept":1}', 400, "accept: expected true or false, got 1"),
        ("POST chats", b'{"fields":3}', 400, "fields: expected a JSON object, got 3"),
        ("POST chats", b'{"account":"9"}', 400, "account: expected one of 123, got '9'"),
        ("POST chats", b'{"fields":{"interactionTimeout":"x"}}', 400, "'x'"),
        ("POST chats", b'{"count":"x"}', 400, 'count: expected a whole number, got "x"'),
        ("POST faults", b'{"stauts":500}', 400, "fault: expected one of resource, chat,"),
        ("POST faults", b'{"stauts":500}', 400, "drip, truncate_to, got stauts"),
        ("POST faults", b'{"status":"500"}', 400, 'status: expected a whole number, got "500"'),
        ("POST faults", b'{"status":true}', 400, "status: expected a whole number, got true"),
        ("POST faults", b'{"delay_s":"1"}', 400, 'delay_s: expected a number, got "1"'),
        ("POST faults", b'{"body":{}}', 400, "body: expected a string, got {}"),
        ("POST faults", b'{"hang":1}', 400, "hang: expected true or false, got 1"),
        ("POST faults", b'{"drip":1}', 400, "drip: expected a JSON object, got 1"),
        ("POST faults", b'{"drip":{"chunk_bytes":1}}', 400, "every_s: expected a number, got null"),
        (
            "POST faults",
            b'{"drip":{"chunk_bytes":0,"every_s":1}}',
            400,
            "chunk_bytes: expected at least 1, got 0",
        ),
        ("POST faults", b'{"reset_after":"x"}', 400, 'reset_after: expected a whole number, got "x"'),
        (
            "POST faults",
            b'{"drop":true,"hang":true}',
            400,
            "fault: expected at most one of hang, drop, reset_after, drip, truncate_to, got hang, drop",
        ),
    ],
)
async def test_control_says_what_is_wrong(
    caller: Caller, request_line: str, body: bytes, status: int, error: str
) -> None:
    method, path = request_line.split()
    got, _, answer = await caller.ask(f"/_emulator/{path}", method, body)
    assert (got, error in json.loads(answer)["error"]) == (status, True), answer


async def test_control_says_what_is_wrong_with_a_line_and_with_typing(
    server: EmulatorServer, caller: Caller
) -> None:
    chat = server.emulator.start_chat("123")
    for path, body, error in [
        ("line", b'{"text":1}', "text: expected a string, got 1"),
        ("typing", b'{"typing":"no"}', 'typing: expected true or false, got "no"'),
        ("typing", b"", f"chat {chat}: expected it chatting, got waiting"),
    ]:
        status, _, answer = await caller.ask(f"/_emulator/chats/{chat}/{path}", "POST", body)
        assert (status, json.loads(answer)) == (400, {"error": error})


# The command.


def test_the_command_says_where_it_is_and_ends_with_the_counts() -> None:
    code = "from gateway.emulator import EmulatorConfig, run; run('127.0.0.1', 0, EmulatorConfig())"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:  # noqa: S603
        assert process.stdout is not None
        first = process.stdout.readline()
        port = int(first.split(",")[0].rsplit(":", 1)[1])
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.sendall(b"GET /x HTTP/1.1\r\nConnection: close\r\n\r\n")
            assert connection.recv(12) == b"HTTP/1.1 404"
        process.send_signal(signal.SIGINT)
        rest, _ = process.communicate(timeout=10)
    assert rest.splitlines()[-2:] == [
        "1 requests; chats: 0 waiting, 0 chatting, 0 ended",
        "unknown          1",
    ]
    assert process.returncode == 0
