"""The short cut on real sockets: what stops it, and what it leaves as it was of a connection."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

import gateway.app
from gateway.app import SystemClock
from gateway.core.requests import Poll
from gateway.demo.stage import AUDIENCE, ISSUER
from gateway.edge.protocol import Connection
from gateway.emulator import EmulatorConfig
from gateway.identity.development import new_key
from gateway.shortcut import ShortCut
from tests.identity_provider import Provider, provider
from tests.reloading import changeable, edit, reload, say
from tests.support import (
    APP_KEY,
    PATIENCE_S,
    Response,
    Wire,
    World,
    account_path,
    chat_path,
    message,
    policies_with,
    until,
    world,
)

pytestmark = pytest.mark.anyio

LATENCY_S = 0.1


class Counted:
    """How many replies the short cut of a world has given."""

    def __init__(self, short_cut: ShortCut | None, monkeypatch: pytest.MonkeyPatch) -> None:
        assert short_cut is not None
        self.count = 0
        recall, answer = short_cut.recall, short_cut.answer

        def recalled(data: bytes) -> bytes | None:
            return self._counted(recall(data))

        def answered(poll: Poll) -> bytes | None:
            return self._counted(answer(poll))

        monkeypatch.setattr(short_cut, "recall", recalled)
        monkeypatch.setattr(short_cut, "answer", answered)

    def _counted(self, reply: bytes | None) -> bytes | None:
        self.count += reply is not None
        return reply


class Warm:
    """A client whose polls are answered by the short cut, over one connection."""

    def __init__(self, it: World, wire: Wire, cut: Counted, token: str) -> None:
        self.it = it
        self.wire = wire
        self.cut = cut
        self.chat = it.chat()
        self.data = poll_of(self.chat, token)

    async def poll(self) -> tuple[Response, bool]:
        """The reply, and whether the short cut gave it."""
        before = self.cut.count
        await self.wire.send(self.data)
        return await self.wire.response(), self.cut.count > before

    async def warm_up(self) -> Response:
        await until_async(self._is_warm)
        response, is_cut = await self.poll()
        assert (response.status, is_cut) == (200, True)
        return response

    async def _is_warm(self) -> bool:
        response, is_cut = await self.poll()
        assert response.status == 200
        return is_cut


async def until_async(condition: Callable[[], Awaitable[bool]]) -> None:
    for _ in range(100):
        if await condition():
            return
    raise AssertionError("it never comes to pass")


def poll_of(chat: str, token: str, **fields: str) -> bytes:
    said = {"authorization": f"Bearer {token}", "accept": "application/json", **fields}
    return message("GET", chat_path(chat, "/info"), said)


def long_lived(folder: Path, old: str = "", new: str = "") -> dict[str, str]:
    """Policies under which an info is fresh for longer than a test takes."""
    name = policies_with(folder / "long-lived", "chatting: 1000", "chatting: 8000")
    for file in (folder / name).rglob("*.yaml"):
        file.write_text(file.read_text().replace(old, new) if old else file.read_text())
    return {"policies": name}


@contextlib.asynccontextmanager
async def warmed(
    folder: Path, monkeypatch: pytest.MonkeyPatch, *, token: str | None = None, **options: Any
) -> AsyncIterator[Warm]:
    """A world in which somebody polls, and polls by the short cut."""
    (folder / "revoked").touch()
    policies = {} if "policies" in options else long_lived(folder)
    options = {**policies, "revocations": {"file": "revoked", "journal": "journal"}, **options}
    async with changeable(folder, **options) as it, it.wire() as wire:
        if token is not None:
            it.tokens.add(token)
        said = token or it.token(jti="7")
        warm = Warm(it, wire, Counted(it.gateway.short_cut, monkeypatch), said)
        await warm.warm_up()
        yield warm


# -- what ends it --------------------------------------------------------------------------------------------


def file_of(it: World, name: str) -> Path:
    return it.stage.config.parent / name


async def reloaded(it: World) -> None:
    response = await reload(it)
    assert (response.status, response.json()["changed"]) == (200, True)


async def deny(it: World) -> None:
    edit(file_of(it, "long-lived/clients/bff.yaml"), "chat:read, ", "")
    await reloaded(it)


async def remove_client(it: World) -> None:
    edit(file_of(it, "long-lived/clients/bff.yaml"), "sub: bff", "sub: somebody")
    await reloaded(it)


async def revoke(it: World, record: Mapping[str, str]) -> None:
    wire = Wire(*await asyncio.open_connection(*it.addresses.private), it.received)
    fields = {"authorization": f"Bearer {it.stage.admin_token}", "content-type": "application/json"}
    try:
        response = await wire.ask("POST", "/revocations", fields, json.dumps(record).encode())
        assert response.status == 201
    finally:
        await wire.close()


async def revoke_jti(it: World) -> None:
    await revoke(it, {"jti": "7", "issuer": ISSUER})


async def revoke_sub(it: World) -> None:
    await revoke(it, {"sub": "bff", "issuer": ISSUER})


async def revoke_client(it: World) -> None:
    await revoke(it, {"client": "bff"})


async def revoke_by_file(it: World) -> None:
    file_of(it, "revoked").write_text(json.dumps({"jti": "7", "issuer": ISSUER}) + "\n")
    await it.gateway.reloading.look_again()


async def change_keys(it: World) -> None:
    file_of(it, "jwks.json").write_bytes(new_key("ES256")[1])
    await reloaded(it)


async def change_audience(it: World) -> None:
    issuer = {"issuer": ISSUER, "audience": "other", "algorithms": ["ES256"], "jwks": "jwks.json"}
    say(it, issuers=[issuer])
    await reloaded(it)


ENDS: Mapping[str, tuple[Callable[[World], Awaitable[None]], tuple[int, str]]] = {
    "a right is taken away": (deny, (403, "action-denied")),
    "the client is no more": (remove_client, (403, "no-client")),
    "the token is revoked": (revoke_jti, (401, "token-revoked")),
    "its subject is revoked": (revoke_sub, (401, "token-revoked")),
    "its client is revoked": (revoke_client, (401, "token-revoked")),
    "the token is revoked by a file": (revoke_by_file, (401, "token-revoked")),
    "other keys": (change_keys, (401, "token-invalid")),
    "another audience": (change_audience, (401, "token-invalid")),
}


@pytest.mark.parametrize("what", ENDS)
async def test_the_next_request_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    end, refusal = ENDS[what]
    async with warmed(tmp_path, monkeypatch) as warm:
        await end(warm.it)
        response, is_cut = await warm.poll()
        assert ((response.status, response.problem), is_cut) == (refusal, False)


async def test_keys_that_are_fetched_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with contextlib.AsyncExitStack() as stack:
        its = await stack.enter_async_context(provider())
        settings = trusting(tmp_path, its)
        warm = await stack.enter_async_context(warmed(tmp_path, monkeypatch, token=its.token(), **settings))
        its.rotate(keep=0)
        # A token that is signed with the new key has the old one forgotten.
        new = its.token()
        warm.it.tokens.add(new)
        assert (await warm.it.ask("GET", account_path(), bearing(new), subject=None)).status == 200
        response, is_cut = await warm.poll()
        assert (response.problem, is_cut) == ("token-invalid", False)


def trusting(folder: Path, its: Provider) -> dict[str, Any]:
    issuer = {"issuer": its.issuer, "audience": AUDIENCE, "algorithms": ["ES256"], "jwks_url": its.jwks_url}
    return {**long_lived(folder, ISSUER, its.issuer), "issuers": [issuer]}


def bearing(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


async def test_a_token_that_expires(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ahead_s = 0.0

    class Ahead(SystemClock):
        def wall(self) -> float:
            return super().wall() + ahead_s

    monkeypatch.setattr(gateway.app, "SystemClock", Ahead)
    async with warmed(tmp_path, monkeypatch) as warm:
        ahead_s = 3_590
        assert (await warm.poll())[1]
        ahead_s = 3_600 + 60
        response, is_cut = await warm.poll()
        assert (response.problem, is_cut) == ("token-expired", False)


async def test_another_setting_is_seen_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with warmed(tmp_path, monkeypatch) as warm:
        assert (await warm.poll())[0].header("vary") == "Accept, Authorization"
        say(warm.it, cors={"origins": ["https://shop.example"]})
        await reloaded(warm.it)
        response, is_cut = await warm.poll()
        assert (response.header("vary"), is_cut) == ("Accept, Authorization, Origin", False)
        assert (await warm.warm_up()).header("vary") == "Accept, Authorization, Origin"


async def test_a_view_that_is_narrowed_is_seen_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with warmed(tmp_path, monkeypatch) as warm:
        assert "visitorName" in (await warm.poll())[0].json()["info"]
        edit(
            file_of(warm.it, "long-lived/clients/bff.yaml"),
            "priority: high",
            "priority: high\n    view: {hide: [visitorName]}",
        )
        await reloaded(warm.it)
        response, is_cut = await warm.poll()
        assert not is_cut
        assert "visitorName" not in response.json()["info"]
        assert "visitorName" not in (await warm.warm_up()).json()["info"]


async def test_a_write_is_seen_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with warmed(tmp_path, monkeypatch) as warm:
        await warm.it.write("PUT", chat_path(warm.chat, "/info/visitorName"), {"visitorName": "Zoe"})
        response, is_cut = await warm.poll()
        assert (response.json()["info"]["visitorName"], is_cut) == ("Zoe", False)


async def test_without_the_setting_there_is_no_short_cut(tmp_path: Path) -> None:
    async with world(tmp_path, short_cut=False) as it:
        assert it.gateway.short_cut is None
        assert [(await it.get(account_path())).status for _ in range(3)] == [200] * 3


# -- what becomes of the connection --------------------------------------------------------------------------


async def test_a_pipeline_is_answered_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = EmulatorConfig(app_key=APP_KEY, latency_s=LATENCY_S)
    async with warmed(tmp_path, monkeypatch, emulator=slow) as warm:
        token = warm.it.token(jti="7")
        miss = message("GET", account_path(), bearing(token))
        other = warm.it.chat()
        before = warm.cut.count
        asked = [warm.data, warm.data, miss, warm.data, poll_of(other, token), warm.data]
        await warm.wire.send(
            b"".join(numbered(each, 1).replace(b"n-0", b"%d" % n) for n, each in enumerate(asked))
        )
        ids = [(await warm.wire.response()).header("x-request-id") for _ in asked]
        assert ids == [*"012345"]
        # Those behind the first that must be waited for take the road.
        assert warm.cut.count == before + 2


async def test_a_thousand_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with warmed(tmp_path, monkeypatch) as warm:
        before = warm.cut.count
        sending = asyncio.create_task(warm.wire.send(numbered(warm.data, 1_000)))
        responses = [await warm.wire.response() for _ in range(1_000)]
        await sending
        assert [response.header("x-request-id") for response in responses] == [f"n-{n}" for n in range(1_000)]
        assert {response.status for response in responses} == {200}
        assert len({response.body for response in responses}) == 1
        assert warm.cut.count > before


@pytest.fixture
def connections(monkeypatch: pytest.MonkeyPatch) -> list[Connection]:
    """Those that were made with the clients' listener, oldest first."""
    made: list[Connection] = []
    begin = Connection.connection_made

    def taken_down(self: Connection, transport: asyncio.Transport) -> None:
        made.append(self)
        begin(self, transport)

    monkeypatch.setattr(Connection, "connection_made", taken_down)
    return made


