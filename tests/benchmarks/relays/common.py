"""What the relays share: how they are served, which is how the gateway is."""

from __future__ import annotations

import sys
from typing import Any

import uvicorn

#: What belongs to one connection, or is made anew for the next.
LEFT_BEHIND = frozenset({b"host", b"connection", b"content-length", b"transfer-encoding", b"date", b"server"})


def upstream() -> str:
    """Where requests go: the second argument of the command line is its port."""
    return f"http://127.0.0.1:{sys.argv[2]}"


def serve(app: Any) -> None:
    """Serve an ASGI application on the port that is the first argument."""
    uvicorn.run(
        app,
        host="127.0.0.1",
        port=int(sys.argv[1]),
        loop="uvloop",
        http="httptools",
        ws="none",
        lifespan="auto",
        access_log=False,
        log_level="warning",
        backlog=4096,
    )


def forwarded(headers: list[tuple[bytes, bytes]]) -> list[tuple[str, str]]:
    """The fields of a request that go on."""
    return [
        (name.decode("latin-1"), value.decode("latin-1"))
        for name, value in headers
        if name not in LEFT_BEHIND
    ]


async def body_of(receive: Any) -> bytes:
    """The whole body of a request."""
    body = bytearray()
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body", False):
            return bytes(body)


async def answer(send: Any, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
    """Pass an answer on."""
    kept = [(name.lower(), value) for name, value in headers if name.lower() not in LEFT_BEHIND]
    kept.append((b"content-length", b"%d" % len(body)))
    await send({"type": "http.response.start", "status": status, "headers": kept})
    await send({"type": "http.response.body", "body": body})
