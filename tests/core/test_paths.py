"""From the raw request line to a target: what is let through, and that it is the same for every spelling."""

from __future__ import annotations

from dataclasses import replace
from urllib.parse import quote_from_bytes

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.errors import Reason, Refusal
from gateway.core.headers import dress
from gateway.core.messages import Chat, Representation
from gateway.core.paths import DROPPED, Line, Target, allowed, locate, negotiate, preferred
from gateway.core.policy import Policies, Resource
from tests.simulation import shipped

JSON, XML = Representation.JSON, Representation.XML
POLICIES = shipped()
RESOURCES = POLICIES.resources
BY_NAME = {resource.name: resource for resource in RESOURCES}
ACCOUNTS = frozenset({"123", "le456"})
CHAT = "H6249979066121302517-1027c4d1c386bbc4cd613e30d8f16adfK5279348"
BASE = f"/api/account/123/chat/{CHAT}"
INFO = f"{BASE}/info"


def where(
    path: str | bytes,
    query: str | bytes = b"",
    method: str = "GET",
    accept: str | None = None,
    override: str | None = None,
) -> Target | Refusal:
    line = Line(
        method,
        path.encode() if isinstance(path, str) else path,
        query.encode() if isinstance(query, str) else query,
        None if accept is None else accept.encode(),
        None if override is None else override.encode(),
    )
    return locate(line, POLICIES, ACCOUNTS, JSON)


def target(*line: str | bytes, **rest: str | None) -> Target:
    found = where(*line, **rest)  # type: ignore[arg-type]  # the names are those of `where`
    assert isinstance(found, Target), found
    return found


def reason(*line: str | bytes, **rest: str | None) -> Reason:
    found = where(*line, **rest)  # type: ignore[arg-type]  # the names are those of `where`
    assert isinstance(found, Refusal), found
    return found.reason


def path_of(resource: Resource) -> str:
    ids = {"{chat}": CHAT, "{event}": "7"}
    return "/api/account/123" + "".join(f"/{ids.get(segment, segment)}" for segment in resource.path)


# -- paths ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["", ".json"])
@pytest.mark.parametrize("resource", RESOURCES, ids=lambda resource: resource.name)
def test_every_resource_is_found_under_both_its_spellings(resource: Resource, suffix: str) -> None:
    method = next(iter(resource.methods))
    found = target(path_of(resource) + suffix, method=method)
    assert found.resource is resource
    assert (found.account, found.method) == ("123", method)
    assert found.chat == (Chat("123", CHAT) if resource.of_chat else None)
    assert found.path == path_of(resource), "canonical: as the resource has it"
    assert found.representation is JSON


@pytest.mark.parametrize(
    "path",
    [
        b"",
        b"api/account/123",
        b"*",
        f"{BASE}/%69nfo",
        f"{BASE}%2finfo",
        f"{BASE}/../info",
        f"{BASE}/..",
        f"{BASE}/./info",
        f"{BASE}/%2e%2e/info",
        f"{BASE}/..%5Cinfo",
        f"{BASE}\\info",
        f"{BASE}//info",
        f"/{INFO}",
        f"{INFO}/",
        f"{INFO};v=1",
        f"{INFO}\0",
        f"{INFO}\n",
        f"{INFO}%00",
        f"{INFO} ",
        f"{INFO}#x",
        f"{INFO}\u00e9",
        INFO.encode() + b"\xff",
        "/api/account/../account/123",
        "/api/account/12%33",
        "/api/account//chat/availability",
        "http://api.example/api/account/123",
        f"/api/account/{'9' * 65}",
        "/api/account/123.json.json",
        "/api/account/.json",
        "/api/account/12-3",
        "/api/account/123/chat/H1",
        "/api/account/123/chat/H1.2-3/info",
        "/api/account/123/chat/1-/info",
        "/api/account/123/chat/HHHHH1-2/info",
        f"/api/account/123/chat/H1-{'a' * 97}/info",
        "/api/account/123/chat/H1-2_3/info",
        f"{BASE}/events/x",
        f"{BASE}/events/-1",
        f"{BASE}/events/{'1' * 19}",
    ],
)
def test_a_malformed_path_is_refused(path: str | bytes) -> None:
    assert reason(path) is Reason.MALFORMED_TARGET


