"""The kinds of hostile bytes. Each is a function of a seed, and says what may become of every request in it.

A request that is smuggled is meant by nobody: should the upstream see it, that is one too many.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from tests.hostile.canonical import JSON, XML, Fate, Field, Meant, head, percent_encoded, plain, plain_fields
from tests.support import account_path

T = TypeVar("T")

ANSWERED, REFUSED, EITHER = Fate.ANSWERED, Fate.REFUSED, Fate.EITHER
CRLF = b"\r\n"


@dataclass(frozen=True, slots=True)
class Case:
    """Bytes for one connection, cut as `pieces`, and the requests in them in order."""

    kind: str
    number: int
    pieces: tuple[bytes, ...]
    meant: tuple[Meant, ...]


class Maker:
    """Requests for one case, by its own randomness."""

    def __init__(self, number: int, seed: int, tokens: Sequence[str]) -> None:
        self.number = number
        self.random = random.Random(f"{seed}/{number}")
        self.token = self.random.choice(tokens)
        self._made = 0

    def pick(self, options: Sequence[T]) -> T:
        return self.random.choice(options)

    def tag(self) -> str:
        self._made += 1
        return f"H{self.number}-{self._made}x"

    def read(self, fate: Fate = ANSWERED) -> Meant:
        tag, rest = self.tag(), self.pick(["/info", "/info/agentTyping", "", "/events"])
        media_type = XML if self.random.random() < 0.2 else JSON
        return Meant(tag, f"/chat/{tag}{rest}", self.pick(["GET", "GET", "HEAD"]), media_type, fate=fate)

    def write(self, fate: Fate = ANSWERED) -> Meant:
        tag = self.tag()
        method, rest = self.pick(
            [("PUT", "/info/visitorName"), ("PUT", "/customVariables"), ("POST", "/events")]
        )
        body = b'{"said": "%s"}' % self.pick([tag.encode(), b"x", b"GET / HTTP/1.1\\r\\n\\r\\n"])
        return Meant(tag, f"/chat/{tag}{rest}", method, body=body, fate=fate)

    def any(self, fate: Fate = ANSWERED) -> Meant:
        return self.read(fate) if self.random.random() < 0.6 else self.write(fate)

    def plain(self, meant: Meant, *more: Field) -> bytes:
        return plain(meant, self.token, *more)

    def smuggled(self) -> bytes:
        """A request that nobody means."""
        return self.plain(self.any())

    def fields(self, meant: Meant) -> list[Field]:
        """With the framing of a body."""
        length = [] if meant.is_read else [(b"content-length", b"%d" % len(meant.body))]
        return [*plain_fields(meant, self.token), *length]

    def spelled(
        self, meant: Meant, line: bytes | None = None, fields: Sequence[Field] | None = None
    ) -> bytes:
        """Another request line, or other fields, over the same body."""
        line = line or self.line(meant)
        return head(line, self.fields(meant) if fields is None else fields) + meant.body

    @staticmethod
    def line(meant: Meant, target: bytes | None = None) -> bytes:
        return b"%s %s HTTP/1.1" % (meant.method.encode(), target or meant.target)

    def beside(self, fields: Sequence[Field], *more: Field) -> list[Field]:
        """Further fields, somewhere between those."""
        mixed = list(fields)
        for one in more:
            mixed.insert(self.random.randint(0, len(mixed)), one)
        return mixed


Made = tuple[bytes, Sequence[Meant]]
Mutator = Callable[[Maker], Made]
#: Each kind, and the outcomes of its first request that it must reach.
KINDS: dict[str, tuple[Mutator, frozenset[str]]] = {}


def kind(*outcomes: str) -> Callable[[Mutator], Mutator]:
    def register(mutator: Mutator) -> Mutator:
        KINDS[mutator.__name__] = mutator, frozenset(outcomes)
        return mutator

    return register


def case(number: int, seed: int, tokens: Sequence[str], first: str | None = None) -> Case:
    """The case of that number: the kinds take turns, and some cases come in pieces."""
    its = Maker(number, seed, tokens)
    name = first or list(KINDS)[number % len(KINDS)]
    data, meant = KINDS[name][0](its)
    return Case(name, number, pieces(its, data), tuple(meant))


def pieces(its: Maker, data: bytes) -> tuple[bytes, ...]:
    """Mostly whole; else cut anywhere, rarely at every byte."""
    chance = its.random.random()
    if chance < 0.005 and len(data) < 2_000:
        return tuple(data[at : at + 1] for at in range(len(data)))
    if chance > 0.15 or len(data) < 2:
        return (data,)
    cuts = sorted(its.random.sample(range(1, len(data)), min(its.random.randint(1, 4), len(data) - 1)))
    return tuple(data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True))


# -- where a body ends ------------------------------------------------------------------------------------


def chunked(body: bytes, sizes: Sequence[int] = ()) -> bytes:
    parts, at = [], 0
    for size in (*sizes, len(body)):
        part = body[at : at + size]
        at += len(part)
        if part:
            parts.append(b"%x\r\n%b\r\n" % (len(part), part))
    return b"".join(parts) + b"0\r\n\r\n"


@kind("refused")
def cl_te(its: Maker) -> Made:
    """Content-Length for one reader, chunks for the other."""
    meant, inner = its.write(REFUSED), its.smuggled()
    body = b"0\r\n\r\n" + inner
    both = [(b"content-length", b"%d" % len(body)), (b"transfer-encoding", b"chunked")]
    fields = its.beside(plain_fields(meant, its.token), *its.random.sample(both, 2))
    return head(its.line(meant), fields) + body, [meant]


@kind("refused")
def te_cl(its: Maker) -> Made:
    meant, inner = its.write(REFUSED), its.smuggled()
    body = chunked(inner)
    short = body.index(b"\n") + 1
    both = [(b"transfer-encoding", b"chunked"), (b"content-length", b"%d" % short)]
    fields = its.beside(plain_fields(meant, its.token), *its.random.sample(both, 2))
    return head(its.line(meant), fields) + body, [meant]


NO_CODING = [
    b"chunked, chunked", b"identity", b"gzip, chunked", b"chunked, identity", b"xchunked", b"x chunked",
    b"chunked;q=1", b'"chunked"', b"chunked,", b",chunked", b"chun\tked", b"\x0bchunked", b"chunked\x0c",
    b"chunked\x00", b"", b"chunke", b"c\xc4\xa7unked", b"deflate", b"chunked\xa0", b"br", b"chunked x",
]  # fmt: skip


@kind("refused")
def te_te(its: Maker) -> Made:
    """A coding that one reader knows and the other doesn't."""
    meant, inner = its.write(REFUSED), its.smuggled()
    odd = (b"transfer-encoding", its.pick(NO_CODING))
    lines = [odd]
    if its.random.random() < 0.5:
        lines.append((its.pick([b"transfer-encoding", b"Transfer-Encoding"]), b"chunked"))
    if its.random.random() < 0.5:
        lines.append((b"content-length", its.pick([b"4", b"%d" % len(inner)])))
    fields = its.beside(plain_fields(meant, its.token), *its.random.sample(lines, len(lines)))
    return head(its.line(meant), fields) + its.pick([b"0\r\n\r\n" + inner, chunked(inner)]), [meant]


