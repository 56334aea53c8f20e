"""Tokens and clients that somebody revokes, over the whole gateway: by a file and by the private listener."""

from __future__ import annotations

import asyncio
import json
import os
import threading
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from gateway.demo.stage import AUDIENCE, ISSUER
from tests.support import Response, Wire, World, account_path, message, until, world

pytestmark = pytest.mark.anyio

#: What a record may revoke, and the records that take back what is revoked by it.
RECORDS: Mapping[str, Mapping[str, str]] = {
    "jti": {"jti": "7", "issuer": ISSUER},
    "sub": {"sub": "bff", "issuer": ISSUER},
    "client": {"client": "bff"},
}
#: Tokens that no record above revokes, by what they share with the one that it does.
OTHERS: Mapping[str, Mapping[str, Any]] = {
    "jti": {"subject": "bff", "jti": "8"},
    "sub": {"subject": "internal", "jti": "7"},
    "client": {"subject": "internal", "jti": "7"},
}


def revocable(folder: Path) -> dict[str, Any]:
    """Settings with which there is every way to revoke."""
    (folder / "revoked").touch()
    return {
        "revocations": {"file": "revoked", "journal": "journal"},
        "admin": {"token_file": "admin-token", "hosts": ["gateway.test"]},
    }


async def ask(it: World, token: str) -> Response:
    it.tokens.add(token)
    return await it.ask("GET", account_path(), {"authorization": f"Bearer {token}"}, subject=None)


def operator(it: World) -> dict[str, str]:
    """The fields of a call that the private listener takes."""
    return {"authorization": f"Bearer {it.stage.admin_token}", "content-type": "application/json"}


async def post(it: World, said: object, fields: Mapping[str, str] | None = None) -> Response:
    """What the private listener says to a record, from an operator or with these fields."""
    wire = Wire(*await asyncio.open_connection(*it.addresses.private), it.received)
    try:
        named = operator(it) if fields is None else fields
        return await wire.ask("POST", "/revocations", named, json.dumps(said).encode())
    finally:
        await wire.close()


async def by_the_listener(it: World, record: Mapping[str, object]) -> None:
    assert (await post(it, record)).status == 201


async def by_the_file(it: World, record: Mapping[str, object]) -> None:
    """A record more in the file; one that takes another back removes its line."""
    path = it.stage.config.parent / "revoked"
    left = {name: value for name, value in record.items() if name != "withdrawn"}
    kept = [line for line in path.read_text().splitlines() if json.loads(line) != left]
    added = [] if "withdrawn" in record else [json.dumps(record)]
    path.write_text("".join(f"{line}\n" for line in [*kept, *added]))
    await it.gateway.reloading.look_again()


def journal(it: World) -> list[Any]:
    """What is on the disk."""
    return [json.loads(line) for line in (it.stage.config.parent / "journal").read_text().splitlines()]


Revoke = Callable[[World, Mapping[str, object]], Awaitable[None]]


@pytest.mark.parametrize("revoke", [by_the_listener, by_the_file])
@pytest.mark.parametrize("kind", RECORDS)
async def test_what_is_revoked_is_refused_at_the_next_request(
    tmp_path: Path, kind: str, revoke: Revoke
) -> None:
    async with world(tmp_path, **revocable(tmp_path)) as it:
        token, new = it.token(jti="7"), it.token(jti="7", more=1)
        # Internal has another policy and no other rights to this.
        other = it.token(**OTHERS[kind])
        for one in (token, other):
            assert (await ask(it, one)).status == 200
        asked = it.upstream_requests()
        await revoke(it, RECORDS[kind])
        for one in (token, new):
            refused = await ask(it, one)
            assert (refused.status, refused.problem) == (401, "token-revoked")
            assert 'error="invalid_token"' in (refused.header("www-authenticate") or "")
        assert it.upstream_requests() == asked
        assert (await ask(it, other)).status == 200
        await revoke(it, {**RECORDS[kind], "withdrawn": True})
        for one in (token, new):
            assert (await ask(it, one)).status == 200


async def test_another_issuers_namesake_is_not_meant(tmp_path: Path) -> None:
    async with world(tmp_path, **revocable(tmp_path)) as it:
        token = it.token(jti="7")
        for record in ({"jti": "7"}, {"sub": "bff"}):
            await by_the_listener(it, {**record, "issuer": "https://another.example"})
        assert (await ask(it, token)).status == 200


