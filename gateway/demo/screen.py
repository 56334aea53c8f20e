"""What the demo shows: lines to paste, a table that lives, and in the end what it all means."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from urllib.parse import urlsplit

from rich.console import Console
from rich.live import Live
from rich.table import Table

from gateway.demo.acts import Acts
from gateway.demo.figures import Figures
from gateway.demo.replicas import LeftOut, Together
from gateway.demo.streams import Followed

Show = Callable[[Figures], None]
#: What stands for a number while there is none: a dash.
NOTHING = "\u2013"


def say(console: Console, text: str = "") -> None:
    """Print as it is: nothing wrapped, so that it can be pasted, and nothing coloured."""
    console.print(text, soft_wrap=True, markup=False, highlight=False)


def curl_lines(public_url: str, emulator_url: str, chat_url: str, token: str) -> str:
    """A shell variable with a token, and what to try with it."""
    ask = 'curl -i -H "Authorization: Bearer $TOKEN"'
    return f"""\
TOKEN='{token}'
# a chat's info, as JSON and as XML
{ask} {chat_url}/info
{ask} -H 'Accept: application/xml' {chat_url}/info
# a write; the next read knows it
{ask} -X PUT -H 'Content-Type: application/json' -d '{{"visitorName": "Natalie"}}' {chat_url}/info/visitorName
# told instead of asking: each change of the info, until Ctrl-C
curl -N -H "Authorization: Bearer $TOKEN" -H 'Accept: text/event-stream' {chat_url}/info
# a path that no resource has: answered here, never sent upstream
{ask} {public_url}/api/account/123/js2rest
# what the upstream was asked, by its own count
curl -s {emulator_url}/_emulator/counts"""


def operator_lines(admin_url: str, admin_token: str, chat_url: str, partner: str) -> str:
    """The same for another client, and for who runs the gateway."""
    operate = "curl -s -H \"Authorization: Bearer $ADMIN\" -H 'Content-Type: application/json'"
    info_path = urlsplit(chat_url).path + "/info"
    asked = f'{{"token": "\'$PARTNER\'", "path": "{info_path}"}}'
    return f"""\
# the live page, in a browser; the token is ADMIN: {admin_url}/
PARTNER='{partner}'
ADMIN='{admin_token}'
# the same chat as a partner sees it, and a field that he does not
curl -i -H "Authorization: Bearer $PARTNER" {chat_url}/info
curl -i -H "Authorization: Bearer $PARTNER" {chat_url}/info/visitorName
# what would become of a request, by which rule; who used how much; how configuration and keys stand
{operate} -d '{asked}' {admin_url}/explain
{operate} {admin_url}/usage
{operate} '{admin_url}/readyz?verbose'
# the partner is nobody from now on
{operate} -d '{{"client": "partner"}}' {admin_url}/revocations"""


@contextlib.contextmanager
def showing(console: Console) -> Iterator[Show]:
    """Shows figures while the block runs: in a live table, or in a line each where there is no terminal."""
    if not console.is_terminal:
        yield lambda figures: say(console, line(figures))
        return
    with Live(console=console, auto_refresh=False) as live:
        yield lambda figures: live.update(table(figures), refresh=True)


def line(figures: Figures) -> str:
    """Figures in one line."""
    return (
        f"{figures.seconds:5.1f} s  {figures.client_requests} requests: {figures.hits} hits, "
        f"{figures.collapsed} collapsed, {figures.misses} misses, {figures.stale} stale, "
        f"{figures.writes} writes; upstream {figures.upstream_requests}; "
        f"p99 {_number(figures.latency_p99_ms, 1)} ms, age {_number(figures.age_p99_ms, 0)} ms; "
        f"{figures.errors} errors"
    )


def _number(value: float | None, digits: int) -> str:
    return NOTHING if value is None else f"{value:.{digits}f}"


def _pair(low: float | None, high: float | None, digits: int) -> str:
    return f"{_number(low, digits)} / {_number(high, digits)} ms"


def table(figures: Figures) -> Table:
    """Figures as a table."""
    made = Table(title=f"{figures.clients} clients poll {figures.chats} chats, {figures.seconds:.1f} s")
    made.add_column("figure")
    made.add_column("value", justify="right")
    for name, value in _rows(figures):
        made.add_row(name, value)
    return made


def _rows(figures: Figures) -> tuple[tuple[str, str], ...]:
    return (
        ("client requests", f"{figures.client_requests:,}"),
        ("  hits", f"{figures.hits:,}"),
        ("  collapsed", f"{figures.collapsed:,}"),
        ("  misses", f"{figures.misses:,}"),
        ("  stale", f"{figures.stale:,}"),
        ("  writes", f"{figures.writes:,}"),
        ("upstream requests", f"{figures.upstream_requests:,}"),
        ("  for info", f"{figures.upstream_info_requests:,}"),
        ("  for info, per chat and second", f"{figures.upstream_info_requests_per_chat_and_second:.2f}"),
        ("share saved", f"{figures.share_saved:.1%}"),
        ("latency p50 / p99", _pair(figures.latency_p50_ms, figures.latency_p99_ms, 1)),
        ("age p50 / p99", _pair(figures.age_p50_ms, figures.age_p99_ms, 0)),
        ("errors", f"{figures.errors:,}"),
    )


def explanation(figures: Figures) -> str:
    """What the figures mean."""
    latency, age = _number(figures.latency_p99_ms, 1), _number(figures.age_p99_ms, 0)
    return f"""\