@pytest.mark.parametrize(
    "path",
    [
        "/healthz",
        "/api",
        "/api/account",
        "/API/account/123",
        "/hcp/html/postmessage.min.html",
        "/api/account/123/js2rest",
        "/api/account/123/js2rest/chat/availability",
        "/api/account/124",
        f"/api/account/124/chat/{CHAT}/info",
        # It would have no chat in it, but for its account it is right.
        "/api/account/124/chat/availability",
        "/api/account/124/chat/availability.json",
        "/api/account/123/chat",
        f"{BASE}/Info",
        f"{BASE}/info/visitorname",
        f"{INFO}.xml",
        f"{INFO}.JSON",
        f"{INFO}.json.json",
        f"{INFO}.json/visitorName",
        f"/api/account/123/chat.json/{CHAT}/info",
        "/api/account/123.json/chat",
        "/api/account/123/.json",
        f"{BASE}/info/visitorName/more",
        "/api/account/123/conversation",
    ],
)
def test_what_is_not_listed_does_not_exist(path: str) -> None:
    assert reason(path) is Reason.UNKNOWN_RESOURCE


def test_the_suffix_of_a_name_is_no_choice_of_representation() -> None:
    found = target("/api/account/123/conversation.json", method="POST")
    assert found.path == "/api/account/123/conversation.json"


@pytest.mark.parametrize("account", ["123.json", "le456"])
def test_an_accounts_base_document_is_found(account: str) -> None:
    assert target(f"/api/account/{account}").resource.name == "account"


@pytest.mark.parametrize("chat", [CHAT, "H1-2K3", "1-2", f"H6249979066121302517-{'9' * 19}K12", "LPH7-a-b"])
def test_all_forms_of_ids_that_were_ever_seen_are_ids(chat: str) -> None:
    assert target(f"/api/account/123/chat/{chat}.json").chat == Chat("123", chat)


def row(name: str, path: str) -> Resource:
    segments = tuple(path.split("/")) if path else ()
    return replace(BY_NAME["info"], name=name, path=segments)


@pytest.mark.parametrize(
    ("paths", "path", "expected"),
    [
        # Names may look like ids, and ids like names: the first row that fits counts.
        (("chat/1-2/x", "chat/{chat}/x"), "chat/1-2/x", "chat/1-2/x"),
        (("chat/1-2/x", "chat/{chat}/x"), "chat/1-3/x", "chat/{chat}/x"),
        (("chat/{chat}/x", "chat/1-2/x"), "chat/1-2/x", "chat/{chat}/x"),
        # As it stands before without its suffix, wherever the rows stand.
        (("a", "a.json"), "a.json", "a.json"),
        (("a.b",), "a-b", Reason.UNKNOWN_RESOURCE),
        # An id that one row would refuse is no mistake where another takes it for a name.
        (("chat/{chat}", "chat/now"), "chat/now", "chat/now"),
        (("chat/{chat}", "chat/now"), "chat/then", Reason.MALFORMED_TARGET),
        (("chat/{chat}/x",), "chat/then/y", Reason.UNKNOWN_RESOURCE),
        # No row has as many segments.
        (("a",), "", Reason.UNKNOWN_RESOURCE),
        (("",), "a", Reason.UNKNOWN_RESOURCE),
        ((), "a", Reason.UNKNOWN_RESOURCE),
    ],
)
def test_which_row_it_is(paths: tuple[str, ...], path: str, expected: str | Reason) -> None:
    policies = Policies(1, tuple(row(one, one) for one in paths), ())
    line = Line("GET", f"/api/account/123/{path}".removesuffix("/").encode(), b"", None, None)
    found = locate(line, policies, ACCOUNTS, JSON)
    assert (found.reason if isinstance(found, Refusal) else found.resource.name) == expected


