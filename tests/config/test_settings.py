"""gateway.yaml as values: what the good file gives, and what each kind of value may be."""

from __future__ import annotations

import json
import os
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_network
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from gateway.config.addresses import Address, RedisPlace
from gateway.config.load import Loaded, load
from gateway.config.settings import (
    AT_START,
    Budget,
    Cache,
    Cors,
    Discovery,
    Edge,
    FailedTokens,
    Memory,
    Overload,
    Push,
    Revocations,
    Settings,
    needs_restart,
    sealing_key,
)
from gateway.core.messages import Representation

HERE = Path(__file__).parent
GOOD = HERE / "good" / "gateway.yaml"
CANARY = "canary721c"


def minimal() -> dict[str, object]:
    return {
        "public_url": "https://chat.example",
        "policies": str(HERE.parents[1] / "policies"),
        "accounts": {"123": {"upstream": "https://upstream.example", "app_key_file": "app-key"}},
        "issuers": [
            {
                "issuer": "https://issuer.example",
                "audience": "a",
                "algorithms": ["RS256"],
                "jwks": "jwks.json",
            }
        ],
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("app-key", "ca.pem", "encryption-key", "jwks.json", "secret", "server.key", "server.pem"):
        (tmp_path / name).write_bytes((HERE / "good" / name).read_bytes())
    return tmp_path


def loaded_with(folder: Path, **changes: object) -> Loaded:
    path = folder / "gateway.yaml"
    path.write_text(json.dumps({**minimal(), **changes}))
    return load(path, {})


def settings_with(folder: Path, **changes: object) -> Settings:
    loaded = loaded_with(folder, **changes)
    assert loaded.mistakes == ()
    assert loaded.settings is not None
    return loaded.settings


def test_every_setting_of_the_good_file_arrives() -> None:
    loaded = load(GOOD, {})
    assert loaded.mistakes == ()
    settings = loaded.settings
    assert settings is not None
    folder = GOOD.parent
    assert settings.listen == Address("::1", 9080)
    assert settings.admin_listen == Address("localhost", 9081)
    for tls in (settings.tls, settings.admin_tls):
        assert tls is not None
        assert (tls.certificate_file, tls.key_file) == (folder / "server.pem", folder / "server.key")
    assert settings.edge == Edge(
        max_head_bytes=8192,
        max_fields=50,
        max_target_bytes=4096,
        head_ms=2000,
        body_ms=3000,
        idle_ms=60000,
        send_ms=4000,
        max_connections=5000,
        max_connections_per_peer=500,
    )
    assert settings.admin.model_dump() == {
        "token_file": folder / "admin-token",
        "open_metrics": False,
        "hosts": ("admin.example",),
    }
    assert settings.public_url == "https://chat.example/live"
    assert settings.policies.resolve() == HERE.parents[1] / "policies"
    accounts = {key: account.model_dump() for key, account in settings.accounts.items()}
    assert accounts == {
        "0123": {
            "upstream": None,
            "discover": True,
            "app_key_file": folder / "app-key",
            "next_app_key_file": None,
            "allow_plain_http": False,
            "budget": None,
        },
        "le61911979": {
            "upstream": "http://upstream.example:9100",
            "discover": False,
            "app_key_file": folder / "app-key",
            "next_app_key_file": folder / "next-app-key",
            "allow_plain_http": True,
            "budget": Budget(per_second=20, in_flight=10).model_dump(),
        },
    }
    first, second, third, fourth = settings.issuers
    assert (first.issuer, first.audience) == ("https://issuer.example", "chat-gateway")
    assert first.algorithms == ("RS256", "ES512", "EdDSA")
    assert (first.jwks, first.secret_file, first.leeway_s) == (folder / "jwks.json", None, 5)
    assert (second.algorithms, second.jwks, second.secret_file) == (("HS256",), None, folder / "secret")
    fetched = third.model_dump(
        exclude={"issuer", "audience", "algorithms", "jwks", "secret_file", "leeway_s"}
    )
    assert fetched == {
        "jwks_url": "https://keys.example:6443/openid/v1/jwks?use=sig",
        "oidc_discovery": False,
        "ca_file": folder / "ca.pem",
        "bearer_token_file": folder / "bearer-token",
        "refresh_s": 60,
        "cooldown_s": 5,
        "max_stale_s": 3600,
        "proxy": "http://egress.example:3128",
        "token_type": "at+jwt",
        "client_claim": "azp",
    }
    assert (fourth.issuer, fourth.oidc_discovery) == ("https://discovered.example/tenant/", True)
    assert settings.failed_tokens == FailedTokens(per_minute=30, burst=10)
    assert settings.revocations.model_dump() == {
        "file": folder / "revocations",
        "journal": folder / "journal",
    }
    assert settings.trusted_proxies == (ip_network("10.0.0.0/8"), ip_network("2001:db8::1/128"))
    assert settings.discovery == Discovery(url="http://127.0.0.1:9100", allowed_domains=("chat.example",))
    assert settings.link_hosts == ("*.chat.example",)
    assert settings.upstream.model_dump() == {
        "deadline_ms": 4000,
        "stale_after_ms": 200,
        "max_connections": 50,
        "max_answer_bytes": 1048576,
        "max_pause_ms": 3000,
        "ca_file": folder / "ca.pem",
        "proxy": "http://egress.example:3128",
        "refuse_other_session_key": True,
    }
    assert settings.budget == Budget(
        per_second=100, burst=20, in_flight=40, queue=500, wait_ms=800, reserve_percent=30
    )
    assert settings.overload == Overload(max_requests=1000, lag_ms=50)
    assert settings.push == Push(heartbeat_ms=2000, send_ms=3000, max_wait_s=20)
    assert settings.cache == Cache(max_bytes=1048576)
    assert settings.memory == Memory(tokens_bytes=2097152, grants_bytes=4194304)
    assert settings.redis_url == RedisPlace(
        True, (Address("sentinel-1.example", 26379), Address("::1", 26380)), "mymaster", 3
    )
    assert settings.redis.model_dump() == {
        "username": "gateway",
        "password_file": folder / "redis-password",
        "sentinel_username": "asker",
        "sentinel_password_file": folder / "sentinel-password",
        "ca_file": folder / "ca.pem",
        "certificate_file": folder / "server.pem",
        "key_file": folder / "server.key",
        "prefix": "live.chat",
        "encryption_key_file": folder / "encryption-key",
        "deadline_ms": 60,
        "lease_ms": 2000,
        "exact_limits_alone": "deny",
    }
    assert settings.short_cut is False
    assert settings.max_body_bytes == 4096
    assert settings.default_representation is Representation.XML
    assert settings.cors == Cors(origins=("https://app.example", "http://localhost:3000"), max_age_s=60)
    assert (settings.reload_s, settings.drain_delay_s, settings.drain_s) == (5, 3, 20)
    assert (settings.log_level, settings.log_one_hit_in) == ("debug", 100)


def test_the_good_file_leaves_nothing_at_its_default(folder: Path) -> None:
    loaded = load(GOOD, {})
    assert loaded.settings is not None
    default = settings_with(folder)
    for name in set(Settings.model_fields) - {"accounts", "issuers", "policies"}:
        assert getattr(loaded.settings, name) != getattr(default, name), name


def test_settings_cannot_be_changed(folder: Path) -> None:
    settings = settings_with(folder)
    with pytest.raises(ValidationError):
        settings.drain_s = 1  # type: ignore[misc]  # that it can't be assigned is the point


def test_policies_stand_beside_the_file_unless_it_says_otherwise(folder: Path) -> None:
    (folder / "policies").symlink_to(HERE.parents[1] / "policies")
    without = {key: value for key, value in minimal().items() if key != "policies"}
    (folder / "gateway.yaml").write_text(json.dumps(without))
    loaded = load(folder / "gateway.yaml", {})
    assert loaded.mistakes == ()
    assert loaded.settings is not None
    assert loaded.settings.policies == folder / "policies"


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:8080", Address("127.0.0.1", 8080)),
        ("0.0.0.0:0", Address("0.0.0.0", 0)),
        ("[::]:65535", Address("::", 65535)),
        ("chat.example:80", Address("chat.example", 80)),
    ],
)
def test_addresses(folder: Path, text: str, address: Address) -> None:
    listen = settings_with(folder, listen=text).listen
    assert (listen, str(listen)) == (address, text)


