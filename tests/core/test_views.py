"""What a view withholds is gone wherever it stood, in each dialect, and all else keeps its bytes."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.answers import render
from gateway.core.documents import Document
from gateway.core.freshness import keep_nothing
from gateway.core.messages import Answer, Chat, Representation
from gateway.core.paths import Target
from gateway.core.policy import CacheRule, Resource
from gateway.core.views import ALSO, FULL, KNOWN_FIELDS, STRUCTURE, View, viewed
from gateway.core.withhold import json_cuts, xml_cuts
from gateway.emulator import MAPPED, NATIVE, Dialect, Emulator, EmulatorConfig, EmulatorRequest
from gateway.emulator.render import Document as Rendered
from gateway.emulator.render import Tree, to_json, to_xml
from tests.core.documents_strategies import json_documents, xml_documents

JSON, XML = Representation.JSON, Representation.XML


def show(*names: str) -> View:
    return View(show=frozenset(names))


def hide(*names: str) -> View:
    return View(hide=frozenset(names))


def views(*names: str) -> st.SearchStrategy[View]:
    some = st.none() | st.frozensets(st.sampled_from(names))
    return st.builds(View, some, some)


# -- which names ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("view", "shown", "withheld"),
    [
        (FULL, ["state", "by", "text", "what nobody knows"], []),
        (hide("agentName"), ["visitorName", "agentId", "link", "unknown"], ["agentName", "by", "agent"]),
        (hide("visitorName"), ["agentName", "text"], ["visitorName", "by"]),
        (hide("events", "href"), ["event", "info"], ["events", "href"]),
        (hide(), ["state", "by"], []),
        (show("state"), ["state", *STRUCTURE], ["agentName", "by", "unknown", "", "@state", "State"]),
        (show(), [*STRUCTURE], ["state"]),
        (show("by", "agentName"), ["agentName"], ["by", "visitorName"]),
        (show("by", "agentName", "visitorName"), ["by"], ["text"]),
        (show("duration", "time", "startTime"), ["duration", "time"], ["lastUpdate"]),
        (show("duration", "time"), [], ["duration", "time", "startTime"]),
        (View(frozenset({"state", "link"}), frozenset({"state"})), ["link"], ["state", "agentName"]),
    ],
)
def test_what_a_view_shows(view: View, shown: list[str], withheld: list[str]) -> None:
    assert [name for name in shown if not view.shows(name)] == []
    assert [name for name in withheld if view.shows(name)] == []


@pytest.mark.parametrize(
    ("carrier", "fact"), [(name, fact) for name, facts in ALSO.items() for fact in sorted(facts)]
)
def test_what_tells_a_withheld_fact_is_withheld(carrier: str, fact: str) -> None:
    assert {carrier, fact} <= KNOWN_FIELDS
    assert not hide(fact).shows(carrier)
    assert hide(carrier).shows(fact)
    assert not View(show=KNOWN_FIELDS - {fact}).shows(carrier)
    assert fact not in ALSO, "a chain would have to be followed"


def test_the_page_names_every_field_that_tells_another() -> None:
    page = (Path(__file__).parents[2] / "docs" / "views.md").read_text()
    rows = re.findall(r"^\| (`[^|]*`) \| (`[^|]*`) \|", page, re.MULTILINE)
    assert {
        name: frozenset(re.findall(r"`(\w+)`", facts))
        for carriers, facts in rows
        for name in re.findall(r"`(\w+)`", carriers)
    } == ALSO


# -- regressions ---------------------------------------------------------------------------------------

INFO = """{
  "info": {
    "link": [
      {
        "href": "https://chat.example/api/account/123/chat/H1/info",
        "rel": "self"
      },
      {
        "href": "https://chat.example/api/account/123/chat/H1/info/visitorName",
        "rel": "visitor-name"
      }
    ],
    "state": "chatting",
    "agentName": "Natalie",
    "visitorId": 1214701440734022,
    "visitorName": "You"
  }
}"""
INFO_OF_THE_STATE = """{
  "info": {
    "link": [
      {
        "href": "https://chat.example/api/account/123/chat/H1/info",
        "rel": "self"
      },
      {
        "href": "https://chat.example/api/account/123/chat/H1/info/visitorName",
        "rel": "visitor-name"
      }
    ],
    "state": "chatting"
  }
}"""
CHAT = (
    '{"chat":{"link":{"@href":"u","@rel":"self","@title":"x"},"events":{"link":[{"@href":"u","@rel":"next"}],'
    '"event":[%s]},"info":{"link":[],"state":"ended","visitorName":"You"}}}'
)
STATE_EVENT = '{"@id":"0","@type":"state","time":"t","state":"ended"}'
LINE_EVENT = '{"@id":"1","@type":"line","text":"hi","by":"You","source":"visitor"}'
XML_CHAT = (
    '<?xml version="1.0"?>\n<chat><link href="u" rel="self" title="x"/><events><link href="u" rel="next"/>%s'
    "</events><info><state>ended</state><visitorName>You</visitorName></info></chat>\n"
)
XML_LINE = '<event id="1" type="line"><text>hi</text><by>You</by></event>'


@pytest.mark.parametrize(
    ("body", "view", "left"),
    [
        # The vendor's info, laid out as on its page.
        (INFO, show("state"), INFO_OF_THE_STATE),
        (INFO, hide("agentName", "visitorId", "visitorName"), INFO_OF_THE_STATE),
        (INFO, show(*KNOWN_FIELDS), INFO),
        # The chat resource has @, and one event may be no array.
        (
            CHAT % f"{STATE_EVENT},{LINE_EVENT}",
            hide("visitorName"),
            CHAT.replace(',"visitorName":"You"', "")
            % f"{STATE_EVENT},{LINE_EVENT}".replace(',"by":"You"', ""),
        ),
        (
            CHAT.replace("[%s]", "%s") % STATE_EVENT,
            show("state", "id"),
            CHAT.replace("[%s]", "%s").replace(',"@title":"x"', "").replace(',"visitorName":"You"', "")
            % '{"@id":"0","state":"ended"}',
        ),
        # Nothing of a survey until its parts are listed.
        ('{"survey":{"id":1,"questions":{"question":[]}}}', show("survey"), '{"survey":{}}'),
        ('{"survey":{"id":1,"questions":{"question":[]}}}', show("questions"), "{}"),
        # First, last, all, several in a row, twice, nested, empty.
        ('{ "a" : 1 , "b" : 2 , "c" : 3 }', hide("a"), '{ "b" : 2 , "c" : 3 }'),
        ('{ "a" : 1 , "b" : 2 , "c" : 3 }', hide("b"), '{ "a" : 1 , "c" : 3 }'),
        ('{ "a" : 1 , "b" : 2 , "c" : 3 }', hide("c"), '{ "a" : 1 , "b" : 2 }'),
        ('{ "a" : 1 , "b" : 2 , "c" : 3 }', hide("a", "b"), '{ "c" : 3 }'),
        ('{ "a" : 1 , "b" : 2 , "c" : 3 }', hide("b", "c"), '{ "a" : 1 }'),
        ('{ "a" : 1 , "b" : 2 , "c" : 3 }', hide("a", "c"), '{ "b" : 2 }'),
        ('{ "a" : 1 , "b" : 2 , "c" : 3 }', hide("a", "b", "c"), "{  }"),
        ('{"a":1,"b":2,"a":3}', hide("a"), '{"b":2}'),
        ('{"a":{"b":[1,{"a":2,"b":3}]},"c":[{"a":1},{"b":2,"a":1}]}', hide("a"), '{"c":[{},{"b":2}]}'),
        ('[[{"a":[]}],[],{},{"b":{}}]', hide("a"), '[[{}],[],{},{"b":{}}]'),
        # A name is what it is however it is spelled; text is no name.
        ('{"\\u0061":1,"@\\u0061":2,"b":"a","c":"\\"a\\":1"}', hide("a"), '{"b":"a","c":"\\"a\\":1"}'),
        ('{"@@a":1,"A":2,"aa":3}', hide("a"), '{"@@a":1,"A":2,"aa":3}'),
        ('{"a\\"":1,"\\\\":2,"a":3}', hide('a"', "\\"), '{"a":3}'),
        ('{"\\ud800":1,"é":2}', hide("é"), '{"\\ud800":1}'),
        # The text of an element that has attributes is a part of it.
        (
            '{"visitorName":{"@id":1,"$":"You"},"$":"x"}',
            show("visitorName"),
            '{"visitorName":{"$":"You"},"$":"x"}',
        ),
        ('"a"', hide("a"), '"a"'),
        ("[1,null]", show(), "[1,null]"),
    ],
)
def test_json(body: str, view: View, left: str) -> None:
    assert viewed(body.encode(), JSON, view).decode() == left


@pytest.mark.parametrize(
    ("body", "view", "left"),
    [
        (
            XML_CHAT % XML_LINE,
            hide("visitorName"),
            XML_CHAT.replace("<visitorName>You</visitorName>", "") % XML_LINE.replace("<by>You</by>", ""),
        ),
        (
            XML_CHAT % XML_LINE,
            show("state", "id"),
            XML_CHAT.replace("<visitorName>You</visitorName>", "").replace(' title="x"', "")
            % '<event id="1"></event>',
        ),
        # Elements and attributes, with any prefix, empty or nested, and the white space before an attribute.
        ("<r><a/>1<a />2<a>3<a>4</a>5</a>6</r>", hide("a"), "<r>126</r>"),
        ("<r xmlns:q='u'><q:a>1</q:a><b q:a='2' c='3'/></r>", hide("a"), "<r xmlns:q='u'><b c='3'/></r>"),
        ("<r a='>' b=\"&lt;a>\"\n\ta = '2'  >x</r>", hide("b"), "<r a='>'\n\ta = '2'  >x</r>"),
        ("<r a='>' b=\"&lt;a>\"\n\ta = '2'  >x</r>", show("r", "b"), '<r b="&lt;a>"  >x</r>'),
        # What declares prefixes is no field.
        ("<r xmlns='u' xmlns:a='v' xmlnsa='w'/>", show("r"), "<r xmlns='u' xmlns:a='v'/>"),
        ("<r xmlns:a='v'><a:b/></r>", hide("a"), "<r xmlns:a='v'><a:b/></r>"),
        # What looks like an element but is none.
        (
            "<r><!-- <a> --><b><![CDATA[<a>]]></b><?a <a>?></r>",
            hide("a"),
            "<r><!-- <a> --><b><![CDATA[<a>]]></b><?a <a>?></r>",
        ),
        ("<r><a><!-- </a> --><![CDATA[</a>]]><?x </a>?></a>.</r>", hide("a"), "<r>.</r>"),
        ("<r><aa/><a.b/><a-b/><A/></r>", hide("a"), "<r><aa/><a.b/><a-b/><A/></r>"),
        # A document has a root, and nothing in it that is withheld.
        ("<a>1</a>", hide("a"), "<a></a>"),
        (
            "<?xml version='1.0'?><a b='1' xmlns='u'><c/>2</a ><!---->",
            hide("a"),
            "<?xml version='1.0'?><a xmlns='u'></a ><!---->",
        ),
        ("<a b='1' />", hide("a"), "<a />"),
        ("<availability>true</availability>", show("state"), "<availability></availability>"),
    ],
)
def test_xml(body: str, view: View, left: str) -> None:
    assert viewed(body.encode(), XML, view).decode() == left


BODY = INFO.encode()


@pytest.mark.parametrize("representation", Representation)
def test_a_full_view_is_the_same_bytes(representation: Representation) -> None:
    assert viewed(BODY, representation, FULL) is BODY


# -- properties: any document, against a filter of the parsed tree ------------------------------------


@dataclass(frozen=True)
class Spelled:
    """A number as it was written."""

    digits: str


class Pairs(list[tuple[str, object]]):
    """An object as it was written: in order, repeated keys included."""


def read_json(body: bytes) -> object:
    return json.loads(body, object_pairs_hook=Pairs, parse_int=Spelled, parse_float=Spelled)


def filtered_json(node: object, view: View) -> object:
    if isinstance(node, Pairs):
        return Pairs(
            (key, filtered_json(value, view))
            for key, value in node
            if view.shows(key[1:] if key[:1] == "@" else key)
        )
    return [filtered_json(value, view) for value in node] if isinstance(node, list) else node


def read_xml(body: bytes) -> ET.Element:
    builder = ET.TreeBuilder(insert_comments=True, insert_pis=True)
    parser = ET.XMLParser(target=builder)  # noqa: S314 - it reads what we made
    return ET.fromstring(body, parser)  # noqa: S314 - as above


def local(name: str) -> str:
    return name.rpartition("}")[2]


def filtered_xml(element: ET.Element, view: View) -> object:
    """The element, its attributes, its children with runs of text as one."""
    attributes = {name: value for name, value in element.attrib.items() if view.shows(local(name))}
    children: list[object] = [element.text or ""]
    for child in element:
        # Comments and instructions have a function for a tag, and always stay.
        if callable(child.tag) or view.shows(local(child.tag)):
            children += [filtered_xml(child, view), ""]
        children[-1] = f"{children[-1]}{child.tail or ''}"
    return (str(element.tag), attributes, children)


def is_subsequence(part: bytes, whole: bytes) -> bool:
    rest = iter(whole)
    return all(byte in rest for byte in part)


def respaced(body: bytes, seed: int) -> bytes:
    """A JSON document with more white space, of every kind, wherever it may stand."""
    random = Random(seed)
    space = (b"", b"", b" ", b"\r\n", b"\t\t ")

    def spaced(mark: re.Match[bytes]) -> bytes:
        return mark[0] if mark[1] else random.choice(space) + mark[0] + random.choice(space)

    return re.sub(rb'("(?:[^"\\]|\\.)*")|[][{},:]', spaced, body)


JSON_VIEWS = views("link", "href", "rel", "text", "domain", "links", "Link", 'a "link"', "\\", "event")
XML_VIEWS = views("link", "links", "a", "link-x", "link.x", "href", "rel", "data-href", "hrefs", "xmlns")
SEEDS = st.integers(0, 2**32)


def check(body: bytes, left: bytes, representation: Representation, view: View) -> None:
    Document.parse(left, representation)
    assert is_subsequence(left, body)
    assert viewed(left, representation, view) == left
    cuts = list((json_cuts if representation is JSON else xml_cuts)(body, view.shows))
    edges = [at for cut in cuts for at in cut]
    assert edges == sorted(edges)
    assert len(left) == len(body) - sum(end - start for start, end in cuts)


@settings(deadline=None, max_examples=300)
@given(json_documents, SEEDS, JSON_VIEWS)
def test_a_json_document_loses_what_is_withheld_and_nothing_else(body: bytes, seed: int, view: View) -> None:
    body = respaced(body, seed)
    left = viewed(body, JSON, view)
    assert read_json(left) == filtered_json(read_json(body), view)
    check(body, left, JSON, view)


@settings(deadline=None, max_examples=300)
@given(xml_documents, XML_VIEWS)
def test_an_xml_document_loses_what_is_withheld_and_nothing_else(body: bytes, view: View) -> None:
    left = viewed(body, XML, view)
    root = read_xml(body)
    whole = filtered_xml(root, view) if view.shows("link") else ("link", {}, [""])
    assert filtered_xml(read_xml(left), FULL) == whole
    check(body, left, XML, view)


# -- properties: one document in every dialect ---------------------------------------------------------

NAMES = ("state", "agentName", "visitorName", "by", "text", "time", "startTime", "survey", "$", "new", "info")
TREES = st.recursive(
    st.just(""),
    lambda below: st.dictionaries(st.sampled_from(NAMES), below | st.lists(below, min_size=1), min_size=1),
    max_leaves=20,
)


def numbered(tree: Tree, count: Iterator[int]) -> Tree:
    """The tree with a value of its own in each leaf; a leaf of an object may be an attribute."""
    if isinstance(tree, dict):
        return {
            f"@{name}" if value == "" and next(count) % 3 == 0 else name: numbered(value, count)
            for name, value in tree.items()
        }
    return [numbered(item, count) for item in tree] if isinstance(tree, list) else f"v{next(count)}."


def values(tree: Tree, view: View) -> list[str]:
    """The values that are not withheld."""
    if isinstance(tree, dict):
        shown = (value for name, value in tree.items() if view.shows(name.removeprefix("@")))
        return [leaf for value in shown for leaf in values(value, view)]
    if isinstance(tree, list):
        return [leaf for item in tree for leaf in values(item, view)]
    return [str(tree)]


@settings(deadline=None, max_examples=300)
@given(TREES, st.sampled_from(NAMES), views(*NAMES))
def test_no_withheld_value_is_left_in_any_dialect(shape: Tree, root: str, view: View) -> None:
    tree = numbered({root: shape}, iter(range(10**6)))
    assert isinstance(tree, dict)
    name, below = next(iter(tree.items()))
    document = Rendered(name.removeprefix("@"), below)
    expected = sorted(values(tree, view))
    for body, representation in (
        (to_json(document, NATIVE), JSON),
        (to_json(document, MAPPED), JSON),
        (to_xml(document), XML),
    ):
        # `$` is no name in XML.
        if representation is JSON or b"$" not in body:
            left = viewed(body, representation, view)
            assert sorted(re.findall(r"v\d+\.", left.decode())) == expected


# -- the vendor's names --------------------------------------------------------------------------------


def emulated() -> Iterator[bytes]:
    """Every document the emulated service has, of a chat in which everything happened."""
    at = iter(range(10**9))
    for style in (NATIVE, MAPPED):
        dialect = Dialect({"info": style, "chat": style, "events": style}, event_body=True, line_status=True)
        service = Emulator(EmulatorConfig(dialect=dialect), lambda: 1.7e9 + next(at) / 100)
        chat = service.start_chat("123", participantId="p", preChatLines={"line": ["hello"]})
        service.accept(chat)
        service.agent_line(chat, "hi")
        service.transfer(chat)
        line = b'{"event":{"@type":"line","text":"hi"}}'
        yield ask(service, f"/chat/{chat}/events", line)
        yield ask(service, "/conversation.json", b"{}")
        for path in ("", "/events", "/events/1", "/events/5", "/info", "/exitSurvey"):
            yield ask(service, f"/chat/{chat}{path}")
        for name in ("visitorName", "visitorTyping", "agentTyping"):
            yield ask(service, f"/chat/{chat}/info/{name}")
        for path in ("", "/chat/availability", "/chat/availableSlots", "/chat/estimatedWaitTime"):
            yield ask(service, path)
        yield ask(service, "/chat/availability", query="&skill=a&skill=b")
        yield ask(service, "/chat/preSurvey")
        yield ask(service, "/chat/offlineSurvey")


def ask(service: Emulator, path: str, body: bytes = b"", query: str = "") -> bytes:
    method = "POST" if body else "GET"
    key = service.config.app_key
    suffix = "" if path.endswith(".json") else ".json"
    target = f"/api/account/123{path}{suffix}?v=1&appKey={key}{query}"
    answer = service.handle(EmulatorRequest(method, target.encode(), body=body))
    assert answer.status in (200, 201), (target, answer)
    assert answer.body, target
    return answer.body


def names(node: object) -> set[str]:
    if isinstance(node, dict):
        return set(node).union(*map(names, node.values()))
    return set().union(*map(names, node)) if isinstance(node, list) else set()


def test_every_field_of_the_emulated_service_is_known() -> None:
    seen: set[str] = set()
    for body in emulated():
        seen |= names(json.loads(body))
        assert viewed(body, JSON, View(show=KNOWN_FIELDS)) == body
    assert len(seen) > 60
    assert {name.removeprefix("@") for name in seen} <= KNOWN_FIELDS


def test_every_field_of_the_vendors_sample_is_known() -> None:
    assert names(json.loads(INFO)) <= KNOWN_FIELDS
    assert STRUCTURE - {"$"} <= KNOWN_FIELDS


# -- a megabyte ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("inner", "representation"),
    [
        (b'{"b":' + b" " * 10**6 + b"1}", JSON),
        (b'{"b":1' + b"\n" * 10**6 + b"}", JSON),
        (b'{"b":["' + b'","' * 300_000 + b'"' + b" " * 10**5 + b"]}", JSON),
        (b'{"b":"' + b"\\\\" * 500_000 + b'\\""}', JSON),
        (b'{"b":' + b"9" * 10**6 + b"}", JSON),
        (b"<b>" + b"&lt;" * 250_000 + b"</b>", XML),
        (b"<b" + b" " * 10**6 + b"/>", XML),
        (b"<b c='" + b"= " * 500_000 + b"'/>", XML),
        (b"<b><!--" + b" -" * 500_000 + b" --><![CDATA[" + b"]" * 10**6 + b"]]></b>", XML),
        (b"<b" + b"".join(b" c%d=''" % number for number in range(100_000)) + b"/>", XML),
    ],
)
def test_a_long_way_is_gone_once(inner: bytes, representation: Representation) -> None:
    # Where each byte was met again for each before it, this would take hours.
    around = {JSON: (b'{"c":[', b',{"a":1}]}', b",{}]}"), XML: (b"<r>", b"<a/></r>", b"</r>")}
    head, tail, left = around[representation]
    Document.parse(head + inner + tail, representation)
    assert viewed(head + inner + tail, representation, hide("a")) == head + inner + left


def test_each_name_is_judged_once() -> None:
    judged: list[str] = []

    def shows(name: str) -> bool:
        judged.append(name)
        return name != "a"

    members = b",".join(b'{"a":{"x":%d,"a":0},"b":[%d]}' % (number, number) for number in range(20_000))
    assert len(list(json_cuts(b"[%b]" % members, shows))) == 20_000
    assert judged == ["a", "b"]
    judged.clear()
    elements = b"".join(b"<b a='1' c='2'><a><x/><a/></a></b>" for _ in range(20_000))
    assert len(list(xml_cuts(b"<r>%b</r>" % elements, shows))) == 40_000
    assert judged == ["r", "b", "a", "c"]


# -- slots ---------------------------------------------------------------------------------------------


def target(method: str = "GET", representation: Representation = JSON) -> Target:
    rule = CacheRule({}, 5.0, frozenset({"lastUpdate", "duration"}))
    path = ("chat", "{chat}", "info")
    resource = Resource("info", path, {method: "chat:read"}, {}, (JSON, XML), coalesce=True, cache=rule)
    return Target(method, "123", Chat("123", "H1-2"), resource, representation, "/", "", dropped=False)


def answered(body: bytes, representation: Representation = JSON, status: int = 200) -> Answer:
    return Answer(status, ((b"content-type", representation.media_type),), body)


def test_a_slot_shows_its_view_and_each_view_has_its_own() -> None:
    entry = keep_nothing(answered(b'{"info":{"state":"ended","agentName":"N"}}'), (0, 0), 0.0)
    full, of_state = render(entry, FULL, target()), render(entry, show("state"), target())
    assert of_state.body == b'{"info":{"state":"ended"}}'
    assert b"content-length: 26\r\n" in of_state.head
    assert full.body == entry.answer.body
    assert full.etag != of_state.etag
    assert render(entry, show("state"), target()) is of_state
    assert render(entry, FULL, target()) is full


@pytest.mark.parametrize(
    ("answer", "of", "left"),
    [
        # A write is answered in whatever type the vendor likes.
        (answered(b"<event><by>N</by></event>", XML, 201), target("POST"), b"<event></event>"),
        (answered(b'{"event":{"by":"N"}}', JSON, 201), target("POST", XML), b'{"event":{}}'),
        (answered(b"<info><by>N</by></info>", XML), target(representation=XML), b"<info></info>"),
        # An error's words are the gateway's own, or cleaned.
        (answered(b'{"error":{"message":"N"}}', JSON, 404), target(), b'{"error":{"message":"N"}}'),
        (Answer(200, (), b""), target("PUT"), b""),
        (Answer(201, ((b"location", b"/x"),), b""), target("POST"), b""),
    ],
)
def test_what_is_filtered_is_the_answers_own_type(answer: Answer, of: Target, left: bytes) -> None:
    slot = render(keep_nothing(answer, (0, 0), 0.0), hide("agentName", "error"), of)
    assert slot.body == left
    assert b"content-length: %d\r\n" % len(left) in slot.head


FIELDS = ("state", "agentName", "by", "lastUpdate", "duration", "visitorName", "startTime")
INFOS = st.dictionaries(st.sampled_from(FIELDS), st.sampled_from("12"))


@settings(deadline=None)
@given(INFOS, INFOS, views(*FIELDS), st.sampled_from(Representation))
def test_a_tag_moves_with_what_is_shown_and_counts(
    one: dict[str, str], other: dict[str, str], view: View, representation: Representation
) -> None:
    def tag(fields: dict[str, str]) -> bytes | None:
        document = Rendered("info", fields)
        body = to_json(document, NATIVE) if representation is JSON else to_xml(document)
        answer = answered(body, representation)
        return render(keep_nothing(answer, (0, 0), 0.0), view, target(representation=representation)).etag

    def counted(fields: dict[str, str]) -> list[tuple[str, str]]:
        volatile = ("lastUpdate", "duration")
        return [(name, value) for name, value in fields.items() if view.shows(name) and name not in volatile]

    assert tag(one) is not None
    assert (tag(one) == tag(other)) == (counted(one) == counted(other))
