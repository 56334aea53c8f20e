"""httpx inside uvicorn, and nothing else: `python -m tests.benchmarks.relays.plain_httpx PORT UPSTREAM`."""

from __future__ import annotations

from typing import Any

import httpx

from tests.benchmarks.relays.common import answer, body_of, forwarded, serve, upstream

client = httpx.AsyncClient(limits=httpx.Limits(max_connections=1000, max_keepalive_connections=1000))


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Forward one request and its answer, whole."""
    if scope["type"] != "http":
        return
    url = upstream() + scope["raw_path"].decode() + "?" + scope["query_string"].decode()
    body = await body_of(receive)
    said = await client.request(scope["method"], url, headers=forwarded(scope["headers"]), content=body)
    await answer(send, said.status_code, list(said.headers.raw), said.content)


if __name__ == "__main__":
    serve(app)
