"""AppKeys: read again when they change, the next one tried when one is refused, blanked when repeated."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.core.messages import Answer
from gateway.emulator import EmulatorConfig, Fault
from gateway.upstream.keys import AppKey, AppKeys
from tests.support import APP_KEY, account_path, chat_path, world

pytestmark = pytest.mark.anyio

OTHER = "b7e151628aed2a6abf7158809cf4f3c7"


def keys_of(folder: Path, *texts: str) -> AppKeys:
    """The keys of an account whose files have these texts."""
    files = [folder / str(number) for number in range(len(texts))]
    for file, text in zip(files, texts, strict=True):
        file.write_text(text)
    return AppKeys(tuple(files))


def named(keys: AppKeys) -> list[str]:
    """The keys in order."""
    return [key.authorization().decode().partition("=")[2] for key in keys.in_order()]


def test_the_key_that_worked_last_comes_first(tmp_path: Path) -> None:
    keys = keys_of(tmp_path, "one\n", "two\n")
    assert named(keys) == ["one", "two"]
    keys.prefer(AppKey("two"))
    assert named(keys) == ["two", "one"]
    keys.prefer(AppKey("a stranger"))
    assert named(keys) == ["two", "one"]


def test_what_worked_last_stays_first_where_the_files_say_the_same(tmp_path: Path) -> None:
    keys = keys_of(tmp_path, "one\n", "two\n")
    keys.prefer(AppKey("two"))
    assert not keys.adopt(keys_of(tmp_path, "one", "two\r\n"))
    assert named(keys) == ["two", "one"]


@pytest.mark.parametrize("texts", [("two", "one"), ("three", "two"), ("one", "three"), ("one",), ("two",)])
def test_files_that_say_something_else_decide_the_order(tmp_path: Path, texts: tuple[str, ...]) -> None:
    keys = keys_of(tmp_path, "one", "two")
    if texts == ("one", "three"):
        keys.prefer(AppKey("two"))
    assert keys.adopt(keys_of(tmp_path, *texts))
    assert named(keys) == list(texts)
    # What was read is remembered as what the files say.
    assert not keys.adopt(keys_of(tmp_path, *texts))


@pytest.mark.parametrize("unfit", ["", "two words", " padded", "two\n\n", "x" * 257, "ü"])
def test_a_file_without_a_key_is_refused_and_not_quoted(tmp_path: Path, unfit: str) -> None:
    with pytest.raises(ValueError, match="expected one line with a key, got something else") as refused:
        keys_of(tmp_path, unfit)
    assert str(tmp_path / "0") in str(refused.value)
    assert unfit == "" or unfit not in str(refused.value)


def test_a_file_that_is_gone_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="gone: expected a readable file, got: No such file or directory"):
        AppKeys((tmp_path / "gone",))


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (b'{"message": "app_key=%b"}', ()),
        (b"%b", ()),
        (b"", ((b"location", b"https://x.example/?a=1;k=%b#%b"),)),
    ],
)
@pytest.mark.parametrize("spelling", [b"c4nary/5a+d1", b"c4nary%2F5a%2Bd1"])
def test_a_key_that_the_upstream_repeats_is_blanked(
    body: bytes, headers: tuple[tuple[bytes, bytes], ...], spelling: bytes
) -> None:
    said = Answer(
        200,
        tuple((name, value.replace(b"%b", spelling)) for name, value in headers),
        body.replace(b"%b", spelling),
    )
    blanked = AppKey("c4nary/5a+d1").blanked(said)
    assert blanked.status == 200
    assert b"c4nary" not in blanked.body + b"".join(value for _, value in blanked.headers)
    assert len(blanked.body) == len(said.body)


async def test_a_rotated_key_is_used_without_a_restart(tmp_path: Path) -> None:
    async with world(tmp_path) as it:
        it.emulator.app_keys = (OTHER,)
        assert (await it.get(account_path())).problem == "key-refused"
        (it.stage.config.parent / "app-key").write_text(OTHER)
        await it.gateway.reloading.look_again()
        assert (await it.get(account_path())).status == 200
        assert '"event": "configuration changed"' in it.log.getvalue()


async def test_a_read_tries_the_other_key_once_and_it_is_remembered(tmp_path: Path) -> None:
    (tmp_path / "next-key").write_text(OTHER)
    environ = {"ACCOUNTS__123__NEXT_APP_KEY_FILE": "next-key"}
    config = EmulatorConfig(app_key=APP_KEY, record=10)
    async with world(tmp_path, emulator=config, environ=environ) as it:
        chat = it.chat()
        path = chat_path(chat, "/info/visitorName")
        it.emulator.app_keys = (OTHER,)
        # A write is never repeated.
        assert (await it.write("PUT", path, {"visitorName": "Zoe"})).problem == "key-refused"
        assert it.upstream_requests() == 1
        assert (await it.get(account_path())).status == 200
        assert it.upstream_requests() == 3
        assert (await it.write("PUT", path, {"visitorName": "Zoe"})).status == 201
        assert (await it.get(account_path())).status == 200
        assert it.upstream_requests() == 5


async def test_two_refused_keys_are_two_requests_and_no_more(tmp_path: Path) -> None:
    (tmp_path / "next-key").write_text(OTHER)
    async with world(tmp_path, environ={"ACCOUNTS__123__NEXT_APP_KEY_FILE": "next-key"}) as it:
        it.emulator.app_keys = ("neither",)
        assert (await it.get(chat_path(it.chat(), "/info"))).problem == "key-refused"
        assert it.upstream_requests() == 2


async def test_what_a_start_is_refused_for_says_nothing_of_the_key(tmp_path: Path) -> None:
    (tmp_path / "next-key").write_text(OTHER)
    async with world(tmp_path, environ={"ACCOUNTS__123__NEXT_APP_KEY_FILE": "next-key"}) as it:
        it.emulator.fail(Fault(status=401, code=10))
        refused = await it.write("POST", account_path("/chat/request"), {"request": {}})
        assert refused.status == 401
        assert it.upstream_requests() == 1
        assert (await it.get(account_path())).status == 200
        assert it.upstream_requests() == 2


async def test_a_key_in_a_body_does_not_cross(tmp_path: Path) -> None:
    async with world(tmp_path) as it:
        path = chat_path(it.chat(), "/info/visitorName")
        body = f'{{"visitorName": "{APP_KEY}"}}'.encode()
        it.emulator.fail(Fault(body=body))
        assert APP_KEY.encode() not in (await it.get(path)).body
        it.emulator.fail(
            Fault(
                status=400,
                body=b'{"error": {"message": "oauth_key=%s", "internalCode": 7}}' % APP_KEY.encode(),
            )
        )
        assert b"*" * len(APP_KEY) in (await it.get(path)).body
