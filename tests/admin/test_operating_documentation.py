"""docs/operating.md shows what is really answered."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path
from typing import Any

import pytest

from gateway.demo.stage import ACCOUNT, ISSUER
from gateway.operate import _ASKED
from tests.reloading import changeable, operator, say
from tests.support import Response, Wire, World

pytestmark = pytest.mark.anyio

TEXT = (Path(__file__).parents[2] / "docs" / "operating.md").read_text()


def section(heading: str) -> str:
    return re.split(r"\n## ", TEXT.split(f"\n## {heading}\n")[1])[0]


def examples(heading: str) -> list[Any]:
    return [json.loads(block.split("```")[0]) for block in section(heading).split("```json\n")[1:]]


async def post(it: World, path: str, said: object) -> Response:
    wire = Wire(*await asyncio.open_connection(*it.addresses.private), it.received)
    fields = {"authorization": f"Bearer {it.stage.admin_token}", "content-type": "application/json"}
    try:
        return await wire.ask("POST", path, fields, json.dumps(said).encode())
    finally:
        await wire.close()


def members(value: object) -> object:
    """Names all the way down."""
    return {name: members(inner) for name, inner in value.items()} if isinstance(value, dict) else None


async def test_the_state_is_documented(tmp_path: Path) -> None:
    (shown,) = examples("Readiness")
    nowhere = {
        "issuer": ISSUER,
        "audience": "a",
        "algorithms": ["RS256"],
        "jwks_url": "http://127.0.0.1:9/keys",
    }
    async with changeable(tmp_path, issuers=[nowhere]) as it:
        await it.gateway.budget.again(ACCOUNT)
        assert members((await operator(it, "GET", "/readyz?verbose")).json()) == members(shown)


async def test_a_revocation_is_documented(tmp_path: Path) -> None:
    (shown,) = examples("Revocations")
    async with changeable(tmp_path) as it:
        answer = await post(it, "/revocations", shown["revoked"])
        assert (answer.status, answer.json()) == (201, shown)


async def test_a_reload_is_documented(tmp_path: Path) -> None:
    (shown,) = examples("Reload")
    async with changeable(tmp_path) as it:
        say(it, listen="127.0.0.1:9")
        answer = await operator(it, "POST", "/reload")
        assert (answer.status, answer.json()) == (200, shown)


async def test_an_explanation_is_documented(tmp_path: Path) -> None:
    asked, shown = examples("Explain")
    async with changeable(tmp_path) as it:
        answer = await post(it, "/explain", asked)
        assert (answer.status, answer.json()) == (200, shown)


def test_every_member_of_a_question_and_its_answer_is_documented() -> None:
    told = {
        name
        for row in re.findall(r"^\| (`.*?) \|", section("Explain"), re.MULTILINE)
        for name in row.split("`")[1::2]
    }
    assert told == {*_ASKED, *examples("Explain")[1]}
