"""Addresses: the peer's, the visitor's that a client passes on, and this machine's own.

X-Forwarded-For is a chain to which every hop appends whom it heard. Read from its end, what a trusted proxy
appended is believed; the first address that is no trusted proxy's is the peer, and what stands before it is
what the peer itself said.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Address = ipaddress.IPv4Address | ipaddress.IPv6Address

#: Some balancers append the port: `192.0.2.1:4711`, `[2001:db8::1]:4711`.
_WITH_PORT = re.compile(r"\[(?P<six>[^\]]+)\](?::[0-9]{1,5})?|(?P<four>[0-9.]+):[0-9]{1,5}")
#: A chain is as long as the hops are many; what is longer is somebody's game, and only its end is read.
MAX_HOPS = 32


def peer_and_visitor(
    socket_peer: str, forwarded_for: bytes | None, trusted: Sequence[Network]
) -> tuple[str, str | None]:
    """The peer's address, and the one that the peer gives for its own client, if it gives one."""
    if forwarded_for is None:
        return socket_peer, None
    peer = socket_peer
    for said in reversed(forwarded_for.decode("latin-1").split(",")[-MAX_HOPS:]):
        address = address_of(said.strip())
        if address is None:
            return peer, None
        if not _is_trusted(peer, trusted):
            return peer, str(address)
        peer = str(address)
    return peer, None


def address_of(text: str) -> Address | None:
    """An IP address, with or without a port; none with a zone, in which anything may stand."""
    if "%" in text:
        return None
    found = _WITH_PORT.fullmatch(text)
    try:
        return _plain(ipaddress.ip_address(text if found is None else found["six"] or found["four"]))
    except ValueError:
        return None


def is_loopback(host: str) -> bool:
    """Whether a host, without brackets and port, is this machine (RFC 6761 §6.3, RFC 6890)."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def _is_trusted(peer: str, trusted: Sequence[Network]) -> bool:
    address = address_of(peer)
    return address is not None and any(address in network for network in trusted)


def _plain(address: Address) -> Address:
    """IPv4 as a listener for both families sees it (`::ffff:192.0.2.1`) is IPv4."""
    return getattr(address, "ipv4_mapped", None) or address
