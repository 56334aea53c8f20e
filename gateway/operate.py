"""What operators ask of a running gateway, as the private listener takes it: JSON in, status and JSON out."""

from __future__ import annotations

import math
import re
from collections.abc import Awaitable, Callable, Collection, Iterator
from dataclasses import dataclass

from structlog.typing import FilteringBoundLogger

from gateway.admin.web import Outcome, Said
from gateway.config.settings import Settings
from gateway.core.access import Claims
from gateway.core.errors import Reason, Refusal
from gateway.core.headers import Fields, read
from gateway.core.messages import Chat
from gateway.core.peers import peer_and_visitor
from gateway.core.policy import IDS
from gateway.core.requests import Request
from gateway.edge.web import below
from gateway.exchange import Exchange
from gateway.explain import Explanation, explain
from gateway.identity.documents import type_name
from gateway.identity.records import RevocationsError
from gateway.identity.revocations import Revocations
from gateway.identity.tokens import Fault
from gateway.observe.logs import hashed
from gateway.reloading import Reloaded

#: What `explain` understands. A token, or claims in its place.
_ASKED = ("body", "claims", "headers", "method", "path", "token")
_PURGED = ("account", "all", "chat")
_CHAT = re.compile(IDS["{chat}"])
#: Without OPTIONS: browsers ask with that, and the edge answers them.
_METHODS = ("DELETE", "GET", "HEAD", "PATCH", "POST", "PUT")
# What of a request line and of fields the HTTP server lets through, as far as JSON should have to spell it.
_TARGET = re.compile(r"/[!-\"$-~]*")
_FIELD_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_FIELD_VALUE = re.compile(r"[\t -~]*")