async def test_it_is_on_the_disk_before_it_is_confirmed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written, may_go_on, fsync = threading.Event(), threading.Event(), os.fsync

    def held(file: int) -> None:
        written.set()
        may_go_on.wait()
        fsync(file)

    async with world(tmp_path, **revocable(tmp_path)) as it:
        token = it.token(jti="7")
        assert (await ask(it, token)).status == 200
        monkeypatch.setattr(os, "fsync", held)
        confirmed = asyncio.create_task(post(it, RECORDS["jti"]))
        await until(written.is_set)
        # In effect already, but not confirmed: the disk has not said that it has it.
        assert (await ask(it, token)).problem == "token-revoked"
        assert not confirmed.done()
        may_go_on.set()
        answer = await confirmed
        [line] = journal(it)
        assert answer.status == 201
        assert line == {**RECORDS["jti"], "at": line["at"]}


async def test_many_at_once_are_all_on_the_disk(tmp_path: Path) -> None:
    async with world(tmp_path, **revocable(tmp_path)) as it:

        async def revoke(number: int) -> None:
            record = {"jti": str(number), "issuer": ISSUER}
            assert (await post(it, record)).status == 201
            assert any(line["jti"] == str(number) for line in journal(it))

        await asyncio.gather(*(revoke(number) for number in range(20)))
        assert sorted(int(line["jti"]) for line in journal(it)) == list(range(20))
        for number in (0, 19):
            assert (await ask(it, it.token(jti=str(number)))).problem == "token-revoked"
        assert (await ask(it, it.token(jti="20"))).status == 200


async def test_revocations_survive_a_restart(tmp_path: Path) -> None:
    """A crash, even: the next gateway has the journal as it was when the last record was confirmed."""
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    second.mkdir()
    async with world(first, **revocable(first)) as it:
        tokens = [it.token(jti="7"), it.token("internal", jti="8"), it.token("partner", jti="9")]
        good, forgiven = it.token(jti="10"), it.token(jti="11")
        for record in (
            {"jti": "7", "issuer": ISSUER},
            {"sub": "internal", "issuer": ISSUER},
            {"client": "partner"},
            {"jti": "11", "issuer": ISSUER},
            {"jti": "11", "issuer": ISSUER, "withdrawn": True},
        ):
            await by_the_listener(it, record)
        (second / "journal").write_bytes((first / "journal").read_bytes() + b'{"jti": "10", "iss')
    keys = {"issuer": ISSUER, "audience": AUDIENCE, "algorithms": ["ES256"], "jwks": str(first / "jwks.json")}
    async with world(second, issuers=[keys], **revocable(second)) as it:
        for token in tokens:
            assert (await ask(it, token)).problem == "token-revoked"
        for token in (good, forgiven):
            assert (await ask(it, token)).status == 200
        [notice] = [line["notice"] for line in it.lines() if line["event"] == "revocations"]
        assert "cut off" in notice
        # And it goes on from there.
        await by_the_listener(it, {"jti": "10", "issuer": ISSUER})
        assert (await ask(it, good)).problem == "token-revoked"
        assert [line.get("jti") for line in journal(it)][-1] == "10"


async def test_what_cannot_be_written_down_is_not_confirmed(tmp_path: Path) -> None:
    async with world(tmp_path, **revocable(tmp_path)) as it:
        token, other = it.token(jti="7"), it.token(jti="8")
        await by_the_listener(it, {"jti": "8", "issuer": ISSUER})
        # Whoever runs the tests may write everywhere but into a folder.
        path = tmp_path / "journal"
        path.rename(tmp_path / "aside")
        path.mkdir()
        answer = await post(it, RECORDS["jti"])
        assert answer.status == 500
        [fault] = answer.json()["faults"]
        assert "it is in effect until this gateway ends" in fault
        assert (await ask(it, token)).problem == "token-revoked"
        answer = await post(it, {"jti": "8", "issuer": ISSUER, "withdrawn": True})
        assert answer.status == 500
        assert (await ask(it, other)).problem == "token-revoked"
        path.rmdir()
        (tmp_path / "aside").rename(path)
        assert [line["jti"] for line in journal(it)] == ["8"]
        # Said again, it is written down.
        await by_the_listener(it, RECORDS["jti"])
        assert [line["jti"] for line in journal(it)] == ["8", "7"]