In {figures.seconds:.1f} s, {figures.clients} clients made {figures.client_requests:,} requests about \
{figures.chats} chats. The upstream was asked for info {figures.upstream_info_requests:,} times, \
{figures.upstream_info_requests_per_chat_and_second:.2f} a chat and second: whoever finds an answer that is \
about to grow old gets it and starts the one fetch that all others share, and after a write the next reader \
does. {figures.share_saved:.1%} of the polls never went there.
99 of 100 polls were answered within {latency} ms, with what the upstream had been asked \
for at most {age} ms before (the first second is left out of both).
The appKey was seen {figures.app_key_seen} times in {figures.responses:,} answers \
({figures.response_bytes:,} bytes; plain, hex, base64, URL-encoded) and {figures.app_key_seen_in_logs} times \
in the gateway's log. Of {figures.links:,} links in them, {figures.links - figures.foreign_links:,} named \
the gateway.
Errors: {_counted(figures.error_kinds)}."""


def _counted(kinds: Mapping[str, int]) -> str:
    return ", ".join(f"{count} x {kind}" for kind, count in kinds.items()) or "none"


def acts_told(acts: Acts) -> str:
    """What the acts showed."""
    errors = ", ".join(acts.errors) or "none"
    explained = "\n".join(f"    {step}" for step in acts.explained)
    return f"""\
Each client has its own policy (policies/clients/). Of an info the backend sees \
{acts.fields_of_backend} fields, the partner {len(acts.fields_of_partner)}: \
{", ".join(acts.fields_of_partner)}. The visitor's name alone: {acts.denied}.
What would happen if the partner asked for the exit survey, as the private listener explains it:
{explained}
The partner asked as fast as it could: after {acts.limited_after} requests 429, with RateLimit: \
{acts.ratelimit} and Retry-After: {acts.retry_after_s}. The backend meanwhile: \
{acts.backend_meanwhile}.
Its token was revoked, and its next request answered {acts.revoked}.
Errors: {errors}."""


def streams_told(seen: Followed) -> str:
    """What those were told who would have polled."""
    errors = ", ".join(seen.errors) or "none"
    return f"""\
{seen.streams} clients followed one chat by streams for {seen.seconds:.1f} s, and its visitor \
changed his name {seen.changes} times: {seen.messages} messages, and the upstream was asked for info \
{seen.upstream_info_requests} times. A change was told within \
{_number(seen.latency_p99_ms, 1)} ms (p99) of the reply to its write, with the request upstream that it took.
Errors: {errors}."""


def replicas_told(seen: Together | LeftOut) -> str:
    """What two replicas showed, or why they did not."""
    if isinstance(seen, LeftOut):
        return f"Two replicas that share through Redis were left out: {seen.left_out}."
    return f"""\
{seen.clients} clients polled {seen.chats} chats over both for {seen.seconds:.1f} s, and the upstream was \
asked for info {seen.upstream_info_requests} times, \
{seen.upstream_info_requests_per_chat_and_second:.2f} a chat and second. {seen.writes_read_at_once} of \
{seen.writes} writes by one were in the next read from the other. Then Redis was killed: \
{seen.polls_without_redis} polls went on, each replica alone.
Errors: {_counted(seen.error_kinds)}."""
