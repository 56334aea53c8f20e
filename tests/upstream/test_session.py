"""Requests and answers over HTTP/1.1, against peers that do what they like with each connection."""

from __future__ import annotations

import asyncio
import contextlib
import random
from pathlib import Path

import pytest

from gateway.core.errors import Reason
from gateway.upstream.session import Session, Unanswered, trusted
from tests.identity_provider import CA_FILE, certified
from tests.support import until
from tests.upstream.peers import (
    ANSWER,
    CHUNKED,
    FIELDS,
    MAX_BYTES,
    OK,
    STRAY,
    Turn,
    always,
    ask,
    peer,
    session,
)

pytestmark = pytest.mark.anyio


async def reason(by: Session, origin: str) -> tuple[Reason, bool]:
    with pytest.raises(Unanswered) as why:
        await ask(by, origin)
    return why.value.reason, why.value.unseen


# -- what goes out ---------------------------------------------------------------------------------------

KEY = (b"authorization", b"LivePerson appKey=x")
SAID = b"accept: x/y\r\naccept-encoding: identity\r\nuser-agent: me\r\n"
REQUESTS = {
    "a read": ("GET", (), b"", b""),
    "a write": ("POST", ((b"content-length", b"2"),), b"{}", b"content-length: 2\r\n"),
    "a write of nothing": ("POST", ((b"content-length", b"0"),), b"", b"content-length: 0\r\n"),
}