async def test_without_a_journal_nothing_is_confirmed(tmp_path: Path) -> None:
    settings = revocable(tmp_path) | {"revocations": {"file": "revoked"}}
    async with world(tmp_path, **settings) as it:
        answer = await post(it, RECORDS["sub"])
        assert answer.status == 400
        assert answer.json() == {"faults": ["revocations.journal: expected a file to write to, got none"]}
        assert (await ask(it, it.token())).status == 200


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"authorization": ""}, 401),
        ({"authorization": "Bearer guess"}, 401),
        ({"content-type": "text/plain"}, 415),
        ({"origin": "https://elsewhere.example"}, 403),
        ({"origin": "null"}, 403),
    ],
)
async def test_only_operators_revoke(tmp_path: Path, changes: Mapping[str, str], status: int) -> None:
    async with world(tmp_path, **revocable(tmp_path)) as it:
        assert (await post(it, RECORDS["sub"], {**operator(it), **changes})).status == status
        # Nor do clients, whose tokens are good elsewhere.
        mine = {**operator(it), **it.bearer()}
        assert (await post(it, RECORDS["sub"], mine)).status == 401
        assert (await it.ask("POST", "/revocations", mine, b"{}", subject=None)).status == 404
        assert (await ask(it, it.token())).status == 200
        assert journal(it) == []


@pytest.mark.parametrize(
    "record",
    [
        {},
        {"jti": "7"},
        {"jti": 7, "issuer": ISSUER},
        {"sub": "bff", "jti": "7", "issuer": ISSUER},
        {"client": "bff", "issuer": ISSUER},
        {"sub": "bff", "issuer": ISSUER, "until": 1},
        {"sub": "bff", "issuer": ISSUER, "reason": "theft"},
        {"sub": "bff", "issuer": ISSUER, "withdrawn": True},
        {"sub": "bff", "issuer": ISSUER, "note": "two\nlines"},
        {"sub": "\ud800", "issuer": ISSUER},
    ],
    ids=json.dumps,
)
async def test_what_is_no_record_changes_nothing(tmp_path: Path, record: Mapping[str, object]) -> None:
    async with world(tmp_path, **revocable(tmp_path)) as it:
        answer = await post(it, record)
        assert answer.status == 400
        assert answer.json()
        assert journal(it) == []
        assert (await ask(it, it.token(jti="7"))).status == 200


async def test_a_bad_line_in_the_file_leaves_what_was_there(tmp_path: Path) -> None:
    async with world(tmp_path, **revocable(tmp_path)) as it:
        token, other = it.token(jti="7"), it.token(jti="8")
        await by_the_file(it, RECORDS["jti"])
        (tmp_path / "revoked").write_text('{"jti": "8", "issuer": "' + ISSUER + '"}\n{"jtl": "9"}\n')
        for _ in range(2):
            await it.gateway.reloading.look_again()
        assert (await ask(it, token)).problem == "token-revoked"
        assert (await ask(it, other)).status == 200
        [line] = [line for line in it.lines() if line["event"] == "revocations refused"]
        assert "revoked:2: " in line["faults"][0]
        (tmp_path / "revoked").write_text("")
        await it.gateway.reloading.look_again()
        assert (await ask(it, token)).status == 200


async def test_what_holds_is_listed_and_counted(tmp_path: Path) -> None:
    async with world(tmp_path, **revocable(tmp_path)) as it:
        await by_the_file(it, RECORDS["client"])
        await by_the_listener(it, {**RECORDS["sub"], "until": 4_000_000_000, "note": "laptop stolen"})
        wire = Wire(*await asyncio.open_connection(*it.addresses.private), it.received)
        await wire.send(message("GET", "/revocations", operator(it)))
        listed = (await wire.response()).json()
        await wire.close()
        assert [(entry["source"], entry.get("note")) for entry in listed] == [
            ("file", None),
            ("journal", "laptop stolen"),
        ]
        exposed = (await it.admin("/metrics")).body
        assert b"chat_gateway_revocations 2.0\n" in exposed
        assert (await ask(it, it.token())).problem == "token-revoked"
        assert (
            b'chat_gateway_token_refusals_total{because="revoked"} 1.0' in (await it.admin("/metrics")).body
        )
