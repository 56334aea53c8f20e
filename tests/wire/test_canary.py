"""The appKey is nowhere: not in a byte a client gets, not in a log, not in a metric, not in a repr.

Each world of `tests.support` asks that of its own traffic when it ends. Here are a run that tempts the
gateway on purpose, the values that hold or could hold the key, and proof that the search finds it.
"""

from __future__ import annotations

import base64
import pprint
import traceback
from pathlib import Path
from urllib.parse import quote

import pytest

from gateway.configuration import Misconfigured
from gateway.emulator import Fault, Reset, Truncate
from gateway.upstream.accounts import Account
from gateway.upstream.keys import AppKey, AppKeys
from tests.support import APP_KEY, World, account_path, chat_path, leaks, world

pytestmark = pytest.mark.anyio

#: What an upstream could say back to whoever sent it the key.
ECHOES = {
    "an error that quotes the query": Fault(
        status=404, code=28, message=f"null for uri: /x?v=1&appKey={APP_KEY}"
    ),
    "an error that quotes the field": Fault(
        status=409, code=7, message=f"Authorization: LivePerson appKey={APP_KEY}"
    ),
    "an error that quotes it encoded": Fault(
        status=409, code=7, message=f"?appKey%3D{quote(APP_KEY, safe='')}"
    ),
    "an error of another shape": Fault(
        status=400, content_type="text/html", body=f"<p>{APP_KEY}</p>".encode()
    ),
    "a refusal": Fault(status=401, code=10, message=f"bad appKey={APP_KEY}"),
    "a crash": Fault(status=500, body=f"at Key({APP_KEY})".encode()),
    "a redirect": Fault(redirect=f"https://va-e.convep.liveperson.net/?appKey={APP_KEY}"),
    "a cookie": Fault(set_cookie=f"key={APP_KEY}"),
    "fields": Fault(headers=((b"x-key", APP_KEY.encode()), (b"authorization", APP_KEY.encode()))),
    "a field in base64": Fault(headers=((b"x-key", base64.b64encode(APP_KEY.encode())),)),
    "a link": Fault(
        body=f'{{"account": {{"link": {{"@href": "https://va-e.convep.liveperson.net{account_path()}?appKey={APP_KEY}"}}}}}}'.encode()
    ),
    "a broken document": Fault(body=f'{{"key": "{APP_KEY}'.encode()),
    "half an answer": Fault(body=f'{{"key": "{APP_KEY}"}}'.encode(), delivery=Truncate(12)),
    "a reset in the head": Fault(headers=((b"x-key", APP_KEY.encode()),), delivery=Reset(60)),
}


@pytest.mark.parametrize("name", ECHOES)
@pytest.mark.parametrize("accept", ["application/json", "application/xml"])
async def test_what_the_upstream_gives_away_stays_here(here: World, name: str, accept: str) -> None:
    for method, path in (("GET", account_path()), ("POST", account_path("/chat/request"))):
        here.emulator.fail(ECHOES[name])
        response = await here.ask(
            method,
            path,
            {"accept": accept, "content-type": "application/json"},
            b"{}" if method == "POST" else b"",
        )
        assert response.status >= 200
    seen = b"".join(here.received)
    assert seen
    assert not leaks(seen)
    assert not leaks(here.log.getvalue().encode())
    assert not leaks((await here.admin("/metrics")).body)


async def test_no_value_shows_it(here: World) -> None:
    await here.get(chat_path(here.chat(), "/info"))
    gateway = here.gateway
    accounts = gateway._state.upstream._accounts  # type: ignore[attr-defined]
    values = [gateway, gateway.settings, gateway.exchange, accounts, *vars(gateway).values()]
    values += [*vars(gateway.exchange).values(), *vars(accounts).values(), here.addresses, here.stage]
    keys = accounts.keys("123")
    values += [keys, vars(keys), *keys.in_order(), *accounts._accounts.values(), here.emulator.config]
    for value in values:
        for shown in (repr(value), str(value), f"{value}", pprint.pformat(value)):
            assert not leaks(shown.encode()), type(value)


def test_a_key_shows_itself_to_nobody(tmp_path: Path) -> None:
    file = tmp_path / "app-key"
    file.write_text(APP_KEY)
    key, keys = AppKey(APP_KEY), AppKeys((file,))
    account = Account("123", keys, None)
    error = ValueError(key, account, {"key": key})
    texts = [*(repr(one) for one in (key, keys, vars(keys), account, error)), str(key), f"{key}", str(error)]
    texts += [pprint.pformat([key, account]), *traceback.format_exception(error)]
    assert not [text for text in texts if leaks(text.encode())]
    assert leaks(key.authorization()) == ["plain"]


def test_a_file_without_a_key_is_not_quoted(tmp_path: Path) -> None:
    file = tmp_path / "app-key"
    file.write_text(f"{APP_KEY} {APP_KEY}")
    with pytest.raises(ValueError, match="expected one line with a key") as refused:
        AppKeys((file,))
    assert not leaks("".join(traceback.format_exception(refused.value)).encode())


async def test_a_mistake_in_the_configuration_does_not_quote_it(tmp_path: Path) -> None:
    (tmp_path / "two-lines").write_text(f"{APP_KEY}\n{APP_KEY}\n")
    with pytest.raises(Misconfigured, match="app_key_file") as refused:
        async with world(
            tmp_path, accounts={"123": {"upstream": "https://x.example", "app_key_file": "two-lines"}}
        ):
            pass  # pragma: no cover - it never starts
    assert not leaks(str(refused.value).encode())


@pytest.mark.parametrize(
    "hidden",
    [
        APP_KEY,
        APP_KEY.encode().hex(),
        quote(APP_KEY, safe=""),
        *(
            base64.b64encode(b"x" * before + APP_KEY.encode() + b"x" * after).decode()
            for before in range(4)
            for after in range(4)
        ),
        base64.urlsafe_b64encode(f"LivePerson appKey={APP_KEY}".encode()).decode(),
    ],
)
def test_the_search_finds_it(hidden: str) -> None:
    assert leaks(f"before {hidden} after".encode())
    assert not leaks(hidden.encode()[:-14])
