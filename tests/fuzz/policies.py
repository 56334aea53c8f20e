"""Reading policies: whatever an operator writes, there are policies or there are mistakes, in a line each.

The first byte says which file the rest is: a client's, or the resources.
"""

from __future__ import annotations

import atexit
import tempfile
from pathlib import Path

from gateway.config.policies import load_policies
from gateway.core.policy import STATES, Client, Resource
from gateway.demo.stage import ACCOUNT, ISSUER, shipped_policies

#: A chat of the shortest timeout there is by default, polled every 30 s, must outlive what is served.
LONGEST_TTL_S = 8.0
METHODS = {"GET", "POST", "PUT"}
RESOURCES = b"""\
resources:
  info:
    path: chat/{chat}/info
    methods: {GET: chat:read}
    query: {from: digits}
    cache: {ttl_ms: {waiting: 1000, chatting: 1000, ended: 10000}, stale_ms: 5000, volatile: [duration]}
"""
CLIENT = b"""\
clients:
  any:
    match: {iss: "%b", sub: {prefix: x}}
    accounts: ["%b"]
    allow: [info]
    deny: [GET info]
    limits: {requests: {per_second: 2, burst: 9}, in_flight: 3}
""" % (ISSUER.encode(), ACCOUNT.encode())
SEEDS = [
    *(b"C" + path.read_bytes() for path in sorted(shipped_policies().glob("clients/*.yaml"))),
    b"R" + RESOURCES,
    b"R" + (shipped_policies() / "resources.yaml").read_bytes()[:1900],
    b"C" + CLIENT,
]
_FOLDER = tempfile.TemporaryDirectory()
atexit.register(_FOLDER.cleanup)
FOLDER = Path(_FOLDER.name)
(FOLDER / "clients").mkdir()


def check(data: bytes) -> None:
    is_resources, text = data[:1] == b"R", data[1:]
    (FOLDER / "resources.yaml").write_bytes(text if is_resources else RESOURCES)
    (FOLDER / "clients" / "any.yaml").write_bytes(CLIENT if is_resources else text)
    policies, mistakes = load_policies(FOLDER, frozenset({ACCOUNT}), frozenset({ISSUER}), 1)
    for mistake in mistakes:
        assert str(mistake).isprintable(), mistake
        assert len(str(mistake)) < 2_000, mistake
    assert (policies is None) == any(mistake.severity == "error" for mistake in mistakes), mistakes
    if policies is not None:
        assert all(_is_narrow(resource) for resource in policies.resources), policies.resources
        assert all(_names_issuer(client) for client in policies.clients + policies.shadows), policies.clients


def _is_narrow(resource: Resource) -> bool:
    """A policy may narrow, never widen."""
    rule = resource.cache
    is_short = rule is None or all(0 <= rule.ttl_s[state] <= LONGEST_TTL_S for state in STATES[:2])
    return set(resource.methods) <= METHODS and (rule is None or "GET" in resource.methods) and is_short


def _names_issuer(client: Client) -> bool:
    return any(condition.claim == "iss" and condition.any_of == (ISSUER,) for condition in client.match)