@pytest.mark.parametrize("name", REQUESTS)
async def test_nothing_is_added_to_a_request_and_its_order_kept(name: str) -> None:
    method, length, body, line = REQUESTS[name]
    received = asyncio.Event()
    got = b""

    async def recording(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal got
        got = await reader.readuntil(b"\r\n\r\n") + await reader.readexactly(len(body))
        writer.write(ANSWER)
        writer.close()
        received.set()

    async with await asyncio.start_server(recording, "127.0.0.1", 0) as server, session() as by:
        place = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        url = f"http://{place}/api/%7Ea%2f/x?v=1&x=%2f&y=a+b,c%2C"
        await by.ask(method, url, (*FIELDS, *length, KEY), MAX_BYTES, body=body)
        await received.wait()
    start = f"{method} /api/%7Ea%2f/x?v=1&x=%2f&y=a+b,c%2C HTTP/1.1\r\nHost: {place}\r\n".encode()
    assert got == start + SAID + line + b"authorization: LivePerson appKey=x\r\n\r\n" + body


async def test_no_field_becomes_two() -> None:
    async with peer(always(ANSWER)) as it, session() as by:
        with pytest.raises(Unanswered):
            await by.ask("GET", it.origin, (*FIELDS, (b"a", b"b\r\nc: d")), MAX_BYTES)
        assert not it.requests


# -- what comes back -------------------------------------------------------------------------------------

ANSWERS = {
    "a length": (ANSWER, b"body"),
    "chunks": (CHUNKED + b"1\r\nb\r\n3\r\nody\r\n0\r\n\r\n", b"body"),
    "trailers": (OK + b"Transfer-Encoding: Chunked\r\n\r\n4\r\nbody\r\n0\r\nset-cookie: a\r\n\r\n", b"body"),
    "early hints": (b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n" + ANSWER, b"body"),
    "nothing": (b"HTTP/1.1 204 No Content\r\n\r\n", b""),
    "a redirect": (b"HTTP/1.1 302 Found\r\nlocation: /b\r\ncontent-length: 0\r\n\r\n", b""),
    "a refusal": (b"HTTP/1.1 401 No\r\ncontent-length: 2\r\n\r\nno", b"no"),
    "a coding": (OK + b"content-encoding: gzip\r\ncontent-length: 4\r\n\r\nbody", b"body"),
    "a cookie": (OK + b"set-cookie: a=b; path=/\r\ncontent-length: 4\r\n\r\nbody", b"body"),
    "as much as may be": (OK + b"content-length: 1000\r\n\r\n" + b"x" * 1000, b"x" * 1000),
}


@pytest.mark.parametrize("is_dripping", [False, True])
@pytest.mark.parametrize("name", ANSWERS)
async def test_every_framing_leaves_a_connection_that_is_kept(name: str, is_dripping: bool) -> None:
    answer, body = ANSWERS[name]

    async def answering(turn: Turn) -> None:
        for at in range(0, len(answer), 1 if is_dripping else len(answer)):
            turn.writer.write(answer[at : at + (1 if is_dripping else len(answer))])
            await asyncio.sleep(0)

    async with peer(answering) as it, session() as by:
        assert [await ask(by, it.origin) for _ in range(3)] == [body] * 3
        assert it.connections == 1
        # Asked for once each, and as if nothing had been said before.
        assert len(it.requests) == 3
        assert len(set(it.requests)) == 1


async def test_a_head_as_it_was_sent_but_for_the_case_of_names() -> None:
    head = b"HTTP/1.1 404 No\r\nX-A:  b \t\r\nEmpty:\r\nx-a: C\r\ncontent-length: 0\r\n\r\n"
    async with peer(always(head)) as it, session() as by:
        answer = await by.ask("GET", it.origin, FIELDS, MAX_BYTES)
    assert answer.status == 404
    assert answer.headers == ((b"x-a", b"b"), (b"empty", b""), (b"x-a", b"C"), (b"content-length", b"0"))


NO_ANSWERS = {
    "no http": b"SSH-2.0-OpenSSH_9\r\n\r\n",
    "a version to come": ANSWER.replace(b"1.1", b"1.2"),
    "two lengths": OK + b"content-length: 1\r\ncontent-length: 4\r\n\r\nbody",
    "a list of lengths": OK + b"content-length: 4, 4\r\n\r\nbody",
    "a length and chunks": OK + b"content-length: 4\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "an unknown transfer coding": OK + b"transfer-encoding: gzip\r\n\r\nbody",
    "chunks in name": OK + b"transfer-encoding: xchunked\r\n\r\n0\r\n\r\n",
    "a switch of protocols": b"HTTP/1.1 101 S\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n",
    "a line break in a field": OK + b"a: b\rc: d\r\ncontent-length: 4\r\n\r\nbody",
    "a zero in a field": OK + b"a: \0\r\ncontent-length: 4\r\n\r\nbody",
    "a huge field": OK + b"a: " + b"x" * 10_000 + b"\r\ncontent-length: 4\r\n\r\nbody",
    "many fields": OK + b"a: b\r\n" * 200 + b"content-length: 4\r\n\r\nbody",
    "broken chunks": CHUNKED + b"zz\r\n",
    "a broken trailer": CHUNKED + b"4\r\nbody\r\n0\r\na b\r\n\r\n",
    "many trailers": CHUNKED + b"4\r\nbody\r\n0\r\n" + b"a: b\r\n" * 200 + b"\r\n",
    "a byte too many": OK + b"\r\n" + b"x" * 1001,
}


@pytest.mark.parametrize("is_slow", [False, True])
@pytest.mark.parametrize("name", NO_ANSWERS)
async def test_what_is_no_answer_ends_its_connection(name: str, is_slow: bool) -> None:
    async def answering(turn: Turn) -> None:
        if turn.connection > 1:
            turn.writer.write(ANSWER)
            return
        for line in NO_ANSWERS[name].splitlines(keepends=True):
            turn.writer.write(line)
            if is_slow:
                await asyncio.sleep(0)

    async with peer(answering) as it, session() as by:
        why, is_unseen = await reason(by, it.origin)
        assert why in {Reason.UPSTREAM_BROKEN, Reason.UPSTREAM_RESET}
        assert not is_unseen
        assert await ask(by, it.origin) == b"body"
        assert it.connections == 2


WHOLE_BUT_UNFIT = {
    "a byte too many": OK + b"content-length: 1001\r\n\r\n" + b"x" * 1001,
    "one transfer coding too many": OK + b"transfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
}


@pytest.mark.parametrize("name", WHOLE_BUT_UNFIT)
async def test_what_is_whole_but_unfit_is_no_answer(name: str) -> None:
    async with peer(always(WHOLE_BUT_UNFIT[name])) as it, session() as by:
        for _ in range(2):
            assert await reason(by, it.origin) == (Reason.UPSTREAM_BROKEN, False)


#: What comes first, and what comes again and again.
ENDLESS = {
    "body": (OK + b"\r\n", b"x" * 1000),
    "chunks": (CHUNKED, b"1\r\nx\r\n" * 200),
    "trailers": (CHUNKED + b"0\r\n", b"a: b\r\n" * 200),
    "chunk extension": (CHUNKED + b"1;", b"x" * 1000),
    "chunk extensions": (CHUNKED, b"1;" + b"x" * 1000 + b"\r\nx\r\n"),
    "interim answers": (b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 200),
    "interim fields": (b"HTTP/1.1 103 Early Hints\r\n", b"a: b\r\n" * 200),
    "field": (OK + b"a: ", b"x" * 1000),
    "fields": (OK, b"a: b\r\n" * 200),
}


@pytest.mark.parametrize("name", ENDLESS)
async def test_what_does_not_end_is_ended(name: str) -> None:
    first, again = ENDLESS[name]
    sent = 0

    async def answering(turn: Turn) -> None:
        nonlocal sent
        turn.writer.write(first)
        while True:
            turn.writer.write(again)
            await turn.writer.drain()
            sent += len(again)

    async with peer(answering) as it, session() as by:
        assert await reason(by, it.origin) == (Reason.UPSTREAM_BROKEN, False)
        await until(lambda: it.open == 0)
        # What the kernel and the library hold on the way has been sent, too.
        assert sent < 10_000_000


# -- what follows an answer ------------------------------------------------------------------------------

#: What follows an answer; and what comes before the next one, should the connection be kept.
FOLLOWING = {
    "an answer": (STRAY, b""),
    "two answers": (STRAY + STRAY, b""),
    "half of one": (STRAY[:30], b""),
    "one in two halves": (STRAY[:30], STRAY[30:]),
    "one head, its body later": (STRAY[:-5], STRAY[-5:]),
    "something": (b"stray", b""),
    "something long": (b"HTTP/1.1 200 " + b"stray" * 50_000, b""),
}


@pytest.mark.parametrize("when", ["at once", "with the body", "later"])
@pytest.mark.parametrize("name", FOLLOWING)
async def test_what_follows_an_answer_reaches_nobody(name: str, when: str) -> None:
    following, then = FOLLOWING[name]
    is_said = asyncio.Event()
    at = {"at once": 0, "with the body": len(ANSWER) - 4, "later": len(ANSWER)}[when]

    async def answering(turn: Turn) -> None:
        if turn.connection > 1 or turn.asked > 1:
            turn.writer.write((then if turn.connection == 1 else b"") + ANSWER)
            return
        everything = ANSWER + following
        turn.writer.write(everything[:at])
        await turn.writer.drain()
        await asyncio.sleep(0.01)
        turn.writer.write(everything[at:])
        is_said.set()

    async with peer(answering) as it, session() as by:
        said = []
        for _ in range(3):
            with contextlib.suppress(Unanswered):
                said.append(await ask(by, it.origin))
            # What comes only after the next request has left nobody can tell from its answer.
            await is_said.wait()
            await asyncio.sleep(0.02)
        assert set(said) == {b"body"}
        assert len(said) >= 2


async def test_an_answer_that_comes_while_nobody_asks_ends_its_connection() -> None:
    late: list[asyncio.StreamWriter] = []

    async def answering(turn: Turn) -> None:
        turn.writer.write(ANSWER)
        late.append(turn.writer)

    async with peer(answering) as it, session() as by:
        assert await ask(by, it.origin) == b"body"
        late[0].write(STRAY)
        await asyncio.sleep(0.02)
        assert await ask(by, it.origin) == b"body"
        assert it.connections == 2
        await until(lambda: it.open == 1)


# -- connections that close ------------------------------------------------------------------------------

#: What comes before a kept connection closes; whether nobody need have seen the request.
CLOSED = {"nothing": (b"", True), "half a head": (ANSWER[:20], True), "half a body": (ANSWER[:-2], False)}


@pytest.mark.parametrize("how", ["closed", "reset"])
@pytest.mark.parametrize("name", CLOSED)
async def test_only_before_the_head_nobody_need_have_seen_it(name: str, how: str) -> None:
    async def answering(turn: Turn) -> None:
        turn.writer.write(ANSWER if turn.asked == 1 else CLOSED[name][0])
        if turn.asked == 2:
            await asyncio.sleep(0.01)
            turn.writer.close() if how == "closed" else turn.writer.transport.abort()

    async with peer(answering) as it, session() as by:
        await ask(by, it.origin)
        assert await reason(by, it.origin) == (Reason.UPSTREAM_RESET, CLOSED[name][1])
        # The library has not repeated it either.
        assert len(it.requests) == 2


@pytest.mark.parametrize("said", [b"", b"HTTP/1.1 103 Early Hints\r\n\r\n", ANSWER[:10], ANSWER[:-1]])
async def test_a_new_connection_that_closes_is_a_reset(said: bytes) -> None:
    async def answering(turn: Turn) -> None:
        turn.writer.write(said)
        turn.writer.close()

    async with peer(answering) as it, session() as by:
        assert await reason(by, it.origin) == (Reason.UPSTREAM_RESET, False)
        assert len(it.requests) == 1


async def test_who_hangs_up_at_once_is_a_reset() -> None:
    async with peer(always(ANSWER)) as it, session() as by:
        it.hangs_up = True
        for _ in range(20):
            assert await reason(by, it.origin) == (Reason.UPSTREAM_RESET, False)


@pytest.mark.filterwarnings("ignore:Sending a large body:ResourceWarning")
async def test_an_answer_before_its_request_has_left_is_the_last_on_its_connection() -> None:
    async with peer(always(ANSWER)) as it, session() as by:
        # The peer reads the head only, and no socket takes as much as follows.
        body = b"x" * 20_000_000
        length = (b"content-length", b"%d" % len(body))
        answer = await by.ask("POST", it.origin, (*FIELDS, length), MAX_BYTES, body=body)
        assert answer.body == b"body"
        assert await ask(by, it.origin) == b"body"
        assert it.connections == 2


async def test_idle_connections_go() -> None:
    async with peer(always(ANSWER)) as it, session(idle_s=0.02) as by:
        await asyncio.gather(*(ask(by, it.origin) for _ in range(3)))
        assert it.open == 3
        await until(lambda: it.open == 0)
        assert await ask(by, it.origin) == b"body"


async def test_nothing_is_left_when_it_is_closed() -> None:
    async def silent(_: Turn) -> None: ...

    async with peer(silent) as it:
        by = Session(10, 15.0)
        asking = asyncio.create_task(reason(by, it.origin))
        await until(lambda: it.open == 1)
        await by.aclose()
        assert await asking == (Reason.UPSTREAM_RESET, False)
        await until(lambda: it.open == 0)
        assert await reason(by, it.origin) == (Reason.UPSTREAM_UNREACHABLE, False)
        assert it.connections == 1


# -- how many there are ----------------------------------------------------------------------------------


async def test_no_more_connections_than_may_be() -> None:
    async with peer(always(ANSWER)) as it, session(most=2) as by:
        assert await asyncio.gather(*(ask(by, it.origin) for _ in range(9))) == [b"body"] * 9
        assert (it.connections, it.most) == (2, 2)


@pytest.mark.parametrize("turns", range(20))
async def test_who_is_cancelled_leaves_nothing_to_who_comes_next(turns: int) -> None:
    """At each step of an exchange: the next one gets its own answer, in the only place there is."""

    async def answering(turn: Turn) -> None:
        answer = STRAY if it.requests[-1].startswith(b"GET /first") else ANSWER
        turn.writer.write(answer[:10])
        await asyncio.sleep(0)
        turn.writer.write(answer[10:])

    async with peer(answering) as it, session(most=1) as by:
        asking = asyncio.create_task(ask(by, it.origin, "/first"))
        for _ in range(turns):
            await asyncio.sleep(0)
        asking.cancel()
        await asyncio.wait([asking])
        assert await ask(by, it.origin) == b"body"


async def test_who_gets_a_place_and_is_cancelled_at_once_leaves_it_to_the_next() -> None:
    async with peer(always(ANSWER)) as it, session(most=1) as by:

        async def first() -> bytes:
            body = await ask(by, it.origin)
            # In the step of the loop in which its turn has come, and before it runs.
            second.cancel()
            return body

        asking = asyncio.create_task(first())
        second, third = (asyncio.create_task(ask(by, it.origin)) for _ in range(2))
        assert (await asking, await third) == (b"body", b"body")
        assert second.cancelled()


async def test_crowds_that_cancel_at_random_leave_every_place_free() -> None:
    chance = random.Random(1)

    async def answering(turn: Turn) -> None:
        await asyncio.sleep(chance.choice((0, 0.001)))
        turn.writer.write(ANSWER)

    async with peer(answering) as it, session(most=10) as by:

        async def leaving() -> None:
            for _ in range(20):
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(chance.uniform(0, 0.01)):
                        await ask(by, it.origin)

        await asyncio.gather(*(leaving() for _ in range(40)))
        assert await asyncio.gather(*(ask(by, it.origin) for _ in range(10))) == [b"body"] * 10
        await until(lambda: it.open <= 10)


# -- nobody there ----------------------------------------------------------------------------------------

NOBODY = {
    "nobody listens": "http://127.0.0.1:1",
    "no such name": "http://no-such-host.invalid",
    "no name": "http://a..b",
    "no port": "http://127.0.0.1:99999",
}


@pytest.mark.parametrize("name", NOBODY)
async def test_nobody_there_is_unreachable(name: str) -> None:
    missed: list[str] = []
    async with session(most=1) as by:
        for _ in range(2):
            with pytest.raises(Unanswered) as why:
                await by.ask("GET", NOBODY[name], FIELDS, MAX_BYTES, missed=lambda: missed.append(name))
            assert (why.value.reason, why.value.unseen) == (Reason.UPSTREAM_UNREACHABLE, False)
    assert missed == [name] * 2


@pytest.mark.parametrize("scheme", ["https", "http"])
async def test_only_who_is_cancelled_while_connecting_misses_somebody(scheme: str) -> None:
    async def silent(_: Turn) -> None: ...

    missed: list[int] = []
    async with peer(silent) as it, session() as by:
        url = it.origin.replace("http", scheme)
        asking = asyncio.create_task(by.ask("GET", url, FIELDS, MAX_BYTES, missed=lambda: missed.append(1)))
        await until(lambda: it.open == 1 and (scheme == "https" or bool(it.requests)))
        asking.cancel()
        await until(lambda: it.open == 0)
        assert missed == ([1] if scheme == "https" else [])


async def test_only_who_is_trusted_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    context = certified(tmp_path / "one")
    certified(tmp_path / "other")
    one, other = (trusted(tmp_path / name / CA_FILE) for name in ("one", "other"))
    # Whom the environment names is not whom the system trusts.
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "one" / CA_FILE))
    async with peer(always(ANSWER), context) as it, session() as by:
        for nobody in (None, trusted(None), other):
            if nobody is not None:
                by.trust(nobody)
            assert await reason(by, it.origin) == (Reason.UPSTREAM_UNREACHABLE, False)
        assert not it.requests
        by.trust(one)
        assert [await ask(by, it.origin) for _ in range(2)] == [b"body"] * 2
        assert it.connections == 1
        # A connection is kept that it would not make.
        by.trust(other)
        assert await reason(by, it.origin) == (Reason.UPSTREAM_UNREACHABLE, False)
        assert len(it.requests) == 2


async def test_whom_to_trust_may_change_while_a_request_is_under_way(tmp_path: Path) -> None:
    context = certified(tmp_path)
    answered = asyncio.Event()

    async def answering(turn: Turn) -> None:
        await answered.wait()
        turn.writer.write(ANSWER)

    async with peer(answering, context) as it, session() as by:
        by.trust(trusted(tmp_path / CA_FILE))
        asking = asyncio.create_task(ask(by, it.origin))
        await until(lambda: bool(it.requests))
        by.trust(trusted(tmp_path / CA_FILE))
        answered.set()
        assert await asking == b"body"
        assert await ask(by, it.origin) == b"body"
        assert it.connections == 2


@pytest.mark.parametrize("content", [None, b"", b"no PEM"])
def test_a_file_without_certificates_is_an_oserror(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / CA_FILE).write_bytes(content)
    with pytest.raises(OSError):  # noqa: PT011 - which of its kinds depends on the content
        trusted(tmp_path / CA_FILE)
