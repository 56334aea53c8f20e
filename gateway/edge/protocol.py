"""The wire: uvicorn's httptools protocol, where it would read or speak for itself.

Three things are ours: trailers never become fields, an upgrade is refused instead of ignored (what follows
it would be read as another request), and what is no request is answered with a problem document, after
whatever was asked before it.
"""

from __future__ import annotations

from collections.abc import Callable

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

#: What the parser refuses becomes these bytes: a whole answer, after which the connection closes.
Refuse = Callable[[], bytes]


class NoUpgrades(Exception):
    """A client asked for another protocol. Raised through the parser, which then counts as refusing."""


class Protocol(HttpToolsProtocol):
    """One client connection. A subclass made by `speaking` knows how to refuse."""

    refuse: Refuse
    _broken = False

    def on_headers_complete(self) -> None:
        """The head ends here; a trailer that follows the body is put where nobody looks."""
        if self.parser.should_upgrade():
            raise NoUpgrades
        super().on_headers_complete()
        self.headers = []

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP request. `msg` is the parser's, and stays here.

        The parser takes nothing more: nobody can say where the next request would begin.
        """
        del msg
        self._broken = True
        if self._forsake_half_a_request() is None:
            self.transport.write(self.refuse())
            self.transport.close()
        # Else a whole request before it is still to be answered; `on_response_complete` closes after it.

    def _forsake_half_a_request(self) -> RequestResponseCycle | None:
        """Give up the newest request if its body never ended; returns one that is still to be answered."""
        # uvicorn's annotation leaves out that there is none at first.
        cycle: RequestResponseCycle | None = getattr(self, "cycle", None)
        if cycle is None or cycle.response_complete:
            return None
        if not cycle.more_body:
            return cycle
        cycle.disconnected = cycle.response_complete = True
        return cycle if self.pipeline else None

    def on_response_complete(self) -> None:
        """As ever; but after a broken request the last whole one's answer is the last."""
        super().on_response_complete()
        if self._broken and self.cycle.response_complete:
            self.transport.close()


def speaking(refuse: Refuse) -> type[Protocol]:
    """A protocol class for uvicorn, which makes one of it for each connection."""
    return type("SpeakingProtocol", (Protocol,), {"refuse": staticmethod(refuse)})