async def test_who_does_not_read_is_not_served_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, connections: list[Connection]
) -> None:
    async with contextlib.AsyncExitStack() as stack:
        warm = await stack.enter_async_context(warmed(tmp_path, monkeypatch))
        stack.callback(warm.wire.hang_up)
        [connection] = connections
        many = 4_000
        before = warm.cut.count
        # By itself the system would take in megabytes for either side.
        for end in (connection.transport, warm.wire._writer.transport):
            for buffer in (socket.SO_SNDBUF, socket.SO_RCVBUF):
                end.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, buffer, 65_536)
        # The last one has it closed, so that all of the answers can be read at once.
        asked = numbered(warm.data, many).removesuffix(b"\r\n") + b"connection: close\r\n\r\n"
        sending = asyncio.create_task(warm.wire.send(asked))
        await until(lambda: connection.flow.write_paused)
        async with asyncio.timeout(PATIENCE_S):
            stands = False
            while not stands:
                await standstill(lambda: (warm.cut.count, connection.transport.get_write_buffer_size()))
                # Or the machine had something else to do.
                stands = connection.flow.write_paused
        # What the system's own buffers take is served; beyond that, no more than one buffer of ours.
        assert connection.flow.read_paused
        assert connection.transport.get_write_buffer_size() < 70_000
        assert 0 < warm.cut.count - before < many * 0.8
        answers = await warm.wire.until_closed()
        await sending
        assert answers.count(b"HTTP/1.1 200 OK\r\n") == answers.count(b"HTTP/1.1 ") == many
        assert re.findall(rb"\r\nx-request-id: n-(\d+)\r\n", answers) == [b"%d" % n for n in range(many)]
        warm.it.received.clear()


