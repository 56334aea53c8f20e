"""Which bodies are read: where they end, on which methods, and how long they may be."""

from __future__ import annotations

import asyncio

import pytest

from gateway.core.errors import Reason
from gateway.edge.heads import framing
from tests.connections import Peer
from tests.edge.road import GET, MAX_BODY, PUT, Road, edge, replies, settle
from tests.virtual import simulate, virtual

INNER = b"GET /inner HTTP/1.1\r\nhost: gateway.test\r\n\r\n"
CHUNKS = b"2\r\n{}\r\n0\r\n\r\n"
TE, CL = b"transfer-encoding: chunked\r\n", b"content-length: 2\r\n"


def told(*segments: bytes) -> tuple[list[str], Road, Peer]:
    """What is answered to those segments, one after the other."""
    road = Road()

    async def ask() -> Peer:
        peer = edge(road).connect()
        for segment in segments:
            peer.send(segment)
            await asyncio.sleep(0)
        await settle()
        return peer

    peer = simulate(ask())
    return replies(peer.text), road, peer


def line(method: str, version: str = "1.1") -> bytes:
    return f"{method} /a HTTP/{version}\r\nhost: gateway.test\r\n".encode()


# -- whether there is one ---------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "DELETE", "PROPFIND"])
@pytest.mark.parametrize("framed", [CL + b"\r\n{}", TE + b"\r\n" + CHUNKS, TE + b"\r\n0\r\n\r\n"])
@pytest.mark.parametrize("at_once", [True, False])
def test_only_writes_have_bodies(method: str, framed: bytes, at_once: bool) -> None:
    whole = line(method) + framed.replace(b"{}", INNER[:2]) + INNER
    head, end, rest = whole.partition(b"\r\n\r\n")
    said, road, peer = told(whole) if at_once else told(head + end, rest)
    assert said == ["unexpected-body"]
    assert road.asked == []
    assert peer.closed_at is not None


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH"])
@pytest.mark.parametrize("framed", [CL + b"\r\n{}", TE + b"\r\n" + CHUNKS])
def test_writes_have_bodies(method: str, framed: bytes) -> None:
    said, road, peer = told(line(method) + framed + INNER)
    assert said == ["200", "200"]
    assert [body for _, _, body, _ in road.asked] == [b"{}", b""]
    assert peer.closed_at is None


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "DELETE", "POST", "PUT"])
def test_a_body_of_nothing_is_none(method: str) -> None:
    said, road, _ = told(line(method) + b"content-length: 0\r\n\r\n" + INNER)
    assert said == ["200", "200"]
    assert [body for _, _, body, _ in road.asked] == [b"", b""]


@pytest.mark.parametrize("method", ["CONNECT", "TRACE"])
@pytest.mark.parametrize("target", [b"/a", b"gateway.test:443", b"*", b"/"])
def test_methods_that_no_one_needs_are_no_requests(method: str, target: bytes) -> None:
    said, road, peer = told(line(method).replace(b"/a", target) + b"\r\n" + INNER)
    assert (said, road.asked) == (["malformed-request"], [])
    assert peer.closed_at is not None


# -- where it ends ----------------------------------------------------------------------------------------


def framed(*lines: bytes, version: str = "1.1") -> bytes:
    return line("PUT", version) + b"".join(each + b"\r\n" for each in lines) + b"\r\n" + CHUNKS + INNER


