"""Addresses: the peer's, the visitor's that a client passes on, and this machine's own.

X-Forwarded-For is a chain to which every hop appends whom it heard. Read from its end, what a trusted proxy
appended is believed; the first address that is no trusted proxy's is the peer, and what stands before it is
what the peer itself said.
"""

from __future__ import annotations

import functools
import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True, slots=True)
class Address:
    """An address, and how it is written."""

    value: ipaddress.IPv4Address | ipaddress.IPv6Address
    text: str


#: The longest there is (`[0000:0000:0000:0000:0000:ffff:255.255.255.255]:65535`), with room.
_MAX_LENGTH = 64
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
        if not is_trusted(peer, trusted):
            return peer, address.text
        peer = address.text
    return peer, None


def host_of(peer: str) -> str:
    """Whose address it is, as far as an address tells: a host has all of its /64 (RFC 4291 §2.5.4)."""
    if ":" not in peer:  # IPv4, or a Unix socket, which has none
        return peer
    try:
        address = ipaddress.IPv6Address(peer)
    except ValueError:
        return peer
    mapped = address.ipv4_mapped
    return str(mapped) if mapped else f"{int(address) >> 64:x}"


def address_of(text: str) -> Address | None:
    """An IP address, with or without a port; none with a zone, in which anything may stand."""
    return _read(text) if len(text) <= _MAX_LENGTH and "%" not in text else None


# The same few proxies stand in every chain, and most visitors ask again. What is kept is small by its length.
@functools.lru_cache(maxsize=1024)
def _read(text: str) -> Address | None:
    found = _WITH_PORT.fullmatch(text)
    try:
        address = ipaddress.ip_address(text if found is None else found["six"] or found["four"])
    except ValueError:
        return None
    # IPv4 as a listener for both families sees it (`::ffff:192.0.2.1`) is IPv4.
    address = getattr(address, "ipv4_mapped", None) or address
    return Address(address, str(address))


def is_loopback(host: str) -> bool:
    """Whether a host, without brackets and port, is this machine (RFC 6761 §6.3, RFC 6890)."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def is_trusted(peer: str, trusted: Sequence[Network]) -> bool:
    """Whether a peer is one of the trusted proxies."""
    address = address_of(peer)
    return address is not None and any(address.value in network for network in trusted)
