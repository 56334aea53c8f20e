"""What operators say in `policies/`, as values.

The shapes only: `gateway.config.policies` reads the files, `core.access` and `core.paths` decide with them.
Durations are seconds here; in the files they are milliseconds and say so in their names.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from gateway.core.messages import Representation

#: Every action a client can be allowed. `chat:write` includes ending the chat.
ACTIONS = ("account:read", "account:write", "chat:read", "chat:start", "chat:write")

#: The life of a chat, as `info.state` spells it.
STATES = ("waiting", "chatting", "ended")


@dataclass(frozen=True, slots=True)
class CacheRule:
    """How long answers of a resource may be kept.

    `ttl_s` has one value for each of `STATES`. `stale_s` is how long past its freshness an answer may
    stand in for an upstream that fails. `volatile` names fields that every poll moves: they do not
    count for the ETag.
    """

    ttl_s: Mapping[str, float]
    stale_s: float
    volatile: frozenset[str]


@dataclass(frozen=True, slots=True)
class Resource:
    """One row of `policies/resources.yaml`.

    `path` holds the segments below `/api/account/{account}`; `{chat}` and `{event}` stand for ids.
    `methods` maps each method (GET, POST, PUT; HEAD goes with GET) to the action it takes.
    `query` maps each known name to the pattern its whole decoded value must match, in canonical order.
    """

    name: str
    path: tuple[str, ...]
    methods: Mapping[str, str]
    query: Mapping[str, re.Pattern[str]]
    representations: tuple[Representation, ...]
    coalesce: bool
    cache: CacheRule | None

    @property
    def of_chat(self) -> bool:
        return "{chat}" in self.path


@dataclass(frozen=True, slots=True)
class Client:
    """One client of `policies/clients/*.yaml`. `accounts` is None for all that are configured."""

    name: str
    match: Mapping[str, str | int | bool]
    accounts: frozenset[str] | None
    allow: frozenset[str]


@dataclass(frozen=True, slots=True)
class Policies:
    """All of `policies/`, as one value. `version` tells one reading from another: grants end with theirs."""

    version: int
    resources: tuple[Resource, ...]
    clients: tuple[Client, ...]
