"""What an upstream answer becomes: undressed of all that may not cross, and rendered for a view.

Built, not copied: of the upstream's head only the media type and `Location` have a successor here, and of
an error's body only its three known members.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from email.utils import parsedate_to_datetime

from gateway.core.documents import Broken, Document, InfoFacts, UpstreamError, read_error, render_error
from gateway.core.errors import Reason
from gateway.core.faults import Asked, Verdict, judge
from gateway.core.freshness import Entry, Failed
from gateway.core.headers import lines, media_type
from gateway.core.links import LinkMap, clean_text, named, rewrite, rewrite_url
from gateway.core.messages import Answer, Headers, Representation
from gateway.core.paths import Target
from gateway.core.views import FULL, Slot, View, viewed

#: How many views of an entry are kept besides the whole: each is a body more.
MAX_VIEWS = 4
NOTHING_KNOWN = InfoFacts(None, None)


@dataclass(frozen=True, slots=True)
class Undressed:
    """An answer that may cross, and what was learned on the way.

    `foreign_links` counts links that lead elsewhere than to a configured account; they were left alone.
    `other_session_key`: it is about a chat, and its `chatSessionKey` is not the id of that chat.
    """

    answer: Answer
    verdict: Verdict
    facts: InfoFacts = NOTHING_KNOWN
    foreign_links: int = 0
    other_session_key: bool = False


class _Mismatched(Exception):
    """The answer is another's."""


def undress(
    target: Target, answer: Answer, links: LinkMap, *, refuse_other_session_key: bool = False
) -> Undressed | Failed:
    """The answer without anything that may not cross, or why there is nothing left of it.

    What says that it is of another account or chat (see `Document.self_links`) is no answer at all.
    """
    verdict, error = judged(answer, asked(target), target.representation)
    reason = _FAILURES.get(verdict)
    if reason is not None:
        return Failed(reason, answer.status, _retry_after_s(answer))
    if verdict is not Verdict.GOOD:
        return Undressed(_cleaned(answer, error, target.representation, links), verdict)
    try:
        heard = _good(target, answer, links)
    except Broken:
        return Failed(Reason.UPSTREAM_BROKEN, answer.status)
    except _Mismatched:
        return Failed(Reason.UPSTREAM_MISMATCH, answer.status)
    if heard.other_session_key and refuse_other_session_key:
        return Failed(Reason.UPSTREAM_MISMATCH, answer.status)
    return heard


def judged(
    answer: Answer, asked: Asked, representation: Representation
) -> tuple[Verdict, UpstreamError | None]:
    """Whose fault an answer is, and its error. A body that names no type is of `representation`."""
    body_is = media_type(answer.header(b"content-type")) or representation
    error = read_error(answer.body, body_is) if answer.status >= 400 else None
    return judge(asked, answer.status, None if error is None else error.internal_code), error


def asked(target: Target) -> Asked:
    """What kind of request that is."""
    if target.is_read:
        return read_of(target.query)
    return Asked.START if target.action == "chat:start" else Asked.WRITE


def read_of(query: str) -> Asked:
    """A read, or a question, by its canonical query."""
    return Asked.READ if _OF_NOBODY.fullmatch(query) else Asked.QUESTION


#: What the gateway fills in, and a number.
_OF_NOBODY = re.compile(r"v=1&NC=true(&from=[0-9]{1,9})?")


_FAILURES = {
    Verdict.OUR_KEY: Reason.KEY_REFUSED,
    Verdict.THROTTLED: Reason.UPSTREAM_THROTTLED,
    Verdict.REDIRECT: Reason.UPSTREAM_REDIRECT,
    Verdict.UPSTREAMS: Reason.UPSTREAM_ERROR,
    Verdict.UNUSABLE: Reason.UPSTREAM_BROKEN,
}


