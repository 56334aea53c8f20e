"""From the raw request line to a target, in one place.

Nothing is decoded before it is matched: an id, a segment, a method either has its exact spelling or it
does not exist. So a target is the same for every spelling that is let through, and what is sent upstream
is built from it.

Source of the grammar: the vendor's method pages; for ids, `core.policy.IDS`.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from urllib.parse import quote, unquote_to_bytes

from gateway.core.errors import Reason, Refusal
from gateway.core.messages import Chat, Key, Representation
from gateway.core.policy import NO_SHAPE, Policies, Resource

PREFIX = "/api/account/"
#: Where the public surface is described to whoever is a client.
DESCRIPTION = "/openapi.json"
_PREFIX_SLASHES = PREFIX.count("/")

#: Query names that carry nothing of the resource: credentials, and what clients add to get past caches.
DROPPED = frozenset({"appKey", "__d", "cb", "_"})

_PATH = re.compile(rb"/|(?:/[A-Za-z0-9._-]++)++")
_IN_ACCOUNT = re.compile(r"[A-Za-z0-9]{1,64}(?:\.json)?(?:/|\Z)")


@dataclass(frozen=True, slots=True)
class Target:
    """A request, parsed.

    `method` is the effective one: GET for HEAD, PUT for a POST that says so. `path` and `query` are
    canonical and hold only what was matched; together with `representation` they are the cache key.
    `streamed`: what changes is to be told, in messages of that representation.
    """

    method: str
    account: str
    chat: Chat | None
    resource: Resource
    representation: Representation
    path: str
    query: str
    dropped: bool
    streamed: bool = False

    @property
    def action(self) -> str:
        return self.resource.methods[self.method]

    @property
    def is_read(self) -> bool:
        return self.method == "GET"

    @property
    def whose(self) -> str:
        """The chat it is about, or what else: what fails for one may not for another."""
        return self.path if self.chat is None else self.chat.id

    @property
    def key(self) -> Key:
        return self.path, self.query, self.representation


@dataclass(frozen=True, slots=True)
class Line:
    """What of a request decides its target: the raw request line and two header fields."""

    method: str
    path: bytes
    query: bytes = field(repr=False)
    accept: bytes | None
    override: bytes | None


def preferred(path: bytes, accept: bytes | None, default: Representation) -> Representation | None:
    """The representation asked for: the suffix wins, then Accept; None when Accept names neither."""
    if path.endswith(b".json"):
        return Representation.JSON
    if accept is None:
        return default
    return negotiate(accept)


def negotiate(accept: bytes) -> Representation | None:
    """The better of JSON and XML by quality (RFC 9110 §12.5.1); JSON where they tie."""
    # Callers say the same few things again and again; what is long is not worth remembering.
    return _remembered(accept) if len(accept) <= 256 else _negotiated(accept)


def _negotiated(accept: bytes) -> Representation | None:
    json_q, xml_q = (_quality(accept, names) for names in (_JSON_RANGES, _XML_RANGES))
    if json_q <= 0 and xml_q <= 0:
        return None
    return Representation.JSON if json_q >= xml_q else Representation.XML


_remembered = functools.lru_cache(maxsize=256)(_negotiated)

# The most specific range that fits decides (RFC 9110 §12.5.1), hence the order.
_JSON_RANGES = (("application/json",), ("application/*",), ("*/*",))
_XML_RANGES = (("application/xml", "text/xml"), ("application/*", "text/*"), ("*/*",))


def prefers_stream(path: bytes, accept: bytes | None) -> bool:
    """Whether a stream is wanted rather than a document: by name, and more than either representation."""
    if accept is None or b"event-stream" not in accept.lower() or path.endswith(b".json"):
        return False
    stream_q = dict(_ranges(accept)).get("text/event-stream", 0.0)
    return stream_q > max(_quality(accept, names) for names in (_JSON_RANGES, _XML_RANGES))


def _quality(accept: bytes, precedence: tuple[tuple[str, ...], ...]) -> float:
    ranges = dict(_ranges(accept))
    for names in precedence:
        found = [ranges[name] for name in names if name in ranges]
        if found:
            return max(found)
    return 0.0


def _ranges(accept: bytes) -> Iterable[tuple[str, float]]:
    for part in accept.decode("latin-1").lower().split(","):
        name, *parameters = (piece.strip() for piece in part.split(";"))
        quality = next((p[2:] for p in parameters if p.startswith("q=")), "1")
        # A quality that is no qvalue is read as "not wanted", so that it can't win by mistake.
        yield name, float(quality) if re.fullmatch(r"(0(\.\d{0,3})?|1(\.0{0,3})?)", quality) else 0.0


def locate(
    line: Line, policies: Policies, accounts: Collection[str], default: Representation
) -> Target | Refusal:
    """The target of a request, or why it has none."""
    found = _find(line.path, policies, accounts)
    if isinstance(found, Refusal):
        return found
    path, account, chat, resource = found
    method = _method(line, resource)
    if isinstance(method, Refusal):
        return method
    streamed = resource.stream is not None and method == "GET" and prefers_stream(line.path, line.accept)
    representation = Representation.JSON if streamed else preferred(line.path, line.accept, default)
    if representation is None or representation not in resource.representations:
        return Refusal(Reason.NOT_ACCEPTABLE)
    query = _query(line.query, resource)
    if isinstance(query, Refusal):
        return query
    return Target(method, account, chat, resource, representation, path, *query, streamed=streamed)


_Found = tuple[str, str, Chat | None, Resource]


def _find(raw: bytes, policies: Policies, accounts: Collection[str]) -> _Found | Refusal:
    """The canonical path, with the account, the chat and the resource in it."""
    text = raw.decode("latin-1")
    if not _PATH.fullmatch(raw) or (b"/." in raw and any(dots in {".", ".."} for dots in text.split("/"))):
        return Refusal(Reason.MALFORMED_TARGET)
    if not text.startswith(PREFIX):
        return Refusal(Reason.UNKNOWN_RESOURCE)
    shape = policies.shapes.get(text.count("/") - _PREFIX_SLASHES, NO_SHAPE)
    # As it stands (a resource may be named `x.json`), then without the suffix that chooses JSON.
    spellings = (text, text.removesuffix(".json")) if text.endswith(".json") else (text,)
    for path in spellings:
        account, rest = _divided(path)
        fits = shape.pattern.fullmatch(rest)
        if fits is not None and account in accounts:
            resource = shape.resources[(fits.lastindex or 0) - 1]
            chat = Chat(account, rest.split("/", 2)[1]) if resource.of_chat else None
            return path, account, chat, resource
    below = [_divided(path)[1] for path in spellings]
    almost = any(map(shape.almost.fullmatch, below)) and not any(map(shape.pattern.fullmatch, below))
    if almost or not _IN_ACCOUNT.match(text, len(PREFIX)):
        return Refusal(Reason.MALFORMED_TARGET)
    return Refusal(Reason.UNKNOWN_RESOURCE)


def _divided(path: str) -> tuple[str, str]:
    """The account, and what stands below it."""
    account, _, rest = path[len(PREFIX) :].partition("/")
    return account, rest


def _method(line: Line, resource: Resource) -> str | Refusal:
    method = line.method
    if line.override is not None:
        if method != "POST" or line.override != b"PUT":
            return Refusal(Reason.UNSUPPORTED_OVERRIDE)
        method = "PUT"
    if method == "HEAD":
        method = "GET"
    if method not in resource.methods:
        return Refusal(Reason.METHOD_NOT_ALLOWED, allow=allowed(resource))
    return method


def allowed(resource: Resource) -> tuple[str, ...]:
    """The methods to name in Allow: a PUT may also come as a POST that overrides."""
    methods = set(resource.methods)
    if "GET" in methods:
        methods.add("HEAD")
    if "PUT" in methods:
        methods.add("POST")
    return tuple(sorted(methods))


_FILLED_IN = "v=1&NC=true"
_SAYS_NOTHING = (b"", _FILLED_IN.encode())


def _query(raw: bytes, resource: Resource) -> tuple[str, bool] | Refusal:
    """The canonical query with `v` and `NC` filled in, and whether something had to be dropped."""
    if raw in _SAYS_NOTHING:
        return _FILLED_IN, False
    given: dict[str, str] = {}
    dropped = False
    for name, value in _parameters(raw):
        if name in DROPPED:
            dropped = True
            continue
        pattern = resource.query.get(name)
        if pattern is None or name in given or not pattern.fullmatch(value):
            return Refusal(Reason.MALFORMED_QUERY)
        given[name] = value
    given = {"v": "1", "NC": "true"} | given
    canonical = "&".join([f"{name}={_encoded(given[name])}" for name in resource.query if name in given])
    return canonical, dropped


def _parameters(raw: bytes) -> Iterator[tuple[str, str]]:
    is_plain = b"%" not in raw and b"+" not in raw
    # What is not UTF-8 becomes lone surrogates, which no name and no pattern has.
    for pair in raw.decode("utf-8", "surrogateescape").split("&"):
        if pair:
            name, _, value = pair.partition("=")
            yield (name, value) if is_plain else (_unquoted(name), _unquoted(value))


def _unquoted(text: str) -> str:
    spelled = text.replace("+", " ").encode("utf-8", "surrogateescape")
    return unquote_to_bytes(spelled).decode("utf-8", "surrogateescape")


def _encoded(text: str) -> str:
    # Most values are numbers and words, at which `quote` would look for longer than all the rest takes.
    return text if text.isascii() and text.isalnum() else quote(text, safe="")