@pytest.mark.parametrize(
    "text",
    [
        ":8080",
        "127.0.0.1",
        "127.0.0.1:",
        "::1:80",
        "[::g]:80",
        "[127.0.0.1]:80",
        "a b:80",
        "a:80:90",
        "a:99999",
        "a:-1",
        80,
        None,
    ],
)
def test_no_addresses(folder: Path, text: object) -> None:
    (mistake,) = loaded_with(folder, listen=text).mistakes
    assert (mistake.key, mistake.expected) == ("listen", "host:port, with an IPv6 host in brackets")


def test_two_listeners_on_free_ports_are_two(folder: Path) -> None:
    settings = settings_with(folder, listen="127.0.0.1:0", admin_listen="127.0.0.1:0")
    assert settings.listen == settings.admin_listen


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("https://chat.example", "https://chat.example"),
        ("https://Chat.Example/", "https://chat.example"),
        ("http://chat.example:8080/Live/v1.2/", "http://chat.example:8080/Live/v1.2"),
        ("http://[::1]:8080", "http://[::1]:8080"),
    ],
)
def test_public_urls(folder: Path, text: str, url: str) -> None:
    assert settings_with(folder, public_url=text).public_url == url


@pytest.mark.parametrize(
    "text",
    [
        *(
            "chat.example",
            "//chat.example",
            "ftp://chat.example",
            "https://",
            "https:///a",
            "https://a:b",
            "https://a:",
        ),
        *(
            "https://u@chat.example",
            "https://chat.example#",
            "https://chat.example?",
            "https://chat.example/a?b",
        ),
        *(
            "https://chat.example/../a",
            "https://chat.example/.",
            "https://chat.example//a",
            "https://chat.example/a b",
        ),
        *(
            "https://chat.example/%2e",
            "https://chat.example\\a",
            "https://chat.example/a\n",
            "https://[::1",
            "https://-a",
        ),
    ],
)
def test_no_public_urls(folder: Path, text: str) -> None:
    (mistake,) = loaded_with(folder, public_url=text).mistakes
    assert mistake.key == "public_url"


