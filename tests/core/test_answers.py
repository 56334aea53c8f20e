"""What an upstream answer becomes: nothing crosses that is not listed, and nothing that is said raises."""

from __future__ import annotations

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.core.answers import MAX_VIEWS, Undressed, render, undress
from gateway.core.errors import Reason
from gateway.core.faults import Verdict
from gateway.core.freshness import Failed, keep_nothing
from gateway.core.links import LinkMap
from gateway.core.messages import Answer, Representation
from gateway.core.paths import Line, Target, locate
from gateway.core.views import FULL, View
from tests.simulation import as_json, shipped

UPSTREAM = "va-e.convep.liveperson.net"
PUBLIC = "https://chat.example"
LINKS = LinkMap(PUBLIC, {"123": frozenset({UPSTREAM})}, ("*.liveperson.net",))
CHAT = "/api/account/123/chat/H1-2K3"
JSON_TYPE = (b"content-type", b"application/json;charset=UTF-8")
XML_TYPE = (b"content-type", b"text/xml")


def target(rest: str = "/info", method: str = "GET", accept: bytes = b"application/json") -> Target:
    line = Line(method, f"{CHAT}{rest}".encode(), b"", accept, None)
    found = locate(line, shipped(), {"123"}, Representation.JSON)
    assert isinstance(found, Target)
    return found


READ = target()
WRITE = target("/events", "POST")
READ_XML = target(accept=b"application/xml")


def info(**fields: object) -> bytes:
    link = {"href": f"https://{UPSTREAM}{CHAT}/info", "rel": "self"}
    return as_json({"info": {"link": [link], "state": "chatting", "chatTimeout": 40} | fields})


def good(of: Target, answer: Answer) -> Undressed:
    heard = undress(of, answer, LINKS)
    assert isinstance(heard, Undressed), heard
    return heard


# -- good answers --------------------------------------------------------------------------------------


def test_of_a_good_answer_the_type_and_the_body_cross_with_their_links_rewritten() -> None:
    head = (
        JSON_TYPE,
        (b"set-cookie", b"a=b"),
        (b"etag", b'"x"'),
        (b"cache-control", b"no-store"),
        (b"x-powered-by", b"y"),
        (b"server", b"z"),
        (b"access-control-allow-origin", b"*"),
    )
    heard = good(READ, Answer(200, head, info()))
    assert heard.answer.headers == ((b"content-type", b"application/json"),)
    assert heard.answer.body == info().replace(f"https://{UPSTREAM}".encode(), PUBLIC.encode())
    assert (heard.verdict, heard.facts.state, heard.facts.chat_timeout_s) == (Verdict.GOOD, "chatting", 40.0)


def test_a_link_to_another_account_is_left_and_counted() -> None:
    foreign = f"https://{UPSTREAM}/api/account/999/chat/H1-2"
    heard = good(READ, Answer(200, (JSON_TYPE,), info(link={"href": foreign, "rel": "x"})))
    assert foreign.encode() in heard.answer.body
    assert heard.foreign_links == 1


@pytest.mark.parametrize(
    ("location", "told"),
    [
        (f"https://{UPSTREAM}{CHAT}/events/7", f"{PUBLIC}{CHAT}/events/7"),
        (f"https:/{UPSTREAM}{CHAT}", f"{PUBLIC}{CHAT}"),
    ],
)
def test_location_is_rewritten_like_a_link(location: str, told: str) -> None:
    heard = good(WRITE, Answer(201, ((b"location", location.encode()),), b""))
    assert heard.answer == Answer(201, ((b"location", told.encode()),), b"")


@pytest.mark.parametrize(
    "location",
    [
        "https://elsewhere.example/x",
        f"https://elsewhere.example{CHAT}",
        "javascript:alert(1)",
        f"https://{UPSTREAM}{CHAT}/events/\x01",
        f"https://{UPSTREAM}{CHAT}/events/\x7f",
        f"https://{UPSTREAM}{CHAT}/events/\u00fc",
        f"https://{UPSTREAM}/hcp/x?appKey=secret",
        "",
    ],
)
def test_a_location_that_is_not_ours_stays_here(location: str) -> None:
    heard = good(WRITE, Answer(201, ((b"location", location.encode("latin-1")),), b""))
    head = dict(heard.answer.headers)
    assert head.keys() <= {b"location"}
    assert head.get(b"location", PUBLIC.encode()).startswith(PUBLIC.encode())
    assert all(0x20 < byte < 0x7F for byte in head.get(b"location", b""))
    assert heard.foreign_links == (not head)


