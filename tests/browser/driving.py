"""A browser, the page in it, and what it says and asks for meanwhile."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import axe_playwright_python  # type: ignore[import-untyped] # it has no types
from playwright.sync_api import Browser, Page, sync_playwright

from tests.openapi.ground import Ground

CHROMIUM = shutil.which("chromium")
#: Nothing of its own that would ask somebody for something.
FLAGS = (
    *("--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--disable-quic"),
)
AXE = Path(axe_playwright_python.__file__).with_name("axe.min.js")
DESK, PHONE = {"width": 1280, "height": 900}, {"width": 360, "height": 740}


@dataclass
class Seen:
    """What was written on the console, and which requests were meant for another host.

    Chromium writes a line for every answer of 400 and more; those that are meant are named in `expected`.
    """

    console: list[str] = field(default_factory=list)
    elsewhere: list[str] = field(default_factory=list)
    expected: tuple[str, ...] = ()


@contextlib.contextmanager
def chromium() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        try:
            yield browser
        finally:
            browser.close()


def private_url(here: Ground) -> str:
    host, port = here.it.addresses.private
    return f"http://{host}:{port}"


@contextlib.contextmanager
def opened(browser: Browser, here: Ground, seen: Seen, **context: Any) -> Iterator[Page]:
    url = private_url(here)
    with contextlib.closing(browser.new_context(**{"viewport": DESK, **context})) as scene:
        page = scene.new_page()
        page.set_default_timeout(10_000)
        page.on("pageerror", lambda error: seen.console.append(str(error)))
        page.on(
            "console",
            lambda line: (
                None
                if line.type not in {"error", "warning"} or any(word in line.text for word in seen.expected)
                else seen.console.append(line.text)
            ),
        )
        page.on(
            "request",
            lambda asked: (
                None if asked.url.startswith((f"{url}/", "data:")) else seen.elsewhere.append(asked.url)
            ),
        )
        page.goto(f"{url}/")
        yield page


def sign_in(page: Page, here: Ground) -> None:
    page.get_by_label("Token of the private listener").fill(here.it.stage.admin_token)
    page.get_by_role("button", name="Sign in").click()
    page.get_by_text("client requests/s").first.wait_for()


def faults(page: Page) -> list[str]:
    """What axe has against the page as it is, of what is serious."""
    page.evaluate(AXE.read_text())
    found = page.evaluate("axe.run()")
    return [
        f"{one['id']}: {one['help']} ({one['nodes'][0]['html'][:120]})"
        for one in found["violations"]
        if one["impact"] in {"serious", "critical"}
    ]