@pytest.mark.parametrize(
    ("upstream", "accepted"),
    [
        *[
            (url, True)
            for url in ("http://localhost", "http://127.0.0.1:9100", "http://127.8.8.8", "http://[::1]:9100")
        ],
        *[
            (url, False)
            for url in ("http://10.0.0.1", "http://localhost.example", "http://0.0.0.0", "http://[::2]")
        ],
        ("https://10.0.0.1:8443/", True),
    ],
)
def test_plain_http_needs_leave_unless_it_stays_on_this_machine(
    folder: Path, upstream: str, accepted: bool
) -> None:
    account = {"upstream": upstream, "app_key_file": "app-key"}
    mistakes = loaded_with(folder, accounts={"123": account}).mistakes
    assert [mistake.key for mistake in mistakes] == ([] if accepted else ["accounts.123.upstream"])
    allowed = settings_with(folder, accounts={"123": {**account, "allow_plain_http": True}})
    assert allowed.accounts["123"].upstream == upstream.rstrip("/")


@pytest.mark.parametrize(
    ("content", "got"),
    [
        (b"k", None),
        (b"k" * 256, None),
        (b"721c=/+key\n", None),
        (b"721c\r\n", None),
        (b"", "an empty one"),
        (b"\n", "an empty one"),
        (b" \n", "an empty one"),
        (b"k" * 257, "one with something else"),
        (b"k" * 10_001, "more than 10000 bytes"),
        (b"one\ntwo\n", "one with something else"),
        (b"k\n\n", "one with something else"),
        (b"a b", "one with something else"),
        (b"k\xc3\xa4", "one with something else"),
        (b"k\0", "one with something else"),
    ],
)
@pytest.mark.parametrize("setting", ["app_key_file", "next_app_key_file"])
def test_app_key_files(folder: Path, setting: str, content: bytes, got: str | None) -> None:
    (folder / "new").write_bytes(content)
    account = {"discover": True, "app_key_file": "app-key", setting: "new"}
    mistakes = loaded_with(folder, accounts={"123": account}).mistakes
    assert [(mistake.key, mistake.got) for mistake in mistakes] == (
        [] if got is None else [(f"accounts.123.{setting}", got)]
    )


