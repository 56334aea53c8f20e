"""Documents as an upstream might spell them, and what becomes of their links by a rule simpler than ours."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from html import escape
from random import Random

from hypothesis import strategies as st

from gateway.core.links import LinkMap

PUBLIC = "https://gateway.example/chat"
LINKS = LinkMap(
    public_url=PUBLIC,
    upstreams={
        "123": frozenset({"va-a.upstream.example", "127.0.0.1:9100"}),
        "leAbc": frozenset({"va-a.upstream.example"}),
    },
    link_hosts=("*.liveperson.net", "old.example"),
)

UPSTREAMS = (
    "https://va-a.upstream.example",
    "HTTP://VA-A.upstream.example:80",
    "https:/va-a.upstream.example",
    "https://someone@va-a.upstream.example:443",
    "//va-a.upstream.example",
    "va-a.upstream.example",
    "https://lo.convep.liveperson.net:8443",
    "lo.liveperson.net",
    "",
)
ELSEWHERE = (
    "https://other.example",
    "https://va-a.upstream.example.evil.example",
    "https://evilliveperson.net",
    PUBLIC,
    "urn:x:",
)
PATHS = (
    "/api/account/123",
    "/api/account/123/chat/H1-2K3/info",
    "/api/account/123/chat/H1-2K3?from=7&x=%2F#é☃",
    "/api/account/leAbc/chat/H1?a='\"<&>",
    "/api/account/LEABC/chat/H1",
    "/api/account/1234/chat/H1",
    "/api/account/",
    "/api/123/account",
    "",
)
OURS = re.compile(r"/api/account/(?:123|leAbc)(?=[/?#]|$)")


def becomes(url: str) -> str:
    """What a link's URL has to be after rewriting."""
    for upstream in UPSTREAMS:
        rest = url.removeprefix(upstream)
        if url.startswith(upstream) and OURS.match(rest):
            return PUBLIC + rest
    return url


#: What must survive because it is no link, however much it looks like one.
TEXTS = (
    'See <a href="https://va-a.upstream.example/api/account/123/chat">here</a>',
    '"link": {"href": "https://va-a.upstream.example/api/account/123"}',
    "<link href='https://va-a.upstream.example/api/account/123'/>",
    "https://va-a.upstream.example/api/account/123",
    "link",
    "href",
    '\\"link":[',
    "é☃\U0001f600",
    "",
)
NUMBERS = ("0", "-0.0", "1E+2", "1.10", "1e400", "9" * 40)
KEYS = ("link", "href", "@href", "rel", "text", "domain", "links", "Link", "@link", 'a "link"', "\\", "event")


def _url(random: Random) -> str:
    return random.choice(UPSTREAMS + ELSEWHERE) + random.choice(PATHS)


def _space(random: Random) -> str:
    return random.choice(("", "", "", " ", "\r\n\t"))


def _some(random: Random, make: Callable[[Random, int], str], depth: int) -> list[str]:
    return [make(random, depth - 1) for _ in range(random.randint(1, 4))]


def _utf16(text: str) -> str:
    data = text.encode("utf-16-be").hex()
    return "".join(f"\\u{data[at : at + 4]}" for at in range(0, len(data), 4))


def _string(random: Random, text: str) -> str:
    plain = json.dumps(text, ensure_ascii=random.random() < 0.5)
    start = random.randint(0, len(text))
    partly = (
        json.dumps(text[:start])[:-1] + _utf16(text[start : start + 1]) + json.dumps(text[start + 1 :])[1:]
    )
    return random.choice((plain, plain, plain.replace("/", "\\/"), partly))


def _value(random: Random, depth: int) -> str:
    if depth > 0 and random.random() < 0.6:
        return random.choice((_object, _array))(random, depth)
    text = _string(random, random.choice((*TEXTS, _url(random))))
    return random.choice((text, text, random.choice(NUMBERS), "true", "null", "[]", "{}"))


def _array(random: Random, depth: int) -> str:
    return "[" + f"{_space(random)},".join(_some(random, _value, depth)) + _space(random) + "]"


def _object(random: Random, depth: int) -> str:
    return "{" + f",{_space(random)}".join(_some(random, _member, depth)) + "}"


def _member(random: Random, depth: int) -> str:
    key = random.choice(KEYS)
    value = random.choice((_link, _links))(random, depth) if key == "link" else _value(random, depth)
    return f"{_string(random, key)}{_space(random)}:{_space(random)}{value}"


def _link(random: Random, depth: int) -> str:
    href = _string(random, random.choice(("href", "@href"))) + ":" + _string(random, _url(random))
    return "{" + ",".join((*_some(random, _member, depth), href, *_some(random, _member, depth))) + "}"


def _links(random: Random, depth: int) -> str:
    nested = random.choice((_link, _link, _links, _value) if depth > 0 else (_link,))
    return f"[{','.join(_some(random, nested, depth))}]"


def _json_document(random: Random) -> bytes:
    text = f'{_space(random)}{{"link":{_links(random, 3)},{",".join(_some(random, _member, 3))}}}'
    return text.encode()


def _attribute(random: Random, name: str) -> str:
    value = random.choice((_url(random), _url(random), random.choice(TEXTS)))
    referred = "".join(f"&#x{ord(character):X};" for character in value)
    spelled = random.choice((escape(value), escape(value).replace("/", "&#47;"), referred))
    quote = random.choice("\"'")
    return f" {_space(random)}{name}{_space(random)}={_space(random)}{quote}{spelled}{quote}"


def _aside(random: Random) -> str:
    bait = f"{random.choice(TEXTS)}<link href='https://va-a.upstream.example/api/account/123'/>"
    return random.choice((escape(bait), f"<!-- {bait} -->", f"<![CDATA[{bait}]]>", f"<?note {bait}?>"))


def _element(random: Random, depth: int) -> str:
    name = random.choice(("link", "link", "q:link", "links", "a", "q:a", "link-x", "link.x"))
    names = random.sample(("href", "href", "q:href", "rel", "data-href", "hrefs"), random.randint(0, 4))
    start = name + "".join(_attribute(random, name) for name in dict.fromkeys(names)) + _space(random)
    if depth == 0:
        return f"<{start}/>"
    inner = "".join(_some(random, _element, depth)) + _aside(random)
    return f"<{start}>{inner}</{name}>"


_HEADS = (
    ("utf-8", ""),
    ("utf-8", "\ufeff"),
    ("utf-8", '<?xml version="1.0" encoding="UTF-8"?>\n'),
    ("iso-8859-1", "<?xml version='1.0' encoding='iso-8859-1'?><!-- <link href='/api/account/123'/> -->"),
)


def _xml_document(random: Random) -> bytes:
    encoding, head = random.choice(_HEADS)
    inner = "".join(_some(random, _element, 3))
    # A prefix that is called href is declared by an attribute that is no href.
    text = f"{head}<link xmlns:q='urn:q' xmlns:href='https://va-a.upstream.example/api/account/123'>{inner}</link>"
    return text.encode(encoding, "xmlcharrefreplace")


_randoms = st.integers(0, 2**64).map(Random)

#: Documents with links of every kind among things that are none. In JSON, keys may repeat.
json_documents = _randoms.map(_json_document)
xml_documents = _randoms.map(_xml_document)
