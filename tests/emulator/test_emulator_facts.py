"""What is publicly known of the Server Chat API, fact by fact."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.emulator import (
    MAPPED,
    NATIVE,
    AgentScript,
    CountKey,
    Dialect,
    Emulator,
    EmulatorConfig,
    EmulatorRequest,
    EmulatorResponse,
    UnknownChatError,
    WrongStateError,
)

START = 1_700_000_000.25
KEY = EmulatorConfig().app_key


class Service:
    """An emulator on a hand clock, and a caller who knows its manners."""

    def __init__(self, **config: Any) -> None:
        self.time = START
        self.emulator = Emulator(EmulatorConfig(**config), lambda: self.time)

    def raw(self, target: str, method: str = "GET", body: bytes = b"", /, **headers: str) -> EmulatorResponse:
        fields = tuple((name.replace("_", "-").encode(), value.encode()) for name, value in headers.items())
        return self.emulator.handle(EmulatorRequest(method, target.encode(), fields, body))

    def ask(self, path: str, method: str = "GET", body: object = None, **headers: str) -> EmulatorResponse:
        """`path` is below the account; a method PUT is sent as an override."""
        path, _, query = path.partition("?")
        headers = {"authorization": f"LivePerson appKey={KEY}", "accept": "application/json"} | headers
        if method == "PUT":
            method, headers["x_http_method_override"] = "POST", "PUT"
        data = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        return self.raw(f"/api/account/123{path}?v=1&NC=true&{query}", method, data, **headers)

    def get(self, path: str) -> Any:
        answer = self.ask(path)
        assert answer.status == 200, answer.body
        return json.loads(answer.body)

    def chatting(self, **fields: Any) -> str:
        chat = self.emulator.start_chat("123", **fields)
        self.emulator.accept(chat)
        return chat

    def info(self, chat: str) -> Any:
        return self.get(f"/chat/{chat}/info")["info"]


def parse_xml(document: bytes) -> ET.Element:
    return ET.fromstring(document)  # noqa: S314  the emulator's own documents


def refusal(answer: EmulatorResponse) -> tuple[int, int, str]:
    error = json.loads(answer.body)["error"]
    assert list(error) == ["time", "message", "internalCode"]
    datetime.fromisoformat(error["time"])
    return answer.status, error["internalCode"], error["message"]


BAD_JSON = "request body does not contain a valid JSON statement!"
BAD_XML = "request body does not contain a valid XML document!"
CHAT_READS = ["", "/events", "/events/0", "/info", "/info/visitorName", "/info/visitorTyping"]
CHAT_READS += ["/info/agentTyping", "/exitSurvey"]
LINE = {"event": {"@type": "line", "text": "hi"}}
END = {"event": {"@type": "state", "state": "ended"}}
CHAT_WRITES = [
    ("POST", "/events", LINE, 201),
    ("POST", "/events", END, 201),
    ("PUT", "/info/visitorName", {"visitorName": "Natalie"}, 201),
    ("PUT", "/info/visitorTyping", {"visitorTyping": "typing"}, 200),
    ("PUT", "/exitSurvey", {"survey": {"id": 1, "question": {"id": "0", "answer": "3"}}}, 200),
    ("PUT", "/transcriptRequest", {"email": "you@example.org"}, 200),
    ("PUT", "/transcriptWithSubjectRequest", {"email": "you@example.org"}, 200),
    ("PUT", "/customVariables", {"customVariables": {"customVariable": [{"name": "a", "value": "b"}]}}, 200),
]
ACCOUNT_READS = ["", "/chat/availability", "/chat/availableSlots", "/chat/estimatedWaitTime"]
ACCOUNT_READS += ["/chat/preSurvey", "/chat//preSurvey", "/chat/offlineSurvey"]


# Paths, representations, keys.


@pytest.mark.parametrize("suffix", ["", ".json"])
@pytest.mark.parametrize("path", CHAT_READS)
def test_every_chat_path_answers_with_and_without_json_suffix(path: str, suffix: str) -> None:
    service = Service()
    answer = service.ask(f"/chat/{service.chatting()}{path}{suffix}")
    assert (answer.status, answer.header(b"content-type")) == (200, b"application/json")


@pytest.mark.parametrize("suffix", ["", ".json"])
@pytest.mark.parametrize("path", ACCOUNT_READS)
def test_every_account_path_answers_with_and_without_json_suffix(path: str, suffix: str) -> None:
    answer = Service().ask(f"{path}{suffix}")
    assert (answer.status, answer.header(b"content-type")) == (200, b"application/json")


@pytest.mark.parametrize(
    ("suffix", "accept", "media_type"),
    [
        ("", None, b"application/xml"),
        (".json", None, b"application/json"),
        (".json", "application/xml", b"application/json"),
        ("", "application/json", b"application/json"),
        ("", "application/xml", b"application/xml"),
        ("", "*/*", b"application/xml"),
        ("", "text/plain, application/json;q=0.5", b"application/json"),
        ("", "application/json;q=0.5, application/xml;q=0.4", b"application/json"),
        ("", "application/json;q=0.5, text/xml", b"application/xml"),
        ("", "application/json;q=x", b"application/xml"),
        ("", "image/png", b"application/xml"),
    ],
)
def test_representation_by_suffix_then_accept_then_xml(
    suffix: str, accept: str | None, media_type: bytes
) -> None:
    service = Service()
    headers = {"authorization": f"LivePerson appKey={KEY}"} | ({"accept": accept} if accept else {})
    chat = service.chatting()
    answer = service.raw(f"/api/account/123/chat/{chat}/info{suffix}?v=1", **headers)
    assert answer.header(b"content-type") == media_type


def in_xml_terms(tree: Any) -> Any:
    """A JSON document in the `@` dialect, as the XML twin says it."""
    if isinstance(tree, dict):
        return sorted(
            (key, in_xml_terms(item))
            for key, value in tree.items()
            for item in (value if isinstance(value, list) else [value])
        )
    return str(tree).lower() if isinstance(tree, bool) else str(tree)


def from_xml(element: ET.Element) -> Any:
    pairs = [(f"@{name}", value) for name, value in element.items()]
    pairs += [(child.tag, from_xml(child)) for child in element]
    return sorted(pairs) if pairs else element.text or ""


@pytest.mark.parametrize("path", [f"/chat/{{chat}}{path}" for path in CHAT_READS] + ACCOUNT_READS)
def test_every_document_has_an_xml_twin_with_the_same_content(path: str) -> None:
    styles = dict.fromkeys(("info", "base", "pre-survey", "exit-survey"), MAPPED)
    service = Service(dialect=Dialect(styles=styles))
    chat = service.chatting(preChatLines={"line": ["<b>&\"'"]})
    path = path.format(chat=chat)
    ((root, tree),) = service.get(path).items()
    element = parse_xml(service.ask(path, accept="application/xml").body)
    assert (element.tag, from_xml(element)) == (root, in_xml_terms(tree))


@pytest.mark.parametrize(
    ("authorization", "query", "expected"),
    [
        (f"LivePerson appKey={KEY}", "", (200, 0)),
        (None, f"&appKey={KEY}", (200, 0)),
        (None, "", (401, 10)),
        (None, "&appKey=wrong", (401, 10)),
        ("LivePerson appKey=wrong", "", (401, 10)),
        ("LivePerson appKey=wrong", f"&appKey={KEY}", (401, 10)),
        ("Bearer abc", "", (400, 5)),
        ("Bearer abc", f"&appKey={KEY}", (400, 5)),
        (f"liveperson appKey={KEY}", "", (400, 5)),
        (f"LivePerson  appKey={KEY}", "", (400, 5)),
        (f'LivePerson appKey="{KEY}"', "", (401, 10)),
    ],
)
def test_key_in_header_or_query_else_400_or_401(
    authorization: str | None, query: str, expected: tuple[int, int]
) -> None:
    headers = {"accept": "application/json"} | ({"authorization": authorization} if authorization else {})
    answer = Service().raw(f"/api/account/123/chat/availability?v=1{query}", **headers)
    code = 0 if answer.status == 200 else refusal(answer)[1]
    assert (answer.status, code) == expected


def test_keys_can_be_rotated() -> None:
    service = Service()
    service.emulator.app_keys = ("new",)
    assert service.ask("/chat/availability").status == 401
    assert service.ask("/chat/availability", authorization="LivePerson appKey=new").status == 200


@pytest.mark.parametrize("query", ["", "?NC=true", "?v=2", "?V=1"])
def test_version_is_required(query: str) -> None:
    service = Service()
    answer = service.raw(
        f"/api/account/123/chat/availability.json{query}", authorization=f"LivePerson appKey={KEY}"
    )
    assert refusal(answer)[:2] == (400, 5)


# The life of a chat.


def test_start_chat_answers_201_empty_with_location_that_answers() -> None:
    service = Service()
    answer = service.ask("/chat/request", "POST", {"request": {"skill": "Support"}})
    assert (answer.status, answer.body) == (201, b"")
    location = (answer.header(b"location") or b"").decode()
    base, chat = location.rsplit("/", 1)
    assert base == "https://va-e.convep.liveperson.net/api/account/123/chat"
    assert re.fullmatch(r"H[0-9]+-[0-9a-f]{32}K[0-9]+", chat)
    assert service.info(chat)["skillName"] == "Support"


@pytest.mark.parametrize(
    "body",
    [
        b"<request><preChatLines><line>a</line><line>b</line></preChatLines></request>",
        b'{"request":{"preChatLines":{"line":["a","b"]}}}',
        b'{"request":{"preChatLines":{"lines":["a","b"]}}}',
    ],
)
def test_pre_chat_lines_are_echoed_as_system_message_0(body: bytes) -> None:
    service = Service()
    kind = "application/xml" if body[:1] == b"<" else "application/json"
    answer = service.ask("/chat/request", "POST", body, content_type=kind)
    chat = (answer.header(b"location") or b"").decode().rsplit("/", 1)[1]
    events = service.emulator.chat(chat).events
    assert [(event.fields.get("text"), event.fields.get("systemMessageId")) for event in events[2:]] == [
        ("a", 0),
        ("b", 0),
    ]


@pytest.mark.parametrize("body", [b"<request/>", b"<request></request>"])
def test_start_chat_takes_an_empty_request(body: bytes) -> None:
    assert Service().ask("/chat/request", "POST", body, content_type="text/xml").status == 201


def test_agent_fields_are_absent_until_the_agent_accepts() -> None:
    service = Service()
    chat = service.emulator.start_chat("123")
    waiting = service.info(chat)
    service.emulator.accept(chat)
    chatting = service.info(chat)
    assert (waiting["state"], chatting["state"]) == ("waiting", "chatting")
    assert chatting.keys() - waiting.keys() == {"agentName", "agentId"}


def test_info_has_the_fields_of_its_page_in_order() -> None:
    service = Service()
    assert list(service.info(service.chatting())) == [
        "link", "state", "chatSessionKey", "skillName", "skillId", "agentName", "agentId", "startTime",
        "duration", "lastUpdate", "chatTimeout", "visitorId", "agentTyping", "visitorTyping", "visitorName",
        "rtSessionId", "sharkVisitorId", "sharkSessionId", "sharkContextId", "engagementId", "campaignId",
        "language",
    ]  # fmt: skip


def test_info_repeats_what_the_visitor_was_started_with() -> None:
    service = Service()
    said = {"LETagVisitorId": "a", "LETagSessionId": "b", "LETagContextId": "c", "engagementId": "1"}
    said |= {"campaignId": "2", "language": "nl-NL", "participantId": "p"}
    info = service.info(service.emulator.start_chat("123", **said, visitorId="4294967296"))
    assert info["visitorId"] == 4294967296
    names = ["sharkVisitorId", "sharkSessionId", "sharkContextId", "engagementId", "campaignId", "language"]
    assert [info[name] for name in [*names, "participantId"]] == [*said.values()]


@pytest.mark.parametrize("path", CHAT_READS)
def test_every_chat_read_moves_last_update_to_its_receipt(path: str) -> None:
    service = Service()
    chat = service.chatting()
    service.time += 1.007
    service.get(f"/chat/{chat}{path}")
    assert service.emulator.chat(chat).last_update == service.time


@pytest.mark.parametrize(("method", "path", "body", "status"), CHAT_WRITES)
def test_every_chat_write_moves_last_update_to_its_receipt(
    method: str, path: str, body: object, status: int
) -> None:
    service = Service()
    chat = service.chatting()
    service.time += 1.007
    assert service.ask(f"/chat/{chat}{path}", method, body).status == status
    assert service.emulator.chat(chat).last_update == service.time


def test_the_info_that_tells_last_update_already_counts_itself() -> None:
    service = Service()
    chat = service.chatting()
    service.time += 12.173
    info = service.info(chat)
    started, updated = datetime.fromisoformat(info["startTime"]), datetime.fromisoformat(info["lastUpdate"])
    assert updated - started == timedelta(seconds=12.173)
    assert info["startTime"] == "2023-11-14T17:13:20.250-05:00"
    assert info["duration"] == 12


@pytest.mark.parametrize("path", ACCOUNT_READS)
def test_account_level_requests_do_not_touch_a_chat(path: str) -> None:
    service = Service()
    chat = service.chatting()
    service.time += 1
    service.get(path)
    assert service.emulator.chat(chat).last_update == START


@pytest.mark.parametrize("headers", [{"authorization": "Bearer x"}, {"authorization": "LivePerson appKey=x"}])
def test_requests_that_are_not_let_in_do_not_touch_a_chat(headers: dict[str, str]) -> None:
    service = Service()
    chat = service.chatting()
    service.time += 1
    assert service.ask(f"/chat/{chat}/info", **headers).status in (400, 401)
    assert service.emulator.chat(chat).last_update == START


@pytest.mark.parametrize(("fields", "timeout_s"), [({}, 40), ({"interactionTimeout": 90}, 90)])
def test_chat_lives_while_touched_in_time_and_dies_after(fields: dict[str, int], timeout_s: int) -> None:
    service = Service()
    chat = service.chatting(**fields)
    for _ in range(5):
        service.time += timeout_s - 0.125
        assert service.info(chat)["chatTimeout"] == timeout_s
    service.time += timeout_s
    died = service.time
    assert service.info(chat)["state"] == "ended"
    *_, line, state = service.emulator.chat(chat).events
    assert (line.fields["systemMessageId"], state.fields["state"], state.time) == (6, "ended", died)


def test_ended_chat_is_readable_for_a_while_then_404_code_12() -> None:
    service = Service(ended_readable_s=10)
    chat = service.chatting()
    assert service.ask(f"/chat/{chat}/events", "POST", END).status == 201
    service.time += 9.9
    assert service.info(chat)["state"] == "ended"
    service.time += 0.1
    assert refusal(service.ask(f"/chat/{chat}/info")) == (404, 12, "Chat session not found")
    with pytest.raises(UnknownChatError, match="H"):
        service.emulator.chat(chat)


def test_a_chat_of_another_account_is_not_found() -> None:
    service = Service(accounts=("123", "789"))
    chat = service.emulator.start_chat("789")
    assert refusal(service.ask(f"/chat/{chat}/info"))[:2] == (404, 12)


def test_the_agent_can_do_everything_an_agent_does() -> None:
    service = Service()
    chat = service.chatting()
    service.emulator.agent_typing(chat)
    assert service.info(chat)["agentTyping"] == "typing"
    service.emulator.agent_line(chat, "<i>hi</i>")
    assert service.info(chat)["agentTyping"] == "not-typing"
    service.emulator.requeue(chat)
    assert "agentName" not in service.info(chat)
    service.emulator.accept(chat)
    service.emulator.requeue(chat, 15)
    service.emulator.end(chat)
    spoken = [event.fields for event in service.emulator.chat(chat).events if event.type == "line"]
    assert [line.get("systemMessageId") for line in spoken] == [4, 3, None, 23, 3, 15, 5]
    assert (spoken[2]["textType"], spoken[2]["source"], spoken[2]["by"]) == ("html", "agent", "Natalie")
    with pytest.raises(WrongStateError, match="expected it waiting, got ended"):
        service.emulator.accept(chat)


def test_busy_operators_are_told_of() -> None:
    service = Service(available_slots=0)
    event = service.emulator.chat(service.emulator.start_chat("123")).events[1]
    assert event.fields["systemMessageId"] == 2


SCRIPT = AgentScript(accept_after_s=2, line_every_s=5, typing_s=1, ends=True, lines=("one", "two {chat}"))


def test_the_scripted_agent_accepts_types_talks_and_ends() -> None:
    service = Service(agent=SCRIPT, link_base="https://chat.example")
    chat = service.emulator.start_chat("123")
    states = []
    for _ in range(200):
        service.time += 0.125
        states.append(service.emulator.chat(chat))
    assert list(dict.fromkeys((state.state, state.agent_typing) for state in states)) == [
        ("waiting", "not-typing"),
        ("chatting", "not-typing"),
        ("chatting", "typing"),
        ("ended", "not-typing"),
    ]
    texts = [event.fields["text"] for event in states[-1].events if event.fields.get("source") == "agent"]
    assert texts == ["one", f"two https://chat.example/api/account/123/chat/{chat}"]


def test_the_scripted_agent_starts_over_unless_he_ends() -> None:
    service = Service(agent=AgentScript(accept_after_s=1, line_every_s=1, typing_s=0.5, lines=("one", "two")))
    chat = service.emulator.start_chat("123")
    service.time += 9
    events = service.emulator.chat(chat).events
    texts = [event.fields["text"] for event in events if event.fields.get("source") == "agent"]
    assert texts[:5] == ["one", "two", "one", "two", "one"]


@pytest.mark.parametrize(("touches", "state"), [(False, "ended"), (True, "chatting")])
def test_whether_the_scripted_agent_keeps_a_chat_alive_is_a_switch(touches: bool, state: str) -> None:
    service = Service(agent=AgentScript(), dialect=Dialect(agent_touches=touches))
    chat = service.emulator.start_chat("123")
    service.time += 60
    assert service.emulator.chat(chat).state == state


@given(st.lists(st.floats(0.01, 9), max_size=12), st.integers(0, 3))
def test_what_happened_does_not_depend_on_who_looked_when(looks: list[float], seed: int) -> None:
    script = AgentScript(accept_after_s=2, line_every_s=5)
    config = {"agent": script, "seed": seed, "chat_timeout_s": 20, "ended_readable_s": 1000}
    often, once = (Service(**config) for _ in range(2))
    chat = often.emulator.start_chat("123")
    for pause in looks:
        often.time += pause
        often.emulator.chat(chat)
    assert once.emulator.start_chat("123") == chat
    once.time = often.time
    assert often.emulator.chat(chat) == once.emulator.chat(chat)


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others() -> None:
    def play(seed: int) -> dict[str, list[tuple[str, float]]]:
        service = Service(seed=seed, agent=SCRIPT)
        chats = [service.emulator.start_chat("123") for _ in range(2)]
        service.time += 9
        states = map(service.emulator.chat, chats)
        return {state.id: [(event.type, event.time) for event in state.events] for state in states}

    assert play(1) == play(1)
    assert not play(1).keys() & play(2).keys()
    one, other = play(1).values()
    assert one != other
    assert [one, other] != [*play(2).values()]


# Counting.


def test_requests_are_counted_by_account_chat_resource_and_method() -> None:
    service = Service()
    one, other = service.chatting(), service.chatting()
    for _ in range(3):
        service.ask(f"/chat/{one}/info")
        service.ask(f"/chat/{one}/info.json", accept="application/xml")
    service.ask(f"/chat/{other}/info", authorization="Bearer refused")
    service.ask(f"/chat/{one}/info/visitorName", "PUT", {"visitorName": "N"})
    service.ask("/nowhere")
    counts = service.emulator.counts()
    assert counts.total("info") == 7
    assert (counts.total("info", one), counts.total("info", other), counts.total(chat=one)) == (6, 1, 7)
    assert counts.total("visitor-name", method="PUT") == 1
    assert counts.requests[CountKey("123", one, "info", "GET")] == 6
    assert counts.totals() == {"info": 7, "unknown": 1, "visitor-name": 1}
    service.emulator.reset_counts()
    assert service.emulator.counts().total() == 0
    assert counts.total("info") == 7


# JSON dialects.


@pytest.mark.parametrize(
    ("resource", "path", "prefixed"),
    [("info", "/info", False), ("chat", "", True), ("events", "/events", True), ("event", "/events/1", True)],
)
def test_attribute_style_is_a_matter_of_the_resource_and_can_be_flipped(
    resource: str, path: str, prefixed: bool
) -> None:
    for style, expected in [(None, prefixed), (NATIVE, False), (MAPPED, True)]:
        service = Service(dialect=Dialect(styles={resource: style} if style else {}))
        body = service.ask(f"/chat/{service.chatting()}{path}").body
        assert (b'"@' in body) is expected


def test_in_the_mapped_style_one_is_no_array_none_is_no_key_and_text_may_be_a_number() -> None:
    service = Service()
    chat = service.chatting()
    service.ask(f"/chat/{chat}/events", "POST", {"event": {"@type": "line", "text": "123"}})
    last = len(service.emulator.chat(chat).events) - 1
    assert isinstance(service.get(f"/chat/{chat}/events")["events"]["event"], list)
    one = service.get(f"/chat/{chat}/events?from={last}")["events"]["event"]
    assert (one["@id"], one["@type"], one["text"]) == (str(last), "line", 123)
    assert "event" not in service.get(f"/chat/{chat}/events?from={last + 1}")["events"]


def test_in_the_native_style_lists_stay_lists_and_ids_are_numbers() -> None:
    service = Service(dialect=Dialect(styles={"events": NATIVE}))
    chat = service.chatting()
    one = service.get(f"/chat/{chat}/events?from=3")["events"]["event"]
    assert [event["id"] for event in one] == [3]
    assert service.get(f"/chat/{chat}/events?from=4")["events"]["event"] == []


def test_the_same_field_is_a_string_in_info_and_a_number_in_chat() -> None:
    service = Service()
    chat = service.chatting()
    names = ("sharkContextId", "engagementId", "campaignId")
    assert [service.info(chat)[name] for name in names] == ["3", "27469613", "26948813"]
    assert [service.get(f"/chat/{chat}")["chat"]["info"][name] for name in names] == [3, 27469613, 26948813]


# Links.


def rels(container: Any, chat: str) -> list[tuple[str, str]]:
    base = f"https://va-e.convep.liveperson.net/api/account/123/chat/{chat}"
    links = [
        (link.get("rel", link.get("@rel")), link.get("href", link.get("@href"))) for link in container["link"]
    ]
    assert all(href.startswith(base) for _, href in links)
    return [(rel, href.removeprefix(base)) for rel, href in links]


INFO_LINKS = [("self", "/info"), ("visitor-name", "/info/visitorName")]
INFO_LINKS += [("visitor-typing", "/info/visitorTyping"), ("agent-typing", "/info/agentTyping")]
EVENTS_LINKS = [("self", "/events"), ("next", "/events?from=4")]


def test_links_stand_in_the_documented_order_without_a_query_but_for_next() -> None:
    service = Service()
    chat = service.chatting()
    whole = service.get(f"/chat/{chat}")["chat"]
    assert list(whole) == ["link", "events", "info"]
    assert rels(whole, chat) == [
        ("self", ""),
        ("events", "/events"),
        ("info", "/info"),
        ("next", "?from=4"),
        ("transcript-request", "/transcriptRequest"),
        ("transcript-with-subject-request", "/transcriptWithSubjectRequest"),
        ("exit-survey", "/exitSurvey"),
        ("custom-variables", "/customVariables"),
    ]
    assert rels(whole["events"], chat) == EVENTS_LINKS
    assert rels(service.get(f"/chat/{chat}/events")["events"], chat) == EVENTS_LINKS
    assert rels(whole["info"], chat) == INFO_LINKS
    assert rels(service.info(chat), chat) == INFO_LINKS


def test_base_resource_links_to_what_an_account_has() -> None:
    service = Service(link_base="https://chat.example")
    account = service.get("")["account"]
    assert account["id"] == "123"
    assert [link["rel"] for link in account["link"]] == [
        "self",
        "chat-request",
        "chat-availability",
        "chat-available-slots",
        "chat-estimatedWaitTime",
        "prechat-survey",
        "chat-offline-survey",
    ]
    for link in account["link"]:
        path = link["href"].removeprefix("https://chat.example/api/account/123")
        assert service.ask(path).status in (200, 405)


# Writes.


@pytest.mark.parametrize("line", [LINE, {"event": {"type": "line", "text": "hi"}}])
def test_an_added_line_is_seen_and_its_location_answers(line: object) -> None:
    service = Service()
    chat = service.chatting()
    answer = service.ask(f"/chat/{chat}/events", "POST", line)
    location = (answer.header(b"location") or b"").decode()
    assert (answer.status, answer.body) == (201, b"")
    assert location == f"https://va-e.convep.liveperson.net/api/account/123/chat/{chat}/events/4"
    event = service.get(location.partition("/123")[2])["event"]
    assert (event["@id"], event["text"], event["source"]) == ("4", "hi", "visitor")
    assert service.emulator.chat(chat).lines == ("hi",)


def test_event_ids_are_consecutive_from_0_and_from_is_inclusive() -> None:
    service = Service()
    chat = service.chatting()
    events = service.get(f"/chat/{chat}?from=1")["chat"]["events"]["event"]
    assert [event["@id"] for event in events] == ["1", "2", "3"]
    assert [event.id for event in service.emulator.chat(chat).events] == [0, 1, 2, 3]


def test_name_and_typing_are_seen_by_the_next_read() -> None:
    service = Service()
    chat = service.chatting()
    service.ask(
        f"/chat/{chat}/info/visitorName",
        "PUT",
        "<visitorName>Zoë</visitorName>".encode(),
        content_type="text/xml",
    )
    service.ask(f"/chat/{chat}/info/visitorTyping", "PUT", {"visitorTyping": "typing"})
    assert service.get(f"/chat/{chat}/info/visitorName") == {"visitorName": "Zoë"}
    assert service.get(f"/chat/{chat}/info/visitorTyping") == {"visitorTyping": "typing"}
    info = service.info(chat)
    assert (info["visitorName"], info["visitorTyping"]) == ("Zoë", "typing")


def test_ending_a_chat_adds_an_event_and_keeps_the_resource() -> None:
    service = Service()
    chat = service.emulator.start_chat("123")
    body = b'<event type="state"><state>ended</state></event>'
    assert service.ask(f"/chat/{chat}/events", "POST", body, content_type="application/xml").status == 201
    assert service.info(chat)["state"] == "ended"
    assert service.emulator.chat(chat).events[-1].fields == {"state": "ended"}


def test_nobody_types_and_no_time_passes_in_a_chat_that_has_ended() -> None:
    service = Service()
    chat = service.chatting()
    service.emulator.agent_typing(chat)
    service.ask(f"/chat/{chat}/info/visitorTyping", "PUT", {"visitorTyping": "typing"})
    service.time += 5
    service.emulator.end(chat)
    service.time += 5
    info = service.info(chat)
    assert (info["agentTyping"], info["visitorTyping"], info["duration"]) == ("not-typing", "not-typing", 5)


def test_agent_typing_is_unknown_outside_a_chat_but_not_inside_info() -> None:
    service = Service()
    chat = service.emulator.start_chat("123")
    assert service.get(f"/chat/{chat}/info/agentTyping") == {"agentTyping": "unknown"}
    assert service.info(chat)["agentTyping"] == "not-typing"
    service.emulator.accept(chat)
    assert service.get(f"/chat/{chat}/info/agentTyping") == {"agentTyping": "not-typing"}


def test_a_get_is_never_overridden() -> None:
    service = Service()
    path = f"/chat/{service.chatting()}/info/visitorName"
    assert (
        service.ask(path, x_http_method_override="PUT", body={"visitorName": "N"}).body
        == b'{"visitorName":"You"}'
    )


@pytest.mark.parametrize(("real_put", "status"), [(False, 405), (True, 201)])
def test_a_real_put_is_taken_only_behind_its_switch(real_put: bool, status: int) -> None:
    service = Service(dialect=Dialect(real_put=real_put))
    target = f"/api/account/123/chat/{service.chatting()}/info/visitorName?v=1"
    answer = service.raw(target, "PUT", b'{"visitorName":"N"}', authorization=f"LivePerson appKey={KEY}")
    assert answer.status == status


# Account-level resources.


def test_availability_slots_and_wait() -> None:
    service = Service(available_slots=-1, estimated_wait_time_s=7)
    assert service.get("/chat/availability?skill=a") == {"availability": True}
    assert service.get("/chat/availableSlots?maxWaitTime=86400") == {"availableSlots": -1}
    assert service.get("/chat/availableSlots?maxWaitTime=0") == {"availableSlots": -1}
    assert service.get("/chat/estimatedWaitTime") == {"estimatedWaitTime": 7}
    assert service.ask("/chat/availability", accept="text/xml").body.endswith(
        b"<availability>true</availability>"
    )
    assert Service(available_slots=0).get("/chat/availability") == {"availability": False}


def test_availability_of_several_skills_tells_each() -> None:
    answer = Service().get("/chat/availability?skill=a&skill=b")
    each = answer["availability"]["AvailabilityForSkills"]["skillAvailability"]
    assert each == [{"skill": "a", "isAvailable": True}, {"skill": "b", "isAvailable": True}]


def test_surveys_have_questions_and_the_offline_one_a_single_one_all_in_strings() -> None:
    service = Service()
    assert len(service.get("/chat/preSurvey")["survey"]["questions"]["question"]) == 2
    assert len(service.get(f"/chat/{service.chatting()}/exitSurvey")["survey"]["questions"]["question"]) == 2
    offline = service.get("/chat/offlineSurvey")["survey"]
    assert isinstance(offline["questions"]["question"], dict)
    assert all(
        isinstance(value, str) for value in [offline["id"], *offline["questions"]["question"].values()]
    )
    assert service.ask("/chat/offlineSurvey", "PUT", {"survey": {"id": 1}}).status == 200


def test_a_conversation_has_ids() -> None:
    answer = Service().ask("/conversation.json", "POST", {"authChatConnId": "1", "ssoKey": "k"})
    assert answer.status == 201
    assert json.loads(answer.body).keys() == {"participantId", "conversationId"}


def test_discovery_of_one_service_needs_no_key() -> None:
    service = Service(base_uri="127.0.0.1:9100")
    answer = service.raw("/api/account/123/service/conversationVep/baseURI.json?version=1.0")
    assert json.loads(answer.body) == {
        "service": "conversationVep",
        "account": "123",
        "baseURI": "127.0.0.1:9100",
    }


def test_discovery_of_all_services_names_the_host_that_was_asked() -> None:
    answer = Service().raw("/api/account/123/service/baseURI.json?version=1.0", host="emulator:1")
    services = json.loads(answer.body)["baseURIs"]
    assert [one["service"] for one in services] == ["agentVep", "conversationVep", "smt"]
    assert {one["baseURI"] for one in services} == {"emulator:1"}


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("/api/account/123/service/conversationVep/baseURI.json", (400, 5)),
        ("/api/account/123/service/conversationvep/baseURI.json?version=1.0", (404, 28)),
        ("/api/account/9/service/baseURI.json?version=1.0", (401, 10)),
    ],
)
def test_discovery_refuses(target: str, expected: tuple[int, int]) -> None:
    assert refusal(Service().raw(target))[:2] == expected


# Errors.


@pytest.mark.parametrize(
    ("state", "method", "path", "body", "expected"),
    [
        ("waiting", "POST", "/events", LINE, (400, 5, "Cannot add line while not in chat")),
        ("ended", "POST", "/events", LINE, (400, 5, "Cannot add line while not in chat")),
        ("ended", "POST", "/events", END, (400, 5, "Cannot end chat. Chat was ended")),
        (
            "waiting",
            "PUT",
            "/info/visitorTyping",
            {"visitorTyping": "typing"},
            (400, 5, "Cannot set visitor's typing status. Chat was ended"),
        ),
        (
            "chatting",
            "PUT",
            "/info/visitorTyping",
            {"visitorTyping": "maybe"},
            (400, 5, "Bad value for visitorTyping"),
        ),
        (
            "chatting",
            "PUT",
            "/info/visitorName",
            {"name": "N"},
            (400, 5, "Bad request body: expected visitorName"),
        ),
        ("chatting", "POST", "/events", {"event": {"@type": "url"}}, (400, 5, "Bad event")),
        ("chatting", "POST", "/events", {"event": 1}, (400, 5, "Bad request body: expected event")),
        ("chatting", "POST", "/events", b"{", (400, 5, BAD_JSON)),
        ("chatting", "POST", "/events", b"[]", (400, 5, BAD_JSON)),
        ("chatting", "POST", "/events", b'{"event":' * 100_000, (400, 5, BAD_JSON)),
        ("chatting", "GET", f"/events?from={'9' * 5000}", None, (400, 5, "Bad value for parameter from")),
        ("chatting", "GET", "/events?from=x", None, (400, 5, "Bad value for parameter from")),
        ("chatting", "GET", "/events/4", None, (404, 28, "Event not found")),
        ("chatting", "DELETE", "/info", None, (405, 5, "Method DELETE is not supported")),
    ],
)
def test_error_catalogue_of_a_chat(
    state: str, method: str, path: str, body: object, expected: tuple[int, int, str]
) -> None:
    service = Service()
    chat = service.emulator.start_chat("123")
    if state != "waiting":
        service.emulator.accept(chat)
    if state == "ended":
        service.emulator.end(chat)
    assert refusal(service.ask(f"/chat/{chat}{path}", method, body)) == expected


@pytest.mark.parametrize(
    ("method", "path", "body", "expected"),
    [
        ("POST", "/chat/request", {"request": {"visitorId": "abc"}}, (401, 10, "Invalid User")),
        ("POST", "/chat/request", {"request": 7}, (400, 5, "Bad request body: expected request")),
        (
            "POST",
            "/chat/request",
            {"request": {"interactionTimeout": 0}},
            (400, 5, "Bad value for interactionTimeout"),
        ),
        (
            "GET",
            "/chat/availability?maxWaitTime=86401",
            None,
            (400, 5, "Bad value for parameter maxWaitTime"),
        ),
        ("GET", "/chat/availability?serviceQueue=q", None, (400, 5, "serviceQueue requires maxWaitTime")),
        ("GET", "/chat/gone/info", None, (404, 12, "Chat session not found")),
        (
            "POST",
            "/chat/request",
            b'<!DOCTYPE request [<!ENTITY a "b">]><request>&a;</request>',
            (400, 5, BAD_XML),
        ),
        ("POST", "/chat/request", b"<request>", (400, 5, BAD_XML)),
    ],
)
def test_error_catalogue_of_an_account(
    method: str, path: str, body: object, expected: tuple[int, int, str]
) -> None:
    kind = "application/xml" if isinstance(body, bytes) else "application/json"
    assert refusal(Service().ask(path, method, body, content_type=kind)) == expected


def test_captcha_refuses_every_start() -> None:
    answer = Service(captcha=True).ask("/chat/request", "POST", {"request": {}})
    assert refusal(answer) == (401, 10, "Bad captcha")


@pytest.mark.parametrize(
    "target", ["/api/account/123/chat/H1/nothing?v=1&appKey=secret", "/", "/api/account/9/chat/request?v=1"]
)
def test_code_28_echoes_the_request_uri_with_its_query(target: str) -> None:
    assert refusal(Service().raw(target, accept="application/json")) == (404, 28, f"null for uri: {target}")


def test_errors_have_an_xml_twin() -> None:
    element = parse_xml(Service().raw("/nothing?a=<&b=1").body)
    assert [child.tag for child in element] == ["time", "message", "internalCode"]
    assert element.findtext("message") == "null for uri: /nothing?a=<&b=1"


# Oddities.


def test_a_transfer_points_at_another_account_on_another_host() -> None:
    service = Service(transfer_account="789", transfer_domain="sy.convep.liveperson.net")
    chat = service.chatting(skill="Support")
    service.emulator.transfer(chat)
    event = service.get(f"/chat/{chat}/events?from=4")["events"]["event"]
    assert (event["@type"], event["remoteSiteId"]) == ("a2a-transfer", 789)
    assert event["domain"] == "sy.convep.liveperson.net"
    assert event["chatRequestParameters"]["skill"] == "Support"
    assert event["link"] == {
        "@href": "https://sy.convep.liveperson.net/api/account/789/chat/request",
        "@rel": "a2a-transfer",
    }


def test_any_event_can_be_added_and_any_html_said() -> None:
    service = Service()
    chat = service.chatting()
    number = service.emulator.add_event(chat, "collaboration", channelID="7", nested={"more": [1, 2]})
    html = '<a href="https://va-e.convep.liveperson.net/api/account/123/chat/H1/info">here</a>'
    service.emulator.agent_line(chat, html)
    unknown, line = service.get(f"/chat/{chat}/events?from={number}")["events"]["event"]
    assert (unknown["@type"], unknown["nested"]) == ("collaboration", {"more": [1, 2]})
    assert (line["text"], line["textType"]) == (html, "html")


# Each switch: what is seen with the default, and what when it is flipped.


def started(service: Service) -> object:
    return service.ask("/chat/request", "POST", {"request": {"interactionTimeout": 90}}).status


def timeout(service: Service) -> object:
    return service.info(service.chatting(interactionTimeout=90))["chatTimeout"]


def named(service: Service) -> object:
    return service.ask(f"/chat/{service.chatting()}/info/visitorName", "PUT", {"visitorName": "N"}).status


def unversioned(service: Service) -> object:
    return service.raw("/api/account/123").status


def keyless(service: Service) -> object:
    return service.raw("/api/account/123?v=1").status


def foreign(service: Service) -> object:
    return service.ask("", authorization="Bearer x").status


def wrong_key(service: Service) -> object:
    return service.ask("", authorization="LivePerson appKey=x").status


def unknown_account(service: Service) -> object:
    return service.raw("/api/account/9?v=1").status


def line_body(service: Service) -> object:
    body = service.ask(f"/chat/{service.chatting()}/events", "POST", LINE).body
    return body and list(json.loads(body)["chatEventLocation"]["link"])


def agent_touch(service: Service) -> object:
    chat = service.emulator.start_chat("123")
    service.time += 1
    service.emulator.accept(chat)
    return service.emulator.chat(chat).last_update - START


def duration(service: Service) -> object:
    chat = service.chatting()
    service.time += 3
    return service.info(chat)["duration"]


def base_status(service: Service) -> object:
    return service.ask("").status


def authorities(service: Service) -> object:
    return [link["href"].partition("va-e")[0] for link in service.info(service.chatting())["link"]]


def last_event(service: Service) -> object:
    chat = service.chatting()
    service.ask(f"/chat/{chat}/events", "POST", LINE)
    event = service.emulator.chat(chat).events[-1]
    return event.type, event.fields.get("refSequenceId")


def unknown_members(service: Service) -> object:
    return "channelGroup" in service.info(service.chatting())


@pytest.mark.parametrize(
    ("switch", "look", "default", "flipped"),
    [
        ({"start_status": 200}, started, 201, 200),
        ({"name_status": 200}, named, 201, 200),
        ({"missing_version_status": 404}, unversioned, 400, 404),
        ({"missing_key_status": 400}, keyless, 401, 400),
        ({"foreign_scheme_status": 401}, foreign, 400, 401),
        ({"wrong_key_status": 403}, wrong_key, 401, 403),
        ({"unknown_account_status": 401}, unknown_account, 404, 401),
        ({"event_body": True}, line_body, b"", ["@href", "@rel"]),
        ({"interaction_timeout_counts": False}, timeout, 90, 40),
        ({"agent_touches": True}, agent_touch, 0, 1),
        ({"duration_counts": False}, duration, 3, 0),
        ({"base_redirects": True}, base_status, 200, 302),
        ({"malformed_links": True}, authorities, ["https://"] * 4, ["https://", "https:/", "", "https://"]),
        ({"line_status": True}, last_event, ("line", None), ("line-status", 4)),
        ({"unknown_fields": True}, unknown_members, False, True),
    ],
)
def test_every_switch_is_seen(
    switch: dict[str, Any], look: Callable[[Service], object], default: object, flipped: object
) -> None:
    styles = {"events": MAPPED}
    assert look(Service(dialect=Dialect(styles=styles))) == default
    assert look(Service(dialect=Dialect(styles=styles, **switch))) == flipped


def test_the_rest_of_the_configuration_is_seen() -> None:
    short = Service(chat_timeout_s=7)
    assert short.info(short.chatting())["chatTimeout"] == 7
    assert Service(latency_s=0.5).ask("/chat/availability").delay_s == 0.5
    service = Service(utc_offset_minutes=90, app_key="k")
    chat = service.emulator.start_chat("123")
    assert service.ask(f"/chat/{chat}/info").status == 401
    info = json.loads(service.ask(f"/chat/{chat}/info", authorization="LivePerson appKey=k").body)["info"]
    assert info["startTime"] == "2023-11-14T23:43:20.250+01:30"


# Bad input is normal input.

KNOWN = [f"api/account/123/chat/H1{path}" for path in [*CHAT_READS, *(path for _, path, _, _ in CHAT_WRITES)]]
KNOWN += [f"api/account/123{path}" for path in [*ACCOUNT_READS, "/chat/request", "/conversation.json"]]
WORDS = [
    "",
    "api",
    "account",
    "123",
    "chat",
    "H1",
    "events",
    "info",
    "service",
    "baseURI",
    "%5C..",
    ".json",
    "\xff",
]
PATHS = st.sampled_from(KNOWN) | st.lists(st.sampled_from(WORDS), max_size=8).map("/".join)
ROOTS = ["request", "event", "@type", "text", "line", "visitorName", "preChatLines", "skill", "survey"]
BODIES = st.recursive(
    st.none() | st.booleans() | st.floats() | st.sampled_from(["line", "state", "ended", "\0", "7"]),
    lambda inner: st.dictionaries(st.sampled_from(ROOTS), inner, max_size=3) | st.lists(inner, max_size=3),
).map(lambda tree: json.dumps(tree).encode())


@given(
    method=st.sampled_from(["GET", "POST", "PUT", "DELETE", "HEAD", ""]),
    path=PATHS,
    query=st.text("v=1&from%appKey;x9", max_size=20),
    body=BODIES | st.binary(max_size=20),
    kind=st.sampled_from(["application/json", "application/xml"]),
)
def test_no_request_makes_it_fall_over(method: str, path: str, query: str, body: bytes, kind: str) -> None:
    service = Service()
    target = f"/{path}?v=1&{query}".replace("H1", service.chatting())
    headers = {"authorization": f"LivePerson appKey={KEY}", "content_type": kind, "accept": kind}
    if method == "PUT":
        method, headers["x_http_method_override"] = "POST", "PUT"
    answer = service.raw(target, method, body, **headers)
    assert 200 <= answer.status < 500
    if answer.header(b"content-type") == b"application/json":
        json.loads(answer.body)
    elif answer.body:
        parse_xml(answer.body)


@pytest.mark.parametrize("name", ["\x00", "\ud800", "\ufffe", "]]>", "&amp;"])
@pytest.mark.parametrize("accept", ["application/json", "application/xml"])
def test_a_name_of_any_characters_leaves_documents_well_formed(name: str, accept: str) -> None:
    service = Service()
    chat = service.chatting()
    service.ask(f"/chat/{chat}/info/visitorName", "PUT", {"visitorName": name})
    answer = service.ask(f"/chat/{chat}/info", accept=accept)
    if accept == "application/xml":
        assert parse_xml(answer.body).findtext("visitorName") in ("?", name)
    else:
        assert json.loads(answer.body)["info"]["visitorName"] in ("?", name)


@pytest.mark.parametrize("accept", ["text/xml;q=0.1;x", ";;", ",", "q=1", "application/json;q=nan"])
def test_an_odd_accept_is_answered(accept: str) -> None:
    assert Service().ask("/chat/availability", accept=accept).status == 200
