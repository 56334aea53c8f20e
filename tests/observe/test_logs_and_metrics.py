"""What is written down of a request: one line, a few counters, and nothing that opens anything."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gateway.core.messages import Chat
from gateway.emulator import Fault
from gateway.observe.logs import hashed
from tests.observe.log_schema import mistakes_of
from tests.support import account_path, chat_path, world

pytestmark = pytest.mark.anyio


async def test_one_line_a_request(tmp_path: Path) -> None:
    async with world(tmp_path) as it:
        chat = it.chat()
        await it.get(chat_path(chat, "/info") + "?v=1&appKey=secret", x_request_id="abc")
        [line] = it.lines()
        assert line.pop("duration_ms") > 0
        assert line.pop("timestamp")
        assert line == {
            "request_id": "abc",
            "client": "bff",
            "rule": "bff/allow/chat:read",
            "method": "GET",
            "resource": "info",
            "chat": hashed(Chat("123", chat)),
            "status": 200,
            "outcome": "miss",
            "fetch": True,
            "event": "request",
            "level": "info",
        }


async def test_a_chats_id_and_a_visitors_words_are_not_logged(tmp_path: Path) -> None:
    async with world(tmp_path) as it:
        chat = it.chat()
        await it.get(chat_path(chat, "/info"))
        await it.write("PUT", chat_path(chat, "/info/visitorName"), {"visitorName": "Wilhelmina"})
        await it.get(chat_path(chat, "/nothing/Wilhelmina"))
        await it.get(account_path("/chat/availability?skill=Wilhelmina"))
        it.emulator.fail(Fault(status=500, body=b"Wilhelmina"))
        await it.get(account_path())
        log = it.log.getvalue()
        for secret in (chat, "Wilhelmina", "Bearer", "127.0.0.1", "appKey"):
            assert secret not in log
        assert len(it.lines()) == 6
        assert [mistake for line in it.lines() for mistake in mistakes_of(line)] == []


#: path, header fields, who asks, and the reason of the refusal.
REFUSALS: list[tuple[str, dict[str, str], str | None, str]] = [
    ("/nothing", {}, "bff", "unknown-resource"),
    ("", {}, None, "token-missing"),
    ("", {}, "partner", "action-denied"),
    ("", {}, "stranger", "no-client"),
    ("?x=1", {}, "bff", "malformed-query"),
    ("", {"accept": "text/html"}, "bff", "not-acceptable"),
]


async def test_a_refusals_reason_is_its_label(tmp_path: Path) -> None:
    async with world(tmp_path) as it:
        for path, fields, subject, outcome in REFUSALS:
            response = await it.ask("GET", account_path(path), fields, subject=subject)
            line = it.lines()[-1]
            assert (line["outcome"], line["status"]) == (outcome, response.status)
            assert line["client"] == (subject if subject in {"bff", "partner"} else "-")
            metrics = (await it.admin("/metrics")).body.decode()
            known = f'client="{line["client"]}",outcome="{outcome}",resource="{line["resource"]}"'
            assert f'chat_gateway_requests_total{{{known},status="{response.status}"}} 1.0' in metrics


async def test_what_went_upstream_is_counted(tmp_path: Path) -> None:
    async with world(tmp_path) as it:
        chat = it.chat()
        for _ in range(3):
            await it.get(chat_path(chat, "/info"))
        it.emulator.fail(Fault(status=503))
        await it.get(account_path())
        text = (await it.admin("/metrics")).body.decode()
        for counted in (
            'chat_gateway_requests_total{client="bff",outcome="miss",resource="info",status="200"} 1.0',
            'chat_gateway_requests_total{client="bff",outcome="hit",resource="info",status="200"} 2.0',
            'chat_gateway_requests_total{client="bff",outcome="upstream-error",resource="account",',
            'chat_gateway_upstream_requests_total{client="bff",outcome="good",resource="info"} 1.0',
            'chat_gateway_upstream_requests_total{client="bff",outcome="upstream-error",resource="account"}',
            'chat_gateway_saved_requests_total{client="bff"} 2.0',
            'chat_gateway_decisions_total{client="bff",outcome="allow",rule="bff/allow/chat:read"} 3.0',
            "chat_gateway_flights 0.0",
            "chat_gateway_crashes_total 0.0",
        ):
            assert counted in text, text
        failed = next(line for line in it.lines() if line["event"] == "upstream failed")
        assert (failed["reason"], failed["received"], failed["level"]) == ("upstream-error", 503, "warning")


async def test_a_stranger_makes_no_new_series(tmp_path: Path) -> None:
    async with world(tmp_path) as it:
        for index in range(30):
            await it.ask("GET", account_path(f"/made/up/{index}"), {"x-request-id": str(index)})
            await it.ask("GET", account_path(), {"authorization": f"Bearer a.b.{index}"}, subject=None)
            await it.ask("GET", account_path(), it.bearer(f"stranger-{index}"), subject=None)
        text = (await it.admin("/metrics")).body.decode()
        assert (
            len([line for line in text.splitlines() if line.startswith("chat_gateway_requests_total{")]) == 3
        )


async def test_what_is_no_request_is_counted_and_logged_once(tmp_path: Path) -> None:
    async with world(tmp_path) as it:
        async with it.wire() as wire:
            await wire.send(b"garbage\r\n\r\n")
            assert (await wire.response()).status == 400
        # Every line of the log is JSON, whoever wrote it.
        assert len([json.loads(line) for line in it.log.getvalue().splitlines()]) == 1
        text = (await it.admin("/metrics")).body.decode()
        assert 'outcome="malformed-request"' in text


async def test_what_is_wrong_with_a_token_is_logged_and_counted_and_not_told(tmp_path: Path) -> None:
    async with world(tmp_path) as it:
        refused = await it.ask("GET", account_path(), it.bearer(aud="somebody-else"))
        assert (refused.status, refused.problem) == (401, "token-invalid")
        assert b"audience" not in refused.body
        assert [line["because"] for line in it.lines()] == ["audience"]
        text = (await it.admin("/metrics")).body.decode()
        assert 'chat_gateway_token_refusals_total{because="audience"} 1.0' in text
