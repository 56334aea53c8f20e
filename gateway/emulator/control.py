"""Handles for other processes: `/_emulator/…`, JSON in and out, without any key.

GET    counts               {"totals": {resource: n}, "requests": [{account, chat, resource, method, count}]}
POST   reset                count from zero
POST   faults               one fault or a list of them, see `read_fault`
DELETE faults
POST   chats                {"account", "count", "accept", "fields"}, all optional; answers {"ids": [...]}
GET    chats/{id}           the chat, seen without touching it
POST   chats/{id}/accept
POST   chats/{id}/line      {"text"}
POST   chats/{id}/typing    {"typing": true or false}
POST   chats/{id}/end
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from typing import Any

from gateway.emulator.chats import UnknownChatError
from gateway.emulator.faults import Fault
from gateway.emulator.messages import (
    WHOLE,
    Delivery,
    Drip,
    Drop,
    EmulatorRequest,
    EmulatorResponse,
    Hang,
    Reset,
    Truncate,
)
from gateway.emulator.service import Emulator

_PREFIX = b"/_emulator/"
#: The members of a fault that are the same in JSON.
_FAULT_MEMBERS: Mapping[str, type] = {
    "resource": str,
    "chat": str,
    "method": str,
    "times": int,
    "applies": bool,
    "delay_s": float,
    "status": int,
    "code": int,
    "message": str,
    "retry_after": str,
    "set_cookie": str,
    "redirect": str,
    "content_type": str,
    "gzip": bool,
    "one_for_many": bool,
}

Json = dict[str, Any]
Action = Callable[[Emulator, Any], object]
ChatAction = Callable[[Emulator, str, Json], object]


class ControlError(ValueError):
    """A control request that cannot be carried out."""


def is_control(request: EmulatorRequest) -> bool:
    """Whether a request is meant for these handles."""
    return request.target.startswith(_PREFIX)


def handle(emulator: Emulator, request: EmulatorRequest) -> EmulatorResponse:
    """Answer a control request; mistakes get 400, what is not there 404, both with a sentence."""
    try:
        said = json.loads(request.body or b"{}")
        return _answer(200, _carry_out(emulator, request, said))
    except UnknownChatError as error:
        return _answer(404, {"error": str(error)})
    except ValueError as error:
        return _answer(400, {"error": str(error)})


def _answer(status: int, said: object) -> EmulatorResponse:
    return EmulatorResponse(status, ((b"content-type", b"application/json"),), json.dumps(said).encode())


def _carry_out(emulator: Emulator, request: EmulatorRequest, said: Any) -> object:
    path = request.target.removeprefix(_PREFIX).decode("latin-1").split("/")
    if path[0] == "chats" and len(path) > 1:
        chat_action = _CHAT_ACTIONS.get((request.method, "/".join(path[2:])))
        if chat_action is not None:
            return chat_action(emulator, path[1], _object(said))
    elif len(path) == 1:
        action = _ACTIONS.get((request.method, path[0]))
        if action is not None:
            return action(emulator, said)
    raise ControlError(f"path: expected a method and path of the emulator's control, got {request.target!r}")


def _object(said: Any) -> Json:
    if not isinstance(said, dict):
        raise ControlError(f"body: expected a JSON object, got {type(said).__name__}")
    return said


def _counts(emulator: Emulator, _: Any) -> Json:
    counts = emulator.counts()
    requests = [{**key._asdict(), "count": count} for key, count in sorted(counts.requests.items())]
    return {"totals": counts.totals(), "requests": requests}


def _reset(emulator: Emulator, _: Any) -> Json:
    emulator.reset_counts()
    return {}


def _fail(emulator: Emulator, said: Any) -> Json:
    faults = [read_fault(_object(one)) for one in (said if isinstance(said, list) else [said])]
    emulator.fail(*faults)
    return {"added": len(faults)}


def _clear_faults(emulator: Emulator, _: Any) -> Json:
    emulator.clear_faults()
    return {}


def _start_chats(emulator: Emulator, said: Any) -> Json:
    said = _object(said)
    account = str(said.get("account", emulator.config.accounts[0]))
    count = _whole("count", said.get("count", 1))
    fields = _object(said.get("fields", {}))
    ids = [emulator.start_chat(account, **fields) for _ in range(count)]
    for chat in ids if said.get("accept") else ():
        emulator.accept(chat)
    return {"ids": ids}


def _show(emulator: Emulator, chat: str, _: Json) -> Json:
    return dataclasses.asdict(emulator.chat(chat))


def _accept(emulator: Emulator, chat: str, _: Json) -> Json:
    emulator.accept(chat)
    return {}


def _line(emulator: Emulator, chat: str, said: Json) -> Json:
    emulator.agent_line(chat, str(said.get("text", "Hello")))
    return {}


def _typing(emulator: Emulator, chat: str, said: Json) -> Json:
    emulator.agent_typing(chat, typing=bool(said.get("typing", True)))
    return {}


def _end(emulator: Emulator, chat: str, _: Json) -> Json:
    emulator.end(chat)
    return {}


_ACTIONS: Mapping[tuple[str, str], Action] = {
    ("GET", "counts"): _counts,
    ("POST", "reset"): _reset,
    ("POST", "faults"): _fail,
    ("DELETE", "faults"): _clear_faults,
    ("POST", "chats"): _start_chats,
}
_CHAT_ACTIONS: Mapping[tuple[str, str], ChatAction] = {
    ("GET", ""): _show,
    ("POST", "accept"): _accept,
    ("POST", "line"): _line,
    ("POST", "typing"): _typing,
    ("POST", "end"): _end,
}


def read_fault(said: Json) -> Fault:
    """A fault as JSON: the members of `Fault`, but `body` is text, `headers` an object, and for `delivery`
    one of `"hang": true`, `"drop": true`, `"reset_after": bytes`, `"drip": {"chunk_bytes", "every_s"}`,
    `"truncate_to": bytes`.
    """
    rest = dict(said)
    delivery = _read_delivery(rest)
    body = rest.pop("body", None)
    headers = _object(rest.pop("headers", {}))
    return Fault(
        **_plain_members(rest),
        delivery=delivery,
        body=None if body is None else str(body).encode(),
        headers=tuple((name.lower().encode(), str(value).encode()) for name, value in headers.items()),
    )


def _plain_members(said: Json) -> Json:
    for name, value in said.items():
        if name not in _FAULT_MEMBERS:
            raise ControlError(f"fault: expected one of {', '.join(_FAULT_MEMBERS)}, got {name}")
        kind = _FAULT_MEMBERS[name]
        # Only `times` has a null that means something; elsewhere it is as good as nothing.
        if value is not None and not isinstance(value, (float, int) if kind is float else kind):
            raise ControlError(f"{name}: expected {kind.__name__}, got {value!r}")
    return {name: value for name, value in said.items() if value is not None or name == "times"}


def _read_delivery(said: Json) -> Delivery:
    """Take the member that says how the answer is delivered out of a fault."""
    for name, read in _DELIVERIES.items():
        if name in said:
            return read(said.pop(name))
    return WHOLE


def _read_drip(said: Any) -> Drip:
    drip = _object(said)
    return Drip(_whole("chunk_bytes", drip.get("chunk_bytes")), _number("every_s", drip.get("every_s")))


_DELIVERIES: Mapping[str, Callable[[Any], Delivery]] = {
    "hang": lambda _: Hang(),
    "drop": lambda _: Drop(),
    "reset_after": lambda after: Reset(_whole("reset_after", after)),
    "drip": _read_drip,
    "truncate_to": lambda keep: Truncate(_whole("truncate_to", keep)),
}


def _whole(name: str, value: Any) -> int:
    if not isinstance(value, int):
        raise ControlError(f"{name}: expected a whole number, got {value!r}")
    return value


def _number(name: str, value: Any) -> float:
    if not isinstance(value, int | float):
        raise ControlError(f"{name}: expected a number, got {value!r}")
    return value
