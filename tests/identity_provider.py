"""An identity provider on loopback: it signs tokens, publishes its keys, and misbehaves when it is told to.

Like a real one it may keep old keys for a while, ask who wants to know, be slow, be down, or talk nonsense.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import ipaddress
import json
import ssl
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import jwt
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from gateway.demo.stage import AUDIENCE
from gateway.identity.development import new_key

HOST = "127.0.0.1"
DISCOVERY = "/.well-known/openid-configuration"
KEYS = "/keys"
CA_FILE = "ca.pem"

#: Says something else than the truth, given the head of the request and both ends of its connection.
Behaviour = Callable[[bytes, asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Provider:
    """One issuer. `asked` counts requests by their path, `heads` has them; `behaviour` is how it fails.

    `wants` is the bearer token that it takes to be told anything, in small letters.
    """

    def __init__(self, scheme: str, algorithm: str) -> None:
        self.algorithm = algorithm
        self.issuer = ""
        self.asked: Counter[str] = Counter()
        self.heads: list[bytes] = []
        self.behaviour: Behaviour | None = None
        self.wants: str | None = None
        self._scheme = scheme
        self._keys: list[tuple[Any, dict[str, object]]] = []
        self.rotate(keep=0)

    def listens_at(self, port: int) -> None:
        """From now on this is where it is, and who."""
        self.issuer = f"{self._scheme}://{HOST}:{port}"

    @property
    def jwks_url(self) -> str:
        return self.issuer + KEYS

    def rotate(self, *, keep: int = 1) -> None:
        """Publish a new key and sign with it from now on; so many of the older ones stay published."""
        private, jwks = new_key(self.algorithm)
        [jwk] = json.loads(jwks)["keys"]
        # Loaded once: each loading proves an RSA key prime again.
        self._keys = [(load_pem_private_key(private, None), jwk), *self._keys[:keep]]

    def jwks(self) -> bytes:
        """What it publishes."""
        return json.dumps({"keys": [jwk for _, jwk in self._keys]}).encode()

    def token(
        self,
        subject: str = "bff",
        *,
        lifetime_s: float = 3600.0,
        age: int = 0,
        header: dict[str, object] | None = None,
        **claims: object,
    ) -> str:
        """A token signed with the newest key, or with one that is so many rotations older."""
        private, jwk = self._keys[age]
        said = {"iss": self.issuer, "aud": AUDIENCE, "sub": subject, "exp": int(time.time() + lifetime_s)}
        fields: dict[str, object] = {"kid": jwk["kid"], **(header or {})}
        return jwt.encode(said | claims, private, self.algorithm, headers=fields)

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One request, on a connection of its own."""
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            head = await reader.readuntil(b"\r\n\r\n")
            self.heads.append(head)
            self.asked[head.split(b" ")[1].decode()] += 1
            if self.behaviour is not None:
                await self.behaviour(head, reader, writer)
            else:
                writer.write(self._truth(head))
            await writer.drain()
        writer.close()

    def _truth(self, head: bytes) -> bytes:
        line, *fields = head.split(b"\r\n")
        if self.wants is not None and f"authorization: bearer {self.wants}".encode() not in map(
            bytes.lower, fields
        ):
            return response(401)
        path = line.split(b" ")[1].decode()
        if path == DISCOVERY:
            return response(200, json.dumps({"issuer": self.issuer, "jwks_uri": self.jwks_url}).encode())
        return response(200, self.jwks()) if path == KEYS else response(404)

    @property
    def fetches(self) -> int:
        """How often somebody asked for the keys."""
        return self.asked[KEYS]


def response(status: int, body: bytes = b"", *fields: str) -> bytes:
    """A whole answer."""
    lines = [f"HTTP/1.1 {status} Said", f"content-length: {len(body)}", *fields]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def says(answer: bytes) -> Behaviour:
    """Whatever is asked, this is the answer."""

    async def say(_: bytes, __: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(answer)

    return say


async def hangs(_: bytes, reader: asyncio.StreamReader, __: asyncio.StreamWriter) -> None:
    """No answer; it ends when whoever asked gives up."""
    await reader.read()


#: How a provider can fail, by name; none of it is a set of keys.
FAILURES: dict[str, Behaviour] = {
    "down": says(response(503)),
    "hangs up": says(b""),
    "garbage": says(b"\x16\x03\x01\x00\r\n\r\n"),
    "html": says(response(200, b"<html>Sign in</html>", "content-type: text/html")),
    "no keys": says(response(200, b'{"keys": []}')),
    "cut short": says(response(200, b'{"keys": []}')[:-4]),
    "too large": says(response(200, b" " * 300_000 + b'{"keys": []}')),
}


@contextlib.asynccontextmanager
async def provider(folder: Path | None = None, *, algorithm: str = "ES256") -> AsyncIterator[Provider]:
    """One that listens while the block runs: over http, or over https with a CA whose file is in `folder`."""
    it = Provider("http" if folder is None else "https", algorithm)
    context = None if folder is None else certified(folder)
    async with await asyncio.start_server(it.answer, HOST, 0, ssl=context) as listening:
        it.listens_at(listening.sockets[0].getsockname()[1])
        yield it


def certified(folder: Path) -> ssl.SSLContext:
    """A server's context for `HOST`; whoever trusts `folder / CA_FILE` trusts it, and nobody else does."""
    ca, server = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    folder.mkdir(exist_ok=True)
    (folder / CA_FILE).write_bytes(_certificate(ca, "ca", ca))
    private = server.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (folder / "server.pem").write_bytes(private + _certificate(server, HOST, ca))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "server.pem")
    return context


def _certificate(key: ec.EllipticCurvePrivateKey, name: str, signer: ec.EllipticCurvePrivateKey) -> bytes:
    is_ca = key is signer
    subject, issuer = (
        x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)]) for text in (name, "ca")
    )
    day, today = dt.timedelta(days=1), dt.datetime.now(dt.UTC)
    unsigned = (
        x509.CertificateBuilder(issuer, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(today - day)
        .not_valid_after(today + day)
        .add_extension(x509.BasicConstraints(is_ca, None), critical=True)
    )
    if not is_ca:
        address = x509.IPAddress(ipaddress.ip_address(name))
        unsigned = unsigned.add_extension(x509.SubjectAlternativeName([address]), critical=False)
    return unsigned.sign(signer, hashes.SHA256()).public_bytes(Encoding.PEM)
