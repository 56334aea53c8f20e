"""Heads are read by the letter and within limits, however their bytes were cut on the way."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.errors import Reason, Refusal
from gateway.core.replies import Reply
from gateway.core.requests import Request
from gateway.edge.protocol import Bounds
from gateway.emulator import EmulatorConfig
from tests.edge.road import BOUNDS, GET, HOST, MAX_BODY, Road, edge, replies, settle
from tests.support import APP_KEY, World, account_path, chat_path, message, until, world
from tests.virtual import simulate

pytestmark = pytest.mark.anyio

MAX_HEAD_BYTES, MAX_FIELDS = BOUNDS.max_head_bytes, BOUNDS.max_fields
MAX_TARGET_BYTES = BOUNDS.max_target_bytes
#: For those who send as slowly as it takes.
PATIENT = Bounds(head_s=1e6, body_s=1e6, idle_s=1e6)


# -- in memory: all cuts -------------------------------------------------------------------------------


@dataclass
class Heard:
    """What came back for what was sent; `taken` is how many bytes until the connection was closed."""

    road: Road
    text: bytes
    closed: bool
    taken: int

    @property
    def told(self) -> list[str]:
        return replies(self.text)


def hear(segments: Iterable[bytes], *, waiting: bool = False) -> Heard:
    """Send them one after the other; `waiting` for the answers in between."""

    async def send() -> Heard:
        road, taken = Road(), 0
        peer = edge(road, PATIENT).connect()
        for segment in segments:
            if peer.closed_at is not None:
                break
            peer.send(segment)
            taken += len(segment)
            if waiting:
                await settle()
        await settle()
        heard = Heard(
            Road(list(road.asked), list(road.refused)), peer.text, peer.closed_at is not None, taken
        )
        # Whoever still waits for a body is let go.
        peer.hang_up()
        await settle()
        return heard

    return simulate(send())


def cut(stream: bytes, places: Iterable[int]) -> list[bytes]:
    ends = sorted({0, len(stream), *(place % (len(stream) + 1) for place in places)})
    return [stream[begin:end] for begin, end in pairwise(ends)]


def head_of(size: int, fields: int = 3, space: bytes = b" ") -> bytes:
    """A head of so many bytes and fields; `space` stands before each value."""
    lines = GET + b"".join(b"x-%d:%sy\r\n" % (n, space) for n in range(fields - 2))
    return lines + b"x:" + space + b"y" * (size - len(lines) - len(space) - 6) + b"\r\n\r\n"


def fields_of(number: int) -> bytes:
    return GET + b"a:b\r\n" * (number - 1) + b"\r\n"


def target_of(size: int, method: bytes = b"GET") -> bytes:
    return method + b" /" + b"a" * (size - 1) + b" HTTP/1.1\r\n" + HOST + b"\r\n"


def trailed(trailers: bytes) -> bytes:
    return (
        GET.replace(b"GET", b"PUT")
        + b"transfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n"
        + trailers
        + b"\r\n"
    )


AT_THE_LIMITS = {
    "head": (head_of(MAX_HEAD_BYTES - 1), "200"),
    "the largest head": (head_of(MAX_HEAD_BYTES), "200"),
    "a larger head": (head_of(MAX_HEAD_BYTES + 1), "head-too-large"),
    "the largest head without spaces": (head_of(MAX_HEAD_BYTES, 90, b""), "200"),
    "a larger head without spaces": (head_of(MAX_HEAD_BYTES + 1, 90, b""), "head-too-large"),
    "the largest head with many spaces": (head_of(MAX_HEAD_BYTES, 9, b" \t" * 800), "200"),
    "a larger head with many spaces": (head_of(MAX_HEAD_BYTES + 1, 9, b" \t" * 800), "head-too-large"),
    "fields": (fields_of(MAX_FIELDS - 1), "200"),
    "the most fields": (fields_of(MAX_FIELDS), "200"),
    "more fields": (fields_of(MAX_FIELDS + 1), "head-too-large"),
    "target": (target_of(MAX_TARGET_BYTES - 1), "200"),
    "the longest target": (target_of(MAX_TARGET_BYTES), "200"),
    "a longer target": (target_of(MAX_TARGET_BYTES + 1), "target-too-long"),
    "a longer target of another method": (target_of(MAX_TARGET_BYTES + 1, b"OPTIONS"), "target-too-long"),
    "trailers": (trailed(b"a:b\r\n" * (MAX_FIELDS - 2)), "200"),
    "more trailers": (trailed(b"a:b\r\n" * (MAX_FIELDS - 1)), "head-too-large"),
    "long trailers": (trailed(b"a: %s\r\n" % (b"b" * 8_000) * 2), "200"),
    "longer trailers": (trailed(b"a: %s\r\n" % (b"b" * 8_200) * 2), "head-too-large"),
    "one longer trailer": (trailed(b"a: %s\r\n" % (b"b" * MAX_HEAD_BYTES)), "head-too-large"),
    "many chunks": (trailed(b"").replace(b"2\r\n{}\r\n", b"1;a=%s\r\nb\r\n" % (b"b" * 90) * 400), "200"),
    "all too much": (b"GET /" + b"a" * 9_000 + b"\x00" + b"b" * 90_000 + b"\r\n\r\n", "target-too-long"),
    "a bad byte behind the limit": (GET + b"a: " + b"b" * 20_000 + b"\x00\r\n\r\n", "head-too-large"),
    "a bad byte before the limit": (GET + b"\x00: " + b"b" * 20_000 + b"\r\n\r\n", "head-too-large"),
    "nothing but capitals": (b"A" * 20_000 + b" /a HTTP/1.1\r\n\r\n", "head-too-large"),
    "line ends before it": (b"\r\n" * 20_000 + GET + b"\r\n", "200"),
}


@pytest.mark.parametrize("name", AT_THE_LIMITS)
@pytest.mark.parametrize("step", [1, 7, 1_000, 16_384, 1_000_000])
def test_limits_are_exact_however_the_bytes_come(name: str, step: int) -> None:
    stream, told = AT_THE_LIMITS[name]
    heard = hear(cut(stream, range(0, len(stream), step)))
    assert heard.told == [told]
    assert heard.closed == (told != "200")
    assert len(heard.road.asked) == (told == "200")


@pytest.mark.parametrize("name", AT_THE_LIMITS)
@given(places=st.lists(st.integers(0, 20_000), max_size=3))
@settings(max_examples=15)
def test_limits_are_exact_wherever_the_bytes_are_cut(name: str, places: list[int]) -> None:
    stream, told = AT_THE_LIMITS[name]
    assert hear(cut(stream, places)).told == [told]


@pytest.mark.parametrize("after", [b"", b"GET /b HTTP/1.1\r\n" + HOST + b"\r\n"])
@pytest.mark.parametrize(
    "stream",
    [
        GET + b"accept:\t*/*  \r\n\r\n",
        GET.replace(b"GET", b"PUT") + b"content-length: 9\r\n\r\n\r\n\r\nGET /",
        trailed(b"a: b\r\n"),
        trailed(b"").replace(b"2\r\n{}", b"8\r\n\r\n\r\n\r\n\r\n\r\n4;a=b\r\n\r\n\r\n"),
        trailed(b"").replace(b"0\r\n", b"x\r\n"),
        trailed(b"a b: c\r\n"),
        GET + b" a: b\r\n\r\n",
        b"\r\nGET  / HTTP/1.1\r\n\r\n",
    ],
)
@pytest.mark.parametrize("waiting", [False, True])
def test_a_cut_at_any_place_changes_nothing(stream: bytes, after: bytes, *, waiting: bool) -> None:
    whole = hear([stream + after])
    for place in range(1, len(stream + after)):
        pieces = hear(cut(stream + after, [place]), waiting=waiting)
        assert (pieces.text, pieces.road, pieces.closed) == (whole.text, whole.road, whole.closed), place


NAMES = st.sampled_from(
    [b"accept", b"Authorization", b"x-a", b"host", b"origin", b"te st", b"", b"\x00", b"content-length"]
)
VALUES = st.binary(max_size=12) | st.sampled_from([b"a", b" b ", b"2", b"\t", b"a, b", b"c" * 9_000])
LINES = st.sampled_from([b"\r\n"] * 9 + [b"\n", b"\r", b"\r\n ", b"\r\n\r\n"])
FIELDS = st.lists(
    st.tuples(NAMES, st.sampled_from([b":", b": ", b" :"]), VALUES, LINES).map(b"".join), max_size=4
)
TARGETS = st.sampled_from(
    [b"/", b"/a?b=c", b"*", b"http://a/", b"a:1", b"/#a", b"/\xff", b"/" + b"a" * 8_192]
)
VERSIONS = st.sampled_from([b"HTTP/1.1"] * 6 + [b"HTTP/1.0", b"HTTP/2.0", b"HTTP/1.2", b"RTSP/1.1", b""])
SPACES = st.sampled_from([b" "] * 9 + [b"  ", b"\t", b""])
METHODS = st.sampled_from([b"GET", b"PUT", b"get", b"STEAL", b"OPTIONS", b"CONNECT", b""])
HEADS = st.tuples(
    METHODS,
    SPACES,
    TARGETS,
    SPACES,
    VERSIONS,
    LINES,
    st.sampled_from([HOST, HOST, b""]),
    FIELDS.map(b"".join),
).map(lambda parts: b"".join(parts) + b"\r\n")
MESSAGES = st.one_of(
    st.just(GET + b"\r\n"),
    st.just(trailed(b"a: b\r\n")),
    st.binary(max_size=30).map(
        lambda body: GET.replace(b"GET", b"PUT") + b"content-length: %d\r\n\r\n%s" % (len(body), body)
    ),
    st.binary(max_size=30).map(
        lambda body: trailed(b"").replace(b"2\r\n{}", b"1\r\na\r\n%x\r\n%s" % (len(body) or 1, body or b"b"))
    ),
    HEADS,
    st.binary(max_size=40),
)


@given(
    messages=st.lists(MESSAGES, min_size=1, max_size=4),
    places=st.lists(st.integers(0, 30_000), max_size=9),
    waiting=st.booleans(),
)
@settings(max_examples=400, deadline=None)
def test_cuts_change_neither_what_is_taken_nor_what_is_told(
    messages: list[bytes], places: list[int], waiting: bool
) -> None:
    """Nor do any bytes break anything: what is answered is what was asked or refused, and each once."""
    stream = b"".join(messages)
    whole, pieces = hear([stream]), hear(cut(stream, places), waiting=waiting)
    assert pieces.road == whole.road
    assert (pieces.text, pieces.closed) == (whole.text, whole.closed)
    assert whole.told == [*["200"] * len(whole.road.asked), *(one.slug for one in whole.road.refused)] or (
        whole.road.refused[:1] == [Reason.MALFORMED_HEADER]
    )
    assert {one.status for one in whole.road.refused} <= {400, 414, 431}


FLOODS: dict[str, tuple[bytes, bytes, str]] = {
    "a line": (b"GET /", b"a" * 1_000, "target-too-long"),
    "a method": (b"", b"A" * 1_000, "head-too-large"),
    "a value": (GET + b"a: ", b"b" * 1_000, "head-too-large"),
    "a name": (GET, b"a" * 1_000, "head-too-large"),
    "spaces": (GET + b"a:", b" " * 1_000, "head-too-large"),
    "fields": (GET, b"a: b\r\n" * 200, "head-too-large"),
    "a trailer": (trailed(b"")[:-2] + b"a: ", b"b" * 1_000, "head-too-large"),
    "spaces in a trailer": (trailed(b"")[:-2] + b"a: ", b" " * 1_000, "head-too-large"),
    "trailers": (trailed(b"")[:-2], b"a: b\r\n" * 200, "head-too-large"),
    "an extension": (trailed(b"").partition(b"2\r\n")[0] + b"1;", b"a" * 1_000, "head-too-large"),
}


@pytest.mark.parametrize("name", FLOODS)
def test_what_never_ends_is_cut_off(name: str) -> None:
    """However long it goes on, no more than a head and a segment are held of it."""
    begin, more, told = FLOODS[name]
    heard = hear([begin, *[more] * 8_000], waiting=True)
    assert heard.told == [told]
    assert heard.closed
    assert heard.taken <= len(begin) + MAX_HEAD_BYTES + 2 * len(more)


@pytest.mark.parametrize(("size", "told"), [(MAX_HEAD_BYTES - 1, []), (MAX_HEAD_BYTES, ["head-too-large"])])
def test_a_head_that_cannot_end_in_time_is_not_waited_for(size: int, told: list[str]) -> None:
    assert hear([head_of(MAX_HEAD_BYTES + 1)[:size]]).told == told


def test_each_message_is_measured_anew() -> None:
    empty = trailed(b"x: y\r\n").replace(b"2\r\n{}\r\n", b"")
    assert hear([empty] * 2_000, waiting=True).told == ["200"] * 2_000


# -- in memory: what goes wrong around a head ----------------------------------------------------------


def test_all_whole_requests_are_answered_before_half_of_one_is_refused() -> None:
    names = [b"GET /%d HTTP/1.1\r\n" % n + HOST + b"\r\n" for n in range(3)]
    heard = hear([b"".join(names) + trailed(b"").replace(b"2\r\n", b"x\r\n")])
    assert heard.told == ["200", "200", "200", "malformed-request"]
    assert [target for _, target, _, _ in heard.road.asked] == [b"/0?", b"/1?", b"/2?"]
    assert heard.closed


def test_nothing_more_is_read_before_what_waits_is_answered() -> None:
    """Else whoever asks faster than he is answered would have all of it kept for him."""

    async def ask() -> None:
        road = Road()
        peer = edge(road).connect()
        for _ in range(100):
            peer.send((GET + b"\r\n") * 50)
        most = 0
        while len(peer.received) < 5_000:
            await asyncio.sleep(0.01)
            most = max(most, 5_000 - len(peer.received) - 50 * len(peer._on_the_way))
        assert most <= 100
        assert peer.closed_at is None

    simulate(ask())


def test_a_body_that_breaks_after_its_answer_gets_no_second() -> None:
    stream = GET.replace(b"GET", b"PUT") + b"transfer-encoding: chunked\r\n\r\n"
    too_much = b"%x\r\n%s\r\n" % (MAX_BODY + 1, b"a" * (MAX_BODY + 1))
    heard = hear([stream + too_much, b"nonsense\r\n"], waiting=True)
    assert heard.told == ["body-too-large"]
    assert heard.closed


@pytest.mark.parametrize("length", [MAX_BODY + 1, 10])
def test_a_body_that_was_not_called_for_is_not_read_as_a_request(length: int) -> None:
    """A client that waits for 100 and hears a refusal may leave its body out: nobody knows what follows."""

    class Refusing(Road):
        async def answer(self, request: Request) -> Reply:
            return self.refuse(request, Refusal(Reason.TOKEN_MISSING))

    async def ask() -> None:
        road = Refusing()
        peer = edge(road).connect()
        head = GET.replace(b"GET", b"PUT") + b"expect: 100-continue\r\ncontent-length: %d\r\n\r\n" % length
        peer.send(head)
        await settle()
        assert peer.text.startswith(b"HTTP/1.1 401 ")
        assert b"connection: close\r\n" in peer.text
        assert peer.closed_at is not None
        assert road.refused == [Reason.TOKEN_MISSING]

    simulate(ask())


@pytest.mark.parametrize(("version", "is_told"), [(b"1.1", True), (b"1.0", False)])
def test_nobody_of_http_1_0_is_told_to_continue(version: bytes, is_told: bool) -> None:
    head = GET.replace(b"GET", b"PUT").replace(b"1.1", version)
    heard = hear([head + b"expect: 100-Continue\r\ncontent-length: 2\r\n\r\n{}"])
    assert heard.told == ["200"]
    assert heard.text.startswith(b"HTTP/1.1 100 Continue\r\n\r\n") == is_told


async def test_a_site_that_crashes_costs_the_connection(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(Road):
        async def answer(self, request: Request) -> Reply:
            raise KeyError(request.path)

    peer = edge(Broken()).connect()
    loop, seen = asyncio.get_running_loop(), list[object]()
    loop.set_exception_handler(lambda _, context: seen.append(context))
    peer.send((GET + b"\r\n") * 2)
    await asyncio.sleep(0.01)
    loop.set_exception_handler(None)
    assert (peer.text, peer.closed_at is None) == (b"", False)
    assert [record.message for record in caplog.records if record.exc_info] == ["request crashed"]


# -- over sockets --------------------------------------------------------------------------------------


def get(target: str | bytes = account_path(), version: str = "HTTP/1.1", *fields: bytes) -> bytes:
    """A head of which everything can be wrong."""
    raw = target if isinstance(target, bytes) else target.encode()
    return b"GET %s %s\r\n%s\r\n" % (raw, version.encode(), b"".join(field + b"\r\n" for field in fields))


LINE = account_path().encode()
NAMED = b"host: gateway.test"
BAD: dict[str, bytes] = {
    # RFC 9112 §2.2, §3
    "http/0.9": b"GET %s\r\n\r\n" % LINE,
    "http/1.2": get(LINE, "HTTP/1.2", NAMED),
    "http/2.0": get(LINE, "HTTP/2.0", NAMED),
    "http/1.10": get(LINE, "HTTP/1.10", NAMED),
    "small http": get(LINE, "http/1.1", NAMED),
    "another protocol": get(LINE, "RTSP/1.1", NAMED),
    "one more": get(LINE, "HTTP/1.1 x", NAMED),
    "a space behind the version": get(LINE, "HTTP/1.1 ", NAMED),
    "no version": get(LINE, "", NAMED),
    "two spaces before the target": get(b" " + LINE, "HTTP/1.1", NAMED),
    "two spaces behind the target": get(LINE + b" ", "HTTP/1.1", NAMED),
    "a tab": get(LINE, "HTTP/1.1", NAMED).replace(b" ", b"\t", 1),
    "a space in front": b" " + get(LINE, "HTTP/1.1", NAMED),
    "a bare line feed behind the line": get(LINE, "HTTP/1.1", NAMED).replace(b"\r\n", b"\n", 1),
    "a bare return behind the line": get(LINE, "HTTP/1.1", NAMED).replace(b"\r\n", b"\r", 1),
    "a method of small letters": b"get" + get(LINE, "HTTP/1.1", NAMED)[3:],
    "a method nobody knows": b"STEAL" + get(LINE, "HTTP/1.1", NAMED)[3:],
    # RFC 9112 §3.2: origin-form only
    "absolute-form": get(b"http://gateway.test" + LINE, "HTTP/1.1", NAMED),
    "authority-form": b"CONNECT gateway.test:443 HTTP/1.1\r\n%s\r\n\r\n" % NAMED,
    "connect": b"CONNECT %s HTTP/1.1\r\n%s\r\n\r\n" % (LINE, NAMED),
    "asterisk-form": b"OPTIONS * HTTP/1.1\r\n%s\r\n\r\n" % NAMED,
    "no slash": get(LINE[1:], "HTTP/1.1", NAMED),
    "a fragment": get(LINE + b"#a", "HTTP/1.1", NAMED),
    "a target beyond ascii": get("/\u00fc".encode(), "HTTP/1.1", NAMED),
    "a target with a control byte": get(LINE + b"\x01", "HTTP/1.1", NAMED),
    "a target with DEL": get(LINE + b"\x7f", "HTTP/1.1", NAMED),
    # RFC 9112 §5
    "a folded field": get(LINE, "HTTP/1.1", NAMED, b"x: a", b" b"),
    "a field folded by a tab": get(LINE, "HTTP/1.1", NAMED, b"x: a", b"\tb"),
    "a folded first field": get(LINE, "HTTP/1.1", b" " + NAMED),
    "a folded empty field": get(LINE, "HTTP/1.1", NAMED, b"x:", b" b"),
    "a space before the colon": get(LINE, "HTTP/1.1", b"host : gateway.test"),
    "a tab before the colon": get(LINE, "HTTP/1.1", b"host\t: gateway.test"),
    "a space in a name": get(LINE, "HTTP/1.1", NAMED, b"x y: z"),
    "no colon": get(LINE, "HTTP/1.1", NAMED, b"x"),
    "an empty name": get(LINE, "HTTP/1.1", NAMED, b": x"),
    "a name beyond ascii": get(LINE, "HTTP/1.1", NAMED, b"\xff: x"),
    "a bare line feed behind a field": get(LINE, "HTTP/1.1", NAMED + b"\nx: y"),
    "a bare return behind a field": get(LINE, "HTTP/1.1", NAMED + b"\rx: y"),
    "a bare line feed at the end": get(LINE, "HTTP/1.1", NAMED + b"\r\n\nGET"),
    "a NUL in a value": get(LINE, "HTTP/1.1", NAMED, b"x: \x00"),
    "a NUL in a name": get(LINE, "HTTP/1.1", NAMED, b"\x00x: y"),
    "a control byte in a value": get(LINE, "HTTP/1.1", NAMED, b"x: \x0b"),
    # RFC 9112 §6: where the message ends
    "two lengths": get(LINE, "HTTP/1.1", NAMED, b"content-length: 1", b"content-length: 2"),
    "the same length twice": get(LINE, "HTTP/1.1", NAMED, b"content-length: 0", b"content-length: 0"),
    "a list of lengths": get(LINE, "HTTP/1.1", NAMED, b"content-length: 0, 0"),
    "a length with a sign": get(LINE, "HTTP/1.1", NAMED, b"content-length: +0"),
    "a length in hex": get(LINE, "HTTP/1.1", NAMED, b"content-length: 0x0"),
    "no length": get(LINE, "HTTP/1.1", NAMED, b"content-length:"),
    "length and chunks": get(LINE, "HTTP/1.1", NAMED, b"content-length: 0", b"transfer-encoding: chunked"),
    "chunks and length": get(LINE, "HTTP/1.1", NAMED, b"transfer-encoding: chunked", b"content-length: 0"),
    "another coding": get(LINE, "HTTP/1.1", NAMED, b"transfer-encoding: gzip"),
    "a coding like it": get(LINE, "HTTP/1.1", NAMED, b"transfer-encoding: xchunked"),
    "a coding in quotes": get(LINE, "HTTP/1.1", NAMED, b'transfer-encoding: "chunked"'),
    "two codings": get(LINE, "HTTP/1.1", NAMED, b"transfer-encoding: gzip, chunked"),
    "two codings in two lines": get(
        LINE, "HTTP/1.1", NAMED, b"transfer-encoding: gzip", b"transfer-encoding: chunked"
    ),
    "no coding": get(LINE, "HTTP/1.1", NAMED, b"transfer-encoding:"),
    "a coding behind a control byte": get(LINE, "HTTP/1.1", NAMED, b"transfer-encoding: \x0bchunked"),
    "chunks of http/1.0": get(LINE, "HTTP/1.0", NAMED, b"transfer-encoding: chunked"),
    "an upgrade": get(LINE, "HTTP/1.1", NAMED, b"connection: upgrade", b"upgrade: h2c"),
    # beyond the limits
    "a long target": get(LINE + b"?" + b"a" * MAX_TARGET_BYTES, "HTTP/1.1", NAMED),
    "a long field": get(LINE, "HTTP/1.1", NAMED, b"x: " + b"a" * MAX_HEAD_BYTES),
    "many fields": get(LINE, "HTTP/1.1", NAMED, *[b"x: y"] * MAX_FIELDS),
    # RFC 9112 §3.2: one Host
    "no host": get(LINE),
    "two hosts": get(LINE, "HTTP/1.1", NAMED, NAMED.upper()),
    "a list of hosts": get(LINE, "HTTP/1.1", NAMED + b", evil.example"),
    "a host with a path": get(LINE, "HTTP/1.1", NAMED + b"/x"),
    "a host with a name in front": get(LINE, "HTTP/1.1", b"host: x@gateway.test"),
    "a host with a space": get(LINE, "HTTP/1.1", NAMED + b" x"),
    "a host beyond ascii": get(LINE, "HTTP/1.1", NAMED + b"\xff"),
    "a bad host of http/1.0": get(LINE, "HTTP/1.0", NAMED + b", evil.example"),
}


def problem_of(name: str) -> str:
    if "host" in name:
        return "malformed-header"
    if "long target" in name:
        return "target-too-long"
    return "head-too-large" if name in TOO_LARGE else "malformed-request"


TOO_LARGE = {"a long field", "many fields"}
STATUS = {"target-too-long": 414, "head-too-large": 431}


@pytest.fixture(scope="module")
def anyio_backend() -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": True}


@pytest.fixture(scope="module")
async def shared_world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    async with world(tmp_path_factory.mktemp("world")) as it:
        yield it


@pytest.fixture
def here(shared_world: World) -> World:
    shared_world.start_over()
    return shared_world


@pytest.mark.parametrize("name", BAD)
async def test_bad_heads_are_refused_by_the_right_problem(here: World, name: str) -> None:
    """Once, and with an id; nothing goes upstream, and nothing behind it is read as a request."""
    problem = problem_of(name)
    before, counted = here.upstream_requests(), here.gateway.metrics.road.requests.copy()
    token = f"authorization: Bearer {here.token()}\r\n".encode()
    raw = BAD[name].replace(b"\r\n\r\n", b"\r\n" + token + b"\r\n", 1)
    async with here.wire() as wire:
        with contextlib.suppress(ConnectionError):
            await wire.send(raw + get(LINE, "HTTP/1.1", NAMED, token[:-2]) * (problem != "malformed-header"))
        response = await wire.response()
        assert (response.status, response.problem) == (STATUS.get(problem, 400), problem)
        assert re.fullmatch("[0-9a-f]{16}", response.header("x-request-id") or "")
        assert response.json()["request_id"] == response.header("x-request-id")
        if problem != "malformed-header":
            assert response.header("connection") == "close"
            with contextlib.suppress(ConnectionError):
                assert await wire.until_closed() == b""
    more = here.gateway.metrics.road.requests - counted
    assert [(status, outcome) for _, _, status, outcome in more.elements()] == [
        (str(response.status), problem)
    ]
    assert here.upstream_requests() == before == 0


@pytest.mark.parametrize("name", ["8 MB of a field", "50,000 fields"])
async def test_giants_are_refused_while_they_come(here: World, name: str) -> None:
    """Whoever goes on sending may not hear of it, but that the connection is gone."""
    counted = here.gateway.metrics.road.requests
    refused = ("-", "-", "431", "head-too-large")
    before = counted[refused]
    rest = b"x: " + b"a" * 8_000_000 if name.startswith("8") else b"x: y\r\n" * 50_000
    async with here.wire() as wire:
        with contextlib.suppress(ConnectionError):
            await wire.send(get(LINE, "HTTP/1.1", NAMED)[:-2] + rest)
            assert (await wire.response()).problem == "head-too-large"
        await until(lambda: counted[refused] == before + 1)
    assert (await here.get(account_path())).status == 200


GOOD: dict[str, bytes] = {
    "lines before it": b"\r\n\r\n" + get(LINE, "HTTP/1.1", NAMED),
    "no space behind the colon": get(LINE, "HTTP/1.1", NAMED.replace(b" ", b"")),
    "tabs around a value": get(LINE, "HTTP/1.1", b"host:\t gateway.test\t "),
    "large letters": get(LINE, "HTTP/1.1", NAMED.upper()),
    "a port": get(LINE, "HTTP/1.1", NAMED + b":8080"),
    "an address": get(LINE, "HTTP/1.1", b"host: [2001:db8::1]:8080"),
    "an empty host": get(LINE, "HTTP/1.1", b"host:"),
    "a value beyond ascii": get(LINE, "HTTP/1.1", NAMED, b"x: \xff"),
    "an empty value": get(LINE, "HTTP/1.1", NAMED, b"x:"),
    "http/1.0": get(LINE, "HTTP/1.0", NAMED),
    "http/1.0 without a host": get(LINE, "HTTP/1.0"),
}


@pytest.mark.parametrize("name", GOOD)
async def test_heads_that_only_look_bad_are_answered(here: World, name: str) -> None:
    token = f"\r\nauthorization: Bearer {here.token()}\r\n\r\n".encode()
    begin, _, _ = GOOD[name].rpartition(b"\r\n\r\n")
    async with here.wire() as wire:
        await wire.send(begin + token)
        assert (await wire.response()).status == 200


@pytest.mark.parametrize("at_once", [True, False])
async def test_a_bad_head_behind_hits_is_refused_after_them(here: World, *, at_once: bool) -> None:
    info, fields = chat_path(here.chat(), "/info"), {**here.bearer(), "accept": "application/json"}
    poll = message("GET", info, fields)
    bad = poll.replace(b"GET /", b"GET  /")
    async with here.wire() as wire:
        warm = [await wire.ask("GET", info, fields) for _ in range(3)]
        assert (warm[-1].header("cache-status") or "").startswith("chat-gateway; hit")
        for segment in [poll + poll + bad + poll] if at_once else [poll, poll, bad + poll]:
            await wire.send(segment)
        told = [await wire.response() for _ in range(3)]
        assert [(one.status, one.problem) for one in told] == [(200, None)] * 2 + [(400, "malformed-request")]
        with contextlib.suppress(ConnectionError):
            assert await wire.until_closed() == b""
    assert here.upstream_requests() == 1


async def test_another_host_is_no_way_past_its_refusal(here: World) -> None:
    info, fields = chat_path(here.chat(), "/info"), {**here.bearer(), "accept": "application/json"}
    bad = message("GET", info, fields).replace(NAMED, NAMED + b", evil.example")
    async with here.wire() as wire:
        for _ in range(3):
            assert (await wire.ask("GET", info, fields)).status == 200
        await wire.send(bad)
        assert (await wire.response()).problem == "malformed-header"


async def test_http_1_0_is_never_kept_alive(here: World) -> None:
    fields = {**here.bearer(), "accept": "application/json", "connection": "keep-alive"}
    poll = message("GET", chat_path(here.chat(), "/info"), fields).replace(b"HTTP/1.1", b"HTTP/1.0")
    for _ in range(3):
        async with here.wire() as wire:
            await wire.send(poll)
            response = await wire.response()
            assert (response.status, response.header("connection")) == (200, "close")
            assert await wire.until_closed() == b""


async def test_half_a_head_is_never_taken_for_a_request_that_is_known(here: World) -> None:
    """What ends in a known request may be the end of another."""
    poll = message("GET", chat_path(here.chat(), "/info"), {**here.bearer(), "accept": "application/json"})
    async with here.wire() as wire:
        for _ in range(3):
            await wire.send(poll)
            assert (await wire.response()).status == 200
        await wire.send(b"GET /nothing HTTP/1.1\r\nx: ")
        await asyncio.sleep(0.02)  # so that it comes apart
        await wire.send(poll)
        assert (await wire.response()).problem == "unknown-resource"


async def test_who_hangs_up_before_two_answers_is_let_go(tmp_path: Path) -> None:
    """The first request is under way and the second waits for it: neither answer can be written."""
    config = EmulatorConfig(app_key=APP_KEY, latency_s=0.05)
    async with world(tmp_path, emulator=config) as it, it.wire() as wire:
        await wire.send(message("GET", account_path(), it.bearer()) * 2)
        await until(lambda: it.upstream_requests() == 1)
        wire.hang_up()
        await until(lambda: not it.gateway.exchange.flights and it.upstream_requests() >= 1)
        assert (await it.get(account_path())).status == 200
        assert it.gateway.metrics.crashes == 0
