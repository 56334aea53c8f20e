"""What the settings say, as each room knows it: their own values, in seconds and bytes."""

from __future__ import annotations

import hashlib
import math
import ssl
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import fields, is_dataclass
from urllib.parse import urlsplit

from pydantic import BaseModel

from gateway import overload
from gateway.admin.web import Access
from gateway.config.settings import Settings, Tls, server_context
from gateway.configuration import Configuration, Misconfigured
from gateway.core.limits import Rate
from gateway.edge.protocol import Bounds as EdgeBounds
from gateway.edge.web import Cors, WebConfig
from gateway.upstream.accounts import Discovery
from gateway.upstream.budget import Pace
from gateway.upstream.session import Session, trusted
from gateway.upstream.transport import Bounds as UpstreamBounds

#: How long an idle connection to the upstream is kept; shorter than what servers usually allow.
UPSTREAM_IDLE_S = 15.0


def edge_bounds(settings: Settings) -> EdgeBounds:
    """What a client's connection may bring, and how long it may take."""
    said = settings.edge
    return EdgeBounds(
        said.max_head_bytes,
        said.max_fields,
        said.max_target_bytes,
        said.head_ms / 1000,
        said.body_ms / 1000,
        said.idle_ms / 1000,
        said.send_ms / 1000,
        said.max_connections,
        said.max_connections_per_peer,
    )


def web_config(settings: Settings) -> WebConfig:
    """What the edge asks for at each request."""
    origins = frozenset(origin.encode() for origin in settings.cors.origins)
    return WebConfig(
        urlsplit(settings.public_url).path.encode(),
        Cors(origins, settings.cors.max_age_s),
        settings.trusted_proxies,
        settings.push.send_ms / 1000,
    )


def tls(said: Tls | None) -> ssl.SSLContext | None:
    """A listener's context, if it is to have one. Raises Misconfigured."""
    try:
        return None if said is None else server_context(said.certificate_file, said.key_file)
    except (OSError, ValueError) as error:
        # They were fit a moment ago.
        raise Misconfigured((str(error),)) from None


def access(configuration: Configuration) -> Access:
    """Who may call the private listener."""
    said = configuration.settings.admin
    return Access(configuration.admin_token, said.open_metrics, frozenset(said.hosts))


def failed_tokens(settings: Settings) -> Rate:
    """How many tokens a peer may get wrong."""
    said = settings.failed_tokens
    return Rate(said.per_minute / 60, said.burst)


def overload_bounds(settings: Settings) -> overload.Bounds:
    """From when on requests are refused."""
    return overload.Bounds(settings.overload.max_requests, settings.overload.lag_ms / 1000)


def upstream_bounds(settings: Settings) -> UpstreamBounds:
    """How long an answer may take, and be."""
    return UpstreamBounds(settings.upstream.deadline_ms / 1000, settings.upstream.max_answer_bytes)


def session(settings: Settings) -> Session:
    """The way to all upstreams. To read who is trusted takes a while."""
    said = settings.upstream
    return Session(said.max_connections, UPSTREAM_IDLE_S, said.proxy, trusted(said.ca_file))


def discovery(settings: Settings) -> Discovery:
    """Who says where accounts live."""
    return Discovery(settings.discovery.url, settings.discovery.allowed_domains)


def pace(settings: Settings, account: str, replicas: int = 1) -> Pace:
    """A replica's share of an account's budget. A request may still be under way for one that is no more."""
    said = settings.budget_of(account) if account in settings.accounts else settings.budget
    return Pace(
        said.per_second / replicas,
        math.ceil(said.burst / replicas),
        math.ceil(said.in_flight / replicas),
        said.queue,
        said.wait_ms / 1000,
        said.reserve_percent / 100,
    )


def digest(configuration: Configuration) -> str:
    """A name, the same in all processes, for what replicas must have in common to share entries."""
    common = places(configuration), configuration.settings.upstream.refuse_other_session_key
    return hashlib.blake2b(_canonical(common).encode(), digest_size=16).hexdigest()


def _canonical(value: object) -> str:
    """Any value of the configuration as a text, with nothing in it in the order of its hashes."""
    if isinstance(value, Mapping):
        inner = sorted(f"{_canonical(key)}:{_canonical(of)}" for key, of in value.items())
    elif isinstance(value, AbstractSet):
        inner = sorted(map(_canonical, value))
    elif isinstance(value, tuple | list):
        inner = [_canonical(of) for of in value]
    elif is_dataclass(value) and not isinstance(value, type):
        inner = [f"{field.name}:{_canonical(getattr(value, field.name))}" for field in fields(value)]
    elif isinstance(value, BaseModel):
        return _canonical({name: getattr(value, name) for name in type(value).model_fields})
    else:
        return repr(value)
    return f"{type(value).__name__}({','.join(inner)})"


def places(configuration: Configuration) -> object:
    """What decides where answers come from and what their links lead to."""
    said = configuration.settings
    upstreams = {name: account.upstream for name, account in said.accounts.items()}
    return said.public_url, said.link_hosts, said.discovery, upstreams, configuration.policies.resources
