"""gateway.yaml as values: what the good file gives, and what each kind of value may be."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from gateway.config.load import Loaded, load
from gateway.config.settings import Address, Cache, Cors, Discovery, Settings, Upstream
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
    for name in ("app-key", "jwks.json", "secret"):
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
        },
        "le61911979": {
            "upstream": "http://upstream.example:9100",
            "discover": False,
            "app_key_file": folder / "app-key",
            "next_app_key_file": folder / "next-app-key",
            "allow_plain_http": True,
        },
    }
    first, second = settings.issuers
    assert (first.issuer, first.audience) == ("https://issuer.example", "chat-gateway")
    assert first.algorithms == ("RS256", "ES512", "EdDSA")
    assert (first.jwks, first.secret_file, first.leeway_s) == (folder / "jwks.json", None, 5)
    assert (second.algorithms, second.jwks, second.secret_file) == (("HS256",), None, folder / "secret")
    assert settings.discovery == Discovery(url="http://127.0.0.1:9100", allowed_domains=("chat.example",))
    assert settings.link_hosts == ("*.chat.example",)
    assert settings.upstream == Upstream(
        deadline_ms=4000, stale_after_ms=200, max_connections=50, max_answer_bytes=1048576, max_pause_ms=3000
    )
    assert settings.cache == Cache(max_bytes=1048576)
    assert settings.max_body_bytes == 4096
    assert settings.default_representation is Representation.XML
    assert settings.cors == Cors(origins=("https://app.example", "http://localhost:3000"), max_age_s=60)
    assert (settings.reload_s, settings.drain_s, settings.log_level) == (5, 20, "debug")


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
        (b"k" * 1001, "more than 1000 bytes"),
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
        {"upstream": CANARY},
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
