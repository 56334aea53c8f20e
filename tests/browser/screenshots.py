"""`python -m tests.browser.screenshots` takes the README's pictures: the live page over a busy minute."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

from gateway.demo.following import Follower, follow, following
from tests.browser.driving import PHONE, Seen, chromium, opened, sign_in
from tests.openapi.ground import Ground, ground
from tests.support import World, chat_path

IMAGES = Path(__file__).parents[2] / "docs" / "images"
SECONDS = 60
#: Who polls how many chats, and how often a second each.
POLLERS = (("bff", 12, 8.0), ("internal", 12, 14.0), ("partner", 4, 3.0))


async def busy(it: World) -> None:
    """Polls, streams, writes, and what is refused, for ever."""
    chats = [it.chat() for _ in range(12)]
    streams: list[Follower] = []
    for number in range(9):
        question = following("127.0.0.1", chat_path(chats[number % 3], "/info"), it.token(jti=f"s{number}"))
        streams.append(await follow("127.0.0.1", it.addresses.public[1], question, lambda _: None))

    async def poll(subject: str, chat: str, every_s: float) -> None:
        bearer = it.bearer(subject)
        async with it.wire() as wire:
            while True:
                await wire.ask("GET", chat_path(chat, "/info"), {**bearer, "accept": "application/json"})
                await asyncio.sleep(every_s)

    async def write() -> None:
        for number in range(10_000):
            chat = chats[number % len(chats)]
            await it.write("PUT", chat_path(chat, "/info/visitorName"), {"visitorName": f"Visitor {number}"})
            it.emulator.agent_line(chat, "Hello")
            await it.get(chat_path(chat, "/exitSurvey"), **it.bearer("partner"))
            await asyncio.sleep(1.5)

    polls = (
        poll(subject, chats[number], 1 / often)
        for subject, count, often in POLLERS
        for number in range(count)
    )
    await asyncio.gather(write(), *polls)


@contextlib.contextmanager
def being_used(here: Ground) -> Iterator[None]:
    using = asyncio.run_coroutine_threadsafe(busy(here.it), here.loop)
    try:
        yield
    finally:
        using.cancel()


def main() -> None:
    """Three pictures, each of the page after a minute."""
    with (
        tempfile.TemporaryDirectory() as folder,
        ground(Path(folder), admin={"token_file": "admin-token"}, log_level="warning") as here,
        chromium() as browser,
        contextlib.ExitStack() as stack,
        being_used(here),
    ):
        pages = {
            "light": stack.enter_context(opened(browser, here, Seen(), color_scheme="light")),
            "dark": stack.enter_context(opened(browser, here, Seen(), color_scheme="dark")),
            "phone": stack.enter_context(
                opened(browser, here, Seen(), color_scheme="light", viewport=PHONE, device_scale_factor=1.5)
            ),
        }
        for page in pages.values():
            sign_in(page, here)
        pages["light"].wait_for_timeout(SECONDS * 1000)
        for name, page in pages.items():
            page.evaluate("scrollTo(0, 0)")
            page.screenshot(path=IMAGES / f"live-{name}.png")


if __name__ == "__main__":
    main()
