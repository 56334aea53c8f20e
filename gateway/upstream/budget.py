"""The upstream's budget: how much an account may ask of the vendor, and whose turn it is.

    Budget.enter → _Queue.enter → _turn
                                  → _refuse   those who have waited too long
                                  → _board    while there is room: the line whose turn it is
                                  → _refuse   those who are too many
                                  → _arm      one timer, for the next token or the next deadline

Two bounds hold for each account and are never exceeded: a rate (GCRA, ITU-T I.371, kept as what is left in
the bucket, for its pace varies) and a number of requests in flight. Below them clients share by start-time
fair queueing (Goyal, Vin and Cheng, 1996): each has a line, a line's turn comes earlier the higher its
weight, and whoever was idle has saved nothing up. Inside a line the chat that is nearest to its death goes
first. Part of the budget is kept free for better priorities, but whoever has been passed over for that for
a whole turn gets through: a reserve delays, it does not starve.
"""

from __future__ import annotations

import asyncio
import math
from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from gateway.core.errors import Reason
from gateway.core.freshness import Failed, smoothed
from gateway.core.policy import Client, Priority

#: How long after a pause the full rate is back. No source: the vendor says nothing of it.
RECOVERY_S = 30.0
#: However many pauses follow each other, the pace is not slowed to less than this.
SLOWEST = 1 / 16
#: The share of the reserve that a priority leaves to its betters.
LEAVES = {Priority.HIGH: 0.0, Priority.NORMAL: 0.5, Priority.LOW: 1.0}
#: A refusal never invites anybody back sooner.
MIN_RETRY_S = 1.0
#: uvloop's timers count milliseconds: a shorter one would be a poll.
_SHORTEST_TIMER_S = 0.001
#: A token is there when this little is missing. It is owed, so that nothing adds up.
_ROUNDING = 1e-6


@dataclass(frozen=True, slots=True)
class Pace:
    """One account's budget: `per_s` on average, `burst` at once, `in_flight` at the same time.

    Of those who find no room up to `queue` wait, for `wait_s` at the most. `reserve` is the share of burst
    and places, 0 to 0.9, that LOW leaves free for its betters; NORMAL leaves half of that.
    """

    per_s: float
    burst: int
    in_flight: int
    queue: int
    wait_s: float
    reserve: float


@dataclass(frozen=True, slots=True)
class BudgetState:
    """How an account stands. `pace` is how much of its full rate is in force: 1.0, or less after a 429."""

    waiting: int
    in_flight: int
    pace: float


class Ticket:
    """A flight's place in the queue.

    `turn` is done as soon as the flight no longer waits: `boarded`, refused, or cancelled. Wait for it with
    `asyncio.wait`: to cancel it would be to decide for everyone else.
    """

    __slots__ = ("_queue", "boarded", "boarded_at", "client", "joined_at", "rank", "refused", "turn")

    def __init__(self, queue: _Queue, client: Client, dies_at: float, joined_at: float) -> None:
        self._queue = queue
        self.client = client
        self.joined_at = joined_at
        #: Its place in a line: when its chat dies, and the order of coming.
        self.rank = (dies_at, 0)
        self.turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.boarded = False
        self.boarded_at = math.inf
        self.refused: Failed | None = None

    @property
    def account(self) -> str:
        return self._queue.account

    def join(self, client: Client) -> None:
        """Another client waits for the flight too: it may go in the better one's line, and wait anew.

        No effect on a flight that waits no longer.
        """
        if not self.turn.done():
            self._queue.join(self, client)


class Budget:
    """The budgets of all accounts. `pace` is asked each time; `now` is monotonic seconds.

    `jitter` gives 0 to 1, without the 1, so that those who are refused together don't come back together.
    """

    def __init__(
        self,
        pace: Callable[[str], Pace],
        now: Callable[[], float],
        jitter: Callable[[], float] = lambda: 0.0,
    ) -> None:
        self._pace = pace
        self._now = now
        self._jitter = jitter
        self._queues: dict[str, _Queue] = {}

    def ticket(self, account: str, client: Client, dies_at: float) -> Ticket:
        """A ticket for a fetch that `client` causes, for a chat that dies at `dies_at` (monotonic)."""
        return Ticket(self._queue(account), client, dies_at, self._now())

    def patience_s(self, account: str) -> float:
        """How long one who waits for a flight waits for its turn."""
        return self._pace(account).wait_s

    def busy(self, account: str) -> Failed:
        """What one is told whose patience ends before the turn of the flight he waits for."""
        return self._queue(account).busy()

    async def enter(self, ticket: Ticket) -> Failed | None:
        """Wait for the ticket's turn. None: go, and `leave` afterwards. At once where there is room."""
        queue = self._queue(ticket.account)
        queue.enter(ticket)
        if not ticket.turn.done():
            try:
                await asyncio.wait((ticket.turn,))
            except asyncio.CancelledError:
                queue.withdraw(ticket)
                raise
        return ticket.refused

    def leave(self, ticket: Ticket) -> None:
        """The request upstream has ended: its place is free."""
        self._queue(ticket.account).leave(ticket)

    async def again(self, account: str) -> None:
        """Wait until a flight that has boarded may ask once more: at once, or before everyone who waits."""
        await self._queue(account).again()

    def slow_down(self, account: str, until: float) -> None:
        """The upstream said 429: nothing boards before `until`, and after that less than before."""
        self._queue(account).slow_down(until)

    def state(self) -> Mapping[str, BudgetState]:
        """How the accounts stand that anything was asked of."""
        return {account: queue.state() for account, queue in self._queues.items()}

    def _queue(self, account: str) -> _Queue:
        queue = self._queues.get(account)
        if queue is None:
            queue = _Queue(account, lambda: self._pace(account), self._now, self._jitter)
            self._queues[account] = queue
        return queue


