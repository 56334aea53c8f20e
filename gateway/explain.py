"""What would happen to a request, step by step along the road, and by which rule.

    explain → judge              1 to 3, the exchange's own
            → _limited           4
            → _ending            5 to 9: _read, or _alone

It asks the exchange the questions that the exchange asks itself, and does nothing: no charge, no flight, no
request upstream. How the upstream would answer nobody knows: what is sent is taken to be answered well, at
once, and within the account's budget.
"""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import assert_never

from gateway.core.access import Claims
from gateway.core.errors import Refusal, too_often
from gateway.core.freshness import Entry, Failed, Fetch, Hold, Serve
from gateway.core.headers import dress
from gateway.core.judgement import Granted, Judged, Refused
from gateway.core.limits import Left, Standing
from gateway.core.messages import Key, UpstreamRequest
from gateway.core.paths import Target
from gateway.core.replies import How
from gateway.core.requests import Request
from gateway.core.views import FULL, View
from gateway.core.writes import dressed
from gateway.exchange import Exchange

Steps = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Explanation:
    """The end of a request that was not made.

    `outcome` is what logs and metrics would call it. `key` is what its answer is shared under, None if it is
    shared with nobody. `upstream` is what would be sent, without its appKey; None if nothing would. `steps`
    are (step of the road, what it says).
    """

    outcome: str
    client: str | None
    rule: str | None
    key: Key | None
    upstream: UpstreamRequest | None
    steps: Steps

    @classmethod
    def of(cls, refusal: Refusal, steps: Steps = ()) -> Explanation:
        """Of a request that is refused before anything is looked for."""
        steps += (("answer", _no(refusal)),)
        return cls(refusal.reason.slug, refusal.client, refusal.rule, None, None, steps)

    def document(self) -> Mapping[str, object]:
        """As JSON can say it."""
        return {
            "outcome": self.outcome,
            "client": self.client,
            "rule": self.rule,
            "cache_key": None if self.key is None else _key_document(self.key),
            "upstream_request": None if self.upstream is None else _request_document(self.upstream),
            "steps": [{"step": step, "says": says} for step, says in self.steps],
        }


def _key_document(key: Key) -> Mapping[str, object]:
    path, query, representation = key
    return {"path": path, "query": query, "representation": representation.value}


def _request_document(sent: UpstreamRequest) -> Mapping[str, object]:
    return {
        "account": sent.account,
        "method": sent.method,
        "target": sent.target.decode(),
        "headers": {name.decode(): value.decode() for name, value in sent.headers},
        "body_bytes": len(sent.body),
    }


async def explain(exchange: Exchange, request: Request, claims: Claims | None = None) -> Explanation:
    """What would happen to this request now; with `claims`, as if its token had been found to say that.

    A request without a peer is nobody's: whatever is wrong with its token is counted against no address.
    """
    judged = await exchange.judge(request) if claims is None else exchange.decided(claims, request)
    steps = (*_judgement(exchange, judged), *[step async for step in _shadows(exchange, judged)])
    if judged.client is not None:
        standing = await exchange.limiter.peek(judged.client, _resource(judged))
        steps += (("limit", _standing(standing)),)
        if standing.violated:
            return Explanation.of(too_often(judged.client.name, standing), steps)
    if isinstance(judged, Refused):
        return Explanation.of(judged.refusal, steps)
    ending = await _ending(exchange, judged, request)
    return Explanation(
        ending.label,
        judged.client.name,
        ending.rule or judged.grant.rule,
        judged.target.key if judged.target.resource.coalesce and judged.target.is_read else None,
        ending.sent,
        steps + tuple(_told(ending, judged)),
    )


def _resource(judged: Judged) -> str | None:
    return None if judged.target is None else judged.target.resource.name


# -- steps 5 to 9, as far as they can be told ----------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Ending:
    """How it would end, what would be sent upstream for it, and what was found."""

    outcome: How | Failed | Refusal
    sent: UpstreamRequest | None = None
    found: str | None = None

    @property
    def label(self) -> str:
        return self.outcome.value if isinstance(self.outcome, How) else self.outcome.reason.slug

    @property
    def rule(self) -> str | None:
        """What decided after the grant, if anything did."""
        return self.outcome.rule if isinstance(self.outcome, Refusal) else None


