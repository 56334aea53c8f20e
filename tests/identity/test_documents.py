from __future__ import annotations

import base64
import binascii
import contextlib
import json
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.identity.documents import MAX_DEPTH, read_base64url, read_object, size_of, write_base64url


def nested(levels: int) -> bytes:
    return b'{"a":' * levels + b"1" + b"}" * levels


@pytest.mark.parametrize(
    ("data", "fault"),
    [
        (b"", "Expecting value"),
        (b"[]", "expected a JSON object, got an array"),
        (b"null", "expected a JSON object, got nothing"),
        (b"12", "expected a JSON object, got a number"),
        (b'{"a":1} x', "Extra data"),
        (b'{"a":1,"a":1}', 'the member "a" is doubled'),
        (b'{"a":1,"\\u0061":2}', 'the member "a" is doubled'),
        (b'{"x":[{"a":1,"a":2}]}', 'the member "a" is doubled'),
        (b'{"a":NaN}', "NaN is no JSON"),
        (b'{"a":-Infinity}', "-Infinity is no JSON"),
        (b'{"a":1e999}', "beyond a float"),
        (b'{"a":' + b"9" * 5000 + b"}", "integer string conversion"),
        (b'{"a":"\\ud800"}', "surrogate"),
        (b'{"\\udfff":1}', "surrogate"),
        (b'{"a":"\xff"}', "can't decode"),
        (b"\xef\xbb\xbf{}", "Expecting value"),
        ('{"a":1}'.encode("utf-16"), "can't decode"),
        (nested(MAX_DEPTH + 1), "nested more than"),
        (nested(100_000), "nested too deeply"),
    ],
)
def test_refuses(data: bytes, fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        read_object(data)


@pytest.mark.parametrize(
    "data", [b"{}", b' {"a": [1, 2.5, null]} ', b'{"a":"\\ud83d\\ude00"}', nested(MAX_DEPTH)]
)
def test_reads(data: bytes) -> None:
    assert read_object(data) == json.loads(data)


@given(st.binary(max_size=200))
def test_only_value_errors(data: bytes) -> None:
    try:
        read_object(data)
    except ValueError:
        return


@pytest.mark.parametrize(
    "text",
    [
        b"YQ==",
        b"YQ=",
        b"Y",
        b"Y Q",
        b"YQ\n",
        b"\nYQ",
        b"+/+/",
        b"YR",
        b"YWJ",
        "YQ\u00e9".encode(),
        b"YQ.",
        b"\x00",
    ],
)
def test_refuses_odd_base64url(text: bytes) -> None:
    with pytest.raises(ValueError, match="not base64url"):
        read_base64url(text)


ALPHABET = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"


@given(st.lists(st.sampled_from(ALPHABET + b"=+/"), max_size=9).map(bytes) | st.binary(max_size=9))
def test_base64url_has_one_spelling(text: bytes) -> None:
    """What is read is what the encoder writes, and nothing of that is refused."""
    try:
        data = read_base64url(text)
    except ValueError:
        with contextlib.suppress(binascii.Error):
            assert write_base64url(base64.urlsafe_b64decode(text + b"==")) != text
    else:
        assert write_base64url(data) == text


@given(st.binary())
def test_base64url_round_trip(data: bytes) -> None:
    assert read_base64url(write_base64url(data)) == data


def real_size(value: object) -> int:
    """As an allocator sees it."""
    parts: list[object] = []
    if isinstance(value, dict):
        parts = [*value, *value.values()]
    elif isinstance(value, list):
        parts = value
    inner = 8 if parts else 0
    return (sys.getsizeof(value) + inner + 15) // 16 * 16 + sum(map(real_size, parts))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(st.dictionaries(st.text(), json_values, max_size=5))
def test_sizes(members: dict[str, object]) -> None:
    least = sum(map(real_size, members.values()))
    assert least <= size_of(members.values()) <= least + 100 * (1 + json.dumps(members).count(","))
