"""The dashboard for Grafana, from a table: what there is to see, and how it is asked for.

Each row is a question of somebody who has just been called; `derive` writes the JSON that Grafana reads.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

Json = dict[str, Any]

#: Of Grafana's dashboards; panels and variables as they were there.
SCHEMA_VERSION = 39
WIDTH, HEIGHT, STAT_HEIGHT = 24, 8, 4
_SOURCE = {"type": "prometheus", "uid": "${source}"}
_RATE = "[$__rate_interval]"
_MINE = 'job=~"$job"'


@dataclass(frozen=True, slots=True)
class Panel:
    """One picture: its queries, each with how its lines are named. In `unit`s of Grafana."""

    title: str
    about: str
    queries: Sequence[tuple[str, str]]
    unit: str = "short"
    kind: str = "timeseries"
    stacked: bool = False
    width: int = WIDTH // 2


def _rate(name: str, by: str = "", only: str = "") -> str:
    chosen = ", ".join(filter(None, (_MINE, only)))
    grouped = f"sum by ({by})" if by else "sum"
    return f"{grouped} (rate(chat_gateway_{name}{{{chosen}}}{_RATE}))"


def _quantile(share: float, name: str, only: str = "") -> str:
    return f"histogram_quantile({share}, {_rate(f'{name}_bucket', 'le', only)})"


def _gauge(name: str, by: str = "", how: str = "sum") -> str:
    return f"{how}{f' by ({by})' if by else ''} (chat_gateway_{name}{{{_MINE}}})"


_ASKED, _UPSTREAM = _rate("requests_total"), _rate("upstream_requests_total")
_HIT, _FAILED = 'outcome="hit"', 'status=~"5.."'
ROWS: Sequence[tuple[str, Sequence[Panel]]] = (
    (
        "What is saved",
        (
            Panel("Requests of clients", "", [(_ASKED, "")], "reqps", "stat", width=4),
            Panel("Requests upstream", "", [(_UPSTREAM, "")], "reqps", "stat", width=4),
            Panel(
                "Share saved",
                "Requests that were answered and caused none upstream.",
                [(f"{_rate('saved_requests_total')} / {_ASKED}", "")],
                "percentunit",
                "stat",
                width=4,
            ),
            Panel(
                "Failed",
                "Share of 5xx.",
                [(f"({_rate('requests_total', only=_FAILED)} or vector(0)) / {_ASKED}", "")],
                "percentunit",
                "stat",
                width=4,
            ),
            Panel(
                "Streams",
                "Clients that are told instead of asking.",
                [(_gauge("streams"), "")],
                kind="stat",
                width=4,
            ),
            Panel("Replicas", "", [(_gauge("build_info", how="count"), "")], kind="stat", width=4),
            Panel(
                "Clients and upstream",
                "What clients ask, and what the chat service is asked.",
                [
                    (_ASKED, "clients"),
                    (_UPSTREAM, "upstream"),
                    (_rate("stream_messages_total", only='kind!="heartbeat"'), "messages of streams"),
                ],
                "reqps",
            ),
            Panel(
                "Outcomes",
                "How requests ended: docs/logs.md has each.",
                [(_rate("requests_total", "outcome"), "{{outcome}}")],
                "reqps",
                stacked=True,
            ),
        ),
    ),
    (
        "How well",
        (
            Panel(
                "Duration",
                "From the end of a request's head to its reply, with the wait for the upstream.",
                [
                    (_quantile(0.5, "request_duration_seconds"), "p50"),
                    (_quantile(0.99, "request_duration_seconds"), "p99"),
                    (_quantile(0.99, "request_duration_seconds", _HIT), "p99 of hits"),
                    (_quantile(0.99, "upstream_duration_seconds"), "p99 of the upstream"),
                ],
                "s",
            ),
            Panel(
                "Age of answers",
                "At delivery, from when the upstream was asked.",
                [
                    (_quantile(0.5, "answer_age_seconds"), "p50"),
                    (_quantile(0.99, "answer_age_seconds"), "p99"),
                ],
                "s",
            ),
            Panel(
                "Chats at risk",
                "How long chats had left at delivery: the lowest hundredth, and how many had less than 30 s.",
                [
                    (_quantile(0.01, "keepalive_slack_seconds"), "p1, in seconds"),
                    (_rate("keepalive_slack_seconds_bucket", only='le="30.0"'), "below 30 s, a second"),
                ],
            ),
            Panel(
                "Stale answers",
                "In place of a failure of the upstream, by that failure.",
                [(_rate("stale_answers_total", "instead_of"), "{{instead_of}}")],
                "reqps",
                stacked=True,
            ),
        ),
    ),
    (
        "Who",
        (
            Panel(
                "By client", "", [(_rate("requests_total", "client"), "{{client}}")], "reqps", stacked=True
            ),
            Panel(
                "Refused for a limit",
                "",
                [(_rate("limited_requests_total", "client, limit"), "{{client}} {{limit}}")],
                "reqps",
            ),
            Panel(
                "Tokens refused",
                "By what was wrong with them.",
                [(_rate("token_refusals_total", "because"), "{{because}}")],
                "reqps",
            ),
            Panel("Streams by client", "", [(_gauge("streams", "client"), "{{client}}")], stacked=True),
        ),
    ),
    (
        "The chat service",
        (
            Panel(
                "Requests upstream, by how they ended",
                "",
                [(_rate("upstream_requests_total", "outcome"), "{{outcome}}")],
                "reqps",
                stacked=True,
            ),
            Panel(
                "Budget",
                "Fetches that wait and fetches in flight, by account.",
                [
                    (_gauge("budget_waiting", "account"), "{{account}} waiting"),
                    (_gauge("budget_in_flight", "account"), "{{account}} in flight"),
                ],
            ),
            Panel(
                "Breaker and pace",
                "1 while the account's upstream is left alone; the share of its rate that is in force.",
                [
                    (_gauge("breaker_open", "account", "max"), "{{account}} breaker"),
                    (_gauge("budget_pace_ratio", "account", "min"), "{{account}} pace"),
                ],
            ),
            Panel("Flights", "", [(_gauge("flights"), "flights"), (_gauge("waiters"), "who waits for one")]),
        ),
    ),
    (
        "The processes",
        (
            Panel(
                "Event loop",
                "How late it is.",
                [
                    (_gauge("event_loop_lag_seconds", "instance", "max"), "{{instance}}"),
                    (_gauge("event_loop_lag_max_seconds", "instance", "max"), "{{instance}} at the most"),
                ],
                "s",
            ),
            Panel(
                "CPU",
                "",
                [(f"sum by (instance) (rate(process_cpu_seconds_total{{{_MINE}}}{_RATE}))", "{{instance}}")],
            ),
            Panel(
                "Memory",
                "The whole process, and what is kept on purpose.",
                [
                    (f"process_resident_memory_bytes{{{_MINE}}}", "{{instance}}"),
                    (_gauge("kept_bytes", "kind"), "{{kind}}"),
                ],
                "bytes",
            ),
            Panel("Connections", "", [(_gauge("connections", "instance"), "{{instance}}")]),
            Panel(
                "Redis",
                "Whether it answers, whether nothing is missing, and how many replicas each one counts.",
                [
                    (_gauge("shared_up", "instance", "min"), "{{instance}} up"),
                    (_gauge("shared_whole", "instance", "min"), "{{instance}} whole"),
                    (_gauge("shared_replicas", "instance", "max"), "{{instance}} replicas"),
                ],
            ),
            Panel(
                "Shared fetches",
                "By the part that each replica had in them.",
                [(_rate("shared_flights_total", "role"), "{{role}}")],
                "reqps",
            ),
        ),
    ),
)


def dashboard() -> str:
    """What Grafana reads."""
    said = {
        "title": "chat-gateway",
        "uid": "chat-gateway",
        "tags": ["chat-gateway"],
        "schemaVersion": SCHEMA_VERSION,
        "editable": False,
        "refresh": "15s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": [_source(), _jobs()]},
        "panels": list(_panels()),
    }
    return json.dumps(said, indent=1) + "\n"


def _source() -> Json:
    return {"name": "source", "label": "Source", "type": "datasource", "query": "prometheus"}


def _jobs() -> Json:
    return {
        "name": "job",
        "label": "Job",
        "type": "query",
        "datasource": _SOURCE,
        "query": "label_values(chat_gateway_build_info, job)",
        "refresh": 2,
        "includeAll": True,
        "multi": True,
        "current": {"text": "All", "value": "$__all"},
    }


def _panels() -> Iterator[Json]:
    number, top = 1, 0
    for row, panels in ROWS:
        yield {"id": number, "type": "row", "title": row, "gridPos": _at(0, top, WIDTH, 1), "panels": []}
        number, top, left, tallest = number + 1, top + 1, 0, 0
        for panel in panels:
            height = STAT_HEIGHT if panel.kind == "stat" else HEIGHT
            if left + panel.width > WIDTH:
                top, left, tallest = top + tallest, 0, 0
            yield _panel(panel, number) | {"gridPos": _at(left, top, panel.width, height)}
            number, left, tallest = number + 1, left + panel.width, max(tallest, height)
        top += tallest


def _at(left: int, top: int, width: int, height: int) -> Json:
    return {"x": left, "y": top, "w": width, "h": height}


def _panel(panel: Panel, number: int) -> Json:
    custom = {"stacking": {"mode": "normal"}, "fillOpacity": 30} if panel.stacked else {}
    defaults: Json = {"unit": panel.unit, "min": 0} | ({"custom": custom} if custom else {})
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.about,
        "datasource": _SOURCE,
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "targets": [
            {"refId": chr(ord("A") + index), "expr": expr, "legendFormat": name, "datasource": _SOURCE}
            for index, (expr, name) in enumerate(panel.queries)
        ],
    }
