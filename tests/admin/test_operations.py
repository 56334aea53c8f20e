"""What operators may say, and above all what they may say wrong: always a 400 with what was expected."""

from __future__ import annotations

import asyncio
import io
import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.config.settings import Settings
from gateway.configuration import configure
from gateway.demo.stage import ACCOUNT, ISSUER, set_stage
from gateway.identity.revocations import Revocations
from gateway.observe.logs import logger
from gateway.operate import Operations
from gateway.reloading import Reloaded
from tests.simulation import APP_KEY, EPOCH, PUBLIC_URL, Simulation
from tests.virtual import simulate

INFO = f"/api/account/{ACCOUNT}/chat/H1-2K3/info"
BFF = {"iss": ISSUER, "sub": "bff"}
NAMING = "https://naming.example"
Said = Mapping[str, Any]


class Desk:
    """Operations over a simulated road; `journal` is where revocations are written."""

    def __init__(self, said: Settings, journal: Path) -> None:
        self.settings = said
        self.world = Simulation()
        self.world.state = replace(self.world.state, max_body_bytes=said.max_body_bytes)
        self.reloaded = Reloaded()
        self.revocations = Revocations(None, journal, lambda: EPOCH)
        self.log = io.StringIO()
        self.operations = Operations(
            exchange=self.world.exchange,
            revocations=self.revocations,
            settings=lambda: self.settings,
            clients=lambda: {client.name for client in self.world.state.policies.clients},
            prefix=lambda: b"/chats",
            read_again=self.reload,
            log=logger("info", self.log),
        )

    async def reload(self) -> Reloaded:
        return self.reloaded


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Settings with a second issuer, whose tokens name their client."""
    address = "127.0.0.1:0"
    stage = set_stage(
        tmp_path_factory.mktemp("stage"),
        listen=address,
        admin_listen=address,
        public_url=PUBLIC_URL,
        upstream_url="https://upstream.example",
        app_key=APP_KEY,
        max_body_bytes=1024,
    )
    read = configure(stage.config, {}).settings
    naming = read.issuers[0].model_copy(update={"issuer": NAMING, "client_claim": "azp"})
    return read.model_copy(update={"issuers": (*read.issuers, naming)})


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    return tmp_path / "journal"


def explained(said: Settings, journal: Path, *questions: Said) -> list[tuple[int, Any]]:
    """What is answered to each, as JSON can say it."""

    async def ask() -> list[tuple[int, Any]]:
        desk = Desk(said, journal)
        answers = [await desk.operations.explain(question) for question in questions]
        assert not desk.world.upstream.sent
        assert not desk.world.log.getvalue()
        return [(status, json.loads(json.dumps(answer))) for status, answer in answers]

    return simulate(ask())


async def revoked(desk: Desk, record: Said) -> tuple[int, Any]:
    """On a loop that waits: the journal is written in a thread."""
    return await desk.operations.revoke(record)


# -- explain: what cannot be read ----------------------------------------------------------------------------

TEXT_EXPECTED = "expected a text, got"
TARGET_EXPECTED = "path: expected path and query as in a request line"
NAMES_EXPECTED = "headers: expected names of header fields, got"
ASCII_EXPECTED = "expected a text of printable ASCII, got another"
BAD: dict[str, tuple[Said, str]] = {
    "nothing": ({}, f"path: {TEXT_EXPECTED} nothing"),
    "an unknown member": (
        {"path": INFO, "pfad": 1},
        "expected only body, claims, headers, method, path, token",
    ),
    "a long unknown member": ({"x" * 10_000: 1}, f"got '{'x' * 40}'"),
    "a path that is a number": ({"path": 1}, f"path: {TEXT_EXPECTED} a number"),
    "a path that is nothing": ({"path": None}, f"path: {TEXT_EXPECTED} nothing"),
    "a path without its slash": ({"path": INFO[1:]}, TARGET_EXPECTED),
    "an empty path": ({"path": ""}, TARGET_EXPECTED),
    "a whole URL": ({"path": PUBLIC_URL + INFO}, TARGET_EXPECTED),
    "a space in the path": ({"path": f"{INFO} HTTP/1.1"}, TARGET_EXPECTED),
    "lines in the path": ({"path": f"{INFO}\r\nx: y"}, TARGET_EXPECTED),
    "the end of a line": ({"path": f"{INFO}\n"}, TARGET_EXPECTED),
    "a fragment": ({"path": f"{INFO}#top"}, TARGET_EXPECTED),
    "umlauts in the path": ({"path": "/äpi"}, TARGET_EXPECTED),
    "a surrogate in the path": ({"path": "/\ud800"}, TARGET_EXPECTED),
    "another method": ({"path": INFO, "method": "BREW"}, "method: expected one of DELETE, GET, HEAD"),
    "a method in small letters": ({"path": INFO, "method": "get"}, "method: expected one of"),
    "a preflight": ({"path": INFO, "method": "OPTIONS"}, "method: expected one of"),
    "a method that is a list": ({"path": INFO, "method": ["GET"]}, f"method: {TEXT_EXPECTED} an array"),
    "a body that is an object": ({"path": INFO, "body": {}}, f"body: {TEXT_EXPECTED} an object"),
    "a surrogate in the body": (
        {"path": INFO, "body": "\udfff"},
        "body: expected a text that UTF-8 can spell",
    ),
    "headers as a list": ({"path": INFO, "headers": []}, "headers: expected an object, got an array"),
    "a header that is a number": ({"path": INFO, "headers": {"accept": 1}}, "accept: expected a text of"),
    "a header that is a list": ({"path": INFO, "headers": {"accept": ["x"]}}, "got an array"),
    "lines in a header": ({"path": INFO, "headers": {"accept": "x\r\nhost: y"}}, f"accept: {ASCII_EXPECTED}"),
    "a NUL in a header": ({"path": INFO, "headers": {"accept": "\0"}}, f"accept: {ASCII_EXPECTED}"),
    "umlauts in a header": ({"path": INFO, "headers": {"accept": "ä"}}, f"accept: {ASCII_EXPECTED}"),
    "a surrogate in a header": ({"path": INFO, "headers": {"accept": "\ud800"}}, f"accept: {ASCII_EXPECTED}"),
    "lines in a header's name": ({"path": INFO, "headers": {"x\r\ny": "z"}}, f"{NAMES_EXPECTED} 'x\\r\\ny'"),
    "a header without a name": ({"path": INFO, "headers": {"": "z"}}, f"{NAMES_EXPECTED} ''"),
    "a surrogate in a header's name": ({"path": INFO, "headers": {"\ud800": "z"}}, NAMES_EXPECTED),
    "a token that is a number": ({"path": INFO, "token": 5}, f"token: {TEXT_EXPECTED} a number"),
    "lines in the token": ({"path": INFO, "token": "a\r\nb"}, f"token: {ASCII_EXPECTED}"),
    "a surrogate in the token": ({"path": INFO, "token": "\ud800"}, f"token: {ASCII_EXPECTED}"),
    "two tokens": (
        {"path": INFO, "token": "a", "headers": {"Authorization": "Bearer b"}},
        "headers: expected no authorization beside token",
    ),
    "a token and claims": (
        {"path": INFO, "token": "a", "claims": BFF},
        "claims: expected no token beside them",
    ),
    "claims and a header": (
        {"path": INFO, "claims": BFF, "headers": {"authorization": "Bearer b"}},
        "headers: expected no authorization beside claims",
    ),
    "claims as a text": ({"path": INFO, "claims": "bff"}, "claims: expected an object, got a string"),
    "claims that are nothing": ({"path": INFO, "claims": None}, "claims: expected an object, got nothing"),
    "claims of nobody": ({"path": INFO, "claims": {}}, f"claims.iss: {TEXT_EXPECTED} nothing"),
    "claims of a number": ({"path": INFO, "claims": {"iss": 1}}, f"claims.iss: {TEXT_EXPECTED} a number"),
    "a subject that is a list": ({"path": INFO, "claims": {**BFF, "sub": []}}, "claims.sub: expected a text"),
    "a jti that is nothing": ({"path": INFO, "claims": {**BFF, "jti": None}}, "claims.jti: expected a text"),
    "no client where its issuer names one": (
        {"path": INFO, "claims": {"iss": NAMING}},
        "claims.azp: expected",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_a_question_that_cannot_be_read_is_told_what_was_expected(
    said: Settings, journal: Path, name: str
) -> None:
    question, expected = BAD[name]
    ((status, answer),) = explained(said, journal, question)
    assert status == 400
    (fault,) = answer["faults"]
    assert expected in fault
    assert len(fault) < 250


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
#: The members that a question or a record can have, with what may be and with anything.
MEMBERS = {
    "method": st.sampled_from(["GET", "PUT", "POST"]) | JSON,
    "path": st.sampled_from([INFO, f"/api/account/{ACCOUNT}/chat/request"]) | st.text() | JSON,
    "headers": st.dictionaries(
        st.sampled_from(["accept", "Accept", "content-type", "host"]) | st.text(), JSON | st.text()
    )
    | JSON,
    "body": st.sampled_from(['{"request": {}}', "<request/>"]) | JSON,
    "token": st.text() | JSON,
    "claims": st.dictionaries(
        st.sampled_from(["iss", "sub", "azp", "jti"]), st.sampled_from([ISSUER, NAMING, "bff"]) | JSON
    )
    | JSON,
}
RECORDS = {
    "jti": st.text() | JSON,
    "sub": st.text() | JSON,
    "client": st.text() | JSON,
    "issuer": st.just(ISSUER) | JSON,
    "until": st.integers() | JSON,
    "withdrawn": st.booleans() | JSON,
    "note": st.text() | JSON,
}
ANYTHING = st.dictionaries(st.text(), JSON, max_size=2)


def among(members: Mapping[str, st.SearchStrategy[Any]]) -> st.SearchStrategy[dict[str, Any]]:
    known = st.fixed_dictionaries({}, optional=dict(members))
    return st.builds(lambda some, other: {**other, **some}, known, st.just({}) | ANYTHING)


@given(among(MEMBERS))
@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_whatever_is_asked_is_answered(said: Settings, journal: Path, question: Said) -> None:
    ((status, answer),) = explained(said, journal, question)
    assert status in {200, 400}
    assert ("faults" in answer) == (status == 400)


@given(among(RECORDS))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_whatever_is_to_be_revoked_is_answered(said: Settings, journal: Path, record: Said) -> None:
    status, answer = asyncio.run(revoked(Desk(said, journal), record))
    json.dumps(answer)
    assert status in {201, 400}


# -- explain: what is read -----------------------------------------------------------------------------------


def outcome(said: Settings, journal: Path, **question: Any) -> Any:
    ((status, answer),) = explained(said, journal, {"path": INFO, **question})
    assert status == 200
    return answer


def test_a_path_is_enough(said: Settings, journal: Path) -> None:
    assert outcome(said, journal)["outcome"] == "token-missing"


@pytest.mark.parametrize(
    "caller", [{"token": "bff"}, {"headers": {"AUTHORIZATION": "Bearer bff"}}, {"claims": BFF}]
)
def test_there_are_three_ways_to_say_who_asks(said: Settings, journal: Path, caller: Said) -> None:
    answer = outcome(said, journal, **caller)
    assert (answer["outcome"], answer["client"], answer["rule"]) == ("miss", "bff", "bff/allow/chat:read")
    assert answer["upstream_request"]["target"] == f"{INFO}?v=1&NC=true"


def test_the_public_prefix_may_be_there_or_not(said: Settings, journal: Path) -> None:
    for path in (INFO, f"/chats{INFO}"):
        assert outcome(said, journal, path=path, token="bff")["cache_key"]["path"] == INFO


def test_a_field_that_is_doubled_is_refused_as_on_the_wire(said: Settings, journal: Path) -> None:
    answer = outcome(said, journal, token="bff", headers={"Host": "a", "host": "b"})
    assert (answer["outcome"], answer["client"]) == ("malformed-header", None)


def test_a_field_that_is_not_read_is_sent_nowhere(said: Settings, journal: Path) -> None:
    answer = outcome(said, journal, token="bff", headers={"X-Evil": "cookie", "Cookie": "evil"})
    assert "evil" not in json.dumps(answer).lower()


def test_the_visitors_address_comes_by_its_header(said: Settings, journal: Path) -> None:
    start: dict[str, Any] = {
        "method": "POST",
        "path": f"/api/account/{ACCOUNT}/chat/request",
        "token": "bff",
        "body": '{"request": {}}',
    }
    json_body = {"content-type": "application/json"}
    assert outcome(said, journal, **start, headers=json_body)["outcome"] == "visitor-ip-missing"
    forwarded = {**json_body, "x-forwarded-for": "198.51.100.1, 203.0.113.7"}
    answer = outcome(said, journal, **start, headers=forwarded)
    assert answer["outcome"] == "write"
    assert answer["upstream_request"]["body_bytes"] == len('{"request": {"visitorIp":"203.0.113.7"}}')


def test_a_body_is_as_long_as_it_may_be(said: Settings, journal: Path) -> None:
    write = {"method": "PUT", "path": f"{INFO}/visitorName", "token": "bff"}
    named = {"content-type": "application/json"}
    for size, expected in ((1024, "write"), (1025, "body-too-large")):
        body = json.dumps({"visitorName": ""}).ljust(size)
        assert outcome(said, journal, **write, headers=named, body=body)["outcome"] == expected


def test_a_client_is_who_its_issuer_names(said: Settings, journal: Path) -> None:
    """Where nobody's policy has that issuer, no client can match."""
    assert outcome(said, journal, claims={"iss": NAMING, "azp": "bff"})["outcome"] == "no-client"
    named = said.model_copy(update={"issuers": (said.issuers[0].model_copy(update={"client_claim": "azp"}),)})
    for azp, expected in (("bff", "miss"), ("partner", "no-client")):
        assert outcome(named, journal, claims={**BFF, "azp": azp})["outcome"] == expected


