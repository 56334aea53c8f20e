"""The format of messages, and where events stand in a document: tables, and a reader of the other kind."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.chat_events import ChatEvent, chat_events, event_spans, has_events
from gateway.core.messages import Representation
from gateway.push.messages import message


@pytest.mark.parametrize(
    ("said", "wire"),
    [
        (message(b"info", b"{}"), b"event: info\ndata: {}\n\n"),
        (message(b"info", b"{}", id=b'W/"1"'), b'event: info\nid: W/"1"\ndata: {}\n\n'),
        (message(b"closed", b"{}", retry_ms=1500), b"retry: 1500\nevent: closed\ndata: {}\n\n"),
        (message(b"info", b"{\n\r\n\r}"), b"event: info\ndata: {\ndata: \ndata: \ndata: }\n\n"),
        (message(b"info", b""), b"event: info\ndata: \n\n"),
        (message(b"info", b"{}", id=b"a\0b"), b"event: info\ndata: {}\n\n"),
        (message(b"info", b"{}", id=b"a\nevent: b"), b"event: info\ndata: {}\n\n"),
    ],
)
def test_messages(said: bytes, wire: bytes) -> None:
    assert said == wire


DOCUMENTS = [
    (b"{}", [], []),
    (b'{"events": {}}', [], []),
    (b'{"events": null}', [], []),
    (b'{"events": {"event": []}}', [], []),
    (
        b'{"events": {"event": {"@id": "3", "text": "}"}}}',
        [ChatEvent(3, False)],
        [b'{"@id": "3", "text": "}"}'],
    ),
    (
        b'{"events":{"link":[{"@rel":"self"}],"event":[ {"id":0} ,{"id": "1", "by": [{"event": {}}]}]}}',
        [ChatEvent(0, False), ChatEvent(1, False)],
        [b'{"id":0}', b'{"id": "1", "by": [{"event": {}}]}'],
    ),
    (
        rb'{"ev\u0065nts": {"event": [{"@id": "9", "@type": "state", "state": "ended"}]}}',
        [ChatEvent(9, True)],
        [b'{"@id": "9", "@type": "state", "state": "ended"}'],
    ),
    (b'{"events": {"event": [{"@id": "x"}]}}', [ChatEvent(None, False)], [b'{"@id": "x"}']),
    (
        b'{"events": {"event": [{"@id": "1"}], "event": {"@id": "2"}}}',
        [ChatEvent(2, False)],
        [b'{"@id": "2"}'],
    ),
]


@pytest.mark.parametrize(("body", "events", "texts"), DOCUMENTS)
def test_events_of_a_document(body: bytes, events: list[ChatEvent], texts: list[bytes]) -> None:
    assert list(chat_events(body)) == events
    assert [body[start:end] for start, end in event_spans(body)] == texts
    assert has_events(body, Representation.JSON) == bool(events)


@pytest.mark.parametrize(
    ("body", "has"),
    [
        (b"<events/>", False),
        (b'<events><link rel="self"/></events>', False),
        (b'<events><event id="1"/></events>', True),
        (b'<a:events xmlns:a="x"> <a:event id="1"/></a:events>', True),
    ],
)
def test_events_of_a_document_in_xml(body: bytes, has: bool) -> None:
    assert has_events(body, Representation.XML) is has


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["event", "events", "x"]), inner, max_size=3)
    ),
    max_leaves=6,
)


@given(
    st.lists(st.dictionaries(st.text(max_size=5), VALUES, max_size=4), min_size=2, max_size=4), st.booleans()
)
def test_events_are_cut_out_whole(events: list[dict[str, object]], spaced: bool) -> None:
    indent = 1 if spaced else None
    body = json.dumps({"x": {"event": [{}]}, "events": {"event": events}, "y": [{}]}, indent=indent).encode()
    assert [json.loads(body[start:end]) for start, end in event_spans(body)] == events
