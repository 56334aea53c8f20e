"""Accounts: their keys, and where each of them lives.

An upstream is fixed in the configuration, or looked up at the vendor's domain service: when it is first
needed, and again after a connection failed. The answer is pinned to the allowed domains, because whoever
could forge it would be sent the appKey; the last good one is kept when a look-up fails.
"""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from gateway.core.errors import Reason
from gateway.core.freshness import Failed
from gateway.core.links import LinkMap, is_host
from gateway.core.peers import is_loopback
from gateway.flights import Flights, landing
from gateway.upstream.keys import AppKeys

#: The name of the Server Chat API in the domain service; case-sensitive.
SERVICE = "conversationVep"
#: How long a look-up may hold up who could be sent to where the account was last.
PATIENCE_S = 0.5

_BARE_HOST = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?(?::[0-9]{1,5})?")


@dataclass(frozen=True, slots=True)
class Account:
    """An account: `origin` such as `https://host`, or None where it has to be discovered."""

    id: str
    keys: AppKeys
    origin: str | None


@dataclass(frozen=True, slots=True)
class Discovery:
    """The domain service, and the domains that its answers may name (patterns such as `*.example.net`)."""

    origin: str
    allowed_domains: tuple[str, ...]


Get = Callable[[str], Awaitable[bytes | None]]


class Accounts:
    """Where each account lives now. `get` fetches a URL and gives the body of a 200, else None."""

    def __init__(
        self,
        accounts: Mapping[str, Account],
        discovery: Discovery,
        public_url: str,
        link_hosts: tuple[str, ...],
        get: Get,
    ) -> None:
        self._accounts = accounts
        self._discovery = discovery
        self._public_url = public_url
        self._link_hosts = link_hosts
        self._get = get
        self._found: dict[str, str] = {}
        self._doubted: set[str] = set()
        self._lookups: Flights[None] = Flights()
        self.links = self._link_map()

    def take_over(self, old: Accounts) -> None:
        """What was found for accounts that are looked up at the same place is still good."""
        if old._discovery == self._discovery:
            looked_up = {account.id for account in self._accounts.values() if account.origin is None}
            self._found = {name: origin for name, origin in old._found.items() if name in looked_up}
            self._doubted = old._doubted & self._found.keys()
            self.links = self._link_map()

    def keys(self, account: str) -> AppKeys:
        return self._accounts[account].keys

    async def origin(self, account: str) -> str | Failed:
        """`https://host` of an account's upstream; looks it up where that is due."""
        known = self._accounts.get(account)
        if known is None:
            # It was taken out of the configuration after its request was judged.
            return Failed(Reason.UPSTREAM_UNREACHABLE)
        if known.origin is not None:
            return known.origin
        if account not in self._found or account in self._doubted:
            lookup, _ = self._lookups.join(account, lambda: self._find(account))
            # With a good value at hand nobody waits long for a better one.
            await landing(lookup, PATIENCE_S if account in self._found else None)
        return self._found.get(account) or Failed(Reason.UPSTREAM_UNREACHABLE)

    def doubt(self, account: str) -> None:
        """A connection failed: the account may have moved."""
        self._doubted.add(account)

    async def _find(self, account: str) -> None:
        """Look an account up, also if by then nobody waits any more: a deadline may be as short."""
        found = await self._look_up(account)
        if found is not None and found != self._found.get(account):
            self._found[account] = found
            self.links = self._link_map()
        # One look-up for each doubt: when it fails, the last good value gets its next chance.
        self._doubted.discard(account)

    async def _look_up(self, account: str) -> str | None:
        body = await self._get(
            f"{self._discovery.origin}/api/account/{account}/service/{SERVICE}/baseURI.json?version=1.0"
        )
        host = None if body is None else _base_uri(body)
        if host is None or not self._is_allowed(host):
            return None
        # Plain http never leaves the machine: it is for an emulator whose domain service is plain, too.
        is_plain = self._discovery.origin.startswith("http://") and is_loopback(host.partition(":")[0])
        return f"{'http' if is_plain else 'https'}://{host}"

    def _is_allowed(self, host: str) -> bool:
        return is_host(host.partition(":")[0].lower(), self._discovery.allowed_domains)

    def _link_map(self) -> LinkMap:
        origins = {
            account.id: account.origin or self._found.get(account.id) for account in self._accounts.values()
        }
        return LinkMap(
            self._public_url,
            {
                account: frozenset() if origin is None else frozenset({origin.partition("://")[2].lower()})
                for account, origin in origins.items()
            },
            self._link_hosts,
        )


def _base_uri(body: bytes) -> str | None:
    """The bare host that the domain service names, or None for an answer of any other shape."""
    try:
        said = json.loads(body)
    except (ValueError, RecursionError):
        return None
    host = said.get("baseURI") if isinstance(said, dict) else None
    if not isinstance(host, str) or not _BARE_HOST.fullmatch(host):
        return None
    return host if 0 < int(host.partition(":")[2] or "443") < 65_536 else None
