"""The hub: who watches what. It owns the watches and the look that ends streams in time.

While nobody watches, no task runs and no timer is set.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from gateway.core.errors import Reason, Refusal, too_often
from gateway.core.freshness import Entry
from gateway.core.judgement import Granted
from gateway.core.messages import Chat
from gateway.core.paths import Target
from gateway.core.policy import Client, Streaming
from gateway.core.push import Stream
from gateway.core.requests import Request
from gateway.ports import Clock, Limiter, Observer, Polls, State
from gateway.push.heard import Heard, asking_from
from gateway.push.streams import LongPoll, OpenStream, Watcher, why_dead
from gateway.push.watch import Watch

#: How often it is looked whether grants still stand, and whether who waits is still there, in seconds.
LOOK_S = 0.5
#: How many are looked at without a pause: a millisecond's worth, or ten if all of them end.
AT_ONCE = 256

_Key = tuple[object, ...]


@dataclass(frozen=True, slots=True)
class Watching:
    """One watch, for those who look. `sent_at` is when its newest answer was asked for; `trouble` a slug."""

    account: str
    chat: Chat | None
    resource: str
    watchers: int
    sent_at: float
    trouble: str | None


class Hub:
    """The port `Watchers`."""

    def __init__(
        self,
        polls: Polls,
        *,
        state: Callable[[], State],
        clock: Clock,
        limiter: Limiter,
        observer: Observer,
        heartbeat_s: Callable[[], float],
        random: Callable[[], float],
    ) -> None:
        self.clock = clock
        self.observer = observer
        self.random = random
        self._polls = polls
        self._state = state
        self._limiter = limiter
        #: After how many seconds of silence a stream is written one; a reload may change it.
        self._heartbeat_s = heartbeat_s
        self._watches: dict[Chat | None, dict[_Key, Watch]] = {}
        self._streams: dict[OpenStream, None] = {}
        self._long_polls: dict[LongPoll, None] = {}
        self._looking: asyncio.Task[None] | None = None
        self._is_drained = False

    # -- the port -------------------------------------------------------------------------------------

    def open(self, request: Request, granted: Granted, entry: Entry) -> Stream | Refusal:
        """A stream that begins with what has just been answered."""
        stream = OpenStream(request, granted, Heard(granted.target, entry), self)
        if stream.is_over:
            return stream
        refusal = self._enter(granted.client)
        if refusal is not None:
            return refusal
        self._streams[stream] = None
        self._look_on()
        return stream

    async def change(
        self, request: Request, granted: Granted, entry: Entry, wait_s: float
    ) -> Entry | Refusal | None:
        """The first entry that says anything new to this caller; after `wait_s` the newest there is."""
        first, long_poll = Heard(granted.target, entry), LongPoll(request, granted)
        if self._is_drained or long_poll.is_news(first):
            return None
        refusal = self._enter(granted.client)
        if refusal is not None:
            return refusal
        watch = self._joined(long_poll, first, spread=False)
        self._long_polls[long_poll] = None
        self._look_on()
        try:
            long_poll.tell(watch.newest)
            await asyncio.wait((long_poll.told,), timeout=wait_s)
            return watch.answer(entry)
        finally:
            del self._long_polls[long_poll]
            self._left(long_poll, spread=False)
            self._limiter.unwatch(granted.client)

    def landed(self, target: Target, entry: Entry) -> None:
        """The target was answered, whoever asked."""
        watches = self._watches.get(target.chat)
        if watches is None:
            return
        for spread in (False, True):
            watch = watches.get(_key(target, spread=spread))
            if watch is not None:
                self.safely(partial(watch.take, Heard(target, entry)))

    def written(self, chat: Chat) -> None:
        """What was known of the chat is old."""
        for watch in self._watches.get(chat, {}).values():
            watch.written()

    def purged(self, account: str | None) -> None:
        """What was known of the account's chats is old, or of all."""
        for watches in self._watches.values():
            for watch in watches.values():
                if account in {None, watch.newest.target.account}:
                    watch.written()

    # -- for the process ------------------------------------------------------------------------------

    async def drain(self) -> None:
        """End all streams, and let those who wait have what there is. Nobody may watch from now on."""
        self._is_drained = True
        for stream in list(self._streams):
            self.safely(partial(stream.close, Reason.DRAINING), stream)
        for long_poll in list(self._long_polls):
            long_poll.let_go()
        # They answer in their own tasks.
        await asyncio.sleep(0)

    def watches(self) -> tuple[Watching, ...]:
        """What is watched at present."""
        return tuple(self._told())

    def _told(self) -> Iterator[Watching]:
        for chat, watches in self._watches.items():
            for watch in watches.values():
                newest, trouble = watch.newest, watch.trouble
                yield Watching(
                    newest.target.account,
                    chat,
                    newest.target.resource.name,
                    len(watch.watchers),
                    newest.entry.sent_at,
                    None if trouble is None else trouble.reason.slug,
                )

    # -- for streams ------------------------------------------------------------------------------------

    def dead_of(self, granted: Granted) -> Reason | None:
        """Why the grant has ended, if it has."""
        return why_dead(granted.grant.dead_when, self.clock.wall(), self._state().policies.version)

    def begun(self, stream: OpenStream, first: Heard) -> None:
        """From now on it can be told, and it is told what there is."""
        granted = stream.granted
        self.observer.stream_opened(granted.client.name, granted.target.resource.name)
        if self._is_drained:
            stream.close(Reason.DRAINING)
            return
        watch = self._joined(stream, first, spread=_is_spread(granted.target))
        newest = watch.newest
        is_newer = newest.entry.sent_at > first.entry.sent_at
        # Of events it wants all from the first on; of documents the one that is.
        if _is_spread(granted.target) or not is_newer:
            self.safely(partial(stream.tell, first), stream)
        if is_newer:
            self.safely(partial(stream.tell, newest), stream)

    def ended(self, stream: OpenStream) -> None:
        """It has its place no longer, and wants nothing."""
        del self._streams[stream]
        self._limiter.unwatch(stream.granted.client)
        self._left(stream, spread=_is_spread(stream.granted.target))

    # -- watches --------------------------------------------------------------------------------------

    def _enter(self, client: Client) -> Refusal | None:
        if self._is_drained:
            return Refusal(Reason.DRAINING, client.name)
        standing = self._limiter.watch(client)
        return None if standing is None else too_often(client.name, standing)

    def _joined(self, watcher: Watcher, first: Heard, *, spread: bool) -> Watch:
        target = watcher.granted.target
        watches = self._watches.setdefault(target.chat, {})
        key = _key(target, spread=spread)
        watch = watches.get(key)
        if watch is None:
            watch = watches[key] = Watch(self._polls, self, first, spread=spread)
        watch.join(watcher)
        return watch

    def _left(self, watcher: Watcher, *, spread: bool) -> None:
        target = watcher.granted.target
        watches = self._watches.get(target.chat, {})
        key = _key(target, spread=spread)
        watch = watches.get(key)
        if watch is None or watcher not in watch.watchers or not watch.leave(watcher):
            return
        del watches[key]
        if not watches:
            del self._watches[target.chat]

    def safely(self, do: Callable[[], None], watcher: Watcher | None = None) -> None:
        """What goes wrong for one of them is nobody else's trouble."""
        try:
            do()
        except Exception as error:  # noqa: BLE001 - the outermost edge of a stream
            self.observer.crashed(error)
            if watcher is not None:
                self.safely(watcher.give_up)

    # -- the look ---------------------------------------------------------------------------------------

    def _look_on(self) -> None:
        if self._looking is None:
            self._looking = asyncio.create_task(self._look(), context=contextvars.Context())

    async def _look(self) -> None:
        while self._streams or self._long_polls:
            await asyncio.sleep(LOOK_S)
            heartbeat_s = self._heartbeat_s()
            for number, stream in enumerate(list(self._streams)):
                if number % AT_ONCE == AT_ONCE - 1:
                    # Others have their turns.
                    await asyncio.sleep(0)
                self.safely(partial(stream.look, heartbeat_s), stream)
            for long_poll in list(self._long_polls):
                self.safely(partial(self._look_at, long_poll), long_poll)
        self._looking = None

    def _look_at(self, long_poll: LongPoll) -> None:
        if not long_poll.request.is_there() or self.dead_of(long_poll.granted) is not None:
            long_poll.let_go()


def _is_spread(target: Target) -> bool:
    return target.resource.stream is Streaming.EVENTS


def _key(target: Target, *, spread: bool) -> _Key:
    """What a watch is known by. All streams of a chat's events share one, wherever they begin."""
    if not spread or not _is_spread(target):
        return target.key, spread
    return asking_from(target, 0).key, spread