# -- methods -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "override", "rest", "expected"),
    [
        ("GET", None, "/info", "GET"),
        ("HEAD", None, "/info", "GET"),
        ("PUT", None, "/info/visitorName", "PUT"),
        ("POST", "PUT", "/info/visitorName", "PUT"),
        ("POST", None, "/events", "POST"),
        ("POST", "put", "/info/visitorName", Reason.UNSUPPORTED_OVERRIDE),
        ("POST", "", "/info/visitorName", Reason.UNSUPPORTED_OVERRIDE),
        ("POST", "DELETE", "/events", Reason.UNSUPPORTED_OVERRIDE),
        ("POST", "GET", "/events", Reason.UNSUPPORTED_OVERRIDE),
        ("POST", "PUT, PUT", "/info/visitorName", Reason.UNSUPPORTED_OVERRIDE),
        ("GET", "PUT", "/info/visitorName", Reason.UNSUPPORTED_OVERRIDE),
        ("PUT", "PUT", "/info/visitorName", Reason.UNSUPPORTED_OVERRIDE),
        ("HEAD", "GET", "/info", Reason.UNSUPPORTED_OVERRIDE),
        ("POST", None, "/info/visitorName", Reason.METHOD_NOT_ALLOWED),
        ("POST", "PUT", "/events", Reason.METHOD_NOT_ALLOWED),
        ("POST", None, "/info", Reason.METHOD_NOT_ALLOWED),
        ("get", None, "/info", Reason.METHOD_NOT_ALLOWED),
        ("DELETE", None, "/info", Reason.METHOD_NOT_ALLOWED),
        ("PATCH", None, "/info", Reason.METHOD_NOT_ALLOWED),
        ("OPTIONS", None, "/info", Reason.METHOD_NOT_ALLOWED),
        ("CONNECT", None, "/info", Reason.METHOD_NOT_ALLOWED),
        ("TRACE", None, "/info", Reason.METHOD_NOT_ALLOWED),
        ("", None, "/info", Reason.METHOD_NOT_ALLOWED),
    ],
)
def test_the_effective_method(method: str, override: str | None, rest: str, expected: str | Reason) -> None:
    found = where(BASE + rest, method=method, override=override)
    assert (found.reason if isinstance(found, Refusal) else found.method) == expected


@pytest.mark.parametrize(
    ("name", "methods"),
    [
        ("info", ("GET", "HEAD")),
        ("events", ("GET", "HEAD", "POST")),
        ("visitorName", ("GET", "HEAD", "POST", "PUT")),
        ("transcriptRequest", ("POST", "PUT")),
        ("request", ("POST",)),
    ],
)
def test_a_refused_method_names_those_that_are_allowed(name: str, methods: tuple[str, ...]) -> None:
    found = where(path_of(BY_NAME[name]), method="DELETE")
    assert isinstance(found, Refusal)
    assert found.allow == methods == allowed(BY_NAME[name])


@pytest.mark.parametrize(
    ("name", "method", "action"),
    [
        ("info", "HEAD", "chat:read"),
        ("events", "POST", "chat:write"),
        ("visitorName", "PUT", "chat:write"),
        ("request", "POST", "chat:start"),
        ("availability", "GET", "account:read"),
        ("offlineSurvey", "PUT", "account:write"),
    ],
)
def test_the_action_goes_by_the_effective_method(name: str, method: str, action: str) -> None:
    found = target(path_of(BY_NAME[name]), method=method)
    assert found.action == action
    assert found.is_read is (action.endswith("read"))


# -- representations -----------------------------------------------------------------------------------