UNSURE = {
    "both": framed(b"content-length: 2", b"transfer-encoding: chunked"),
    "both, the other way": framed(b"transfer-encoding: chunked", b"content-length: 2"),
    "both, apart": framed(b"transfer-encoding: chunked", b"accept: a", b"Content-LENGTH: 2"),
    "both, and nothing": framed(b"content-length: 0", b"transfer-encoding: chunked"),
    "both, by a tab": framed(b"content-length: 2", b"transfer-encoding:\tchunked"),
    "both, large": framed(b"CONTENT-LENGTH: 2", b"TRANSFER-ENCODING: CHUNKED"),
    "both, one unknown": framed(b"content-length: 2", b"transfer-encoding: x"),
    "both, one empty": framed(b"content-length: 2", b"transfer-encoding:"),
    "chunked twice": framed(b"transfer-encoding: chunked", b"transfer-encoding: chunked"),
    "chunked twice in a line": framed(b"transfer-encoding: chunked, chunked"),
    "identity": framed(b"transfer-encoding: identity"),
    "identity, chunked": framed(b"transfer-encoding: identity, chunked"),
    "chunked, identity": framed(b"transfer-encoding: chunked, identity"),
    "chunked and a comma": framed(b"transfer-encoding: chunked,"),
    "a parameter": framed(b"transfer-encoding: chunked;a=b"),
    "vertical space": framed(b"transfer-encoding: \x0bchunked"),
    "a coding folded": framed(b"transfer-encoding:", b" chunked"),
    "a coding folded, by a tab": framed(b"transfer-encoding: ", b"\tchunked"),
    "a coding goes on": framed(b"transfer-encoding: chunked", b" , identity"),
    "a length goes on": framed(b"content-length: 1", b" 0"),
    "an end goes on": framed(b"transfer-encoding: chunked", b"connection: keep-alive", b" , close"),
    "two lengths": framed(b"content-length: 2", b"content-length: 3"),
    "a length twice": framed(b"content-length: 2", b"content-length: 2"),
    "a length twice, apart": framed(b"content-length: 2", b"accept: a", b"Content-Length: 2"),
    "nothing, twice": framed(b"content-length: 0", b"content-length: 0"),
    "a list": framed(b"content-length: 2, 2"),
    "a sign": framed(b"content-length: +2"),
    "less than nothing": framed(b"content-length: -2"),
    "a fraction": framed(b"content-length: 2.0"),
    "an underscore": framed(b"content-length: 0_2"),
    "hex": framed(b"content-length: 0x2"),
    "a space within": framed(b"content-length: 2 2"),
    "no number": framed(b"content-length: two"),
    "an empty length": framed(b"content-length:"),
    "more than there is": framed(b"content-length: 18446744073709551618"),
    "a space before a colon": framed(b"transfer-encoding : chunked"),
    "an old version": framed(b"transfer-encoding: chunked", version="1.0"),
}


@pytest.mark.parametrize("name", UNSURE)
@pytest.mark.parametrize("at_once", [True, False])
def test_a_body_whose_end_is_not_sure_is_refused(name: str, at_once: bool) -> None:
    stream = UNSURE[name]
    said, road, peer = told(*([stream] if at_once else [stream[:30], stream[30:70], stream[70:]]))
    assert (said, road.asked) == (["malformed-request"], [])
    assert peer.closed_at is not None


TWO = [(b"content-length", b"2"), (b"content-length", b"2"), (b"transfer-encoding", b"chunked")]


@pytest.mark.parametrize("headers", [TWO[:2], TWO[1:], TWO[:0:-1], TWO])
def test_it_is_refused_here_should_the_parser_ever_let_it_pass(headers: list[tuple[bytes, bytes]]) -> None:
    assert framing(b"PUT", b"1", headers) is Reason.MALFORMED_REQUEST


SURE = {
    "chunks": framed(b"transfer-encoding: chunked"),
    "large": framed(b"TRANSFER-ENCODING: CHUNKED"),
    "spaces": framed(b"transfer-encoding: \t chunked  "),
    "a name like it": framed(b"transfer-encoding: chunked", b"transfer_encoding: x", b"content_length: 1"),
}


@pytest.mark.parametrize("name", SURE)
def test_only_looking_bad_is_no_fault(name: str) -> None:
    said, road, _ = told(SURE[name])
    assert said == ["200", "200"]
    assert road.asked[0][2] == b"{}"


CHUNKED = PUT + TE + b"\r\n"
EXTENSIONS = [b";a", b";a=b", b';a="b;c"', b";" + b"a" * 7_000]


@pytest.mark.parametrize("extension", EXTENSIONS)
def test_what_chunks_say_besides_is_not_heard(extension: bytes) -> None:
    body = b"2%s\r\n{}\r\n0%s\r\n\r\n" % (extension, extension)
    said, road, _ = told(CHUNKED + body + INNER)
    assert said == ["200", "200"]
    assert [each for _, _, each, _ in road.asked] == [b"{}", b""]


