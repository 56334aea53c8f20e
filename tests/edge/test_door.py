"""Where there is no room, reads are refused before anything is made for them."""

from __future__ import annotations

import asyncio

import pytest

from gateway.core.errors import Reason, Refusal
from tests.edge.road import GET, HOST, PUT, Road, edge, replies, settle
from tests.virtual import simulate

FULL = Refusal(Reason.OVERLOADED, retry_after_s=2)


def told(*segments: bytes, latency_s: float = 0.01) -> tuple[list[str], Road, bytes, bool]:
    """What is answered where the second segment and all that follow find no room."""
    road = Road(latency_s=latency_s)

    async def ask() -> tuple[bytes, bool]:
        peer = edge(road).connect()
        for number, segment in enumerate(segments):
            road.full_for = FULL if number else None
            peer.send(segment)
            await asyncio.sleep(0)
        await settle()
        return peer.text, peer.closed_at is not None

    text, is_closed = simulate(ask())
    return replies(text), road, text, is_closed


@pytest.mark.parametrize("method", [b"GET", b"HEAD"])
def test_a_read_is_refused_at_the_door_and_the_connection_goes_on(method: bytes) -> None:
    read = method + b" /a HTTP/1.1\r\n" + HOST + b"\r\n"
    said, road, text, is_closed = told(b"", read, read)
    assert said == ["overloaded", "overloaded"]
    assert (road.asked, is_closed) == ([], False)
    assert text.count(b"retry-after: 2\r\n") == 2


def test_a_preflight_and_a_write_take_the_road() -> None:
    said, road, _, _ = told(
        b"", b"OPTIONS /a HTTP/1.1\r\n" + HOST + b"\r\n", PUT + b"content-length: 2\r\n\r\n{}"
    )
    assert said == ["200", "200"]
    assert [body for _, _, body, _ in road.asked] == [b"", b"{}"]


@pytest.mark.parametrize(
    "last",
    [GET + b"connection: close\r\n\r\n", b"GET /a HTTP/1.0\r\n" + HOST + b"connection: keep-alive\r\n\r\n"],
)
def test_who_ends_with_his_request_takes_the_road(last: bytes) -> None:
    said, road, _, is_closed = told(b"", last)
    assert said == ["200"]
    assert (len(road.asked), is_closed) == (1, True)


def test_replies_stay_in_order() -> None:
    said, _, _, _ = told(GET + b"\r\n", GET + b"\r\n", GET + b"\r\n", latency_s=0.2)
    # Those that come while one is being answered wait behind it, and the road may say what it likes.
    assert said == ["200", "200", "200"]


def test_a_head_that_is_refused_is_told_why() -> None:
    said, road, _, _ = told(b"", GET + HOST + b"\r\n")
    assert said == ["malformed-header"]
    assert road.refused == [Reason.MALFORMED_HEADER]
