"""Where one request ends and the next begins: nothing a client sends is read as two, or as another's."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import socket
import struct
from pathlib import Path

import pytest

from gateway.edge.protocol import MAX_PIPELINED, Connection
from gateway.emulator import EmulatorConfig
from tests.support import APP_KEY, account_path, chat_path, message, until, world

pytestmark = pytest.mark.anyio

INNER = b"GET /nothing HTTP/1.1\r\nhost: x\r\n\r\n"


@pytest.mark.parametrize("upgrade", ["h2c", "websocket", "anything"])
@pytest.mark.parametrize("at_once", [True, False])
async def test_the_body_of_an_upgrade_is_no_request(tmp_path: Path, upgrade: str, at_once: bool) -> None:
    async with world(tmp_path) as it, it.wire() as wire:
        fields = {"connection": "upgrade", "upgrade": upgrade, **it.bearer()}
        head, body = message("PUT", chat_path(it.chat(), "/info/visitorName"), fields, INNER), b""
        if not at_once:
            head, body = head[: -len(INNER)], INNER
        await wire.send(head)
        response = await wire.response()
        assert (response.status, response.problem) == (400, "malformed-request")
        await wire.send(body)
        assert await wire.until_closed() == b""
        assert it.upstream_requests() == 0


async def test_trailers_are_no_header_fields(tmp_path: Path) -> None:
    async with world(tmp_path) as it, it.wire() as wire:
        body = b'{"visitorName": "Zoe"}'
        chunked = b"%x\r\n%s\r\n0\r\nx-http-method-override: PUT\r\nauthorization: x\r\n\r\n" % (
            len(body),
            body,
        )
        fields = {"transfer-encoding": "chunked", "content-type": "application/json", **it.bearer()}
        head = message("POST", chat_path(it.chat(), "/info/visitorName"), fields)
        await wire.send(head.replace(b"content-length: 0\r\n", b"") + chunked)
        assert (await wire.response()).status == 405
        assert it.upstream_requests() == 0


async def test_what_was_asked_before_garbage_is_answered_first(tmp_path: Path) -> None:
    config = EmulatorConfig(app_key=APP_KEY, latency_s=0.05)
    async with world(tmp_path, emulator=config) as it, it.wire() as wire:
        body = b'{"visitorName": "Zoe"}'
        fields = {"content-type": "application/json", **it.bearer()}
        write = message("PUT", chat_path(it.chat(), "/info/visitorName"), fields, body)
        await wire.send(write + b"\x00garbage\r\n\r\n")
        await until(lambda: it.upstream_requests() == 1)
        await wire.send(INNER)
        assert (await wire.response()).status == 201
        assert (await wire.response()).problem == "malformed-request"
        assert await wire.until_closed() == b""
        assert it.upstream_requests() == 1


async def test_garbage_behind_two_requests_takes_neither_answer(tmp_path: Path) -> None:
    config = EmulatorConfig(app_key=APP_KEY, latency_s=0.05)
    async with world(tmp_path, emulator=config) as it, it.wire() as wire:
        read = message("GET", account_path(), it.bearer())
        await wire.send(read + read + b"\x00garbage\r\n\r\n")
        assert [(await wire.response()).status for _ in range(3)] == [200, 200, 400]
        assert await wire.until_closed() == b""


async def test_a_body_that_breaks_off_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    async with world(tmp_path) as it, it.wire() as wire:
        fields = {"transfer-encoding": "chunked", "content-type": "application/json", **it.bearer()}
        head = message("PUT", chat_path(it.chat(), "/info/visitorName"), fields)
        await wire.send(head.replace(b"content-length: 0\r\n", b"") + b"5\r\n{}   \r\nnot a size\r\n")
        response = await wire.response()
        assert (response.status, response.problem) == (400, "malformed-request")
        assert await wire.until_closed() == b""
        assert it.upstream_requests() == 0


async def test_half_a_request_behind_another_does_not_cost_its_answer(tmp_path: Path) -> None:
    config = EmulatorConfig(app_key=APP_KEY, latency_s=0.05)
    async with world(tmp_path, emulator=config) as it, it.wire() as wire:
        fields = {"transfer-encoding": "chunked", "content-type": "application/json", **it.bearer()}
        half = message("PUT", chat_path(it.chat(), "/info/visitorName"), fields)
        broken = half.replace(b"content-length: 0\r\n", b"") + b"nonsense\r\n"
        await wire.send(message("GET", account_path(), it.bearer()) + broken)
        assert (await wire.response()).status == 200
        assert (await wire.response()).problem == "malformed-request"
        assert await wire.until_closed() == b""
        assert it.upstream_requests() == 1


async def test_a_body_that_comes_too_late_does_not_hold_up_the_end(tmp_path: Path) -> None:
    async with contextlib.AsyncExitStack() as after:
        async with world(tmp_path, drain_s=0) as it:
            wire = await after.enter_async_context(it.wire())
            fields = {"content-type": "application/json", **it.bearer()}
            whole = message("PUT", chat_path(it.chat(), "/info/visitorName"), fields, b"{}")
            await wire.send(whole[:-1])
            await it.get(account_path())  # answered after the head above was read

            async def rest() -> None:
                # Late for a drain window of nothing and its two seconds of grace, in time for the usual one.
                await asyncio.sleep(6)
                await wire.send(whole[-1:])

            late = asyncio.create_task(rest())
        assert (await wire.response()).problem == "draining"
        late.cancel()


async def test_a_trailer_that_says_close_closes(tmp_path: Path) -> None:
    """The parser takes nothing more after it: the next request would never be answered."""
    async with world(tmp_path) as it, it.wire() as wire:
        fields = {"transfer-encoding": "chunked", "content-type": "application/json", **it.bearer()}
        head = message("PUT", chat_path(it.chat(), "/info/visitorName"), fields)
        body = b'14\r\n{"visitorName":"Zoe"}\r\n0\r\nconnection: close\r\n\r\n'
        await wire.send(head.replace(b"content-length: 0\r\n", b"") + body.replace(b"14", b"15"))
        response = await wire.response()
        assert (response.status, response.header("connection")) == (201, "close")
        assert await wire.until_closed() == b""


async def test_only_so_many_requests_wait_and_all_are_answered(tmp_path: Path) -> None:
    config = EmulatorConfig(app_key=APP_KEY, latency_s=0.05)
    connections: list[Connection] = []
    async with world(tmp_path, emulator=config) as it, it.wire() as wire:
        slow = message("GET", account_path(), it.bearer())
        refused = [message("GET", f"/{number}", {"x-request-id": f"n{number}"}) for number in range(300)]
        await wire.send(slow + b"".join(refused))
        connections += [one for one in gc.get_objects() if isinstance(one, Connection) and one.pipeline]
        await until(lambda: it.upstream_requests() == 1)
        connections += [one for one in gc.get_objects() if isinstance(one, Connection) and one.pipeline]
        assert connections
        assert all(len(one.pipeline) <= MAX_PIPELINED for one in connections)
        assert (await wire.response()).status == 200
        told = [(await wire.response()).header("x-request-id") for _ in refused]
        assert told == [f"n{number}" for number in range(300)]
        # And it is read on.
        await wire.send(slow)
        assert (await wire.response()).status == 200


async def test_a_connection_keeps_nothing_of_what_was_answered(tmp_path: Path) -> None:
    async with world(tmp_path) as it, it.wire() as wire:
        body = b'{"visitorName": "%s"}' % (b"x" * 10_000)
        fields = {"content-type": "application/json", **it.bearer()}
        await wire.send(message("PUT", chat_path(it.chat(), "/info/visitorName"), fields, body))
        await wire.response()
        connections = [one for one in gc.get_objects() if isinstance(one, Connection)]
        # Not what other tests have left of theirs.
        held = [one for one in connections if one.site is it.gateway.web and one.cycle is not None]
        assert held
        assert all(not one.cycle.body and not hasattr(one.cycle, "_head") for one in held)


@pytest.mark.parametrize("requests", [1, 2, 5])
async def test_who_hangs_up_within_a_pipeline_leaves_nothing_and_crashes_nothing(
    tmp_path: Path, requests: int
) -> None:
    others = sum(isinstance(one, Connection) for one in gc.get_objects())
    async with world(tmp_path) as it:
        loop = asyncio.get_running_loop()
        kept = chat_path(it.chat(), "/info")
        await it.get(kept)
        asked = message("GET", kept, {**it.bearer(), "accept": "application/json"}) * requests
        for _ in range(50):
            with socket.socket() as peer:
                peer.setblocking(False)
                await loop.sock_connect(peer, it.addresses.public)
                await loop.sock_sendall(peer, asked)
                # A reset, not an end of what is sent.
                peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        await it.flights_landed()
        await until(lambda: it.gateway.connections() == 0)
        assert "crashed" not in it.log.getvalue()
        # Not even for the collector.
        await until(lambda: sum(isinstance(one, Connection) for one in gc.get_objects()) <= others)
