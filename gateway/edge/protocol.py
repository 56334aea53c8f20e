"""The wire: uvicorn's httptools protocol, where it would speak for itself.

What the parser refuses never becomes a request; its answer is a problem document like any other.
"""

from __future__ import annotations

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from gateway.core.errors import Reason, problem
from gateway.core.messages import Representation


class Protocol(HttpToolsProtocol):
    """One client connection."""

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP request. `msg` is the parser's, and stays here."""
        del msg
        content_type, body = problem(Reason.MALFORMED_REQUEST, Representation.JSON, "-")
        self.transport.write(
            b"HTTP/1.1 400 Bad Request\r\ncontent-type: %s\r\ncontent-length: %d\r\n"
            b"cache-control: no-store\r\nconnection: close\r\n\r\n%s" % (content_type, len(body), body)
        )
        self.transport.close()
