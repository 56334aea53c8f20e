"""What goes wrong on request: for whom, how often, and how."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from typing import Any

import pytest

from gateway.emulator import (
    Drop,
    Emulator,
    EmulatorConfig,
    EmulatorRequest,
    EmulatorResponse,
    Fault,
    Hang,
    Truncate,
)

START = 1_700_000_000.0
KEY = EmulatorConfig().app_key


class Service:
    """An emulator on a hand clock with two chats."""

    def __init__(self) -> None:
        self.time = START
        self.emulator = Emulator(EmulatorConfig(latency_s=0.5), lambda: self.time)
        self.chat, self.other = self.emulator.start_chat("123"), self.emulator.start_chat("123")

    def ask(
        self, path: str = "/info", chat: str = "", method: str = "GET", body: bytes = b""
    ) -> EmulatorResponse:
        target = f"/api/account/123/chat/{chat or self.chat}{path}.json?v=1".encode()
        headers = [(b"authorization", f"LivePerson appKey={KEY}".encode())]
        if method == "PUT":
            method = "POST"
            headers.append((b"x-http-method-override", b"PUT"))
        return self.emulator.handle(EmulatorRequest(method, target, tuple(headers), body))


def test_faults_are_used_up_in_order_and_then_all_is_well() -> None:
    service = Service()
    service.emulator.fail(Fault(status=500), Fault(status=503, times=2))
    assert [service.ask().status for _ in range(4)] == [500, 503, 503, 200]


def test_a_fault_for_ever_lasts_until_cleared() -> None:
    service = Service()
    service.emulator.fail(Fault(status=500, times=None))
    assert {service.ask().status for _ in range(9)} == {500}
    service.emulator.clear_faults()
    assert service.ask().status == 200


@pytest.mark.parametrize(
    ("fault", "hit"),
    [
        (Fault(status=500, resource="info"), "info"),
        (Fault(status=500, resource="visitor-name", method="GET"), "name"),
        (Fault(status=500, method="PUT"), "write"),
        (Fault(status=500, resource="agent-typing"), None),
    ],
)
def test_a_fault_hits_only_what_it_matches(fault: Fault, hit: str | None) -> None:
    service = Service()
    service.emulator.fail(fault)
    statuses = {
        "info": service.ask().status,
        "name": service.ask("/info/visitorName").status,
        "write": service.ask("/info/visitorName", method="PUT", body=b'{"visitorName":"N"}').status,
    }
    assert [name for name, status in statuses.items() if status == 500] == ([hit] if hit else [])


def test_a_fault_can_be_for_one_chat() -> None:
    service = Service()
    service.emulator.fail(Fault(status=500, chat=service.other))
    assert (service.ask().status, service.ask(chat=service.other).status) == (200, 500)


@pytest.mark.parametrize(
    ("fault", "applied"),
    [
        (Fault(delivery=Hang()), True),
        (Fault(delay_s=9), True),
        (Fault(status=200), True),
        (Fault(delivery=Drop(), applies=False), False),
        (Fault(status=503), False),
        (Fault(code=20), False),
        (Fault(redirect="https://elsewhere.example/"), False),
        (Fault(status=503, applies=True), True),
    ],
)
def test_whether_a_faulty_request_is_carried_out(fault: Fault, applied: bool) -> None:
    service = Service()
    service.emulator.fail(fault)
    service.time += 1
    service.ask("/info/visitorName", method="PUT", body=b'{"visitorName":"N"}')
    state = service.emulator.chat(service.chat)
    assert (state.visitor_name, state.last_update - START) == (("N", 1) if applied else ("You", 0))


def test_faulty_requests_are_counted() -> None:
    service = Service()
    service.emulator.fail(Fault(status=503), Fault(delivery=Drop()))
    for _ in range(3):
        service.ask()
    assert service.emulator.counts().total("info") == 3


def test_an_error_is_as_the_service_would_put_it() -> None:
    service = Service()
    service.emulator.fail(
        Fault(status=500, code=20), Fault(code=12, status=404, message="gone"), Fault(code=5)
    )
    answers = [service.ask() for _ in range(3)]
    errors = [json.loads(answer.body)["error"] for answer in answers]
    assert [answer.status for answer in answers] == [500, 404, 500]
    assert [(error["internalCode"], error["message"]) for error in errors] == [
        (20, "Loading account"),
        (12, "gone"),
        (5, "Bad request"),
    ]


def one_info(answer: EmulatorResponse) -> Any:
    return json.loads(answer.body)["info"]


@pytest.mark.parametrize(
    ("fault", "look", "expected"),
    [
        (Fault(status=429, retry_after="7"), lambda a: (a.status, a.header(b"retry-after")), (429, b"7")),
        (Fault(status=429), lambda a: (a.body, a.headers), (b"", ())),
        (
            Fault(set_cookie="a=b"),
            lambda a: (a.header(b"set-cookie"), one_info(a)["state"]),
            (b"a=b", "waiting"),
        ),
        (Fault(redirect="http://x/"), lambda a: (a.status, a.header(b"location")), (302, b"http://x/")),
        (Fault(redirect="/x", status=307), lambda a: a.status, 307),
        (Fault(content_type="text/html"), lambda a: a.headers, ((b"content-type", b"text/html"),)),
        (Fault(body=b"\xff"), lambda a: (a.status, a.body), (200, b"\xff")),
        (
            Fault(headers=((b"age", b"9"), (b"age", b"8"))),
            lambda a: a.headers[1:],
            ((b"age", b"9"), (b"age", b"8")),
        ),
        (Fault(one_for_many=True), lambda a: one_info(a)["link"]["rel"], "self"),
        (Fault(one_for_many=True, body=b"{"), lambda a: a.body, b"{"),
        (Fault(one_for_many=True, applies=False), lambda a: a.body, b""),
        (Fault(gzip=True), lambda a: json.loads(gzip.decompress(a.body))["info"]["state"], "waiting"),
        (Fault(gzip=True), lambda a: a.header(b"content-encoding"), b"gzip"),
        (Fault(delay_s=2), lambda a: a.delay_s, 2.5),
        (Fault(status=503), lambda a: a.delay_s, 0.5),
        (Fault(delivery=Truncate(3)), lambda a: a.delivery, Truncate(3)),
    ],
)
def test_what_a_fault_does_to_the_answer(
    fault: Fault, look: Callable[[EmulatorResponse], object], expected: object
) -> None:
    service = Service()
    service.emulator.fail(fault)
    assert look(service.ask()) == expected


def test_a_slow_read_carries_the_state_from_before_a_later_write() -> None:
    service = Service()
    service.emulator.fail(Fault(resource="info", delay_s=5))
    slow = service.ask()
    service.ask("/info/visitorName", method="PUT", body=b'{"visitorName":"N"}')
    assert (one_info(slow)["visitorName"], one_info(service.ask())["visitorName"]) == ("You", "N")
