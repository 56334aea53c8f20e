"""How the bytes of others become values: JSON (RFC 8259) and base64url (RFC 7515 §2), both read strictly.

Two readers that understand one text differently are a way in, so whatever has a second reading is
refused: doubled members, NaN, numbers beyond a float, lone surrogates, padding, stray bits.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
from collections import Counter
from collections.abc import Collection
from sys import getsizeof

#: No key set and no honest token comes near; the recursion limit of Python is far away.
MAX_DEPTH = 32


def read_object(data: bytes) -> dict[str, object]:
    """The JSON object in UTF-8 that `data` is. Raises ValueError, which says what is wrong."""
    try:
        value = _READER.decode(data.decode())
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(value, dict):
        raise ValueError(f"expected a JSON object, got {type_name(value)}")  # noqa: TRY004 - the text is at fault
    if data.count(b"{") + data.count(b"[") > MAX_DEPTH and not _within(value, MAX_DEPTH):
        raise ValueError(f"nested more than {MAX_DEPTH} levels deep")
    if b"\\u" in data:
        # Spelling it again finds lone surrogates, which only an escape can bring in.
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise ValueError("expected what UTF-8 can spell, got lone surrogates") from None
    return value


def read_base64url(text: bytes) -> bytes:
    """The bytes behind unpadded base64url in its one canonical spelling. Raises ValueError."""
    try:
        data = binascii.a2b_base64(text.translate(_TO_BASE64) + b"=" * (-len(text) % 4), strict_mode=True)
    except binascii.Error:
        raise ValueError("not base64url") from None
    # The decoder, strict as it is, skips the bits of the last character that stand for nothing.
    if (more := len(text) % 4) and text[-1] not in _LAST[more]:
        raise ValueError("not base64url, or not the canonical spelling of it")
    return data


def write_base64url(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def size_of(values: Collection[object]) -> int:
    """No less than the bytes of memory that values take which were read, with all that is in them."""
    holding = [value for value in values if type(value) is dict or type(value) is list]
    return len(values) * _ROUNDING + sum(map(getsizeof, values)) + sum(map(_size_inside, holding))


#: pymalloc hands out multiples of 16 bytes, and what an object or array holds beside itself multiples of 8.
_ROUNDING = 16


def _size_inside(value: object) -> int:
    if isinstance(value, dict):
        return size_of(value) + size_of(value.values())
    return size_of(value) if isinstance(value, list) else 0


def type_name(value: object) -> str:
    """What JSON calls the type of a value that was read from it."""
    return _TYPE_NAMES.get(type(value), "a number")


#: base64url → base64. What only the latter knows becomes what neither does.
_TO_BASE64 = bytes.maketrans(b"-_+/=", b"+/***")
#: How many characters the last group has → which of them may be the last: their stray bits are 0.
_LAST = {2: b"AQgw", 3: b"AEIMQUYcgkosw048"}

_TYPE_NAMES: dict[type, str] = {
    dict: "an object",
    list: "an array",
    str: "a string",
    bool: "a boolean",
    type(None): "nothing",
}


def _members(pairs: list[tuple[str, object]]) -> dict[str, object]:
    members = dict(pairs)
    if len(members) != len(pairs):
        doubled = Counter(name for name, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"the member {json.dumps(doubled)} is doubled")
    return members


def _refuse_constant(name: str) -> object:
    raise ValueError(f"{name} is no JSON")


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError("a number is beyond a float")
    return number


_READER = json.JSONDecoder(object_pairs_hook=_members, parse_constant=_refuse_constant, parse_float=_finite)


def _within(value: object, levels: int) -> bool:
    if not isinstance(value, dict | list):
        return True
    children = value.values() if isinstance(value, dict) else value
    return levels > 0 and all(_within(child, levels - 1) for child in children)
