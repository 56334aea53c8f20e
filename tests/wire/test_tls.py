"""Both listeners behind TLS: certificates, deadlines, and what comes of those who do not speak it."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import logging
import socket
import ssl
import struct
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from gateway.config.settings import server_context
from gateway.edge.protocol import Bounds
from tests.edge.road import BOUNDS, GET, PUT, Road, client, heard, on_sockets, replies
from tests.support import PATIENCE_S

pytestmark = pytest.mark.anyio

SHORT = replace(BOUNDS, head_s=0.3, body_s=0.3, idle_s=0.6, send_s=0.4)


def certificate(folder: Path, name: str) -> tuple[Path, Path]:
    """A certificate of that name, signed by itself, and its key."""
    key, day, today = ec.generate_private_key(ec.SECP256R1()), dt.timedelta(days=1), dt.datetime.now(dt.UTC)
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    builder = x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(today - day).not_valid_after(today + day)
    alternative = x509.SubjectAlternativeName([x509.DNSName(name)])
    signed = builder.add_extension(alternative, critical=False).sign(key, hashes.SHA256())
    chain, secret = folder / f"{name}.pem", folder / f"{name}.key"
    chain.write_bytes(signed.public_bytes(Encoding.PEM))
    secret.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return chain, secret


async def answered(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> list[str]:
    """What the next reply says, without a body."""
    writer.write(GET + b"\r\n")
    async with asyncio.timeout(PATIENCE_S):
        return replies(await reader.readuntil(b"\r\n\r\n"))


async def test_both_listeners_speak_tls(tmp_path: Path) -> None:
    chain, key = certificate(tmp_path, "a.example")
    async with on_sockets(Road(), tls=server_context(chain, key)) as addresses:
        async with client(addresses.public, chain) as (reader, writer):
            assert [await answered(reader, writer) for _ in range(3)] == [["200"]] * 3
            writer.write(GET + b"connection: close\r\n\r\n")
            assert replies(await heard(reader)) == ["200"]
        async with client(addresses.private, chain) as (reader, writer):
            writer.write(GET + b"\r\n")
            assert (await reader.readline()).startswith(b"HTTP/1.1 204 ")


async def test_a_new_certificate_is_for_new_connections(tmp_path: Path) -> None:
    (old, old_key), (new, new_key) = (
        certificate(tmp_path, "old.example"),
        certificate(tmp_path, "new.example"),
    )
    context = server_context(old, old_key)
    async with on_sockets(Road(), tls=context) as addresses, client(addresses.public, old) as before:
        assert await answered(*before) == ["200"]
        context.load_cert_chain(new, new_key)
        async with client(addresses.public, new) as after:
            assert await answered(*after) == ["200"]
        with pytest.raises(ssl.SSLCertVerificationError):
            async with client(addresses.public, old):
                pass  # pragma: no cover - it is not let in
        assert await answered(*before) == ["200"]


HELLO = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"
HOSTILE = {
    "plain http": GET + b"\r\n",
    "nothing": b"",
    "half a hello": HELLO + b"a" * 40,
    "a hello of nonsense": HELLO + b"a" * 600,
    "an old version": b"\x16\x02\x00" + HELLO[3:] + b"a" * 600,
    "an alert": b"\x15\x03\x01\x00\x02\x02\x28",
    "zeros": b"\x00" * 20_000,
}


@pytest.mark.parametrize("name", HOSTILE)
async def test_who_does_not_speak_tls_is_let_go_without_a_word(
    tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """Whoever likes can do that as often as it likes: no line of any log may come of it."""
    chain, key = certificate(tmp_path, "a.example")
    async with on_sockets(road := Road(), SHORT, tls=server_context(chain, key)) as addresses:
        for port in (addresses.public, addresses.private):
            for _ in range(20):
                reader, writer = await asyncio.open_connection(*port)
                writer.write(HOSTILE[name])
                if name in {"nothing", "half a hello"}:
                    writer.write_eof()
                with contextlib.suppress(ConnectionError):
                    assert b"HTTP" not in await heard(reader)
                writer.transport.abort()
        async with client(addresses.public, chain) as good:
            assert await answered(*good) == ["200"]
    assert (warnings(caplog), capfd.readouterr().err, road.refused) == ([], "", [])


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


async def test_who_resets_at_any_time_is_not_spoken_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    chain, key = certificate(tmp_path, "a.example")
    at_once = (socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    async with on_sockets(Road(), SHORT, tls=server_context(chain, key)) as addresses:
        for sent in (b"", HELLO, GET):
            with socket.create_connection(addresses.public) as each:
                each.setsockopt(*at_once)
                each.sendall(sent)
                await asyncio.sleep(0.02)
        for sent in (b"", GET, GET + b"\r\n", PUT + b"content-length: 9\r\n\r\n"):
            async with client(addresses.public, chain) as (_, writer):
                writer.get_extra_info("socket").setsockopt(*at_once)
                writer.write(sent)
        async with client(addresses.public, chain) as good:
            assert await answered(*good) == ["200"]
    assert (warnings(caplog), capfd.readouterr().err) == ([], "")


async def test_a_handshake_has_its_deadline(tmp_path: Path) -> None:
    chain, key = certificate(tmp_path, "a.example")
    async with on_sockets(Road(), SHORT, tls=server_context(chain, key)) as addresses:
        for sent in (b"", HELLO):
            for port in (addresses.public, addresses.private):
                reader, writer = await asyncio.open_connection(*port)
                writer.write(sent)
                async with asyncio.timeout(5):
                    assert await reader.read() == b""
                writer.transport.abort()


@pytest.mark.parametrize(
    ("sent", "told"),
    [
        (b"", []),
        (b"GET /a", ["request-timeout"]),
        (PUT + b"content-length: 9\r\n\r\nabc", ["request-timeout"]),
        (GET + b"\r\n", ["200"]),
        (b"GET  /a\r\n", ["malformed-request"]),
    ],
)
async def test_deadlines_are_those_of_plain_http(tmp_path: Path, sent: bytes, told: list[str]) -> None:
    chain, key = certificate(tmp_path, "a.example")
    async with contextlib.AsyncExitStack() as stack:
        listeners = on_sockets(Road(), SHORT, tls=server_context(chain, key))
        at = (await stack.enter_async_context(listeners)).public
        reader, writer = await stack.enter_async_context(client(at, chain))
        writer.write(sent)
        assert replies(await heard(reader)) == told


async def test_who_does_not_read_is_cut_off(tmp_path: Path) -> None:
    chain, key = certificate(tmp_path, "a.example")
    road = Road(reply=b"a" * 20_000_000)
    async with contextlib.AsyncExitStack() as stack:
        listeners = on_sockets(road, SHORT, tls=server_context(chain, key))
        at = (await stack.enter_async_context(listeners)).public
        reader, writer = await stack.enter_async_context(client(at, chain))
        writer.write(GET + b"\r\n")
        await reader.readuntil(b"\r\n\r\n")
        writer.transport.pause_reading()  # type: ignore[attr-defined]  # every socket's transport can
        await asyncio.sleep(3 * SHORT.send_s)
        writer.transport.resume_reading()  # type: ignore[attr-defined]
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            assert len(await heard(reader)) < 20_000_000


async def test_connections_are_counted_when_they_are_made(tmp_path: Path) -> None:
    chain, key = certificate(tmp_path, "a.example")
    bounds = Bounds(max_connections_per_peer=2)
    async with contextlib.AsyncExitStack() as stack:
        listeners = on_sockets(Road(), bounds, tls=server_context(chain, key))
        at = (await stack.enter_async_context(listeners)).public
        clients = [await stack.enter_async_context(client(at, chain)) for _ in range(3)]
        assert [await answered(*each) for each in clients[:2]] == [["200"]] * 2
        assert replies(await heard(clients[2][0])) == ["too-many-connections"]