@kind("refused", "answered")
def te_spelled(its: Maker) -> Made:
    """Spellings of `chunked` that are right, of its name that are wrong, and look-alikes that say nothing."""
    meant = its.write(EITHER)
    name, value, is_chunked = its.pick(
        [
            (b"Transfer-Encoding", b"chunked", True),
            (b"TRANSFER-ENCODING", b"chunked ", True),
            (b"transfer-encoding", b"CHUNKED", True),
            (b"transfer-encoding", b"\tchunked", True),
            (b"transfer_encoding", b"chunked", False),
            (b"x-transfer-encoding", b"chunked", False),
            (b"transfer-encodin", b"chunked", False),
            (b"te", b"chunked", False),
            (b"transfer-encoding ", b"chunked", False),
            (b"transfer-encoding\t", b"chunked", False),
            (b" transfer-encoding", b"chunked", False),
            (b"transfer\x00-encoding", b"chunked", False),
        ]
    )
    fields = plain_fields(meant, its.token) if is_chunked else its.fields(meant)
    if not name.replace(b"_", b"-").replace(b"-", b"").isalpha():
        meant = meant.but(REFUSED)
    data = head(its.line(meant), its.beside(fields, (name, value)))
    return data + (chunked(meant.body) if is_chunked else meant.body), [meant]


@kind("refused")
def cl_cl(its: Maker) -> Made:
    meant, inner = its.write(REFUSED), its.smuggled()
    size = len(meant.body)
    values = its.pick(
        [(b"%d" % size, b"%d" % (size + len(inner))), (b"%d" % size,) * 2, (b"0", b"%d" % size)]
    )
    lines = [(its.pick([b"content-length", b"Content-Length"]), value) for value in values]
    fields = its.beside(plain_fields(meant, its.token), *its.random.sample(lines, 2))
    return head(its.line(meant), fields) + meant.body + inner, [meant]


@kind("refused")
def cl_spelled(its: Maker) -> Made:
    meant, inner = its.write(REFUSED), its.smuggled()
    size = b"%d" % len(meant.body)
    odd = [
        b"+%b",
        b"-%b",
        b"0x%b",
        b"%b, %b",
        b"%b,%b",
        b"%b %b",
        b"%b_0",
        b"%b.0",
        b"%be0",
        b'"%b"',
        b"%b;a",
        b"%b\x0b",
    ]
    value = its.pick(
        [
            *(form.replace(b"%b", size) for form in odd),
            b"",
            b"x",
            b"9" * 20,
            b"\xd9\xa1",
            b"18446744073709551615",
        ]
    )
    fields = its.beside(plain_fields(meant, its.token), (b"content-length", value))
    return head(its.line(meant), fields) + meant.body + inner, [meant]


@kind("refused")
def body_on_a_read(its: Maker) -> Made:
    """Readers who think that a GET has no body take it for the next request."""
    meant, inner = its.read(REFUSED), its.smuggled()
    framing, body = its.pick(
        [
            ((b"content-length", b"%d" % len(inner)), inner),
            ((b"transfer-encoding", b"chunked"), chunked(inner)),
            ((b"transfer-encoding", b"chunked"), b"0\r\n\r\n"),
            ((b"content-length", b"5"), b"hello"),
        ]
    )
    return its.spelled(meant, None, its.beside(its.fields(meant), framing)) + body, [meant]


