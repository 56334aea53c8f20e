"""What the scripts do, in memory and on a clock that tests turn: a `Runner` like the link to a real server.

`test_commands` holds it to what real servers say, call by call.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

from gateway.core.limits import DAY_S
from gateway.shared.scripts import Reply, Script, Word

_MANY_FIELDS = 64
_MANY_LINES = 500
_SOME_LINES = 200
_LONGEST_LEASE_US = 10_000_000
_DAY_US = DAY_S * 1_000_000
_HEAD = re.compile(rb"(\d+) (\d+) (\d+) ([A-Za-z0-9.-]+)\n")
_LEASE = "lease:"


class Model:
    """A Redis that runs our scripts and nothing else. `now` is its own clock, in epoch seconds.

    It forgets nothing by itself. While it does not `answer`, nothing is done, either.
    """

    def __init__(self, now: Callable[[], float], *, server: str = "0a1b2c3d") -> None:
        self.server = server
        self.answers = True
        self._now = now
        self._heard: defaultdict[str, list[Callable[[bytes], None]]] = defaultdict(list)
        #: Hashes, sorted sets (members and their scores) and counters, by their keys.
        self._keys: defaultdict[str, dict[str, Any]] = defaultdict(dict)

    def subscribe(self, channel: str, heard: Callable[[bytes], None]) -> None:
        self._heard[channel].append(heard)

    def unsubscribe(self, channel: str, heard: Callable[[bytes], None]) -> None:
        self._heard[channel].remove(heard)

    def empty(self) -> None:
        self._keys.clear()

    async def run(self, script: Script, keys: Sequence[str], args: Sequence[Word]) -> Reply | None:
        if not self.answers:
            return None
        said = [word if isinstance(word, bytes) else str(word).encode() for word in args]
        reply: Reply = getattr(self, f"_{script.name}")(list(keys), said)
        return reply

    def _us(self) -> int:
        return round(self._now() * 1_000_000)

    def _publish(self, channel: str, message: bytes) -> int:
        heard = list(self._heard[channel])
        for hear in heard:
            hear(message)
        return len(heard)

    # -- flights --------------------------------------------------------------------------------------------

    def _look(self, keys: list[str], args: list[bytes]) -> Reply:
        chat, now = self._keys[keys[0]], self._us()
        field, lease = args[0].decode(), _LEASE + args[0].decode()
        value, refresh, stale = self._entry(chat, field, now)
        if value and now < refresh:
            return [b"found", now, value]
        there = value if args[3] == b"1" and now < stale else b""
        mine = f"{self.server}.".encode() + args[1]
        if self._is_led(chat, lease, now) and chat[lease][0] != mine:
            leader, until = chat[lease]
            return [b"follow", now, leader, until - now, there]
        chat[lease] = (mine, now + int(args[2]) * 1000)
        return [b"lead", now, mine, there]

    def _entry(self, chat: dict[str, Any], field: str, now: int) -> tuple[bytes, int, int]:
        value = chat.get(field, b"")
        head = _HEAD.match(value)
        if head is None or not head[4].startswith(f"{self.server}.".encode()) or int(head[1]) > now:
            return b"", 0, 0
        return value, int(head[2]), int(head[3])

    def _is_led(self, chat: dict[str, Any], lease: str, now: int) -> bool:
        token: bytes
        until: int
        token, until = chat.get(lease, (b"", 0))
        return token.startswith(f"{self.server}.".encode()) and 0 < until - now <= _LONGEST_LEASE_US

    def _land(self, keys: list[str], args: list[bytes]) -> Reply:
        chat, (field, token, value, _, channel, message) = self._keys[keys[0]], args
        lease = _LEASE + field.decode()
        if chat.get(lease, (b"", 0))[0] != token:
            return 0
        if value:
            if len(chat) >= _MANY_FIELDS:
                now = self._us()
                for name in [
                    name for name in chat if not (name.startswith(_LEASE) and self._is_led(chat, name, now))
                ]:
                    del chat[name]
            chat[field.decode()] = value
        chat.pop(lease, None)
        self._publish(channel.decode(), message)
        return 1

    def _renew(self, keys: list[str], args: list[bytes]) -> Reply:
        chat, lease = self._keys[keys[0]], _LEASE + args[0].decode()
        if chat.get(lease, (b"", 0))[0] != args[1]:
            return 0
        chat[lease] = (args[1], self._us() + int(args[2]) * 1000)
        return 1

    def _fetch(self, keys: list[str], args: list[bytes]) -> Reply:
        now = self._us()
        return [now, self._entry(self._keys[keys[0]], args[0].decode(), now)[0]]

    # -- replicas -------------------------------------------------------------------------------------------

    def _raise(self, keys: list[str], args: list[bytes]) -> Reply:
        now, alive_us = self._us(), int(args[1]) * 1000
        self._keys.pop(keys[0], None)
        number = self._count_up(keys[1])
        self._publish(args[0].decode(), args[2] + b"%d}" % number)
        beaten = sorted((at, name) for name, at in self._keys[keys[2]].items())
        return [number, [name.encode() for at, name in beaten if abs(at - now) <= alive_us]]

    def _purge(self, keys: list[str], args: list[bytes]) -> Reply:
        channel, message, _, pattern = args
        number = self._count_up(keys[0])
        self._publish(channel.decode(), message + b"%d}" % number)
        for key in [key for key in self._keys if key.startswith(pattern.decode().removesuffix("*"))]:
            del self._keys[key]
        return b"0"

    def _beat(self, keys: list[str], args: list[bytes]) -> Reply:
        now, alive_us = self._us(), int(args[1]) * 1000
        replicas = self._keys[keys[0]]
        replicas[args[0].decode()] = now
        for name in [name for name, at in replicas.items() if abs(at - now) > alive_us]:
            del replicas[name]
        writes, revocations = self._counted(keys[1]), self._counted(keys[2])
        mark = b'{"do":"mark","number":%s,"writes":%d,"revocations":%d,"server":"%s"}'
        self._publish(args[2].decode(), mark % (args[3], writes, revocations, self.server.encode()))
        return [len(replicas), writes, revocations]

    def _counted(self, key: str) -> int:
        counted: int = self._keys[key].setdefault("", self._us())
        return counted

    def _count_up(self, key: str) -> int:
        self._keys[key][""] = self._counted(key) + 1
        return self._counted(key)

    def _bye(self, keys: list[str], args: list[bytes]) -> Reply:
        return 0 if self._keys[keys[0]].pop(args[0].decode(), None) is None else 1

    def _tell(self, _: list[str], args: list[bytes]) -> Reply:
        return self._publish(args[0].decode(), args[1])

    # -- counts ---------------------------------------------------------------------------------------------

    def _charge(self, keys: list[str], args: list[bytes]) -> Reply:
        limits, now = self._keys[keys[0]], self._us()
        found = [_Limit(args[at : at + 4], limits, now) for at in range(1, len(args), 4)]
        if all(limit.wait_us == 0 for limit in found):
            for limit in found:
                limit.charge()
                if args[0] == b"1":
                    limits[limit.field] = limit.kept
        return [limit.told for limit in found]

    def _tally(self, keys: list[str], args: list[bytes]) -> Reply:
        totals, numbers = self._keys[keys[0]], self._keys[keys[1]]
        replica, number = args[0].decode(), int(args[1])
        known: int = numbers.get(replica, 0)
        if number > known:
            numbers[replica] = number
            for name, delta in zip(args[3::2], args[4::2], strict=True):
                totals[name.decode()] = totals.get(name.decode(), 0) + int(delta)
        return [known, [word for name, total in totals.items() for word in (name.encode(), b"%d" % total)]]

    # -- revocations ----------------------------------------------------------------------------------------

    def _revoke(self, keys: list[str], args: list[bytes]) -> Reply:
        lines, order, over = self._keys[keys[0]], self._keys[keys[2]], self._keys[keys[3]]
        number = self._count_up(keys[1])
        for name, line, ends in zip(args[1::3], args[2::3], args[3::3], strict=True):
            place = name.decode()
            lines[place], order[place], over[place] = line, number, float(ends)
        ended = sorted((at, place) for place, at in over.items() if at <= math.floor(self._us() / 1_000_000))
        for _, place in ended[:_SOME_LINES]:
            del lines[place], order[place], over[place]
        self._publish(args[0].decode(), b'{"do":"revoked","version":%d}' % number)
        return number

    def _revocations(self, keys: list[str], args: list[bytes]) -> Reply:
        lines, order = self._keys[keys[0]], self._keys[keys[2]]
        newer = sorted((at, place) for place, at in order.items() if at > int(args[0]))
        last = newer[_MANY_LINES - 1][0] if len(newer) >= _MANY_LINES else self._counted(keys[1])
        return [last, [lines[place] for at, place in newer if at <= last]]


class _Limit:
    """One limit of a charge, as `core.limits` reckons, in whole microseconds."""

    def __init__(self, said: list[bytes], limits: dict[str, Any], now: int) -> None:
        kind, name, many, interval = said
        self.field = f"{kind.decode()}:{name.decode()}"
        self._is_rate = kind == b"rate"
        self._many = int(many)
        self._interval = int(interval)
        self._now = now
        self._day_left = _DAY_US - now % _DAY_US
        if self._is_rate:
            self._ahead = self._carried(*limits.get(self.field, (0, self._interval, self._many)))
            self.wait_us = max(0, self._ahead - (self._many - 1) * self._interval)
        else:
            day, used = limits.get(self.field, (0, 0))
            self._used = used if day == now // _DAY_US else 0
            self.wait_us = self._day_left if self._used >= self._many else 0

    def _carried(self, arrival: int, interval: int, burst: int) -> int:
        ahead = max(0, arrival - self._now)
        if (interval, burst) != (self._interval, self._many):
            left = max(0, burst - ahead / interval)
            ahead = math.ceil((self._many - min(left, self._many)) * self._interval)
        return min(ahead, self._many * self._interval)

    def charge(self) -> None:
        if self._is_rate:
            self._ahead += self._interval
        else:
            self._used += 1

    @property
    def kept(self) -> tuple[int, ...]:
        if self._is_rate:
            return self._now + self._ahead, self._interval, self._many
        return self._now // _DAY_US, self._used

    @property
    def told(self) -> Reply:
        if not self._is_rate:
            return [self.wait_us, max(0, self._many - self._used), self._day_left if self._used else 0]
        owed = -(-self._ahead // self._interval)
        if owed == 0:
            return [self.wait_us, self._many, 0]
        return [self.wait_us, self._many - owed, self._ahead - (owed - 1) * self._interval]