async def _ending(exchange: Exchange, granted: Granted, request: Request) -> _Ending:
    if granted.target.is_read:
        ending = _read(exchange, granted)
        begins = granted.target.streamed and isinstance(ending.outcome, How)
        return replace(ending, outcome=How.STREAM) if begins else ending
    body = await exchange.whole_body(granted.target, request)
    sent = body if isinstance(body, Refusal) else dressed(granted, *body, request.visitor)
    if isinstance(sent, Refusal):
        return _Ending(sent)
    return _alone(exchange, granted, How.WRITE, sent)


def _read(exchange: Exchange, granted: Granted) -> _Ending:
    target = granted.target
    sent = dress(target)
    known = exchange.from_info(target)
    if known is not None:
        return _Ending(How.HIT, None, f"in the info {_kept(exchange, known)}")
    if not target.resource.coalesce:
        return _alone(exchange, granted, How.FORWARD, sent)
    planned = exchange.look(target)
    match planned:
        case Serve(entry, refresh):
            starts = refresh and not exchange.is_flying(target) and _may_not_fetch(exchange, granted) is None
            return _Ending(How.HIT, sent if starts else None, _kept(exchange, entry))
        case Hold(failed, fallback):
            stale = exchange.usable(target, fallback) if failed.excuses_stale else None
            return _Ending(
                failed if stale is None else How.STALE, None, f"{_fallback(exchange, stale)}; {_held(failed)}"
            )
        case Fetch(fallback):
            return _fetch(exchange, granted, exchange.usable(target, fallback), sent)
        case _:
            assert_never(planned)


def _fetch(exchange: Exchange, granted: Granted, stale: Entry | None, sent: UpstreamRequest) -> _Ending:
    instead = "" if stale is None else ", which stands in if the upstream is slow or unwell"
    found = _fallback(exchange, stale) + instead
    if exchange.is_flying(granted.target):
        return _Ending(How.COLLAPSED, None, f"{found}; a fetch is under way, and this would wait for it too")
    refusal = _may_not_fetch(exchange, granted)
    if refusal is not None:
        return _Ending(refusal, None, f"{found}; to fetch one is more than the client may")
    return _Ending(How.MISS, sent, f"{found}; this would fetch one for all who ask meanwhile")


def _alone(exchange: Exchange, granted: Granted, how: How, sent: UpstreamRequest) -> _Ending:
    hold = exchange.protection.hold(granted.target.account, None, granted.target.whose)
    if hold is not None:
        return _Ending(hold, None, _held(hold))
    refusal = _may_not_fetch(exchange, granted)
    if refusal is not None:
        return _Ending(refusal, None, "it has to be sent, which is more than the client may")
    return _Ending(
        how, sent, "a write is always sent" if how is How.WRITE else "its answers are neither shared nor kept"
    )


def _may_not_fetch(exchange: Exchange, granted: Granted) -> Refusal | None:
    standing = exchange.limiter.peek_fetch(granted.client, granted.target.resource.name)
    return None if standing is None else too_often(granted.client.name, standing)


# -- what each step says: for somebody who was woken by it ---------------------------------------------------


def _judgement(exchange: Exchange, judged: Judged) -> Iterator[tuple[str, str]]:
    refusal = judged.refusal if isinstance(judged, Refused) else None
    if judged.client is None:
        # Without a refusal there is a client.
        yield "verify", "" if refusal is None else _why(refusal)
        return
    client = judged.client
    yield "verify", f"client {client.name}, priority {client.priority.label}{_life(exchange, judged)}"
    if judged.target is None:
        yield "locate", "" if refusal is None else _why(refusal)
        return
    yield "locate", _place(judged.target)
    yield "admit", f"allowed by {judged.grant.rule}" if isinstance(judged, Granted) else _why(judged.refusal)


def _life(exchange: Exchange, judged: Judged) -> str:
    if isinstance(judged, Refused) or math.isinf(judged.grant.dead_when.expires_at):
        return ""
    until = judged.grant.dead_when.expires_at
    return f"; its token is good until {_time(until)} ({until - exchange.clock.wall():.0f} s)"


def _place(target: Target) -> str:
    chat = "" if target.chat is None else f", chat {target.chat.id}"
    left_out = "; the query has names that are left out" if target.dropped else ""
    shape = target.representation.name
    return f"{target.method} {target.resource.name} in {shape}, account {target.account}{chat}{left_out}"


