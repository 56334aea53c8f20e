"""Ten clients with tokens and policies of their own ask for one chat over sockets: one request, ten parts."""

from __future__ import annotations

import asyncio
import functools
import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest
import yaml

from gateway.core.views import View
from gateway.demo.stage import ISSUER, shipped_policies
from gateway.emulator import EmulatorConfig, Fault
from tests.oracle import cut, shows
from tests.support import APP_KEY, Response, World, chat_path, world

pytestmark = pytest.mark.anyio

#: As they stand in the policies of clients of these names.
VIEWS: Mapping[str, dict[str, list[str]]] = {
    "all": {},
    "all-too": {},
    "state": {"show": ["state", "agentTyping", "startTime"]},
    "state-too": {"show": ["startTime", "state", "agentTyping"]},
    "names": {"show": ["visitorName", "agentName"]},
    "one-name": {"show": ["visitorName"]},
    "not-the-visitor": {"hide": ["visitorName", "visitorId"]},
    "not-the-visitor-too": {"hide": ["visitorId", "visitorName"]},
    "no-agent": {"hide": ["agentName", "agentId"]},
    "no-link": {"hide": ["link"]},
}
FORMS = ["application/json", "application/xml"]
forms = pytest.mark.parametrize("form", FORMS)


def policies(folder: Path) -> dict[str, str]:
    """The setting for policies with the ten clients, one file each."""
    clients = folder / "ten" / "clients"
    clients.mkdir(parents=True)
    shutil.copy(shipped_policies() / "resources.yaml", folder / "ten")
    for name, view in VIEWS.items():
        row: dict[str, object] = {
            "match": {"iss": ISSUER, "sub": name},
            "accounts": "*",
            "allow": ["chat:read"],
        }
        said = {"clients": {name: row | ({"view": view} if view else {})}}
        (clients / f"{name}.yaml").write_text(yaml.safe_dump(said))
    return {"POLICIES": "ten"}


async def all_ask(
    it: World, chat: str, form: str, method: str = "GET", tag: str = '""'
) -> dict[str, Response]:
    """The replies to all ten, each on a connection of his own."""
    fields = {"accept": form, "if-none-match": tag}
    target = chat_path(chat, "/info")
    replies = await asyncio.gather(*(it.ask(method, target, fields, subject=name) for name in VIEWS))
    return dict(zip(VIEWS, replies, strict=True))


def part(name: str, whole: bytes, form: str) -> bytes:
    said = {key: frozenset(names) for key, names in VIEWS[name].items()}
    return cut(whole, form, functools.partial(shows, View(said.get("show"), said.get("hide"))))


@forms
async def test_one_request_ten_answers(tmp_path: Path, form: str) -> None:
    config = EmulatorConfig(app_key=APP_KEY, latency_s=0.3)
    async with world(tmp_path, emulator=config, environ=policies(tmp_path)) as it:
        chat = it.chat()
        cold = await all_ask(it, chat, form)
        assert it.upstream_requests() == 1
        whole = cold["all"].body
        hits = await all_ask(it, chat, form)
        for name in VIEWS:
            assert cold[name].status == hits[name].status == 200
            assert cold[name].body == hits[name].body == part(name, whole, form), name
            assert cold[name].header("etag") == hits[name].header("etag")
        assert len({reply.body for reply in cold.values()}) == 7
        assert len({reply.header("etag") for reply in cold.values()}) == 7
        assert not [
            reply for reply in cold.values() if "fwd=miss" not in (reply.header("cache-status") or "")
        ]


@forms
async def test_tags_heads_and_stale_answers_are_each_ones_own(tmp_path: Path, form: str) -> None:
    config = EmulatorConfig(app_key=APP_KEY)
    async with world(tmp_path, emulator=config, environ=policies(tmp_path)) as it:
        chat = it.chat()
        cold = await all_ask(it, chat, form)
        for other in ("all", "state", "not-the-visitor-too"):
            tag = cold[other].header("etag") or ""
            for name, reply in (await all_ask(it, chat, form, "GET", tag)).items():
                same = cold[name].body == cold[other].body
                assert (reply.status, reply.header("etag")) == (
                    304 if same else 200,
                    cold[name].header("etag"),
                )
        for name, reply in (await all_ask(it, chat, form, "HEAD")).items():
            assert reply.header("etag") == cold[name].header("etag")
            assert reply.header("content-length") == str(len(cold[name].body))
        it.emulator.fail(Fault(status=500, times=None))
        await asyncio.sleep(1.05)  # past its freshness; no clock can be turned here
        stale = await all_ask(it, chat, form)
        assert not [name for name in VIEWS if "ttl=-" not in (stale[name].header("cache-status") or "")]
        whole = stale["all"].body
        assert [name for name in VIEWS if stale[name].body != part(name, whole, form)] == []
