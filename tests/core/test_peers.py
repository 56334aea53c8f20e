"""Whose address it is, behind however many proxies."""

from __future__ import annotations

from ipaddress import ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.peers import MAX_HOPS, peer_and_visitor

TRUSTED = (ip_network("10.0.0.0/8"), ip_network("2001:db8:1::/48"))


@pytest.mark.parametrize(
    ("socket_peer", "forwarded", "peer", "visitor"),
    [
        # Nobody in between.
        ("192.0.2.1", None, "192.0.2.1", None),
        ("192.0.2.1", "198.51.100.7", "192.0.2.1", "198.51.100.7"),
        ("192.0.2.1", "203.0.113.9, 198.51.100.7", "192.0.2.1", "198.51.100.7"),
        # Through proxies that are trusted.
        ("10.0.0.1", "192.0.2.1", "192.0.2.1", None),
        ("10.0.0.1", "198.51.100.7, 192.0.2.1", "192.0.2.1", "198.51.100.7"),
        ("10.0.0.1", "198.51.100.7,192.0.2.1 , 10.0.0.2", "192.0.2.1", "198.51.100.7"),
        ("10.0.0.1", "10.0.0.3, 10.0.0.2", "10.0.0.3", None),
        ("2001:db8:1::1", "198.51.100.7, 2001:db8::7", "2001:db8::7", "198.51.100.7"),
        # What is no address ends the chain where it is still known.
        ("10.0.0.1", "198.51.100.7, unknown", "10.0.0.1", None),
        ("192.0.2.1", "", "192.0.2.1", None),
        ("192.0.2.1", "_hidden, ", "192.0.2.1", None),
        ("192.0.2.1", "198.51.100.7, 1.2.3.4.5", "192.0.2.1", None),
        ("192.0.2.1", 'fe80::1%"}}x<y>', "192.0.2.1", None),
        ("192.0.2.1", f"{'1' * 100}.0.0.1", "192.0.2.1", None),
        # With a port, as some balancers write it, and IPv4 as a socket for both families shows it.
        ("10.0.0.1", "198.51.100.7:1234, 192.0.2.1:4711", "192.0.2.1", "198.51.100.7"),
        ("10.0.0.1", "198.51.100.7, [2001:db8::7]:4711", "2001:db8::7", "198.51.100.7"),
        (
            "192.0.2.1",
            "[2001:0db8:0000:0000:0000:0000:0000:0007]:65535",
            "192.0.2.1",
            "2001:db8::7",
        ),
        ("::ffff:10.0.0.1", "198.51.100.7, ::ffff:192.0.2.1", "192.0.2.1", "198.51.100.7"),
        # A socket of the file system has no address, and is nobody's proxy.
        ("", "198.51.100.7", "", "198.51.100.7"),
    ],
)
def test_whose_it_is(socket_peer: str, forwarded: str | None, peer: str, visitor: str | None) -> None:
    said = None if forwarded is None else forwarded.encode()
    assert peer_and_visitor(socket_peer, said, TRUSTED) == (peer, visitor)


def test_a_chain_without_end_is_read_from_its_end() -> None:
    hops = ", ".join(["198.51.100.7", *["10.0.0.2"] * MAX_HOPS])
    assert peer_and_visitor("10.0.0.1", hops.encode(), TRUSTED) == ("10.0.0.2", None)


@given(st.binary(max_size=60))
def test_whatever_a_stranger_says_is_not_believed_of_himself(said: bytes) -> None:
    assert peer_and_visitor("192.0.2.1", said, TRUSTED)[0] == "192.0.2.1"
    assert peer_and_visitor("192.0.2.1", said, ())[0] == "192.0.2.1"
