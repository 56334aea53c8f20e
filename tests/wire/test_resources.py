"""Each resource through the gateway, and every link that comes back."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from gateway.demo.stage import ACCOUNT
from gateway.emulator import MAPPED, NATIVE, Dialect, EmulatorConfig, Fault
from tests.support import (
    APP_KEY,
    PUBLIC_URL,
    Response,
    World,
    account_path,
    chat_path,
    links_of,
    path_of,
    with_json,
    world,
)

pytestmark = pytest.mark.anyio

#: Reads: path, and the root of the document that answers.
READS = [
    ("", "account"),
    ("/chat/availability", "availability"),
    ("/chat/availableSlots", "availableSlots"),
    ("/chat/estimatedWaitTime", "estimatedWaitTime"),
    ("/chat/preSurvey", "survey"),
    ("/chat/offlineSurvey", "survey"),
    ("/chat/{chat}", "chat"),
    ("/chat/{chat}/events", "events"),
    ("/chat/{chat}/events/1", "event"),
    ("/chat/{chat}/info", "info"),
    ("/chat/{chat}/info/visitorName", "visitorName"),
    ("/chat/{chat}/info/visitorTyping", "visitorTyping"),
    ("/chat/{chat}/info/agentTyping", "agentTyping"),
    ("/chat/{chat}/exitSurvey", "survey"),
]
#: Writes: method, path, body, and what a JSON answer's status is.
WRITES = [
    ("PUT", "/chat/offlineSurvey", {"survey": {"id": 1, "question": []}}, 200),
    ("POST", "/chat/request", {"request": {"skill": "Sales"}}, 201),
    ("POST", "/conversation.json", {"ssoKey": "x"}, 201),
    ("POST", "/chat/{chat}/events", {"event": {"@type": "line", "text": "hi"}}, 201),
    ("POST", "/chat/{chat}/events", {"event": {"@type": "state", "state": "ended"}}, 201),
    ("PUT", "/chat/{chat}/info/visitorName", {"visitorName": "Zoë"}, 201),
    ("PUT", "/chat/{chat}/info/visitorTyping", {"visitorTyping": "typing"}, 200),
    ("PUT", "/chat/{chat}/exitSurvey", {"survey": {"id": 1}}, 200),
    ("PUT", "/chat/{chat}/transcriptRequest", {"email": "a@b.example"}, 200),
    ("PUT", "/chat/{chat}/transcriptWithSubjectRequest", {"email": "a@b.example"}, 200),
    ("PUT", "/chat/{chat}/customVariables", {"customVariables": {"customVariable": []}}, 200),
]


def place(path: str, chat: str) -> str:
    return account_path(path.replace("{chat}", chat))


@pytest.mark.parametrize(("path", "root"), READS)
@pytest.mark.parametrize("asked", ["suffix", "accept", "nothing", "xml"])
async def test_a_read_answers_in_the_representation_asked_for(
    here: World, path: str, root: str, asked: str
) -> None:
    target = place(path, here.chat())
    target = with_json(target) if asked == "suffix" else target
    fields = {"accept": {"accept": "application/json"}, "xml": {"accept": "application/xml"}}.get(asked, {})
    response = await here.get(target, **fields)
    assert response.status == 200
    if asked == "xml":
        assert response.header("content-type") == "application/xml"
        assert ET.fromstring(response.body).tag == root  # noqa: S314 - our own emulator's
    else:
        assert response.header("content-type") == "application/json"
        assert list(response.json()) == [root]
    assert int(response.header("content-length") or "") == len(response.body)


@pytest.mark.parametrize(("path", "root"), READS)
async def test_head_is_get_without_a_body(here: World, path: str, root: str) -> None:
    del root
    target = place(path, here.chat())
    async with here.wire() as wire:
        head = await wire.ask("HEAD", target, here.bearer())
        get = await wire.ask("GET", target, here.bearer())
    assert (head.status, head.body) == (200, b"")
    assert steady(head) == steady(get)


def steady(response: Response) -> dict[str, str]:
    """The head without what is of the moment."""
    moving = {"date", "x-request-id", "age", "cache-status"}
    return {name: value for name, value in response.headers if name not in moving}


@pytest.mark.parametrize(("method", "path", "body", "status"), WRITES)
async def test_a_write_is_carried_out(here: World, method: str, path: str, body: object, status: int) -> None:
    for spelled in (path, path.removesuffix(".json") + ".json"):
        here.start_over()
        response = await here.write(method, place(spelled, here.chat()), body)
        assert response.status == status, response.body
        assert response.header("cache-control") == "no-store"
        assert here.upstream_requests() == 1


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/chat/request", b"<request><skill>Sales</skill></request>", 201),
        ("/chat/{chat}/events", b'<event type="line"><text>hi</text></event>', 201),
        ("/chat/{chat}/info/visitorName", b"<visitorName>Zoe</visitorName>", 201),
    ],
)
@pytest.mark.parametrize("media_type", ["application/xml", "text/xml; charset=utf-8"])
async def test_writes_in_xml(here: World, path: str, body: bytes, status: int, media_type: str) -> None:
    method = "PUT" if path.endswith("Name") else "POST"
    fields = {"content-type": media_type, "accept": "application/xml"}
    response = await here.ask(method, place(path, here.chat()), fields, body)
    assert response.status == status


async def test_a_chat_from_start_to_end_by_its_links_alone(here: World) -> None:
    started = await here.write("POST", account_path("/chat/request"), {"request": {}})
    assert (started.status, started.body) == (201, b"")
    chat = started.header("location") or ""
    assert chat.startswith(f"{PUBLIC_URL}/api/account/{ACCOUNT}/chat/H")
    first = await here.get(chat + ".json", accept="application/json")
    links = dict(links_of(first.json()["chat"]["link"]))
    assert first.json()["chat"]["info"]["state"] == "waiting"
    here.emulator.accept(chat.rpartition("/")[2])
    posted = await here.write(
        "POST", links["events"] + ".json", {"event": {"@type": "line", "text": "hello there"}}
    )
    event = await here.get(posted.header("location") or "")
    assert event.json()["event"]["text"] == "hello there"
    more = await here.get(with_json(links["next"]))
    assert b"hello there" in more.body
    ended = await here.write("POST", links["events"], {"event": {"@type": "state", "state": "ended"}})
    assert ended.status == 201
    assert (await here.get(links["info"])).json()["info"]["state"] == "ended"


@pytest.mark.parametrize(("path", "root"), READS)
async def test_every_link_of_every_answer_works(here: World, path: str, root: str) -> None:
    chat = here.chat()
    document = (await here.get(place(path, chat))).json()
    found = dict(links_of(document))
    assert bool(found) == (root in {"account", "chat", "events", "info"})
    for rel, link in found.items():
        assert link.startswith(PUBLIC_URL + "/api/account/"), rel
        for spelling in (link, with_json(link)):
            response = await here.get(spelling)
            if response.status == 405:
                assert (response.header("allow") or "").startswith("P"), rel
            else:
                assert response.status == 200, (rel, spelling)
    assert b"liveperson" not in (await here.get(place(path, chat))).body


@pytest.mark.parametrize(("path", "root"), READS)
async def test_links_in_xml_are_the_same_links(here: World, path: str, root: str) -> None:
    del root
    target = place(path, here.chat())
    in_json = list(links_of((await here.get(target)).json()))
    document = ET.fromstring((await here.get(target, accept="application/xml")).body)  # noqa: S314
    assert sorted((e.get("rel"), e.get("href")) for e in document.iter("link")) == sorted(in_json)


DIALECTS = {
    "@ everywhere": Dialect(styles=dict.fromkeys(("account", "base", "chat", "events", "info"), MAPPED)),
    "plain everywhere": Dialect(styles=dict.fromkeys(("account", "base", "chat", "events", "info"), NATIVE)),
    "malformed links": Dialect(malformed_links=True),
    "unknown fields, bodies of events": Dialect(unknown_fields=True, event_body=True, line_status=True),
    "200 for 201": Dialect(start_status=200, name_status=200),
}


@pytest.mark.parametrize("name", DIALECTS)
async def test_both_dialects(tmp_path: Path, name: str) -> None:
    config = EmulatorConfig(app_key=APP_KEY, dialect=DIALECTS[name])
    async with world(tmp_path, emulator=config) as it:
        chat = it.chat()
        for path in ("", "/chat/{chat}", "/chat/{chat}/events", "/chat/{chat}/info"):
            response = await it.get(place(path, chat))
            links = list(links_of(response.json()))
            assert links
            assert all(link.startswith(PUBLIC_URL + "/") for _, link in links), links
            for rel, link in links:
                assert (await it.get(with_json(link))).status in {200, 405}, rel
        posted = await it.write(
            "POST", chat_path(chat, "/events"), {"event": {"@type": "line", "text": "hi"}}
        )
        assert posted.status == 201
        assert all(link.startswith(PUBLIC_URL) for _, link in links_of(posted.json() if posted.body else {}))
        started = await it.write("POST", account_path("/chat/request"), {"request": {}})
        assert (await it.get(started.header("location") or "")).status == 200


async def test_single_links_and_events_stay_single(here: World) -> None:
    chat = here.chat()
    here.emulator.fail(Fault(resource="chat", one_for_many=True))
    document = (await here.get(chat_path(chat))).json()["chat"]
    assert document["link"]["@href"] == PUBLIC_URL + chat_path(chat)
    assert document["info"]["link"]["@href"] == PUBLIC_URL + chat_path(chat, "/info")


async def test_links_elsewhere_and_anchors_in_lines_are_left_alone(here: World) -> None:
    chat = here.chat()
    anchor = '<a href="https://va-e.convep.liveperson.net/api/account/123/chat/x">x</a>'
    here.emulator.agent_line(chat, anchor)
    here.emulator.transfer(chat)
    document = (await here.get(chat_path(chat, "/events"))).json()["events"]
    assert document["event"][-2]["text"] == anchor
    transfer = document["event"][-1]
    assert dict(links_of(transfer))["a2a-transfer"].startswith("https://lo.convep.liveperson.net/")
    metrics = (await here.admin("/metrics")).body.decode()
    assert "chat_gateway_foreign_links_total 1.0" in metrics


async def test_a_write_only_resource_says_what_it_takes(here: World) -> None:
    response = await here.get(chat_path(here.chat(), "/transcriptRequest"))
    assert (response.status, response.problem) == (405, "method-not-allowed")
    assert response.header("allow") == "POST, PUT"
    assert here.upstream_requests() == 0


@pytest.mark.parametrize(("accept", "kind"), [("application/json", "json"), ("application/xml", "xml")])
async def test_problems_are_written_as_answers_are_asked_for(here: World, accept: str, kind: str) -> None:
    response = await here.get(account_path("/nothing"), accept=accept)
    assert (response.status, response.problem) == (404, "unknown-resource")
    assert response.header("content-type") == f"application/problem+{kind}"
    if kind == "json":
        said = response.json()
        assert (said["status"], said["request_id"]) == (404, response.header("x-request-id"))
    else:
        ET.fromstring(response.body)  # noqa: S314


async def test_a_public_url_with_a_path(tmp_path: Path) -> None:
    async with world(tmp_path, public_url=f"{PUBLIC_URL}/gw") as it:
        response = await it.get("/gw" + account_path())
        links = dict(links_of(response.json()))
        assert links["self"] == f"{PUBLIC_URL}/gw/api/account/123"
        assert path_of(links["self"]).startswith("/gw/")
        assert (await it.get(links["chat-availability"])).status == 200
        # Behind something that strips the prefix it is not there.
        assert (await it.get(account_path())).status == 200