@pytest.mark.parametrize(
    ("content", "accepted"),
    [
        (b"t" * 15, False),
        (b"t" * 16, True),
        (b"t" * 256 + b"\n", True),
        (b"t" * 257, False),
        (b"t t" * 9, False),
    ],
)
def test_admin_token_files(folder: Path, content: bytes, accepted: bool) -> None:
    (folder / "token").write_bytes(content)
    mistakes = loaded_with(folder, admin={"token_file": "token"}).mistakes
    assert [mistake.key for mistake in mistakes] == ([] if accepted else ["admin.token_file"])


def issuer(**keys: object) -> list[dict[str, object]]:
    return [{"issuer": "https://issuer.example", "audience": "a", "algorithms": ["RS256"], **keys}]


@pytest.mark.parametrize(
    ("url", "accepted"),
    [
        *[
            (url, True)
            for url in (
                "https://keys.example",
                "https://keys.example:8443/a/b/jwks.json",
                "https://keys.example/keys?p=b2c_1a&v=%2e",
                "https://keys.example?p=1",
                "http://localhost:9100/jwks",
                "http://[::1]/jwks",
            )
        ],
        *[
            (url, False)
            for url in (
                "http://keys.example/jwks",
                "http://localhost.example/jwks",
                "https://u@keys.example/jwks",
                "https://keys.example/jwks#a",
                "https://keys.example/jwks?a#b",
                "https://keys.example/a b",
                "https://keys.example/?a b",
                "https://keys.example\\a",
                "https://keys.example:99999",
                "https://",
                "https://?a",
                "ftp://keys.example",
                "jwks.json",
                17,
                True,
            )
        ],
    ],
)
def test_keys_are_fetched_where_nobody_can_change_them(folder: Path, url: object, accepted: bool) -> None:
    mistakes = loaded_with(folder, issuers=issuer(jwks_url=url)).mistakes
    assert [mistake.key for mistake in mistakes] == ([] if accepted else ["issuers.0.jwks_url"])
    loaded = loaded_with(
        folder, issuers=[*issuer(jwks="jwks.json"), *issuer(issuer=url, oidc_discovery=True)]
    )
    discoverable = accepted and "?" not in str(url)
    assert {mistake.key for mistake in loaded.mistakes} == (set() if discoverable else {"issuers.1.issuer"})


@pytest.mark.parametrize("algorithms", [["RS256"], ["HS256"]])
@pytest.mark.parametrize("number", range(16))
def test_keys_come_from_one_source_that_fits(folder: Path, algorithms: list[str], number: int) -> None:
    sources: dict[str, object] = {
        "jwks": "jwks.json",
        "jwks_url": "https://keys.example/jwks",
        "oidc_discovery": True,
        "secret_file": "secret",
    }
    given = [name for place, name in enumerate(sources) if number >> place & 1]
    fitting = ("secret_file",) if algorithms == ["HS256"] else ("jwks", "jwks_url", "oidc_discovery")
    rows = issuer(algorithms=algorithms, **{name: sources[name] for name in given})
    mistakes = loaded_with(folder, issuers=rows).mistakes
    accepted = len(given) == 1 and given[0] in fitting
    assert [(mistake.key, mistake.got) for mistake in mistakes] == (
        [] if accepted else [("issuers.0", " and ".join(given) or "none")]
    )