async def standstill(look: Callable[[], object]) -> None:
    """Wait until nothing has moved for half a second."""
    seen = [look()]
    while len(seen) < 10 or len(set(seen[-10:])) > 1:
        await asyncio.sleep(0.05)
        seen.append(look())


async def test_an_idle_connection_is_closed_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, connections: list[Connection]
) -> None:
    async with warmed(tmp_path, monkeypatch, edge={"idle_ms": 1_000}) as warm:
        [connection] = connections
        # The timer was set when the road answered last; it goes off between these.
        until_s = time.monotonic() + 1.5
        while time.monotonic() < until_s:
            assert (await warm.poll())[1]
            await asyncio.sleep(0.1)
        idle_since = time.monotonic()
        assert await warm.wire.until_closed() == b""
        assert time.monotonic() - idle_since > 0.85
        assert connection.transport.is_closing()


async def test_only_short_cuts_on_a_connection_are_timed_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with warmed(tmp_path, monkeypatch, edge={"idle_ms": 1_000}) as warm, warm.it.wire() as wire:
        before = warm.cut.count
        # In one piece, and in two.
        for pieces in ((warm.data,), (warm.data[:20], warm.data[20:])):
            for piece in pieces:
                await wire.send(piece)
                await asyncio.sleep(0.02)
            assert (await wire.response()).status == 200
        assert warm.cut.count == before + 2
        assert await wire.until_closed() == b""


