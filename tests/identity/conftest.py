"""Keys of two issuers, made once: RSA keys take their time."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from gateway.identity.development import new_key
from gateway.identity.keys import ALGORITHMS
from gateway.identity.keysets import parse_key_set
from tests.identity.world import GetPair, Keys, World

Jwk = dict[str, Any]
Pair = tuple[bytes, bytes]  # (private PEM, public JWKS)


@pytest.fixture(scope="session")
def pair() -> Callable[..., Pair]:
    """`pair("RS256")` is always the same pair; `pair("RS256", "other")` is another."""
    made: dict[tuple[str, str], Pair] = {}

    def get(algorithm: str, name: str = "") -> Pair:
        if (algorithm, name) not in made:
            made[algorithm, name] = new_key(algorithm)
        return made[algorithm, name]

    return get


@pytest.fixture
def jwk(pair: Callable[..., Pair]) -> Callable[..., Jwk]:
    """`jwk("RS256", use="enc", kid=None)` is the public JWK with members changed, or left out for None."""

    def get(algorithm: str, name: str = "", **changes: object) -> Jwk:
        members: Jwk = json.loads(pair(algorithm, name)[1])["keys"][0] | changes
        return {key: value for key, value in members.items() if value is not None}

    return get


@pytest.fixture
def world(pair: GetPair) -> World:
    keys = [json.loads(pair(name)[1])["keys"][0] for name in ("ES256", "RS256")]
    a = parse_key_set(json.dumps({"keys": keys}).encode(), ALGORITHMS)
    return World(Keys(a), Keys(parse_key_set(pair("ES256", "other")[1], ALGORITHMS)), pair("ES256")[0])
