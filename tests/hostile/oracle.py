"""The byte oracle: whatever is thrown at the gateway, the upstream sees what was meant, or nothing.

One process and one event loop: a raw client, the gateway, a recording upstream. For each case

- the upstream gets one request for each that is answered, byte-equal to its canonical form;
- it sees none that is refused, and none that nobody meant;
- no answer is another request's, none is a 5xx, and none is left over;
- the next good request on another connection gets its own answer; on the same one that, or the end.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.hostile.canonical import Fate, Meant, document, plain
from tests.hostile.mutators import Case, Maker, case
from tests.hostile.recorder import Peer, Recorder, Reply, connect, recording
from tests.support import PATIENCE_S, World, leaks, world

#: Cases at one time.
LANES = 24
#: Where less came back than was hoped for: after this nothing more is sent, and the connection ends.
QUIET_S = 0.5
#: How often what has come back is searched for what must not.
SEARCHED_EVERY = 500
#: Nothing here is about limits or deadlines.
UNLIMITED: dict[str, Any] = {
    "edge": {"head_ms": 60_000, "body_ms": 60_000},
    "budget": {
        "per_second": 10_000,
        "burst": 10_000,
        "in_flight": 10_000,
        "queue": 100_000,
        "wait_ms": 5_000,
    },
    "failed_tokens": {"per_minute": 100_000, "burst": 100_000},
    "overload": {"lag_ms": 5_000},
}


@dataclass
class Tally:
    """What came of the cases: outcomes by kind, and what was wrong."""

    cases: int = 0
    outcomes: Counter[tuple[str, str]] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    def share(self, kind: str, outcome: str) -> float:
        total = sum(count for (name, _), count in self.outcomes.items() if name == kind)
        return self.outcomes[kind, outcome] / total if total else 0.0


class Oracle:
    """A gateway between a raw client and a recorder, and the judgement of what passes."""

    def __init__(self, it: World, recorder: Recorder, seed: int) -> None:
        self.it = it
        self.recorder = recorder
        self.seed = seed
        self.tally = Tally()
        self.tokens = [it.token("bff", jti=str(number)) for number in range(4)]

    async def run(self, numbers: Iterator[int], first: str | None = None) -> Tally:
        """Throw these cases at it, some at a time."""
        async with asyncio.TaskGroup() as lanes:
            for lane in range(LANES):
                lanes.create_task(self._lane(lane, numbers, first))
        self._search()
        # What comes after its case was judged belongs to none; but polled chats may have been read again.
        polled = set[bytes]().union(*(_polled(lane).canonical(self.recorder.host) for lane in range(LANES)))
        late = [raw for number in list(self.recorder.seen) for raw in self.recorder.left(number)]
        strange = [raw for raw in late if raw not in polled] + self.recorder.strange
        self.tally.wrong += [f"upstream, unasked for: {raw!r}" for raw in strange]
        return self.tally

    async def _lane(self, lane: int, numbers: Iterator[int], first: str | None) -> None:
        beside, peer = await connect(self.it.addresses.public), await connect(self.it.addresses.public)
        for number in numbers:
            one = case(number, self.seed, self.tokens, first)
            if peer.is_closed:
                peer = await connect(self.it.addresses.public)
            wrong = await self._throw(one, peer, beside, lane)
            if wrong:
                peer.transport.abort()
                peer.is_closed = True
            self.tally.wrong += [self._told(one, what) for what in wrong]
            self.tally.cases += 1
            self.it.received.append(peer.forget())
            if self.tally.cases % SEARCHED_EVERY == 0:
                self._search()
        beside.transport.abort()
        peer.transport.abort()

    async def _throw(self, one: Case, peer: Peer, beside: Peer, lane: int) -> list[str]:
        """Send the case and the good requests behind and beside it; returns what was wrong."""
        its = Maker(-one.number, self.seed, self.tokens)
        last = _good(f"H{one.number}-last")
        peer.asked = [meant.method for meant in one.meant] + ["GET"]
        is_glued = its.random.random() < 0.5
        await _send(peer, (*one.pieces[:-1], one.pieces[-1] + (plain(last, its.token) if is_glued else b"")))
        wrong = list(await self._beside(beside, one.number, lane, its))
        if not is_glued:
            await _send(peer, (plain(last, its.token),))
        if not await peer.until(len(one.meant) + 1, QUIET_S):
            # Something is taken for the beginning of more.
            peer.transport.write_eof()
            peer.is_ending = True
        if peer.is_ending and not await peer.until_closed(PATIENCE_S):
            wrong.append("neither answered nor closed")
        return wrong + list(self._judge(one, peer, last))

    async def _beside(self, beside: Peer, number: int, lane: int, its: Maker) -> list[str]:
        """The next good request on another connection: a new one, or a poll of what is fresh."""
        is_new = its.random.random() < 0.3
        good = _good(f"H{number}-beside") if is_new else _polled(lane)
        beside.asked = ["GET"]
        beside.transport.write(plain(good, its.token))
        if not await beside.until(1, PATIENCE_S) or beside.is_closed:
            return ["the other connection got no answer"]
        wrong = list(self._own(good, beside.replies[0]))
        seen = self.recorder.taken(good.tag)
        if not set(seen) <= good.canonical(self.recorder.host) or len(seen) > (1 if is_new else 2):
            wrong.append(f"beside it the upstream saw {seen!r}")
        self.it.received.append(beside.forget())
        return wrong

    # -- judgement ------------------------------------------------------------------------------------------

    def _judge(self, one: Case, peer: Peer, last: Meant) -> Iterator[str]:
        replies = peer.replies
        self.tally.outcomes[one.kind, _outcome(replies)] += 1
        if peer.garbage:
            yield f"left over: {peer.garbage!r}"
        asked = (*one.meant, last)
        if len(replies) > len(asked):
            yield f"{len(replies)} replies to {len(asked)} requests: {[reply.status for reply in replies]}"
        may_be_missing = False
        for meant, reply in itertools.zip_longest(asked, replies[: len(asked)]):
            seen = self.recorder.taken(meant.tag)
            if reply is None:
                if meant.fate is Fate.ANSWERED and meant is not last and not may_be_missing:
                    yield f"{meant.tag} was lost"
                if len(seen) > 1 or (seen and meant.fate is Fate.REFUSED):
                    yield f"not answered, and the upstream saw {seen!r}"
            else:
                yield from self._judge_reply(meant, reply, seen, may_be_missing or meant is last)
                may_be_missing = may_be_missing or reply.closes or meant.fate is not Fate.ANSWERED
        if left := self.recorder.left(one.number):
            yield f"the upstream saw what nobody meant, or twice: {left!r}"

    def _judge_reply(
        self, meant: Meant, reply: Reply, seen: list[bytes], may_be_refused: bool
    ) -> Iterator[str]:
        if 200 <= reply.status < 300:
            if meant.fate is Fate.REFUSED:
                yield f"{meant.tag} was answered: {reply!r}"
            yield from self._own(meant, reply)
            if len(seen) != 1 or seen[0] not in meant.canonical(self.recorder.host):
                yield f"the upstream saw {seen!r}, not {meant.canonical(self.recorder.host)!r}"
            return
        if not 400 <= reply.status < 500 or not (b"urn:" in reply.body or meant.method == "HEAD"):
            yield f"neither an answer nor a refusal: {reply!r}"
        if meant.fate is Fate.ANSWERED and not may_be_refused:
            yield f"{meant.tag} was refused: {reply!r}"
        if seen:
            yield f"{meant.tag} was refused, and the upstream saw {seen!r}"

    def _own(self, meant: Meant, reply: Reply) -> Iterator[str]:
        if meant.method != "HEAD" and reply.body not in {document(meant.tag, one) for one in meant.types}:
            yield f"{meant.tag} got another's answer: {reply!r}"

    def _told(self, one: Case, what: str) -> str:
        told = f"case {one.number} ({one.kind}): {what}\n  {one.pieces}"
        for token in self.tokens:
            told = told.replace(token, "TOKEN")
        return told

    def _search(self) -> None:
        """No appKey, no token, no crash in what has come back and in the log so far."""
        log, received = self.it.log.getvalue(), b"\n".join(self.it.received)
        if leaks(received) or leaks(log.encode()):
            self.tally.wrong.append("the appKey was seen")
        if any(token in log or token.encode() in received for token in self.tokens):
            self.tally.wrong.append("a token was seen")
        for crash in ("Traceback", "crashed"):
            if crash in log:
                self.tally.wrong.append(log[log.index(crash) :][:2_000])
        self.it.received.clear()
        self.it.log.seek(0)
        self.it.log.truncate()


async def _send(peer: Peer, pieces: Iterable[bytes]) -> None:
    for piece in pieces:
        if peer.is_closed:
            return
        peer.transport.write(piece)
        # The other end reads before the next piece comes.
        await asyncio.sleep(0)


def _good(tag: str) -> Meant:
    return Meant(tag, f"/chat/{tag}/info")


def _outcome(replies: list[Reply]) -> str:
    if not replies:
        return "closed"
    return "answered" if replies[0].status < 300 else "refused"


def _polled(lane: int) -> Meant:
    return _good(f"H0-lane{lane}")


@contextlib.asynccontextmanager
async def judging(folder: Path, seed: int) -> AsyncIterator[Oracle]:
    """An oracle with a gateway of its own."""
    async with recording() as (recorder, url), world(folder, upstream=url, **UNLIMITED) as it:
        yield Oracle(it, recorder, seed)