class _Line:
    """The flights that wait for one client, the next one first. `start` is when its turn comes, in the
    queue's virtual time.
    """

    __slots__ = ("by_coming", "by_death", "priority", "start", "turn")

    def __init__(self, priority: Priority) -> None:
        self.priority = priority
        #: How much virtual time one boarding takes.
        self.turn = 1 / priority.weight
        self.start = 0.0
        self.by_death: list[Ticket] = []
        self.by_coming: dict[Ticket, None] = {}

    def add(self, ticket: Ticket, virtual_now: float) -> None:
        if not self.by_coming:
            self.start = max(self.start, virtual_now)
        insort(self.by_death, ticket, key=_rank)
        self.by_coming[ticket] = None

    @property
    def newest(self) -> Ticket:
        return next(reversed(self.by_coming))

    def remove(self, ticket: Ticket) -> None:
        del self.by_death[bisect_left(self.by_death, ticket.rank, key=_rank)]
        del self.by_coming[ticket]


def _rank(ticket: Ticket) -> tuple[float, int]:
    return ticket.rank


def _came(ticket: Ticket) -> int:
    return ticket.rank[1]


class _Queue:
    """One account: its rate, its places, and the lines of those who wait."""

    def __init__(
        self,
        account: str,
        pace: Callable[[], Pace],
        now: Callable[[], float],
        jitter: Callable[[], float],
    ) -> None:
        self.account = account
        self._pace = pace
        self._now = now
        self._jitter = jitter
        self._rate = _Rate(pace().burst, now())
        self._in_flight: Counter[Priority] = Counter()
        self._flight_s: float | None = None
        self._arrivals = 0
        #: In the order of their deadlines, for everyone may wait equally long.
        self._waiting: dict[Ticket, None] = {}
        #: Those who have boarded and ask once more. They have their place, and lack but a token.
        self._repeats: dict[asyncio.Future[None], None] = {}
        #: All since somebody last had to wait. A policy that is read again may change a client's priority.
        self._lines: dict[tuple[str, Priority], _Line] = {}
        self._virtual_now = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = math.inf

    def state(self) -> BudgetState:
        return BudgetState(len(self._waiting), self._in_flight.total(), self._rate.pace(self._now()))

    # -- what happens to a ticket ---------------------------------------------------------------------

    def enter(self, ticket: Ticket) -> None:
        self._arrivals += 1
        ticket.rank = (ticket.rank[0], self._arrivals)
        if self._boards_at_once(ticket):
            return
        self._waiting[ticket] = None
        self._stand_in_line(ticket)
        self._turn()

    def _boards_at_once(self, ticket: Ticket) -> bool:
        """Board where nobody waits and there is room. It is what `_turn` would do, without a line."""
        if self._waiting or self._repeats:
            return False
        now, pace, priority = self._now(), self._pace(), ticket.client.priority
        self._rate.fill(now, pace)
        free = pace.in_flight - self._in_flight.total()
        has_room = (
            now < ticket.joined_at + pace.wait_s
            and self._rate.has(1 + _reserved(priority, pace, pace.burst), now)
            and free >= 1 + _reserved(priority, pace, pace.in_flight)
        )
        if has_room:
            self._take_place(ticket, now)
            ticket.turn.set_result(None)
        return has_room

    def join(self, ticket: Ticket, client: Client) -> None:
        ticket.joined_at = self._now()
        waits = ticket in self._waiting
        if waits:
            self._waiting[ticket] = self._waiting.pop(ticket)
        if client.priority.weight <= ticket.client.priority.weight:
            return
        if waits:
            self._line(ticket).remove(ticket)
        ticket.client = client
        if waits:
            self._stand_in_line(ticket)
            self._turn()

    def withdraw(self, ticket: Ticket) -> None:
        """The flight was cancelled; its turn may have come in the same step of the loop."""
        if ticket.boarded:
            self.leave(ticket)
        elif ticket in self._waiting:
            self._remove(ticket)

    def leave(self, ticket: Ticket) -> None:
        self._in_flight[ticket.client.priority] -= 1
        self._flight_s = smoothed(self._flight_s, self._now() - ticket.boarded_at)
        self._turn()

    async def again(self) -> None:
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._repeats[turn] = None
        self._turn()
        if not turn.done():
            try:
                await asyncio.wait((turn,))
            finally:
                self._repeats.pop(turn, None)

    def slow_down(self, until: float) -> None:
        now = self._now()
        self._rate.fill(now, self._pace())
        self._rate.slow_down(now, until)

    def busy(self) -> Failed:
        return self._busy(self._now(), self._pace())

    def _stand_in_line(self, ticket: Ticket) -> None:
        of = (ticket.client.name, ticket.client.priority)
        line = self._lines.get(of)
        if line is None:
            line = self._lines[of] = _Line(ticket.client.priority)
        line.add(ticket, self._virtual_now)

    def _line(self, ticket: Ticket) -> _Line:
        return self._lines[ticket.client.name, ticket.client.priority]

    def _remove(self, ticket: Ticket) -> None:
        """It waits no longer, for whatever reason."""
        del self._waiting[ticket]
        self._line(ticket).remove(ticket)
        ticket.turn.set_result(None)
        if not self._waiting:
            # Nobody is ahead of anybody, and nobody is owed anything.
            self._lines.clear()
            if not self._repeats:
                self._stop()

    # -- whose turn is it? ----------------------------------------------------------------------------

    def _turn(self) -> None:
        """Whatever happened: refuse, board, and set the timer anew. There is no await in it."""
        if not self._waiting and not self._repeats:
            return
        now, pace = self._now(), self._pace()
        self._rate.fill(now, pace)
        while self._repeats and self._rate.has(1, now):
            self._rate.take()
            turn = next(iter(self._repeats))
            del self._repeats[turn]
            turn.set_result(None)
        while self._deadline(pace) <= now:
            self._refuse(next(iter(self._waiting)), now, pace)
        while (line := self._next(now, pace)) is not None:
            self._board(line, now)
        while len(self._waiting) > pace.queue:
            self._refuse(self._least(), now, pace)
        if self._waiting or self._repeats:
            self._arm(now, pace)

    def _deadline(self, pace: Pace) -> float:
        first = next(iter(self._waiting), None)
        return math.inf if first is None else first.joined_at + pace.wait_s

    def _next(self, now: float, pace: Pace) -> _Line | None:
        """Of the lines for which there is room, the one whose turn comes first."""
        if not self._rate.has(1, now):
            return None
        roomy = (
            line
            for line in self._heads()
            if self._has_place(line, pace) and self._rate.has(self._tokens(line, pace), now)
        )
        return min(roomy, key=lambda line: (line.start, line.turn), default=None)

    def _standing(self) -> Iterator[_Line]:
        return (line for line in self._lines.values() if line.by_coming)

    def _heads(self) -> Iterable[_Line]:
        """Of each priority the line that is furthest behind: if it may not board, no other of it may."""
        heads: dict[Priority, _Line] = {}
        for line in self._standing():
            head = heads.get(line.priority)
            if head is None or line.start < head.start:
                heads[line.priority] = line
        return heads.values()

    def _board(self, line: _Line, now: float) -> None:
        ticket = line.by_death[0]
        # A line that had to leave the reserve alone is behind; time does not turn back for it.
        self._virtual_now = max(self._virtual_now, line.start)
        line.start += line.turn
        self._take_place(ticket, now)
        self._remove(ticket)

    def _take_place(self, ticket: Ticket, now: float) -> None:
        self._rate.take()
        self._in_flight[ticket.client.priority] += 1
        ticket.boarded = True
        ticket.boarded_at = now

    def _tokens(self, line: _Line, pace: Pace) -> float:
        """How many tokens there must be for the line to take one."""
        return 1 if self._passed_over(line) else 1 + _reserved(line.priority, pace, pace.burst)

    def _has_place(self, line: _Line, pace: Pace) -> bool:
        free = pace.in_flight - self._in_flight.total()
        # A token is back in a moment, a place may be held for a whole deadline: of the reserve a priority
        # gets one place at the most.
        if self._passed_over(line) and not self._in_flight[line.priority]:
            return free >= 1
        return free >= 1 + _reserved(line.priority, pace, pace.in_flight)

    def _passed_over(self, line: _Line) -> bool:
        """Whether the line has been passed over, because of the reserve, for a whole turn."""
        return self._virtual_now - line.start >= line.turn

    # -- who must go, and when to look again ----------------------------------------------------------

    def _least(self) -> Ticket:
        """The newest of the line that is the longest for its weight: who fills the queue makes room in it."""
        longest = max(
            self._standing(),
            key=lambda line: (len(line.by_coming) * line.turn, line.turn, _came(line.newest)),
        )
        return longest.newest

    def _refuse(self, ticket: Ticket, now: float, pace: Pace) -> None:
        self._remove(ticket)
        ticket.refused = self._busy(now, pace)

    def _busy(self, now: float, pace: Pace) -> Failed:
        room_in_s = self._room_in_s(now, pace)
        # Up to half as long again, but at least one second of three. Whole ones are added, as the client is
        # told whole ones: of less, most would be lost when that is rounded up.
        seconds = math.floor(self._jitter() * max(3.0, room_in_s / 2 + 1))
        return Failed(Reason.UPSTREAM_BUSY, retry_after_s=room_in_s + seconds)

    def _room_in_s(self, now: float, pace: Pace) -> float:
        """In how many seconds one more could board after all who wait now, by rate and by places."""
        boardings = len(self._waiting) + 1
        by_rate = self._rate.when(boardings, pace) - now
        by_places = boardings * (self._flight_s or 0.0) / pace.in_flight
        return max(MIN_RETRY_S, by_rate, by_places)

    def _arm(self, now: float, pace: Pace) -> None:
        """See that somebody looks when the next token comes or the next deadline passes."""
        tokens = min(
            (self._tokens(line, pace) for line in self._heads() if self._has_place(line, pace)),
            default=math.inf,
        )
        if self._repeats:
            tokens = 1
        due = min(self._deadline(pace), self._rate.when(tokens, pace))
        # To look too early does no harm, and a new timer at each arrival would cost more.
        if self._timer is None or due < self._timer_at:
            self._stop()
            self._timer_at = due
            delay_s = max(due - now, _SHORTEST_TIMER_S)
            self._timer = asyncio.get_running_loop().call_later(delay_s, self._look)

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        self._timer = None
        self._turn()