@kind("refused")
def no_body_on_a_write(its: Maker) -> Made:
    """A body of no bytes, and behind it a request: two requests, of which the first is no document."""
    meant, after = replace(its.write(REFUSED), body=b""), its.any()
    fields = its.pick(
        [[*plain_fields(meant, its.token), (b"content-length", b"0")], plain_fields(meant, its.token)]
    )
    return head(its.line(meant), fields) + its.plain(after), [meant, after]


@kind("answered")
def chunks(its: Maker) -> Made:
    """Chunks by the letter, cut anywhere; trailers say nothing."""
    meant, after = its.write(), its.any()
    sizes = [its.random.randint(1, 9) for _ in range(its.random.randint(0, 5))]
    body = chunked(meant.body, sizes)
    odd = its.random.random()
    if odd < 0.4:
        trailer = its.pick(
            [b"x-a: b", b"content-length: 5", b"transfer-encoding: chunked", b"host: evil.example",
             b"authorization: Bearer x", b"x-http-method-override: DELETE", b"x-a: b\r\nx-c: d"]
        )  # fmt: skip
        body, meant = body[:-2] + trailer + b"\r\n\r\n", meant.but(EITHER)
    elif odd < 0.6:
        body = b"0" * 3 + body
    elif odd < 0.7:
        body, meant = body.replace(b"\r\n", its.pick([b";a=b\r\n", b' ; a="b"\r\n']), 1), meant.but(EITHER)
    fields = [*plain_fields(meant, its.token), (b"transfer-encoding", b"chunked")]
    return head(its.line(meant), fields) + body + its.plain(after), [meant, after.but(EITHER)]


BROKEN_CHUNKS: list[Callable[[bytes, bytes], bytes]] = [
    lambda b, i: b"0x%x\r\n%b\r\n0\r\n\r\n" % (len(b), b) + i,
    lambda b, i: b"-%x\r\n%b\r\n0\r\n\r\n" % (len(b), b) + i,
    lambda b, i: b"+%x\r\n%b\r\n0\r\n\r\n" % (len(b), b) + i,
    lambda b, i: b"%x\n%b\n0\n\n" % (len(b), b) + i,
    lambda b, i: b"%x\r%b\r\n0\r\n\r\n" % (len(b), b) + i,
    lambda b, i: b"%x\r\n%b0\r\n\r\n" % (len(b), b) + i,
    lambda b, i: b"%x\r\n%bxx0\r\n\r\n" % (len(b), b) + i,
    lambda b, i: b"1%016x\r\n%b\r\n0\r\n\r\n" % (len(b), b) + i,
    lambda b, i: b"%x\r\n%b\r\n0\r\n\r\n" % (len(b) - 1, b) + i,
    lambda b, i: b"%x \r\n%b\r\n0\r\n\r\n" % (len(b) - 2, b) + i,
    lambda b, i: b"%x;\x00\r\n%b\r\n0\r\n\r\n" % (len(b), b) + i,
    lambda b, i: b"%x;a\n%b\r\n0\r\n\r\n" % (len(b), b) + i,
    lambda b, i: b"\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(b), b) + i,
    lambda b, i: b"zz\r\n%b\r\n0\r\n\r\n" % b + i,
    lambda b, i: b"%x\r\n%b\r\n0\r\nbad trailer\r\n\r\n" % (len(b), b) + i,
    lambda b, i: b"%x\r\n%b\r\n0\r\nx-a: \x00\r\n\r\n" % (len(b), b) + i,
    lambda b, i: b"0_%x\r\n%b\r\n0\r\n\r\n" % (len(b), b) + i,
    lambda b, i: b"%x.0\r\n%b\r\n0\r\n\r\n" % (len(b), b) + i,
]  # fmt: skip


@kind("refused")
def broken_chunks(its: Maker) -> Made:
    """Half of what parsers disagree about is the framing of chunks."""
    meant, inner = its.write(REFUSED), its.smuggled()
    fields = [*plain_fields(meant, its.token), (b"transfer-encoding", b"chunked")]
    return head(its.line(meant), fields) + its.pick(BROKEN_CHUNKS)(meant.body, inner), [meant]


@kind("refused", "answered")
def expectations(its: Maker) -> Made:
    meant = its.any()
    value = its.pick([b"100-continue", b"100-Continue", b"200-ok", b"100-continue, x", b"", b"x=y", b"100"])
    if value.lower() != b"100-continue" or meant.is_read:
        meant = meant.but(EITHER if meant.is_read or not value else REFUSED)
    return its.spelled(meant, None, its.beside(its.fields(meant), (b"expect", value))), [meant]


# -- heads ------------------------------------------------------------------------------------------------

BROKEN_LINES: list[bytes] = [
    b"x-a: b\r\n c", b"x-a: b\r\n\tc", b"x-a:\r\n b", b"x-a: b\rc", b"x-a: b\r", b"x-a: \x00", b"x\x00a: b",
    b"x-a : b", b"x-a\t: b", b": b", b"x-a", b"x a: b", b"x-a\x0b: b", b"x(a): b", b"x\xc3\xa4: b",
    b"x-a: b\x7f", b"x-a: b\x01", b"@: b", b"x-a=b", b"[x]: a",
]  # fmt: skip