ACCEPTS = [
    ("application/json", JSON),
    ("application/xml", XML),
    ("text/xml", XML),
    ("*/*", JSON),
    ("application/*", JSON),
    ("text/*", XML),
    ("APPLICATION/XML", XML),
    ("application/xml;q=0.9, application/json;q=0.8", XML),
    ("application/xml; q=0.8 , application/json ; q=0.9", JSON),
    ("application/xml, application/json", JSON),
    ("application/xml;q=1, */*;q=0.1", XML),
    ("application/json;q=0, */*", XML),
    ("application/json;q=0, application/*;q=0.5", XML),
    ("application/xml;q=0, text/xml", XML),
    ("text/html, application/xhtml+xml, application/xml;q=0.9, */*;q=0.8", XML),
    ("application/json;charset=utf-8", JSON),
    ("application/xml;charset=utf-8;q=0.5, application/json;q=0.4", XML),
    ("application/xml;q=0.001", XML),
    ("application/xml;Q=0.3, application/json;q=0.2", XML),
    ("application/json;q=2, application/xml;q=0.1", XML),
    ("application/json;q=high, application/xml;q=0.1", XML),
    ("application/json;q=1.0000, application/xml;q=0.1", XML),
    (",, application/xml ,", XML),
    ("application/json;q=0", None),
    ("*/*;q=0", None),
    ("text/html", None),
    ("image/*", None),
    ("application/jsonp", None),
    ("application/problem+json", None),
    ("json", None),
    ("*", None),
]


@pytest.mark.parametrize(("accept", "expected"), ACCEPTS)
def test_accept_is_weighed_by_quality(accept: str, expected: Representation | None) -> None:
    assert negotiate(accept.encode()) is expected
    found = where(INFO, accept=accept)
    assert (found.reason if isinstance(found, Refusal) else found.representation) is (
        expected or Reason.NOT_ACCEPTABLE
    )


def test_the_suffix_wins_over_accept() -> None:
    assert target(f"{INFO}.json", accept="application/xml").representation is JSON
    assert target(f"{INFO}.json", accept="image/png").representation is JSON


STREAM = "text/event-stream"


@pytest.mark.parametrize(
    ("accept", "streamed"),
    [
        (STREAM, True),
        ("Text/Event-Stream", True),
        (f"{STREAM};q=0.2", True),
        (f"{STREAM}, */*;q=0.1", True),
        (f"application/json;q=0.5, {STREAM}", True),
        (f"{STREAM}, application/xml;q=0.999", True),
        # A document is for everybody, a stream for those who say that they would rather have one.
        (f"{STREAM}, application/json", False),
        (f"{STREAM}, text/xml", False),
        (f"{STREAM}, */*", False),
        (f"{STREAM}, text/*", False),
        (f"{STREAM};q=0.5, application/json;q=0.6", False),
        (f"{STREAM};q=0, application/json", False),
        ("text/event-streams, */*", False),
        ("text/*", False),
        ("*/*", False),
    ],
)
@pytest.mark.parametrize("name", ["info", "events"])
def test_a_stream_is_wanted_by_name_and_above_all_else(name: str, accept: str, *, streamed: bool) -> None:
    found = target(f"{BASE}/{name}", accept=accept)
    assert found.streamed == streamed
    document = target(f"{BASE}/{name}")
    assert not streamed or found.key == document.key, "what is told is shared with those who ask"


@pytest.mark.parametrize(
    ("path", "method", "accept"),
    [
        (BASE, "GET", f"{STREAM}, application/json;q=0.5"),
        (f"{INFO}.json", "GET", STREAM),
        (f"{BASE}/events", "POST", f"{STREAM}, application/json;q=0.5"),
    ],
)
def test_where_nothing_is_streamed_it_is_the_document(path: str, method: str, accept: str) -> None:
    found = target(path, method=method, accept=accept)
    assert (found.streamed, found.representation) == (False, JSON)


@pytest.mark.parametrize(("path", "method"), [(BASE, "GET"), (f"{BASE}/events", "POST")])
def test_who_wants_nothing_but_a_stream_is_refused_one_elsewhere(path: str, method: str) -> None:
    assert reason(path, method=method, accept=STREAM) is Reason.NOT_ACCEPTABLE