class Unclear(ValueError):
    """A question that cannot be read; the text says what was expected."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Operations:
    """The calls that need more than a look at a table. The callables are asked each time."""

    exchange: Exchange
    revocations: Revocations
    settings: Callable[[], Settings]
    clients: Callable[[], Collection[str]]
    prefix: Callable[[], bytes]
    read_again: Callable[[], Awaitable[Reloaded]]
    log: FilteringBoundLogger

    async def reload(self) -> Outcome:
        """Read everything again, now."""
        done = await self.read_again()
        said = {
            "changed": done.changed,
            "mistakes": done.mistakes,
            "needs_restart": done.needs_restart,
        }
        return 409 if done.mistakes else 200, said

    async def revoke(self, said: Said) -> Outcome:
        """Take a record of a revocation; confirmed only once it is written down."""
        try:
            shared = await self.revocations.record(said)
        except RevocationsError as error:
            return 400, {"faults": error.faults}
        except OSError as error:
            return 500, {"faults": [error.strerror or "expected to write the record down, and could not"]}
        warnings = list(self._doubts(said))
        kind = next(name for name in ("jti", "sub", "client") if name in said)
        self.log.warning(
            "revocation recorded",
            kind=kind,
            withdrawn="withdrawn" in said,
            warnings=len(warnings),
            **({} if shared is None else {"shared": shared}),
        )
        answer: dict[str, object] = {"revoked": said, "warnings": warnings}
        return 201, answer if shared is None else answer | {"shared": shared}

    def _doubts(self, said: Said) -> Iterator[str]:
        """What a typing error would look like. It is taken all the same: policies may come later."""
        if "client" in said and said["client"] not in self.clients():
            yield "client: expected one in force, got another: nobody is refused by this now"
        issuers = {row.issuer for row in self.settings().issuers}
        if "issuer" in said and said["issuer"] not in issuers:
            yield "issuer: expected one of the settings, got another: nobody is refused by this now"

    async def purge(self, said: Said) -> Outcome:
        """Let go what is kept of a chat, of an account, or of all."""
        try:
            account, chat = self._meant(said)
        except Unclear as error:
            return 400, {"faults": [str(error)]}
        purged, shared = await self.exchange.purge(account, chat)
        self.log.warning(
            "purged",
            account=account,
            chat=None if chat is None else hashed(chat),
            entries=purged,
            **({} if shared is None else {"shared": shared}),
        )
        return 200, {"purged": purged, "shared": shared}

    def _meant(self, said: Said) -> tuple[str | None, Chat | None]:
        """What is to be purged. Raises Unclear."""
        for name in said:
            if name not in _PURGED:
                raise Unclear(f"expected only {', '.join(_PURGED)}, got {name[:40]!a}")
        if "all" in said:
            if len(said) > 1 or said["all"] is not True:
                raise Unclear("all: expected true, and nothing beside it, got something else")
            return None, None
        account = _text(said, "account")
        if account not in self.settings().accounts:
            raise Unclear("account: expected one of the settings, got another")
        if "chat" not in said:
            return account, None
        chat = _text(said, "chat")
        if not _CHAT.fullmatch(chat):
            raise Unclear("chat: expected the id of a chat, got something else")
        return account, Chat(account, chat)

    async def explain(self, said: Said) -> Outcome:
        """What would happen to the request that is described."""
        try:
            request, claims = self._request(said), self._claims(said)
        except Unclear as error:
            return 400, {"faults": [str(error)]}
        # The head comes before the token.
        if isinstance(request, Refusal):
            return 200, Explanation.of(request).document()
        if isinstance(claims, Refusal):
            return 200, Explanation.of(claims).document()
        return 200, (await explain(self.exchange, request, claims)).document()

    def _request(self, said: Said) -> Request | Refusal:
        for name in said:
            if name not in _ASKED:
                raise Unclear(f"expected only {', '.join(_ASKED)}, got {name[:40]!a}")
        method, body = _text(said, "method", "GET"), _text(said, "body", "")
        if method not in _METHODS:
            raise Unclear(f"method: expected one of {', '.join(_METHODS)}, got another")
        path, _, query = _target(said).partition(b"?")
        fields = _fields(said)
        if isinstance(fields, Refusal):
            return fields
        raw = _utf8(body)

        async def whole_body(max_bytes: int) -> bytes | Refusal:
            return Refusal(Reason.BODY_TOO_LARGE) if len(raw) > max_bytes else raw

        # As from a client that no proxy stands before.
        _, visitor = peer_and_visitor("", fields.get(b"x-forwarded-for"), ())
        return Request(
            "explain",
            method,
            below(self.prefix(), path),
            query,
            fields,
            whole_body,
            peer=None,
            visitor=visitor,
        )

    def _claims(self, said: Said) -> Claims | Refusal | None:
        """Claims in place of a token, taken as verified; revoked they may be all the same."""
        if "claims" not in said:
            return None
        claims = said["claims"]
        if not isinstance(claims, dict):
            raise Unclear(f"claims: expected an object, got {type_name(claims)}")
        if "token" in said:
            raise Unclear("claims: expected no token beside them, got one")
        issuer = _claim(claims, "iss")
        jti, sub = (_claim(claims, name) if name in claims else None for name in ("jti", "sub"))
        naming = {row.issuer: row.client_claim for row in self.settings().issuers}.get(issuer)
        client = None if naming is None else _claim(claims, naming)
        if self.revocations.is_revoked(issuer, jti, sub):
            return Refusal(Reason.TOKEN_REVOKED, because=Fault.REVOKED.value)
        return Claims(claims, math.inf, client=client)


def _target(said: Said) -> bytes:
    target = _text(said, "path")
    if not _TARGET.fullmatch(target):
        raise Unclear(
            "path: expected path and query as in a request line, from the first slash on, in ASCII and"
            " without spaces, got something else"
        )
    return target.encode()


def _fields(said: Said) -> Fields | Refusal:
    headers = said.get("headers", {})
    if not isinstance(headers, dict):
        raise Unclear(f"headers: expected an object, got {type_name(headers)}")
    pairs = [(name.lower().encode(), value.encode()) for name, value in map(_field, headers.items())]
    caller = [name for name in ("token", "claims") if name in said]
    if caller and any(name == b"authorization" for name, _ in pairs):
        raise Unclear(f"headers: expected no authorization beside {caller[0]}, got one")
    if "token" in said:
        _, token = _field(("token", _text(said, "token")))
        pairs.append((b"authorization", b"Bearer " + token.encode()))
    return read(pairs)


def _field(pair: tuple[str, object]) -> tuple[str, str]:
    name, value = pair
    if not _FIELD_NAME.fullmatch(name):
        raise Unclear(f"headers: expected names of header fields, got {name[:40]!a}")
    if not isinstance(value, str) or not _FIELD_VALUE.fullmatch(value):
        got = "another" if isinstance(value, str) else type_name(value)
        raise Unclear(f"{name[:40]}: expected a text of printable ASCII, got {got}")
    return name, value


def _utf8(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise Unclear("body: expected a text that UTF-8 can spell, got a lone surrogate") from None


def _claim(claims: Said, name: str) -> str:
    value = claims.get(name)
    if not isinstance(value, str):
        raise Unclear(f"claims.{name}: expected a text, got {type_name(value)}")
    return value


def _text(said: Said, name: str, default: str | None = None) -> str:
    value = said.get(name, default)
    if not isinstance(value, str):
        raise Unclear(f"{name}: expected a text, got {type_name(value)}")
    return value