@pytest.mark.parametrize("content_type", [b"text/html", b"", None])
def test_a_writes_body_of_another_type_stays_here_and_the_status_stands(content_type: bytes | None) -> None:
    head = () if content_type is None else ((b"content-type", content_type),)
    assert good(WRITE, Answer(200, head, b"<html>")).answer == Answer(200, (), b"")


@pytest.mark.parametrize(
    ("of", "answer"),
    [
        (READ, Answer(200, (XML_TYPE,), b"<info/>")),
        (READ, Answer(200, (), info())),
        (READ, Answer(200, ((b"content-type", b"text/plain"),), info())),
        (READ, Answer(200, (JSON_TYPE,), b"")),
        (READ, Answer(200, (JSON_TYPE,), info()[:-1])),
        (READ, Answer(200, (JSON_TYPE,), b"\xff")),
        (READ, Answer(200, (JSON_TYPE,), b'{"a": NaN}')),
        (READ, Answer(200, (JSON_TYPE,), b"[" * 100_000)),
        (READ, Answer(203, (JSON_TYPE,), b"oops")),
        (READ, Answer(204, (), b"")),
        (READ, Answer(206, (JSON_TYPE,), info())),
        (READ_XML, Answer(200, (JSON_TYPE,), info())),
        (READ_XML, Answer(200, (XML_TYPE,), b"<info>")),
        (READ_XML, Answer(200, (XML_TYPE,), b"<!DOCTYPE a><info/>")),
        (WRITE, Answer(200, (JSON_TYPE,), b"{")),
    ],
)
def test_what_cannot_be_used_is_broken(of: Target, answer: Answer) -> None:
    assert undress(of, answer, LINKS) == Failed(Reason.UPSTREAM_BROKEN, answer.status)


# -- answers for another chat ----------------------------------------------------------------------------

HERE = f"https://{UPSTREAM}{CHAT}"
OTHER_CHAT = "/api/account/123/chat/H9-9K9"


def said_at(*hrefs: str, **beside: object) -> bytes:
    return as_json({"info": {"link": [{"@href": href, "@rel": "self"} for href in hrefs], **beside}})


#: Where an answer says that it is, and whether that is another place than was asked for.
SELVES = {
    f"{HERE}/info": False,
    HERE: False,
    f"{HERE}.json?v=1": False,
    f"{HERE}/info.json#x": False,
    f"https:/{UPSTREAM}{CHAT}/info": False,
    f"{UPSTREAM}{CHAT}/info": False,
    f"//{UPSTREAM}{CHAT}": False,
    CHAT: False,
    f"http://user@elsewhere.example:81{CHAT}": False,
    f"{HERE};jsessionid=A1/info": False,
    "https://x/api/account/123/chat/H1%2D2K3": False,
    "https://x/api/account/123": False,
    "https://x/api/account/123/chat": False,
    "https://x/somewhere/else": False,
    "": False,
    f"https://{UPSTREAM}{OTHER_CHAT}/info": True,
    f"https:/{UPSTREAM}{OTHER_CHAT}": True,
    f"{UPSTREAM}{OTHER_CHAT}": True,
    f" https://{UPSTREAM}{OTHER_CHAT}\t": True,
    OTHER_CHAT: True,
    f"{OTHER_CHAT}.json": True,
    f"{CHAT}x/info": True,
    f"{CHAT[:-1]}/info": True,
    "https://x/api/account/123/chat/h1-2k3": True,
    "https://x/api/account/999": True,
    "https://x/api/account/999/chat/H1-2K3": True,
}


@pytest.mark.parametrize("href", SELVES)
def test_what_says_that_it_is_of_another_is_no_answer(href: str) -> None:
    mismatch = Failed(Reason.UPSTREAM_MISMATCH, 200)
    for body in (said_at(href), said_at(f"{HERE}/info", href)):
        assert (undress(READ, Answer(200, (JSON_TYPE,), body), LINKS) == mismatch) is SELVES[href]
    xml = f'<info><link rel="self" href="{href}"/></info>'.encode()
    assert (undress(READ_XML, Answer(200, (XML_TYPE,), xml), LINKS) == mismatch) is SELVES[href]


