"""Everything about the emulated service that can be chosen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class JsonStyle:
    """How a resource's tree becomes JSON.

    `at`: attributes keep their `@`, and are text. `collapse`: an array of one is its element.
    `omit_empty`: an array of none is left out. `coerce`: text that looks like a number is one.
    """

    at: bool
    collapse: bool
    omit_empty: bool
    coerce: bool


#: A mapping written for JSON, as the info page shows it.
NATIVE = JsonStyle(at=False, collapse=False, omit_empty=False, coerce=False)
#: A mapping derived from XML, as the chat and events pages show it.
MAPPED = JsonStyle(at=True, collapse=True, omit_empty=True, coerce=True)

_STYLES: Mapping[str, JsonStyle] = {
    "chat": MAPPED,
    "events": MAPPED,
    "event": MAPPED,
    "offline-survey": JsonStyle(at=False, collapse=True, omit_empty=True, coerce=False),
}


@dataclass(frozen=True, slots=True)
class Dialect:
    """The switches for what the public material leaves open. The defaults are the best guesses."""

    styles: Mapping[str, JsonStyle] = field(default_factory=dict)
    real_put: bool = False
    start_status: int = 201
    name_status: int = 201
    missing_version_status: int = 400
    missing_key_status: int = 401
    foreign_scheme_status: int = 400
    wrong_key_status: int = 401
    unknown_account_status: int = 404
    event_body: bool = False
    interaction_timeout_counts: bool = True
    agent_touches: bool = False
    duration_counts: bool = True
    base_redirects: bool = False
    malformed_links: bool = False
    line_status: bool = False
    unknown_fields: bool = False

    def style(self, resource: str) -> JsonStyle:
        """The style of a resource: the one chosen, or the one its page shows."""
        return self.styles.get(resource) or _STYLES.get(resource, NATIVE)


@dataclass(frozen=True, slots=True)
class AgentScript:
    """What the agent of each chat does by himself.

    Accepts after `accept_after_s`, then for each of `lines` types for `typing_s` and sends it, a line every
    `line_every_s`; starts over after the last one, or ends the chat if `ends`. Every pause is stretched or
    shrunk by up to `jitter` of its length, decided by the seed. `{chat}` in a line is the chat's address.
    """

    accept_after_s: float = 2.0
    line_every_s: float = 10.0
    typing_s: float = 3.0
    jitter: float = 0.25
    ends: bool = False
    lines: tuple[str, ...] = (
        "Hello, how can I help you?",
        'Please see <a href="{chat}/info">this page</a>.',
        "42",
    )


@dataclass(frozen=True, slots=True)
class EmulatorConfig:
    """One emulated service.

    `link_base` is what every link begins with, whatever address the request came to. `base_uri` is the bare
    host[:port] that domain discovery names; by default the Host of the request. `record` is how many raw
    requests are kept. `latency_s` delays every answer. Without an `agent` a chat waits until it is accepted
    by hand. `transfer_account` and `transfer_domain` are where an account-to-account transfer leads.
    """

    seed: int = 1
    app_key: str = field(default="e0000000000000000000000000000001", repr=False)
    accounts: tuple[str, ...] = ("123",)
    link_base: str = "https://va-e.convep.liveperson.net"
    base_uri: str | None = None
    chat_timeout_s: int = 40
    ended_readable_s: float = 60.0
    latency_s: float = 0.0
    utc_offset_minutes: int = -300
    available_slots: int = 3
    estimated_wait_time_s: int = 0
    captcha: bool = False
    transfer_account: str = "456"
    transfer_domain: str = "lo.convep.liveperson.net"
    record: int = 0
    agent: AgentScript | None = None
    dialect: Dialect = field(default_factory=Dialect)
