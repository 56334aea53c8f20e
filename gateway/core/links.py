"""Links that come back pointing at the gateway.

A link to a configured account at its own upstream, or at one of the vendor's hosts, is given the public
address; every other link stays as it is, and so does every other byte of the document.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from urllib.parse import unquote

from gateway.core.hrefs import Span, json_hrefs, read_json, read_xml, write_json, write_xml, xml_hrefs
from gateway.core.messages import Representation

#: Longest text of an upstream that crosses, in characters.
MAX_TEXT = 300

# What browsers do to a URL before they read it (URL Standard, "basic URL parser"): controls and spaces
# at the ends are stripped, tabs and line ends dropped, and a backslash before the query is a slash.
_STRIPPED = "".join(map(chr, range(0x21)))
_UNSAFE = re.compile(r"[\x00-\x20\x7f]")

# `https://host/…`, but also what the vendor's samples have (`https:/host/…` and `host/…`), and what is
# relative to the upstream (`//host/…` and `/api/…`).
_ADDRESS = re.compile(
    r"(?:(?:(?i:https?):/*|//+)?(?:[^/]*@)?(?P<authority>[^/@]+))??(?P<path>/api/account/(?P<account>[^/]+)(?:/.*)?)",
    re.DOTALL,
)
_DEFAULT_PORTS = ("", "80", "443")
_DOT_SEGMENT = re.compile(r"/(?:\.|%2[eE]){1,2}(?=/|$)")

_URL = re.compile(r"(?i)[a-z]{2,10}:/\S*|//\S+")
_KEY = re.compile(r"(?i)appkey[\"']?\s*(?:[=:]|%3D|%3A)\s*[^\s&,;<>]*")
_WORD = re.compile(r"%[0-9A-Fa-f]{2}|(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9.-]+)(?::[0-9]+)?")
_REMOVED = "[removed]"


@dataclass(frozen=True, slots=True)
class LinkMap:
    """Which links are whose.

    `public_url` has no slash at its end. `upstreams` maps each configured account to the authorities
    (`host` or `host:port`, lower case) of its upstream; none while it is not known. `link_hosts` are
    further hosts, at any port: `*.example.net` for all below example.net, or exact names.
    """

    public_url: str
    upstreams: Mapping[str, frozenset[str]]
    link_hosts: tuple[str, ...]

    def after(self, earlier: LinkMap) -> LinkMap:
        """The map for an answer that was asked for under an earlier one: its hosts are known still."""
        if earlier is self:
            return self
        upstreams = {
            account: hosts | earlier.upstreams.get(account, frozenset())
            for account, hosts in self.upstreams.items()
        }
        return LinkMap(self.public_url, upstreams, self.link_hosts)


@dataclass(frozen=True, slots=True)
class Rewritten:
    """A document after `rewrite`: how many links were rewritten, and how many lead elsewhere than here."""

    body: bytes = field(repr=False)
    rewritten: int
    foreign: int


def rewrite(body: bytes, representation: Representation, links: LinkMap) -> Rewritten:
    """Point a well-formed document's links at the gateway; all other bytes stay."""
    dialect = _DIALECTS[representation]
    parts: list[bytes] = []
    done = foreign = 0
    for start, end in dialect.hrefs(body):
        url = dialect.read(body[start:end])
        rewritten = rewrite_url(url, links)
        if rewritten is not None:
            parts += (body[done:start], dialect.write(rewritten))
            done = end
        elif not _is_public(url, links):
            foreign += 1
    return Rewritten(b"".join((*parts, body[done:])), len(parts) // 2, foreign)


@dataclass(frozen=True, slots=True)
class _Dialect:
    hrefs: Callable[[bytes], Iterator[Span]]
    read: Callable[[bytes], str]
    write: Callable[[str], bytes]


_DIALECTS = {
    Representation.JSON: _Dialect(json_hrefs, read_json, write_json),
    Representation.XML: _Dialect(xml_hrefs, read_xml, write_xml),
}


def rewrite_url(url: str, links: LinkMap) -> str | None:
    """The URL at the gateway, with its path, query and fragment; None if it is to be left alone.

    What a browser would drop or escape is dropped or escaped, and so is an `appKey` parameter: the result
    is fit for a header field. A path with dot segments is left alone, for it may lead out of its account.
    """
    if _is_public(url, links):
        return None
    url, hash_mark, fragment = _cleaned(url).partition("#")
    url, question_mark, query = url.partition("?")
    address = _ADDRESS.fullmatch(url.replace("\\", "/"))
    if address is None or _DOT_SEGMENT.search(address["path"]) or not _is_ours(address, links):
        return None
    return links.public_url + _escaped(
        address["path"] + _without_key(question_mark + query) + hash_mark + fragment
    )


def named(url: str) -> tuple[str, str | None] | None:
    """The account, and the chat if any, that a link is of, whatever its host; None if it names neither."""
    address = _ADDRESS.fullmatch(_cleaned(url).partition("#")[0].partition("?")[0].replace("\\", "/"))
    if address is None:
        return None
    _, _, _, account, *rest = address["path"].split("/")
    return _id(account), (_id(rest[1]) or None) if len(rest) > 1 and rest[0] == "chat" else None


def _id(segment: str) -> str:
    # `;` begins what is no name: Java servers put their sessions there.
    return unquote(segment.partition(";")[0].removesuffix(".json"))


def _cleaned(url: str) -> str:
    return url.strip(_STRIPPED).replace("\t", "").replace("\n", "").replace("\r", "")


def _escaped(rest: str) -> str:
    if rest.isprintable() and " " not in rest:
        # Nearly always, and found out in a tenth of the time that looking for what is unsafe takes.
        return rest
    return _UNSAFE.sub(lambda unsafe: f"%{ord(unsafe[0]):02X}", rest)


def _is_public(url: str, links: LinkMap) -> bool:
    return url.startswith(links.public_url) and url[len(links.public_url) :][:1] in ("", "/", "?", "#")


def _is_ours(address: re.Match[str], links: LinkMap) -> bool:
    upstreams, authority = links.upstreams.get(address["account"]), address["authority"]
    if upstreams is None or authority is None or authority in upstreams:
        return upstreams is not None
    host, port = _host_and_port(authority)
    names = (host, f"{host}:80", f"{host}:443") if port in _DEFAULT_PORTS else (f"{host}:{port}",)
    return not upstreams.isdisjoint(names) or is_host(host, links.link_hosts)


def _host_and_port(authority: str) -> tuple[str, str]:
    """In lower case, the host without the dot that a full name may end in; "" for no port."""
    host, _, port = authority.lower().rpartition(":")
    if not host or (port and not port.isdecimal()):
        host, port = authority.lower(), ""
    return host.rstrip("."), port


def is_host(host: str, patterns: Iterable[str]) -> bool:
    """Whether a host (lower case, no port) is one of these: exact names, or `*.example.net` for all below."""
    return any(
        host.endswith(pattern[1:].lower()) if pattern.startswith("*.") else host == pattern.lower()
        for pattern in patterns
    )


def _without_key(query: str) -> str:
    if "?" not in query:
        return query
    kept = [pair for pair in query[1:].split("&") if unquote(pair.partition("=")[0]).lower() != "appkey"]
    return "?" + "&".join(kept) if kept else ""


def clean_text(text: str, links: LinkMap) -> str:
    """An upstream's words without addresses, hosts, keys and control characters; at most `MAX_TEXT` long."""
    upstreams = {_host_and_port(authority)[0] for known in links.upstreams.values() for authority in known}

    def cleaned(word: re.Match[str]) -> str:
        host, port = _host_and_port(word[0].strip(".-"))
        # A host of one label may be a word like any other, unless a port says what it is.
        is_ours = (host in upstreams and (port or "." in host)) or is_host(host, links.link_hosts)
        return _REMOVED if is_ours else word[0]

    # Cut before cleaning, with room for what cleaning takes out: the text may be megabytes.
    text = text[: 4 * MAX_TEXT]
    printable = "".join(character if character.isprintable() else " " for character in text)
    return _WORD.sub(cleaned, _KEY.sub(_REMOVED, _URL.sub(_REMOVED, printable)))[:MAX_TEXT]
