"""From a raw request to a target: whatever gets through was spelled here, and is its own canonical form.

The lines of an input are method, path, query, Accept and the override.
"""

from __future__ import annotations

import re

from gateway.core.errors import Refusal
from gateway.core.headers import dress
from gateway.core.messages import Representation
from gateway.core.paths import Line, locate
from tests.fuzz.shipped import ACCOUNTS, POLICIES

CHAT = b"H6249979066121302517-1027c4d1c386bbc4cd613e30d8f16adfK5279348"
SEEDS = [
    b"GET\n/api/account/123/chat/%b/info\nv=1&NC=true\napplication/json" % CHAT,
    b"PUT\n/api/account/123/chat/%b/info/visitorName.json\n\n*/*;q=0.1, text/xml" % CHAT,
    b"POST\n/api/account/le456/chat/%b/info/visitorTyping\n_=1&%%76=1\n\nPUT" % CHAT,
    b"GET\n/api/account/123/chat/%b/events\nfrom=7&appKey=x\napplication/xml" % CHAT,
    b"HEAD\n/api/account/123/chat/availability\nskill=a%20b&serviceQueue=c",
    b"POST\n/api/account/123/chat/request\nv=1",
    b"GET\n/api/account/123/chat/../../456\n",
]
CANONICAL = re.compile(rb"/api/account/(123|le456)(/[A-Za-z0-9._-]+)*\?([A-Za-z]+=[A-Za-z0-9._~%-]*&?)*")


def check(data: bytes) -> None:
    method, path, query, accept, override = (data.split(b"\n", 4) + [b""] * 4)[:5]
    line = Line(method.decode("latin-1"), path, query, accept or None, override or None)
    found = locate(line, POLICIES, ACCOUNTS, Representation.JSON)
    if isinstance(found, Refusal):
        assert 400 <= found.reason.status < 500, found
        return
    target = dress(found).target
    assert CANONICAL.fullmatch(target), target
    assert not {b".", b".."} & set(target.partition(b"?")[0].split(b"/")), target
    assert b"appkey" not in target.lower(), target
    assert found.path.encode() in {path, path.removesuffix(b".json")}, "nothing of a path is decoded"
    sent_path, _, sent_query = target.partition(b"?")
    accept = found.representation.media_type
    again = locate(
        Line(found.method, sent_path, sent_query, accept, None), POLICIES, ACCOUNTS, Representation.XML
    )
    assert not isinstance(again, Refusal), again
    assert (again.key, again.resource, again.chat) == (found.key, found.resource, found.chat), again
    assert not again.dropped
