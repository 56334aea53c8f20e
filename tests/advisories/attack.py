"""In common: bytes on a connection, tokens by hand and how to see that they came to nothing."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass, field
from typing import Any

import jwt

from gateway.demo.stage import AUDIENCE, ISSUER
from gateway.identity.development import kid_of, new_key
from gateway.identity.documents import write_base64url
from tests.hostile.recorder import Peer, Reply, connect
from tests.support import PATIENCE_S, Response, Wire, World, account_path, chat_path, message

#: A chat that nobody but an attacker names.
HIDDEN = "H666-smuggled"


def hidden(here: World) -> bytes:
    """A request that is to be seen by one of two readers only."""
    return message("GET", chat_path(HIDDEN, "/info"), here.bearer())


def sealed(here: World, method: str, target: str, *fields: tuple[str, str], body: bytes = b"") -> bytes:
    """A request with a good token and these fields, and no framing but theirs."""
    lines = [f"{method} {target} HTTP/1.1", "host: gateway.test"]
    lines += [f"{name}: {value}" for name, value in (*here.bearer().items(), *fields)]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


async def throw(here: World, data: bytes, *, replies: int = 1) -> Peer:
    """Send bytes on a connection of their own, and wait for so many replies or the end."""
    peer = await connect(here.addresses.public)
    peer.transport.write(data)
    assert await peer.until(replies, PATIENCE_S), "neither answered nor closed"
    here.received.append(bytes(peer.raw))
    return peer


async def refused_and_closed(here: World, data: bytes, status: int = 400) -> Reply:
    """These bytes get one refusal, and nothing that stands in them is done."""
    peer = await throw(here, data, replies=100)
    assert peer.is_closed
    assert not peer.garbage
    (reply,) = peer.replies
    assert (reply.status, reply.closes) == (status, True)
    untouched(here)
    return reply


async def refused_body(here: World, body: bytes, media_type: str = "application/xml") -> None:
    """No write with such a body goes any further."""
    for method, target in (
        ("PUT", chat_path(here.chat(), "/customVariables")),
        ("POST", account_path("/chat/request")),
    ):
        reply = await here.ask(method, target, {"content-type": media_type}, body)
        assert (reply.status, reply.problem) == (400, "malformed-body")
    untouched(here)


async def deceived(here: World, suffix: str) -> None:
    """The victim is led to the address; then the attacker asks for it."""
    target = chat_path(here.chat(), "/info" + suffix)
    for subject in ("bff", None):
        reply = await here.ask("GET", target, subject=subject)
        assert reply.status in {400, 401, 404}
        assert "visitor" not in reply.body.decode()
    untouched(here)


def untouched(here: World) -> None:
    """Nothing has reached the upstream."""
    assert list(here.emulator.recorded) == []


def unseen(here: World, needle: bytes | str = HIDDEN) -> None:
    """The upstream has not seen this, nor has a client or the log."""
    sought = needle.encode() if isinstance(needle, str) else needle
    assert not here.emulator.saw(sought)
    assert sought not in here.log.getvalue().encode()


async def operator(
    here: World, method: str, path: str, fields: dict[str, str], body: bytes = b"", *, host: str = "localhost"
) -> Response:
    """One request to the private listener."""
    fields = {"authorization": f"Bearer {here.stage.admin_token}"} | fields
    wire = Wire(*await asyncio.open_connection(*here.addresses.private), here.received)
    try:
        await wire.send(message(method, path, fields, body).replace(b"gateway.test", host.encode(), 1))
        return await wire.response(method)
    finally:
        await wire.close()


@dataclass
class Forge:
    """What an attacker can sign with: the issuer's key, to say what he likes, and one of his own."""

    private: bytes = field(repr=False)
    own: bytes = field(default_factory=lambda: new_key("ES256")[0], repr=False)

    @property
    def kid(self) -> str:
        return kid_of(self.private)

    def header(self, **changes: object) -> dict[str, Any]:
        """A good header, with these members changed, or left out for None."""
        return _changed({"alg": "ES256", "typ": "JWT", "kid": self.kid}, changes)

    def claims(self, **changes: object) -> dict[str, Any]:
        """Good claims, likewise."""
        said = {"iss": ISSUER, "aud": AUDIENCE, "sub": "bff", "exp": int(time.time()) + 600}
        return _changed(said, changes)

    def token(
        self,
        header: str | bytes | dict[str, Any] | None = None,
        claims: str | bytes | dict[str, Any] | None = None,
        key: bytes | None = None,
    ) -> str:
        """A token that is truly signed, by the issuer's key or by this one."""
        parts = part(self.header() if header is None else header)
        parts += "." + part(self.claims() if claims is None else claims)
        algorithm = jwt.get_algorithm_by_name("ES256")
        signer = algorithm.prepare_key((key or self.private).decode())
        return parts + "." + part(algorithm.sign(parts.encode(), signer))

    def jwk(self, private: bytes) -> dict[str, Any]:
        """The public half of a key."""
        algorithm = jwt.get_algorithm_by_name("ES256")
        return dict(algorithm.to_jwk(algorithm.prepare_key(private.decode()).public_key(), as_dict=True))


def _changed(said: dict[str, Any], changes: dict[str, object]) -> dict[str, Any]:
    return {name: value for name, value in (said | changes).items() if value is not None}


def part(said: str | bytes | dict[str, Any]) -> str:
    """A part of a token."""
    text = json.dumps(said) if isinstance(said, dict) else said
    return write_base64url(text.encode() if isinstance(text, str) else text).decode()


def hmac_signed(header: dict[str, Any], claims: dict[str, Any], secret: bytes) -> str:
    """PyJWT refuses to sign with what looks like a public key, so by hand."""
    parts = part(header) + "." + part(claims)
    return parts + "." + part(jwt.get_algorithm_by_name("HS256").sign(parts.encode(), secret))


async def status_of(here: World, token: str) -> int:
    """What a read with this token is answered."""
    fields = {"authorization": f"Bearer {token}"}
    return (await here.ask("GET", account_path(), fields, subject=None)).status


async def rejected(here: World, token: str) -> None:
    """Nobody is let in by this token, and the upstream hears nothing of it."""
    reply = await here.ask("GET", account_path(), {"authorization": f"Bearer {token}"}, subject=None)
    assert (reply.status, reply.problem) in {(401, "token-invalid"), (401, "token-expired")}
    untouched(here)