@kind("refused")
def broken_fields(its: Maker) -> Made:
    """Folded lines, bare CRs, NULs, spaces where none may be."""
    meant, line = its.any(REFUSED), its.pick(BROKEN_LINES)
    lines = [b"%s: %s" % one for one in its.fields(meant)]
    lines.insert(its.random.randint(1, len(lines)), line)
    return its.line(meant) + CRLF + CRLF.join(lines) + CRLF * 2 + meant.body, [meant]


@kind("refused")
def bare_line_feeds(its: Maker) -> Made:
    """Where one reader sees the end of a line, or of the head, and the other doesn't."""
    meant, inner = its.read(REFUSED), its.smuggled()
    data = its.plain(meant)
    ways = [
        data.replace(CRLF, b"\n") + inner,
        data[:-2] + b"\n" + inner,
        data[:-4] + b"\n\n" + inner,
        data[:-4] + b"\n\r\n" + inner,
        data[:-4] + b"\r\r\n\r\n" + inner,
        data.replace(b"\r\nhost", b"\nhost", 1) + inner,
        data[:-4] + b"\r\nx-a: b\n\n" + inner,
        data[:-4] + b"\r\nx-a: b\nx-c: d\r\n\r\n",
        data[:-4] + b"\r\n\n" + inner,
    ]
    return its.pick(ways), [meant]


@kind("refused")
def request_lines(its: Maker) -> Made:
    meant = its.any(REFUSED)
    m, t = meant.method.encode(), meant.target
    line = its.pick(
        [
            b"%s %s" % (m, t), b"%s %s HTTP/0.9" % (m, t), b"%s %s HTTP/2.0" % (m, t),
            b"%s %s HTTP/2" % (m, t),
            b"%s %s HTTP/1.2" % (m, t), b"%s %s HTTP/3.1" % (m, t), b"%s %s HTTP/11" % (m, t),
            b"%s %s HTTP/1.10" % (m, t), b"%s %s HTTP/1.1 " % (m, t), b"%s  %s HTTP/1.1" % (m, t),
            b"%s %s  HTTP/1.1" % (m, t), b"%s\t%s HTTP/1.1" % (m, t), b"%s %s\tHTTP/1.1" % (m, t),
            b" %s %s HTTP/1.1" % (m, t), b"%s %s http/1.1" % (m, t), b"%s %s HTTPS/1.1" % (m, t),
            b"%s %s RTSP/1.0" % (m, t), b"%s %s ICE/1.0" % (m, t), b"%s %s HTTP/1.1\x00" % (m, t),
            b"%s %s HTTP/1.1 HTTP/1.1" % (m, t), b"%s %s /x HTTP/1.1" % (m, t), b"%s HTTP/1.1" % t,
            b"%s %s HTTP /1.1" % (m, t), b"%s %s\x0bHTTP/1.1" % (m, t), b"%s %s\xa0HTTP/1.1" % (m, t),
        ]
    )  # fmt: skip
    return its.spelled(meant, line), [meant]


@kind("answered")
def older_versions(its: Maker) -> Made:
    """HTTP/1.0, with or without Host, asking to be kept or not; and empty lines before a request."""
    meant = its.any()
    fields = its.fields(meant)
    if its.random.random() < 0.5:
        return CRLF * its.random.randint(1, 3) + its.spelled(meant), [meant]
    if its.random.random() < 0.5:
        fields = [one for one in fields if one[0] != b"host"]
    if its.random.random() < 0.5:
        fields.append((b"connection", its.pick([b"keep-alive", b"close", b"Keep-Alive, x"])))
    return its.spelled(meant, its.line(meant)[:-1] + b"0", fields), [meant]


@kind("refused")
def forms_of_a_target(its: Maker) -> Made:
    """Absolute, authority, asterisk, a fragment, user information."""
    meant = its.any(REFUSED)
    t = meant.target
    host = its.pick(
        [b"gateway.test", b"evil.example", b"127.0.0.1:1", b"[::1]", b"user:pw@gateway.test", b""]
    )
    target = its.pick(
        [b"http://%s%s" % (host, t), b"https://%s%s" % (host, t), b"HTTP://%s%s" % (host, t),
         b"//%s%s" % (host, t),
         b"%s:443" % (host or b"x"), b"*", t[1:], b"?" + t, t + b"#x", b"@%s%s" % (host, t), b"file://" + t,
         b"ftp://%s%s" % (host, t), b"/%s%s" % (host, t), b"%s:%s" % (host, t), b"/http://%s%s" % (host, t)]
    )  # fmt: skip
    return its.spelled(meant, its.line(meant, target)), [meant]


@kind("refused")
def methods(its: Maker) -> Made:
    meant = replace(its.any(REFUSED), method="GET")
    method = its.pick(
        [b"CONNECT", b"TRACE", b"TRACK", b"OPTIONS", b"DELETE", b"PATCH", b"PURGE", b"BAN", b"get", b"Get",
        b"G\x00ET",
         b"PRI", b"PROPFIND", b"MOVE", b"COPY", b"DEBUG", b"SEARCH", b"QUERY", b"GETT", b"M-SEARCH",
         b"LINK", b"GET,PUT",
         b"SUBSCRIBE", b"SOURCE", b"ANNOUNCE", b"LOCK", b"G-E-T", b"X" * 30]
    )  # fmt: skip
    return its.spelled(meant, method + its.line(meant)[len(meant.method) :]), [meant]