FOR_A_URL: dict[str, object] = {
    "ca_file": "ca.pem",
    "bearer_token_file": "app-key",
    "refresh_s": 300,
    "cooldown_s": 10,
    "max_stale_s": 86_400,
    "proxy": "http://egress.example:3128",
}


@pytest.mark.parametrize("source", [{"jwks_url": "https://keys.example"}, {"oidc_discovery": True}, {}])
def test_what_is_said_about_fetching_needs_something_to_fetch(
    folder: Path, source: dict[str, object]
) -> None:
    rows = issuer(**FOR_A_URL, **(source or {"jwks": "jwks.json"}))
    keys = [mistake.key for mistake in loaded_with(folder, issuers=rows).mistakes]
    assert keys == ([] if source else sorted(f"issuers.0.{name}" for name in FOR_A_URL))


@pytest.mark.parametrize("content", [b"", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"])
def test_what_holds_no_certificate_is_no_authority(folder: Path, content: bytes) -> None:
    (folder / "ca.pem").write_bytes(content)
    rows = issuer(jwks_url="https://keys.example", ca_file="ca.pem")
    (mistake,) = loaded_with(folder, issuers=rows).mistakes
    assert mistake.expected == "a PEM file with certificates"


@pytest.mark.parametrize(
    ("text", "network"),
    [
        ("10.0.0.0/8", "10.0.0.0/8"),
        ("192.0.2.7", "192.0.2.7/32"),
        ("2001:DB8::/32", "2001:db8::/32"),
        ("::1", "::1/128"),
        *[
            (text, None)
            for text in (
                *("10.0.0.1/8", "10.0.0.0/33", "10.0.0.0/255.0.0.0", "10.0.0.0/", "10.0.0", "010.0.0.1"),
                *("2001:db8::1/32", "fe80::1%eth0", "[::1]", "proxy.example", "*", "", 167772160, None),
            )
        ],
    ],
)
def test_trusted_proxies(folder: Path, text: object, network: str | None) -> None:
    if network:
        assert settings_with(folder, trusted_proxies=[text]).trusted_proxies == (ip_network(network),)
    else:
        (mistake,) = loaded_with(folder, trusted_proxies=[text]).mistakes
        assert mistake.key == "trusted_proxies.0"


@pytest.mark.parametrize(
    ("name", "got"),
    [
        ("new", None),
        ("app-key", None),
        ("nowhere/new", "one in no folder"),
        ("app-key/new", "one in no folder"),
        (".", "a folder"),
        ("pipe", "something that is no file"),
        ("loop", "a link to nothing"),
        ("x" * 300, "file name too long"),
    ],
)
def test_journals(folder: Path, name: str, got: str | None) -> None:
    os.mkfifo(folder / "pipe")
    (folder / "loop").symlink_to("loop")
    mistakes = loaded_with(folder, revocations={"journal": name}).mistakes
    assert [mistake.got for mistake in mistakes] == ([] if got is None else [got])


@contextmanager
def as_nobody_special() -> Iterator[None]:
    """The superuser may write everywhere."""
    before = os.geteuid()
    os.seteuid(before or 65534)
    try:
        yield
    finally:
        os.seteuid(before)


@pytest.mark.parametrize(
    ("folder_mode", "file_mode", "got"),
    [
        (0o777, 0o666, None),
        (0o555, 0o666, "one in a folder that cannot be written"),
        (0o777, 0o444, "one that cannot be"),
        (0o777, 0o222, "one that cannot be"),
    ],
)
def test_a_journal_is_read_written_and_replaced(folder_mode: int, file_mode: int, got: str | None) -> None:
    with TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "journal").touch()
        (folder / "journal").chmod(file_mode)
        folder.chmod(folder_mode)
        told = None
        with as_nobody_special():
            try:
                Revocations.model_validate({"journal": "journal"}, context={"folder": folder})
            except ValidationError as error:
                told = error.errors()[0]["ctx"]["wrongs"][0].got
        folder.chmod(stat.S_IRWXU)
    assert told == got


@pytest.mark.parametrize(("size", "accepted"), [(67_108_864, True), (67_108_865, False)])
def test_the_file_of_revocations_may_be_long(folder: Path, size: int, accepted: bool) -> None:
    with (folder / "revocations").open("wb") as file:
        file.truncate(size)
    mistakes = loaded_with(folder, revocations={"file": "revocations"}).mistakes
    assert (mistakes == ()) == accepted


def test_the_journal_is_not_the_file_of_the_operators(folder: Path) -> None:
    (folder / "link").symlink_to("app-key")
    (mistake,) = loaded_with(folder, revocations={"file": "app-key", "journal": "link"}).mistakes
    assert (mistake.key, mistake.got) == ("revocations.journal", "the same")


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("redis://redis.example", RedisPlace(False, (Address("redis.example", 6379),), None, 0)),
        ("redis://redis.example/", RedisPlace(False, (Address("redis.example", 6379),), None, 0)),
        ("rediss://[::1]:6380/15", RedisPlace(True, (Address("::1", 6380),), None, 15)),
        (
            "redis+sentinel://one.example/my.master",
            RedisPlace(False, (Address("one.example", 26379),), "my.master", 0),
        ),
        (
            "rediss+sentinel://one.example:1,two.example/m/2",
            RedisPlace(True, (Address("one.example", 1), Address("two.example", 26379)), "m", 2),
        ),
    ],
)
def test_where_redis_is(folder: Path, text: str, place: RedisPlace) -> None:
    assert settings_with(folder, redis_url=text).redis_url == place