@pytest.mark.parametrize(
    ("document", "is_mismatch"),
    [
        ({"info": {"link": {"href": OTHER_CHAT, "rel": "self"}}}, True),
        ({"link": [{"href": OTHER_CHAT, "rel": "self"}], "state": "ended"}, True),
        ({"chat": {"link": [{"@href": OTHER_CHAT, "@rel": "self"}]}}, True),
        ({"chat": {"info": {"link": [{"@href": OTHER_CHAT, "@rel": "self"}]}}}, True),
        ({"chat": {"events": {"link": [{"@href": OTHER_CHAT, "@rel": "self"}]}}}, True),
        ({"info": {"link": [{"@href": "/api/account/123/chat/", "@rel": "self"}]}}, False),
        ({"events": {"link": [{"@href": OTHER_CHAT, "@rel": "self"}]}}, True),
        ({"events": {"event": [{"link": {"@href": OTHER_CHAT, "@rel": "self"}}]}}, False),
        ({"info": {"link": [{"@href": OTHER_CHAT, "@rel": "next"}]}}, False),
        ({"info": {"link": [{"@href": OTHER_CHAT}, {"@rel": "self"}, None, 7, "x", []]}}, False),
        ({"info": {"link": [{"@href": 7, "@rel": "self"}, {"@href": OTHER_CHAT, "@rel": 7}]}}, False),
        ({"info": {"link": OTHER_CHAT}}, False),
        ([{"link": {"@href": OTHER_CHAT, "@rel": "self"}}], False),
        ("self", False),
    ],
)
@pytest.mark.parametrize("of", [READ, WRITE])
def test_where_a_document_says_where_it_is(of: Target, document: object, is_mismatch: bool) -> None:
    heard = undress(of, Answer(200, (JSON_TYPE,), as_json(document)), LINKS)
    assert (heard == Failed(Reason.UPSTREAM_MISMATCH, 200)) is is_mismatch


@pytest.mark.parametrize("accept", [b"application/json", b"application/xml"])
def test_of_an_account_only_the_account_counts(accept: bytes) -> None:
    line = Line("GET", b"/api/account/123", b"", accept, None)
    of = locate(line, shipped(), {"123"}, Representation.JSON)
    assert isinstance(of, Target)
    for href, is_mismatch in (("/api/account/123/chat/request", False), ("/api/account/124", True)):
        body = as_json({"account": {"link": [{"@href": href, "@rel": "self"}]}})
        if of.representation is Representation.XML:
            body = f'<l:account xmlns:l="l"><l:link l:rel="self" href="{href}"/></l:account>'.encode()
        answer = Answer(200, ((b"content-type", accept),), body)
        assert isinstance(undress(of, answer, LINKS), Failed) is is_mismatch


@pytest.mark.parametrize(
    ("key", "is_other"), [("H1-2K3", False), (None, False), ("H1-2K4", True), ("", True), (12, True)]
)
@pytest.mark.parametrize("of", [READ, READ_XML])
def test_another_session_key_is_told_or_refused(of: Target, key: object, is_other: bool) -> None:
    is_json = of is READ
    for wrapped in (False, True):
        members = {} if key is None else {"chatSessionKey": key}
        body = as_json({"chat": {"info": members}} if wrapped else {"info": members})
        if not is_json:
            text = "" if key is None else f"<chatSessionKey>{key}</chatSessionKey>"
            body = (f"<chat><info>{text}</info></chat>" if wrapped else f"<info>{text}</info>").encode()
        answer = Answer(200, (JSON_TYPE if is_json else XML_TYPE,), body)
        assert good(of, answer).other_session_key is is_other
        strictly = undress(of, answer, LINKS, refuse_other_session_key=True)
        assert (strictly == Failed(Reason.UPSTREAM_MISMATCH, 200)) is is_other


def test_an_error_is_of_nobody() -> None:
    body = as_json({**ENVELOPE, "link": {"@href": OTHER_CHAT, "@rel": "self"}})
    assert good(READ, Answer(404, (JSON_TYPE,), body)).verdict is Verdict.CALLERS


# -- errors --------------------------------------------------------------------------------------------

MESSAGE = f"null for uri: https://{UPSTREAM}{CHAT}?v=1&appKey=secret"
ENVELOPE = {
    "error": {"time": "2017-02-27T06:41:10.319-05:00", "message": MESSAGE, "internalCode": 28, "x": "y"}
}


