"""What is said about Redis and does nothing, or gives a password away, is warned of; and what needs it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from gateway.config.doubts import doubts_of_settings
from gateway.config.load import Loaded, load

HERE = Path(__file__).parent
POLICIES = HERE.parents[1] / "policies"
OPEN, SAFE = "redis://redis.example", "rediss://redis.example"
SENTINEL = "redis+sentinel://sentinel.example/mymaster"
ALONE = "expected redis_url beside it, as nothing is shared without, got none"
IN_THE_CLEAR = "expected rediss in redis_url, as the network can read the password, got redis"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(HERE / "good", tmp_path / "good"))


def loaded_from(
    folder: Path, policies: str, redis_url: str | None, redis: dict[str, object] | None = None
) -> Loaded:
    said = {
        "public_url": "https://chat.example",
        "policies": policies,
        "accounts": {"123": {"upstream": "https://upstream.example", "app_key_file": "app-key"}},
        "issuers": [
            {"issuer": "https://a.example", "audience": "a", "algorithms": ["RS256"], "jwks": "jwks.json"}
        ],
        **({} if redis_url is None else {"redis_url": redis_url}),
        **({} if redis is None else {"redis": redis}),
    }
    (folder / "gateway.yaml").write_text(json.dumps(said))
    return load(folder / "gateway.yaml", {})


def told(folder: Path, redis_url: str | None, redis: dict[str, object] | None) -> list[str]:
    loaded = loaded_from(folder, str(POLICIES), redis_url, redis)
    assert loaded.settings is not None
    mistakes = list(doubts_of_settings(loaded.settings, loaded.document))
    assert all(mistake.severity == "warning" for mistake in mistakes)
    return [str(mistake).removeprefix("gateway.yaml:1: warning: ") for mistake in mistakes]


PASSWORD: dict[str, object] = {"password_file": "redis-password"}
OF_SENTINEL: dict[str, object] = {"sentinel_password_file": "sentinel-password"}


@pytest.mark.parametrize(
    ("redis_url", "redis", "expected"),
    [
        (None, None, []),
        (None, {}, []),
        (
            None,
            {"lease_ms": 500},
            ["redis: expected redis_url beside it, as nothing is shared without, got none"],
        ),
        (OPEN, None, []),
        (OPEN, {"lease_ms": 500}, []),
        (OPEN, PASSWORD, [f"redis.password_file: {IN_THE_CLEAR}"]),
        (SAFE, PASSWORD, []),
        *[(f"redis://{host}", PASSWORD, []) for host in ("localhost", "127.0.0.1:7000", "[::1]/1")],
        (
            SAFE,
            OF_SENTINEL,
            ["redis.sentinel_password_file: expected no such key, as redis_url names no Sentinel, got one"],
        ),
        (f"rediss{SENTINEL[5:]}", PASSWORD | OF_SENTINEL, []),
        (
            SENTINEL,
            PASSWORD | OF_SENTINEL,
            [f"redis.password_file: {IN_THE_CLEAR}", f"redis.sentinel_password_file: {IN_THE_CLEAR}"],
        ),
        ("redis+sentinel://localhost,sentinel.example/m", PASSWORD, [f"redis.password_file: {IN_THE_CLEAR}"]),
        (SAFE, {"username": "a"}, ["redis.username: expected password_file beside it, got none"]),
        (SAFE, PASSWORD | {"username": "a"}, []),
        (
            f"rediss{SENTINEL[5:]}",
            {"sentinel_username": "a"},
            ["redis.sentinel_username: expected sentinel_password_file beside it, got none"],
        ),
    ],
)
def test_doubts(
    folder: Path, redis_url: str | None, redis: dict[str, object] | None, expected: list[str]
) -> None:
    assert told(folder, redis_url, redis) == expected


PER_SECOND = {"requests": {"per_second": 5}}
INEXACT = "expected redis_url in the settings, as each process counts for itself without, got none"


@pytest.mark.parametrize(
    ("redis_url", "limits", "expected"),
    [
        (None, None, []),
        (None, PER_SECOND, []),
        (None, PER_SECOND | {"shared": "per_replica"}, []),
        (None, PER_SECOND | {"shared": "exact"}, [INEXACT]),
        (None, {"resources": {"info": PER_SECOND}, "shared": "exact"}, [INEXACT]),
        (OPEN, PER_SECOND | {"shared": "exact"}, []),
    ],
)
def test_exact_limits_need_redis(
    folder: Path, redis_url: str | None, limits: dict[str, object] | None, expected: list[str]
) -> None:
    clients = folder / "policies" / "clients"
    clients.mkdir(parents=True)
    shutil.copy(POLICIES / "resources.yaml", clients.parent)
    client = {"match": {"iss": "https://a.example"}, "accounts": ["123"], "allow": ["chat:read"]}
    limited = client if limits is None else client | {"limits": limits}
    (clients / "one.yaml").write_text(json.dumps({"clients": {"one": limited}}))
    loaded = loaded_from(folder, "policies", redis_url)
    place = "policies/clients/one.yaml:1: warning: clients.one.limits.shared: "
    assert [str(mistake) for mistake in loaded.mistakes] == [place + each for each in expected]
    assert loaded.policies is not None