@pytest.mark.parametrize("default", Representation)
def test_without_accept_it_is_a_setting(default: Representation) -> None:
    found = locate(Line("GET", INFO.encode(), b"", None, None), POLICIES, ACCOUNTS, default)
    assert isinstance(found, Target)
    assert found.representation is default is preferred(INFO.encode(), None, default)


@pytest.mark.parametrize("accept", ["application/json", "*/*"])
def test_a_resource_may_have_one_representation_only(accept: str) -> None:
    assert target("/api/account/123/conversation.json", method="POST", accept=accept).representation is JSON


# -- queries -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rest", "query", "canonical"),
    [
        ("", "", "v=1&NC=true"),
        ("", "v=1", "v=1&NC=true"),
        ("", "NC=false", "v=1&NC=false"),
        ("", "from=7&NC=true&v=1", "v=1&NC=true&from=7"),
        ("", "%66rom=%37", "v=1&NC=true&from=7"),
        ("", "&&from=7&", "v=1&NC=true&from=7"),
        ("/exitSurvey", "surveyName=a+b%20c%26d", "v=1&NC=true&surveyName=a%20b%20c%26d"),
        ("/exitSurvey", "surveyName=a+b", "v=1&NC=true&surveyName=a%20b"),
        ("/exitSurvey", "surveyName=caf%C3%A9", "v=1&NC=true&surveyName=caf%C3%A9"),
        ("/exitSurvey", "surveyName=caf\u00e9", "v=1&NC=true&surveyName=caf%C3%A9"),
        ("/exitSurvey", "surveyName=a=b%3Dc", "v=1&NC=true&surveyName=a%3Db%3Dc"),
        ("/exitSurvey", "surveyName=%zz", "v=1&NC=true&surveyName=%25zz"),
        ("/exitSurvey", "surveyApiId=x.1&surveyName=b", "v=1&NC=true&surveyName=b&surveyApiId=x.1"),
    ],
)
def test_a_query_has_one_canonical_form(rest: str, query: str, canonical: str) -> None:
    found = target(BASE + rest, query)
    assert (found.query, found.dropped) == (canonical, False)


@pytest.mark.parametrize("name", sorted(DROPPED))
@pytest.mark.parametrize("value", ["=x", "", "=", "=%FF", "=1&{name}=2"])
def test_what_is_no_part_of_the_resource_is_dropped(name: str, value: str) -> None:
    found = target(INFO, f"{name}{value}&v=1".format(name=name))
    assert (found.query, found.dropped) == ("v=1&NC=true", True)


@pytest.mark.parametrize(
    "query",
    [
        "v=2",
        "v=",
        "v",
        "v=1&v=1",
        "v=1&%76=1",
        "v=1;NC=true",
        "V=1",
        "nc=true",
        "NC=TRUE",
        "NC=1",
        "from=",
        "from=-1",
        "from=1e3",
        "from=1%00",
        "from=1%0A",
        "from=\u0661",
        "from=1&from=2",
        f"from={'1' * 19}",
        "unknown=1",
        "appkey=x",
        "=",
        "=1",
        "%",
        "%00=1",
        "\u00ff=1",
        "from[]=1",
    ],
)
def test_a_bad_query_is_refused(query: str) -> None:
    assert reason(BASE, query) is Reason.MALFORMED_QUERY


@pytest.mark.parametrize(
    "value", ["", "%00", "%0A", "%0d", "%7F", "%C2%85", "%E2%80%A8", "%FF", "%ED%A0%80", "%C0%AE", "a" * 257]
)
def test_a_text_has_no_control_characters_and_is_utf_8(value: str) -> None:
    assert reason(f"{BASE}/exitSurvey", f"surveyName={value}") is Reason.MALFORMED_QUERY


# -- properties ----------------------------------------------------------------------------------------