def test_of_an_error_three_members_cross_and_the_message_is_cleaned() -> None:
    head = (JSON_TYPE, (b"set-cookie", b"a=b"))
    heard = good(READ, Answer(404, head, as_json(ENVELOPE)))
    assert heard.answer.headers == ((b"content-type", b"application/json"),)
    said = json.loads(heard.answer.body)["error"]
    assert set(said) == {"time", "message", "internalCode"}
    assert (said["internalCode"], said["time"]) == (28, "2017-02-27T06:41:10.319-05:00")
    assert UPSTREAM not in said["message"]
    assert "secret" not in said["message"]


def test_an_error_is_told_in_the_representation_that_was_asked_for() -> None:
    body = b"<error><message>Chat session not found</message><internalCode>12</internalCode></error>"
    heard = good(READ, Answer(404, (XML_TYPE,), body))
    assert heard.verdict is Verdict.GONE
    assert json.loads(heard.answer.body) == {
        "error": {"message": "Chat session not found", "internalCode": 12}
    }
    heard = good(READ_XML, Answer(404, (JSON_TYPE,), as_json(ENVELOPE)))
    assert heard.answer.headers == ((b"content-type", b"application/xml"),)
    assert b"<internalCode>28</internalCode>" in heard.answer.body


@pytest.mark.parametrize("body", [b"", b"<html>secret</html>", b"{", b'{"other": "secret"}', b"\xff"])
def test_an_error_without_its_envelope_is_told_in_fixed_words(body: bytes) -> None:
    heard = good(READ, Answer(404, (JSON_TYPE,), body))
    assert (heard.verdict, heard.answer.status) == (Verdict.CALLERS, 404)
    assert json.loads(heard.answer.body) == {"error": {"message": "The chat service refused the request."}}


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        (302, Reason.UPSTREAM_REDIRECT),
        (401, Reason.KEY_REFUSED),
        (403, Reason.KEY_REFUSED),
        (429, Reason.UPSTREAM_THROTTLED),
        (500, Reason.UPSTREAM_ERROR),
        (599, Reason.UPSTREAM_ERROR),
    ],
)
def test_a_failure_has_its_reason_and_what_was_received(status: int, reason: Reason) -> None:
    assert undress(READ, Answer(status, (), b"secret"), LINKS) == Failed(reason, status)


@pytest.mark.parametrize(
    ("retry_after", "date", "seconds"),
    [
        ("7", None, 7.0),
        (" 7 ", None, 7.0),
        ("0", None, 0.0),
        ("9" * 400, None, 999_999_999.0),
        ("Sun, 06 Nov 1994 08:49:47 GMT", "Sun, 06 Nov 1994 08:49:37 GMT", 10.0),
        ("Sun, 06 Nov 1994 08:49:27 GMT", "Sun, 06 Nov 1994 08:49:37 GMT", 0.0),
        ("Sun, 06 Nov 1994 08:49:47 GMT", None, None),
        ("Sun, 06 Nov 1994 08:49:47", "Sun, 06 Nov 1994 08:49:37 GMT", None),
        ("-1", None, None),
        ("1.5", None, None),
        ("\u0667", None, None),
        ("soon", None, None),
        ("", None, None),
    ],
)
def test_how_long_the_upstream_asks_to_wait(
    retry_after: str, date: str | None, seconds: float | None
) -> None:
    head = [(b"retry-after", retry_after.encode("latin-1", "replace"))]
    head += [] if date is None else [(b"date", date.encode())]
    heard = undress(READ, Answer(429, tuple(head), b""), LINKS)
    assert heard == Failed(Reason.UPSTREAM_THROTTLED, 429, seconds)


DATES = st.builds(
    "Sun, {} Nov {} {}:49:37 {}".format,
    st.integers(0, 99),
    st.integers(0, 10**12),
    st.integers(0, 99),
    st.sampled_from(["GMT", "+0000", "-0000", "+9999", "-2400", "+99999999999999999999"])
    | st.text(max_size=4),
).map(lambda text: text.encode("latin-1", "replace"))