@kind("refused")
def too_much(its: Maker) -> Made:
    meant = its.read(REFUSED)
    line, fields = its.line(meant), its.fields(meant)
    way = its.random.randint(0, 4)
    if way == 0:
        line = its.line(meant, meant.target + b"?skill=" + b"x" * 8_200)
    elif way == 1:
        fields = its.beside(fields, (b"x-a", b"a" * 17_000))
    elif way == 2:
        fields += [(b"x-%d" % n, b"") for n in range(120)]
    elif way == 3:
        fields = its.beside(fields, (b"a" * 17_000, b"b"))
    else:
        fields = its.beside(fields, *[(b"cookie", b"c" * 200) for _ in range(90)])
    return its.spelled(meant, line, fields), [meant]


@kind("answered")
def flipped(its: Maker) -> Made:
    """Any byte of the fields is another, missing, or there twice."""
    meant = replace(its.any(EITHER), any_type=True)
    # Most of the bytes are the token's, which is broken by any of them.
    stand_in = b"\xfe"
    unheard = [(name, its.pick(EVIL)) for name in its.random.sample(UNHEARD, 8)]
    fields = b"".join([b"%s: %s\r\n" % one for one in its.beside(its.fields(meant), *unheard)]) + CRLF
    fields = fields.replace(its.token.encode(), stand_in)
    for _ in range(its.random.randint(1, 3)):
        at, way = its.random.randrange(len(fields)), its.random.randint(0, 3)
        middle = (b"", its.random.randbytes(1), fields[at : at + 1] * 2, fields[at : at + 9] * 2)[way]
        fields = fields[:at] + middle + fields[at + (9 if way == 3 else 1) :]
    return its.line(meant) + CRLF + fields.replace(stand_in, its.token.encode()) + meant.body, [meant]


# -- paths and queries ------------------------------------------------------------------------------------

#: Of a path: other spellings of the same for somebody who decodes, folds or normalises.
PATHS: list[Callable[[bytes], bytes]] = [
    lambda p: p.replace(b"/chat/", b"/chat//", 1),
    lambda p: b"/" + p,
    lambda p: p + b"/",
    lambda p: p.replace(b"/chat/", b"/./chat/", 1),
    lambda p: p.replace(b"/chat/", b"/x/../chat/", 1),
    lambda p: p + b"/.",
    lambda p: p + b"/..",
    lambda p: p + b"/../info",
    lambda p: b"/.." + p,
    lambda p: p.replace(b"/chat/", b"/%2e/chat/", 1),
    lambda p: p.replace(b"/chat/", b"/x/%2e%2e/chat/", 1),
    lambda p: p.replace(b"/chat/", b"/x/.%2E/chat/", 1),
    lambda p: p.replace(b"/chat/", b"/chat%2f", 1),
    lambda p: p.replace(b"/chat/", b"/chat%252f", 1),
    lambda p: p.replace(b"/chat/", b"/chat%5c", 1),
    lambda p: p.replace(b"/chat/", b"/chat\\", 1),
    lambda p: p.replace(b"/chat/", b"/chat;/", 1),
    lambda p: p.replace(b"/chat/", b"/chat;a=b/", 1),
    lambda p: p + b";x",
    lambda p: p + b";jsessionid=1",
    lambda p: p + b"%3bx",
    lambda p: p + b".css",
    lambda p: p + b"/x.css",
    lambda p: p + b"%00",
    lambda p: p + b"%00.css",
    lambda p: p + b"%0a.css",
    lambda p: p + b"%23x",
    lambda p: p + b"%3fx",
    lambda p: p + b"%20",
    lambda p: p + b"%09",
    lambda p: p + b".json.json",
    lambda p: p + b".JSON",
    lambda p: p + b".xml",
    lambda p: p + b".json/",
    lambda p: p + b"%2ejson",
    lambda p: p.replace(b"a", b"%61", 1),
    lambda p: p.replace(b"/api", b"/%61pi", 1),
    lambda p: p.replace(b"/api", b"/API", 1),
    lambda p: p.replace(b"/chat/", b"/Chat/", 1),
    lambda p: p.replace(b"/chat/H", b"/chat/%48", 1),
    lambda p: p.replace(b"/account", b"/account.", 1),
    lambda p: p.replace(b"/account", b"/account%E2%80%8B", 1),
    lambda p: p.replace(b"/", b"%2f"),
    lambda p: p.replace(b"/", b"%c0%af"),
    lambda p: p.replace(b"/", b"%e0%80%af", 3),
    lambda p: p.replace(b"/", b"\xc0\xaf", 3),
    lambda p: p.replace(b"/", b"%u002f", 2),
    lambda p: p.replace(b"/", b"%EF%BC%8F", 2),
    lambda p: p.replace(b"/", b"\xef\xbc\x8f", 2),
    lambda p: p.replace(b"/chat/", b"/chat/%2e%2e%2fchat/", 1),
    lambda p: p.replace(b"/chat/", b"/chat/..%2fchat/", 1),
    lambda p: p.replace(b"/chat/", b"/chat/..;/chat/", 1),
    lambda p: p.replace(b"/chat/", b"/chat/%ff/", 1),
    lambda p: p.replace(b"/chat/", b"/chat/%/", 1),
    lambda p: p.replace(b"/chat/", b"/chat/%zz/", 1),
    lambda p: p.replace(b"/123/", b"/0123/", 1),
    lambda p: p.replace(b"/123/", b"/123%20/", 1),
    lambda p: p.replace(b"/123/", b"/%31%32%33/", 1),
    lambda p: p.replace(b"/123/", b"/\xef\xbc\x91\xef\xbc\x92\xef\xbc\x93/", 1),
    lambda p: p.replace(b"/123/", b"/124/../123/", 1),
    lambda p: p + b"%0d%0ahost:%20evil.example",
    lambda p: p + b"%20HTTP/1.1%0d%0aX-Evil:%20x",
    lambda p: p + b"\xe5\x98\x8a\xe5\x98\x8dx",
]  # fmt: skip


