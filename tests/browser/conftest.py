"""The live page in Chromium, before a real gateway."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page

from tests.browser.driving import CHROMIUM, Seen, chromium, opened
from tests.openapi.ground import Ground, ground


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    with ground(tmp_path_factory.mktemp("browser"), admin={"token_file": "admin-token"}) as it:
        yield it


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    # No longer: while it is there, so is a loop of its own, in which no other test could run another.
    if CHROMIUM is None:
        pytest.skip("chromium is not installed (Debian: chromium)")
    with chromium() as it:
        yield it


@pytest.fixture
def seen() -> Seen:
    return Seen()


@pytest.fixture
def page(browser: Browser, here: Ground, seen: Seen) -> Iterator[Page]:
    """The page, not signed in. In the end: nothing on the console, no request that left for elsewhere."""
    with opened(browser, here, seen) as it:
        yield it
    assert seen.console == []
    assert seen.elsewhere == []
