"""Commands and the private listener, over a real socket; and whatever else may sit at that address."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

import gateway.admin.client
from gateway.admin.client import CallFailed, call
from gateway.edge.server import bind
from tests.admin.listener import TOKEN, Listener
from tests.identity_provider import certified

pytestmark = pytest.mark.anyio

Address = tuple[str, int]


async def calling(address: Address, token: str | None, method: str, path: str, said: object = None) -> object:
    return await asyncio.to_thread(call, address, token, method, path, said)


async def test_calls_and_answers() -> None:
    it = Listener(outcome=(409, {"faults": ["ü"]}))
    async with it.on_a_socket() as address:
        assert await calling(address, TOKEN, "GET", "/usage") == (200, [{"client": "bff"}])
        assert await calling(address, TOKEN, "GET", "/readyz?verbose") == (
            200,
            {"policies": 3, "ready": True},
        )
        assert await calling(address, TOKEN, "POST", "/revocations", {"jti": "ä"}) == (409, {"faults": ["ü"]})
        assert await calling(address, TOKEN, "POST", "/reload", {}) == (409, {"faults": ["ü"]})
        assert it.told == [{"jti": "ä"}, "reload"]


@pytest.mark.parametrize("token", [None, "another"])
async def test_a_refusal_is_an_answer(token: str | None) -> None:
    async with Listener().on_a_socket() as address:
        assert await calling(address, token, "POST", "/reload", {}) == (
            401,
            {"error": "Send Authorization: Bearer and this listener's token."},
        )


@contextlib.asynccontextmanager
async def saying(answer: bytes) -> AsyncIterator[Address]:
    """Somebody else, who says this and hangs up; nothing said is silence."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(answer)
            if not answer:
                await reader.read()
            await writer.drain()
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[:2]


def answer(body: bytes, head: bytes = b"") -> bytes:
    return b"HTTP/1.1 200 OK\r\n%s\r\n%s" % (head, body)


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        (b"SSH-2.0-x\r\n", "does not speak as a private listener does"),
        (answer(b"{", b"content-length: 9\r\n"), "expected JSON"),
        (answer(b"<html>"), "expected JSON"),
        (answer(b"[" * 100_000), "expected JSON"),
        (answer(b"\xff"), "expected JSON"),
        (answer(b'"%s"' % (b"x" * 100)), "expected at most 64 bytes"),
        (b"HTTP/1.1 200 OK\r\n", "does not speak|expected JSON"),
    ],
)
async def test_who_is_no_private_listener(
    said: bytes, sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "at most" in sentence:
        monkeypatch.setattr(gateway.admin.client, "MAX_ANSWER_BYTES", 64)
    async with saying(said) as address:
        with pytest.raises(CallFailed, match=sentence) as failed:
            await calling(address, TOKEN, "GET", "/usage")
        assert TOKEN not in str(failed.value)
        assert f"127.0.0.1:{address[1]}" in str(failed.value)


@pytest.mark.parametrize(("shown", "is_answered"), [("server", True), ("other", False)])
async def test_over_tls_only_the_listener_with_that_certificate_is_asked(
    tmp_path: Path, shown: str, is_answered: bool
) -> None:
    contexts = {name: certified(tmp_path / name) for name in ("server", "other")}
    heads: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(answer(b"[]", b"content-length: 2\r\n"))
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0, ssl=contexts[shown]) as server:
        address = server.sockets[0].getsockname()[:2]
        asked = asyncio.to_thread(
            call, address, TOKEN, "GET", "/usage", certificate_file=tmp_path / "server" / "server.pem"
        )
        if is_answered:
            assert await asked == (200, [])
        else:
            with pytest.raises(CallFailed, match=r"does not show the certificate"):
                await asked
    assert bool(heads) == is_answered


async def test_silence_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gateway.admin.client, "TIMEOUT_S", 0.05)
    async with saying(b"") as address:
        with pytest.raises(CallFailed, match=r"did not answer within 0\.05 s"):
            await calling(address, TOKEN, "GET", "/usage")


async def test_nobody_is_there() -> None:
    free = bind("127.0.0.1", 0)
    port = free.getsockname()[1]
    free.close()
    with pytest.raises(
        CallFailed, match=f"cannot reach the private listener at 127.0.0.1:{port}: connection"
    ):
        await calling(("127.0.0.1", port), TOKEN, "GET", "/usage")


async def test_an_address_that_is_none() -> None:
    with pytest.raises(CallFailed, match=r"cannot reach the private listener at \[::zz\]:1: "):
        await calling(("::zz", 1), TOKEN, "GET", "/usage")


@pytest.mark.parametrize("token", ["two lines\n", "a b", "ü", "x\r\ny: z"])
async def test_a_token_that_is_none_is_not_sent(token: str) -> None:
    with pytest.raises(CallFailed, match="printable ASCII") as failed:
        await calling(("127.0.0.1", 1), token, "GET", "/usage")
    assert token not in str(failed.value)