@pytest.mark.parametrize(
    "body",
    [
        b"2\n{}\r\n0\r\n\r\n",
        b"2\r\n{}\n0\r\n\r\n",
        b"2;a\n{}\r\n0\r\n\r\n",
        b"2;a\nb\r\n{}\r\n0\r\n\r\n",
        b"2;a\rb\r\n{}\r\n0\r\n\r\n",
        b"2;\x00\r\n{}\r\n0\r\n\r\n",
        b"2\r{}\r\n0\r\n\r\n",
        b"2 ;a=b\r\n{}\r\n0\r\n\r\n",
        b"2 \r\n{}\r\n0\r\n\r\n",
        b" 2\r\n{}\r\n0\r\n\r\n",
        b"0x2\r\n{}\r\n0\r\n\r\n",
        b"+2\r\n{}\r\n0\r\n\r\n",
        b"-2\r\n{}\r\n0\r\n\r\n",
        b"2\r\n{}0\r\n\r\n",
        b"2\r\n{} \r\n0\r\n\r\n",
        b"1\r\n{}\r\n0\r\n\r\n",
        b"\r\n{}\r\n0\r\n\r\n",
        b"10000000000000002\r\n{}\r\n0\r\n\r\n",
        b"2\r\n{}\r\n0\n\r\n\r\n",
        b"2\r\n{}\r\n0\r\na\r\n\r\n",
        b"2\r\n{}\r\n0\r\n a: b\r\n\r\n",
    ],
)
@pytest.mark.parametrize("at_once", [True, False])
def test_chunks_are_read_by_the_letter(body: bytes, at_once: bool) -> None:
    stream = CHUNKED + body + INNER
    said, road, peer = told(stream) if at_once else told(*(stream[n : n + 1] for n in range(len(stream))))
    assert (said, road.asked) == (["malformed-request"], [])
    assert peer.closed_at is not None


@pytest.mark.parametrize(
    "trailer", [b"host: evil", b"expect: x", b"authorization: x", b"connection: upgrade\r\nupgrade: h2c"]
)
def test_trailers_are_no_fields(trailer: bytes) -> None:
    said, road, _ = told(CHUNKED + b"2\r\n{}\r\n0\r\n" + trailer + b"\r\n\r\n" + INNER)
    assert said == ["200", "200"]
    assert [(body, fields) for _, _, body, fields in road.asked] == [
        (b"{}", {b"host": b"gateway.test"}),
        (b"", {b"host": b"gateway.test"}),
    ]


@pytest.mark.parametrize(
    "trailer", [b"content-length: 9", b"transfer-encoding: gzip", b"transfer-encoding: chunked", b"a b: c"]
)
def test_trailers_that_would_frame_are_refused(trailer: bytes) -> None:
    said, road, peer = told(CHUNKED + b"2\r\n{}\r\n0\r\n" + trailer + b"\r\n\r\n" + INNER)
    assert (said, road.asked) == (["malformed-request"], [])
    assert peer.closed_at is not None


# -- how long it is ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "said"), [(MAX_BODY, "200"), (MAX_BODY + 1, "body-too-large"), (10**15, "body-too-large")]
)
@pytest.mark.parametrize("expects", [b"", b"expect: 100-continue\r\n"])
def test_what_is_declared_too_long_is_refused_unread(size: int, said: str, expects: bytes) -> None:
    async def ask() -> None:
        peer = edge(road := Road()).connect()
        peer.send(PUT + expects + b"content-length: %d\r\n\r\n" % size)
        await settle()
        if said == "200":
            assert peer.text == (b"HTTP/1.1 100 Continue\r\n\r\n" if expects else b"")
            peer.send(b"a" * size)
            await settle()
        assert replies(peer.text) == [said]
        assert (b"100 Continue" in peer.text) == (bool(expects) and said == "200")
        assert (peer.closed_at is None) == (said == "200")
        assert len(road.asked) == (said == "200")

    simulate(ask())


@pytest.mark.parametrize(("size", "said"), [(MAX_BODY, "200"), (MAX_BODY + 1, "body-too-large")])
@pytest.mark.parametrize("at_once", [True, False])
def test_what_turns_out_too_long_is_refused(size: int, said: str, at_once: bool) -> None:
    chunks = b"1\r\na\r\n" * size + b"0\r\n\r\n"
    stream = CHUNKED + chunks
    pieces = [stream] if at_once else [stream[n : n + 100] for n in range(0, len(stream), 100)]
    heard, _, peer = told(*pieces)
    assert heard == [said]
    assert (peer.closed_at is None) == (said == "200")


# -- what is expected -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value", [b"", b"200-ok", b"100-continue, 100-continue", b"100-continue;a=b", b"100", b"x"]
)
@pytest.mark.parametrize("head", [GET, PUT + CL])
@pytest.mark.parametrize("version", [b"1.1", b"1.0"])
def test_nothing_else_can_be_expected(value: bytes, head: bytes, version: bytes) -> None:
    said, road, peer = told(head.replace(b"1.1", version) + b"expect: " + value + b"\r\n\r\n{}" + INNER)
    assert (said, road.asked) == (["expectation-failed"], [])
    assert peer.text.startswith(b"HTTP/1.1 417 ")
    assert peer.closed_at is not None


@virtual
async def test_who_expects_a_100_without_a_body_is_answered() -> None:
    peer = edge(Road()).connect()
    peer.send(GET + b"Expect: 100-Continue\r\n\r\n" + INNER)
    await asyncio.sleep(1)
    assert replies(peer.text) == ["200", "200"]
