"""Who used the gateway how much, by UTC day, as far back as this process remembers."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
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
    """The table. `wall` is epoch seconds."""

    def __init__(self, wall: Callable[[], float]) -> None:
        self.wall = wall
        self._days: dict[int, dict[str, Used]] = {}

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
            del self._days[next(iter(self._days))]
        return used

    def table(self) -> list[dict[str, str | int]]:
        """A row a day (`YYYY-MM-DD`) and client, oldest first; ready for JSON."""
        return [
            {"day": _date(day), "client": client, **asdict(used)}
            for day, clients in sorted(self._days.items())
            for client, used in sorted(clients.items())
        ]


def _date(day: int) -> str:
    return (dt.date(1970, 1, 1) + dt.timedelta(days=day)).isoformat()
