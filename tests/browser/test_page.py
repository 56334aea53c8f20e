"""What an operator sees and does on the live page, with mouse, keyboard and phone."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from gateway.demo.stage import ACCOUNT
from tests.browser.driving import PHONE, Seen, faults, opened, private_url, sign_in
from tests.openapi.ground import Ground, ground
from tests.support import World, chat_path


def polls(here: Ground, chat: str, times: int, **fields: str) -> None:
    async def ask(it: World) -> None:
        for _ in range(times):
            await it.get(chat_path(chat, "/info"), **fields)

    here.wait_for(ask)


def figure(page: Page, name: str) -> str:
    return page.locator(f"#headline div:has(dt:text-is('{name}')) dd").inner_text()


def cells(page: Page, table: str, row: str) -> list[str]:
    return page.locator(f"#{table} tr:has(th:text-is('{row}')) td").all_inner_texts()


def metrics(here: Ground) -> dict[str, float]:
    """The sum of each family's samples."""
    text = here.wait_for(lambda it: it.admin("/metrics")).body.decode()
    sums: dict[str, float] = {}
    for name, value in re.findall(r"^(chat_gateway_[a-z_]+)(?:\{.*\})? (\S+)$", text, re.MULTILINE):
        sums[name] = sums.get(name, 0.0) + float(value)
    return sums


def test_figures_change_as_it_is_used_and_equal_the_metrics(page: Page, here: Ground) -> None:
    sign_in(page, here)
    chat = here.chat()
    before = metrics(here).get("chat_gateway_requests_total", 0)
    polls(here, chat, 40)
    total = int(before) + 40
    row = page.locator("#clients tr:has(th:text-is('bff')) td").first
    expect(row).to_have_text(f"{total:,}")
    said = metrics(here)
    assert said["chat_gateway_requests_total"] == total
    shown = sum(
        int(cell.replace(",", "")) for cell in page.locator("#outcomes td:nth-child(2)").all_inner_texts()
    )
    assert shown == total
    saved = said["chat_gateway_saved_requests_total"]
    assert figure(page, "saved since start") == f"{100 * saved / total:.1f} %"
    polls(here, chat, 10)
    expect(row).to_have_text(f"{total + 10:,}")
    assert "client requests" in page.locator("#chart-words").inner_text()


def test_refusals_are_shown_with_their_rule(page: Page, here: Ground) -> None:
    sign_in(page, here)
    partner = here.do(lambda it: it.bearer("partner"))

    async def ask(it: World) -> None:
        await it.get(chat_path(it.chat(), "/info/visitorName"), **partner)

    here.wait_for(ask)
    row = page.locator("#refusals tr", has_text="field-denied").first
    expect(row).to_contain_text("partner/view")
    expect(row).to_contain_text("403")


def test_a_wrong_token_is_refused_in_words(page: Page, here: Ground, seen: Seen) -> None:
    seen.expected = ("401 (Unauthorized)",)
    token = page.get_by_label("Token of the private listener")
    token.fill("not-the-token-of-this-listener")
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("alert").first).to_contain_text("not the listener's")
    expect(token).to_be_focused()
    expect(page.locator("#live")).to_be_hidden()
    sign_in(page, here)
    expect(page.get_by_role("alert").first).to_be_empty()


def test_a_purged_chat_is_asked_for_again(page: Page, here: Ground) -> None:
    sign_in(page, here)
    chat = here.chat()
    path = chat_path(chat, "/info")
    polls(here, chat, 2)
    page.get_by_label("Account", exact=True).fill(ACCOUNT)
    page.get_by_label("Chat", exact=True).fill(chat)
    page.get_by_role("button", name="Purge…").click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text(f"what is kept of chat {chat} of account {ACCOUNT}")
    dialog.get_by_role("button", name="Purge").click()
    expect(page.locator("#purged")).to_contain_text("Purged: 1.")
    answer = here.wait_for(lambda it: it.get(path))
    assert "fwd=miss" in (answer.header("cache-status") or "")


def test_all_is_purged_only_by_who_types_it(page: Page, here: Ground) -> None:
    sign_in(page, here)
    page.get_by_label("What").select_option("all")
    page.get_by_role("button", name="Purge…").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_role("button", name="Purge").click()
    expect(dialog).to_be_visible()
    dialog.get_by_label("Type").fill("everything")
    dialog.get_by_role("button", name="Purge").click()
    expect(dialog).to_be_visible()
    dialog.get_by_label("Type").fill("all")
    dialog.get_by_role("button", name="Purge").click()
    expect(page.locator("#purged")).to_contain_text("Purged")