def _reserved(priority: Priority, pace: Pace, of: int) -> float:
    """How many tokens or places, of so many, a priority leaves to its betters."""
    # Where nothing else happens even the smallest budget must do.
    return min(LEAVES[priority] * pace.reserve * of, of - 1)


class _Rate:
    """A bucket of tokens. It fills with the full rate, or after a 429 with a share of it.

    That share is `slowed_to` at the end of the pause and grows evenly to 1.
    """

    def __init__(self, burst: int, now: float) -> None:
        self._left = float(burst)
        self._filled_at = now
        self._paused_until = now - RECOVERY_S
        self._slowed_to = 1.0

    def pace(self, now: float) -> float:
        """The share of the full rate that is in force."""
        since_s = max(0.0, now - self._paused_until)
        return min(1.0, self._slowed_to + (1 - self._slowed_to) * since_s / RECOVERY_S)

    def fill(self, now: float, pace: Pace) -> None:
        earned_s = self._earned_s(now) - self._earned_s(self._filled_at)
        self._left = min(self._left + earned_s * pace.per_s, pace.burst)
        self._filled_at = now

    def has(self, tokens: float, now: float) -> bool:
        return now >= self._paused_until and self._left >= tokens - _ROUNDING

    def take(self) -> None:
        self._left -= 1

    def slow_down(self, now: float, until: float) -> None:
        if now >= self._paused_until:
            self._slowed_to = max(SLOWEST, self.pace(now) / 2)
        self._paused_until = max(self._paused_until, now, until)
        # The vendor's retry page: no bursts after a 429.
        self._left = min(self._left, 1.0)

    def when(self, tokens: float, pace: Pace) -> float:
        """When there will be so many tokens, if nobody takes any."""
        earned_s = self._earned_s(self._filled_at) + max(0.0, tokens - self._left) / pace.per_s
        recovered_s = self._earned_s(self._paused_until + RECOVERY_S)
        if earned_s >= recovered_s:
            return self._paused_until + RECOVERY_S + earned_s - recovered_s
        # `_earned_s`, solved for the time.
        growth = (1 - self._slowed_to) / RECOVERY_S
        slow_s = (math.sqrt(self._slowed_to**2 + 2 * growth * earned_s) - self._slowed_to) / growth
        return self._paused_until + slow_s

    def _earned_s(self, now: float) -> float:
        """So many seconds of the full rate is worth what has passed since the pause."""
        since_s = max(0.0, now - self._paused_until)
        slow_s = min(since_s, RECOVERY_S)
        growth = (1 - self._slowed_to) / RECOVERY_S
        return since_s - slow_s + slow_s * (self._slowed_to + growth * slow_s / 2)
