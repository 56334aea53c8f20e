"""What is told from an info is what the upstream would have answered, to the byte, or nothing."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.known import known
from gateway.core.messages import Answer, Representation
from gateway.emulator import MAPPED, NATIVE, Dialect, Emulator, EmulatorConfig, EmulatorRequest
from gateway.emulator.config import JsonStyle

JSON, XML = Representation.JSON, Representation.XML
BOTH = [JSON, XML]
DECLARED = b'<?xml version="1.0" encoding="UTF-8" standalone="yes"?>'
LATIN = b"<?xml version='1.0' encoding='ISO-8859-1'?>"
ZOE = b" Zo\xeb &amp; &#x2603;&quot;\t"


def told(body: bytes, of: Representation, wanted: Representation, field: str = "visitorName") -> bytes | None:
    answer = known(Answer(200, ((b"content-type", of.media_type),), body), field, of, wanted)
    if answer is None:
        return None
    assert (answer.status, answer.headers) == (200, ((b"content-type", wanted.media_type),))
    return answer.body


@pytest.mark.parametrize(
    ("info", "as_json", "as_xml"),
    [
        (
            b'{"info":{"visitorName":"You"}}',
            b'{"visitorName":"You"}',
            DECLARED + b"<visitorName>You</visitorName>",
        ),
        (
            b'{\r\n "info" : {"state":"waiting",\n "visitorName" : "\\u005aoe\\u0308 \\/ \\"<&>","a":[{}]}}',
            b'{"visitorName":"\\u005aoe\\u0308 \\/ \\"<&>"}',
            DECLARED + '<visitorName>Zoe\u0308 / "&lt;&amp;&gt;</visitorName>'.encode(),
        ),
        (
            b'{"other":{"visitorName":"x"},"info":{"visitorName":"","link":[{"visitorName":"y"}]}}',
            b'{"visitorName":""}',
            DECLARED + b"<visitorName></visitorName>",
        ),
        # XML cannot say these.
        (b'{"info":{"visitorName":"\\u0007"}}', b'{"visitorName":"\\u0007"}', None),
        (b'{"info":{"visitorName":"\\r"}}', b'{"visitorName":"\\r"}', None),
        (b'{"info":{"visitorName":"\\ud800"}}', b'{"visitorName":"\\ud800"}', None),
    ],
)
def test_a_field_of_json(info: bytes, as_json: bytes, as_xml: bytes | None) -> None:
    assert told(info, JSON, JSON) == as_json
    assert told(info, JSON, XML) == as_xml


@pytest.mark.parametrize(
    ("info", "as_xml", "as_json"),
    [
        (
            b"<info><visitorName>You</visitorName></info>",
            b"<visitorName>You</visitorName>",
            b'{"visitorName":"You"}',
        ),
        (
            LATIN
            + b"\n<info a='b'>\n <state>ended</state> <visitorName>%b</visitorName> <link/>\n</info>\n" % ZOE,
            LATIN + b"<visitorName>%b</visitorName>" % ZOE,
            '{"visitorName":" Zoë & ☃\\"\\t"}'.encode(),
        ),
        (b"<info><visitorName></visitorName></info>", b"<visitorName></visitorName>", b'{"visitorName":""}'),
        # Some JSON of the upstream's would have a number here, and which one nobody knows.
        (b"<info><visitorName>1.10</visitorName></info>", b"<visitorName>1.10</visitorName>", None),
        (b"<info><visitorName>a\rb</visitorName></info>", b"<visitorName>a\rb</visitorName>", None),
        (b"<info><visitorName>&#13;</visitorName></info>", b"<visitorName>&#13;</visitorName>", None),
    ],
)
def test_a_field_of_xml(info: bytes, as_xml: bytes, as_json: bytes | None) -> None:
    assert told(info, XML, XML) == as_xml
    assert told(info, XML, JSON) == as_json


@pytest.mark.parametrize("wanted", BOTH)
@pytest.mark.parametrize(
    ("of", "info"),
    [
        (JSON, b'{"info":{"state":"waiting"}}'),
        (JSON, b'{"info":{}}'),
        (JSON, b"[]"),
        (JSON, b'{"visitorName":"You"}'),
        (JSON, b'{"info":[{"visitorName":"You"}]}'),
        (JSON, b'{"chat":{"info":{"visitorName":"You"}}}'),
        (JSON, b'{"info":{"visitorName":7}}'),
        (JSON, b'{"info":{"visitorName":null}}'),
        (JSON, b'{"info":{"visitorName":{"$":"You"}}}'),
        (JSON, b'{"info":{"@visitorName":"You","visitorName":"Me"}}'),
        (JSON, b'{"info":{"visitorName":"You","visitorName":"Me"}}'),
        (JSON, b'{"info":{"visitorName":"You"},"info":{"visitorName":"Me"}}'),
        (XML, b"<info/>"),
        (XML, b"<info><state>waiting</state></info>"),
        (XML, b"<chat><info><visitorName>You</visitorName></info></chat>"),
        (XML, b"<info><visitorName/></info>"),
        (XML, b"<info><visitorName>You<b/></visitorName></info>"),
        (XML, b"<info><visitorName>Y<!-- - -->ou</visitorName></info>"),
        (XML, b"<info><visitorName><![CDATA[You]]></visitorName></info>"),
        (XML, b"<info><visitorName>You</visitorName><visitorName>Me</visitorName></info>"),
        (XML, b"<i:info xmlns:i='urn:i'><i:visitorName>You</i:visitorName></i:info>"),
    ],
)
def test_what_is_not_there_or_no_plain_text_is_not_told(
    of: Representation, info: bytes, wanted: Representation
) -> None:
    assert told(info, of, wanted) is None


@pytest.mark.parametrize("status", [201, 404])
def test_only_an_info_tells(status: int) -> None:
    assert known(Answer(status, (), b'{"info":{"visitorName":"You"}}'), "visitorName", JSON, JSON) is None


# -- against the emulated service ----------------------------------------------------------------------

FIELDS = ["visitorName", "visitorTyping", "agentTyping"]
# What its XML cannot carry, the emulated service replaces: nobody could tell what it was.
CHARACTERS = st.characters(
    exclude_categories=["Cs", "Cc"], include_characters="\t\n", exclude_characters="\ufffe\uffff"
)
TEXTS = st.text(CHARACTERS) | st.sampled_from(["You", "7", "1.10", "-0", "1e5", "true", "null", "", " "])


def asked(
    service: Emulator, chat: str, path: str, representation: Representation, body: bytes = b""
) -> Answer:
    target = f"/api/account/123/chat/{chat}/info{path}?v=1&appKey={service.config.app_key}"
    headers = [(b"accept", representation.media_type), (b"content-type", b"application/json")]
    if body:
        headers.append((b"x-http-method-override", b"PUT"))
    method = "POST" if body else "GET"
    answer = service.handle(EmulatorRequest(method, target.encode(), tuple(headers), body))
    assert answer.status in {200, 201}, answer
    return Answer(answer.status, answer.headers, answer.body)


@settings(deadline=None)
@given(
    name=TEXTS,
    typing=st.booleans(),
    state=st.sampled_from(["waiting", "chatting", "ended"]),
    style=st.sampled_from([NATIVE, MAPPED]),
    more=st.booleans(),
)
def test_it_is_what_the_resource_itself_would_have_said(
    name: str, typing: bool, state: str, style: JsonStyle, more: bool
) -> None:
    styles = dict.fromkeys(["info", "visitor-name", "visitor-typing", "agent-typing"], style)
    service = Emulator(EmulatorConfig(dialect=Dialect(styles, unknown_fields=more)), lambda: 1.7e9)
    chat = service.start_chat("123")
    asked(service, chat, "/visitorName", JSON, json.dumps({"visitorName": name}).encode())
    if state != "waiting":
        service.accept(chat)
        service.agent_typing(chat, typing)
    if state == "ended":
        service.end(chat)
    for field in FIELDS:
        for of in BOTH:
            info = asked(service, chat, "", of)
            for wanted in BOTH:
                body = told(info.body, of, wanted, field)
                assert body in {None, asked(service, chat, f"/{field}", wanted).body}
                if body is None:
                    assert (field == "agentTyping" and state != "chatting") or not name.isalpha()