def test_a_purge_that_makes_no_sense_is_told_in_words(page: Page, here: Ground, seen: Seen) -> None:
    seen.expected = ("400 (Bad Request)",)
    sign_in(page, here)
    page.get_by_label("What").select_option("account")
    page.get_by_label("Account", exact=True).fill("elsewhere")
    page.get_by_role("button", name="Purge…").click()
    page.get_by_role("dialog").get_by_role("button", name="Purge").click()
    expect(page.locator("#purged")).to_contain_text("expected one of the settings, got another")


def test_by_keyboard_alone(page: Page, here: Ground) -> None:
    press, text = page.keyboard.press, page.keyboard.insert_text

    def to(element: str) -> None:
        for _ in range(60):
            press("Tab")
            if page.evaluate("document.activeElement.id") == element:
                return
        raise AssertionError(f"no way to {element}")

    to("token")
    text(here.it.stage.admin_token)
    press("Enter")
    page.get_by_text("client requests/s").first.wait_for()
    to("path")
    chat = here.chat()
    text(chat_path(chat, "/info"))
    to("who")
    text(json.dumps({"iss": "https://issuer.example", "sub": "partner"}))
    press("Tab")
    press("Tab")
    press("Enter")
    expect(page.locator("#explained")).to_contain_text("client partner; rule partner/allow/chat:read")
    to("account")
    text(ACCOUNT)
    press("Tab")
    text(chat)
    press("Enter")
    expect(page.get_by_role("dialog")).to_be_visible()
    press("Escape")
    expect(page.get_by_role("dialog")).to_be_hidden()
    press("Enter")
    to_purge = page.get_by_role("dialog").get_by_role("button", name="Purge")
    expect(to_purge).to_be_visible()
    for _ in range(5):
        press("Tab")
        if page.evaluate("document.activeElement.className") == "danger":
            break
    press("Enter")
    expect(page.locator("#purged")).to_contain_text("Purged")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("viewport", [None, PHONE], ids=["desk", "phone"])
def test_axe_finds_nothing_serious_and_nothing_is_too_wide(
    browser: Browser, here: Ground, seen: Seen, scheme: str, viewport: dict[str, int] | None
) -> None:
    shape = {} if viewport is None else {"viewport": viewport}
    with opened(browser, here, seen, color_scheme=scheme, **shape) as page:
        assert faults(page) == []
        sign_in(page, here)
        polls(here, here.chat(), 3)
        page.locator("#clients table").wait_for()
        assert faults(page) == []
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        page.get_by_label("What").select_option("all")
        page.get_by_role("button", name="Purge…").click()
        page.get_by_role("dialog").wait_for()
        assert faults(page) == []
    assert (seen.console, seen.elsewhere) == ([], [])


def test_who_says_so_stays_signed_in_for_this_tab(page: Page, here: Ground) -> None:
    page.get_by_label("Keep for this tab").check()
    sign_in(page, here)
    page.reload()
    page.get_by_text("client requests/s").first.wait_for()
    page.get_by_role("button", name="Sign out").click()
    page.reload()
    expect(page.get_by_role("button", name="Sign in")).to_be_visible()
    assert page.evaluate("sessionStorage.length + localStorage.length") == 0


def cut(it: World) -> None:
    for reader in list(it.gateway.live._readers):
        reader.end()


def test_a_lost_connection_is_told_and_mended(page: Page, here: Ground, seen: Seen) -> None:
    seen.expected = ("ERR_",)
    sign_in(page, here)
    page.context.set_offline(True)
    here.do(cut)
    expect(page.locator("#connection")).to_contain_text("Connection lost")
    page.context.set_offline(False)
    expect(page.locator("#connection")).to_have_text("Connected", timeout=20_000)
    assert private_url(here) in page.url


def test_a_gateway_that_ends_is_told(browser: Browser, seen: Seen, tmp_path: Path) -> None:
    seen.expected = ("503 (Service Unavailable)",)
    with (
        ground(tmp_path, admin={"token_file": "admin-token"}) as ending,
        opened(browser, ending, seen) as page,
    ):
        sign_in(page, ending)
        ending.do(lambda it: it.gateway.live.close())
        expect(page.locator("#connection")).to_contain_text("Connection lost")
    assert (seen.console, seen.elsewhere) == ([], [])
