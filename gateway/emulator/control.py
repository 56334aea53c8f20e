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
from typing import Any, TypeVar, cast

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
_PLAIN_MEMBERS: Mapping[str, type] = {
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

#: How messages call the kinds of values.
_CALLED: Mapping[type, str] = {
    str: "a string",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
}
_SHOWN = 60

T = TypeVar("T")
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
        return _answer(200, _carry_out(emulator, request, _read(request.body)))
    except UnknownChatError as error:
        return _answer(404, {"error": str(error)})
    except ValueError as error:
        return _answer(400, {"error": str(error)})


def _read(body: bytes) -> Any:
    try:
        return json.loads(body or b"{}")
    except (ValueError, RecursionError):
        text = body.decode("utf-8", "replace")
        raise ControlError(f"body: expected JSON, got the text {_shown(text)}") from None


def _answer(status: int, said: object) -> EmulatorResponse:
    return EmulatorResponse(status, ((b"content-type", b"application/json"),), json.dumps(said).encode())


def _carry_out(emulator: Emulator, request: EmulatorRequest, said: Any) -> object:
    path = request.target.removeprefix(_PREFIX).decode("latin-1").split("/")
    if path[0] == "chats" and len(path) > 1:
        chat_action = CHAT_ACTIONS.get((request.method, "/".join(path[2:])))
        if chat_action is not None:
            return chat_action(emulator, path[1], _object(said))
    elif len(path) == 1:
        action = ACTIONS.get((request.method, path[0]))
        if action is not None:
            return action(emulator, said)
    raise ControlError(f"path: expected a method and path of the emulator's control, got {request.target!r}")


def _object(said: Any, name: str = "body") -> Json:
    if not isinstance(said, dict):
        raise ControlError(f"{name}: expected a JSON object, got {_shown(said)}")
    return said


def _checked(kind: type[T], name: str, value: Any) -> T:
    """A value of one kind; true and false are no numbers."""
    kinds = (int, float) if kind is float else kind
    if not isinstance(value, kinds) or (isinstance(value, bool) and kind is not bool):
        raise ControlError(f"{name}: expected {_CALLED[kind]}, got {_shown(value)}")
    return cast(T, value)


def _shown(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "..."


def _counts(emulator: Emulator, _: Any) -> Json:
    counts = emulator.counts()
    requests = [{**key._asdict(), "count": count} for key, count in sorted(counts.requests.items())]
    return {"totals": counts.totals(), "requests": requests}


def _reset(emulator: Emulator, _: Any) -> Json:
    emulator.reset_counts()
    return {}


def _fail(emulator: Emulator, said: Any) -> Json:
    faults = [read_fault(_object(one, "fault")) for one in (said if isinstance(said, list) else [said])]
    emulator.fail(*faults)
    return {"added": len(faults)}


def _clear_faults(emulator: Emulator, _: Any) -> Json:
    emulator.clear_faults()
    return {}


def _start_chats(emulator: Emulator, said: Any) -> Json:
    said = _object(said)
    account = _checked(str, "account", said.get("account", emulator.config.accounts[0]))
    count = _checked(int, "count", said.get("count", 1))
    accept = _checked(bool, "accept", said.get("accept", False))
    fields = _object(said.get("fields", {}), "fields")
    ids = [emulator.start_chat(account, **fields) for _ in range(count)]
    for chat in ids if accept else ():
        emulator.accept(chat)
    return {"ids": ids}


def _show(emulator: Emulator, chat: str, _: Json) -> Json:
    return dataclasses.asdict(emulator.chat(chat))


def _accept(emulator: Emulator, chat: str, _: Json) -> Json:
    emulator.accept(chat)
    return {}


def _line(emulator: Emulator, chat: str, said: Json) -> Json:
    emulator.agent_line(chat, _checked(str, "text", said.get("text", "Hello")))
    return {}


def _typing(emulator: Emulator, chat: str, said: Json) -> Json:
    emulator.agent_typing(chat, typing=_checked(bool, "typing", said.get("typing", True)))
    return {}


def _end(emulator: Emulator, chat: str, _: Json) -> Json:
    emulator.end(chat)
    return {}


ACTIONS: Mapping[tuple[str, str], Action] = {
    ("GET", "counts"): _counts,
    ("POST", "reset"): _reset,
    ("POST", "faults"): _fail,
    ("DELETE", "faults"): _clear_faults,
    ("POST", "chats"): _start_chats,
}
CHAT_ACTIONS: Mapping[tuple[str, str], ChatAction] = {
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
    if unknown := said.keys() - set(FAULT_MEMBERS):
        raise ControlError(
            f"fault: expected one of {', '.join(FAULT_MEMBERS)}, got {', '.join(sorted(unknown))}"
        )
    body = said.get("body")
    headers = _object(said.get("headers", {}), "headers")
    return Fault(
        **_plain_members(said),
        delivery=_read_delivery(said),
        body=None if body is None else _checked(str, "body", body).encode(),
        headers=tuple((name.lower().encode(), str(value).encode()) for name, value in headers.items()),
    )


def _plain_members(said: Json) -> Json:
    # Only `times` has a null that means something; elsewhere it is as good as nothing.
    return {
        name: None if said[name] is None else _checked(kind, name, said[name])
        for name, kind in _PLAIN_MEMBERS.items()
        if name in said and (said[name] is not None or name == "times")
    }


def _read_delivery(said: Json) -> Delivery:
    given = [name for name in _DELIVERIES if name in said]
    if len(given) > 1:
        raise ControlError(f"fault: expected at most one of {', '.join(_DELIVERIES)}, got {', '.join(given)}")
    return _DELIVERIES[given[0]](said[given[0]]) if given else WHOLE


def _read_drip(said: Any) -> Drip:
    drip = _object(said, "drip")
    chunk_bytes = _checked(int, "chunk_bytes", drip.get("chunk_bytes"))
    if chunk_bytes < 1:
        raise ControlError(f"chunk_bytes: expected at least 1, got {chunk_bytes}")
    return Drip(chunk_bytes, _checked(float, "every_s", drip.get("every_s")))


_DELIVERIES: Mapping[str, Callable[[Any], Delivery]] = {
    "hang": lambda said: Hang() if _checked(bool, "hang", said) else WHOLE,
    "drop": lambda said: Drop() if _checked(bool, "drop", said) else WHOLE,
    "reset_after": lambda after: Reset(_checked(int, "reset_after", after)),
    "drip": _read_drip,
    "truncate_to": lambda keep: Truncate(_checked(int, "truncate_to", keep)),
}
#: All members of a fault, in the order of the documentation.
FAULT_MEMBERS = (*_PLAIN_MEMBERS, "body", "headers", *_DELIVERIES)
