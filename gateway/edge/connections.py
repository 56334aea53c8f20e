"""How many connections there are: in all, and of each peer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from gateway.core.peers import host_of


class Connections:
    """Those that are open. `is_trusted` names proxies: anybody may be behind them, so they count in all only.

    An IPv6 peer counts with its /64, of which any host has all addresses to itself (RFC 4291 §2.5.4).
    """

    #: How many that found no room are being told so, and for how many there is time.
    MOST_TOLD = 64

    def __init__(self, most: int, most_per_peer: int, is_trusted: Callable[[str], bool]) -> None:
        self._most = most
        self._most_per_peer = most_per_peer
        self._is_trusted = is_trusted
        self._of_peers: Counter[str] = Counter()
        self.count = self.told = 0

    @property
    def peers(self) -> int:
        """How many peers are counted."""
        return len(self._of_peers)

    def enter(self, peer: str) -> Callable[[], None] | None:
        """Count one more, and how to count it no more, once; None if there is no room for it."""
        if self.count >= self._most:
            return None
        # What it is counted as now, it leaves as: who is trusted may change meanwhile.
        host = None if self._is_trusted(peer) else host_of(peer)
        if host is not None:
            if self._of_peers[host] >= self._most_per_peer:
                return None
            self._of_peers[host] += 1
        self.count += 1
        return lambda: self._leave(host)

    def tell(self) -> Callable[[], None] | None:
        """Count one more that is told, as above; None where they are so many that nobody can be."""
        if self.told >= self.MOST_TOLD:
            return None
        self.told += 1
        return self._is_told

    def _is_told(self) -> None:
        self.told -= 1

    def _leave(self, host: str | None) -> None:
        self.count -= 1
        if host is None:
            return
        self._of_peers[host] -= 1
        if not self._of_peers[host]:
            del self._of_peers[host]