def test_claims_of_a_token_that_was_revoked_are_no_good(said: Settings, journal: Path) -> None:
    record = {"sub": "bff", "issuer": ISSUER}
    assert asyncio.run(revoked(Desk(said, journal), record))[0] == 201
    answer = outcome(said, journal, claims=BFF)
    assert answer["outcome"] == "token-revoked"
    assert answer["steps"][-1]["says"].startswith("401 token-revoked")
    assert outcome(said, journal, claims={**BFF, "sub": "internal"})["outcome"] == "miss"


def test_no_token_comes_back(said: Settings, journal: Path) -> None:
    token = "eyJhbGciOiJFUzI1NiJ9.c2VjcmV0.c2lnbmF0dXJl"
    for path in (INFO, f"{INFO}?appKey={token}", f"{INFO}?_={token}"):
        for caller in (
            {"token": token},
            {"token": "bff", "headers": {"X-Request-ID": token, "cookie": token}},
        ):
            assert token not in json.dumps(outcome(said, journal, **{"path": path, **caller}))


# -- revoke and reload ---------------------------------------------------------------------------------------


def test_a_revocation_is_written_down_when_it_is_confirmed(said: Settings, journal: Path) -> None:
    desk, record = Desk(said, journal), {"client": "partner", "note": "laptop lost"}
    assert asyncio.run(revoked(desk, record)) == (201, {"revoked": record, "warnings": []})
    assert '"partner"' in journal.read_text()
    assert desk.revocations.is_client_revoked("partner")


