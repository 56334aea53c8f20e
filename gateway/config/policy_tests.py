"""`policies/tests/*.yaml`: what operators expect of their policies, and whether it is so.

A test says what a token claims and what is asked with it. Tokens are taken as verified, and nothing but the
policies is looked at: no limits, no revocations, no upstream.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import PlainValidator, model_validator

from gateway.config.checking import Model, Wrong, check, one_of, refuse_any, text, written_as, wrong
from gateway.config.clients import NAME, Fields, perhaps
from gateway.config.documents import Document, read_file, reason_of
from gateway.config.mistakes import Mistake, dotted, quoted, shown, tidy
from gateway.config.settings import Settings
from gateway.core.access import ALLOW, Claims
from gateway.core.errors import Reason
from gateway.core.judgement import Granted, judge
from gateway.core.messages import Representation
from gateway.core.paths import PREFIX, Line
from gateway.core.policy import Client, Policies
from gateway.core.views import KNOWN_FIELDS

#: What a test may be called.
TEST_NAME = r"[^\x00-\x1f\x7f]{1,120}"

#: Refusals by a rule of the client, and those that come before any.
_BY_RULE = (Reason.ACCOUNT_DENIED, Reason.ACTION_DENIED, Reason.CHAT_DENIED, Reason.FIELD_DENIED)
_BEFORE_RULES = (
    *(Reason.NO_CLIENT, Reason.AMBIGUOUS, Reason.UNKNOWN_RESOURCE, Reason.METHOD_NOT_ALLOWED),
    *(Reason.NOT_ACCEPTABLE, Reason.MALFORMED_TARGET, Reason.MALFORMED_QUERY),
)
RULED = (ALLOW, *(reason.slug for reason in _BY_RULE))
OUTCOMES = (*RULED, *(reason.slug for reason in _BEFORE_RULES))

_ACCOUNT = re.compile(PREFIX + r"([A-Za-z0-9]{1,64})")


# -- what may be written -----------------------------------------------------------------------------------


def _claims(value: object) -> Mapping[str, object]:
    if not isinstance(value, dict):
        wrong("a map of claims, iss among them")
    if not isinstance(value.get("iss"), str):
        wrong("a text", got=shown((), value.get("iss")), at=("iss",))
    return value


_CLAIMS_SCHEMA = written_as(type="object", properties={"iss": {"type": "string"}}, required=["iss"])


class ExpectRow(Model):
    """What shall come of the request. Views are looked at only where it is allowed."""

    outcome: Annotated[str, one_of(OUTCOMES)]
    rule: Annotated[str | None, text("a rule as partner/allow/chat:read", rf"{NAME}/.{{1,128}}")] = None
    client: Annotated[str | None, text("the name of a client", NAME)] = None
    shows: Fields = ()
    hides: Fields = ()

    @model_validator(mode="after")
    def _fits_together(self) -> ExpectRow:
        refuse_any(self._misfits())
        return self

    def _misfits(self) -> Iterator[Wrong]:
        if self.outcome in RULED and self.rule is None:
            yield Wrong(f"the rule that says {self.outcome}", "nothing", ("rule",))
        if self.outcome not in RULED and self.rule is not None:
            yield Wrong(f"no such key, as no rule says {self.outcome}", self.rule, ("rule",))
        for key in ("shows", "hides"):
            if self.outcome != ALLOW and key in self.model_fields_set:
                yield Wrong(f"no such key, as nothing is shown after {self.outcome}", "a list", (key,))


class CaseRow(Model):
    """One test: the claims of a token, a request, and what shall come of it."""

    claims: Annotated[Mapping[str, Any], PlainValidator(_claims, _CLAIMS_SCHEMA)]
    client: Annotated[str | None, text("the name of a client", NAME)] = None
    request: Annotated[
        str,
        text("a method and a path, as GET /api/account/123/chat/H1-2K3/info", r"[A-Z]{1,16} /[!-~]{0,2000}"),
    ]
    accept: Annotated[str | None, text("the value of an Accept field", r"[ -~]{1,256}")] = None
    expect: ExpectRow


@dataclass(frozen=True, slots=True)
class PolicyTest:
    """A test, and where it was written."""

    file: str
    line: int
    name: str
    row: CaseRow

    def failure(self, expected: str, got: str) -> Mistake:
        return Mistake(self.file, self.line, self.name, expected, got)


def read_tests(folder: Path, shown_as: str = "") -> tuple[tuple[PolicyTest, ...], tuple[Mistake, ...]]:
    """The tests in `tests/*.yaml` of a folder of policies, and what is wrong with them.

    `shown_as` stands before the files' names in the mistakes.
    """
    name = f"{shown_as}tests"
    try:
        files = sorted(path for path in (folder / "tests").iterdir() if not path.name.startswith("."))
    except OSError as error:
        return (), (Mistake(name, 0, "", "a readable folder", reason_of(error)),)
    tests: list[PolicyTest] = []
    mistakes: list[Mistake] = []
    for path in files:
        if path.suffix == ".yaml":
            found, more = _read_file(path, f"{name}/{path.name}")
            tests += found
            mistakes += more
        elif path.suffix == ".yml":
            mistakes.append(Mistake(f"{name}/{path.name}", 0, "", "a name that ends in .yaml", ".yml"))
    if not tests and not mistakes:
        mistakes.append(Mistake(name, 0, "", "a file *.yaml with a test", "none"))
    return tuple(tests), tidy(mistakes)


def _read_file(path: Path, name: str) -> tuple[list[PolicyTest], list[Mistake]]:
    document, mistakes = read_file(path, name)
    if document.data is None and mistakes:
        return [], mistakes
    sections = document.data if isinstance(document.data, dict) else {}
    table = sections.get("tests")
    mistakes += [document.mistake((key,), "tests", dotted((key,))) for key in sections if key != "tests"]
    if not isinstance(table, dict) or not table:
        got = "an empty one" if table == {} else shown((), table)
        return [], [*mistakes, document.mistake(("tests",), "a map with at least one test", got)]
    tests: list[PolicyTest] = []
    for key in table:
        row = check(CaseRow, document, ("tests", key), {})
        if not re.fullmatch(TEST_NAME, key):
            mistakes.append(
                document.mistake(("tests", key), "a name of 1 to 120 printable characters", quoted(key))
            )
        elif isinstance(row, list):
            mistakes += row
        else:
            tests.append(PolicyTest(*document.where(("tests", key)), key, row))
            mistakes += _doubtful_fields(row.expect, document, key)
    return tests, mistakes


def _doubtful_fields(expect: ExpectRow, document: Document, test: str) -> Iterator[Mistake]:
    """A list of shown fields hides whatever is misspelt here, and the test would be none."""
    for key, names in (("shows", expect.shows), ("hides", expect.hides)):
        for index, name in enumerate(names):
            if name not in KNOWN_FIELDS:
                expected = "a field that the upstream is known to send" + perhaps(name, sorted(KNOWN_FIELDS))
                doubt = document.mistake(("tests", test, "expect", key, index), expected, quoted(name))
                yield replace(doubt, severity="warning")


# -- whether it is so --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Decision:
    """What comes of a test's request: `allow` or a reason's slug, for which client, by which rule."""

    outcome: str
    client: Client | None = None
    rule: str | None = None

    @property
    def told(self) -> str:
        return _told(self.outcome, self.rule)


def _told(outcome: str, rule: str | None) -> str:
    return outcome if rule is None else f"{outcome} by {rule}"


def decide(row: CaseRow, policies: Policies, settings: Settings | None = None) -> Decision:
    """What the policies make of a request.

    Without settings every account is configured, and a token names its client where the test says so.
    """
    claims = Claims(row.claims, math.inf, client=_named(row, settings))
    default = Representation.JSON if settings is None else settings.default_representation
    accounts = _accounts(row, settings)
    judged = judge(claims, _line(row), policies, accounts=accounts, default=default, is_revoked=_nobody)
    if isinstance(judged, Granted):
        return Decision(ALLOW, judged.client, judged.grant.rule)
    return Decision(judged.refusal.reason.slug, judged.client, judged.refusal.rule)


def _nobody(_: str) -> bool:
    return False


def _named(row: CaseRow, settings: Settings | None) -> str | None:
    if settings is None:
        return row.client
    claim = {issuer.issuer: issuer.client_claim for issuer in settings.issuers}.get(row.claims["iss"])
    return None if claim is None else str(row.claims.get(claim, row.client or ""))


def _line(row: CaseRow) -> Line:
    method, _, target = row.request.partition(" ")
    path, _, query = target.partition("?")
    accept = None if row.accept is None else row.accept.encode()
    return Line(method, path.encode(), query.encode(), accept, None)


def _accounts(row: CaseRow, settings: Settings | None) -> frozenset[str]:
    if settings is not None:
        return frozenset(settings.accounts)
    found = _ACCOUNT.match(row.request.partition(" ")[2])
    return frozenset(found.groups() if found else ())


@dataclass(frozen=True, slots=True)
class Ran:
    """How tests went. `untouched` has a warning for each client and rule that none of them met."""

    failures: tuple[Mistake, ...]
    untouched: tuple[Mistake, ...]


def run_tests(
    tests: Iterable[PolicyTest], policies: Policies, settings: Settings | None = None, shown_as: str = ""
) -> Ran:
    """Ask the policies. With settings, their accounts and issuers count."""
    decided = [(test, decide(test.row, policies, settings)) for test in tests]
    failures = [failure for test, decision in decided for failure in _failures(test, decision)]
    met = {decision.rule for _, decision in decided}
    met |= {decision.client.name for _, decision in decided if decision.client is not None}
    untouched = (rule for client in policies.clients for rule in _untouched(client, met))
    place = f"{shown_as}tests"
    return Ran(
        tuple(failures),
        tuple(
            Mistake(place, 0, rule, "a test that meets it", "none", severity="warning") for rule in untouched
        ),
    )


def _failures(test: PolicyTest, decision: Decision) -> Iterator[Mistake]:
    expect = test.row.expect
    client = decision.client
    name = "none" if client is None else client.name
    if (expect.outcome, expect.rule) != (decision.outcome, decision.rule):
        yield test.failure(_told(expect.outcome, expect.rule), decision.told)
    if expect.client not in {None, name}:
        yield test.failure(f"client {expect.client}", name)
    if client is None:
        return
    for field in expect.shows:
        if not client.view.shows(field):
            yield test.failure(f"{field} shown to {name}", "it withheld")
    for field in expect.hides:
        if client.view.shows(field):
            yield test.failure(f"{field} withheld from {name}", "it shown")


def _untouched(client: Client, met: set[str | None]) -> Iterator[str]:
    if client.name not in met:
        return iter((client.name,))
    return (rule for rule in _rules(client) if rule not in met)


def _rules(client: Client) -> Iterator[str]:
    """What can decide about a client's requests and was written down for that."""
    yield from (f"{client.name}/allow/{entry}" for entry in client.allow)
    yield from (f"{client.name}/deny/{entry}" for entry in client.deny)
    if client.accounts is not None:
        yield f"{client.name}/accounts"
    if client.chats is not None:
        yield f"{client.name}/chats"
