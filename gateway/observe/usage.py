"""Who used the gateway how much, by UTC day, as far back as is remembered."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass

from gateway.core.limits import DAY_S

#: How many days are remembered; with clients from files this is what bounds the table.
DAYS = 31


@dataclass(slots=True)
class Used:
    """A client's day.

    `saved` requests were answered and caused none to the upstream, `fetches` are those to the upstream that
    its requests caused. `refused` were answered 4xx by the gateway, but for the `limited`, which were
    answered 429. `bytes_sent` is of bodies.
    """

    requests: int = 0
    saved: int = 0
    fetches: int = 0
    refused: int = 0
    limited: int = 0
    bytes_sent: int = 0


class Usage:
    """The table: what was counted here, and what is known of others. `wall` is epoch seconds."""

    def __init__(self, wall: Callable[[], float]) -> None:
        self.wall = wall
        self._days: dict[int, dict[str, Used]] = {}
        self._elsewhere: dict[int, dict[str, Used]] = {}
        #: client → the sum of days that are no longer remembered
        self._gone: dict[str, Used] = {}
        #: The sum of all days but one, and which that is.
        self._before: tuple[int, dict[str, Used]] = (-1, {})

    def today(self, client: str) -> Used:
        """The row to count on."""
        return self.on(self.wall(), client)

    def on(self, wall: float, client: str) -> Used:
        """The row of the day of `wall`. It may be counted on until that day is over."""
        day = int(wall // DAY_S)
        used = self._days.get(day, {}).get(client)
        return self._begun(day, client) if used is None else used

    def _begun(self, day: int, client: str) -> Used:
        used = self._days.setdefault(day, {})[client] = Used()
        while len(self._days) > DAYS:
            # Not the oldest: a clock that ran ahead and was set back would have today's go, again and again.
            for name, gone in self._days.pop(next(iter(self._days))).items():
                self._gone[name] = _added(self._gone.get(name, _NOTHING), gone)
        return used

    def sent(self) -> Counter[str]:
        """Client → bytes of bodies that were sent from here, ever."""
        sent: Counter[str] = Counter()
        for day in (self._gone, *self._days.values()):
            for client, used in day.items():
                sent[client] += used.bytes_sent
        return sent

    def since_start(self) -> dict[str, Used]:
        """Client → what was counted here, ever; to be read only."""
        today = int(self.wall() // DAY_S)
        if self._before[0] != today:
            # No other day's rows are counted on meanwhile. Where the clock is set back over midnight, and
            # forth again, what came between shows a day late.
            earlier = [rows for day, rows in self._days.items() if day != today]
            self._before = today, _total((self._gone, *earlier))
        return _total((self._before[1], self._days.get(today, {})))

    def counted(self, day: int) -> dict[str, int]:
        """What was counted here on that epoch day, by `client/field`, but for what is 0."""
        return {
            f"{client}/{name}": count
            for client, used in self._days.get(day, {}).items()
            for name, count in asdict(used).items()
            if count
        }

    def learn(self, day: int, elsewhere: Mapping[str, int]) -> None:
        """Others have counted so much; what is known already is never taken back."""
        if not elsewhere:
            return
        clients = self._elsewhere.setdefault(day, {})
        for key, count in elsewhere.items():
            client, _, name = key.partition("/")
            # Another version of the gateway may count more.
            if name in _FIELDS:
                used = clients.setdefault(client, Used())
                setattr(used, name, max(count, getattr(used, name)))
        while len(self._elsewhere) > DAYS:
            del self._elsewhere[min(self._elsewhere)]

    def table(self) -> list[dict[str, str | int]]:
        """A row a day (`YYYY-MM-DD`) and client, oldest first; ready for JSON."""
        return [
            {"day": _date(day), "client": client, **self._sum(day, client)}
            for day in sorted({*self._days, *self._elsewhere})
            for client in sorted({*self._days.get(day, ()), *self._elsewhere.get(day, ())})
        ]

    def _sum(self, day: int, client: str) -> dict[str, int]:
        rows = [asdict(days.get(day, {}).get(client, _NOTHING)) for days in (self._days, self._elsewhere)]
        return {name: sum(row[name] for row in rows) for name in _FIELDS}


_NOTHING = Used()
_FIELDS = tuple(asdict(_NOTHING))


def _total(tables: Iterable[Mapping[str, Used]]) -> dict[str, Used]:
    total: dict[str, Used] = {}
    for table in tables:
        for client, used in table.items():
            total[client] = _added(total[client], used) if client in total else used
    return total


def _added(one: Used, other: Used) -> Used:
    return Used(*(getattr(one, name) + getattr(other, name) for name in _FIELDS))


def _date(day: int) -> str:
    return (dt.date(1970, 1, 1) + dt.timedelta(days=day)).isoformat()