ANSWERS = st.builds(
    Answer,
    st.sampled_from([200, 201, 400, 401, 404, 429, 500, 503]) | st.integers(100, 999),
    st.tuples(
        st.tuples(
            st.just(b"content-type"),
            st.sampled_from([b"application/json", b"application/xml", b"text/html", b""]) | st.binary(),
        ),
        st.tuples(st.just(b"retry-after"), DATES | st.binary(max_size=12)),
        st.tuples(st.just(b"date"), DATES | st.just(b"Sun, 06 Nov 1994 08:49:37 GMT")),
        st.tuples(st.just(b"location"), st.binary(max_size=40) | st.just(b"https://[::1")),
    ),
    st.binary() | st.sampled_from([info(), as_json(ENVELOPE), b"<error><message/></error>", b"null", b"[]"]),
)
FAR_EAST = (b"retry-after", b"Sun, 06 Nov 1994 08:49:37 +99999999999999999999")


@given(of=st.sampled_from([READ, WRITE, READ_XML]), answer=ANSWERS)
@example(READ, Answer(429, (FAR_EAST,), b""))
@example(READ, Answer(404, (JSON_TYPE,), b'{"error": {"message": "a", "internalCode": "1e999"}}'))
def test_nothing_that_the_upstream_says_raises(of: Target, answer: Answer) -> None:
    heard = undress(of, answer, LINKS)
    if isinstance(heard, Undressed):
        assert heard.answer.status == answer.status
        assert {name for name, _ in heard.answer.headers} <= {b"content-type", b"location"}
        render(keep_nothing(heard.answer, (0, 0), 0.0), FULL, of)
    else:
        assert heard.reason.status in {502, 503}


# -- slots ---------------------------------------------------------------------------------------------


def test_a_slot_is_rendered_once_per_entry() -> None:
    entry = keep_nothing(good(READ, Answer(200, (JSON_TYPE,), info())).answer, (0, 0), 0.0)
    slot = render(entry, FULL, READ)
    assert render(entry, FULL, READ) is slot
    assert slot.etag
    kept = b"cache-control: private, no-cache\r\netag: %s\r\n" % slot.etag
    whole = b"content-type: application/json\r\ncontent-length: %d\r\n" % len(slot.body)
    assert (slot.head, slot.head_304) == (whole + kept, kept)


def etag(of: Target, answer: Answer) -> bytes | None:
    return render(keep_nothing(answer, (0, 0), 0.0), FULL, of).etag


def test_a_tag_is_weak_and_does_not_count_what_every_poll_moves() -> None:
    one, polled, other = (
        etag(READ, Answer(200, (JSON_TYPE,), info(**fields)))
        for fields in (
            {"lastUpdate": "2017-02-27T06:41:10.319-05:00", "duration": 1},
            {"lastUpdate": "2017-02-27T06:41:11.319-05:00", "duration": 2},
            {"lastUpdate": "2017-02-27T06:41:10.319-05:00", "duration": 1, "agentTyping": "typing"},
        )
    )
    assert one is not None
    assert one.startswith(b'W/"')
    assert one == polled != other


def test_what_is_not_cached_has_no_tag_and_is_not_to_be_stored() -> None:
    slot = render(
        keep_nothing(Answer(200, (JSON_TYPE,), b"{}"), (0, 0), 0.0), FULL, target("/info/visitorName")
    )
    assert slot.etag is None
    assert b"cache-control: no-store\r\n" in slot.head
    assert etag(READ, Answer(404, (JSON_TYPE,), b"{}")) is None


@pytest.mark.parametrize("body", [b'"Natalie"', b' ["Natalie"]', b"1", b"null"])
def test_a_document_without_names_shows_nothing_in_a_view(body: bytes) -> None:
    entry = keep_nothing(Answer(201, (JSON_TYPE,), body), (0, 0), 0.0)
    assert render(entry, View(hide=frozenset({"agentName"})), READ).body == b"{}"
    assert render(entry, FULL, READ).body == body


def test_no_body_stays_none() -> None:
    entry = keep_nothing(Answer(201, (), b""), (0, 0), 0.0)
    assert render(entry, View(show=frozenset({"state"})), READ).body == b""


def test_an_entry_keeps_no_more_than_a_few_views() -> None:
    entry = keep_nothing(Answer(200, (JSON_TYPE,), b'{"info":{"state":"ended"}}'), (0, 0), 0.0)
    views = [View(hide=frozenset({f"field{number}"})) for number in range(20)]
    for view in (FULL, *views, *views):
        render(entry, view, READ)
    assert list(entry.slots) == [FULL, *views[-MAX_VIEWS:]]
