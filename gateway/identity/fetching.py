"""Documents of issuers, over https: small, soon, and from where they were looked for, or not at all.

No redirect is followed, no proxy or netrc of the environment is believed, nothing inflates. A fetch every
few minutes needs no kept connection, so none is kept, and the CA file may be swapped between two fetches.
"""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path

import httpx2

from gateway.identity.keysets import MAX_BYTES

#: For a whole document, from looking up the name to the last byte.
DEADLINE_S = 5.0

#: Kubernetes serves its keys as application/jwk-set+json and answers 406 to who takes only JSON.
_ACCEPT = b"application/json, application/jwk-set+json"
_BEARER_TOKEN = re.compile(rb"([!-~]{1,8192})\r?\n?")


class Unfetched(Exception):
    """A document could not be had. The text is a fixed phrase: nothing that a server said is repeated."""


Fetch = Callable[[str], Awaitable[bytes]]


class Fetcher:
    """A `Fetch`: the body of a 200 from a URL, else Unfetched.

    Without `ca_file` the system's certificates are trusted, with it only those in the file. Both files are
    read at each fetch: Kubernetes rotates the token, and whoever runs the issuer may rotate its CA. By
    `proxy` (`http://host:port`) goes what is asked over https in a tunnel (CONNECT): nothing is seen there.
    """

    def __init__(
        self,
        ca_file: Path | None = None,
        bearer_token_file: Path | None = None,
        deadline_s: float = DEADLINE_S,
        proxy: str | None = None,
    ) -> None:
        self._ca_file = ca_file
        self._bearer_token_file = bearer_token_file
        self._deadline_s = deadline_s
        self._proxy = proxy
        # Connecting and TLS have half the time each: a handshake that is cancelled leaves its socket open.
        # Before that a proxy has to answer, and then each of the three has a third.
        self._timeout = (
            {"connect": deadline_s / 2}
            if proxy is None
            else dict.fromkeys(("connect", "read"), deadline_s / 3)
        )
        self._made: tuple[bytes | None, ssl.SSLContext] | None = None

    async def __call__(self, url: str) -> bytes:
        try:
            async with asyncio.timeout(self._deadline_s):
                return await self._get(url)
        except (OSError, httpx2.TransportError, httpx2.InvalidURL) as error:
            raise Unfetched(_phrase(error)) from error

    async def _get(self, url: str) -> bytes:
        # Files block, and hundreds of certificates take their time.
        context = await asyncio.to_thread(self._context)
        headers = [(b"accept", _ACCEPT), (b"accept-encoding", b"identity")]
        if self._bearer_token_file is not None:
            headers.append((b"authorization", await asyncio.to_thread(_bearer, self._bearer_token_file)))
        async with httpx2.AsyncHTTPTransport(verify=context, proxy=self._proxy) as transport:
            request = httpx2.Request("GET", url, headers=headers, extensions={"timeout": self._timeout})
            response = await transport.handle_async_request(request)
            try:
                return await _body(response)
            finally:
                await response.aclose()

    def _context(self) -> ssl.SSLContext:
        """Whom to trust, made anew when the file has changed: to read certificates takes a while."""
        try:
            trusted = None if self._ca_file is None else self._ca_file.read_bytes()
            if self._made is None or self._made[0] != trusted:
                self._made = trusted, _trusting(trusted)
        except (OSError, ValueError):  # SSLError is an OSError
            raise Unfetched("ca_file: expected certificates in PEM, got none that can be read") from None
        return self._made[1]


def _trusting(certificates: bytes | None) -> ssl.SSLContext:
    """A context that trusts these, or without any the system's."""
    if certificates is None:
        return httpx2.create_ssl_context(trust_env=False)
    # What stands around the blocks is for people, in whatever they write.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=certificates.decode("ascii", "replace").replace("\ufffd", "?"))
    return context


def _bearer(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            token = _BEARER_TOKEN.fullmatch(file.read(MAX_BYTES))
    except OSError:
        raise Unfetched("bearer_token_file: expected a file that can be read, got none") from None
    if token is None:
        raise Unfetched("bearer_token_file: expected one line of printable ASCII, got something else")
    return b"Bearer " + token[1]


async def _body(response: httpx2.Response) -> bytes:
    if response.status_code != 200:
        raise Unfetched(f"expected status 200, got {response.status_code}")
    if response.headers.get("content-encoding", "identity").lower() != "identity":
        raise Unfetched("expected identity as content coding, got another")
    body = bytearray()
    async for part in response.aiter_raw():
        body += part
        if len(body) > MAX_BYTES:
            raise Unfetched(f"expected at most {MAX_BYTES} bytes, got more")
    return bytes(body)


#: What the transport raises, by the first class that fits.
_PHRASES: tuple[tuple[type[Exception], str], ...] = (
    (TimeoutError, "expected an answer in time, got none"),
    (httpx2.TimeoutException, "expected an answer in time, got none"),
    (httpx2.ConnectError, "expected a connection, got none"),
    (httpx2.ProxyError, "expected a connection through the proxy, got none"),
    (httpx2.InvalidURL, "expected a URL, got something else"),
    (httpx2.UnsupportedProtocol, "expected an https URL, got another"),
    (Exception, "expected an HTTP answer, got a broken one"),
)


def _phrase(error: Exception) -> str:
    if _stems_from(error, ssl.SSLCertVerificationError):
        return "expected a certificate that is trusted for this host, got another"
    return next(phrase for kind, phrase in _PHRASES if isinstance(error, kind))


def _stems_from(error: BaseException | None, kind: type[Exception]) -> bool:
    # The library cuts the chain of causes on the way.
    return error is not None and (isinstance(error, kind) or _stems_from(error.__context__, kind))