async def _shadows(exchange: Exchange, judged: Judged) -> AsyncIterator[tuple[str, str]]:
    for client, shadow in judged.shadows:
        standing = await exchange.limiter.peek(client, _resource(judged))
        refusal = too_often(client.name, standing) if standing.violated else None
        said, rule = (shadow.outcome, shadow.rule) if refusal is None else (refusal.reason.slug, refusal.rule)
        yield "shadow", f"were {client.name} in force: {said} by {rule}"


def _standing(standing: Standing) -> str:
    """What is left, this request included; or what was used up."""
    again = f"again in {_span(standing.retry_after_s)}"
    if standing.violated and not standing.left:
        return f"nobody answers who counts {' and '.join(standing.violated)} for all replicas; {again}"
    if not standing.left:
        return "its requests are not limited"
    if not standing.violated:
        return f"{', '.join(map(_left, standing.left))} left after this"
    broken = (_left(left) for left in standing.left if left.limit in standing.violated)
    return f"used up: {', '.join(broken)} left; {again}"


def _left(left: Left) -> str:
    return f"{left.remaining} of {left.quota} {left.limit}"


def _told(ending: _Ending, granted: Granted) -> Iterator[tuple[str, str]]:
    if ending.found is not None:
        yield "look", ending.found
    yield "send", "nothing" if ending.sent is None else _sending(ending.sent)
    outcome = ending.outcome
    match outcome:
        case How():
            yield "view", _view(granted.grant.view)
        case Failed():
            yield "answer", f"{outcome.reason.status} {outcome.reason.slug}: {outcome.reason.detail}"
        case Refusal():
            yield "answer", _no(outcome)
        case _:
            assert_never(outcome)


def _sending(sent: UpstreamRequest) -> str:
    body = f" with a body of {len(sent.body)} bytes" if sent.body else ""
    return f"{sent.method} {sent.target.decode()} to the upstream of account {sent.account}{body}"


def _fallback(exchange: Exchange, stale: Entry | None) -> str:
    return "nothing is kept that could be served" if stale is None else _kept(exchange, stale)


def _kept(exchange: Exchange, entry: Entry) -> str:
    """How old it is, and until when it is what: relative, and as log lines have it."""
    now = exchange.clock.now()
    age = f"a {entry.answer.status} is kept that was asked for {entry.age(now):.3f} s ago"
    ends = (
        ("refreshed from", entry.refresh_at),
        ("fresh until", entry.fresh_until),
        ("of use until", entry.stale_until),
    )
    return f"{age}: {', '.join(f'{what} {_at(exchange, when)}' for what, when in ends)}"


def _at(exchange: Exchange, when: float) -> str:
    left_s = when - exchange.clock.now()
    moment = _time(exchange.clock.wall() + left_s)
    return f"{moment} (in {left_s:.3f} s)" if left_s > 0 else f"{moment} ({-left_s:.3f} s ago)"


def _time(wall: float) -> str:
    moment = dt.datetime.fromtimestamp(min(wall, _LAST_MOMENT), dt.UTC)
    return f"{moment.replace(tzinfo=None).isoformat(timespec='milliseconds')}Z"


#: Of the year 9999. A token may expire then, and its issuer's leeway comes on top.
_LAST_MOMENT = 253402300799.0


def _held(failed: Failed) -> str:
    answered = "" if failed.received is None else f", when it said {failed.received}"
    return (
        f"the upstream is not asked for another {failed.retry_after_s or 0:.1f} s"
        f" after {failed.reason.slug}{answered}"
    )


def _view(view: View) -> str:
    if view == FULL:
        return "all fields"
    named = view.hide if view.show is None else view.show
    return f"{'all but' if view.show is None else 'only'} {', '.join(sorted(named or ()))}"


def _why(refusal: Refusal) -> str:
    because = f" ({refusal.because})" if refusal.because and refusal.rule is None else ""
    by = f" by {refusal.rule}" if refusal.rule else ""
    allow = f"; it takes {', '.join(refusal.allow)}" if refusal.allow else ""
    return f"{refusal.reason.slug}{because}{by}{allow}"


def _no(refusal: Refusal) -> str:
    later = "" if refusal.retry_after_s is None else f" Again in {_span(refusal.retry_after_s)}."
    return f"{refusal.reason.status} {refusal.reason.slug}: {refusal.reason.detail}{later}"


def _span(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds >= 0.1 else f"{math.ceil(seconds * 1000)} ms"
