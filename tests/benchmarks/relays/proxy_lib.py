"""fastapi-proxy-lib as it is meant: `python -m tests.benchmarks.relays.proxy_lib PORT UPSTREAM`."""

from __future__ import annotations

import httpx
from fastapi_proxy_lib.fastapi.app import reverse_http_app

from tests.benchmarks.relays.common import serve, upstream

if __name__ == "__main__":
    limits = httpx.Limits(max_connections=1000, max_keepalive_connections=1000)
    serve(reverse_http_app(httpx.AsyncClient(limits=limits), base_url=upstream() + "/"))