@kind("refused")
def paths(its: Maker) -> Made:
    """There is one spelling of a path."""
    meant = its.any(REFUSED)
    return its.spelled(meant, its.line(meant, its.pick(PATHS)(meant.target))), [meant]


@kind("answered")
def suffixes(its: Maker) -> Made:
    """The one other spelling: `.json`, which wins over Accept."""
    meant = its.any()
    accept = its.pick([JSON, XML, b"*/*", b"text/html", b"application/xml, application/json;q=0.1"])
    fields = [(n, accept if n == b"accept" else v) for n, v in its.fields(meant)]
    return its.spelled(replace(meant, media_type=JSON), its.line(meant, meant.target + b".json"), fields), [
        replace(meant, media_type=JSON)
    ]


def asked(its: Maker, fate: Fate = ANSWERED) -> Meant:
    """A read with a query, in the order of its resource's row."""
    tag = its.tag()
    skill = tag + its.pick(["", " a", "&b=c", "=x", "/..", "%2e", "é", "+", "~", "漢", ";d", "#", "'\"<"])
    query = [("skill", skill)]
    if its.random.random() < 0.5:
        query.append(("maxWaitTime", str(its.random.randint(0, 9_999))))
    if its.random.random() < 0.3:
        query.append(("agent", its.pick(["x", "a b", "A.B_c~"])))
    return Meant(tag, "/chat/availability", query=tuple(query), fate=fate)


def mixed_up(its: Maker, text: str) -> str:
    """Another spelling of a name or value, which decodes to the same."""
    spelled = "".join(
        f"%{ord(c):{its.pick(['02x', '02X'])}}"
        if c.isascii() and its.random.random() < 0.2
        else percent_encoded(c)
        for c in text
    )
    return spelled.replace("%20", its.pick(["+", "%20"]))


NOTHING_SAID = [
    "",
    "_=1",
    "cb=x",
    "__d=0.5",
    "appKey=theirs",
    "appKey",
    "_",
    "appKey=a&appKey=b",
    "c%62=x",
    "%5f=1",
]


@kind("answered")
def queries(its: Maker) -> Made:
    """Any order and spelling of a query, with what says nothing between, is the same request."""
    meant = asked(its)
    pairs = [f"{mixed_up(its, name)}={mixed_up(its, value)}" for name, value in meant.query]
    pairs += its.random.sample(["v=1", "NC=true", *NOTHING_SAID], its.random.randint(0, 4))
    its.random.shuffle(pairs)
    return its.spelled(meant, its.line(meant, account_path(f"{meant.path}?{'&'.join(pairs)}").encode())), [
        meant
    ]


BAD_PAIRS = [
    "v=1&v=1", "skill=x", "Skill=x", "SKILL=x", "unknown=1", "skill[]=x", "skill[0]=x", "skill%00=x",
    "%20skill=x",
    "skill%20=x", "a;skill=x", "v=2%00", "NC=TRUE", "NC=1", "maxWaitTime=-1", "maxWaitTime=1e3",
    "maxWaitTime=86401",
    "agent=%00", "agent=a%0d%0ab", "agent=%ff", "agent=%c0%af", "agent=", "agent=" + "x" * 257, "=x",
    "%61gentt=x",
    "amp;agent=x", "agent;=x", "constructor=x", "__proto__=x", "appkey=x", "APPKEY=x", "Cb=1", "__D=1",
    "_%20=1",
    "agent=%ed%a0%80", "agent=%e2%80%a8", "agent%26x=y", "utm_source=x", "callback=f", "_method=PUT",
    "access_token=x",
]  # fmt: skip


@kind("refused")
def bad_queries(its: Maker) -> Made:
    meant = replace(asked(its, REFUSED), query=())
    meant = replace(meant, query=(("skill", meant.tag),))
    pairs = [f"skill={meant.tag}", its.pick(BAD_PAIRS)]
    its.random.shuffle(pairs)
    return its.spelled(meant, its.line(meant, account_path(f"{meant.path}?{'&'.join(pairs)}").encode())), [
        meant
    ]


@kind("refused", "answered")
def parameter_cloaking(its: Maker) -> Made:
    """A second value where only one of two readers sees it."""
    meant = asked(its, REFUSED)
    tag = meant.tag
    raw = its.pick(
        [f"skill={tag}&skill=other", f"_=1;skill=other&skill={tag}", f"skill={tag}?skill=other",
        f"skill={tag}&;skill=x",
         f"skill={tag}&skill%3dother", f"skill={tag}&sk%69ll=other", f"cb=1&amp;skill={tag}", f"?skill={tag}",
         f"skill={tag}&maxWaitTime=1&maxWaitTime=2", f"skill={tag}&maxWaitTime%3D1", f"skill={tag}%00&x"]
    )  # fmt: skip
    # These say one thing only: a value with an odd character, or a name that says nothing.
    if raw in {f"skill={tag}?skill=other", f"_=1;skill=other&skill={tag}"}:
        value = f"{tag}?skill=other" if "?" in raw else tag
        meant = replace(meant, query=(("skill", value),), fate=ANSWERED)
    return its.spelled(meant, its.line(meant, account_path(f"{meant.path}?{raw}").encode())), [meant]