@pytest.mark.parametrize(
    "record",
    [
        {},
        {"client": 5},
        {"client": ""},
        {"client": "partner", "issuer": ISSUER},
        {"sub": "bff"},
        {"sub": "bff", "jti": "1", "issuer": ISSUER},
        {"jti": "\ud800", "issuer": ISSUER},
        {"jti": "x" * 100_000, "issuer": ISSUER},
        {"client": "partner", "until": "tomorrow"},
        {"client": "partner", "until": 1},
        {"client": "partner", "until": 10**400},
        {"client": "partner", "withdrawn": True},
        {"client": "partner", "withdrawn": False},
        {"client": "partner", "surprise": 1},
        {"client": "partner", "note": "two\nlines"},
    ],
)
def test_a_record_that_is_unfit_is_told_what_was_expected(
    said: Settings, journal: Path, record: Said
) -> None:
    status, answer = asyncio.run(revoked(Desk(said, journal), record))
    assert status == 400
    assert answer["faults"]
    assert all("expected" in fault and len(fault) < 250 for fault in answer["faults"])
    assert not journal.exists() or not journal.read_text()


def test_what_cannot_be_written_down_is_not_confirmed(said: Settings, tmp_path: Path) -> None:
    folder = tmp_path / "journals"
    folder.mkdir()
    desk = Desk(said, folder / "journal")
    shutil.rmtree(folder)
    status, answer = asyncio.run(revoked(desk, {"client": "partner"}))
    assert status == 500
    (fault,) = answer["faults"]
    assert fault.startswith("expected to write the record down, got: ")


@pytest.mark.parametrize(
    ("done", "status"),
    [(Reloaded(), 200), (Reloaded(True, (), ("listen",)), 200), (Reloaded(mistakes=("x",)), 409)],
)
def test_a_reload_says_what_came_of_it(said: Settings, journal: Path, done: Reloaded, status: int) -> None:
    async def reload() -> tuple[int, object]:
        desk = Desk(said, journal)
        desk.reloaded = done
        return await desk.operations.reload()

    assert simulate(reload()) == (
        status,
        {"changed": done.changed, "mistakes": done.mistakes, "needs_restart": done.needs_restart},
    )