async def test_a_client_may_leave_at_any_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, connections: list[Connection]
) -> None:
    slow = EmulatorConfig(app_key=APP_KEY, latency_s=LATENCY_S)
    async with warmed(tmp_path, monkeypatch, emulator=slow) as warm:
        hits, miss = numbered(warm.data, 3_000), poll_of(warm.it.chat(), warm.it.token())
        for sent in (hits, hits + miss, miss + hits, hits[:-3]):
            async with warm.it.wire() as wire:
                await wire.send(sent[:100_000])
                await wire.response()
                wire.hang_up()
            await until(connections[-1].transport.is_closing)
        assert (await warm.poll())[1]


async def test_the_end_of_the_gateway_ends_connections_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with contextlib.AsyncExitStack() as after:
        async with warmed(tmp_path, monkeypatch) as warm:
            wire = await after.enter_async_context(warm.it.wire())
            await wire.send(warm.data)
            assert (await wire.response()).status == 200
            began = time.monotonic()
        assert await wire.until_closed() == b""
        # Or it would have waited for the connection.
        assert time.monotonic() - began < 2


def numbered(data: bytes, many: int) -> bytes:
    """So many of that request, each with an id."""
    return b"".join(data.replace(b"\r\n\r\n", b"\r\nx-request-id: n-%d\r\n\r\n" % n) for n in range(many))