# -- fields that other proxies believe --------------------------------------------------------------------

EVIL = [
    b"evil.example",
    b"127.0.0.1",
    b"gateway.test:99999",
    b"/admin",
    b"https://evil.example/x",
    b"a%0d%0ab: c",
    b"1",
]

UNHEARD: list[bytes] = [
    b"x-forwarded-host", b"x-forwarded-proto", b"x-forwarded-port", b"x-forwarded-server",
    b"x-forwarded-scheme",
    b"x-forwarded-prefix", b"x-forwarded-path", b"forwarded", b"x-host", b"x-original-host",
    b"x-original-url",
    b"x-rewrite-url", b"x-real-ip", b"x-client-ip", b"true-client-ip", b"cf-connecting-ip", b"x-http-method",
    b"x-method-override", b"x-http-host-override", b"x-custom-ip-authorization", b"x-cluster-client-ip",
    b"via",
    b"cookie", b"cache-control", b"pragma", b"range", b"if-range", b"if-modified-since", b"if-match",
    b"if-unmodified-since", b"accept-encoding", b"accept-language", b"accept-charset", b"user-agent",
    b"referer",
    b"x-lp-app", b"appkey", b"x-appkey", b"location", b"content-encoding", b"content-location",
    b"max-forwards",
    b"surrogate-capability", b"x-middleware-subrequest", b"x-envoy-original-path", b"lp-url",
    b"x-requested-with",
    b"x-amz-website-redirect-location", b"proxy", b"x-wap-profile", b"x-accel-redirect", b"x-sendfile",
    b"destination",
    b"content-disposition", b"dnt", b"priority", b"early-data", b"cdn-loop", b"x-http-path-override",
    b"base-url",
]  # fmt: skip


@kind("answered")
def fields_nobody_hears(its: Maker) -> Made:
    meant = its.any()
    names = its.random.sample(UNHEARD, its.random.randint(1, 6))
    return its.spelled(meant, None, its.beside(its.fields(meant), *[(n, its.pick(EVIL)) for n in names])), [
        meant
    ]


@kind("answered")
def hop_by_hop(its: Maker) -> Made:
    """What Connection names is still read, or was never."""
    meant = its.any()
    named = its.random.sample(
        [b"authorization", b"accept", b"host", b"content-length", b"content-type", b"x-forwarded-for",
        b"cookie",
         b"keep-alive", b"te", b"x-a", b"Authorization", b"transfer-encoding", b"x-real-ip", b""],
        its.random.randint(1, 4),
    )  # fmt: skip
    more = [(b"connection", b", ".join(named))]
    more += its.random.sample(
        [(b"te", b"trailers"), (b"keep-alive", b"timeout=600"), (b"proxy-connection",
        b"keep-alive"), (b"x-a", b"1"),
         (b"proxy-authorization", b"Basic eDp5"), (b"trailer", b"content-length"), (b"connection", b"x-b")],
        its.random.randint(0, 3),
    )  # fmt: skip
    return its.spelled(meant, None, its.beside(its.fields(meant), *more)), [meant]


