"""A gateway to attack, on the event loop that is shipped. Each file has one, and its tests share it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from gateway.emulator import EmulatorConfig
from tests.advisories.attack import Forge
from tests.support import APP_KEY, World, world


@pytest.fixture(scope="module")
def anyio_backend() -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": True}


@pytest.fixture(scope="module")
async def shared_world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    config = EmulatorConfig(app_key=APP_KEY, record=10_000)
    unlimited = {"per_minute": 100_000, "burst": 100_000}
    async with world(tmp_path_factory.mktemp("world"), emulator=config, failed_tokens=unlimited) as it:
        yield it


@pytest.fixture
async def here(shared_world: World) -> World:
    """The file's world, with nothing counted and nothing going wrong."""
    shared_world.start_over()
    return shared_world


@pytest.fixture
def forge(here: World) -> Forge:
    """Tokens that the issuer's own key has signed, whatever they say."""
    return Forge(here.stage.private_key)
