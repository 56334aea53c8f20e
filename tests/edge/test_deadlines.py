"""How long a client may take: for a head, for a body, between requests, to read, and after its last reply."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from gateway.core.errors import Reason, Refusal
from gateway.core.replies import Reply
from gateway.core.requests import Poll, Request
from gateway.edge.protocol import LATE_LINGER_S, LINGER_BYTES, LINGER_S
from tests.connections import HIGH_WATER_BYTES, Peer
from tests.edge.road import BOUNDS, GET, MAX_BODY, PUT, Road, edge, replies
from tests.virtual import simulate, virtual

#: No two are alike, nor any sum of them.
TIMES = replace(BOUNDS, head_s=5, body_s=11, idle_s=70, send_s=17)
SIZED = PUT + b"content-length: 10\r\n\r\n"
CHUNKED = PUT + b"transfer-encoding: chunked\r\n\r\n"


def now() -> float:
    return asyncio.get_running_loop().time()


async def drip(peer: Peer, data: bytes, every_s: float) -> None:
    """Send it byte by byte, for as long as anybody listens."""
    for place in range(len(data)):
        if peer.eof_at is not None or peer.closed_at is not None:
            return
        peer.send(data[place : place + 1])
        await asyncio.sleep(every_s)


# -- heads -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rest", [b"", b"T /a HTTP/1.1\r\nhost: gateway.test\r\n", b"T" * 5])
def test_a_head_that_does_not_end_is_told_so(rest: bytes) -> None:
    async def ask() -> None:
        peer = edge(road := Road(), TIMES).connect()
        await asyncio.sleep(30)
        peer.send(b"GE" + rest)
        await asyncio.sleep(20)
        assert replies(peer.text) == ["request-timeout"]
        assert b"connection: close\r\n" in peer.text
        assert peer.closed_at == pytest.approx(35)
        assert road.refused == [Reason.REQUEST_TIMEOUT]

    simulate(ask())


@virtual
async def test_bytes_that_come_one_by_one_buy_no_time() -> None:
    peer = edge(Road(), TIMES).connect()
    await drip(peer, GET + b"\r\n", every_s=0.9)
    assert replies(peer.text) == ["request-timeout"]
    assert peer.closed_at == pytest.approx(5)


@virtual
async def test_a_head_in_time_is_answered_and_the_next_has_as_long() -> None:
    peer = edge(Road(), TIMES).connect()
    for _ in range(3):
        peer.send(GET)
        await asyncio.sleep(4.9)
        peer.send(b"\r\n")
        await asyncio.sleep(0.1)
    assert replies(peer.text) == ["200"] * 3
    # It is idle from now on, and was not before.
    await asyncio.sleep(69)
    assert peer.closed_at is None
    await asyncio.sleep(2)
    assert peer.closed_at == pytest.approx(3 * 5 - 0.1 + 0.01 + 70)


@virtual
async def test_line_ends_are_no_request() -> None:
    peer = edge(Road(), TIMES).connect()
    await drip(peer, b"\r\n" * 100, every_s=1)
    assert (peer.text, peer.closed_at) == (b"", 70)


@virtual
async def test_half_a_head_behind_a_request_is_refused_after_its_answer() -> None:
    peer = edge(Road(latency_s=8), TIMES).connect()
    peer.send(GET + b"\r\nGET")
    await asyncio.sleep(20)
    assert replies(peer.text) == ["200", "request-timeout"]
    assert [at for at, _ in peer.received] == pytest.approx([8, 8])


@virtual
async def test_half_a_head_behind_a_request_has_no_more_time_for_it() -> None:
    peer = edge(Road(latency_s=3), TIMES).connect()
    peer.send(GET + b"\r\nGET")
    await asyncio.sleep(20)
    assert [at for at, _ in peer.received] == pytest.approx([3, 5])


@virtual
async def test_a_head_in_pieces_that_is_a_hit_is_over_too() -> None:
    peer = edge(Road(), TIMES, Always()).connect()
    peer.send(POLL[:9])
    await asyncio.sleep(4)
    peer.send(POLL[9:])
    await asyncio.sleep(50)
    assert (replies(peer.text), peer.closed_at) == (["200"], None)


@virtual
async def test_half_a_head_behind_requests_is_not_late_before_anybody_would_read_the_rest() -> None:
    peer = edge(Road(latency_s=8), TIMES).connect()
    peer.send((GET + b"\r\n") * 3 + GET)
    await asyncio.sleep(20)
    assert replies(peer.text) == ["200", "200"]
    peer.send(b"\r\n")
    await asyncio.sleep(15)
    assert replies(peer.text) == ["200"] * 4
    assert peer.closed_at is None


class Refusing(Road):
    """It never asks for a body."""

    async def answer(self, request: Request) -> Reply:
        return self.refuse(request, Refusal(Reason.TOKEN_MISSING))


# -- bodies ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "begin", [SIZED, SIZED + b"abc", CHUNKED, CHUNKED + b"5\r\nab", CHUNKED + b"1\r\na\r\n0\r\n"]
)
def test_a_body_that_does_not_end_is_told_so(begin: bytes) -> None:
    async def ask() -> None:
        peer = edge(road := Road(), TIMES).connect()
        peer.send(begin)
        await asyncio.sleep(20)
        assert replies(peer.text) == ["request-timeout"]
        assert peer.closed_at == pytest.approx(11)
        assert (road.asked, road.refused) == ([], [Reason.REQUEST_TIMEOUT])

    simulate(ask())


@virtual
async def test_a_body_that_comes_byte_by_byte_buys_no_time() -> None:
    peer = edge(Road(), TIMES).connect()
    peer.send(PUT + b"content-length: 900\r\n\r\n")
    await drip(peer, b"a" * 900, every_s=0.1)
    assert replies(peer.text) == ["request-timeout"]
    assert peer.closed_at == pytest.approx(11)


@virtual
async def test_a_body_in_time_is_taken_whole() -> None:
    peer = edge(road := Road(), TIMES).connect()
    peer.send(SIZED)
    await drip(peer, b"a" * 10, every_s=1)
    peer.send(GET + b"\r\n")
    await asyncio.sleep(20)
    assert replies(peer.text) == ["200", "200"]
    assert road.asked[0][2] == b"a" * 10


@virtual
async def test_the_time_of_a_body_begins_when_it_is_asked_for() -> None:
    """Until then a client that waits for 100 Continue does not send it."""
    peer = edge(Road(busy_s=30), TIMES).connect()
    peer.send(PUT + b"content-length: 10\r\nexpect: 100-continue\r\n\r\n")
    await asyncio.sleep(40)
    assert peer.text == b"HTTP/1.1 100 Continue\r\n\r\n"
    await asyncio.sleep(2)
    assert replies(peer.text) == ["request-timeout"]
    assert peer.closed_at == pytest.approx(41)


@virtual
async def test_a_body_behind_others_is_not_late_before_anybody_would_read_it() -> None:
    peer = edge(Road(latency_s=14), TIMES).connect()
    peer.send((GET + b"\r\n") * 2 + SIZED)
    await asyncio.sleep(2 * 14 + 10)
    assert replies(peer.text) == ["200", "200"]
    peer.send(b"a" * 10)
    await asyncio.sleep(15)
    assert replies(peer.text) == ["200"] * 3


@virtual
async def test_a_body_that_nobody_asked_for_ends_the_connection_when_it_is_late() -> None:
    peer = edge(Refusing(), TIMES).connect(stubborn=True)
    peer.send(SIZED)
    await asyncio.sleep(10)
    assert replies(peer.text) == ["token-missing"]
    assert peer.closed_at is None
    await asyncio.sleep(2)
    assert (replies(peer.text), peer.eof_at) == (["token-missing"], 11)
    await asyncio.sleep(2)
    assert peer.closed_at == 11 + LATE_LINGER_S


@virtual
async def test_after_a_body_that_came_behind_its_answer_a_connection_is_idle_as_long_as_ever() -> None:
    peer = edge(Refusing(), replace(TIMES, body_s=200)).connect()
    peer.send(SIZED)
    await asyncio.sleep(100)
    peer.send(b"a" * 10)
    await asyncio.sleep(69)
    assert peer.closed_at is None
    await asyncio.sleep(20)
    assert peer.closed_at is not None


# -- nothing -----------------------------------------------------------------------------------------------


@virtual
async def test_who_never_asks_is_closed_without_a_word() -> None:
    peer = edge(Road(), TIMES).connect()
    await asyncio.sleep(100)
    assert (peer.text, peer.closed_at) == (b"", 70)


@virtual
async def test_a_connection_is_idle_from_its_last_reply_on() -> None:
    peer = edge(Road(latency_s=9), TIMES).connect()
    for _ in range(4):
        peer.send(GET + b"\r\n")
        await asyncio.sleep(60)
    await asyncio.sleep(100)
    assert replies(peer.text) == ["200"] * 4
    assert peer.closed_at == pytest.approx(180 + 9 + 70)


class Always:
    """A short cut that knows every poll, and that one by its bytes; it counts."""

    reply = b"HTTP/1.1 200 OK\r\nx: 200\r\ncontent-length: 0\r\n\r\n"
    recalled = answered = 0
    recalls = True

    def recall(self, data: bytes) -> bytes | None:
        self.recalled += 1
        return self.reply if self.recalls and data == POLL else None

    def answer(self, _: Poll) -> bytes | None:
        self.answered += 1
        return self.reply


POLL = GET + b"authorization: a\r\naccept: b\r\n\r\n"


@pytest.mark.parametrize("recalls", [True, False])
def test_hits_count_as_replies(recalls: bool) -> None:
    async def ask() -> None:
        cut = Always()
        cut.recalls = recalls
        peer = edge(Road(), TIMES, cut).connect()
        for _ in range(4):
            peer.send(POLL)
            await asyncio.sleep(60)
        assert (replies(peer.text), peer.closed_at) == (["200"] * 4, None)
        await asyncio.sleep(100)
        assert peer.closed_at == pytest.approx(180 + 70)

    simulate(ask())


# -- who does not read ------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", [b"\r\n", b"connection: close\r\n\r\n"])
def test_who_does_not_read_a_long_reply_is_cut_off(ending: bytes) -> None:
    async def ask() -> None:
        peer = edge(Road(reply=b"a" * 2 * HIGH_WATER_BYTES), TIMES).connect()
        peer.stop_reading()
        peer.send(GET + ending)
        await asyncio.sleep(100)
        assert peer.text == b""
        assert peer.closed_at == pytest.approx(17.01)

    simulate(ask())


@virtual
async def test_who_asks_and_asks_and_does_not_read_is_cut_off() -> None:
    peer = edge(Road(reply=b"a" * 30_000), TIMES).connect()
    peer.stop_reading()
    for _ in range(5):
        peer.send(GET + b"\r\n")
        await asyncio.sleep(1)
    await asyncio.sleep(100)
    # The third fills the buffer.
    assert peer.closed_at == pytest.approx(2 + 17, abs=0.1)


@pytest.mark.parametrize("is_cut", [True, False])
def test_who_leaves_a_short_reply_unread_is_cut_off_before_it_is_idle(is_cut: bool) -> None:
    async def ask() -> None:
        peer = edge(Road(reply=b"a"), TIMES, Always() if is_cut else None).connect()
        peer.stop_reading()
        peer.send(POLL)
        await asyncio.sleep(100)
        assert peer.text == b""
        assert 17 <= (peer.closed_at or 0) <= 2 * 17 + 1

    simulate(ask())


@virtual
async def test_who_reads_slowly_is_waited_for() -> None:
    peer = edge(Road(reply=b"a" * 300_000), TIMES).connect()
    peer.stop_reading()
    peer.send(GET + b"\r\n")
    for _ in range(60):
        await asyncio.sleep(16)
        peer.take(5_000)
    assert peer.closed_at is None
    peer.read_on()
    assert peer.text.endswith(b"a" * 300_000)


@virtual
async def test_who_has_read_it_all_is_not_looked_at() -> None:
    peer = edge(Road(reply=b"a" * 300_000), TIMES).connect()
    peer.stop_reading()
    peer.send(GET + b"\r\n")
    await asyncio.sleep(10)
    peer.read_on()
    await asyncio.sleep(40)
    assert peer.closed_at is None


@virtual
async def test_who_reads_a_byte_now_and_then_does_not_read() -> None:
    peer = edge(Road(reply=b"a" * 300_000), TIMES).connect()
    peer.stop_reading()
    peer.send(GET + b"\r\n")
    for _ in range(10):
        await asyncio.sleep(4)
        peer.take(1)
    assert peer.closed_at == pytest.approx(17, abs=0.1)


@virtual
async def test_who_reads_and_asks_for_more_is_not_taken_for_one_who_stands_still() -> None:
    """As much is in the buffer each time one looks, but it is never the same."""
    cut = Always()
    cut.reply = b"HTTP/1.1 200 OK\r\nx: 200\r\ncontent-length: 4950\r\n\r\n" + b"a" * 4_950
    peer = edge(Road(), TIMES, cut).connect()
    peer.stop_reading()
    for _ in range(10):
        peer.send(POLL)
    for _ in range(2_000):
        await asyncio.sleep(0.1)
        peer.take(5_000)
        peer.send(POLL)
    assert peer.closed_at is None


@virtual
async def test_who_does_not_read_its_last_reply_does_not_hold_up_the_end() -> None:
    it = edge(Road(reply=b"a"), TIMES)
    peer = it.connect()
    peer.stop_reading()
    peer.send(GET + b"\r\n")
    await asyncio.sleep(1)
    it.shut_down()
    await asyncio.sleep(30)
    assert peer.closed_at == pytest.approx(1 + 17)


# -- the last reply ---------------------------------------------------------------------------------------


TOO_MUCH = b"content-length: %d\r\n\r\n" % (MAX_BODY + 1)
LAST = {
    "malformed-request": b"GET  /\r\n\r\n",
    "head-too-large": GET + b"a: b\r\n" * 200,
    "target-too-long": b"GET /" + b"a" * 9_000,
    "unexpected-body": GET + b"content-length: 3\r\n\r\n",
    "expectation-failed": PUT + b"expect: 200-ok\r\n\r\n",
    "body-too-large": PUT + TOO_MUCH,
}


@pytest.mark.parametrize("problem", LAST)
def test_who_still_sends_hears_the_reply_first(problem: str) -> None:
    """What came and nobody read would have the system throw the reply away."""

    async def ask() -> None:
        peer = edge(road := Road(), TIMES, Always()).connect(stubborn=True)
        peer.send(LAST[problem])
        await asyncio.sleep(0)
        for _ in range(5):
            peer.send(POLL)
            await asyncio.sleep(0.1)
        assert replies(peer.text) == [problem]
        assert peer.eof_at == pytest.approx(0, abs=0.1)
        assert peer.closed_at is None
        await asyncio.sleep(5)
        assert peer.closed_at == pytest.approx((peer.eof_at or 0) + LINGER_S)
        assert (replies(peer.text), road.asked) == ([problem], [])

    simulate(ask())


@virtual
async def test_who_goes_on_and_on_is_heard_out_so_far() -> None:
    peer = edge(Road(), TIMES).connect(stubborn=True)
    peer.send(LAST["malformed-request"])
    for _ in range(LINGER_BYTES // 10_000):
        peer.send(b"a" * 10_000)
    assert peer.closed_at is None
    peer.send(b"a" * 10_000)
    assert peer.closed_at == 0


@virtual
async def test_who_says_that_it_is_done_is_let_go() -> None:
    peer = edge(Road(), TIMES).connect(stubborn=True)
    peer.send(LAST["malformed-request"])
    await asyncio.sleep(1)
    peer.no_more()
    assert (replies(peer.text), peer.closed_at) == (["malformed-request"], 1)


@virtual
async def test_who_is_heard_out_and_does_not_read_is_cut_off() -> None:
    peer = edge(Road(), TIMES).connect()
    peer.stop_reading()
    peer.send(LAST["malformed-request"])
    await asyncio.sleep(100)
    assert peer.text == b""
    assert peer.closed_at == pytest.approx(LINGER_S + 17)


@virtual
async def test_the_end_waits_for_nobody_who_is_only_heard_out() -> None:
    it = edge(Road(), TIMES)
    peer = it.connect(stubborn=True)
    peer.send(LAST["malformed-request"])
    it.shut_down()
    assert peer.closed_at == 0


@virtual
async def test_what_comes_behind_the_request_for_the_end_is_not_answered() -> None:
    peer = edge(road := Road(), TIMES).connect()
    peer.send(GET + b"connection: close\r\n\r\n" + GET + b"\r\n")
    await asyncio.sleep(1)
    assert (replies(peer.text), peer.closed_at, len(road.asked)) == (["200"], 0.01, 1)


@virtual
async def test_what_waits_behind_a_last_reply_does_not_hold_up_the_end() -> None:
    peer = edge(road := Road(), TIMES).connect()
    peer.send(LAST["body-too-large"] + b"a" * (MAX_BODY + 1) + GET + b"\r\n")
    await asyncio.sleep(1)
    assert (replies(peer.text), peer.closed_at, road.asked) == (["body-too-large"], 0, [])


@virtual
async def test_whoever_asked_for_the_end_is_not_heard_out() -> None:
    peer = edge(Road(), TIMES).connect(stubborn=True)
    peer.send(GET + b"connection: close\r\n\r\n")
    await asyncio.sleep(1)
    assert (peer.eof_at, peer.closed_at) == (None, 0.01)


# -- who sends no more, and reads -------------------------------------------------------------------------


@pytest.mark.parametrize("many", [1, 2, 40])
def test_who_sends_no_more_gets_its_answers(many: int) -> None:
    async def ask() -> None:
        peer = edge(road := Road(), TIMES).connect()
        peer.send((GET + b"\r\n") * many + b"GET /half")
        peer.no_more()
        await asyncio.sleep(1)
        assert replies(peer.text) == ["200"] * many
        assert peer.text.count(b"connection: close") in {0, 1}
        assert peer.closed_at == pytest.approx(0.01 * many)
        assert road.refused == []

    simulate(ask())


@virtual
async def test_what_is_no_request_is_refused_also_for_who_sends_no_more() -> None:
    peer = edge(Road(), TIMES).connect()
    peer.send(GET + b"\r\nGET  /\r\n")
    peer.no_more()
    await asyncio.sleep(1)
    assert replies(peer.text) == ["200", "malformed-request"]
    assert peer.closed_at is not None


@virtual
async def test_the_last_answer_says_that_it_is_the_last() -> None:
    peer = edge(Road(), TIMES).connect()
    peer.send((GET + b"\r\n") * 3)
    peer.no_more()
    await asyncio.sleep(1)
    assert [piece.count(b"connection: close") for _, piece in peer.received] == [0, 0, 1]


@pytest.mark.parametrize("sent", [b"", b"GET /ha", GET + b"\r\n"])
def test_who_sends_no_more_and_waits_for_nothing_is_let_go_at_once(sent: bytes) -> None:
    async def ask() -> None:
        peer = edge(Road(), TIMES).connect()
        peer.send(sent)
        await asyncio.sleep(1)
        peer.no_more()
        assert peer.closed_at == 1

    simulate(ask())


@pytest.mark.parametrize("before", [0, 2])
def test_half_a_body_is_all_there_will_be(before: int) -> None:
    async def ask() -> None:
        peer = edge(road := Road(), TIMES).connect(stubborn=True)
        peer.send((GET + b"\r\n") * before + SIZED + b"abc")
        await asyncio.sleep(0)
        peer.no_more()
        await asyncio.sleep(1)
        assert replies(peer.text) == ["200"] * before + ["client-gone"]
        assert (peer.closed_at is None, road.refused) == (False, [Reason.CLIENT_GONE])

    simulate(ask())


# -- the listener is leaving -------------------------------------------------------------------------------


@virtual
async def test_a_listener_that_is_leaving_sends_all_its_clients_away_with_an_answer() -> None:
    cut = Always()
    it = edge(Road(), TIMES, cut)
    polling, piping, idle = (it.connect() for _ in range(3))
    polling.send(POLL)
    piping.send(GET + b"\r\n")
    it.protocol.short_cut, it.protocol.is_leaving = None, True
    piping.send((GET + b"\r\n") * 3)
    polling.send(POLL)
    late = it.connect()
    late.send(POLL)
    await asyncio.sleep(1)
    assert cut.recalled == 2  # and none since
    for peer, many in ((polling, 2), (piping, 4), (late, 1)):
        assert replies(peer.text) == ["200"] * many
        assert peer.text.count(b"connection: close\r\n") == 1
        assert peer.text.endswith(b"connection: close\r\n\r\n")
        assert peer.closed_at is not None
    assert (idle.text, idle.closed_at) == (b"", None)


@virtual
async def test_who_asks_while_it_hears_of_the_leaving_still_hears() -> None:
    it = edge(road := Road(), TIMES)
    it.protocol.is_leaving = True
    peer = it.connect(stubborn=True)
    peer.send(GET + b"\r\n")
    await asyncio.sleep(0.1)
    peer.send(GET + b"\r\n")
    await asyncio.sleep(0.1)
    assert (len(road.asked), peer.closed_at) == (1, None)
    await asyncio.sleep(LINGER_S)
    assert peer.closed_at == pytest.approx(0.01 + LINGER_S)


# -- when nothing may be answered past the road -----------------------------------------------------------


@virtual
async def test_what_comes_when_all_is_over_is_not_answered() -> None:
    """TLS hands over what was on its way when the connection was closed."""
    cut = Always()
    it = edge(Road(), TIMES, cut)
    peer = it.connect()
    peer.send(POLL)
    it.shut_down()
    for data in (POLL, POLL[:9], POLL[9:]):
        peer.arrive_late(data)
    assert (cut.recalled, cut.answered, peer.received[1:]) == (1, 0, [])


@pytest.mark.parametrize("version", [b"1.1", b"1.0"])
def test_http_1_0_takes_the_road_and_closes(version: bytes) -> None:
    """Also who asks to be kept: replies of the short cut would not say that they keep it."""

    async def ask() -> None:
        cut = Always()
        cut.recalls = False
        peer = edge(road := Road(), TIMES, cut).connect()
        said = POLL.replace(b"1.1", version).replace(b"\r\n\r\n", b"\r\nconnection: keep-alive\r\n\r\n")
        peer.send(said)
        await asyncio.sleep(1)
        is_old = version == b"1.0"
        assert replies(peer.text) == ["200"]
        assert (cut.answered, len(road.asked)) == ((0, 1) if is_old else (1, 0))
        assert (peer.closed_at is not None, b"connection: close" in peer.text) == (is_old, is_old)

    simulate(ask())
