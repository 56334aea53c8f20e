"""aiohttp inside uvicorn, and nothing else: `python -m tests.benchmarks.relays.bare PORT UPSTREAM`."""

from __future__ import annotations

from typing import Any

import aiohttp
from yarl import URL

from tests.benchmarks.relays.common import answer, body_of, forwarded, serve, upstream

session: Any = None


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Forward one request and its answer, whole."""
    global session  # noqa: PLW0603 - it wants a running loop
    if scope["type"] != "http":
        return
    session = session or aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=1000), cookie_jar=aiohttp.DummyCookieJar()
    )
    url = URL(upstream() + scope["raw_path"].decode() + "?" + scope["query_string"].decode(), encoded=True)
    body = await body_of(receive)
    async with session.request(
        scope["method"], url, headers=forwarded(scope["headers"]), data=body or None, allow_redirects=False
    ) as said:
        await answer(send, said.status, list(said.raw_headers), await said.read())


if __name__ == "__main__":
    serve(app)
