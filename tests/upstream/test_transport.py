"""The way to the upstream, against servers that the emulator is too well-behaved to be."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.emulator import EmulatorConfig, Fault
from tests.support import APP_KEY, World, account_path, chat_path, world

pytestmark = pytest.mark.anyio

BODY = b'{"account": {}}'
OK = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"
LENGTH = b"content-length: 15\r\n\r\n" + BODY


class Scripted:
    """A server that answers every request with the same bytes, and perhaps closes."""

    def __init__(self) -> None:
        self.answer = b""
        self.closes = True
        self.requests = 0

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                await reader.readuntil(b"\r\n\r\n")
                self.requests += 1
                writer.write(self.answer)
                await writer.drain()
                if self.closes:
                    break
        writer.close()


@pytest.fixture(scope="module")
async def stage(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[World, Scripted]]:
    script = Scripted()
    async with await asyncio.start_server(script, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with world(tmp_path_factory.mktemp("world"), upstream=url) as it:
            yield it, script


def chunked(*chunks: bytes, trailers: bytes = b"") -> bytes:
    body = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks)
    return b"transfer-encoding: chunked\r\n\r\n" + body + b"0\r\n" + trailers + b"\r\n"


#: The answer, and whether the connection is closed after it.
GOOD = {
    "a length": (OK + LENGTH, False),
    "chunks": (OK + chunked(BODY[:5], BODY[5:]), False),
    "chunks with trailers": (OK + chunked(BODY, trailers=b"set-cookie: a=b\r\n"), False),
    "until it closes": (OK + b"\r\n" + BODY, True),
    "http/1.0": (OK.replace(b"1.1", b"1.0") + b"\r\n" + BODY, True),
    "early hints": (b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n" + OK + LENGTH, False),
    "a type with parameters": (OK.replace(b"json", b"json; charset=UTF-8") + LENGTH, False),
    "capitals": (OK.replace(b"content-type", b"CONTENT-TYPE").replace(b"json", b"JSON") + LENGTH, False),
}


@pytest.mark.parametrize("name", GOOD)
async def test_answers_in_every_framing(stage: tuple[World, Scripted], name: str) -> None:
    it, script = stage
    script.answer, script.closes = GOOD[name]
    for _ in range(2):
        response = await it.get(account_path())
        assert (response.status, response.body) == (200, BODY)
        assert response.header("content-type") == "application/json"


BROKEN = {
    "no http": b"SSH-2.0-OpenSSH_9\r\n\r\n",
    "a broken status": b"HTTP/1.1 abc OK\r\n\r\n",
    "a switch of protocols": b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n",
    "two lengths": OK + b"content-length: 1\r\n" + LENGTH,
    "a broken length": OK + b"content-length: x\r\n\r\n" + BODY,
    "broken chunks": OK + b"transfer-encoding: chunked\r\n\r\nzz\r\n",
    "chunks without an end": OK + b"transfer-encoding: chunked\r\n\r\nf\r\n" + BODY,
    "an unknown transfer coding": OK + b"transfer-encoding: gzip\r\n\r\n" + BODY,
    "a broken field": OK + b"no colon\r\n" + LENGTH,
    "a huge head": OK + b"x-pad: " + b"x" * 200_000 + b"\r\n" + LENGTH,
    "no type": b"HTTP/1.1 200 OK\r\n" + LENGTH,
    "less than it says": OK + b"content-length: 99\r\n\r\n" + BODY,
}


@pytest.mark.parametrize("name", BROKEN)
async def test_what_is_no_answer_is_502(stage: tuple[World, Scripted], name: str) -> None:
    it, script = stage
    script.answer, script.closes = GOOD["until it closes"]
    await it.get(account_path())
    script.answer, script.requests = BROKEN[name], 0
    response = await it.get(account_path())
    assert response.status == 502, response
    assert response.problem in {"upstream-broken", "upstream-reset"}
    assert script.requests == 1


async def test_what_is_no_answer_is_not_asked_for_again(stage: tuple[World, Scripted]) -> None:
    """A kept connection that closed is worth another try; one that talks nonsense is not."""
    it, script = stage
    script.answer, script.closes = GOOD["a length"]
    await it.get(account_path())
    script.answer, script.closes, script.requests = BROKEN["no http"], True, 0
    assert (await it.get(account_path())).status == 502
    assert script.requests == 1


async def test_an_answer_that_was_not_asked_for_reaches_nobody(stage: tuple[World, Scripted]) -> None:
    """A second answer behind the first one is not the answer to the next request."""
    it, script = stage
    stray = OK + b'content-length: 14\r\n\r\n{"stray":true}'
    script.answer, script.closes = OK + LENGTH + stray, False
    for _ in range(3):
        assert b"stray" not in (await it.get(account_path())).body


async def test_proxies_of_the_environment_are_not_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    netrc = tmp_path / "netrc"
    netrc.write_text("default login me password secret\n")
    monkeypatch.setenv("NETRC", str(netrc))
    config = EmulatorConfig(app_key=APP_KEY, record=1)
    async with world(tmp_path, emulator=config) as it:
        assert (await it.get(account_path())).status == 200
        assert not it.emulator.saw(b"Basic")


async def test_the_deadline_counts_the_wait_for_a_connection(tmp_path: Path) -> None:
    environ = {
        "UPSTREAM__MAX_CONNECTIONS": "1",
        "UPSTREAM__DEADLINE_MS": "600",
        "UPSTREAM__STALE_AFTER_MS": "100",
    }
    async with world(tmp_path, environ=environ) as it:
        # The first is done in time; the second has less time left than it needs.
        it.emulator.fail(Fault(times=None, delay_s=0.4))
        asked = [it.get(account_path()) for _ in range(4)]
        statuses = sorted(response.status for response in await asyncio.gather(*asked))
        assert statuses == [200, 504, 504, 504]
        it.emulator.clear_faults()
        assert (await it.get(account_path())).status == 200


async def test_connections_upstream_are_bounded(tmp_path: Path) -> None:
    config = EmulatorConfig(app_key=APP_KEY, latency_s=0.02)
    async with world(tmp_path, emulator=config, environ={"UPSTREAM__MAX_CONNECTIONS": "3"}) as it:
        most = 0

        async def watch() -> None:
            nonlocal most
            while True:
                most = max(most, len(it.server.connections))
                await asyncio.sleep(0.002)

        watching = asyncio.create_task(watch())
        path = chat_path(it.chat(), "/info/agentTyping")
        assert {r.status for r in await asyncio.gather(*(it.get(path) for _ in range(20)))} == {200}
        watching.cancel()
        assert most == 3