@pytest.mark.parametrize(
    "text",
    [
        *("", "redis.example:6379", "redis:", "redis://", "redis:///0", "unix:///redis", "REDIS://a", 6379),
        *("redis://a:0", "redis://a:99999", "redis://a:", "redis://a,b", "redis://a,", "redis://a b"),
        *("redis://a/b", "redis://a/0/1", "redis://a/1000", "redis://a/-1", "redis://a/0?b=c", "redis://a#b"),
        *(
            "redis://a\n",
            "redis://user@a",
            "redis://:word@a",
            "http://a",
            "redis+tls://a",
            "redis+sentinel://",
        ),
        *("redis+sentinel://a", "redis+sentinel://a/", "redis+sentinel://a//0", "redis+sentinel://a/m/0/1"),
        *("redis+sentinel://a,,b/m", "redis+sentinel://a/m m", "redis+sentinel:///m", ["redis://a"], True),
    ],
)
def test_where_redis_cannot_be(folder: Path, text: object) -> None:
    (mistake,) = loaded_with(folder, redis_url=text).mistakes
    assert mistake.key == "redis_url"


def test_shared_state_needs_its_library(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "redis", None)
    (mistake,) = loaded_with(folder, redis_url="redis://redis.example").mistakes
    assert str(mistake) == (
        "gateway.yaml:1: redis_url: expected the extra `redis` to be installed"
        " (pip install 'chat-gateway[redis]'), got none"
    )


