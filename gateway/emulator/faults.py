"""What the emulator can be told to do wrong, to which requests, and how often."""

from __future__ import annotations

import gzip
import json
from dataclasses import dataclass, replace

from gateway.emulator.messages import WHOLE, Delivery, EmulatorResponse, Headers


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that goes wrong for the requests it matches; parts that are left out change nothing.

    Matching: `resource`, `chat` (its id), `method` (PUT also for an override); None matches all. `times` is
    how many requests it hits, None for ever.

    `applies` says whether a request it hits is still carried out (the chat touched, the write applied);
    undecided means yes, unless the fault answers with a status of its own from 300 up.

    `code` makes the answer an error document with that internalCode and `message`. `one_for_many` replaces
    each array of a JSON answer by its first element. `headers` are added; `content_type` replaces.
    """

    resource: str | None = None
    chat: str | None = None
    method: str | None = None
    times: int | None = 1
    applies: bool | None = None
    delay_s: float = 0.0
    status: int | None = None
    code: int | None = None
    message: str | None = None
    retry_after: str | None = None
    set_cookie: str | None = None
    redirect: str | None = None
    content_type: str | None = None
    gzip: bool = False
    one_for_many: bool = False
    body: bytes | None = None
    headers: Headers = ()
    delivery: Delivery = WHOLE

    def matches(self, resource: str, chat: str, method: str) -> bool:
        """Whether the fault is meant for such a request."""
        return (
            self.resource in (None, resource) and self.chat in (None, chat) and self.method in (None, method)
        )

    @property
    def answer_status(self) -> int | None:
        """The status the fault answers with: its own, or the usual one of a redirect or an error."""
        if self.status is None:
            return 302 if self.redirect is not None else 500 if self.code is not None else None
        return self.status

    @property
    def carries_out(self) -> bool:
        """`applies`, decided."""
        return (self.answer_status or 200) < 300 if self.applies is None else self.applies


class Faults:
    """Those waiting to happen, first in, first out."""

    def __init__(self) -> None:
        self._waiting: list[Fault] = []

    def add(self, fault: Fault) -> None:
        """Put a fault behind those that are there."""
        self._waiting.append(fault)

    def clear(self) -> None:
        """Forget all."""
        self._waiting.clear()

    def take(self, resource: str, chat: str, method: str) -> Fault | None:
        """The first fault meant for this request; it is used up by one."""
        for index, fault in enumerate(self._waiting):
            if fault.matches(resource, chat, method):
                self._use(index, fault)
                return fault
        return None

    def _use(self, index: int, fault: Fault) -> None:
        if fault.times is None:
            return
        if fault.times > 1:
            self._waiting[index] = replace(fault, times=fault.times - 1)
        else:
            del self._waiting[index]


def bend(fault: Fault, response: EmulatorResponse) -> EmulatorResponse:
    """The answer as the fault has it."""
    body = response.body
    if fault.one_for_many and response.header(b"content-type") == b"application/json":
        body = json.dumps(_first_of_many(json.loads(body))).encode()
    if fault.body is not None:
        body = fault.body
    if fault.gzip:
        body = gzip.compress(body, mtime=0)
    return EmulatorResponse(
        status=fault.answer_status or response.status,
        headers=_bent_headers(fault, response.headers),
        body=body,
        delay_s=response.delay_s + fault.delay_s,
        delivery=fault.delivery,
    )


def _bent_headers(fault: Fault, headers: Headers) -> Headers:
    if fault.content_type is not None:
        headers = tuple(pair for pair in headers if pair[0] != b"content-type")
    extra = {
        b"content-type": fault.content_type,
        b"retry-after": fault.retry_after,
        b"set-cookie": fault.set_cookie,
        b"location": fault.redirect,
        b"content-encoding": "gzip" if fault.gzip else None,
    }
    said = tuple((name, value.encode()) for name, value in extra.items() if value is not None)
    return headers + said + fault.headers


def _first_of_many(tree: object) -> object:
    if isinstance(tree, list):
        return _first_of_many(tree[0]) if tree else {}
    if isinstance(tree, dict):
        return {key: _first_of_many(value) for key, value in tree.items()}
    return tree
