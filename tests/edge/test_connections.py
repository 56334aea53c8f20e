"""How many connections there may be: of one peer and in all, counted exactly whatever becomes of them."""

from __future__ import annotations

import asyncio
import ipaddress
from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.errors import Reason
from gateway.core.peers import Network, host_of
from gateway.edge.connections import Connections
from gateway.edge.protocol import LINGER_S
from tests.connections import Edge
from tests.edge.road import BOUNDS, GET, Road, edge, replies, web
from tests.virtual import virtual

PROXY = "198.51.100.1"
PEERS = [
    "192.0.2.1",
    "192.0.2.2",
    "2001:db8::1",
    "2001:db8::2",
    "2001:db8:0:1::1",
    "::ffff:192.0.2.1",
    PROXY,
    "",
]


@pytest.mark.parametrize(
    ("one", "other", "is_same"),
    [
        ("192.0.2.1", "192.0.2.1", True),
        ("192.0.2.1", "192.0.2.2", False),
        ("2001:db8::1", "2001:db8::ffff:2", True),
        ("2001:db8:0:0::1", "2001:db8:0:1::1", False),
        ("::ffff:192.0.2.1", "192.0.2.1", True),
        ("::ffff:192.0.2.1", "::ffff:192.0.2.2", False),
        ("fe80::1%eth0", "fe80::2%eth0", True),
        ("", "", True),
        (":no address", ":none", False),
    ],
)
def test_an_address_is_a_host_of_ipv4_or_a_network_of_ipv6(one: str, other: str, is_same: bool) -> None:
    assert (host_of(one) == host_of(other)) == is_same


@given(st.lists(st.sampled_from(PEERS) | st.integers(0, 30), max_size=60), st.data())
def test_counts_are_exact_in_any_order(steps: list[str | int], data: st.DataObject) -> None:
    """A peer enters, or one of those that are in leaves; proxies may become peers meanwhile."""
    trusted = {PROXY}
    connections = Connections(8, 3, trusted.__contains__)
    inside: list[tuple[str | None, Callable[[], None]]] = []
    for step in steps:
        if data.draw(st.integers(0, 9)) == 0:
            trusted ^= {PROXY}
        of_peers = Counter(host for host, _ in inside if host is not None)
        if isinstance(step, int):
            if inside:
                inside.pop(step % len(inside))[1]()
        else:
            host = None if step in trusted else host_of(step)
            leave = connections.enter(step)
            is_full = len(inside) >= 8 or (host is not None and of_peers[host] >= 3)
            assert (leave is None) == is_full
            if leave is not None:
                inside.append((host, leave))
        assert connections.count == len(inside)
        assert connections.peers == len({host for host, _ in inside if host is not None})


def bounded(road: Road, per_peer: int = 2, most: int = 4, trusted: tuple[Network, ...] = ()) -> Edge:
    bounds = replace(BOUNDS, max_connections=most, max_connections_per_peer=per_peer)
    return Edge(web(road, trusted), None, bounds)


@virtual
async def test_one_more_of_a_peer_is_refused_unread_and_others_are_not() -> None:
    it = bounded(road := Road())
    held = [it.connect("192.0.2.1") for _ in range(2)]
    refused = it.connect("192.0.2.1", stubborn=True)
    refused.send(GET + b"\r\n")
    await asyncio.sleep(1)
    assert replies(refused.text) == ["too-many-connections"]
    assert refused.text.startswith(b"HTTP/1.1 503 ")
    assert b"retry-after: 1\r\n" in refused.text
    assert b"connection: close\r\n" in refused.text
    assert (road.asked, road.refused) == ([], [Reason.TOO_MANY_CONNECTIONS])
    other = it.connect("192.0.2.2")
    for peer in (*held, other):
        peer.send(GET + b"\r\n")
    await asyncio.sleep(LINGER_S)
    assert [replies(peer.text) for peer in (*held, other)] == [["200"]] * 3
    assert refused.closed_at == pytest.approx(LINGER_S)


@virtual
async def test_who_leaves_makes_room() -> None:
    it = bounded(Road())
    for _ in range(20):
        first, second, third = (it.connect() for _ in range(3))
        await asyncio.sleep(0.1)
        assert [replies(peer.text) for peer in (first, second, third)] == [[], [], ["too-many-connections"]]
        second.hang_up()
        first.no_more()
        await asyncio.sleep(0.1)
    assert (it.protocol.connections_open.count, it.protocol.connections_open.peers) == (0, 0)


@virtual
async def test_one_more_in_all_is_refused() -> None:
    it = bounded(Road())
    peers = [it.connect(f"192.0.2.{n}") for n in range(6)]
    await asyncio.sleep(1)
    assert [replies(peer.text) for peer in peers] == [[]] * 4 + [["too-many-connections"]] * 2


@virtual
async def test_who_comes_by_a_trusted_proxy_is_counted_in_all_only() -> None:
    it = bounded(Road(), trusted=(ipaddress.ip_network("198.51.100.0/24"),))
    peers = [it.connect(PROXY) for _ in range(6)]
    await asyncio.sleep(1)
    assert [replies(peer.text) for peer in peers] == [[]] * 4 + [["too-many-connections"]] * 2


@virtual
async def test_as_many_as_are_allowed_by_default() -> None:
    it = edge(Road())
    peers = [it.connect() for _ in range(BOUNDS.max_connections_per_peer + 1)]
    await asyncio.sleep(1)
    assert [len(peer.text) > 0 for peer in peers] == [False] * BOUNDS.max_connections_per_peer + [True]