@pytest.mark.parametrize(
    ("content", "got"),
    [
        (b"QUJD" * 10 + b"QUI=", None),
        (b"QUJD" * 10 + b"QUI=\r\n", None),
        (b"QUJD" * 10, "one with something else"),
        (b"QUJD" * 11, "one with something else"),
        (b"QUJD" * 5 + b"\n" + b"QUJD" * 5 + b"QUI=", "one with something else"),
        (b"-_JD" * 10 + b"QUI=", "one with something else"),
        (b"ab" * 32, "one with something else"),
        (b"\xff" * 32, "one with something else"),
        (b"", "an empty one"),
        (b"\n", "an empty one"),
        (b"Q" * 10_001, "more than 10000 bytes"),
        (None, "something that is no file"),
    ],
)
def test_keys_that_seal_entries(folder: Path, content: bytes | None, got: str | None) -> None:
    if content is None:
        os.mkfifo(folder / "seal")
    else:
        (folder / "seal").write_bytes(content)
    loaded = loaded_with(folder, redis_url="redis://redis.example", redis={"encryption_key_file": "seal"})
    assert [mistake.got for mistake in loaded.mistakes] == ([] if got is None else [got])
    if got is None:
        assert sealing_key(folder / "seal") == b"ABC" * 10 + b"AB"


def test_an_account_has_its_own_budget_or_the_common_one(folder: Path) -> None:
    row = {"upstream": "https://upstream.example", "app_key_file": "app-key"}
    accounts = {"1": row, "2": {**row, "budget": {"burst": 7}}}
    settings = settings_with(folder, accounts=accounts, budget={"per_second": 300})
    assert settings.budget_of("1") == Budget(per_second=300)
    assert settings.budget_of("2") == Budget(burst=7)


TLS = {"certificate_file": "server.pem", "key_file": "server.key"}
CHANGES: dict[str, object] = {
    "listen": "127.0.0.1:9080",
    "tls": TLS,
    "admin_listen": "127.0.0.1:9081",
    "admin_tls": TLS,
    "edge": {"head_ms": 700},
    "revocations": {"journal": "journal"},
    "upstream.deadline_ms": 4_000,
    "upstream.max_connections": 7,
    "upstream.max_answer_bytes": 70_000,
    "upstream.proxy": "http://egress.example:3128",
    "cache": {"max_bytes": 2_000_000},
    "memory": {"grants_bytes": 2_000_000},
    "redis_url": "redis://redis.example",
    "redis": {"lease_ms": 2_000},
    "short_cut": False,
    "drain_delay_s": 7,
    "drain_s": 7,
    "log_level": "debug",
    "log_one_hit_in": 7,
}


def test_each_setting_that_is_read_at_the_start_is_changed_below() -> None:
    assert tuple(CHANGES) == AT_START


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_of_what_is_read_at_the_start_is_named(folder: Path, name: str) -> None:
    section, _, inner = name.partition(".")
    value = {inner: CHANGES[name]} if inner else CHANGES[name]
    # What is said about Redis does nothing by itself, and is warned of.
    changed = loaded_with(folder, **{section: value}).settings
    assert changed is not None
    assert needs_restart(settings_with(folder), changed) == (name,)


def test_several_changes_are_all_named(folder: Path) -> None:
    good = load(GOOD, {}).settings
    assert good is not None
    assert needs_restart(settings_with(folder), good) == AT_START


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"public_url": "https://other.example"},
        {"reload_s": 9},
        {"upstream": {"stale_after_ms": 100, "max_pause_ms": 1_000}},
        {"budget": {"per_second": 9}},
        {"admin": {"hosts": ["admin.example"]}},
        {"issuers": [{"issuer": "i", "audience": "a", "algorithms": ["HS256"], "secret_file": "secret"}]},
    ],
)
def test_other_changes_need_no_restart(folder: Path, change: dict[str, Any]) -> None:
    old, new = settings_with(folder), loaded_with(folder, **change).settings
    assert new is not None
    assert (old == new, needs_restart(old, new)) == (not change, ())


@pytest.mark.parametrize(
    "origin", ["https://a.example", "http://localhost:3000", "http://[::1]:3000", "app://x"]
)
def test_origins(folder: Path, origin: str) -> None:
    assert settings_with(folder, cors={"origins": [origin]}).cors.origins == (origin,)