def spelled(draw: st.DrawFn, text: bytes) -> bytes:
    """The same text, with any of its bytes percent-encoded."""
    return b"".join(
        b"%%%02x" % byte if draw(st.booleans()) else quote_from_bytes(bytes((byte,))).encode()
        for byte in text
    )


@st.composite
def spellings(draw: st.DrawFn, name: str, value: str) -> Line:
    """One of the many ways to ask for the JSON of an exit survey of that name."""
    given_query = [(b"surveyName", value.encode()), (b"v", b"1"), (b"NC", b"true")]
    kept = [pair for pair in given_query if pair[0] == b"surveyName" or draw(st.booleans())]
    junk = [(name.encode(), b"1") for name in draw(st.lists(st.sampled_from(sorted(DROPPED))))]
    pairs = [
        spelled(draw, key) + b"=" + spelled(draw, text) for key, text in draw(st.permutations(kept + junk))
    ]
    suffix = draw(st.sampled_from(["", ".json"]))
    accept = draw(st.sampled_from([b"application/json", b"*/*", b"application/xml;q=0.1, application/json"]))
    return Line(
        draw(st.sampled_from(["GET", "HEAD"])),
        f"{BASE}/{name}{suffix}".encode(),
        draw(st.sampled_from([b"", b"&"])) + b"&".join(pairs),
        accept,
        None,
    )


TEXTS = st.text(st.characters(codec="utf-8", exclude_categories=("C", "Zl", "Zp")), min_size=1, max_size=20)


@given(data=st.data(), value=TEXTS)
def test_every_spelling_of_a_target_is_sent_in_the_same_bytes(data: st.DataObject, value: str) -> None:
    lines = [data.draw(spellings("exitSurvey", value)) for _ in range(2)]
    one, other = (locate(line, POLICIES, ACCOUNTS, JSON) for line in lines)
    assert isinstance(one, Target)
    assert isinstance(other, Target)
    assert one.key == other.key
    assert dress(one) == dress(other)


SEGMENTS = st.sampled_from(
    [
        "api",
        "account",
        "123",
        "chat",
        CHAT,
        "info",
        "events",
        "7",
        "visitorName",
        "conversation",
        "",
        "..",
        "x",
    ]
)
PATHS = (
    st.lists(SEGMENTS, max_size=8)
    .map(lambda segments: "/" + "/".join(segments))
    .flatmap(lambda path: st.sampled_from([path, f"{path}.json", f"{path}/", path.upper()]).map(str.encode))
)
QUERIES = st.lists(
    st.tuples(st.sampled_from(["v", "NC", "from", "appKey", "skill", "%", ""]), st.binary(max_size=6)),
    max_size=4,
).map(lambda pairs: b"&".join(name.encode() + b"=" + value for name, value in pairs))


@given(
    method=st.sampled_from(["GET", "HEAD", "POST", "PUT", "DELETE"]) | st.text(max_size=5),
    path=PATHS | st.binary() | PATHS.flatmap(lambda path: st.binary(max_size=5).map(path.__add__)),
    query=QUERIES | st.binary(),
    accept=st.none() | st.sampled_from([one.encode() for one, _ in ACCEPTS]) | st.binary(),
    override=st.none() | st.sampled_from([b"PUT", b"put"]) | st.binary(max_size=5),
)
def test_no_bytes_raise_and_what_is_sent_was_built_here(
    method: str, path: bytes, query: bytes, accept: bytes | None, override: bytes | None
) -> None:
    found = locate(Line(method, path, query, accept, override), POLICIES, ACCOUNTS, JSON)
    if isinstance(found, Refusal):
        assert 400 <= found.reason.status < 500
        return
    sent = dress(found)
    sent_path, _, sent_query = sent.target.partition(b"?")
    again = locate(Line(found.method, sent_path, sent_query, accept, None), POLICIES, ACCOUNTS, JSON)
    assert isinstance(again, Target)
    assert again.path == found.path
    assert again.query == found.query, "the canonical form is its own"
    assert set(sent.target) <= set(range(0x21, 0x7F))
    assert b"appKey" not in sent.target
