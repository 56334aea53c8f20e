"""How many tokens that were not accepted a peer has sent.

To verify is the dearest thing the gateway does for a stranger. A peer that has used up what it may get
wrong is refused before its next token is looked at.
"""

from __future__ import annotations

from collections.abc import Callable

from cachetools import LRUCache

from gateway.core.limits import UNUSED, Rate, advanced, wait_s
from gateway.core.peers import host_of

#: The peers that are remembered. Who is forgotten starts anew.
MAX_PEERS = 10_000


class Failures:
    """One rate for each peer, kept as `core.limits` keeps rates. `now` gives monotonic seconds.

    An IPv6 peer counts with its /64, of which any host has all addresses to itself (RFC 4291 §2.5.4).
    """

    def __init__(self, rate: Callable[[], Rate], now: Callable[[], float]) -> None:
        self._rate = rate
        self._now = now
        self._arrivals: LRUCache[str, float] = LRUCache(MAX_PEERS)

    def wait_s(self, peer: str) -> float:
        """How long until the peer may get one more wrong; 0 if it may now."""
        arrival = self._arrivals.get(host_of(peer))
        return 0.0 if arrival is None else wait_s(arrival, self._rate(), self._now())

    def charge(self, peer: str) -> None:
        """One more was wrong. What comes when all is used up does not make the wait longer."""
        host, rate, now = host_of(peer), self._rate(), self._now()
        arrival = self._arrivals.get(host, UNUSED)
        if wait_s(arrival, rate, now) == 0:
            self._arrivals[host] = advanced(arrival, rate, now)

    def forgive(self) -> None:
        """Every peer starts anew."""
        self._arrivals.clear()
