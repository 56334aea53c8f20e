"""Entries as bytes in Redis: one line of JSON and the body as it is, sealed if there is a key.

Whoever can write to Redis could have written them, so they are read as strictly as anything from outside:
what is not exactly what `write` writes is nothing. A seal (AES-256-GCM) holds for one place and one head:
nobody without the key can read it, change it, make it younger or put it elsewhere.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable, Container, Mapping

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from gateway.core.answers import Undressed
from gateway.core.documents import MAX_CHAT_TIMEOUT_S, InfoFacts
from gateway.core.faults import Verdict
from gateway.core.freshness import GONE, Contact
from gateway.core.messages import Answer, Headers, Representation
from gateway.core.policy import STATES
from gateway.core.sharing import Told
from gateway.shared.commands import Kept
from gateway.shared.names import Place

#: Of the line of JSON: a link of 8 KiB and a little more.
MAX_LINE_BYTES = 16_384
MAX_ROUND_TRIP_S = 600.0
#: Nobody asks whether a chat was heard of longer ago.
LONGEST_AGO_S = 30 * 86_400.0

#: As `core.answers` lets them cross.
_TYPES = frozenset(representation.media_type.decode() for representation in Representation)
_LOCATION = re.compile(r"[\x21-\x7e]{1,8192}")

#: A nonce is made at random for each seal (NIST SP 800-38D §8.2.2: 96 bits).
NONCE_BYTES = 12
#: Without a key this shows what was damaged, cut or put elsewhere; whoever means harm can make another.
DIGEST_BYTES = 16

#: What comes with an answer → the statuses that it may have (see `core.faults`; failures are no answers).
_STATUSES = {
    Verdict.GOOD.value: frozenset(range(200, 300)) - {204, 206},
    Verdict.GONE.value: frozenset({404}),
    Verdict.CALLERS.value: frozenset(range(400, 500)),
}
_MEMBERS = frozenset(
    {"status", "verdict", "type", "location", "state", "chat_timeout_s", "contact", "round_trip_s"}
)
_CONTACT_MEMBERS = frozenset({"at_s", "timeout_s", "state", "told_at_s"})


class Records:
    """Writes and reads them. `key` is 32 bytes, None for no seal; `random` gives so many bytes."""

    def __init__(self, key: bytes | None, random: Callable[[int], bytes]) -> None:
        #: Entries under different keys are of no use to each other.
        self.key_id = b"" if key is None else hashlib.blake2b(key, digest_size=8).hexdigest().encode()
        self._cipher = None if key is None else AESGCM(key)
        self._random = random

    def write(self, place: Place, head: bytes, told: Told) -> bytes:
        """What is to be landed. What is told of times is told from `told.sent_at` on."""
        payload = _line(told) + b"\n" + told.heard.answer.body
        if self._cipher is None:
            return head + b"\n" + _digest(place, head, payload) + payload
        nonce = self._random(NONCE_BYTES)
        return head + b"\n" + nonce + self._cipher.encrypt(nonce, payload, _bound_to(place, head))

    def read(self, place: Place, kept: Kept, sent_at: float, *, was_awaited: bool = False) -> Told | None:
        """What was written there, as asked for at `sent_at`; None if it is foreign."""
        try:
            line, _, body = self._opened(place, kept).partition(b"\n")
            return _told(_object(line), body, sent_at, kept.age_s, was_awaited)
        except (ValueError, TypeError, KeyError, RecursionError, InvalidTag):
            return None

    def _opened(self, place: Place, kept: Kept) -> bytes:
        if self._cipher is None:
            digest, payload = kept.payload[:DIGEST_BYTES], kept.payload[DIGEST_BYTES:]
            if digest != _digest(place, kept.head, payload):
                raise ValueError("digest")
            return payload
        nonce, sealed = kept.payload[:NONCE_BYTES], kept.payload[NONCE_BYTES:]
        return self._cipher.decrypt(nonce, sealed, _bound_to(place, kept.head))


def _digest(place: Place, head: bytes, payload: bytes) -> bytes:
    return hashlib.blake2b(_bound_to(place, head) + b"\n" + payload, digest_size=DIGEST_BYTES).digest()


def _bound_to(place: Place, head: bytes) -> bytes:
    return f"{place.chat}/{place.field}\n".encode() + head


# -- there ------------------------------------------------------------------------------------------------


def _line(told: Told) -> bytes:
    heard, contact = told.heard, told.contact
    said = {
        "status": heard.answer.status,
        "verdict": heard.verdict.value,
        "type": _field(heard.answer, b"content-type"),
        "location": _field(heard.answer, b"location"),
        "state": heard.facts.state,
        "chat_timeout_s": heard.facts.chat_timeout_s,
        "contact": {
            "at_s": _after(told.sent_at, contact.at),
            "timeout_s": contact.timeout_s,
            "state": contact.state,
            "told_at_s": None if contact.told_at == -math.inf else _after(told.sent_at, contact.told_at),
        },
        "round_trip_s": min(told.round_trip_s, MAX_ROUND_TRIP_S),
    }
    return json.dumps(said, allow_nan=False).encode()


def _field(answer: Answer, name: bytes) -> str | None:
    value = answer.header(name)
    return None if value is None else value.decode("latin-1")


def _after(sent_at: float, at: float) -> float:
    return max(at - sent_at, -LONGEST_AGO_S)


# -- and back: what is wrong raises ValueError and the like ------------------------------------------------

Members = Mapping[str, object]


def _object(line: bytes) -> Members:
    if len(line) > MAX_LINE_BYTES:
        raise ValueError("line")
    return _members(json.loads(line), _MEMBERS)


def _members(value: object, names: frozenset[str]) -> Members:
    if isinstance(value, dict) and value.keys() == names:
        return value
    raise ValueError("members")


def _told(said: Members, body: bytes, sent_at: float, age_s: float, was_awaited: bool) -> Told:
    heard = Undressed(
        Answer(_status(said), _headers(said), body),
        Verdict(said["verdict"]),
        InfoFacts(_state(said["state"], STATES), _optional(said["chat_timeout_s"], 0, MAX_CHAT_TIMEOUT_S)),
    )
    round_trip_s = _number(said["round_trip_s"], 0, MAX_ROUND_TRIP_S)
    return Told(heard, _contact(said["contact"], sent_at, age_s), sent_at, round_trip_s, was_awaited)


def _contact(value: object, sent_at: float, age_s: float) -> Contact:
    said = _members(value, _CONTACT_MEMBERS)
    told_at_s = _optional(said["told_at_s"], -LONGEST_AGO_S, LONGEST_AGO_S)
    return Contact(
        # Nobody has heard of a chat later than now.
        at=sent_at + min(age_s, _number(said["at_s"], -LONGEST_AGO_S, LONGEST_AGO_S)),
        timeout_s=_number(said["timeout_s"], 0, MAX_CHAT_TIMEOUT_S),
        state=_state(said["state"], (*STATES, GONE)),
        told_at=-math.inf if told_at_s is None else sent_at + min(age_s, told_at_s),
    )


def _status(said: Members) -> int:
    status = said["status"]
    # A float or a truth may be equal to one of them.
    if type(status) is int and status in _STATUSES[_text(said["verdict"])]:
        return status
    raise ValueError("status")


def _headers(said: Members) -> Headers:
    headers = []
    if said["type"] is not None:
        headers.append((b"content-type", _one_of(_text(said["type"]), _TYPES).encode()))
    if said["location"] is not None:
        location = _text(said["location"])
        if not _LOCATION.fullmatch(location):
            raise ValueError("location")
        headers.append((b"location", location.encode()))
    return tuple(headers)


def _text(value: object) -> str:
    if isinstance(value, str):
        return value
    raise TypeError("text")


def _one_of(value: str, values: Container[str]) -> str:
    if value in values:
        return value
    raise ValueError("value")


def _state(value: object, states: Container[str]) -> str | None:
    return None if value is None else _one_of(_text(value), states)


def _optional(value: object, least: float, most: float) -> float | None:
    return None if value is None else _number(value, least, most)


def _number(value: object, least: float, most: float) -> float:
    # NaN is on no side of anything.
    if isinstance(value, int | float) and not isinstance(value, bool) and least <= value <= most:
        return float(value)
    raise ValueError("number")
