"""Environment variables over the file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gateway.config.load import load

GOOD = Path(__file__).parent / "good" / "gateway.yaml"


@pytest.mark.parametrize(
    ("variable", "value", "where", "expected"),
    [
        ("LISTEN", "0.0.0.0:80", "listen", "0.0.0.0:80"),
        ("LISTEN", "[::]:80", "listen", "[::]:80"),
        ("PUBLIC_URL", "http://a.example/", "public_url", "http://a.example"),
        ("DRAIN_S", "7", "drain_s", "7"),
        ("DEFAULT_REPRESENTATION", "json", "default_representation", "Representation.JSON"),
        ("LOG_LEVEL", "error", "log_level", "error"),
        ("UPSTREAM__DEADLINE_MS", "800", "upstream.deadline_ms", "800"),
        ("UPSTREAM", '{"deadline_ms": 800}', "upstream.stale_after_ms", "250"),
        ("CACHE__MAX_BYTES", "2097152", "cache.max_bytes", "2097152"),
        ("DISCOVERY__URL", "https://d.example", "discovery.url", "https://d.example"),
        ("BUDGET__QUEUE", "7", "budget.queue", "7"),
        ("ADMIN__HOSTS", "[a.example]", "admin.hosts", "('a.example',)"),
        ("TRUSTED_PROXIES", "[]", "trusted_proxies", "()"),
        ("CORS__ORIGINS", "[]", "cors.origins", "()"),
        ("LINK_HOSTS", "[a.example, '*.b.example']", "link_hosts", "('a.example', '*.b.example')"),
    ],
)
def test_a_variable_overrides_the_file(variable: str, value: str, where: str, expected: str) -> None:
    loaded = load(GOOD, {f"CHAT_GATEWAY_{variable}": value, "PATH": "/bin"})
    assert loaded.mistakes == ()
    found: Any = loaded.settings
    for name in where.split("."):
        found = getattr(found, name)
    assert str(found) == expected


def test_account_ids_keep_their_case() -> None:
    environ = {
        "CHAT_GATEWAY_ACCOUNTS__P73373771__BUDGET__PER_SECOND": "7",
        "CHAT_GATEWAY_ACCOUNTS__P73373771__DISCOVER": "true",
        "CHAT_GATEWAY_ACCOUNTS__P73373771__APP_KEY_FILE": "app-key",
        "CHAT_GATEWAY_ACCOUNTS__0123__DISCOVER": "false",
        "CHAT_GATEWAY_ACCOUNTS__0123__UPSTREAM": "https://u.example",
    }
    loaded = load(GOOD, environ)
    assert loaded.settings is not None
    accounts = {key: account.upstream for key, account in loaded.settings.accounts.items()}
    assert accounts == {
        "0123": "https://u.example",
        "le61911979": "http://upstream.example:9100",
        "P73373771": None,
    }
    assert loaded.settings.budget_of("P73373771").per_second == 7


def test_what_is_inside_a_map_is_laid_over_the_map() -> None:
    environ = {
        "CHAT_GATEWAY_UPSTREAM__DEADLINE_MS": "900",
        "CHAT_GATEWAY_UPSTREAM": '{"deadline_ms": 800, "max_connections": 3}',
    }
    loaded = load(GOOD, environ)
    assert loaded.settings is not None
    assert (loaded.settings.upstream.deadline_ms, loaded.settings.upstream.max_connections) == (900, 3)


def test_a_file_may_be_empty_if_variables_say_all(tmp_path: Path) -> None:
    good = GOOD.parent
    (tmp_path / "gateway.yaml").write_text("# nothing\n")
    environ = {
        "CHAT_GATEWAY_PUBLIC_URL": "https://chat.example",
        "CHAT_GATEWAY_POLICIES": str(good.parents[2] / "policies"),
        "CHAT_GATEWAY_ACCOUNTS": f'{{"123": {{"discover": true, "app_key_file": "{good / "app-key"}"}}}}',
        "CHAT_GATEWAY_ISSUERS": '[{"issuer": "https://issuer.example", "audience": "a", '
        f'"algorithms": ["RS256"], "jwks": "{good / "jwks.json"}"}}]',
    }
    loaded = load(tmp_path / "gateway.yaml", environ)
    assert loaded.mistakes == ()
    assert loaded.settings is not None
    assert loaded.policies is not None


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("LISTEN", "x", "listen: expected host:port, with an IPv6 host in brackets, got 'x'"),
        ("LISTEN", "", "listen: expected host:port, with an IPv6 host in brackets, got ''"),
        ("LISTENN", "127.0.0.1:80", "listenn: expected listen, got listenn"),
        ("DRAIN_S", "010", "drain_s: expected a whole number from 0 to 300, got '010'"),
        ("DRAIN_S", "{", "drain_s: expected a whole number from 0 to 300, got '{'"),
        (
            "UPSTREAM__DEADLINE_MS",
            "1",
            "upstream.deadline_ms: expected a whole number from 100 to 8000, got 1",
        ),
        (
            "UPSTREAM",
            '{"deadline_ms": 1}',
            "upstream.deadline_ms: expected a whole number from 100 to 8000, got 1",
        ),
        ("CACHE__MAX__BYTES", "1", None),
        (
            "ISSUERS__0__JWKS",
            "x",
            "issuers.0.jwks: expected the name of a setting (lists are replaced whole), got ISSUERS__0__JWKS",
        ),
        ("ACCOUNTS__9__DISCOVER", "true", "accounts.9.app_key_file: expected a value, got nothing"),
        ("ACCOUNTS__0123__APP_KEY", "canary", "accounts.0123.app_key: expected app_key_file, got app_key"),
    ],
)
def test_a_mistake_in_a_variable_names_the_variable(variable: str, value: str, message: str | None) -> None:
    loaded = load(GOOD, {f"CHAT_GATEWAY_{variable}": value})
    place = f"environment variable CHAT_GATEWAY_{variable}"
    if message is not None:
        assert [str(mistake) for mistake in loaded.mistakes] == [f"{place}: {message}"]
    assert {mistake.file for mistake in loaded.mistakes} == {place}
    assert loaded.settings is None


OF_A_SERVICE = [
    ("SERVICE_HOST", "10.0.0.11"),
    ("SERVICE_HOST", "fd00::1"),
    ("SERVICE_PORT", "8080"),
    ("SERVICE_PORT_HTTP", "8080"),
    ("PORT", "tcp://10.0.0.11:8080"),
    ("PORT", "udp://[fd00::1]:53"),
    ("PORT_8080_TCP", "tcp://10.0.0.11:8080"),
    ("PORT_8080_TCP_PROTO", "tcp"),
    ("PORT_8080_TCP_PORT", "8080"),
    ("PORT_8080_TCP_ADDR", "10.0.0.11"),
    ("ADMIN_SERVICE_HOST", "10.0.0.11"),
    ("ADMIN_PORT_8081_TCP", "tcp://10.0.0.11:8081"),
]


@pytest.mark.parametrize(("variable", "value"), OF_A_SERVICE)
def test_what_kubernetes_sets_for_a_service_is_no_setting(variable: str, value: str) -> None:
    assert load(GOOD, {f"CHAT_GATEWAY_{variable}": value}).mistakes == ()


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("LISTEN_PORT", "9"),
        ("LISTEN_PORT", "127.0.0.1:9"),
        ("PORT", "8080"),
        ("PORT_8080_TCP", "8080"),
        ("PORT_8080_TCP_PROTO", "http"),
        ("ADMIN_SERVICE_HOST", "localhost"),
        ("SERVICE_PORT", "http"),
        ("SERVICE_PORT", ""),
    ],
)
def test_a_setting_that_is_none_does_not_pass_for_a_service(variable: str, value: str) -> None:
    (mistake,) = load(GOOD, {f"CHAT_GATEWAY_{variable}": value}).mistakes
    assert (mistake.file, mistake.got) == (f"environment variable CHAT_GATEWAY_{variable}", variable.lower())
