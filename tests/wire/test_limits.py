"""Limits and the budget over sockets: what a client reads, and what the vendor sees."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import yaml

from gateway.demo.stage import ACCOUNT, shipped_policies
from gateway.emulator import Drop, EmulatorConfig, Fault
from tests.support import APP_KEY, Response, World, chat_path, until, world

pytestmark = pytest.mark.anyio

NEXT_KEY = "e0000000000000000000000000000002"
ORIGIN = "https://shop.example"


def limited(folder: Path, limits: Mapping[str, object], client: str = "bff") -> str:
    """The name of a folder in `folder` with the shipped policies, but these limits for that client."""
    policies = folder / "limited"
    (policies / "clients").mkdir(parents=True)
    (policies / "resources.yaml").write_text((shipped_policies() / "resources.yaml").read_text())
    for file in (shipped_policies() / "clients").glob("*.yaml"):
        said = yaml.safe_load(file.read_text())
        for name, row in said["clients"].items():
            row.pop("limits", None)
            row.update({"limits": limits} if name == client else {})
        (policies / "clients" / file.name).write_text(yaml.safe_dump(said))
    return policies.name


async def at_once(it: World, count: int, path: Callable[[int], str]) -> list[Response]:
    """So many requests at the same time, each on a connection and with a token of its own."""

    async def ask(index: int) -> Response:
        async with it.wire() as wire:
            return await wire.ask("GET", path(index), it.bearer(jti=str(index)))

    return await asyncio.gather(*(ask(index) for index in range(count)))


@pytest.mark.parametrize(
    ("limits", "name"),
    [
        ({"in_flight": 30}, "in-flight"),
        ({"requests": {"per_minute": 1, "burst": 30}}, "requests"),
        ({"resources": {"info": {"in_flight": 30}}}, "info.in-flight"),
        ({"fetches": {"per_minute": 1, "burst": 30}}, "fetches"),
    ],
)
async def test_of_sixty_at_once_thirty_get_in(
    tmp_path: Path, limits: Mapping[str, object], name: str
) -> None:
    # Slow enough that all sixty are there before the first is answered.
    config = EmulatorConfig(app_key=APP_KEY, latency_s=1.0)
    async with world(tmp_path, emulator=config, policies=limited(tmp_path, limits)) as it:
        chats = [it.chat() for _ in range(60)]
        replies = await at_once(it, 60, lambda index: chat_path(chats[index], "/info"))
        assert sorted(reply.status for reply in replies) == [200] * 30 + [429] * 30
        refused = [reply for reply in replies if reply.status == 429]
        assert {tuple(reply.json()["violated-policies"]) for reply in refused} == {(name,)}
        assert all(int(reply.header("retry-after") or 0) >= 1 for reply in refused)
        assert it.upstream_requests() == 30


async def test_who_hangs_up_is_no_longer_in_flight_when_its_flight_has_landed(tmp_path: Path) -> None:
    config = EmulatorConfig(app_key=APP_KEY, latency_s=0.2)
    async with world(tmp_path, emulator=config, policies=limited(tmp_path, {"in_flight": 1})) as it:
        target = chat_path(it.chat(), "/info")
        async with it.wire() as wire:
            asking = asyncio.create_task(wire.ask("GET", target, it.bearer()))
            await until(lambda: it.upstream_requests() == 1)
            asking.cancel()
            wire.hang_up()
        await it.flights_landed()
        assert (await it.get(target)).status == 200


async def test_what_a_client_reads(tmp_path: Path) -> None:
    limits = {
        "requests": {"per_minute": 6, "burst": 2},
        "requests_per_day": 1000,
        "in_flight": 5,
        "resources": {"events": {"fetches": {"per_minute": 30, "burst": 1}}},
    }
    policies = limited(tmp_path, limits)
    async with world(tmp_path, policies=policies, cors={"origins": [ORIGIN], "max_age_s": 60}) as it:
        chat = it.chat()
        first = await it.get(chat_path(chat, "/events"), origin=ORIGIN)
        assert first.status == 200
        assert first.header("ratelimit-policy") == (
            '"requests";q=2;w=20, "requests-per-day";q=1000;w=86400, "in-flight";q=5;qu="concurrent-requests"'
        )
        told = (first.header("ratelimit") or "").split(", ")
        assert told[0] in {'"requests";r=1;t=10', '"requests";r=1;t=9'}
        assert told[1].startswith('"requests-per-day";r=999;t=')
        assert told[2] == '"in-flight";r=4'
        exposed = set((first.header("access-control-expose-headers") or "").lower().split(", "))
        assert {"ratelimit", "ratelimit-policy", "retry-after"} <= exposed

        fetches = await it.get(chat_path(it.chat(), "/events"))
        assert (fetches.status, fetches.json()["violated-policies"]) == (429, ["events.fetches"])
        assert fetches.header("ratelimit") in {'"events.fetches";r=0;t=2', '"events.fetches";r=0;t=1'}
        assert (fetches.header("ratelimit-policy") or "").endswith(', "events.fetches";q=1;w=2')

        refused = await it.get(chat_path(chat, "/info"), accept="application/xml", origin=ORIGIN)
        assert (refused.status, refused.problem) == (429, "rate-limited")
        assert refused.header("content-type") == "application/problem+xml"
        assert refused.header("access-control-allow-origin") == ORIGIN
        assert b"<violated-policies><i>requests</i></violated-policies>" in refused.body
        wait_s = int(refused.header("retry-after") or 0)
        assert 8 <= wait_s <= 10
        assert refused.header("ratelimit") == f'"requests";r=0;t={wait_s}'

        head = await it.ask("HEAD", chat_path(chat, "/info"))
        assert (head.status, head.body) == (429, b"")
        assert head.header("retry-after") is not None
        assert it.upstream_requests() == 1


# -- the budget: a flight may ask twice ---------------------------------------------------------------


def budget(burst: int) -> dict[str, int]:
    """So many requests, and not one more within the time of a test."""
    return {
        "per_second": 1,
        "burst": burst,
        "in_flight": 10,
        "queue": 10,
        "wait_ms": 10,
        "reserve_percent": 0,
    }


def seconds() -> float:
    return asyncio.get_running_loop().time()


async def within_budget(it: World, burst: int, began: float, requests: int) -> None:
    """So many requests have used up the budget of the time that has passed, and it is not exceeded now."""
    assert it.upstream_requests() == requests
    # A token may be there a moment before a timer of whole milliseconds says so.
    assert requests <= burst + (seconds() - began) + 0.01
    busy = await it.get(chat_path(it.chat(), "/info"))
    assert (busy.status, busy.problem) == (503, "upstream-busy")
    assert int(busy.header("retry-after") or 0) >= 1
    assert it.upstream_requests() == requests


@pytest.mark.parametrize("burst", [1, 2])
async def test_the_second_key_costs_a_second_request(tmp_path: Path, burst: int) -> None:
    (tmp_path / "next-app-key").write_text(NEXT_KEY)
    async with world(tmp_path, emulator=EmulatorConfig(app_key=NEXT_KEY), budget=budget(burst)) as it:
        config = yaml.safe_load(it.stage.config.read_text())
        config["accounts"][ACCOUNT]["next_app_key_file"] = "next-app-key"
        it.stage.config.write_text(yaml.safe_dump(config))
        await it.gateway.reloading.look_again()
        began = seconds()
        reply = await it.get(chat_path(it.chat(), "/info"))
        assert (reply.status, reply.problem) == (200, None)
        await within_budget(it, burst, began, 2)


@pytest.mark.parametrize("burst", [2, 3])
async def test_the_one_retry_costs_a_second_request(tmp_path: Path, burst: int) -> None:
    config = EmulatorConfig(app_key=APP_KEY)
    async with world(tmp_path, emulator=config, budget=budget(burst)) as it:
        began = seconds()
        assert (await it.get(chat_path(it.chat(), "/info"))).status == 200
        it.emulator.fail(Fault(delivery=Drop()))
        reply = await it.get(chat_path(it.chat(), "/info"))
        assert (reply.status, reply.problem) == (200, None)
        await within_budget(it, burst, began, 3)


async def test_the_vendor_never_has_more_in_flight_than_the_budget(tmp_path: Path) -> None:
    said = {**budget(100), "in_flight": 3, "wait_ms": 5000, "queue": 100}
    config = EmulatorConfig(app_key=APP_KEY, latency_s=0.05)
    async with world(tmp_path, emulator=config, budget=said) as it:
        chats = [it.chat() for _ in range(30)]
        began = asyncio.get_running_loop().time()
        replies = await at_once(it, 30, lambda index: chat_path(chats[index], "/info"))
        assert {reply.status for reply in replies} == {200}
        # Ten threes, one after the other.
        assert asyncio.get_running_loop().time() - began >= 10 * 0.05
        state = it.gateway.budget.state()[ACCOUNT]
        assert (state.waiting, state.in_flight) == (0, 0)