@pytest.mark.parametrize(
    "origin",
    [
        "*",
        "null",
        "a.example",
        "https://*.example",
        "https://A.example",
        "https://a.example/",
        "https://a.example:443",
        "http://a.example:80",
    ],
)
def test_what_browsers_never_send_is_no_origin(folder: Path, origin: str) -> None:
    (mistake,) = loaded_with(folder, cors={"origins": [origin]}).mistakes
    assert mistake.key == "cors.origins.0"


@pytest.mark.parametrize(
    ("hosts", "accepted"),
    [
        ([], True),
        (["chat.example", "*.chat.example", "10.0.0.1"], True),
        (["*"], False),
        (["*.*.example"], False),
        (["Chat.example"], False),
        (["chat.example:443"], False),
        (["https://chat.example"], False),
        ({"chat.example": True}, False),
    ],
)
def test_link_hosts(folder: Path, hosts: object, accepted: bool) -> None:
    assert (loaded_with(folder, link_hosts=hosts).mistakes == ()) == accepted


@pytest.mark.parametrize("audience", ["", "a\u0007b", "a\nb", "a\u2028b", "x" * 257, 17, True, None])
def test_texts_are_short_and_printable(folder: Path, audience: object) -> None:
    issuer = {"issuer": "https://issuer.example", "algorithms": ["RS256"], "jwks": "jwks.json"}
    (mistake,) = loaded_with(folder, issuers=[{**issuer, "audience": audience}]).mistakes
    assert mistake.key == "issuers.0.audience"


PLACES = st.sampled_from(
    [
        {"accounts": {"123": {"discover": True, "app_key_file": CANARY}}},
        {"accounts": {"123": {"discover": True, "app_key": CANARY}}},
        {"accounts": {"123": {"discover": True, "app_key_file": "app-key", "next_app_key_file": CANARY}}},
        {"accounts": {"123": {"discover": True, "app_key_file": [CANARY]}}},
        {"accounts": {"123": CANARY}},
        {"accounts": CANARY},
        {
            "accounts": {
                "123": {"upstream": f"https://x:{CANARY}@upstream.example", "app_key_file": "app-key"}
            }
        },
        {
            "accounts": {
                "123": {"upstream": f"https://{CANARY}@upstream.example/?a", "app_key_file": "app-key"}
            }
        },
        {"accounts": {"123": {"upstream": f"https://u.example?appKey={CANARY}", "app_key_file": "app-key"}}},
        {"issuers": [{"issuer": "i", "audience": "a", "algorithms": ["HS256"], "secret_file": CANARY}]},
        {"issuers": [{"issuer": "i", "audience": "a", "algorithms": ["HS256"], "secret": CANARY}]},
        {"issuers": [CANARY]},
        {"issuers": [{"jwks_url": f"https://x:{CANARY}@keys.example/"}]},
        {"issuers": [{"jwks_url": f"http://keys.example/?token={CANARY}"}]},
        {"issuers": [{"jwks_url": "https://keys.example/", "bearer_token_file": CANARY}]},
        {"admin": {"token_file": CANARY}},
        {"admin": {"token": CANARY}},
        {"admin": CANARY},
        {"upstream": CANARY},
        {"redis_url": f"redis://:{CANARY}@redis.example"},
        {"redis_url": f"rediss+sentinel://a:{CANARY}@redis.example/m"},
        {"redis_url": f"redis://redis.example?password={CANARY}"},
        {"redis": CANARY},
        {"redis": {"password": CANARY}},
        {"redis": {"password_file": CANARY}},
        {"redis": {"sentinel_password_file": CANARY}},
        {"redis": {"encryption_key_file": CANARY}},
    ]
)


@settings(deadline=None)
@given(PLACES)
def test_what_may_be_a_secret_is_not_repeated(
    tmp_path_factory: pytest.TempPathFactory, place: dict[str, object]
) -> None:
    loaded = loaded_with(tmp_path_factory.mktemp("secret"), **place)
    assert loaded.settings is None
    assert CANARY not in " ".join(map(str, loaded.mistakes)) + repr(loaded)