@kind("refused")
def upgrades(its: Maker) -> Made:
    meant, inner = its.read(REFUSED), its.smuggled()
    protocol = its.pick([b"h2c", b"websocket", b"TLS/1.0", b"HTTP/2.0", b"x"])
    more = [(b"connection", its.pick([b"upgrade", b"Upgrade, HTTP2-Settings"])), (b"upgrade", protocol)]
    if protocol == b"h2c":
        more.append((b"http2-settings", b"AAMAAABkAARAAAAAAAIAAAAA"))
    fields = its.beside(its.fields(meant), *more)
    return its.spelled(meant, None, fields) + its.pick([inner, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"]), [meant]


@kind("answered", "refused")
def hosts(its: Maker) -> Made:
    meant = its.any()
    if its.random.random() < 0.5:
        value = its.pick(
            [
                b"evil.example",
                b"127.0.0.1:1",
                b"[::1]:80",
                b"x" * 300,
                b"a.b.c.",
                b"UPPER",
                b"",
                b"1",
                b"a:99999",
            ]
        )
        return its.spelled(meant, None, [(b"host", value), *its.fields(meant)[1:]]), [meant]
    values = its.pick(
        [[], [b"a", b"a"], [b"gateway.test", b"evil.example"], [b"a, b"], [b"a/b"], [b"a b"], [b"a@b"],
        [b"a\\b"],
         [b"http://a/"], [b"a?b"], [b"a#b"], [b"\xc3\xa4"], [b"a\tb"], [b'"a"'], [b"a<b"]]
    )  # fmt: skip
    fields = its.beside(its.fields(meant)[1:], *[(b"host", value) for value in values])
    meant = meant.but(REFUSED)
    return its.spelled(meant, None, fields), [meant]


@kind("answered", "refused")
def overrides(its: Maker) -> Made:
    """POST that says PUT is PUT; every other override is refused, and look-alikes say nothing."""
    meant = its.write() if its.random.random() < 0.7 else its.read()
    value = its.pick([b"PUT", b"PUT", b"PUT", b"PUT", b"put", b"GET", b"DELETE", b"PUT, PUT", b"", b"POST"])
    doubled = its.random.random() < 0.2
    fields = its.beside(its.fields(meant), *[(b"x-http-method-override", value)] * (2 if doubled else 1))
    if meant.method == "PUT":
        line = b"POST" + its.line(meant)[3:]
        meant = meant if value == b"PUT" and not doubled else meant.but(REFUSED)
        return its.spelled(meant, line, fields), [meant]
    meant = meant.but(REFUSED)
    return its.spelled(meant, None, fields), [meant]


@kind("refused", "answered")
def tokens(its: Maker) -> Made:
    meant, good = its.any(REFUSED), its.token.encode()
    values = its.pick(
        [[], [b"Bearer " + good] * 2, [b"Basic eDp5"], [b"Bearer"], [b"Bearer  "], [good],
        [b"Bearer " + good + b", x"],
         [b"Bearer\t" + good + b" x"], [b"Token " + good], [b"Bearer " + good[:-4]],
         [b"Bearer " + good + b"\xc3\xa4"],
         [b"Bearer " + good, b""], [b"Bearer x.y.z"], [b"bearer " + good], [b"BEARER " + good]]
    )  # fmt: skip
    if values and values[0][:7] in {b"bearer ", b"BEARER "}:
        meant = meant.but(ANSWERED)
    rest = [one for one in its.fields(meant) if one[0] != b"authorization"]
    return its.spelled(meant, None, its.beside(rest, *[(b"authorization", value) for value in values])), [
        meant
    ]


@kind("answered", "refused")
def injections(its: Maker) -> Made:
    """Line ends in every spelling, in whatever is heard: they end nowhere."""
    meant, evil = (
        its.any(),
        its.pick(
            [
                b"%0d%0ax-evil: 1",
                b"\\r\\nx-evil: 1",
                b"%E5%98%8A%E5%98%8Dx-evil: 1",
                b"&#13;&#10;x",
                b"\xe5\x98\x8ax",
            ]
        ),
    )
    if its.random.random() < 0.3:
        evil, meant = its.pick([b"a\rb: c", b"a\nb", b"a\x00b", b"a\x0bb"]), meant.but(EITHER)
    name = its.pick([b"x-request-id", b"if-none-match", b"origin", b"x-forwarded-for", b"user-agent", b"x-a"])
    return its.spelled(meant, None, its.beside(its.fields(meant), (name, evil))), [meant]


@kind("answered")
def types(its: Maker) -> Made:
    """A body is passed on to the byte; of its type only the name is."""
    meant = its.write()
    value = its.pick(
        [
            b"application/json; charset=utf-7",
            b"APPLICATION/JSON",
            b"application/json;boundary=x",
            b'application/json ;x="\\r"',
        ]
    )
    body = its.pick(
        [b'{"a":"%s"}' % meant.tag.encode(), b' {"a" : 1.0e5 }\r\n', b'{"\xc3\xa9":[]}',
         b'{"a":"\\u0000\\r\\n\\r\\nGET / HTTP/1.1"}', b'{"a":"HTTP/1.1 200 OK\\r\\n"}']
    )  # fmt: skip
    meant = replace(meant, body=body)
    if its.random.random() < 0.3:
        value, meant = b"text/xml; charset=x", replace(meant, body=b"<a b='c'>\r\n<d/></a>\n", body_is=XML)
    fields = [(n, value if n == b"content-type" else v) for n, v in its.fields(meant)]
    more = its.random.sample(
        [(b"content-encoding", b"gzip"), (b"content-range", b"bytes 0-1/2"), (b"content-md5", b"x")], 1
    )
    return its.spelled(meant, None, its.beside(fields, *more)), [meant]


# -- several requests -------------------------------------------------------------------------------------


@kind("answered")
def pipelines(its: Maker) -> Made:
    """Good ones in one write, more than may wait."""
    meant = [its.any() for _ in range(its.pick([2, 3, 5, 8, 20]))]
    return b"".join(its.plain(one) for one in meant), meant


@kind("answered")
def good_and_bad(its: Maker) -> Made:
    """Hostile ones between good ones."""
    # What has no end takes the next for a part of itself; some are several already, or would take long.
    names = [
        name for name in KINDS if name not in {"flipped", "halves", "good_and_bad", "pipelines", "too_much"}
    ]
    data, meant = b"", list[Meant]()
    for _ in range(its.random.randint(1, 2)):
        good = its.any()
        bad, told = KINDS[its.pick(names)][0](its)
        data += its.plain(good) + bad
        # Behind what is refused there may be nothing more.
        fates = [one if one.fate is REFUSED else one.but(EITHER) for one in told]
        meant += [good if not meant else good.but(EITHER), *fates]
    return data, meant


@kind("refused")
def halves(its: Maker) -> Made:
    """A request that stops somewhere: what comes next on the connection is not what is missing."""
    meant = its.any(REFUSED)
    data = its.plain(meant)
    return data[: its.random.randrange(1, len(data))], [meant]
