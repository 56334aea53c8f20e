"""The search for the appKey, and for links that lead past the gateway."""

from __future__ import annotations

import base64
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.demo.evidence import Evidence
from gateway.demo.wire import Response

KEY = b"721c0123456789abcdef0123456789ab"
PUBLIC = "http://127.0.0.1:8080"


def evidence() -> Evidence:
    return Evidence(KEY, PUBLIC)


def response(body: bytes, head: bytes = b"HTTP/1.1 200 OK\r\n") -> Response:
    return Response(200, head, body, 0.0)


@pytest.mark.parametrize("spell", [base64.b64encode, base64.urlsafe_b64encode])
@given(before=st.binary(max_size=20), after=st.binary(max_size=20), key=st.binary(min_size=16, max_size=40))
def test_a_key_is_found_in_base64_wherever_it_stands(
    spell: object, before: bytes, after: bytes, key: bytes
) -> None:
    assert callable(spell)
    assert Evidence(key, PUBLIC).count_keys(spell(before + key + after)) >= 1


@pytest.mark.parametrize(
    ("text", "times"),
    [
        (KEY, 1),
        (b"LivePerson appKey=" + KEY + b"; again " + KEY, 2),
        (KEY.hex().encode(), 1),
        (KEY.hex().upper().encode(), 1),
        ("".join(f"%{byte:02X}" for byte in KEY).encode(), 1),
        (quote(KEY).encode(), 1),
        (KEY[:-1], 0),
        (b"", 0),
    ],
)
def test_spellings_of_a_key(text: bytes, times: int) -> None:
    assert evidence().count_keys(text) == times


def test_a_key_is_searched_for_in_head_and_body_and_log() -> None:
    looked = evidence()
    looked.take(response(KEY, b"HTTP/1.1 200 OK\r\nx-key: " + KEY + b"\r\n"))
    looked.take_log(b'{"event": "' + KEY + b'"}')
    assert (looked.keys_seen, looked.keys_in_log) == (2, 1)
    assert looked.errors == {"appKey in an answer": 2, "appKey in the log": 1}


@pytest.mark.parametrize(
    ("body", "links", "foreign"),
    [
        (b'{"link":[{"href":"http://127.0.0.1:8080/api/account/1","rel":"self"}]}', 1, 0),
        (b'{"link":{"@href" : "https://va.convep.liveperson.net/api/account/1"}}', 1, 1),
        (b'{"link":{"href":"http://127.0.0.1:80801/api/account/1"}}', 1, 1),
        (b'{"text":"see <a href=\\"https://va.convep.liveperson.net/\\">this</a>"}', 0, 0),
    ],
)
def test_links_in_bodies(body: bytes, links: int, foreign: int) -> None:
    looked = evidence()
    looked.take(response(body))
    assert (looked.links, looked.foreign_links) == (links, foreign)


@pytest.mark.parametrize(("location", "foreign"), [(f"{PUBLIC}/api", 0), ("https://lp.example/api", 1)])
def test_a_location_is_a_link(location: str, foreign: int) -> None:
    looked = evidence()
    looked.take(response(b"", f"HTTP/1.1 201 Created\r\nlocation: {location}\r\n".encode()))
    assert (looked.links, looked.foreign_links) == (1, foreign)
    assert looked.errors == ({"link past the gateway": 1} if foreign else {})
