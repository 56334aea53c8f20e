from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.identity.documents import MAX_DEPTH, read_base64url, read_object, write_base64url


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


@given(st.binary())
def test_base64url_round_trip(data: bytes) -> None:
    assert read_base64url(write_base64url(data)) == data