def _good(target: Target, answer: Answer, links: LinkMap) -> Undressed:
    body_is = media_type(answer.header(b"content-type"))
    head: list[tuple[bytes, bytes]] = []
    facts, body, foreign, is_other = NOTHING_KNOWN, b"", 0, False
    if answer.body or target.is_read:
        if target.is_read and body_is is not target.representation:
            raise Broken("not the representation that was asked for")
        if body_is is not None:
            document = Document.parse(answer.body, body_is)
            if any(_is_of_another(link, target) for link in document.self_links()):
                raise _Mismatched
            facts, is_other = document.facts(), _is_another(document.session_key(), target)
            rewritten = rewrite(answer.body, body_is, links)
            body, foreign = rewritten.body, rewritten.foreign
            head.append((b"content-type", body_is.media_type))
        # A write's body of another type tells nobody anything: the status stands, the body goes.
    location = answer.header(b"location")
    if location is not None:
        # A Location that is not ours says nothing a client could follow with its token; it stays here.
        ours = rewrite_url(location.decode("latin-1"), links)
        if ours is None or not _VISIBLE.fullmatch(ours):
            foreign += 1
        else:
            head.append((b"location", ours.encode()))
    return Undressed(Answer(answer.status, tuple(head), body), Verdict.GOOD, facts, foreign, is_other)


def _is_of_another(link: str, target: Target) -> bool:
    account, chat = named(link) or (target.account, None)
    return account != target.account or _is_another(chat, target)


def _is_another(chat: str | None, target: Target) -> bool:
    return chat is not None and target.chat is not None and chat != target.chat.id


_VISIBLE = re.compile(r"[\x21-\x7e]+")


def _cleaned(
    answer: Answer, error: UpstreamError | None, representation: Representation, links: LinkMap
) -> Answer:
    if error is None:
        error = UpstreamError("The chat service refused the request.", None, None)
    else:
        error = UpstreamError(
            clean_text(error.message, links), clean_text(error.time or "", links) or None, error.internal_code
        )
    head: Headers = ((b"content-type", representation.media_type),)
    return Answer(answer.status, head, render_error(error, representation))


def _retry_after_s(answer: Answer) -> float | None:
    """Seconds or a date (RFC 9110 §10.2.3); a date is measured against the answer's own."""
    value = (answer.header(b"retry-after") or b"").decode("latin-1").strip()
    if value.isdecimal() and value.isascii():
        return float(value[:9])
    try:
        until = parsedate_to_datetime(value)
        said = parsedate_to_datetime((answer.header(b"date") or b"").decode("latin-1"))
        return max(0.0, (until - said).total_seconds())
    except (ValueError, TypeError, OverflowError):
        return None


def render(entry: Entry, view: View, target: Target) -> Slot:
    """The slot of (target, view), rendered once per entry."""
    slot = entry.slots.get(view)
    if slot is None:
        cut = [kept for kept in entry.slots if kept != FULL]
        if len(cut) >= MAX_VIEWS:
            # The oldest. Who has so many views renders now and then what was rendered before.
            del entry.slots[cut[0]]
        slot = entry.slots[view] = _render(entry.answer, view, target)
    return slot


def _render(answer: Answer, view: View, target: Target) -> Slot:
    rule = target.resource.cache
    etag = None
    head = list(answer.headers)
    body = answer.body
    # An error's body is the gateway's own and has no fields of a chat.
    if answer.status < 400:
        # The answer to a write may be of another type than was asked for.
        body = _shown(body, media_type(answer.header(b"content-type")) or target.representation, view)
    if answer.status != 204:  # RFC 9110 §8.6
        head.append((b"content-length", str(len(body)).encode()))
    head.append(
        (
            b"cache-control",
            b"private, no-cache" if target.resource.coalesce and target.is_read else b"no-store",
        )
    )
    if rule is not None and target.is_read and answer.status == 200:
        document = Document.parse(body, target.representation)
        etag = b'W/"' + document.fingerprint(rule.volatile).encode() + b'"'
        head.append((b"etag", etag))
    head_304 = tuple(pair for pair in head if pair[0] in _OF_304)
    return Slot(answer.status, lines(tuple(head)), body, etag, lines(head_304))


_OF_304 = frozenset({b"cache-control", b"etag"})


def _shown(body: bytes, representation: Representation, view: View) -> bytes:
    if view == FULL or not body:
        return body
    if representation is Representation.JSON and not body.lstrip().startswith(b"{"):
        # What has no name cannot be chosen. The vendor's documents are objects.
        return b"{}"
    return viewed(body, representation, view)
