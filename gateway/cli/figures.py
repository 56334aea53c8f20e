"""How a gateway stands, as tables for a terminal."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

#: What stands for a number while there is none: a dash.
NOTHING = "\u2013"
#: Heads of columns whose cells are broken where there is no room: of the others nothing would be left.
LONG = frozenset({"limits left", "rule"})
#: How many rows of a table there is room for.
ROWS = 10

Now = Mapping[str, Any]


def figures(now: Now) -> RenderableType:
    """All of it, the most important first: a small terminal cuts off the rest."""
    return Group(
        *(Text(line) for line in _headlines(now)),
        _clients(now["clients"]),
        _accounts(now["accounts"]),
        _watches(now["watches"], now["watches_total"]),
        _refusals(now["refusals"]),
    )


def _headlines(now: Now) -> Iterable[str]:
    sample, totals, load, shared = now["sample"], now["totals"], now["load"], now["shared"]
    ready = "ready" if now["ready"] else "not ready"
    yield f"chat-gateway {now['version']}  {ready}  up {dt.timedelta(seconds=now['uptime_s'])}"
    yield (
        f"a second: {sample['requests']} requests, {sample['upstream']} upstream,"
        f" {_share(sample['saved'], sample['requests'])} saved, p50 {_ms(sample['p50_ms'])},"
        f" p99 {_ms(sample['p99_ms'])}, age p99 {_ms(sample['age_p99_ms'])}"
    )
    yield (
        f"in all:   {totals['requests']} requests, {totals['upstream']} upstream,"
        f" {_share(totals['saved'], totals['requests'])} saved, {totals['messages']} messages"
    )
    yield (
        f"now:      {totals['streams_open']} streams, {now['flights']} flights, {now['waiters']} waiters,"
        f" {load['connections']} connections, event loop {_ms(load['lag_ms'])} late"
    )
    redis = "not used" if shared is None else "down" if not shared["up"] else "up"
    if shared is not None and shared["up"] and not shared["whole"]:
        redis = "up, not whole"
    reload = "ok" if now["reload"]["ok"] else "FAILED"
    yield (
        f"policies: version {now['policies_version']}, last reload {reload};"
        f" {now['replicas']} replicas, Redis {redis}"
    )
    yield from (f"mistake:  {mistake}" for mistake in now["reload"]["mistakes"])


def _clients(clients: Sequence[Now]) -> Table:
    heads = ("client", "requests", "a second", "saved", "limited", "refused", "streams", "limits left")
    return _table(
        heads,
        (
            (
                one["name"],
                one["requests"],
                one["per_second"],
                _share(one["saved"], one["requests"]),
                one["limited"],
                one["refused"],
                one["streams"],
                ", ".join(f"{of['name']} {_said(of['remaining'])}/{of['limit']}" for of in one["limits"]),
            )
            for one in clients[:ROWS]
        ),
    )


def _accounts(accounts: Sequence[Now]) -> Table:
    heads = ("account", "breaker", "waiting", "in flight", "pace")
    return _table(
        heads,
        (
            (
                one["name"],
                one["breaker"],
                one["budget"]["waiting"],
                one["budget"]["in_flight"],
                f"{one['budget']['pace']:.0%}",
            )
            for one in accounts[:ROWS]
        ),
    )


def _watches(watches: Sequence[Now], total: int) -> Table:
    return _table(
        (f"chats watched: {total}", "account", "resource", "watchers", "age s", "trouble"),
        (
            (one["chat"], one["account"], one["resource"], one["watchers"], one["age_s"], one["trouble"])
            for one in watches[:ROWS]
        ),
    )


def _refusals(refusals: Sequence[Now]) -> Table:
    return _table(
        ("refused or failed", "client", "status", "reason", "rule", "resource"),
        (
            (
                f"{dt.datetime.fromtimestamp(one['at'], dt.UTC):%H:%M:%S} UTC",
                one["client"],
                one["status"],
                one["reason"],
                one["rule"],
                one["resource"],
            )
            for one in refusals[:ROWS]
        ),
    )


def _table(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold reverse")
    for head in heads:
        table.add_column(Text(head), no_wrap=head not in LONG, overflow="fold")
    for row in rows:
        # As texts: nothing in a name is markup.
        table.add_row(*(Text(_said(cell), justify="right" if _is_number(cell) else "left") for cell in row))
    return table


def _is_number(cell: object) -> bool:
    return isinstance(cell, int | float)


def _said(cell: object) -> str:
    return NOTHING if cell is None else str(cell)


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.1%}" if whole else NOTHING


def _ms(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.1f} ms"
