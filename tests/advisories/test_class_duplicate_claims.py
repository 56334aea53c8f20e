"""Ambiguous JSON: of a doubled claim one reader takes the first, another the last.

Here a document has one reading or none.
"""

from __future__ import annotations

import json

import pytest

from tests.advisories.attack import Forge, rejected
from tests.support import World

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    "extra",
    [
        '"sub":"bff"',
        '"s\\u0075b":"internal"',
        '"exp":9999999999',
        '"iss":"https://issuer.example"',
        '"x":{"a":1,"a":1}',
        '"x":NaN',
        '"x":1e999',
        '"x":"\\ud800"',
        '"x":1,',
        '"x":1}{"y":2',
    ],
)
async def test_two_readings(here: World, forge: Forge, extra: str) -> None:
    claims = json.dumps(forge.claims())[:-1]
    await rejected(here, forge.token(None, f"{claims},{extra}}}"))
    await rejected(here, forge.token(None, f"{{{extra},{claims[1:]}}}"))


@pytest.mark.parametrize(
    "header",
    ['{"alg":"ES256","alg":"none"}', '{"alg":"none","alg":"ES256"}', '{"alg":"ES256","kid":"a","kid":"b"}'],
)
async def test_two_headers(here: World, forge: Forge, header: str) -> None:
    await rejected(here, forge.token(header))
